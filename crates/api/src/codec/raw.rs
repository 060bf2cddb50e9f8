//! RawExtensions: JSON that upstream keeps as the text in which it came, spaces and all, until a patch writes it anew. That shows
//! where such a value may not change.
//!
//! Claims of devices are an exception: our own components write them whole, as JSON, in which a text changes. Upstream's write
//! protobuf, in which it does not. Their RawExtensions are values.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use super::Target;
use crate::kind::Kind;
use crate::schema::{Schema, Shape, Type, TypeId};
use crate::value::{Members, space_end, value_end};
use crate::{Map, Value};

/// What RawExtensions of this package are a part of is, or may become, a part of a claim.
const VALUES: &str = "io.k8s.api.resource.";

/// Whether RawExtensions that are fields of a type are kept as text.
pub(super) fn is_kept_in(owner: &Type) -> bool {
    !owner.name.starts_with(VALUES)
}

/// Built-in types with a RawExtension somewhere that is kept as text.
static WITH_RAW: LazyLock<HashSet<TypeId>> = LazyLock::new(|| {
    let schema = Schema::builtin();
    let mut found = HashSet::new();
    loop {
        let before = found.len();
        let leads = |ty: &Type| is_kept_in(ty) && ty.fields.iter().any(|field| leads_to_raw(field.shape, &found));
        let new = schema.types().filter(|(_, ty)| leads(ty));
        let new: Vec<TypeId> = new.map(|(id, _)| id).collect();
        found.extend(new);
        if found.len() == before {
            return found;
        }
    }
});

fn leads_to_raw(shape: Shape, types: &HashSet<TypeId>) -> bool {
    match shape {
        Shape::RawExtension => true,
        Shape::Ref(id) => types.contains(&id),
        Shape::List(id) | Shape::Map(id) => leads_to_raw(Schema::builtin().element(id), types),
        _ => false,
    }
}

/// Whether objects of a built-in type have such a RawExtension somewhere.
fn occurs_in(type_id: TypeId) -> bool {
    WITH_RAW.contains(&type_id)
}

/// A RawExtension that was read from `json`.
pub(super) fn keep_text(map: &mut Map, json: &str) {
    if is_spaced(json) {
        // Objects are one line each in a watch.
        map.keep_text(&json.replace(['\n', '\r', '\t'], " "));
    }
}

/// Whether there is space between the tokens of a JSON text.
fn is_spaced(json: &str) -> bool {
    let mut bytes = json.bytes();
    let mut in_string = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b' ' | b'\n' | b'\r' | b'\t' if !in_string => return true,
            _ => {}
        }
    }
    false
}

/// The object with its texts written anew: what a patch is applied to.
pub fn rewritten<'v>(object: &'v Value, target: &Target<'_>) -> Cow<'v, Value> {
    if target.custom.is_some() || !occurs_in(target.type_id) {
        return Cow::Borrowed(object);
    }
    Value::from_json(object.to_string().as_bytes()).map_or(Cow::Borrowed(object), Cow::Owned)
}

/// Reads what is stored of an object of `kind`.
///
/// # Errors
///
/// Those of [`Value::from_json`].
pub fn decode_stored(kind: &Kind, json: &[u8]) -> Result<Value, serde_json::Error> {
    let mut object = Value::from_json(json)?;
    if kind.custom().is_none() && occurs_in(kind.type_id) {
        // What was read a moment ago is JSON.
        let _text_is_kept = keep_texts(Shape::Ref(kind.type_id), json, &mut object);
    }
    Ok(object)
}

