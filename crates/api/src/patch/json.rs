//! JSON patch (RFC 6902) with the leniences of the library upstream uses: a member that is absent reads as null, so `replace`
//! creates and `test` against null passes; indices may be negative; a path without leading slash addresses its second segment.
//! The json-patch crate is strict in all of these, which clients would notice.

use crate::json;

use crate::codec::{DEPTH_MAX, TOO_DEEP};
use crate::{Value, gojson};

use super::{Patch, PatchError, PatchType};

/// Operations a JSON patch may contain.
pub const OPERATIONS_MAX: usize = 10_000;

/// Bytes that `copy` operations may multiply a document to; without it a short patch could ask for gigabytes.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Values that operations may put somewhere, all of them together: a short patch could move a large list ten thousand times, and what
/// is put must be looked at.
const PUT_VALUES_MAX: usize = 10_000_000;

/// What the operations of a patch have cost so far.
#[derive(Default)]
struct Spent {
    copied_bytes: usize,
    put_values: usize,
}

pub(super) fn decode(body: &[u8], ignore_strict: bool) -> Result<Patch, PatchError> {
    let (prefix, patch_type, op_type) = if ignore_strict {
        ("", "jsonpatch.Patch", "jsonpatch.Operation")
    } else {
        ("error decoding patch: ", "[]handlers.jsonPatchOp", "handlers.jsonPatchOp")
    };
    let refuse = |detail: String| PatchError::BadRequest(format!("{prefix}{detail}"));
    let cannot = |value: &Value, into: &str| {
        refuse(format!("json: cannot unmarshal {} into Go value of type {into}", gojson::type_name(value)))
    };
    let parsed = gojson::parse(body).map_err(refuse)?;
    let mut strict_errors: Vec<String> =
        parsed.duplicates.iter().map(|path| format!("json patch duplicate field \"{path}\"")).collect();
    let operations = match &parsed.value {
        Value::Array(operations) => operations,
        Value::Null => {
            return Ok(Patch { patch_type: PatchType::Json, document: json!([]), strict_errors });
        }
        other => return Err(cannot(other, patch_type)),
    };
    for (i, operation) in operations.iter().enumerate() {
        let members = match operation {
            Value::Object(members) => members,
            Value::Null => continue,
            other => return Err(cannot(other, op_type)),
        };
        for (name, value) in members {
            match name.as_str() {
                "op" | "path" | "from" if !ignore_strict && !value.is_string() && !value.is_null() => {
                    let type_name = gojson::type_name(value);
                    let detail = format!(
                        "json: cannot unmarshal {type_name} into Go struct field jsonPatchOp.{name} of type string"
                    );
                    return Err(refuse(detail));
                }
                "op" | "path" | "from" | "value" => {}
                _ => strict_errors.push(format!("json patch unknown field \"[{i}].{name}\"")),
            }
        }
    }
    if operations.len() > OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    Ok(Patch { patch_type: PatchType::Json, document: parsed.value, strict_errors })
}

pub(super) fn apply(original: &Value, operations: &Value) -> Result<Value, PatchError> {
    let mut document = original.clone();
    let mut spent = Spent::default();
    for operation in operations.as_array().into_iter().flatten() {
        apply_one(&mut document, operation, &mut spent).map_err(PatchError::Unprocessable)?;
    }
    Ok(document)
}

/// The objects on the way to what the operations name, as a tree of objects.
pub(super) fn touched(operations: &Value) -> Value {
    let mut root = json!({});
    for operation in operations.as_array().into_iter().flatten() {
        for path in ["path", "from"].into_iter().filter_map(|name| operation.get(name)?.as_str()) {
            let mut parts = parts(path);
            parts.pop();
            let mut at = &mut root;
            for part in parts {
                let Value::Object(map) = at else { break };
                at = map.entry(part).or_insert_with(|| json!({}));
            }
        }
    }
    root
}

