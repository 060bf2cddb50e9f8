//! What a DaemonSet should do now: nodes that lack a pod, pods that must go, and what its status says.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::node::{placement, target};
use crate::deployment::resolve;
use crate::ownership::{name, namespace};
use crate::pods::{is_available, is_ready, next_available, phase};
use crate::revisions::HASH_LABEL;

/// Pods created or deleted in one go (upstream's BurstReplicas).
const BURST: usize = 250;

pub(super) struct View<'a> {
    pub set: &'a DaemonSet,
    pub spec: &'a DaemonSetSpec,
    /// The pods it controls.
    pub pods: &'a [Arc<Pod>],
    pub nodes: &'a [Arc<Node>],
    /// The present template's revision.
    pub hash: &'a str,
    pub collisions: Option<i32>,
    pub now: Time,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Names of nodes.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// None when it would not change.
    pub status: Option<DaemonSetStatus>,
    pub events: Vec<(Arc<Pod>, &'static str, String)>,
    pub requeue_seconds: Option<i64>,
}

/// Same view, same plan. Touches nothing.
pub(super) fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    let by_node = pods_by_node(view.pods);
    manage(view, &by_node, &mut plan);
    if plan.create.is_empty() && plan.delete.is_empty() {
        roll(view, &by_node, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    let status = status(view, &by_node);
    let old = view.set.status.clone().unwrap_or_default();
    let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
    plan.requeue_seconds = next_available(view.pods.iter().map(Arc::as_ref), min_ready, &view.now);
    plan.status = (status != old).then_some(status);
    plan
}

type ByNode<'a> = BTreeMap<String, Vec<&'a Arc<Pod>>>;

fn pods_by_node(pods: &[Arc<Pod>]) -> ByNode<'_> {
    let mut by_node: ByNode = BTreeMap::new();
    for pod in pods {
        by_node.entry(target(pod).unwrap_or_default()).or_default().push(pod);
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), name(&pod.metadata).to_owned()));
    }
    by_node
}

fn on<'a, 'b>(by_node: &'b ByNode<'a>, node: &Node) -> &'b [&'a Arc<Pod>] {
    by_node.get(name(&node.metadata)).map_or(&[], Vec::as_slice)
}

fn is_new(view: &View, pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).is_some_and(|hash| hash == view.hash)
}

fn available(view: &View, pod: &Pod) -> bool {
    is_available(pod, view.spec.min_ready_seconds.unwrap_or(0), &view.now)
}

fn max_surge(view: &View, n_desired: i32) -> i32 {
    let rolling = view.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.max_surge.as_ref()).map_or(0, |surge| resolve(surge, n_desired, true))
}

fn max_unavailable(view: &View, n_desired: i32) -> i32 {
    let rolling = view.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).map_or(1, |bound| resolve(bound, n_desired, true))
}

/// One pod per node that takes one; ended and surplus pods, and pods of nodes that take none, go.
fn manage(view: &View, by_node: &ByNode, plan: &mut Plan) {
    let Some(pod_spec) = &view.spec.template.spec else { return };
    for node in view.nodes {
        let placement = placement(pod_spec, node);
        let pods = on(by_node, node);
        if pods.is_empty() {
            if placement.runs {
                plan.create.push(name(&node.metadata).to_owned());
            }
            continue;
        }
        if !placement.stays {
            plan.delete
                .extend(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(|pod| Arc::clone(pod)));
            continue;
        }
        keep_one(view, node, pods, plan);
    }
    let exists = |node: &str| view.nodes.iter().any(|one| name(&one.metadata) == node);
    for (node, pods) in by_node.iter().filter(|(node, _)| !exists(node)) {
        // Bound pods of a vanished node are the pod collector's.
        let unbound = pods
            .iter()
            .filter(|pod| crate::pods::node_name(pod).is_empty() && pod.metadata.deletion_timestamp.is_none());
        plan.delete.extend(unbound.filter(|_| !node.is_empty()).map(|pod| Arc::clone(pod)));
    }
}

