//! Rows of admission webhooks and policies.

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
    } else if row.has("/spec/paramRef/selector") {
        row.selector("/spec/paramRef/selector")
    } else {
        UNSET.into()
    };
    vec![row.name(), row.text("/spec/policyName"), params, row.age()]
}