fn keep_texts(shape: Shape, json: &[u8], value: &mut Value) -> Option<()> {
    let schema = Schema::builtin();
    if !leads_to_raw(shape, &WITH_RAW) {
        return Some(());
    }
    match (shape, value) {
        (Shape::RawExtension, Value::Object(map)) => keep_text(map, std::str::from_utf8(json).ok()?),
        (Shape::List(id), Value::Array(items)) => {
            let mut at = 1;
            for item in items {
                at = space_end(json, at);
                let end = value_end(json, at).ok()?;
                keep_texts(schema.element(id), &json[at..end], item)?;
                // The comma.
                at = space_end(json, end) + 1;
            }
        }
        (Shape::Ref(_) | Shape::Map(_), Value::Object(map)) => {
            let mut members = Members::of(json)?;
            while let Some(name) = members.name().ok()? {
                let text = members.value().ok()?;
                let shape = match shape {
                    Shape::Ref(id) => schema.field(id, &name).map(|field| field.shape),
                    _ => Some(schema.element_of(shape)),
                };
                if let (Some(shape), Some(value)) = (shape, map.get_mut(&name)) {
                    keep_texts(shape, text, value)?;
                }
            }
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{FieldValidation, Format, decode, encode, normalize_changed, protobuf};
    use crate::kinds::builtin;

    fn kind(group: &str, kind: &str) -> &'static Kind {
        builtin().by_kind(group, "v1", kind).unwrap()
    }

    fn read(kind: &Kind, json: &str) -> Value {
        decode(json.as_bytes(), Format::Json, kind, FieldValidation::Strict).unwrap().value
    }

    fn holds(bytes: &[u8], text: &str) -> bool {
        memchr::memmem::find(bytes, text.as_bytes()).is_some()
    }

    #[test]
    fn a_text_with_spaces_is_kept_until_it_is_written_anew() {
        let kind = kind("apps", "ControllerRevision");
        let data = r#"{"a": [1, "x\" y"], "b":{}}"#;
        let object = read(kind, &format!(r#"{{"metadata":{{"name":"a"}},"data": {data} ,"revision":1}}"#));
        let stored = encode(kind, &object);
        assert!(holds(&stored, data), "{stored:?}");
        let live = decode_stored(kind, &stored).unwrap();
        assert_eq!(live, object);
        assert_eq!(decode_stored(kind, &encode(kind, &live)).unwrap(), object);
        assert_ne!(Value::from_json(&stored).unwrap(), live, "the text is what is compared");
        // A patch of something else.
        let before = rewritten(&live, &kind.into());
        let patched = normalize_changed(&before, &before, kind).unwrap().value;
        assert_ne!(patched, live);
        assert!(holds(&encode(kind, &patched), r#"{"a":[1,"x\" y"],"b":{}}"#));
        let mut changed = live.clone();
        changed["data"]["b"] = 1.into();
        assert!(holds(&encode(kind, &changed), r#"{"a":[1,"x\" y"],"b":1}"#));
        let sent = protobuf::encode(&object).unwrap();
        assert_eq!(decode(&sent, Format::Protobuf, kind, FieldValidation::Ignore).unwrap().value, object);
    }

    #[test]
    fn a_text_without_spaces_is_its_value() {
        let kind = kind("apps", "ControllerRevision");
        let object = read(kind, r#"{"metadata":{"name":"a"},"data":{"b":1,"a":"x y"},"revision":1}"#);
        let live = decode_stored(kind, &encode(kind, &object)).unwrap();
        assert_eq!(normalize_changed(&live, &live, kind).unwrap().value, object);
    }

    #[test]
    fn configuration_of_devices_is_a_value() {
        let kind = kind("resource.k8s.io", "DeviceClass");
        let class = |parameters: &str| {
            let opaque = format!(r#"{{"opaque":{{"driver":"d","parameters":{parameters}}}}}"#);
            read(kind, &format!(r#"{{"metadata":{{"name":"a"}},"spec":{{"config":[{opaque}]}}}}"#))
        };
        assert_eq!(class(r#"{"a": 1}"#), class(r#"{"a":1}"#));
        assert!(holds(&encode(kind, &class(r#"{"a": 1}"#)), r#"{"a":1}"#));
    }

    #[test]
    fn other_lines_of_a_text_are_put_on_one() {
        let kind = kind("apps", "ControllerRevision");
        let object = read(kind, "{\"metadata\":{\"name\":\"a\"},\"data\":{\n\t\"a\": 1\n},\"revision\":1}");
        assert!(holds(&encode(kind, &object), r#""data":{  "a": 1 }"#));
    }

    #[test]
    fn one_kind_has_such_texts() {
        let found: Vec<_> =
            builtin().kinds().iter().filter(|kind| kind.custom().is_none() && occurs_in(kind.type_id)).collect();
        let mut names: Vec<&str> = found.iter().map(|kind| kind.kind.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["ControllerRevision"]);
    }
}
