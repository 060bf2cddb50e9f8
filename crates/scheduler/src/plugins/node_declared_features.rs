//! NodeDeclaredFeatures: a pod that needs something of the kubelet goes where the node declares it (KEP-5328).

use std::sync::Arc;

use k8s_openapi::api::core::v1::ContainerRestartRule;

use super::PluginArgs;
use crate::framework::{
    ActionType, CycleState, EventHint, EventObject, EventResource, ExtensionPoints, Filter, Hint, Plugin, Status,
};
use crate::model::{NodeFacts, NodeInfo, PodInfo};

pub(super) const NAME: &str = "NodeDeclaredFeatures";
const REASON: &str = "node(s) didn't match Pod's required features";

/// Something a kubelet can do, and which pods need it.
struct Feature {
    name: &'static str,
    is_needed: fn(&PodInfo) -> bool,
}

const FEATURES: [Feature; 2] = [
    Feature { name: "RestartAllContainersOnContainerExits", is_needed: restarts_all_containers },
    Feature { name: "UserNamespacesHostNetworkSupport", is_needed: has_users_of_its_own_on_the_hosts_network },
];

fn restarts_all_containers(pod: &PodInfo) -> bool {
    let Some(spec) = &pod.pod.spec else { return false };
    let of = |rules: &Option<Vec<ContainerRestartRule>>| {
        rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers")
    };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.any(|container| of(&container.restart_policy_rules))
}

fn has_users_of_its_own_on_the_hosts_network(pod: &PodInfo) -> bool {
    pod.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true) && spec.host_users == Some(false))
}

struct NodeDeclaredFeatures;

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(NodeDeclaredFeatures);
    points.listen(&plugin).at_filter(&plugin);
}

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let node = ActionType::ADD.and(ActionType::UPDATE_NODE_DECLARED_FEATURE);
        vec![EventHint::judged(EventResource::Node, node, node_declares_enough)]
    }
}

fn node_declares_enough(pod: &PodInfo, event: EventObject<'_>) -> Hint {
    match event {
        EventObject::Node { new, .. } if accepts(pod, new) => Hint::Queue,
        _ => Hint::Skip,
    }
}

fn accepts(pod: &PodInfo, node: &NodeFacts) -> bool {
    let declares = |feature: &Feature| node.declared_features.iter().any(|declared| declared == feature.name);
    FEATURES.iter().all(|feature| !(feature.is_needed)(pod) || declares(feature))
}

impl Filter for NodeDeclaredFeatures {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        if accepts(pod, &node.facts) { Ok(()) } else { Err(Status::unresolvable(NAME, REASON)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(action: &str) -> PodInfo {
        let rules = json!([{"action": action, "exitCodes": {"operator": "In", "values": [42]}}]);
        let container = json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules});
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [container]}});
        PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn node(features: &[&str]) -> NodeFacts {
        let node = json!({"metadata": {"name": "node"}, "status": {"declaredFeatures": features}});
        NodeFacts::new(&serde_json::from_value(node).unwrap())
    }

    #[test]
    fn a_pod_goes_where_its_features_are_declared() {
        let declares = node(&["ExtendWebSocketsToKubelet", "RestartAllContainersOnContainerExits"]);
        assert!(accepts(&pod("RestartAllContainers"), &declares));
        assert!(!accepts(&pod("RestartAllContainers"), &node(&["ExtendWebSocketsToKubelet"])));
        assert!(accepts(&pod("Restart"), &node(&[])));
    }
}
