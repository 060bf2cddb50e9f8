//! InterPodAffinity: places pods near or away from other pods, as their own terms and the terms of pods already placed ask.

use std::collections::HashMap;
use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, MAX_NODE_SCORE,
    Narrowed, Plugin, PreFilter, PreScore, Score, Scoring, Status,
};
use crate::model::labels::Labels;
use crate::model::pod::PodTerm;
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "InterPodAffinity";
const REASON_AFFINITY: &str = "node(s) didn't match pod affinity rules";
const REASON_ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const REASON_EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// Arguments of InterPodAffinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterPodAffinityArgs {
    /// What a required affinity term of a placed pod counts in scores.
    pub hard_pod_affinity_weight: i64,
    /// Whether preferred terms of placed pods are left out for pods without terms of their own.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> InterPodAffinityArgs {
        InterPodAffinityArgs { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

struct InterPodAffinity {
    args: InterPodAffinityArgs,
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(InterPodAffinity { args: args.inter_pod_affinity.clone() });
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin).at_pre_score(&plugin).at_score(&plugin);
}

/// Numbers by topology key and domain. Never holds a zero.
#[derive(Clone, Default)]
struct Domains(HashMap<String, HashMap<String, i64>>);

impl Domains {
    /// Adds to the domain of a node; nothing when the node has no such label.
    fn add(&mut self, key: &str, node: &NodeInfo, by: i64) {
        let Some(domain) = node.facts.labels.get(key).filter(|_| by != 0) else { return };
        let domains = self.0.entry(key.to_owned()).or_default();
        let number = domains.entry(domain.clone()).or_default();
        *number += by;
        if *number == 0 {
            domains.remove(domain);
            if domains.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn get(&self, key: &str, domain: &str) -> i64 {
        self.0.get(key).and_then(|domains| domains.get(domain)).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Pods that matter to the required terms, by domain.
#[derive(Clone, Default)]
struct Required {
    /// Placed pods that do not want the pod in their domain.
    existing_anti: Domains,
    /// Placed pods that satisfy all affinity terms of the pod.
    affinity: Domains,
    /// Placed pods the pod does not want in its domain.
    anti: Domains,
}

impl Required {
    /// Counts one placed pod, `by` 1 or -1.
    fn count(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, snapshot: &Snapshot, by: i64) {
        self.count_existing(pod, other, node, snapshot.namespace_labels(&pod.namespace), by);
        self.count_own(pod, other, node, snapshot.namespace_labels(&other.namespace), by);
    }

    fn count_existing(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, namespace: &Labels, by: i64) {
        for term in other.required_anti_affinity.iter().filter(|term| term.matches(pod, namespace)) {
            self.existing_anti.add(&term.topology_key, node, by);
        }
    }

    fn count_own(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, namespace: &Labels, by: i64) {
        if matches_all(&pod.required_affinity, other, namespace) {
            for term in &pod.required_affinity {
                self.affinity.add(&term.topology_key, node, by);
            }
        }
        for term in pod.required_anti_affinity.iter().filter(|term| term.matches(other, namespace)) {
            self.anti.add(&term.topology_key, node, by);
        }
    }
}

fn matches_all(terms: &[PodTerm], pod: &PodInfo, namespace: &Labels) -> bool {
    !terms.is_empty() && terms.iter().all(|term| term.matches(pod, namespace))
}

/// Whether the pod is the first of a group that wants to be together.
#[derive(Clone)]
struct MatchesItself(bool);

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let pods = ActionType::ADD.and(ActionType::DELETE).and(ActionType::UPDATE_POD_LABEL);
        vec![
            EventHint::judged(EventResource::AssignedPod, pods, relevant_pod_changed),
            EventHint::any(EventResource::TargetPod, ActionType::UPDATE_POD_LABEL),
            EventHint::judged(EventResource::Node, ActionType::ADD.and(ActionType::UPDATE_NODE_LABEL), domain_changed),
        ]
    }
}

fn relevant_pod_changed(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    let EventObject::Pod { old, new } = event else { return Hint::Skip };
    // Labels of namespaces are not at hand here: a term with a namespace selector may always be meant.
    let meant = |terms: &[PodTerm], by: &PodInfo| {
        terms.iter().any(|term| {
            term.selector.matches(&by.labels)
                && (term.namespace_selector.is_some() || term.namespaces.contains(&*by.namespace))
        })
    };
    let arrived = new.is_some_and(|new| meant(&pod.required_affinity, new));
    let left =
        old.is_some_and(|old| meant(&pod.required_anti_affinity, old) || meant(&old.required_anti_affinity, pod));
    if arrived || left { Hint::Queue } else { Hint::Skip }
}

fn domain_changed(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    let EventObject::Node { new, .. } = event else { return Hint::Skip };
    let together = pod.required_affinity.iter().all(|term| new.labels.contains_key(&term.topology_key));
    if together { Hint::Queue } else { Hint::Skip }
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let mut found = Required::default();
        let own_namespace = snapshot.namespace_labels(&pod.namespace);
        for node in snapshot.nodes_with_required_anti_affinity() {
            for other in node.pods.iter().filter(|other| !other.required_anti_affinity.is_empty()) {
                found.count_existing(pod, other, node, own_namespace, 1);
            }
        }
        let has_terms = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        if has_terms {
            for node in snapshot.nodes() {
                for other in &node.pods {
                    found.count_own(pod, other, node, snapshot.namespace_labels(&other.namespace), 1);
                }
            }
        }
        if !has_terms && found.existing_anti.is_empty() {
            return Ok(Narrowed::Skip);
        }
        state.set(found);
        state.set(MatchesItself(matches_all(&pod.required_affinity, pod, own_namespace)));
        Ok(Narrowed::No)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) {
        if let Some(found) = state.get_mut::<Required>() {
            found.count(pod, added, node, snapshot, 1);
        }
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
        snapshot: &Snapshot,
    ) {
        if let Some(found) = state.get_mut::<Required>() {
            found.count(pod, removed, node, snapshot, -1);
        }
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(found) = state.get::<Required>() else { return Ok(()) };
        let labels = &node.facts.labels;
        if !affinity_satisfied(state, found, pod, labels) {
            return Err(Status::unresolvable(NAME, REASON_AFFINITY));
        }
        let disliked = |term: &PodTerm| {
            labels.get(&term.topology_key).is_some_and(|domain| found.anti.get(&term.topology_key, domain) > 0)
        };
        if pod.required_anti_affinity.iter().any(disliked) {
            return Err(Status::unschedulable(NAME, REASON_ANTI_AFFINITY));
        }
        let unwelcome = |key: &String| labels.get(key).is_some_and(|domain| found.existing_anti.get(key, domain) > 0);
        if found.existing_anti.0.keys().any(unwelcome) {
            return Err(Status::unschedulable(NAME, REASON_EXISTING));
        }
        Ok(())
    }
}

fn affinity_satisfied(state: &CycleState, found: &Required, pod: &PodInfo, labels: &Labels) -> bool {
    let mut company = true;
    for term in &pod.required_affinity {
        let Some(domain) = labels.get(&term.topology_key) else { return false };
        company &= found.affinity.get(&term.topology_key, domain) > 0;
    }
    // The first pod of a group that matches its own terms may start the group anywhere.
    company || found.affinity.is_empty() && state.get::<MatchesItself>().is_some_and(|first| first.0)
}

impl PreScore for InterPodAffinity {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, _: &[&NodeInfo]) -> Scoring {
        let has_preferred = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
        if !has_preferred && self.args.ignore_preferred_terms_of_existing_pods {
            return Scoring::Skip;
        }
        let mut scores = Domains::default();
        let own_namespace = snapshot.namespace_labels(&pod.namespace);
        let mut count = |node: &NodeInfo, other: &PodInfo| {
            let namespace = snapshot.namespace_labels(&other.namespace);
            for (terms, sign) in [(&pod.preferred_affinity, 1), (&pod.preferred_anti_affinity, -1)] {
                for wish in terms.iter().filter(|wish| wish.term.matches(other, namespace)) {
                    scores.add(&wish.term.topology_key, node, sign * wish.weight);
                }
            }
            for term in other.required_affinity.iter().filter(|term| term.matches(pod, own_namespace)) {
                scores.add(&term.topology_key, node, self.args.hard_pod_affinity_weight);
            }
            for (terms, sign) in [(&other.preferred_affinity, 1), (&other.preferred_anti_affinity, -1)] {
                for wish in terms.iter().filter(|wish| wish.term.matches(pod, own_namespace)) {
                    scores.add(&wish.term.topology_key, node, sign * wish.weight);
                }
            }
        };
        if has_preferred {
            for node in snapshot.nodes() {
                node.pods.iter().for_each(|other| count(node, other));
            }
        } else {
            for node in snapshot.nodes_with_affinity() {
                node.pods.iter().filter(|other| other.has_pod_affinity()).for_each(|other| count(node, other));
            }
        }
        if scores.is_empty() {
            return Scoring::Skip;
        }
        state.set(scores);
        Scoring::Needed
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let Some(scores) = state.get::<Domains>() else { return 0 };
        let of_key = |(key, domains): (&String, &HashMap<String, i64>)| {
            node.facts.labels.get(key).and_then(|domain| domains.get(domain)).copied().unwrap_or(0)
        };
        scores.0.iter().map(of_key).sum()
    }

