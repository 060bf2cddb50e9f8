//! Facts about Pods that several controllers read.

use std::sync::Arc;

use client::Informer;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::clock::seconds_between;
use crate::ownership::controller_of;

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted, but not finished.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

pub(crate) fn ready_since(pod: &Pod) -> Option<&Time> {
    condition(pod, "Ready").filter(|ready| ready.status == "True")?.last_transition_time.as_ref()
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: &Time) -> bool {
    if !is_ready(pod) {
        return false;
    }
    let long_enough = |since| seconds_between(since, now) >= i64::from(min_ready_seconds);
    min_ready_seconds == 0 || ready_since(pod).is_some_and(long_enough)
}

/// Seconds until the next of these pods becomes available by merely staying ready.
pub(crate) fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: &Time,
) -> Option<i64> {
    let waits = pods.into_iter().filter_map(|pod| {
        let wait = i64::from(min_ready_seconds) - seconds_between(ready_since(pod)?, now);
        (wait > 0).then_some(wait)
    });
    waits.min()
}

pub(crate) fn max_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

/// The Pod a controller creates from its template, in the owner's namespace and named by the server.
pub(crate) fn from_template(template: &PodTemplateSpec, owner: &ObjectMeta, reference: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: owner.namespace.clone(),
            generate_name: Some(format!("{}-", owner.name.as_deref().unwrap_or(""))),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Indexes pods without a controller by namespace, for adoption.
pub(crate) fn index_orphans(pods: &Informer<Pod>) {
    pods.add_index("orphan", |pod| match controller_of(&pod.metadata) {
        Some(_) => Vec::new(),
        None => pod.metadata.namespace.clone().into_iter().collect(),
    });
}

/// What an owner may claim: the pods it controls, and its namespace's orphans.
pub(crate) fn claimable(pods: &Informer<Pod>, owner: &ObjectMeta) -> Vec<Arc<Pod>> {
    let mut candidates = pods.controlled_by(owner.uid.as_deref().unwrap_or(""));
    candidates.extend(pods.by_index("orphan", owner.namespace.as_deref().unwrap_or("")));
    candidates
}

pub(crate) fn index_by_node(pods: &Informer<Pod>) {
    pods.add_index("node", |pod| vec![node_name(pod).to_owned()]);
}
