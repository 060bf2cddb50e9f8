//! Bytes to objects and back, exactly as upstream's JSON, YAML and protobuf serializers see them.
//!
//! [`decode`] reads in one pass, driven by the schema: names are case-sensitive, `null` is absent, types are checked with Go's
//! error texts, unknown and duplicate fields are collected with their paths. What comes out is *normalised*: keys in schema
//! order, `omitempty` applied, empty structs printed as upstream prints them, quantities and times in canonical form. It is
//! what is stored and what a client sees. The module knows schemas and the names of kinds, not what kinds mean.

mod base64;
mod encode;
mod json;
pub mod protobuf;
mod raw;
mod target;
mod time;
pub mod yaml;

use crate::{Map, Value};

pub use encode::encode;
pub(crate) use encode::encode_sorted;
pub use raw::{decode_stored, rewritten};
pub use target::Target;
pub use time::{duration_nanos, duration_text, read_duration};

use crate::custom::CustomVersion;
use crate::gojson;
use crate::status::Status;

/// What clients nest deeper than this is refused; the deepest object of upstream's own API is a tenth of it.
pub(crate) const DEPTH_MAX: usize = 512;
pub(crate) const TOO_DEEP: &str = "exceeded max depth";

/// `?fieldValidation=`: what becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// `None` for a value that is none of upstream's.
    pub fn from_query(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// The encoding of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    /// Kubernetes' protobuf, in its envelope.
    Protobuf,
}

/// A normalised object and what to tell the client about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Texts of `Warning` headers, in the order found.
    pub warnings: Vec<String>,
}

/// Why a body is not the object it should be; the text is that of upstream's 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    pub message: String,
    /// The reason alone, without the kinds that did not meet: what a patch is refused with.
    pub reason: String,
}

impl DecodeError {
    fn plain(reason: String) -> Self {
        Self { message: reason.clone(), reason }
    }
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Status::bad_request(error.message)
    }
}

/// Reads an object of `target` (a kind, a subresource's body) from a request body.
pub fn decode<'t>(
    bytes: &[u8],
    format: Format,
    target: impl Into<Target<'t>>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let target = target.into();
    match format {
        Format::Json => {
            let read = read(bytes, &target, validation != FieldValidation::Ignore);
            let read = read.map_err(|e| e.explain(&target, bytes))?;
            judge(read, Vec::new(), &target, validation)
        }
        Format::Yaml => {
            let unrecognized = |text: String| Failure::Unrecognized(text).explain(&target, bytes);
            let json = yaml::to_json(bytes).map_err(unrecognized)?;
            let read = read(&json.bytes, &target, validation != FieldValidation::Ignore);
            let read = read.map_err(|e| e.explain(&target, bytes))?;
            judge(read, json.duplicates, &target, validation)
        }
        // Unknown fields of a protobuf message have no names to complain about.
        Format::Protobuf => match protobuf::read(bytes, &target) {
            Ok(read) => Ok(Decoded { value: read.value, warnings: Vec::new() }),
            Err(failure) => Err(failure.explain(&target, bytes)),
        },
    }
}

/// An object made inside the server (by a patch, by admission) brought into the form of a decoded one. The unknown fields it
/// holds are dropped and named in the result.
pub fn normalize<'t>(value: &Value, target: impl Into<Target<'t>>) -> Result<Normalized, DecodeError> {
    let target = target.into();
    let bytes = serde_json::to_vec(value).map_err(|e| DecodeError::plain(e.to_string()))?;
    match read(&bytes, &target, true) {
        Ok(read) => Ok(Normalized { value: read.value, strict_errors: read.strict_errors }),
        Err(failure) => Err(failure.explain(&target, &bytes)),
    }
}

