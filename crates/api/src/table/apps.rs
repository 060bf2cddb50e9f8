//! Rows of workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, and what belongs to them.

use crate::{Value, selector::LabelSelector};

use super::row::{NONE, Row};

const TEMPLATE_CONTAINERS: &str = "/spec/template/spec/containers";

fn replicas(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = row.containers(TEMPLATE_CONTAINERS);
    vec![
        row.name(),
        row.int("/spec/replicas").into(),
        row.int("/status/replicas").into(),
        row.int("/status/readyReplicas").into(),
        row.age(),
        names,
        images,
    ]
}

pub(super) fn replication_controller(row: &Row<'_>) -> Vec<Value> {
    let mut cells = replicas(row);
    cells.push(row.labels("/spec/selector"));
    cells
}

pub(super) fn replica_set(row: &Row<'_>) -> Vec<Value> {
    let mut cells = replicas(row);
    cells.push(row.selector("/spec/selector"));
    cells
}

pub(super) fn deployment(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = row.containers(TEMPLATE_CONTAINERS);
    let selector = LabelSelector::from_object(row.get("/spec/selector").unwrap_or(&Value::Null));
    let selector = selector.map_or_else(|_| "<invalid>".to_owned(), |s| s.to_string());
    vec![
        row.name(),
        ready_of_wanted(row),
        row.int("/status/updatedReplicas").into(),
        row.int("/status/availableReplicas").into(),
        row.age(),
        names,
        images,
        selector.into(),
    ]
}

pub(super) fn stateful_set(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = row.containers(TEMPLATE_CONTAINERS);
    vec![row.name(), ready_of_wanted(row), row.age(), names, images]
}

fn ready_of_wanted(row: &Row<'_>) -> Value {
    format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas")).into()
}

pub(super) fn daemon_set(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = row.containers(TEMPLATE_CONTAINERS);
    vec![
        row.name(),
        row.int("/status/desiredNumberScheduled").into(),
        row.int("/status/currentNumberScheduled").into(),
        row.int("/status/numberReady").into(),
        row.int("/status/updatedNumberScheduled").into(),
        row.int("/status/numberAvailable").into(),
        row.labels("/spec/template/spec/nodeSelector"),
        row.age(),
        names,
        images,
        row.selector("/spec/selector"),
    ]
}

pub(super) fn controller_revision(row: &Row<'_>) -> Vec<Value> {
    let is_controller = |owner: &Row<'_>| owner.get("/controller").and_then(Value::as_bool) == Some(true);
    let controller = match row.items("/metadata/ownerReferences").find(is_controller) {
        Some(owner) => {
            let kind = owner.str("/kind").to_lowercase();
            let group =
                owner.str("/apiVersion").split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
            format!("{kind}{group}/{}", owner.str("/name"))
        }
        None => NONE.to_owned(),
    };
    vec![row.name(), controller.into(), row.int("/revision").into(), row.age()]
}

pub(super) fn pod_disruption_budget(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.int_or_string("/spec/minAvailable", "N/A"),
        row.int_or_string("/spec/maxUnavailable", "N/A"),
        row.int("/status/disruptionsAllowed").into(),
        row.age(),
    ]
}
