//! PodTopologySpread: keeps matching pods evenly spread over zones, nodes or other domains.
//!
//! `DoNotSchedule` constraints filter, `ScheduleAnyway` constraints score. Pods without constraints of their own that belong to a
//! service or controller get upstream's default constraints when scored.

use std::collections::HashMap;
use std::sync::Arc;

use super::{PluginArgs, taint_toleration};
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, MAX_NODE_SCORE,
    Narrowed, Plugin, PreFilter, PreScore, Score, Scoring, Status,
};
use crate::model::class::Takes;
use crate::model::node::{HOSTNAME, ZONE};
use crate::model::pod::SpreadConstraint;
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "PodTopologySpread";
const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// Topology key and skew of the default constraints.
const DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

struct PodTopologySpread;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(PodTopologySpread);
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin).at_pre_score(&plugin).at_score(&plugin);
}

/// Matching pods per domain, one map per hard constraint (in the pod's order).
#[derive(Clone)]
struct Hard {
    counts: Vec<HashMap<String, i64>>,
    least: Vec<i64>,
}

impl Hard {
    fn settle(&mut self) {
        self.least = self.counts.iter().map(|domains| domains.values().copied().min().unwrap_or(0)).collect();
    }
}

/// What scoring needs: the constraints, their weights, and the count per domain.
#[derive(Clone)]
struct Soft {
    constraints: Vec<SpreadConstraint>,
    /// Whether a node without one of the topology keys is left out.
    all_keys_required: bool,
    weights: Vec<f64>,
    /// Empty for the hostname, which is counted per node.
    counts: Vec<HashMap<String, i64>>,
    takes: Vec<Takes>,
}

fn hard(pod: &PodInfo) -> impl Iterator<Item = &SpreadConstraint> {
    pod.spread.iter().filter(|constraint| constraint.do_not_schedule)
}

fn has_keys<'a>(node: &NodeInfo, mut constraints: impl Iterator<Item = &'a SpreadConstraint>) -> bool {
    constraints.all(|constraint| node.facts.domain(&constraint.topology_key).is_some())
}

/// Whether the constraint's policies let this node count for this pod.
fn included(constraint: &SpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    if constraint.honor_affinity && !pod.accepts_node(node.name(), &node.facts.labels) {
        return false;
    }
    !constraint.honor_taints || taint_toleration::first_untolerated(&node.facts.taints, &pod.tolerations).is_none()
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let pods = ActionType::ADD.and(ActionType::DELETE).and(ActionType::UPDATE_POD_LABEL);
        let nodes = ActionType::ADD
            .and(ActionType::DELETE)
            .and(ActionType::UPDATE_NODE_LABEL)
            .and(ActionType::UPDATE_NODE_TAINT);
        vec![
            EventHint::judged(EventResource::AssignedPod, pods, matching_pod_changed),
            EventHint::any(EventResource::TargetPod, ActionType::UPDATE_POD_LABEL),
            EventHint::judged(EventResource::Node, nodes, domain_changed),
        ]
    }
}

fn matching_pod_changed(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    let EventObject::Pod { old, new } = event else { return Hint::Skip };
    let matches = |other: &&PodInfo| {
        other.namespace == pod.namespace && hard(pod).any(|constraint| constraint.selector.matches(&other.labels))
    };
    if old.iter().chain(new.iter()).any(matches) { Hint::Queue } else { Hint::Skip }
}

fn domain_changed(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    let EventObject::Node { old, new } = event else { return Hint::Skip };
    let counts = |facts: &crate::model::NodeFacts| hard(pod).all(|c| facts.labels.contains_key(&c.topology_key));
    if counts(new) || old.is_some_and(counts) { Hint::Queue } else { Hint::Skip }
}

impl PreFilter for PodTopologySpread {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let constraints: Vec<&SpreadConstraint> = hard(pod).collect();
        if constraints.is_empty() {
            return Ok(Narrowed::Skip);
        }
        let mut found = Hard { counts: vec![HashMap::new(); constraints.len()], least: Vec::new() };
        let mut takes = vec![Takes::default(); constraints.len()];
        for node in snapshot.nodes().filter(|node| has_keys(node, hard(pod))) {
            for ((constraint, domains), takes) in constraints.iter().zip(&mut found.counts).zip(&mut takes) {
                let Some(domain) = node.facts.domain(&constraint.topology_key) else { continue };
                if included(constraint, pod, node) {
                    raise(domains, domain, takes.count(node, &pod.namespace, &constraint.selector));
                }
            }
        }
        found.settle();
        state.set(found);
        Ok(Narrowed::No)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo, _: &Snapshot) {
        adjust(state, pod, added, node, 1);
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, removed: &PodInfo, node: &NodeInfo, _: &Snapshot) {
        adjust(state, pod, removed, node, -1);
    }
}

