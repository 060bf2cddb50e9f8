//! Patches: JSON patch, JSON merge patch and strategic merge patch, as upstream's API server applies them.
//!
//! Each is `apply(original, patch) -> patched` on plain values; the result is not yet decoded against the schema (unknown fields,
//! wrong types and field order are the codec's). Server-side apply lives elsewhere.

mod json;
mod merge;
mod strategic;
mod types;

#[cfg(test)]
mod tests;

use crate::codec::DecodeError;
use crate::{Kind, Schema, Shape, Status, Value, gojson};

pub use json::OPERATIONS_MAX;
pub use strategic::{FieldMeta, ListMerge, PatchSchema};

/// Which patch a request carries; the Content-Type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
}

impl PatchType {
    /// From a Content-Type without parameters.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// Why a patch was refused. [`PatchError::status`] is the answer to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch of its type: 400.
    #[error("{0}")]
    BadRequest(String),
    /// A JSON patch operation does not apply: 422, for which upstream shows no detail.
    #[error("{0}")]
    Unprocessable(String),
    /// More operations than [`OPERATIONS_MAX`]: 413.
    #[error("{0}")]
    TooLarge(String),
    /// A strategic merge patch contradicts its schema: upstream answers 500 without a reason.
    #[error("{0}")]
    Failed(String),
}

impl PatchError {
    pub fn status(&self) -> Status {
        match self {
            Self::BadRequest(message) => Status::bad_request(message),
            Self::Unprocessable(_) => Status::unprocessable(),
            Self::TooLarge(message) => Status::too_large(message),
            Self::Failed(message) => Status::unknown(message),
        }
    }

    /// A `test` operation of a JSON patch found something else.
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::Unprocessable(text) if text.ends_with("test failed"))
    }
}

/// A decoded patch, to be applied to the current object as often as a conflict requires.
#[derive(Clone, Debug)]
pub struct Patch {
    patch_type: PatchType,
    document: Value,
    /// What strict decoding has against the patch itself (duplicate fields, unknown members of operations).
    strict_errors: Vec<String>,
}

/// A patched object, not yet decoded by schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    pub object: Value,
}

impl Patch {
    /// Decodes a request body. `ignore_strict`: fieldValidation=Ignore, which changes an error text and skips strict errors.
    pub fn decode(patch_type: PatchType, body: &[u8], ignore_strict: bool) -> Result<Self, PatchError> {
        let mut patch = match patch_type {
            PatchType::Json => json::decode(body, ignore_strict)?,
            PatchType::Merge => merge::decode(body, ignore_strict)?,
            PatchType::Strategic => strategic::decode(body)?,
        };
        if ignore_strict {
            patch.strict_errors.clear();
        }
        Ok(patch)
    }

    pub fn patch_type(&self) -> PatchType {
        self.patch_type
    }

    /// The decoded document.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Strict-decoding errors of the patch itself, to be warned of or refused with those of the patched object.
    pub fn strict_errors(&self) -> &[String] {
        &self.strict_errors
    }

    /// Applies the patch to `original`. A strategic merge patch follows `schema`, starting at the object's type `root`.
    pub fn apply<S: PatchSchema>(&self, original: &Value, schema: &S, root: S::Node) -> Result<Patched, PatchError> {
        let object = match self.patch_type {
            PatchType::Json => json::apply(original, &self.document)?,
            PatchType::Merge => merge::apply(original, &self.document),
            PatchType::Strategic => {
                let mut object = strategic::apply(original, &self.document, schema, root)?;
                if gojson::has_whole_fraction(&self.document) {
                    gojson::drop_whole_fractions(&mut object);
                }
                object
            }
        };
        Ok(Patched { object })
    }

    /// Applies the patch to an object of `kind`.
    pub fn apply_to(&self, kind: &Kind, original: &Value) -> Result<Patched, PatchError> {
        self.apply(original, &*kind.schema, Shape::Ref(kind.type_id))
    }

    /// Applies a patch that needs no schema; custom resources take no strategic merge patch.
    pub fn apply_schemaless(&self, original: &Value) -> Result<Patched, PatchError> {
        self.apply(original, &NoSchema, ())
    }

    /// Why a patched object does not decode, as the 422 says it. Of a strategic merge patch upstream makes the object without going
    /// through JSON, and names no field.
    pub fn refusal(&self, error: &DecodeError) -> String {
        match self.patch_type {
            PatchType::Json | PatchType::Merge => error.reason.clone(),
            PatchType::Strategic => {
                unconvertible(&error.reason, &self.document).unwrap_or_else(|| error.reason.clone())
            }
        }
    }

    /// The bad value of the 422 `patch: Invalid value: …` when the patched object does not decode: the patched JSON, or for a
    /// strategic merge patch the patch as Go prints maps.
    pub fn shown(&self, patched: &Patched) -> String {
        match self.patch_type {
            PatchType::Merge => as_written(&patched.object, &self.document).to_string(),
            PatchType::Json => as_written(&patched.object, &json::touched(&self.document)).to_string(),
            PatchType::Strategic => gojson::print(&self.document),
        }
    }
}