fn apply_one(document: &mut Value, operation: &Value, spent: &mut Spent) -> Result<(), String> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = || text("path").ok_or_else(|| "missing value: path".to_owned());
    let from = || text("from").ok_or_else(|| "missing value: from".to_owned());
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match text("op").unwrap_or("unknown") {
        "add" => {
            let (path, value) = (path()?, value());
            check_put(path, &value, spent)?;
            let (container, key) = container(document, path).ok_or_else(|| absent("add", "path", &quoted(path)))?;
            put(container, key, value).map_err(|error| format!("error in add for path: '{path}': {error}"))
        }
        "remove" => {
            let path = path()?;
            let (container, key) = container(document, path).ok_or_else(|| absent("remove", "path", &quoted(path)))?;
            take(container, &key).map_err(|error| format!("error in remove for path: '{path}': {error}"))?;
            Ok(())
        }
        "replace" => replace(document, path()?, value(), spent),
        "move" => {
            let (to, from) = (path()?, from()?);
            let source = container(document, from).ok_or_else(|| absent("move", "from path", from))?;
            let moved = take(source.0, &source.1)
                .map_err(|error| format!("error in move for path: '{}': {error}", source.1))?;
            check_put(to, &moved, spent)?;
            let (container, key) = container(document, to).ok_or_else(|| absent("move", "destination path", to))?;
            put(container, key, moved).map_err(|error| format!("error in move for path: '{to}': {error}"))
        }
        "copy" => {
            let (to, from) = (path()?, from()?);
            let source = container(document, from).ok_or_else(|| absent("copy", "from path", from))?;
            let copied =
                get(source.0, &source.1).map_err(|error| format!("error in copy for from: '{from}': {error}"))?;
            if container(document, to).is_none() {
                return Err(absent("copy", "destination path", to));
            }
            spent.copied_bytes += copied.to_string().len();
            let (copied_bytes, limit) = (spent.copied_bytes, COPIED_BYTES_MAX);
            if copied_bytes > limit {
                return Err(format!(
                    "accumulated size of copy operations of {copied_bytes} bytes exceeds limit of {limit}"
                ));
            }
            check_put(to, &copied, spent)?;
            let (container, key) = container(document, to).ok_or_else(|| absent("copy", "destination path", to))?;
            put(container, key, copied).map_err(|error| format!("error while adding value during copy: {error}"))
        }
        "test" => {
            let path = path()?;
            let found = if path.is_empty() {
                document.clone()
            } else {
                let none = || format!("test operation does not apply: is missing path: {path}: missing value");
                let (container, key) = container(document, path).ok_or_else(none)?;
                get(container, &key).map_err(|error| format!("error in test for path: '{path}': {error}"))?
            };
            if found == value() { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// The container a path ends in, and the last key; `None` when the path does not lead anywhere.
fn container<'d>(document: &'d mut Value, path: &str) -> Option<(&'d mut Value, String)> {
    let mut parts = parts(path);
    let key = parts.pop()?;
    let mut current = document;
    for part in parts {
        current = match current {
            Value::Object(map) => map.get_mut(&part)?,
            Value::Array(items) => {
                let index = index(&part, items.len(), items.len()).ok()?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    matches!(current, Value::Object(_) | Value::Array(_)).then_some((current, key))
}

/// The segments of a path.
fn parts(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(unescape).collect()
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// An array index below `end`; negative ones count back from `len`.
fn index(key: &str, len: usize, end: usize) -> Result<usize, String> {
    let wanted: i64 = key.parse().map_err(|_| format!("value was not a proper array index: '{key}'"))?;
    let counted = if wanted < 0 { wanted.saturating_add_unsigned(len as u64) } else { wanted };
    match usize::try_from(counted) {
        Ok(index) if index < end => Ok(index),
        _ => Err(format!("Unable to access invalid index: {wanted}: invalid index referenced")),
    }
}

/// A path that leads nowhere.
fn absent(operation: &str, what: &str, path: &str) -> String {
    format!("{operation} operation does not apply: doc is missing {what}: {path}: missing value")
}

fn quoted(path: &str) -> String {
    format!("\"{path}\"")
}

fn get(container: &Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Array(items) => index(key, items.len(), items.len()).map(|i| items[i].clone()),
        map => Ok(map.get(key).cloned().unwrap_or(Value::Null)),
    }
}

fn put(container: &mut Value, key: String, value: Value) -> Result<(), String> {
    match container {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let grown = items.len() + 1;
            items.insert(index(&key, grown, grown)?, value);
        }
        Value::Object(map) => drop(map.insert(key, value)),
        _ => {}
    }
    Ok(())
}

fn take(container: &mut Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Array(items) => index(key, items.len(), items.len()).map(|i| items.remove(i)),
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        _ => Ok(Value::Null),
    }
}

/// What short operations put into each other must not be deeper than what one body may hold.
fn check_put(path: &str, value: &Value, spent: &mut Spent) -> Result<(), String> {
    let extent = value.extent();
    spent.put_values += extent.values;
    if spent.put_values > PUT_VALUES_MAX {
        return Err(format!("accumulated size of operations exceeds limit of {PUT_VALUES_MAX} values"));
    }
    if path.matches('/').count() + extent.depth > DEPTH_MAX { Err(TOO_DEEP.to_owned()) } else { Ok(()) }
}

fn replace(document: &mut Value, path: &str, value: Value, spent: &mut Spent) -> Result<(), String> {
    check_put(path, &value, spent)?;
    if path.is_empty() {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return Err("replace operation value must be object or array".to_owned());
        }
        *document = value;
        return Ok(());
    }
    let (container, key) = container(document, path).ok_or_else(|| absent("replace", "path", path))?;
    match container {
        Value::Array(items) => match index(&key, items.len(), items.len()) {
            Ok(i) => items[i] = value,
            Err(_) => return Err(absent("replace", "key", path)),
        },
        Value::Object(map) => drop(map.insert(key, value)),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operations: Value) -> Result<Value, PatchError> {
        let original = json!({"data": {"a": "1", "b": "2"}, "list": [{"n": 0}, {"n": 1}]});
        let patch = decode(operations.to_string().as_bytes(), false)?;
        apply(&original, &patch.document)
    }

    #[test]
    fn what_does_not_apply_is_told_in_the_words_of_its_operation() {
        let refused = |operation: Value| match run(json!([operation])) {
            Err(PatchError::Unprocessable(text)) => text,
            other => panic!("{other:?}"),
        };
        let invalid = "Unable to access invalid index: 9: invalid index referenced";
        for (operation, text) in [
            (
                json!({"op": "remove", "path": "/data/z"}),
                "error in remove for path: '/data/z': Unable to remove nonexistent key: z: missing value".to_owned(),
            ),
            (
                json!({"op": "remove", "path": "/x/z"}),
                "remove operation does not apply: doc is missing path: \"/x/z\": missing value".to_owned(),
            ),
            (
                json!({"op": "add", "path": "/list/9", "value": 1}),
                format!("error in add for path: '/list/9': {invalid}"),
            ),
            (
                json!({"op": "replace", "path": "/list/9", "value": 1}),
                "replace operation does not apply: doc is missing key: /list/9: missing value".to_owned(),
            ),
            (
                json!({"op": "move", "from": "/x/z", "path": "/a"}),
                "move operation does not apply: doc is missing from path: /x/z: missing value".to_owned(),
            ),
            (
                json!({"op": "copy", "from": "/data/a", "path": "/x/z"}),
                "copy operation does not apply: doc is missing destination path: /x/z: missing value".to_owned(),
            ),
            (
                json!({"op": "test", "path": "/x/z", "value": 1}),
                "test operation does not apply: is missing path: /x/z: missing value".to_owned(),
            ),
            (
                json!({"op": "test", "path": "/list/9", "value": 1}),
                format!("error in test for path: '/list/9': {invalid}"),
            ),
        ] {
            assert_eq!(refused(operation), text);
        }
    }

    fn data(operations: Value) -> Value {
        run(operations).expect("applies")["data"].clone()
    }

    #[test]
    fn operations_edit_members() {
        let operations = json!([
            {"op": "add", "path": "/data/c", "value": "3"},
            {"op": "replace", "path": "/data/a", "value": "x"},
            {"op": "remove", "path": "/data/b"},
        ]);
        assert_eq!(data(operations), json!({"a": "x", "c": "3"}));
        let operations = json!([
            {"op": "test", "path": "/data/a", "value": "1"},
            {"op": "move", "from": "/data/a", "path": "/data/z"},
            {"op": "copy", "from": "/data/b", "path": "/data/y~1~0"},
        ]);
        assert_eq!(data(operations), json!({"b": "2", "z": "1", "y/~": "2"}));
    }

    /// Each `copy` puts the object into itself.
    #[test]
    fn operations_nest_no_deeper_than_a_body() {
        let doubled = |times: u32| {
            let copy =
                |n: u32| json!({"op": "copy", "from": "/data", "path": "/data".to_owned() + &"/a".repeat(1 << n)});
            let mut operations = vec![json!({"op": "replace", "path": "/data", "value": {}})];
            operations.extend((0..times).map(copy));
            run(operations.into())
        };
        assert_eq!(doubled(8).expect("applies").extent().depth, 257);
        assert_eq!(doubled(16), Err(PatchError::Unprocessable("exceeded max depth".to_owned())));
    }

    #[test]
    fn large_values_are_not_moved_for_ever() {
        let moves = |times: usize| {
            let large = json!({"op": "add", "path": "/data/a", "value": vec![0; 100_000]});
            let there = json!({"op": "move", "from": "/data/a", "path": "/data/z"});
            let back = json!({"op": "move", "from": "/data/z", "path": "/data/a"});
            let moves = (0..times).map(|n| if n % 2 == 0 { there.clone() } else { back.clone() });
            run(std::iter::once(large).chain(moves).collect())
        };
        assert!(moves(50).is_ok());
        assert!(matches!(moves(1000), Err(PatchError::Unprocessable(text)) if text.contains("10000000 values")));
    }

    #[test]
    fn absent_members_read_as_null() {
        assert!(run(json!([{"op": "test", "path": "/data/none", "value": null}])).is_ok());
        assert_eq!(data(json!([{"op": "replace", "path": "/data/n", "value": "x"}]))["n"], json!("x"));
        assert_eq!(data(json!([{"op": "copy", "from": "/data/n", "path": "/data/x"}]))["x"], Value::Null);
        assert_eq!(data(json!([{"op": "add", "path": "/data/q"}]))["q"], Value::Null);
        let patched = run(json!([{"op": "add", "path": "data/q", "value": 1}])).expect("applies");
        assert_eq!(patched["q"], json!(1));
    }

    #[test]
    fn what_does_not_apply_is_unprocessable() {
        let cases = [
            json!([{"op": "test", "path": "/data/a", "value": "nope"}]),
            json!([{"op": "remove", "path": "/data/none"}]),
            json!([{"op": "add", "path": "/nope/deep/x", "value": 1}]),
            json!([{"op": "bogus", "path": "/data/a"}]),
            json!([{"path": "/data/a"}]),
            json!([{"op": "replace", "path": "/list/9/n", "value": 1}]),
            json!([{"op": "add", "path": "/list/3", "value": 1}]),
            json!([{"op": "add", "path": "/data/a/b", "value": 1}]),
        ];
        for case in cases {
            assert!(matches!(run(case.clone()), Err(PatchError::Unprocessable(_))), "{case}");
        }
    }

    #[test]
    fn indices_may_be_negative_or_a_dash() {
        let list = |operations: Value| run(operations).expect("applies")["list"].clone();
        assert_eq!(list(json!([{"op": "replace", "path": "/list/-1/n", "value": 9}])), json!([{"n": 0}, {"n": 9}]));
        assert_eq!(list(json!([{"op": "add", "path": "/list/-", "value": 5}])), json!([{"n": 0}, {"n": 1}, 5]));
        assert_eq!(list(json!([{"op": "add", "path": "/list/-1", "value": 5}])), json!([{"n": 0}, {"n": 1}, 5]));
        assert_eq!(list(json!([{"op": "add", "path": "/list/1", "value": 5}])), json!([{"n": 0}, 5, {"n": 1}]));
    }

    #[test]
    fn malformed_patches_are_bad_requests() {
        let error = |value: Value| decode(value.to_string().as_bytes(), false).expect_err("refused").to_string();
        assert_eq!(
            error(json!({"op": "add"})),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
        assert_eq!(
            error(json!([5])),
            "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"
        );
        let many = vec![json!({"op": "test", "path": "/data/a", "value": "1"}); OPERATIONS_MAX + 1];
        assert_eq!(
            decode(Value::from(many).to_string().as_bytes(), false).expect_err("refused").status().message,
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
        );
    }

    #[test]
    fn unknown_members_of_operations_are_strict_errors() {
        let body = br#"[{"op":"add","path":"/a","value":1},{"op":"add","path":"/b","value":1,"extra":5}]"#;
        let patch = decode(body, false).expect("decodes");
        assert_eq!(patch.strict_errors, ["json patch unknown field \"[1].extra\""]);
    }
}
