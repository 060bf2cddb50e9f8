//! NodeUnschedulable: keeps pods off cordoned nodes unless they tolerate it.

use std::sync::Arc;

use super::{PluginArgs, taint_toleration};
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, Plugin, Status,
};
use crate::model::{NodeFacts, NodeInfo, PodInfo};

pub(super) const NAME: &str = "NodeUnschedulable";
const REASON: &str = "node(s) were unschedulable";
const TAINT_KEY: &str = "node.kubernetes.io/unschedulable";

struct NodeUnschedulable;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(NodeUnschedulable);
    points.listen(&plugin).at_filter(&plugin);
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let node = ActionType::ADD.and(ActionType::UPDATE_NODE_TAINT);
        vec![
            EventHint::judged(EventResource::Node, node, node_became_schedulable),
            EventHint::any(EventResource::TargetPod, ActionType::UPDATE_POD_TOLERATION),
        ]
    }
}

fn node_became_schedulable(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    match event {
        EventObject::Node { new, .. } if accepts(pod, new) => Hint::Queue,
        _ => Hint::Skip,
    }
}

fn accepts(pod: &PodInfo, node: &NodeFacts) -> bool {
    !node.unschedulable || pod.tolerations.iter().any(|t| taint_toleration::tolerates(t, TAINT_KEY, "", "NoSchedule"))
}

impl Filter for NodeUnschedulable {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        if accepts(pod, &node.facts) { Ok(()) } else { Err(Status::unresolvable(NAME, REASON)) }
    }
}
