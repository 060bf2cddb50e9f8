//! Rows of admission webhooks and policies.

use std::collections::BTreeMap;

use crate::Value;

use super::row::{Row, UNSET};

pub(super) fn webhooks(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.count("/webhooks").into(), row.age()]
}

pub(super) fn validating_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.count("/spec/validations").into(), param_kind(row), row.age()]
}

pub(super) fn mutating_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.count("/spec/mutations").into(), param_kind(row), row.age()]
}

fn param_kind(row: &Row<'_>) -> Value {
    if row.has("/spec/paramKind") {
        format!("{}/{}", row.str("/spec/paramKind/apiVersion"), row.str("/spec/paramKind/kind")).into()
    } else {
        UNSET.into()
    }
}

pub(super) fn policy_binding(row: &Row<'_>) -> Vec<Value> {
    let name = row.str("/spec/paramRef/name");
    let params = if !name.is_empty() {
        let namespace = row.str("/spec/paramRef/namespace");
        format!("{}/{name}", if namespace.is_empty() { "*" } else { namespace }).into()
    } else if let Some(selector) = row.get("/spec/paramRef/selector") {
        go_selector(selector).into()
    } else {
        UNSET.into()
    };
    vec![row.name(), row.text("/spec/policyName"), params, row.age()]
}

/// A label selector as its Go type prints itself.
fn go_selector(selector: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels: BTreeMap<_, _> = labels.into_iter().flatten().map(|(key, value)| (key, text(Some(value)))).collect();
    let labels: String = labels.iter().map(|(key, value)| format!("{key}: {value},")).collect();
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let expressions = list(selector.get("matchExpressions")).into_iter().map(|expression| {
        let values: Vec<String> = list(expression.get("values")).iter().map(|value| text(Some(value))).collect();
        let (key, operator) = (text(expression.get("key")), text(expression.get("operator")));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    });
    let expressions: String = expressions.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}
