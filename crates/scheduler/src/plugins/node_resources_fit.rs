//! NodeResourcesFit: a pod fits when the node has room for all it requests; scores by how full the node gets.

use std::borrow::Cow;
use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{
    ActionType, Code, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, MAX_NODE_SCORE,
    Narrowed, Plugin, PreFilter, Reasons, Score, Status,
};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "NodeResourcesFit";

/// A resource and how much it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceWeight {
    pub name: String,
    pub weight: i64,
}

/// One point of the curve from utilization (percent) to score (0 to 10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapePoint {
    pub utilization: i64,
    pub score: i64,
}

/// How a node's fullness becomes a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScoringStrategy {
    LeastAllocated,
    MostAllocated,
    /// Points in order of utilization; at least one.
    RequestedToCapacityRatio(Vec<ShapePoint>),
}

/// Arguments of NodeResourcesFit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeResourcesFitArgs {
    /// Extended resources the filter does not look at.
    pub ignored_resources: Vec<String>,
    /// Prefixes (before the slash) of extended resources the filter does not look at.
    pub ignored_resource_groups: Vec<String>,
    pub scoring_strategy: ScoringStrategy,
    pub resources: Vec<ResourceWeight>,
}

impl Default for NodeResourcesFitArgs {
    fn default() -> NodeResourcesFitArgs {
        NodeResourcesFitArgs {
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
            scoring_strategy: ScoringStrategy::LeastAllocated,
            resources: cpu_and_memory(),
        }
    }
}

/// CPU and memory, each with weight 1.
pub(super) fn cpu_and_memory() -> Vec<ResourceWeight> {
    ["cpu", "memory"].map(|name| ResourceWeight { name: name.into(), weight: 1 }).into()
}

struct NodeResourcesFit {
    args: NodeResourcesFitArgs,
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(NodeResourcesFit { args: args.node_resources_fit.clone() });
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin).at_score(&plugin);
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let freed = ActionType::DELETE.and(ActionType::UPDATE_POD_SCALE_DOWN);
        let node = ActionType::ADD.and(ActionType::UPDATE_NODE_ALLOCATABLE);
        vec![
            EventHint::any(EventResource::AssignedPod, freed),
            EventHint::any(EventResource::TargetPod, ActionType::UPDATE_POD_SCALE_DOWN),
            EventHint::judged(EventResource::Node, node, node_is_large_enough),
            EventHint::any(EventResource::DeviceClass, ActionType::ADD.and(ActionType::UPDATE_OTHER)),
        ]
    }
}

fn node_is_large_enough(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    let EventObject::Node { new, .. } = event else { return Hint::Skip };
    let (want, have) = (&pod.requests, &new.allocatable);
    let fits = have.pods > 0
        && want.milli_cpu <= have.milli_cpu
        && want.memory <= have.memory
        && want.ephemeral_storage <= have.ephemeral_storage
        // What the node does not have itself, devices may give.
        && want.scalar.iter().all(|(name, amount)| have.amount(name) == 0 || *amount <= have.amount(name));
    if fits { Hint::Queue } else { Hint::Skip }
}

/// Extended resources of the pod that device classes stand behind: nodes that do not have them may have the devices, which is
/// for DynamicResources to say.
#[derive(Clone, Default)]
struct Delegated(Vec<Arc<str>>);

impl PreFilter for NodeResourcesFit {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let backed = |name: &&Arc<str>| snapshot.devices.class_behind(name).is_some();
        let backed: Vec<_> = pod.requests.scalar.keys().filter(backed).cloned().collect();
        if !backed.is_empty() {
            state.set(Delegated(backed));
        }
        Ok(Narrowed::No)
    }
}

/// Reasons a node is too full, and whether even an empty node would be.
#[derive(Default)]
struct Shortage {
    reasons: Vec<Cow<'static, str>>,
    unresolvable: bool,
}

impl Shortage {
    fn check(&mut self, reason: impl FnOnce() -> Cow<'static, str>, want: i64, used: i64, allocatable: i64) {
        if want > 0 && want > allocatable.saturating_sub(used) {
            self.reasons.push(reason());
            self.unresolvable |= want > allocatable;
        }
    }
}

