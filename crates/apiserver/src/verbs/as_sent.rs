//! The object of a write as the client sent it. Decoding drops empty lists and maps, as storing them would; upstream's rules and messages
//! tell a list that was given empty (`[]`) from one that was not given (`null`).

use std::collections::HashSet;
use std::sync::LazyLock;

use api::schema::{Field, Omit};
use api::{ErrorList, Kind, Schema, Shape, Value, rules};

use super::{Request, patch};

/// The object as the client's body has it, before it was decoded by schema.
pub(super) fn body(request: &Request, old: &Value) -> Option<Value> {
    match request.verb {
        "patch" => patch::as_patched(request, old),
        _ => Value::from_json(&request.body).ok(),
    }
}

/// A new object with the empty lists and maps of the client's body, where it has any.
pub(super) fn created(request: &Request, object: &Value) -> Option<Value> {
    let is_asked = request.kind.custom().is_none() && has_empty(&request.body);
    let sent = is_asked.then(|| Value::from_json(&request.body).ok())??;
    let mut object = with_empty_lists(&request.kind, object, &sent);
    rules::drop_disabled(&request.kind, &mut object);
    Some(object)
}

/// An object (the new one or, for comparison, the old one) with the empty lists and maps that an update of `old` sends.
pub(super) fn filled(request: &Request, object: &Value, old: &Value) -> Value {
    if !has_empty(&request.body) {
        return object.clone();
    }
    let sent = body(request, old).unwrap_or_default();
    let mut filled = with_empty_lists(&request.kind, object, &sent);
    rules::drop_disabled(&request.kind, &mut filled);
    filled
}

/// Whether there is `[]` or `{}` in the text, with or without space between.
pub(super) fn has_empty(text: &[u8]) -> bool {
    empties(text).next().is_some()
}

/// Where each `[]` and `{}` in the text begins.
fn empties(text: &[u8]) -> impl Iterator<Item = usize> {
    let mut open = None;
    text.iter().enumerate().filter_map(move |(at, byte)| {
        match (byte, open) {
            (b'[', _) => open = Some((at, b']')),
            (b'{', _) => open = Some((at, b'}')),
            (byte, Some((begin, end))) if *byte == end => {
                open = None;
                return Some(begin);
            }
            (byte, _) if byte.is_ascii_whitespace() => {}
            _ => open = None,
        }
        None
    })
}

/// The name of the field whose value begins there; `None` for the item of a list and within a string.
fn name_before(json: &[u8], at: usize) -> Option<&[u8]> {
    let name = json[..at].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end().strip_suffix(b"\"")?;
    Some(&name[name.iter().rposition(|byte| *byte == b'"')? + 1..])
}

/// Lists and maps of built-in types that are shown when they are empty.
static SHOWN_EMPTY: LazyLock<HashSet<&[u8]>> = LazyLock::new(|| {
    let fields = Schema::builtin().types().flat_map(|(_, ty)| &ty.fields);
    let is_shown = |field: &&Field| field.omit == Omit::Never && matches!(field.shape, Shape::List(_) | Shape::Map(_));
    fields.filter(is_shown).map(|field| field.name.as_bytes()).collect()
});

/// The object with the empty lists and maps of another form of it, which decoding drops.
pub(super) fn with_empty_lists(kind: &Kind, object: &Value, sent: &Value) -> Value {
    fill(&kind.schema, Shape::Ref(kind.type_id), object, sent, |_| true)
}

/// A new object, or the one that replaces `old`, with those empty lists of the client's body that are shown when they are empty: they
/// have an owner. `None` where the client sent none.
pub(crate) fn owned(request: &Request, object: &Value, old: &Value) -> Option<Value> {
    let mut names = empties(&request.body).filter_map(|at| name_before(&request.body, at));
    let is_asked = request.kind.custom().is_none() && names.any(|name| SHOWN_EMPTY.contains(name));
    let sent = is_asked.then(|| body(request, old))??;
    let kind = &request.kind;
    Some(fill(&kind.schema, Shape::Ref(kind.type_id), object, &sent, |field| field.omit == Omit::Never))
}

