//! TaintToleration: keeps pods off nodes whose taints they do not tolerate, and prefers nodes with fewer soft taints.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{PluginArgs, normalize};
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, Plugin, PreScore,
    Score, Scoring, Status,
};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "TaintToleration";
const REASON: &str = "node(s) had untolerated taint(s)";

struct TaintToleration;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(TaintToleration);
    points.listen(&plugin).at_filter(&plugin).at_pre_score(&plugin).at_score(&plugin);
}

/// Whether a toleration covers a taint. An empty key tolerates every key, an empty effect every effect.
pub(super) fn tolerates(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let wanted_effect = toleration.effect.as_deref().unwrap_or_default();
    let wanted_key = toleration.key.as_deref().unwrap_or_default();
    if !wanted_effect.is_empty() && wanted_effect != effect || !wanted_key.is_empty() && wanted_key != key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == value,
        "Exists" => true,
        _ => false,
    }
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    let value = taint.value.as_deref().unwrap_or_default();
    tolerations.iter().any(|toleration| tolerates(toleration, &taint.key, value, &taint.effect))
}

/// The first hard taint without a toleration.
pub(super) fn first_untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints.iter().find(|taint| taint.effect != "PreferNoSchedule" && !tolerated(tolerations, taint))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let node = ActionType::ADD.and(ActionType::UPDATE_NODE_TAINT);
        vec![
            EventHint::judged(EventResource::Node, node, node_became_tolerable),
            EventHint::any(EventResource::TargetPod, ActionType::UPDATE_POD_TOLERATION),
        ]
    }
}

fn node_became_tolerable(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    let EventObject::Node { old, new } = event else { return Hint::Skip };
    let was_untolerated = old.is_none_or(|old| first_untolerated(&old.taints, &pod.tolerations).is_some());
    let is_tolerated = first_untolerated(&new.taints, &pod.tolerations).is_none();
    if was_untolerated && is_tolerated { Hint::Queue } else { Hint::Skip }
}

impl Filter for TaintToleration {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        match first_untolerated(&node.facts.taints, &pod.tolerations) {
            None => Ok(()),
            Some(_) => Err(Status::unresolvable(NAME, REASON)),
        }
    }
}

impl PreScore for TaintToleration {
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, snapshot: &Snapshot, _: &[&NodeInfo]) -> Scoring {
        // Without soft taints every node would score the same.
        if snapshot.has_prefer_no_schedule_taints() { Scoring::Needed } else { Scoring::Skip }
    }
}

impl Score for TaintToleration {
    fn score(&self, _: &CycleState, pod: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let soft = |toleration: &&Toleration| {
            matches!(toleration.effect.as_deref().unwrap_or_default(), "" | "PreferNoSchedule")
        };
        let intolerable = |taint: &&Taint| {
            let value = taint.value.as_deref().unwrap_or_default();
            taint.effect == "PreferNoSchedule"
                && !pod.tolerations.iter().filter(soft).any(|t| tolerates(t, &taint.key, value, &taint.effect))
        };
        i64::try_from(node.facts.taints.iter().filter(intolerable).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _: &CycleState, _: &[&NodeInfo], scores: &mut [i64]) {
        normalize::by_largest(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn toleration(value: serde_json::Value) -> Toleration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        for (value, key, taint_value, effect, expected) in [
            (json!({"operator": "Exists"}), "any", "x", "NoExecute", true),
            (json!({"key": "k", "operator": "Exists"}), "k", "x", "NoSchedule", true),
            (json!({"key": "k", "value": "v"}), "k", "v", "NoSchedule", true),
            (json!({"key": "k", "value": "v"}), "k", "w", "NoSchedule", false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), "k", "", "NoSchedule", false),
            (json!({"key": "other", "operator": "Exists"}), "k", "", "NoSchedule", false),
        ] {
            assert_eq!(tolerates(&toleration(value.clone()), key, taint_value, effect), expected, "{value}");
        }
    }
}