fn raise(domains: &mut HashMap<String, i64>, domain: &str, by: i64) {
    match domains.get_mut(domain) {
        Some(count) => *count += by,
        None => drop(domains.insert(domain.to_owned(), by)),
    }
}

fn adjust(state: &mut CycleState, pod: &PodInfo, changed: &PodInfo, node: &NodeInfo, by: i64) {
    let Some(found) = state.get_mut::<Hard>() else { return };
    if changed.namespace != pod.namespace || !has_keys(node, hard(pod)) {
        return;
    }
    for (constraint, domains) in hard(pod).zip(&mut found.counts) {
        let Some(domain) = node.facts.domain(&constraint.topology_key) else { continue };
        if constraint.selector.matches(&changed.labels) && included(constraint, pod, node) {
            raise(domains, domain, by);
        }
    }
    found.settle();
}

impl Filter for PodTopologySpread {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(found) = state.get::<Hard>() else { return Ok(()) };
        for ((constraint, domains), least) in hard(pod).zip(&found.counts).zip(&found.least) {
            let Some(domain) = node.facts.domain(&constraint.topology_key) else {
                return Err(Status::unresolvable(NAME, REASON_LABEL));
            };
            let too_few = i64::try_from(domains.len()).unwrap_or(i64::MAX) < constraint.min_domains;
            let least = if too_few { 0 } else { *least };
            let itself = i64::from(constraint.selector.matches(&pod.labels));
            let count = domains.get(domain).copied().unwrap_or(0);
            if count + itself - least > constraint.max_skew {
                return Err(Status::unschedulable(NAME, REASON));
            }
        }
        Ok(())
    }
}