fn fill(schema: &Schema, shape: Shape, object: &Value, sent: &Value, keeps: fn(&Field) -> bool) -> Value {
    match (object, sent) {
        (Value::Null, Value::Array(list)) if list.is_empty() => sent.clone(),
        (Value::Null, Value::Object(map)) if map.is_empty() && matches!(shape, Shape::Map(_)) => sent.clone(),
        (Value::Object(object), Value::Object(sent)) => {
            let mut out = object.clone();
            for (name, sent) in sent {
                let there = object.get(name).unwrap_or(&Value::Null);
                let known = match shape.type_id() {
                    None => Some(schema.element_of(shape)),
                    Some(owner) => schema
                        .field(owner, name)
                        .filter(|field| !there.is_null() || keeps(field))
                        .map(|field| field.shape),
                };
                let Some(known) = known else { continue };
                let filled = fill(schema, known, there, sent, keeps);
                if !filled.is_null() {
                    out.insert(name.clone(), filled);
                }
            }
            Value::Object(out)
        }
        (Value::Array(list), Value::Array(sent)) if list.len() == sent.len() => {
            let item = schema.element_of(shape);
            list.iter().zip(sent).map(|(object, sent)| fill(schema, item, object, sent, keeps)).collect()
        }
        _ => object.clone(),
    }
}

/// The errors with their values as upstream prints them: objects of the versioned types leave empty lists out; those of internal types,
/// whose fields begin with capitals, do not.
pub(crate) fn without_empty_lists(errors: ErrorList) -> ErrorList {
    let mut printed = ErrorList::new();
    for mut error in errors {
        error.bad_value = shown(error.bad_value);
        printed.push(error);
    }
    printed
}

fn shown(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    // Names with a colon are those of managed fields.
    let is_versioned = |field: &str| field.starts_with(|c: char| c.is_lowercase()) && !field.contains(':');
    let is_left_out = |field: &str, value: &Value| is_versioned(field) && is_empty(value);
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(field, value)| !is_left_out(field, value))
            .map(|(field, value)| (field, shown(value)))
            .collect(),
        Value::Array(list) => list.into_iter().map(shown).collect(),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    #[test]
    fn empty_lists_come_back_where_they_were_sent() {
        let pods = api::kinds::builtin().by_kind("", "v1", "Pod").expect("pods");
        let decoded = json!({"spec": {"hostname": "a", "containers": [{"name": "c"}, {}]}});
        let sent = json!({"spec": {"hostname": "b", "volumes": [], "nodeSelector": {}, "securityContext": {}, "none": [],
            "containers": [{"name": "c", "env": []}, {"lifecycle": {"deep": []}}], "os": null}});
        assert_eq!(
            with_empty_lists(pods, &decoded, &sent),
            json!({"spec": {"hostname": "a", "containers": [{"name": "c", "env": []}, {}], "volumes": [], "nodeSelector": {}}})
        );
        let printed = json!({"Requests": [], "selector": {"matchExpressions": [], "matchLabels": {}}, "f:spec": {}});
        assert_eq!(shown(printed), json!({"Requests": [], "selector": {}, "f:spec": {}}));
        assert_eq!(shown(json!([])), json!([]));
        assert!(has_empty(b"{\"a\": [ ]}") && !has_empty(b"[{\"a\": 1}]"));
    }

    #[test]
    fn names_of_empty_lists_and_maps_are_found() {
        let json = br#"{"rules" : [ ], "a": [{}, 1], "text": "\"b\":{}[]", "c":[[]], "state":{"running":{}}}"#;
        let names: Vec<_> = empties(json).map(|at| name_before(json, at)).collect();
        assert_eq!(names, [Some(&b"rules"[..]), None, Some(b"b\\"), None, None, Some(b"running")]);
        assert!(SHOWN_EMPTY.contains(&b"rules"[..]) && !SHOWN_EMPTY.contains(&b"running"[..]));
    }
}
