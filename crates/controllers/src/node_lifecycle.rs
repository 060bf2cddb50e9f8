//! Node lifecycle: notices silent nodes, says so in their conditions, and taints them so that pods go elsewhere.
//! Reads Node, Lease, Pod. Writes Node.status, Node taints, Pod.status. Source: nodes docs, KEP-589.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::ownership::{name, namespace};
use crate::pods;
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "node-lifecycle-controller",
    alias: "nodelifecycle",
    account: "node-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions other than Ready: type, the taint it brings when true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];
/// Conditions the kubelet reports, which turn Unknown when it falls silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Until the cache has what somebody else wrote of a node.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// NoExecute taints a zone may get in a second, normally and when many of its nodes are silent.
const EVICTION_RATE: f64 = 0.1;
const SECONDARY_EVICTION_RATE: f64 = 0.01;
const LARGE_ZONE: usize = 50;
const UNHEALTHY_ZONE: f64 = 0.55;

async fn run(ctx: Ctx) {
    let nodes = ctx.informers.informer::<Node>();
    let leases = ctx.informers.informer::<Lease>();
    let pods = ctx.informers.informer::<Pod>();
    pods::index_by_node(&pods);
    nodes.has_synced().await;
    leases.has_synced().await;
    pods.has_synced().await;
    // Nodes that came, or changed what their taints follow from: these are not kept waiting for the next pass.
    let changed: WorkQueue<ObjectKey> = WorkQueue::default();
    nodes.on_event({
        let changed = changed.clone();
        move |event| match event {
            Event::Updated { old, new } if signs(old) == signs(new) => {}
            Event::Deleted(_) => {}
            event => changed.add(ObjectKey::of(event.object().as_ref())),
        }
    });
    let mut monitor =
        Monitor { ctx: ctx.clone(), nodes, leases, pods, health: HashMap::new(), limits: BTreeMap::new() };
    let mut passes = tokio::time::interval(ctx.config.node_monitor_period);
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = passes.tick() => monitor.pass().await,
            key = changed.get() => {
                let Some(key) = key else { return };
                if let Some(node) = monitor.nodes.get(&key)
                    && !monitor.write_taints(&node, wanted_taints(&node, false, &clock::now())).await
                {
                    changed.add_after(key.clone(), LOOK_AGAIN);
                }
                changed.done(&key);
            }
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

/// What a node's taints follow from.
#[derive(PartialEq)]
struct Signs<'a> {
    /// Types and statuses.
    conditions: Vec<(&'a str, &'a str)>,
    unschedulable: Option<bool>,
    taints: Option<&'a Vec<Taint>>,
}

fn signs(node: &Node) -> Signs<'_> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let spec = node.spec.as_ref();
    Signs {
        conditions: conditions.map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect(),
        unschedulable: spec.and_then(|spec| spec.unschedulable),
        taints: spec.and_then(|spec| spec.taints.as_ref()),
    }
}

/// What was last heard of a node, and when we heard it: the clocks of nodes are never compared with ours.
#[derive(Clone, Debug, PartialEq)]
struct Health {
    heard_at: Instant,
    heartbeat: Vec<(String, Option<Time>, String)>,
    renewed: Option<MicroTime>,
    never_reported: bool,
}

struct Monitor {
    ctx: Ctx,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    health: HashMap<String, Health>,
    limits: BTreeMap<String, ZoneLimit>,
}

/// Taints a zone may still get: one in hand, refilled at the zone's rate.
struct ZoneLimit {
    tokens: f64,
    at: Instant,
}