impl NodeResourcesFit {
    fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        self.args.ignored_resources.iter().any(|name| name == resource)
            || self.args.ignored_resource_groups.iter().any(|prefix| prefix == group)
    }

    fn shortage(&self, delegated: &[Arc<str>], pod: &PodInfo, node: &NodeInfo) -> Shortage {
        let (want, used, have) = (&pod.requests, &node.requested, &node.facts.allocatable);
        let mut shortage = Shortage::default();
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX).saturating_add(1) > have.pods {
            shortage.reasons.push("Too many pods".into());
        }
        shortage.check(|| "Insufficient cpu".into(), want.milli_cpu, used.milli_cpu, have.milli_cpu);
        shortage.check(|| "Insufficient memory".into(), want.memory, used.memory, have.memory);
        shortage.check(
            || "Insufficient ephemeral-storage".into(),
            want.ephemeral_storage,
            used.ephemeral_storage,
            have.ephemeral_storage,
        );
        for (name, amount) in &want.scalar {
            let is_delegated = have.amount(name) == 0 && delegated.contains(name);
            if !is_delegated && !self.ignores(name) {
                shortage.check(|| format!("Insufficient {name}").into(), *amount, used.amount(name), have.amount(name));
            }
        }
        shortage
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let delegated = state.get::<Delegated>().map_or(&[][..], |delegated| &delegated.0);
        let shortage = self.shortage(delegated, pod, node);
        if shortage.reasons.is_empty() {
            return Ok(());
        }
        let code = if shortage.unresolvable { Code::UnschedulableAndUnresolvable } else { Code::Unschedulable };
        Err(Status { code, reasons: Reasons::Many(shortage.reasons), plugin: NAME })
    }
}

/// What the pod asks, the node has given away and can give, of one resource. CPU and memory with defaults when `assumed`.
pub(super) fn usage(pod: &PodInfo, node: &NodeInfo, resource: &str, assumed: bool) -> (i64, i64, i64) {
    let allocatable = node.facts.allocatable.amount(resource);
    let (want, used) = match resource {
        "cpu" if assumed => (pod.non_zero.milli_cpu, node.non_zero_requested.milli_cpu),
        "memory" if assumed => (pod.non_zero.memory, node.non_zero_requested.memory),
        other => (pod.requests.amount(other), node.requested.amount(other)),
    };
    (want, used, allocatable)
}

impl Score for NodeResourcesFit {
    fn score(&self, _: &CycleState, pod: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let (mut total, mut weights) = (0, 0);
        let ratio = matches!(self.args.scoring_strategy, ScoringStrategy::RequestedToCapacityRatio(_));
        for resource in &self.args.resources {
            let (want, used, allocatable) = usage(pod, node, &resource.name, true);
            let is_scalar = !matches!(resource.name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if allocatable == 0 || is_scalar && want == 0 {
                continue;
            }
            let score = strategy_score(&self.args.scoring_strategy, want + used, allocatable);
            if ratio && score == 0 {
                continue;
            }
            total += score * resource.weight;
            weights += resource.weight;
        }
        match (weights, ratio) {
            (0, _) => 0,
            (_, false) => total / weights,
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
            (_, true) => (total as f64 / weights as f64).round() as i64,
        }
    }
}

fn strategy_score(strategy: &ScoringStrategy, requested: i64, allocatable: i64) -> i64 {
    match strategy {
        ScoringStrategy::LeastAllocated if requested > allocatable => 0,
        ScoringStrategy::LeastAllocated => scaled(allocatable - requested, allocatable),
        ScoringStrategy::MostAllocated => scaled(requested.min(allocatable), allocatable),
        ScoringStrategy::RequestedToCapacityRatio(shape) => {
            let utilization = if requested > allocatable { 100 } else { scaled(requested, allocatable) };
            on_shape(shape, utilization)
        }
    }
}

/// `part / whole` in hundredths, without overflow for large memories; wide division, which is slow, only for those.
fn scaled(part: i64, whole: i64) -> i64 {
    match part.checked_mul(MAX_NODE_SCORE) {
        Some(hundredfold) => hundredfold / whole,
        None => i64::try_from(i128::from(part) * i128::from(MAX_NODE_SCORE) / i128::from(whole)).unwrap_or(i64::MAX),
    }
}

/// The curve's value, 0 to 100; linear between points.
fn on_shape(shape: &[ShapePoint], utilization: i64) -> i64 {
    const SCALE: i64 = MAX_NODE_SCORE / 10;
    let Some(at) = shape.iter().position(|point| utilization <= point.utilization) else {
        return shape.last().map_or(0, |point| point.score * SCALE);
    };
    let right = &shape[at];
    let Some(left) = at.checked_sub(1).map(|at| &shape[at]) else { return right.score * SCALE };
    let (from, to) = (left.score * SCALE, right.score * SCALE);
    from + (to - from) * (utilization - left.utilization) / (right.utilization - left.utilization).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, pod};
    use serde_json::{Value, json};

