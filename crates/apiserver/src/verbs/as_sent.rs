//! The object of a refused update as the client sent it. Decoding drops empty lists, as storing them would; upstream's messages show
//! a list that was given empty otherwise (`[]`) than one that was not given (`null`).

use api::Value;

use super::{Request, patch};

/// The object as the client's body has it, before it was decoded by schema.
pub(super) fn body(request: &Request, old: &Value) -> Option<Value> {
    match request.verb {
        "patch" => patch::as_patched(request, old),
        _ => serde_json::from_slice(&request.body).ok(),
    }
}

/// The object with the empty lists of another form of it, which decoding drops.
pub(super) fn with_empty_lists(object: &Value, sent: &Value) -> Value {
    match (object, sent) {
        (Value::Null, Value::Array(list)) if list.is_empty() => sent.clone(),
        (Value::Object(object), Value::Object(sent)) => {
            let mut out = object.clone();
            for (field, sent) in sent {
                let filled = with_empty_lists(object.get(field).unwrap_or(&Value::Null), sent);
                if !filled.is_null() {
                    out.insert(field.clone(), filled);
                }
            }
            Value::Object(out)
        }
        (Value::Array(list), Value::Array(sent)) if list.len() == sent.len() => {
            list.iter().zip(sent).map(|(item, sent)| with_empty_lists(item, sent)).collect()
        }
        _ => object.clone(),
    }
}

/// Objects of the versioned types leave empty lists out when they are printed; those of internal types, whose fields begin with
/// capitals, do not.
pub(super) fn without_empty_lists(value: Value) -> Value {
    let is_left_out = |field: &str, value: &Value| {
        field.starts_with(|c: char| c.is_lowercase()) && value.as_array().is_some_and(Vec::is_empty)
    };
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(field, value)| !is_left_out(field, value))
            .map(|(field, value)| (field, without_empty_lists(value)))
            .collect(),
        Value::Array(list) => list.into_iter().map(without_empty_lists).collect(),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    #[test]
    fn empty_lists_come_back_where_they_were_sent() {
        let decoded = json!({"spec": {"name": "a", "rules": [{"x": 1}, {}]}});
        let sent = json!({"spec": {"name": "b", "hosts": [], "rules": [{"x": 1, "y": []}, {"z": {"deep": []}}], "none": null}});
        assert_eq!(
            with_empty_lists(&decoded, &sent),
            json!({"spec": {"name": "a", "rules": [{"x": 1, "y": []}, {}], "hosts": []}})
        );
        let shown = json!({"Requests": [], "selector": {"matchExpressions": [], "matchLabels": {"a": "b"}}});
        assert_eq!(without_empty_lists(shown), json!({"Requests": [], "selector": {"matchLabels": {"a": "b"}}}));
        assert_eq!(without_empty_lists(json!([])), json!([]));
    }
}