impl ZoneLimit {
    fn take(&mut self, rate: f64, now: Instant) -> bool {
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * rate).min(1.0);
        self.at = now;
        let taken = rate > 0.0 && self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ZoneState {
    Normal,
    Partial,
    Full,
}

fn zone_state(n_ready: usize, n_silent: usize) -> ZoneState {
    let all = n_ready + n_silent;
    // Counts of nodes are exact in f64.
    #[allow(clippy::cast_precision_loss)]
    let share = n_silent as f64 / all.max(1) as f64;
    match (n_ready, n_silent) {
        (0, silent) if silent > 0 => ZoneState::Full,
        (_, silent) if silent > 2 && share >= UNHEALTHY_ZONE => ZoneState::Partial,
        _ => ZoneState::Normal,
    }
}

/// NoExecute taints a second for each zone. When every zone is silent, it is our own network: nothing is evicted.
fn rates(zones: &BTreeMap<String, (usize, usize)>) -> BTreeMap<String, f64> {
    let states: Vec<(&String, ZoneState, usize)> =
        zones.iter().map(|(zone, (ready, silent))| (zone, zone_state(*ready, *silent), ready + silent)).collect();
    let all_silent = !states.is_empty() && states.iter().all(|(_, state, _)| *state == ZoneState::Full);
    let rate = |state: ZoneState, size: usize| match state {
        _ if all_silent => 0.0,
        ZoneState::Normal | ZoneState::Full => EVICTION_RATE,
        ZoneState::Partial if size > LARGE_ZONE => SECONDARY_EVICTION_RATE,
        ZoneState::Partial => 0.0,
    };
    states.into_iter().map(|(zone, state, size)| (zone.clone(), rate(state, size))).collect()
}

fn zone_of(node: &Node) -> String {
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    format!("{}:{}", label(REGION_LABEL), label(ZONE_LABEL))
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn ready_status(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |ready| ready.status.as_str())
}

/// The conditions of a node that fell silent, or None when they say so already.
fn silent_conditions(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for type_ in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(now.clone());
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: type_.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(now.clone()),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// The taints a node should have, or None when it has them. Taints of others are kept. `may_evict` allows a new NoExecute taint.
fn wanted_taints(node: &Node, may_evict: bool, now: &Time) -> Option<Vec<Taint>> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let (not_ready, unreachable) = match ready_status(node) {
        "True" => (false, false),
        "False" => (true, false),
        "Unknown" => (false, true),
        // Nothing reported yet: what admission put there goes, until the node has been silent for too long.
        _ => (false, false),
    };
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let mut rows = vec![(NOT_READY, "NoSchedule", not_ready), (UNREACHABLE, "NoSchedule", unreachable)];
    rows.push((UNSCHEDULABLE, "NoSchedule", unschedulable));
    for (type_, key) in PRESSURES {
        rows.push((key, "NoSchedule", condition(node, type_).is_some_and(|condition| condition.status == "True")));
    }
    let has = |key: &str| current.iter().any(|taint| taint.key == key && taint.effect == "NoExecute");
    let already_evicting = has(NOT_READY) || has(UNREACHABLE);
    for (key, applies) in [(NOT_READY, not_ready), (UNREACHABLE, unreachable)] {
        rows.push((key, "NoExecute", applies && (already_evicting || may_evict)));
    }
    let mut taints = current.clone();
    for (key, effect, applies) in rows {
        let present = taints.iter().any(|taint| taint.key == key && taint.effect == effect);
        if applies && !present {
            let time_added = Some(now.clone());
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        } else if !applies {
            taints.retain(|taint| !(taint.key == key && taint.effect == effect));
        }
    }
    (taints != current).then_some(taints)
}

impl Monitor {
    async fn pass(&mut self) {
        let nodes = self.nodes.list();
        self.note_comings_and_goings(&nodes);
        let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut current: Vec<Arc<Node>> = Vec::new();
        for node in nodes {
            let node = Box::pin(self.examine(node)).await;
            let counts = zones.entry(zone_of(&node)).or_default();
            if ready_status(&node) == "True" {
                counts.0 += 1
            } else {
                counts.1 += 1
            }
            current.push(node);
        }
        let rates = rates(&zones);
        for node in current {
            Box::pin(self.taint(&node, rates.get(&zone_of(&node)).copied().unwrap_or(0.0))).await;
        }
    }

