//! NodeName: a pod that names a node runs there or nowhere.

use std::sync::Arc;

use super::PluginArgs;
use crate::framework::{ActionType, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Plugin, Status};
use crate::model::{NodeInfo, PodInfo};

pub(super) const NAME: &str = "NodeName";
const REASON: &str = "node(s) didn't match the requested node name";

struct NodeName;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(NodeName);
    points.listen(&plugin).at_filter(&plugin);
}

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        vec![EventHint::any(EventResource::Node, ActionType::ADD)]
    }
}

impl Filter for NodeName {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        match &pod.node_name {
            Some(wanted) if wanted != node.name() => Err(Status::unresolvable(NAME, REASON)),
            _ => Ok(()),
        }
    }
}
