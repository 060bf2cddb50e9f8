//! JSON merge patch (RFC 7386): null deletes, objects merge, everything else replaces.

use crate::{Map, Value, gojson};

use super::{Patch, PatchError, PatchType};

pub(super) fn decode(body: &[u8], ignore_strict: bool) -> Result<Patch, PatchError> {
    let refuse = |detail: String| {
        let text =
            if ignore_strict { "Invalid JSON Patch".to_owned() } else { format!("error decoding patch: {detail}") };
        PatchError::BadRequest(text)
    };
    let parsed = gojson::parse(body).map_err(refuse)?;
    let document = match parsed.value {
        Value::Object(_) => parsed.value,
        // `null` decodes into an empty map and then merges to nothing.
        Value::Null => Value::Object(Map::new()),
        other => {
            let name = gojson::type_name(&other);
            return Err(refuse(format!(
                "json: cannot unmarshal {name} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    let strict_errors = parsed.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    Ok(Patch { patch_type: PatchType::Merge, document, strict_errors })
}

pub(super) fn apply(original: &Value, patch: &Value) -> Value {
    let mut out = original.clone();
    merge(&mut out, patch);
    out
}

/// Depth is bounded by the parser's, which refused deeper documents.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        // What takes an object's place comes as it is.
        (target @ Value::Object(_), _) => *target = patch.clone(),
        (target, _) => *target = without_nulls(patch),
    }
}

/// Members that are null say that there is nothing, also in the objects of a list.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn rfc_7386_examples_hold() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"a": [1]}), json!({"a": [{"b": null, "c": 1}, null]}), json!({"a": [{"c": 1}, null]})),
        ];
        for (original, patch, want) in cases {
            assert_eq!(apply(&original, &patch), want, "{original} + {patch}");
        }
    }

    #[test]
    fn patches_that_are_no_objects_are_refused() {
        let error = |body: &str| decode(body.as_bytes(), false).expect_err(body).to_string();
        let want = "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}";
        assert_eq!(error("[1]"), want);
        assert_eq!(error("str"), "error decoding patch: invalid character 's' looking for beginning of value");
        assert_eq!(error(""), "error decoding patch: unexpected end of JSON input");
    }

    #[test]
    fn duplicate_fields_are_strict_errors() {
        let patch = decode(br#"{"data":{"a":"1","a":"2"}}"#, false).expect("decodes");
        assert_eq!(patch.strict_errors, ["duplicate field \"data.a\""]);
    }
}