    fn note_comings_and_goings(&mut self, nodes: &[Arc<Node>]) {
        for node in nodes.iter().filter(|node| !self.health.contains_key(name(&node.metadata))) {
            let message = format!("Node {0} event: Registered Node {0} in Controller", name(&node.metadata));
            self.ctx.events.event(node.as_ref(), EventType::Normal, "RegisteredNode", message);
        }
        self.health.retain(|known, _| nodes.iter().any(|node| name(&node.metadata) == known));
    }

    /// Updates what is known of the node, and its status when it has been silent too long. Returns the node as it is now.
    async fn examine(&mut self, node: Arc<Node>) -> Arc<Node> {
        let node_name = name(&node.metadata).to_owned();
        let was_ready = ready_status(&node) == "True";
        let silent_seconds = self.listen(&node);
        let known = self.health.get(&node_name);
        let never_reported = known.is_some_and(|health| health.never_reported);
        let config = &self.ctx.config;
        let grace = if never_reported { config.node_startup_grace_seconds } else { config.node_monitor_grace_seconds };
        let Some(conditions) = (silent_seconds > grace).then(|| silent_conditions(&node, &clock::now())).flatten()
        else {
            if ready_status(&node) == "False" {
                self.mark_pods_not_ready(&node_name).await;
            }
            return node;
        };
        let mut changed = node.as_ref().clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        match self.ctx.connection.all::<Node>().replace_status(&node_name, &PostParams::default(), &changed).await {
            Ok(written) => {
                if was_ready {
                    let message = format!("Node {node_name} status is now: NodeNotReady");
                    self.ctx.events.event(node.as_ref(), EventType::Normal, "NodeNotReady", message);
                }
                self.mark_pods_not_ready(&node_name).await;
                Arc::new(written)
            }
            Err(error) => {
                debug!(node = node_name, error = error.text(), "node status not written");
                node
            }
        }
    }

    /// Seconds since the node was last heard of, by its status or its lease.
    fn listen(&mut self, node: &Node) -> i64 {
        let node_name = name(&node.metadata);
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let heartbeat = conditions
            .filter(|condition| condition.reason.as_deref() != Some("NodeStatusUnknown"))
            .map(|condition| (condition.type_.clone(), condition.last_heartbeat_time.clone(), condition.status.clone()))
            .collect();
        let lease = self.leases.get(&ObjectKey::new("kube-node-lease", node_name));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let never_reported = condition(node, "Ready").is_none() && renewed.is_none();
        let heard = Health { heard_at: Instant::now(), heartbeat, renewed, never_reported };
        let silent = ready_status(node) == "Unknown";
        match self.health.get_mut(node_name) {
            // Our own write of Unknown is no sign of life.
            Some(health) if health.renewed == heard.renewed && (silent || health.heartbeat == heard.heartbeat) => {
                i64::try_from(health.heard_at.elapsed().as_secs()).unwrap_or(i64::MAX)
            }
            _ => {
                self.health.insert(node_name.to_owned(), heard);
                0
            }
        }
    }

    async fn taint(&mut self, node: &Node, rate: f64) {
        let now = clock::now();
        let without_eviction = wanted_taints(node, false, &now);
        let with_eviction = wanted_taints(node, true, &now);
        let limit = self.limits.entry(zone_of(node)).or_insert_with(|| ZoneLimit { tokens: 1.0, at: Instant::now() });
        let evicts = with_eviction != without_eviction && limit.take(rate, Instant::now());
        self.write_taints(node, if evicts { with_eviction } else { without_eviction }).await;
    }

