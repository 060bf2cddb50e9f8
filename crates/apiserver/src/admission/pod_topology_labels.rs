//! PodTopologyLabels: a pod carries zone and region of the node it is bound to.

use api::{Status, Value};

use super::{Context, Operation, Request};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) fn admit(request: &Request<'_>, object: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !request.is("", "pods") || request.operation != Operation::Create {
        return Ok(());
    }
    // A binding passes its labels on to the pod.
    let node = match request.subresource {
        "binding" if object["target"]["kind"].as_str().is_none_or(|kind| kind == "Node") => &object["target"]["name"],
        "" => &object["spec"]["nodeName"],
        _ => return Ok(()),
    };
    let Some(node) = node.as_str().filter(|name| !name.is_empty()) else { return Ok(()) };
    // A node that is not known yet has nothing to pass on.
    let passed_on = LABELS.map(|label| ctx.label("", "nodes", "", node, label));
    for (label, value) in LABELS.into_iter().zip(passed_on) {
        if let Some(value) = value {
            object["metadata"]["labels"][label] = value.into();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    #[test]
    fn a_binding_takes_zone_and_region_along() {
        let labels = json!({(LABELS[0]): "a", (LABELS[1]): "r"});
        let mut all = labels.clone();
        all["other"] = json!("x");
        let world = World::new().with("", "nodes", json!({"metadata": {"name": "n", "labels": all}}));
        let user = UserInfo::default();
        let mut create = request(Operation::Create, "", "pods", &user);
        create.subresource = "binding";
        let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
        assert_eq!(world.run("PodTopologyLabels", &create, binding).unwrap()["metadata"]["labels"], labels);
    }
}