    fn machine(cpu: &str, memory: &str) -> Value {
        json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "2"}}})
    }

    fn asking(requests: Value) -> Arc<PodInfo> {
        pod(json!({"metadata": {"name": "p", "uid": "p"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": requests}}]}}))
    }

    fn plugin(strategy: ScoringStrategy) -> NodeResourcesFit {
        NodeResourcesFit {
            args: NodeResourcesFitArgs { scoring_strategy: strategy, ..NodeResourcesFitArgs::default() },
        }
    }

    #[test]
    fn what_a_class_stands_behind_is_left_to_devices() {
        let mut snapshot = cluster(&[machine("1", "1Gi")]);
        let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}});
        let mut devices = crate::model::devices::Devices::default();
        let class = crate::model::devices::DeviceClass::new(&serde_json::from_value(class).unwrap());
        devices.classes.insert("gpu".into(), Arc::new(class));
        let fit = plugin(ScoringStrategy::LeastAllocated);
        let wish = asking(json!({"example.com/gpu": "1"}));
        for (devices, expected) in [(crate::model::devices::Devices::default(), false), (devices, true)] {
            snapshot.devices = Arc::new(devices);
            let mut state = CycleState::default();
            assert_eq!(fit.pre_filter(&mut state, &wish, &snapshot), Ok(Narrowed::No));
            assert_eq!(fit.filter(&state, &wish, snapshot.at(0)).is_ok(), expected);
        }
    }

    #[test]
    fn every_missing_resource_is_named() {
        let mut snapshot = cluster(&[machine("1", "1Gi")]);
        snapshot.add_pod("n", asking(json!({"cpu": "600m"})));
        let fit = plugin(ScoringStrategy::LeastAllocated);
        let wish = asking(json!({"cpu": "500m", "memory": "2Gi", "example.com/gpu": "1"}));
        let status = fit.filter(&CycleState::default(), &wish, snapshot.at(0)).unwrap_err();
        let expected = ["Insufficient cpu", "Insufficient memory", "Insufficient example.com/gpu"];
        assert_eq!(status.reasons.as_slice(), expected);
        assert_eq!(status.code, Code::UnschedulableAndUnresolvable);
        let small = asking(json!({"cpu": "500m"}));
        let status = fit.filter(&CycleState::default(), &small, snapshot.at(0)).unwrap_err();
        assert_eq!(status.code, Code::Unschedulable);
    }

    #[test]
    fn a_node_takes_no_more_pods_than_it_allows() {
        let mut snapshot = cluster(&[machine("1", "1Gi")]);
        for uid in ["a", "b"] {
            snapshot.add_pod("n", pod(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": []}})));
        }
        let fit = plugin(ScoringStrategy::LeastAllocated);
        let status = fit.filter(&CycleState::default(), &asking(json!({})), snapshot.at(0)).unwrap_err();
        assert_eq!(status.reasons.as_slice(), ["Too many pods"]);
    }

    #[test]
    fn strategies_turn_fullness_into_scores() {
        let snapshot = cluster(&[machine("4", "10Gi")]);
        let wish = asking(json!({"cpu": "1", "memory": "5Gi"}));
        let shape = vec![ShapePoint { utilization: 0, score: 0 }, ShapePoint { utilization: 100, score: 10 }];
        for (strategy, expected) in [
            (ScoringStrategy::LeastAllocated, 62),
            (ScoringStrategy::MostAllocated, 37),
            (ScoringStrategy::RequestedToCapacityRatio(shape), 38),
        ] {
            let score = plugin(strategy.clone()).score(&CycleState::default(), &wish, &snapshot, snapshot.at(0));
            assert_eq!(score, expected, "{strategy:?}");
        }
    }
}
