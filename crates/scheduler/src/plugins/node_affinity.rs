//! NodeAffinity: nodeSelector and node affinity, required and preferred, plus affinity the configuration adds to every pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{PluginArgs, normalize};
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, Narrowed, Plugin,
    PreFilter, PreScore, Score, Scoring, Status,
};
use crate::model::labels::NodeTerm;
use crate::model::{NodeFacts, NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "NodeAffinity";
const REASON_POD: &str = "node(s) didn't match Pod's node affinity/selector";
const REASON_ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";
const REASON_CONFLICT: &str = "pod affinity terms conflict";

/// Arguments of NodeAffinity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeAffinityArgs {
    /// Node affinity added to that of every pod.
    pub added_affinity: Option<core::NodeAffinity>,
}

struct NodeAffinity {
    added_required: Option<Vec<NodeTerm>>,
    added_preferred: Vec<(i64, NodeTerm)>,
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    let added = args.node_affinity.added_affinity.as_ref();
    let plugin = Arc::new(NodeAffinity {
        added_required: added
            .and_then(|added| added.required_during_scheduling_ignored_during_execution.as_ref())
            .map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
        added_preferred: added
            .and_then(|added| added.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|term| (term.weight.into(), NodeTerm::new(&term.preference)))
            .collect(),
    });
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin).at_pre_score(&plugin).at_score(&plugin);
}

impl NodeAffinity {
    fn added_accepts(&self, node: &NodeFacts) -> bool {
        self.added_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let node = ActionType::ADD.and(ActionType::UPDATE_NODE_LABEL);
        vec![EventHint::judged(EventResource::Node, node, node_became_suitable)]
    }
}

fn node_became_suitable(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    match event {
        EventObject::Node { old, new } => {
            let before = old.is_some_and(|old| pod.accepts_node(&old.name, &old.labels));
            if !before && pod.accepts_node(&new.name, &new.labels) { Hint::Queue } else { Hint::Skip }
        }
        _ => Hint::Skip,
    }
}

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<Narrowed, Status> {
        if pod.node_selector.is_none() && pod.required_node_terms.is_none() && self.added_required.is_none() {
            return Ok(Narrowed::Skip);
        }
        // Only when every alternative names nodes is the pod limited to the names.
        let mut names: BTreeSet<String> = BTreeSet::new();
        for term in pod.required_node_terms.iter().flatten() {
            match term.only_names() {
                Some(only) => names.extend(only),
                None => return Ok(Narrowed::No),
            }
        }
        match &pod.required_node_terms {
            Some(terms) if !terms.is_empty() && names.is_empty() => Err(Status::unresolvable(NAME, REASON_CONFLICT)),
            Some(terms) if !terms.is_empty() => Ok(Narrowed::To(names)),
            _ => Ok(Narrowed::No),
        }
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        if !self.added_accepts(&node.facts) {
            return Err(Status::unresolvable(NAME, REASON_ENFORCED));
        }
        if !pod.accepts_node(node.name(), &node.facts.labels) {
            return Err(Status::unresolvable(NAME, REASON_POD));
        }
        Ok(())
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot, _: &[&NodeInfo]) -> Scoring {
        let nothing = pod.preferred_node_terms.is_empty() && self.added_preferred.is_empty();
        if nothing { Scoring::Skip } else { Scoring::Needed }
    }
}

impl Score for NodeAffinity {
    fn score(&self, _: &CycleState, pod: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let own = pod.preferred_node_terms.iter().map(|preferred| (preferred.weight, &preferred.term));
        let added = self.added_preferred.iter().map(|(weight, term)| (*weight, term));
        own.chain(added)
            .filter(|(_, term)| term.matches(node.name(), &node.facts.labels))
            .map(|(weight, _)| weight)
            .sum()
    }

    fn normalize(&self, _: &CycleState, _: &[&NodeInfo], scores: &mut [i64]) {
        normalize::by_largest(scores, false);
    }
}