/// [`normalize`] of what became of `before`, an object in that form: fields of the object that are as they were are not read
/// again. That is most of it when a status is patched.
pub fn normalize_changed<'t>(
    value: &Value,
    before: &Value,
    target: impl Into<Target<'t>>,
) -> Result<Normalized, DecodeError> {
    let target = target.into();
    let (Value::Object(new), Value::Object(old)) = (value, before) else { return normalize(value, target) };
    // A definition may have another schema since; and a new field has its place, which the whole reading finds.
    if target.custom.is_some() || !new.keys().eq(old.keys()) {
        return normalize(value, target);
    }
    let is_changed = |name: &str, part: &Value| matches!(name, "apiVersion" | "kind") || old.get(name) != Some(part);
    let changed: Map = new
        .iter()
        .filter(|(name, part)| is_changed(name, part))
        .map(|(name, part)| (name.clone(), part.clone()))
        .collect();
    // Texts of errors quote the whole object.
    let Ok(mut read) = normalize(&Value::Object(changed.clone()), target) else { return normalize(value, target) };
    let whole = old.iter().filter_map(|(name, part)| match changed.contains_key(name) {
        true => read.value.as_object_mut()?.remove(name).map(|part| (name.clone(), part)),
        false => Some((name.clone(), part.clone())),
    });
    read.value = Value::Object(whole.collect());
    Ok(read)
}

/// The result of [`normalize`].
#[derive(Clone, Debug, PartialEq)]
pub struct Normalized {
    pub value: Value,
    /// `unknown field "spec.x"`, to be refused or warned about as the request's field validation says.
    pub strict_errors: Vec<String>,
}

/// The body of a DELETE: DeleteOptions of any group, as upstream accepts them.
pub fn decode_delete_options(bytes: &[u8], format: Format) -> Result<Value, DecodeError> {
    let target = Target::delete_options();
    let plain = |failure: Failure| DecodeError::plain(failure.reason().to_owned());
    let owned;
    let json = match format {
        Format::Json => bytes,
        Format::Yaml => {
            owned = yaml::to_json(bytes).map_err(DecodeError::plain)?;
            &owned.bytes
        }
        Format::Protobuf => return protobuf::read(bytes, &target).map(|read| read.value).map_err(plain),
    };
    read(json, &target, false).map(|read| read.value).map_err(plain)
}

/// An object that parsed, with what a strict decoder would complain about.
struct Read {
    value: Value,
    strict_errors: Vec<String>,
}

/// Why an object did not parse.
enum Failure {
    /// Not even its kind could be read.
    Unrecognized(String),
    /// The same kind of another version of its group: convertible, but not what the URL says.
    OtherVersion(String),
    /// The kind was read (`kind`, `version`) and the rest is wrong.
    Unfit { kind: String, version: String, text: String },
}

impl Failure {
    fn reason(&self) -> &str {
        match self {
            Self::Unrecognized(text) | Self::OtherVersion(text) | Self::Unfit { text, .. } => text,
        }
    }

    fn explain(self, target: &Target<'_>, body: &[u8]) -> DecodeError {
        let reason = self.reason().to_owned();
        let message = match self {
            Self::OtherVersion(text) => text,
            Self::Unfit { kind, version, text } => {
                format!("{kind} in version \"{version}\" cannot be handled as a {}: {text}", target.kind)
            }
            Self::Unrecognized(text) => format!(
                "the object provided is unrecognized (must be of type {}): {text} ({})",
                target.kind,
                summarize(body)
            ),
        };
        DecodeError { message, reason }
    }
}

fn read(bytes: &[u8], target: &Target<'_>, strict: bool) -> Result<Read, Failure> {
    let lossy;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // Go's decoder puts U+FFFD where the bytes are not UTF-8.
        Err(_) => {
            lossy = String::from_utf8_lossy(bytes);
            lossy.as_ref()
        }
    };
    if let Some(custom) = target.custom {
        return read_custom(text, bytes, target, custom, strict);
    }
    match json::parse(text, target.schema, target.type_id, strict) {
        Ok(parsed) => {
            let given = |field: &str| parsed.value.get(field).and_then(Value::as_str).unwrap_or("");
            let (kind, api_version) = (given("kind"), given("apiVersion"));
            if target.is_exactly(api_version, kind) {
                return Ok(Read { value: parsed.value, strict_errors: parsed.strict_errors });
            }
            target.accept(api_version, kind)?;
            let mut value = parsed.value;
            target.stamp(&mut value);
            Ok(Read { value, strict_errors: parsed.strict_errors })
        }
        Err(error) => Err(refused(error, text, bytes, target)),
    }
}