    /// The taints of a node, where they are others than it has. False when somebody else wrote the node meanwhile.
    async fn write_taints(&self, node: &Node, taints: Option<Vec<Taint>>) -> bool {
        let Some(taints) = taints else { return true };
        let change = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version, "uid": node.metadata.uid },
            "spec": { "taints": if taints.is_empty() { None } else { Some(taints) } },
        });
        let api = self.ctx.connection.all::<Node>();
        match api.patch(name(&node.metadata), &PatchParams::default(), &Patch::Merge(change)).await {
            Ok(_) => true,
            Err(error) if error.is_conflict() => false,
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                warn!(node = name(&node.metadata), error = error.text(), "node not tainted");
                true
            }
        }
    }

    /// Services must stop sending to pods of a node that does not answer.
    async fn mark_pods_not_ready(&self, node: &str) {
        for pod in self.pods.by_index("node", node).iter().filter(|pod| pods::is_ready(pod)) {
            let condition = json!({ "type": "Ready", "status": "False", "lastTransitionTime": clock::now() });
            let change = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
            let api = self.ctx.connection.namespaced::<Pod>(namespace(&pod.metadata));
            match api.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Strategic(change)).await {
                Ok(_) => self.ctx.events.event(pod.as_ref(), EventType::Warning, "NodeNotReady", "Node is not ready"),
                Err(error) => debug!(pod = %ObjectKey::of(pod.as_ref()), error = error.text(), "pod not marked"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, unschedulable: bool, taints: &[(&str, &str)]) -> Node {
        let taints: Vec<_> = taints.iter().map(|(key, effect)| json!({ "key": key, "effect": effect })).collect();
        let conditions = if ready.is_empty() { json!([]) } else { json!([{ "type": "Ready", "status": ready }]) };
        let node = json!({
            "metadata": { "name": "n" }, "spec": { "unschedulable": unschedulable, "taints": taints }, "status": { "conditions": conditions },
        });
        serde_json::from_value(node).unwrap()
    }

    fn check(node: &Node, may_evict: bool, expected: Option<&[(&str, &str)]>) {
        let taints = wanted_taints(node, may_evict, &clock::now());
        let pairs = taints
            .map(|taints| taints.iter().map(|taint| (taint.key.clone(), taint.effect.clone())).collect::<Vec<_>>());
        let expected = expected.map(|pairs| {
            pairs.iter().map(|(key, effect)| ((*key).to_owned(), (*effect).to_owned())).collect::<Vec<_>>()
        });
        assert_eq!(pairs, expected);
    }

    #[test]
    fn taints_follow_conditions_and_keep_those_of_others() {
        check(&node("True", false, &[("mine", "NoSchedule")]), true, None);
        check(
            &node("True", false, &[(NOT_READY, "NoSchedule"), ("mine", "NoSchedule")]),
            true,
            Some(&[("mine", "NoSchedule")]),
        );
        check(&node("False", false, &[]), false, Some(&[(NOT_READY, "NoSchedule")]));
        check(&node("Unknown", false, &[]), true, Some(&[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]));
        check(&node("True", true, &[]), false, Some(&[(UNSCHEDULABLE, "NoSchedule")]));
        check(&node("", false, &[(NOT_READY, "NoSchedule")]), true, Some(&[]));
    }

    #[test]
    fn a_silent_node_changes_its_taint_without_waiting_for_a_token() {
        let taints = [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")];
        check(
            &node("Unknown", false, &taints),
            false,
            Some(&[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        );
    }

    #[test]
    fn silence_is_told_in_upstreams_words() {
        let conditions = silent_conditions(&node("True", false, &[]), &clock::now()).unwrap();
        let told: Vec<_> =
            conditions.iter().map(|one| (one.type_.as_str(), one.reason.as_deref().unwrap_or(""))).collect();
        let never = "NodeStatusNeverUpdated";
        assert_eq!(
            told,
            [
                ("Ready", "NodeStatusUnknown"),
                ("MemoryPressure", never),
                ("DiskPressure", never),
                ("PIDPressure", never)
            ]
        );
    }

    #[test]
    fn when_all_zones_are_silent_nothing_is_evicted() {
        let zones =
            |counts: &[(usize, usize)]| counts.iter().enumerate().map(|(n, counts)| (n.to_string(), *counts)).collect();
        assert_eq!(rates(&zones(&[(0, 3), (0, 1)])), [("0".to_owned(), 0.0), ("1".to_owned(), 0.0)].into());
        assert_eq!(rates(&zones(&[(0, 3), (1, 0)])), [("0".to_owned(), 0.1), ("1".to_owned(), 0.1)].into());
        assert_eq!(rates(&zones(&[(20, 40), (4, 6)])), [("0".to_owned(), 0.01), ("1".to_owned(), 0.0)].into());
    }
}
