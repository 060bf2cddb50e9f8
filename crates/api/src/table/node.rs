//! Rows of nodes and of what they run with: runtime classes, priorities and devices.

use std::collections::BTreeSet;

use crate::Value;

use super::row::{NONE, Row, UNKNOWN};

pub(super) fn node(row: &Row<'_>) -> Vec<Value> {
    let ready = match row.condition("Ready").map(|c| c.str("/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let unschedulable = row.get("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
    let suffix = if unschedulable { ",SchedulingDisabled" } else { "" };
    let mut roles = BTreeSet::new();
    for (label, value) in row.entries("/metadata/labels") {
        match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.insert(role),
            None if label == "kubernetes.io/role" => roles.insert(value.as_str().unwrap_or("")),
            _ => false,
        };
    }
    roles.remove("");
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    let address = |wanted: &str| {
        let found = row.items("/status/addresses").find(|a| a.str("/type") == wanted);
        Value::from(found.map_or(NONE, |a| a.str("/address")))
    };
    let mut kernel = row.str("/status/nodeInfo/kernelVersion").to_owned();
    if kernel.is_empty() {
        kernel = UNKNOWN.to_owned();
    }
    let architecture = row.str("/status/nodeInfo/architecture");
    if !architecture.is_empty() {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        row.name(),
        format!("{ready}{suffix}").into(),
        if roles.is_empty() { NONE.into() } else { roles.into() },
        row.age(),
        row.text("/status/nodeInfo/kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        row.text_or("/status/nodeInfo/osImage", UNKNOWN),
        kernel.into(),
        row.text_or("/status/nodeInfo/containerRuntimeVersion", UNKNOWN),
    ]
}

pub(super) fn runtime_class(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/handler"), row.age()]
}

pub(super) fn priority_class(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.int("/value").into(),
        row.bool_or("/globalDefault", false),
        row.age(),
        row.text("/preemptionPolicy"),
    ]
}

pub(super) fn resource_claim(row: &Row<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if row.is_being_deleted() {
        states.push("deleted");
    }
    if !row.has("/status/allocation") {
        if !row.is_being_deleted() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if row.count("/status/reservedFor") > 0 {
            states.push("reserved");
        }
    }
    vec![row.name(), states.join(",").into(), row.age()]
}

pub(super) fn resource_slice(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/spec/nodeName"), row.text("/spec/driver"), row.text("/spec/pool/name"), row.age()]
}
