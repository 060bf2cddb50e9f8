//! Which pods a replica owner deletes first: those whose loss hurts least. Source: upstream's ActivePodsWithRanks.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::clock::seconds_between;
use crate::ownership::uid;
use crate::pods::{is_ready, max_restarts, node_name, phase, ready_since};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods that go first.
pub(super) fn first_to_delete(pods: &[&Arc<Pod>], related: &[Arc<Pod>], now: &Time, count: usize) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.iter().map(|pod| Arc::clone(pod)).collect();
    }
    let mut n_on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *n_on_node.entry(node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, &Arc<Pod>)> = pods.iter().map(|pod| (Rank::of(pod, &n_on_node, now), *pod)).collect();
    ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
    ranked.into_iter().take(count).map(|(_, pod)| pod.clone()).collect()
}

/// Smaller goes first. Fields in upstream's order; times are compared by orders of magnitude of their age, so that a difference
/// of seconds does not decide between pods that are days old. The uid breaks ties, at random but always alike.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    n_on_node: Reverse<usize>,
    ready_age: Option<u32>,
    restarts: Reverse<i32>,
    created_age: Option<u32>,
    uid: &'a str,
}

impl<'a> Rank<'a> {
    fn of(pod: &'a Pod, n_on_node: &HashMap<&str, usize>, now: &Time) -> Self {
        let ready = is_ready(pod);
        Self {
            assigned: !node_name(pod).is_empty(),
            phase: match phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            ready,
            deletion_cost: deletion_cost(pod),
            n_on_node: Reverse(n_on_node.get(node_name(pod)).copied().unwrap_or(0)),
            ready_age: magnitude(ready_since(pod), now),
            restarts: Reverse(max_restarts(pod)),
            created_age: magnitude(pod.metadata.creation_timestamp.as_ref(), now),
            uid: uid(&pod.metadata),
        }
    }
}

/// A logarithmic age; an unknown time is the smallest.
fn magnitude(time: Option<&Time>, now: &Time) -> Option<u32> {
    let age = u64::try_from(seconds_between(time?, now)).unwrap_or(0);
    Some((age + 1).ilog2())
}

/// Malformed costs count as none: the API server refuses them anyway.
fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock;
    use crate::ownership::name;

    fn pod(pod_name: &str, node: &str, ready_seconds_ago: Option<i64>, cost: Option<&str>, restarts: i32) -> Arc<Pod> {
        let now = clock::now().0.as_second();
        let ready = ready_seconds_ago.map(|ago| jiff::Timestamp::from_second(now - ago).unwrap().to_string());
        let conditions = ready.map(|since| json!([{ "type": "Ready", "status": "True", "lastTransitionTime": since }]));
        let object = json!({
            "metadata": {
                "name": pod_name, "uid": pod_name,
                "annotations": cost.map(|cost| json!({ DELETION_COST: cost })),
            },
            "spec": { "containers": [], "nodeName": node },
            "status": {
                "phase": "Running", "conditions": conditions,
                "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts }],
            },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn check(pods: &[Arc<Pod>], related: &[Arc<Pod>], expected: &[&str]) {
        let candidates: Vec<&Arc<Pod>> = pods.iter().collect();
        let chosen = first_to_delete(&candidates, related, &clock::now(), expected.len());
        assert_eq!(chosen.iter().map(|pod| name(&pod.metadata)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn cheaper_pods_go_before_crowded_nodes() {
        let pods = [
            pod("dear", "n1", Some(9), Some("10"), 0),
            pod("cheap", "n2", Some(9), Some("-1"), 0),
            pod("none", "n1", Some(9), None, 0),
        ];
        check(&pods, &pods, &["cheap", "none"]);
    }

    #[test]
    fn the_fuller_node_loses_first() {
        let pods = [
            pod("alone", "n1", Some(9), None, 0),
            pod("one", "n2", Some(9), None, 0),
            pod("two", "n2", Some(9), None, 0),
        ];
        let candidates = &pods[..2];
        check(candidates, &pods, &["one"]);
    }

    #[test]
    fn the_newly_ready_pod_goes_first() {
        let pods = [pod("old", "n", Some(100_000), None, 0), pod("new", "n", Some(2), None, 0)];
        check(&pods, &[], &["new"]);
    }

    #[test]
    fn restarts_decide_between_equals() {
        let pods = [pod("steady", "n", Some(9), None, 0), pod("crashing", "n", Some(9), None, 7)];
        check(&pods, &[], &["crashing"]);
    }
}