fn refused(error: json::ParseError, text: &str, bytes: &[u8], target: &Target<'_>) -> Failure {
    match error {
        json::ParseError::TooDeep => unparsable(TOO_DEEP),
        json::ParseError::Syntax => {
            let text = gojson::syntax_error(bytes).unwrap_or_else(|| "invalid JSON".to_owned());
            unparsable(&text)
        }
        // The kind is judged before the fields are, so look at it first.
        json::ParseError::Content(message) => {
            let judged = target::interpret(text).and_then(|(api_version, kind)| {
                target.accept(&api_version, &kind)?;
                Ok(target.unfit(&api_version, &kind, message))
            });
            judged.unwrap_or_else(|failure| failure)
        }
    }
}

/// A custom resource: anything of any type, but for its metadata. What its schema does not know is dropped and named.
fn read_custom(
    text: &str,
    bytes: &[u8],
    target: &Target<'_>,
    custom: &CustomVersion,
    strict: bool,
) -> Result<Read, Failure> {
    let parsed = json::parse_resource(text, strict).map_err(|error| refused(error, text, bytes, target))?;
    let mut value = parsed.value;
    if gojson::has_whole_fraction(&value) {
        gojson::drop_whole_fractions(&mut value);
    }
    let given = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let (kind, api_version) = (given("kind"), given("apiVersion"));
    if !target.is_exactly(&api_version, &kind) {
        let (interpreted, _) = target::interpret(text)?;
        if kind.is_empty() {
            return Err(Failure::Unrecognized(format!("Object 'Kind' is missing in '{text}'")));
        }
        target.accept_version(&interpreted)?;
    }
    let mut strict_errors = parsed.strict_errors;
    // Another kind is found out by validation, and has no schema here.
    if kind == target.kind {
        match custom.prune(&mut value) {
            Ok(unknown) => {
                strict_errors
                    .extend(unknown.iter().map(|path| format!("unknown field {}", crate::field::go_quote(path))));
            }
            Err(text) => return Err(target.unfit(&api_version, &kind, text)),
        }
    }
    Ok(Read { value, strict_errors })
}

/// Metadata of a resource inside of another, in the form of any metadata.
pub(crate) struct Metadata {
    pub value: Value,
    /// Fields that metadata does not have.
    pub unknown: Vec<String>,
}

pub(crate) fn normalize_metadata(metadata: &Value) -> Result<Metadata, String> {
    let text = metadata.to_string();
    match json::parse_metadata(&text) {
        Ok(parsed) => Ok(Metadata { value: parsed.value, unknown: parsed.strict_errors }),
        Err(json::ParseError::Content(message)) => Err(message),
        Err(json::ParseError::Syntax | json::ParseError::TooDeep) => Err(TOO_DEEP.to_owned()),
    }
}

fn unparsable(text: &str) -> Failure {
    Failure::Unrecognized(format!("couldn't get version/kind; json parse error: {text}"))
}

/// Applies the field validation of the request. `yaml_duplicates` were found before the JSON form existed.
fn judge(
    read: Read,
    yaml_duplicates: Vec<String>,
    target: &Target<'_>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let Read { value, strict_errors } = read;
    let clean = strict_errors.is_empty() && yaml_duplicates.is_empty();
    if clean || validation == FieldValidation::Ignore {
        return Ok(Decoded { value, warnings: Vec::new() });
    }
    if validation == FieldValidation::Warn {
        return Ok(Decoded { value, warnings: yaml_duplicates.into_iter().chain(strict_errors).collect() });
    }
    let mut all = Vec::new();
    if !yaml_duplicates.is_empty() {
        all.push(format!("yaml: unmarshal errors:\n  {}", yaml_duplicates.join("\n  ")));
    }
    all.extend(strict_errors);
    let text = format!("strict decoding error: {}", all.join(", "));
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or("");
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("");
    Err(target.unfit(api_version, kind, text).explain(target, b""))
}

/// The start of a body as an error shows it: JSON as text, anything else in hexadecimal.
fn summarize(body: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 30;
    let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
    let tail = if body.len() > SHOWN_BYTES_MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{tail}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{tail}", shown.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;
