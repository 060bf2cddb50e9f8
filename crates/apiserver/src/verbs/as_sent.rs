//! The object of a write as the client sent it. Decoding drops empty lists and maps, as storing them would; upstream's rules and messages
//! tell a list that was given empty (`[]`) from one that was not given (`null`).

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
    let mut end = None;
    for byte in text {
        match byte {
            b'[' => end = Some(b']'),
            b'{' => end = Some(b'}'),
            byte if end == Some(*byte) => return true,
            byte if byte.is_ascii_whitespace() => {}
            _ => end = None,
        }
    }
    false
}

/// Whether an object, or a patch that looks like one, has an empty list or map in a field that is shown when it is empty.
fn has_shown_empty(schema: &Schema, shape: Shape, sent: &Value) -> bool {
    match sent {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let Some(owner) = shape.type_id() else { return has_shown_empty(schema, schema.element_of(shape), value) };
            let Some(field) = schema.field(owner, name) else { return false };
            let is_empty = match value {
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty() && matches!(field.shape, Shape::Map(_)),
                _ => false,
            };
            (is_empty && field.omit == Omit::Never) || has_shown_empty(schema, field.shape, value)
        }),
        Value::Array(items) => items.iter().any(|item| has_shown_empty(schema, schema.element_of(shape), item)),
        _ => false,
    }
}

/// The object with the empty lists and maps of another form of it, which decoding drops.
pub(super) fn with_empty_lists(kind: &Kind, object: &Value, sent: &Value) -> Value {
    fill(&kind.schema, Shape::Ref(kind.type_id), object, sent, |_| true)
}

/// A new object, or the one that replaces `old`, with those empty lists of the client's body that are shown when they are empty: they
/// have an owner. `None` where the client sent none.
pub(crate) fn owned(request: &Request, object: &Value, old: &Value) -> Option<Value> {
    let kind = &request.kind;
    if kind.custom().is_some() || !has_empty(&request.body) {
        return None;
    }
    let (schema, root) = (&kind.schema, Shape::Ref(kind.type_id));
    let mut sent = Value::from_json(&request.body).ok()?;
    // What the operations of a JSON patch make is known when they are done.
    if !sent.is_array() && !has_shown_empty(schema, root, &sent) {
        return None;
    }
    if request.verb == "patch" {
        sent = patch::as_patched(request, old)?;
    }
    Some(fill(schema, root, object, &sent, |field| field.omit == Omit::Never))
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
    fn fields_that_are_shown_empty_are_found_by_their_place() {
        let found = |kind: &str, group: &str, sent: Value| {
            let kind = api::kinds::builtin().by_kind(group, "v1", kind).expect("known");
            has_shown_empty(&kind.schema, Shape::Ref(kind.type_id), &sent)
        };
        assert!(found("Role", "rbac.authorization.k8s.io", json!({"rules": []})));
        assert!(found("Pod", "", json!({"spec": {"containers": []}})));
        // Elsewhere in a pod `resources` is a map that is shown.
        let status = json!({"containerStatuses": [{"resources": {}, "lastState": {}, "state": {"running": {}}}]});
        assert!(!found("Pod", "", json!({"metadata": {"labels": {}}, "status": status})));
    }
}