fn keep_one(view: &View, node: &Node, pods: &[&Arc<Pod>], plan: &mut Plan) {
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let place = format!("{}/{} on node {}", namespace(&pod.metadata), name(&pod.metadata), name(&node.metadata));
        match phase(pod) {
            "Failed" => {
                let message = format!("Found failed daemon pod {place}, will try to kill it");
                plan.events.push((Arc::clone(pod), "FailedDaemonPod", message));
                plan.delete.push(Arc::clone(pod));
            }
            "Succeeded" => {
                let message = format!("Found succeeded daemon pod {place}, will try to delete it");
                plan.events.push((Arc::clone(pod), "SucceededDaemonPod", message));
                plan.delete.push(Arc::clone(pod));
            }
            _ => running.push(pod),
        }
    }
    // While surging, an old and a new pod may share the node.
    let surges = max_surge(view, 1) > 0;
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|pod| surges && is_new(view, pod));
    for surplus in old.iter().skip(1).chain(new.iter().skip(1)) {
        plan.delete.push(Arc::clone(surplus));
    }
}

/// Replaces pods of older templates, as far as availability allows.
fn roll(view: &View, by_node: &ByNode, plan: &mut Plan) {
    let strategy = view.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    if strategy == Some("OnDelete") {
        return;
    }
    let Some(pod_spec) = &view.spec.template.spec else { return };
    let wanting: Vec<&Arc<Node>> = view.nodes.iter().filter(|node| placement(pod_spec, node).runs).collect();
    let n_desired = i32::try_from(wanting.len()).unwrap_or(i32::MAX);
    let surge = max_surge(view, n_desired);
    if surge > 0 {
        return roll_by_surge(view, by_node, &wanting, surge, plan);
    }
    let mut room = max_unavailable(view, n_desired);
    let mut available_old: Vec<&Arc<Pod>> = Vec::new();
    for node in wanting {
        let live: Vec<&&Arc<Pod>> =
            on(by_node, node).iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        let Some(pod) = live.first() else {
            room -= 1;
            continue;
        };
        match (is_new(view, pod), available(view, pod)) {
            (true, true) => {}
            (true, false) => room -= 1,
            // It serves nobody: replacing it costs nothing.
            (false, false) => {
                room -= 1;
                plan.delete.push(Arc::clone(pod));
            }
            (false, true) => available_old.push(pod),
        }
    }
    let room = usize::try_from(room).unwrap_or(0);
    plan.delete.extend(available_old.into_iter().take(room).cloned());
}

/// A new pod beside the old one; the old one goes when the new one is available.
fn roll_by_surge(view: &View, by_node: &ByNode, wanting: &[&Arc<Node>], surge: i32, plan: &mut Plan) {
    let mut room = surge;
    let mut candidates: Vec<(bool, String)> = Vec::new();
    for node in wanting {
        let live: Vec<&&Arc<Pod>> =
            on(by_node, node).iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        let new = live.iter().find(|pod| is_new(view, pod));
        let Some(old) = live.iter().find(|pod| !is_new(view, pod)) else { continue };
        match new {
            Some(new) if available(view, new) => plan.delete.push(Arc::clone(old)),
            Some(_) => room -= 1,
            None => candidates.push((available(view, old), name(&node.metadata).to_owned())),
        }
    }
    // Nodes whose old pod serves nobody first.
    candidates.sort_by_key(|(serves, node)| (*serves, Reverse(node.clone())));
    let room = usize::try_from(room).unwrap_or(0);
    plan.create.extend(candidates.into_iter().take(room).map(|(_, node)| node));
}

