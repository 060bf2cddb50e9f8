//! Rows of flow control: schemas and priority levels.

use crate::Value;

use super::row::{NONE, Row};

pub(super) fn flow_schema(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.text("/spec/priorityLevelConfiguration/name"),
        row.int("/spec/matchingPrecedence").into(),
        row.text_or("/spec/distinguisherMethod/type", NONE),
        row.age(),
        row.condition("Dangling").map_or("?", |c| c.str("/status")).into(),
    ]
}

/// Schemas are shown in the order in which requests are held against them.
pub(super) fn precedence(schema: &Value) -> (i64, String) {
    let precedence = schema.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(0);
    (precedence, crate::meta::name(schema).to_owned())
}

pub(super) fn priority_level(row: &Row<'_>) -> Vec<Value> {
    let number = |pointer: &str| row.get(pointer).cloned().unwrap_or_else(|| NONE.into());
    let queuing = |field: &str| number(&format!("/spec/limited/limitResponse/queuing/{field}"));
    vec![
        row.name(),
        row.text("/spec/type"),
        number("/spec/limited/nominalConcurrencyShares"),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        row.age(),
    ]
}