/// The soft constraints of a pod: its own, or the defaults when it belongs to something with a selector.
fn soft(pod: &PodInfo, snapshot: &Snapshot) -> Vec<SpreadConstraint> {
    if !pod.spread.is_empty() {
        return pod.spread.iter().filter(|constraint| !constraint.do_not_schedule).cloned().collect();
    }
    let Some(selector) = snapshot.default_selector(pod) else { return Vec::new() };
    DEFAULTS
        .iter()
        .map(|(key, max_skew)| SpreadConstraint {
            max_skew: *max_skew,
            topology_key: (*key).to_owned(),
            do_not_schedule: false,
            selector: selector.clone(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        })
        .collect()
}

impl PreScore for PodTopologySpread {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Scoring {
        let constraints = soft(pod, snapshot);
        if constraints.is_empty() {
            return Scoring::Skip;
        }
        let all_keys_required = !pod.spread.is_empty();
        let mut counts: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        let mut takes = vec![Takes::default(); constraints.len()];
        let mut considered = 0u32;
        for node in nodes {
            if all_keys_required && !has_keys(node, constraints.iter()) {
                continue;
            }
            considered += 1;
            for ((constraint, domains), takes) in constraints.iter().zip(&mut counts).zip(&mut takes) {
                if constraint.topology_key == HOSTNAME {
                    takes.count(node, &pod.namespace, &constraint.selector);
                } else {
                    raise(domains, node.facts.domain(&constraint.topology_key).unwrap_or_default(), 0);
                }
            }
        }
        let weights = constraints
            .iter()
            .zip(&counts)
            .map(|(constraint, domains)| {
                let per_node = constraint.topology_key == HOSTNAME;
                let size = if per_node { considered } else { u32::try_from(domains.len()).unwrap_or(u32::MAX) };
                (f64::from(size) + 2.0).ln()
            })
            .collect();
        if constraints.iter().any(|constraint| constraint.topology_key != HOSTNAME) {
            for node in snapshot.nodes() {
                if all_keys_required && !has_keys(node, constraints.iter()) {
                    continue;
                }
                for ((constraint, domains), takes) in constraints.iter().zip(&mut counts).zip(&mut takes) {
                    if constraint.topology_key == HOSTNAME {
                        continue;
                    }
                    let Some(domain) = node.facts.domain(&constraint.topology_key) else { continue };
                    let Some(count) = domains.get_mut(domain) else { continue };
                    if included(constraint, pod, node) {
                        *count += takes.count(node, &pod.namespace, &constraint.selector);
                    }
                }
            }
        }
        state.set(Soft { constraints, all_keys_required, weights, counts, takes });
        Scoring::Needed
    }
}

impl Score for PodTopologySpread {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    fn score(&self, state: &CycleState, _: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let Some(soft) = state.get::<Soft>() else { return 0 };
        if soft.all_keys_required && !has_keys(node, soft.constraints.iter()) {
            return 0;
        }
        let mut score = 0.0;
        let counts = soft.counts.iter().zip(&soft.takes);
        for ((constraint, (domains, takes)), weight) in soft.constraints.iter().zip(counts).zip(&soft.weights) {
            let Some(domain) = node.facts.domain(&constraint.topology_key) else { continue };
            let count = if constraint.topology_key == HOSTNAME {
                takes.counted(node)
            } else {
                domains.get(domain).copied().unwrap_or(0)
            };
            score += count as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, state: &CycleState, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let Some(soft) = state.get::<Soft>() else { return };
        let ignored = |node: &NodeInfo| soft.all_keys_required && !has_keys(node, soft.constraints.iter());
        let counted = nodes.iter().zip(scores.iter()).filter(|(node, _)| !ignored(node)).map(|(_, score)| *score);
        let (least, most) = counted.fold((i64::MAX, 0), |(least, most), score| (least.min(score), most.max(score)));
        for (node, score) in nodes.iter().zip(scores) {
            *score = match most {
                _ if ignored(node) => 0,
                0 => MAX_NODE_SCORE,
                most => MAX_NODE_SCORE * (most + least - *score) / most,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, pod};
    use serde_json::{Value, json};

    fn zone(name: &str, zone: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"zone": zone, HOSTNAME: name}}})
    }

    fn web(uid: &str, constraint: Option<Value>) -> Arc<PodInfo> {
        let constraints: Vec<Value> = constraint.into_iter().collect();
        pod(json!({"metadata": {"name": uid, "uid": uid, "namespace": "d", "labels": {"app": "web"}},
            "spec": {"containers": [], "topologySpreadConstraints": constraints}}))
    }

    fn constraint(when: &str) -> Value {
        json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}})
    }

    #[test]
    fn hard_constraint_keeps_the_skew_within_bounds() {
        let mut snapshot = cluster(&[zone("a", "z1"), zone("b", "z2"), json!({"metadata": {"name": "nowhere"}})]);
        snapshot.add_pod("a", web("x", None));
        let wish = web("y", Some(constraint("DoNotSchedule")));
        let mut state = CycleState::default();
        assert_eq!(PodTopologySpread.pre_filter(&mut state, &wish, &snapshot), Ok(Narrowed::No));
        let verdict = |state: &CycleState, name: &str| {
            PodTopologySpread.filter(state, &wish, snapshot.node(name).unwrap()).map_err(|status| status.message())
        };
        assert_eq!(verdict(&state, "a"), Err(REASON.into()));
        assert_eq!(verdict(&state, "b"), Ok(()));
        assert_eq!(verdict(&state, "nowhere"), Err(REASON_LABEL.into()));
        let node = snapshot.node("a").unwrap();
        PodTopologySpread.remove_pod(&mut state, &wish, &node.pods[0], node, &snapshot);
        assert_eq!(verdict(&state, "a"), Ok(()));
    }

    #[test]
    fn soft_constraint_prefers_the_emptier_zone() {
        let mut snapshot = cluster(&[zone("a", "z1"), zone("b", "z2"), zone("c", "z2")]);
        snapshot.add_pod("a", web("x", None));
        let wish = web("y", Some(constraint("ScheduleAnyway")));
        let mut state = CycleState::default();
        let nodes: Vec<&NodeInfo> = snapshot.nodes().collect();
        assert_eq!(PodTopologySpread.pre_score(&mut state, &wish, &snapshot, &nodes), Scoring::Needed);
        let mut scores: Vec<i64> =
            nodes.iter().map(|node| PodTopologySpread.score(&state, &wish, &snapshot, node)).collect();
        PodTopologySpread.normalize(&state, &nodes, &mut scores);
        assert_eq!(scores, [0, 100, 100]);
    }
}