/// What is said where it is the type of the object itself that is not readable.
const WITHOUT_TYPE: &str = "couldn't get version/kind; json parse error: ";

/// `json: cannot unmarshal KIND into Go struct field PATH of type TYPE` in the words of the conversion that knows no JSON. What a number
/// was before it met a text, only the patch knows.
fn unconvertible(reason: &str, patch: &Value) -> Option<String> {
    let reason = reason.strip_prefix(WITHOUT_TYPE).unwrap_or(reason);
    if let Some(refusal) = undecoded_bytes(reason) {
        return Some(refusal);
    }
    let (kind, rest) = reason.strip_prefix("json: cannot unmarshal ")?.split_once(" into Go ")?;
    let (place, wanted) = rest.rsplit_once(" of type ")?;
    if reads_itself(place) {
        return Some(format!("json: cannot unmarshal {kind} into Go value of type {wanted}"));
    }
    let kind = match kind {
        "array" => "slice",
        "object" => "map",
        "number" if has_fraction_at(patch, place) => "float64",
        "number" => "int64",
        other if other.starts_with("number ") => "float64",
        other => other,
    };
    let is_map = wanted.contains("map[") || wanted == "v1.ResourceList";
    let is_struct = || Schema::builtin().types().any(|(_, ty)| ty.go_name() == wanted);
    // Types with a name of their own that are no structs are texts.
    let base = if wanted.contains('.') { "string" } else { wanted };
    let is_number = |name: &str| name.starts_with("int") || name.starts_with("float");
    Some(if is_map {
        format!("cannot restore map from {kind}")
    } else if wanted.starts_with("[]") {
        format!("cannot restore slice from {kind}")
    } else if wanted.contains('.') && is_struct() {
        format!("cannot restore struct from: {kind}")
    // Go converts numbers to each other and, as the number of a character, whole ones to texts; JSON does not.
    } else if is_number(kind) && (is_number(base) || (kind == "int64" && base == "string")) {
        format!("cannot convert {kind} to {wanted}")
    } else {
        format!("unrecognized type: {base}")
    })
}

/// What is said of bytes where an object is made without going through JSON.
pub(crate) fn undecoded_bytes(reason: &str) -> Option<String> {
    reason.starts_with("illegal base64 data").then(|| format!("error decoding from json: {reason}"))
}

/// Has the patch a number with a point or an exponent at `struct field Container.spec.containers.image`, a path without indices and keys
/// of maps, in which embedded structs are named?
fn has_fraction_at(patch: &Value, place: &str) -> bool {
    fn reached<'p>(value: &Value, mut names: impl Iterator<Item = &'p str> + Clone) -> bool {
        match value {
            Value::Array(items) => items.iter().any(|item| reached(item, names.clone())),
            Value::Object(map) => match names.next() {
                Some(name) => map.get(name).is_some_and(|value| reached(value, names)),
                None => map.values().any(|value| reached(value, names.clone())),
            },
            Value::Number(number) => number.is_f64(),
            _ => false,
        }
    }
    let is_field = |name: &&str| !name.starts_with(|c: char| c.is_ascii_uppercase());
    reached(patch, place.split('.').skip(1).filter(is_field))
}

/// Is it a field of a type that reads JSON itself, `struct field ServicePort.spec.ports.targetPort`?
fn reads_itself(place: &str) -> bool {
    let names = place.strip_prefix("struct field ").and_then(|path| path.split_once('.'));
    let Some((owner, path)) = names else { return false };
    let name = path.rsplit('.').next().unwrap_or(path);
    let mut owners = Schema::builtin().types().filter(|(_, ty)| ty.short_name() == owner);
    owners.any(|(_, ty)| {
        let shape = ty.field(name).map(|field| field.shape);
        matches!(shape, Some(Shape::IntOrString | Shape::Time | Shape::MicroTime | Shape::Duration))
    })
}

/// A schema that knows no types.
struct NoSchema;

impl PatchSchema for NoSchema {
    type Node = ();
    fn field(&self, (): (), _: &str) -> Option<FieldMeta<'_, ()>> {
        None
    }
    fn type_name(&self, (): ()) -> String {
        String::new()
    }
}

/// The object as the patch leaves it in bytes: where it reached (an object in `touched` too, or anything in a list that it brought), Go
/// made a map, which it writes with sorted keys; the rest is as it was.
fn as_written(value: &Value, touched: &Value) -> Value {
    let map = match (value, touched) {
        (Value::Array(items), Value::Array(_)) => return items.iter().map(|item| as_written(item, item)).collect(),
        // The steps of a JSON patch into a list are indices.
        (Value::Array(items), Value::Object(reached)) => {
            let step = |i: usize| reached.get(&i.to_string()).unwrap_or(&Value::Null);
            return items.iter().enumerate().map(|(i, item)| as_written(item, step(i))).collect();
        }
        (Value::Object(map), Value::Object(_)) => map,
        _ => return value.clone(),
    };
    let mut entries: Vec<_> =
        map.iter().map(|(k, v)| (k.clone(), as_written(v, touched.get(k.as_str()).unwrap_or(&Value::Null)))).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(entries.into_iter().collect())
}
