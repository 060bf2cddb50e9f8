//! NodePorts: a host port is given to one pod at a time.

use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, Narrowed, Plugin,
    PreFilter, Status,
};
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub(super) const NAME: &str = "NodePorts";
const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

struct NodePorts;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(NodePorts);
    points.listen(&plugin).at_pre_filter(&plugin).at_filter(&plugin);
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        vec![
            EventHint::judged(EventResource::AssignedPod, ActionType::DELETE, port_was_freed),
            EventHint::any(EventResource::Node, ActionType::ADD),
        ]
    }
}

fn port_was_freed(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    match event {
        EventObject::Pod { old: Some(gone), .. } if conflict(pod, &gone.ports) => Hint::Queue,
        _ => Hint::Skip,
    }
}

fn conflict(pod: &PodInfo, taken: &[crate::model::pod::HostPort]) -> bool {
    pod.ports.iter().any(|wanted| taken.iter().any(|taken| wanted.conflicts_with(taken)))
}

impl PreFilter for NodePorts {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<Narrowed, Status> {
        Ok(if pod.ports.is_empty() { Narrowed::Skip } else { Narrowed::No })
    }
}

impl Filter for NodePorts {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        if conflict(pod, &node.ports) { Err(Status::unschedulable(NAME, REASON)) } else { Ok(()) }
    }
}
