//! events.k8s.io/v1 Event, stored as core/v1 Event: the same facts under other names.

use super::{Conversion, normalized};
use crate::{Map, Value};

pub(super) static CONVERSION: Conversion = Conversion { to_storage, from_storage };

/// Names in events.k8s.io/v1 and in core/v1; other fields are called the same in both.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn to_storage(value: Value) -> Value {
    let renamed = rename(value, "v1", |name| RENAMED.iter().find(|(new, _)| *new == name).map(|(_, old)| *old));
    normalized("", "v1", "Event", renamed)
}

fn from_storage(value: Value) -> Value {
    let find = |name: &str| RENAMED.iter().find(|(_, old)| *old == name).map(|(new, _)| *new);
    normalized("events.k8s.io", "v1", "Event", rename(value, "events.k8s.io/v1", find))
}

fn rename(value: Value, api_version: &str, find: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(map) = value else { return value };
    let mut out = Map::with_capacity(map.len());
    for (name, value) in map {
        match find(&name) {
            Some(new) => out.insert(new, value),
            None if name == "apiVersion" => out.insert(name, Value::from(api_version)),
            None => out.insert(name, value),
        };
    }
    Value::Object(out)
}
