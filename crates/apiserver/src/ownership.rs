//! The request's part of field ownership: who writes, and where `metadata.managedFields` of a write goes.
//!
//! Ownership is settled before admission, defaults of the server and the kind's own preparation, so that nobody owns what the
//! server sets. The list is then held aside, for none of these steps may change it, and put back just before validation.

use api::apply::{Writer, same_but_for_times, track_update};
use api::{Map, Value, meta};

use crate::verbs::{Notes, Request, as_sent};
use crate::write::{Moment, set_metadata};

/// Bytes of a manager's name taken from a user agent.
const MANAGER_BYTES_MAX: usize = 128;

/// How a write settles ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// What changes belongs to the writer.
    Track,
    /// The object's `managedFields` are settled already.
    Settled,
}

/// `fieldManager`, or the name of the program that sent the request.
pub(crate) fn manager(request: &Request) -> String {
    let named = request.query.text("fieldManager");
    if !named.is_empty() {
        return named.to_owned();
    }
    let mut name = String::new();
    for c in request.user_agent.split('/').next().unwrap_or("").chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(c);
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Settles the ownership of a plain write of `object` over `live` and takes the list out of the object.
pub(crate) fn settle(
    request: &Request,
    subresource: &str,
    moment: &Moment,
    live: &Value,
    object: &mut Value,
    ownership: Ownership,
) -> Value {
    let managed = match ownership {
        Ownership::Settled => object.pointer("/metadata/managedFields").cloned().unwrap_or_default(),
        Ownership::Track => {
            // What conversion fills in belongs to the writer.
            if let Some(conversion) = request.kind.conversion {
                *object = (conversion.from_storage)((conversion.to_storage)(std::mem::take(object)));
            }
            let manager = manager(request);
            let writer = Writer { manager: &manager, subresource, now: &moment.now };
            let shown = as_sent::owned(request, object, live);
            track_update(&request.kind, &writer, live, shown.as_ref().unwrap_or(object))
        }
    };
    set_metadata(object, "managedFields", Value::Null);
    managed
}

/// The same for a create, over the zero object. What the server clears anyway is nobody's.
pub(crate) fn settle_new(request: &Request, moment: &Moment, object: &mut Value, ownership: Ownership) -> Value {
    for cleared in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        set_metadata(object, cleared, Value::Null);
    }
    let zero = request.kind.schema.zero(request.kind.type_id);
    settle(request, &request.subresource, moment, &zero, object, ownership)
}

/// Takes the list out of an object that webhooks have seen. One that they broke is as it was before, and the client is told.
pub(crate) fn take_after_admission(object: &mut Value, managed: &mut Value, notes: &Notes) {
    let after = object.pointer("/metadata/managedFields").cloned().unwrap_or_default();
    set_metadata(object, "managedFields", Value::Null);
    match invalid_entry(&after) {
        None => *managed = after,
        Some(fault) => notes.push(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating \
             admission controller; please fix your requests: {fault}"
        )),
    }
}

/// What is wrong with the first entry that is not one.
fn invalid_entry(managed: &Value) -> Option<String> {
    managed.as_array()?.iter().find_map(|entry| {
        let text = |field: &str| entry[field].as_str().unwrap_or("");
        let fault = match (text("operation"), text("fieldsType")) {
            ("Apply" | "Update", "FieldsV1") => return None,
            ("Apply" | "Update", other) => format!("unsupported managedFields type: {other}"),
            (other, _) => format!("invalid operation {other}"),
        };
        Some(fault)
    })
}

/// Puts the list into the prepared object. Times do not move when nothing else does, or a repeated write would be a new version.
pub(crate) fn restore(object: &mut Value, managed: Value, old: &Value) {
    let before = old.pointer("/metadata/managedFields");
    let unmoved = before.is_some_and(|before| {
        *before != managed && same_but_for_times(before, &managed) && same_but_for_managed_fields(object, old)
    });
    let managed = if unmoved { before.cloned().unwrap_or_default() } else { managed };
    set_metadata(object, "managedFields", managed);
}

fn same_but_for_managed_fields(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    let metadata = [a, b].map(|map| map.get("metadata").and_then(Value::as_object));
    let same_metadata = match (metadata[0], metadata[1]) {
        (Some(a), Some(b)) => same_entries(a, b, "managedFields"),
        (a, b) => a.is_none() && b.is_none(),
    };
    same_metadata && same_entries(a, b, "metadata")
}

fn same_entries(a: &Map, b: &Map, except: &str) -> bool {
    let others = |map: &Map| map.keys().filter(|key| *key != except).count();
    others(a) == others(b) && a.iter().filter(|(key, _)| *key != except).all(|(key, value)| b.get(key) == Some(value))
}

/// The client sent an empty list, which decoding does not tell from none: it asks for a reset, as one empty entry does.
pub(crate) fn keep_reset(sent: &[u8], object: &mut Value) {
    const FIELD: &[u8] = b"\"managedFields\"";
    let absent = object.pointer("/metadata/managedFields").is_none_or(Value::is_null);
    let Some(at) = sent.windows(FIELD.len()).position(|w| w == FIELD).filter(|_| absent) else { return };
    let rest: Vec<u8> = sent[at + FIELD.len()..].iter().copied().filter(|b| !b.is_ascii_whitespace()).take(3).collect();
    if rest == b":[]" && !meta::name(object).is_empty() {
        set_metadata(object, "managedFields", Value::Array(vec![Value::Object(Map::new())]));
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    #[test]
    fn an_empty_list_asks_for_a_reset() {
        let mut object = json!({"metadata": {"name": "a"}});
        keep_reset(br#"{"metadata":{"name":"a","managedFields" : [ ]}}"#, &mut object);
        assert_eq!(object["metadata"]["managedFields"], json!([{}]));
    }

    #[test]
    fn times_stay_when_nothing_else_moves() {
        let entry = |time: &str| json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": time}]);
        let old = json!({"metadata": {"name": "a", "managedFields": entry("1")}, "data": {"a": "1"}});
        let mut same = json!({"data": {"a": "1"}, "metadata": {"name": "a"}});
        restore(&mut same, entry("2"), &old);
        assert_eq!(same["metadata"]["managedFields"], entry("1"));
        let mut other = json!({"data": {"a": "2"}, "metadata": {"name": "a"}});
        restore(&mut other, entry("2"), &old);
        assert_eq!(other["metadata"]["managedFields"], entry("2"));
    }
}
