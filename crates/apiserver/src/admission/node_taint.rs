//! TaintNodesByCondition: a new node takes no pods before the node controller has seen it ready.

use api::json;
use api::{Status, Value};

use super::{Context, Operation, Request, items, list_mut};

pub(super) fn admit(request: &Request<'_>, node: &mut Value, _: &mut Context<'_>) -> Result<(), Status> {
    if !request.is_whole("", "nodes") || request.operation != Operation::Create {
        return Ok(());
    }
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let same = |t: &Value| t["key"] == taint["key"] && t["effect"] == taint["effect"];
    if node["spec"].is_null() {
        node["spec"] = json!({});
    }
    if !items(&node["spec"], "taints").any(same)
        && let Some(taints) = list_mut(&mut node["spec"], "taints")
    {
        taints.push(taint);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    #[test]
    fn a_new_node_is_tainted_once() {
        let user = UserInfo::default();
        let create = request(Operation::Create, "", "nodes", &user);
        let world = World::new();
        let node = world.run("TaintNodesByCondition", &create, json!({"metadata": {"name": "n"}})).unwrap();
        let taints = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        assert_eq!(node["spec"]["taints"], taints);
        assert_eq!(world.run("TaintNodesByCondition", &create, node).unwrap()["spec"]["taints"], taints);
    }
}