    fn normalize(&self, _: &CycleState, _: &[&NodeInfo], scores: &mut [i64]) {
        let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            *score = if most > least { MAX_NODE_SCORE * (*score - least) / (most - least) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, pod};
    use serde_json::{Value, json};

    const PLUGIN: InterPodAffinity = InterPodAffinity {
        args: InterPodAffinityArgs { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false },
    };

    fn labelled(uid: &str, app: &str, affinity: Value) -> Arc<PodInfo> {
        pod(json!({"metadata": {"name": uid, "uid": uid, "namespace": "d", "labels": {"app": app}},
            "spec": {"containers": [], "affinity": affinity}}))
    }

    fn term(app: &str) -> Value {
        json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn snapshot() -> Snapshot {
        cluster(&[
            json!({"metadata": {"name": "a", "labels": {"zone": "z1"}}}),
            json!({"metadata": {"name": "b", "labels": {"zone": "z2"}}}),
        ])
    }

    fn verdicts(snapshot: &Snapshot, wish: &PodInfo) -> Vec<Result<(), String>> {
        let mut state = CycleState::default();
        PLUGIN.pre_filter(&mut state, wish, snapshot).unwrap();
        snapshot.nodes().map(|node| PLUGIN.filter(&state, wish, node).map_err(|status| status.message())).collect()
    }

    #[test]
    fn required_affinity_wants_company_except_for_the_first_of_a_group() {
        let mut snapshot = snapshot();
        let near = |app: &str, other: &str| {
            labelled(
                "p",
                app,
                json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(other)]}}),
            )
        };
        assert_eq!(verdicts(&snapshot, &near("web", "web")), [Ok(()), Ok(())]);
        let lonely = Err(REASON_AFFINITY.to_owned());
        assert_eq!(verdicts(&snapshot, &near("web", "db")), [lonely.clone(), lonely.clone()]);
        snapshot.add_pod("b", labelled("db", "db", json!({})));
        assert_eq!(verdicts(&snapshot, &near("web", "db")), [lonely, Ok(())]);
    }

    #[test]
    fn anti_affinity_works_in_both_directions() {
        let away =
            |app: &str| json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(app)]}});
        let mut crowd = snapshot();
        crowd.add_pod("a", labelled("x", "web", json!({})));
        let wish = labelled("p", "web", away("web"));
        assert_eq!(verdicts(&crowd, &wish), [Err(REASON_ANTI_AFFINITY.to_owned()), Ok(())]);
        let mut hermit = snapshot();
        hermit.add_pod("a", labelled("x", "db", away("web")));
        let wish = labelled("p", "web", json!({}));
        assert_eq!(verdicts(&hermit, &wish), [Err(REASON_EXISTING.to_owned()), Ok(())]);
    }

    #[test]
    fn preferred_terms_move_the_score_both_ways() {
        let mut snapshot = snapshot();
        snapshot.add_pod("a", labelled("x", "web", json!({})));
        let wish = labelled(
            "p",
            "web",
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "podAffinityTerm": term("web")}]}}),
        );
        let mut state = CycleState::default();
        let nodes: Vec<&NodeInfo> = snapshot.nodes().collect();
        assert_eq!(PLUGIN.pre_score(&mut state, &wish, &snapshot, &nodes), Scoring::Needed);
        let mut scores: Vec<i64> = nodes.iter().map(|node| PLUGIN.score(&state, &wish, &snapshot, node)).collect();
        assert_eq!(scores, [-10, 0]);
        PLUGIN.normalize(&state, &nodes, &mut scores);
        assert_eq!(scores, [0, 100]);
    }
}