fn status(view: &View, by_node: &ByNode) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: view.set.metadata.generation,
        collision_count: view.collisions,
        conditions: view.set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut n_updated, mut n_available, mut n_unavailable) = (0, 0, 0);
    let default = k8s_openapi::api::core::v1::PodSpec::default();
    for node in view.nodes {
        let runs = placement(view.spec.template.spec.as_ref().unwrap_or(&default), node).runs;
        let live = on(by_node, node);
        let newest = live.iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone());
        if !runs {
            status.number_misscheduled += i32::from(!live.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(!live.is_empty());
        let serving = live
            .iter()
            .find(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none())
            .or(newest.as_ref().copied());
        let ready = serving.is_some_and(|pod| is_ready(pod));
        status.number_ready += i32::from(ready);
        n_updated += i32::from(newest.is_some_and(|pod| is_new(view, pod)));
        if serving.is_some_and(|pod| available(view, pod)) { n_available += 1 } else { n_unavailable += 1 }
    }
    let non_zero = |count: i32| Some(count).filter(|count| *count != 0);
    status.updated_number_scheduled = non_zero(n_updated);
    status.number_available = non_zero(n_available);
    status.number_unavailable = non_zero(n_unavailable);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock;

    fn node(node_name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": node_name } })).unwrap())
    }

    fn pod(pod_name: &str, node: &str, hash: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": pod_name, "namespace": "n", "labels": { HASH_LABEL: hash } },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn planned(rolling: serde_json::Value, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
        let set = json!({
            "metadata": { "name": "d", "generation": 1 },
            "spec": {
                "selector": {}, "template": { "spec": { "containers": [] } },
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": rolling },
            },
        });
        let set: DaemonSet = serde_json::from_value(set).unwrap();
        plan(&View {
            set: &set,
            spec: set.spec.as_ref().unwrap(),
            pods,
            nodes,
            hash: "new",
            collisions: None,
            now: clock::now(),
        })
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        plan.delete.iter().map(|pod| name(&pod.metadata)).collect()
    }

    #[test]
    fn every_node_gets_one_pod() {
        let pods = [pod("a", "n1", "new", "Running", true), pod("b", "n1", "new", "Running", true)];
        let plan = planned(json!({}), &[node("n1"), node("n2")], &pods);
        assert_eq!(plan.create, ["n2"]);
        assert_eq!(deleted(&plan), ["b"]);
        let status = plan.status.unwrap();
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled, status.number_ready), (2, 1, 1));
    }

    #[test]
    fn a_failed_pod_is_replaced_and_told_of() {
        let plan = planned(json!({}), &[node("n1")], &[pod("a", "n1", "new", "Failed", false)]);
        assert_eq!(deleted(&plan), ["a"]);
        assert_eq!(plan.events[0].2, "Found failed daemon pod n/a on node n1, will try to kill it");
    }

    #[test]
    fn a_rollout_replaces_unavailable_pods_and_then_one_at_a_time() {
        let nodes = [node("n1"), node("n2"), node("n3")];
        let old = |name: &str, node: &str, ready| pod(name, node, "old", "Running", ready);
        let healthy = [old("a", "n1", true), old("b", "n2", true), old("c", "n3", true)];
        assert_eq!(deleted(&planned(json!({ "maxUnavailable": 1 }), &nodes, &healthy)), ["a"]);
        let one_down = [old("a", "n1", true), old("b", "n2", false), old("c", "n3", true)];
        assert_eq!(deleted(&planned(json!({ "maxUnavailable": 1 }), &nodes, &one_down)), ["b"]);
    }

    #[test]
    fn a_surge_makes_the_new_pod_before_the_old_one_goes() {
        let surge = json!({ "maxSurge": 1, "maxUnavailable": 0 });
        let old = pod("a", "n1", "old", "Running", true);
        assert_eq!(planned(surge.clone(), &[node("n1")], std::slice::from_ref(&old)).create, ["n1"]);
        let plan = planned(surge, &[node("n1")], &[old, pod("b", "n1", "new", "Running", true)]);
        assert_eq!(deleted(&plan), ["a"]);
    }
}
