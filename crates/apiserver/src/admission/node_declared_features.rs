//! NodeDeclaredFeatureValidator: a bound pod is not changed in a way that its kubelet does not understand (KEP-5328).

use api::quantity::Quantity;
use api::{Status, Value};

use super::{Context, Operation, Request, items};

/// Something a kubelet can do, and which updates, from one spec to another, need it.
struct Feature {
    name: &'static str,
    is_needed: fn(&Value, &Value) -> bool,
}

const FEATURES: [Feature; 2] = [
    Feature {
        name: "InPlacePodLevelResourcesVerticalScaling",
        is_needed: |old, new| !alike(&old["resources"], &new["resources"]),
    },
    Feature {
        name: "InPlacePodVerticalScalingInitContainers",
        is_needed: |old, new| {
            let mut init = items(old, "initContainers").zip(items(new, "initContainers"));
            init.any(|(old, new)| old["restartPolicy"] != "Always" && !alike(&old["resources"], &new["resources"]))
        },
    },
];

pub(super) fn validate(request: &Request<'_>, pod: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let is_update = request.operation == Operation::Update && matches!(request.subresource, "" | "resize");
    let (true, Some(old)) = (request.is("", "pods") && is_update, request.old) else { return Ok(()) };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    // The generation grows with every change of the spec.
    if node.is_empty() || old["metadata"]["generation"] == pod["metadata"]["generation"] {
        return Ok(());
    }
    let needed = FEATURES.iter().filter(|feature| (feature.is_needed)(&old["spec"], &pod["spec"]));
    let mut missing: Vec<&str> = needed.map(|feature| feature.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(found) = ctx.get("", "nodes", "", node) else {
        return Err(request.forbidden(pod, &format!("node {node:?} not found")));
    };
    let declared = found["status"]["declaredFeatures"].as_array();
    missing.retain(|name| !declared.is_some_and(|declared| declared.iter().any(|feature| feature == name)));
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("pod update requires features {} which are not available on node {node:?}", missing.join(", "));
    Err(request.forbidden(pod, &text))
}

/// Whether two ResourceRequirements ask for the same, however it is written.
fn alike(one: &Value, other: &Value) -> bool {
    let amounts = |resources: &Value, list: &str| {
        let mut amounts: Vec<(String, Option<Quantity>)> = resources[list]
            .as_object()
            .into_iter()
            .flat_map(|list| list.iter())
            .map(|(name, amount)| (name.to_string(), Quantity::from_value(amount).ok()))
            .collect();
        amounts.sort_by(|(one, _), (other, _)| one.cmp(other));
        amounts
    };
    ["requests", "limits"].iter().all(|list| amounts(one, list) == amounts(other, list))
        && one["claims"] == other["claims"]
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::admission::testing::{World, request};
    use crate::attributes::UserInfo;

    #[test]
    fn a_pod_is_resized_in_ways_that_its_node_declares() {
        let node =
            |name: &str, features: Value| json!({"metadata": {"name": name}, "status": {"declaredFeatures": features}});
        let world = World::new().with("", "nodes", node("old", json!([]))).with(
            "",
            "nodes",
            node("new", json!(["InPlacePodLevelResourcesVerticalScaling"])),
        );
        let user = UserInfo::default();
        let pod = |node: &str, generation: i64, cpu: &str| {
            json!({"metadata": {"name": "a", "generation": generation},
                "spec": {"nodeName": node, "resources": {"requests": {"cpu": cpu}}, "containers": []}})
        };
        let run = |node: &str, generation: i64, cpu: &str| {
            let old = pod(node, 1, "1");
            let mut update = request(Operation::Update, "", "pods", &user);
            update.subresource = "resize";
            update.old = Some(&old);
            world.run("NodeDeclaredFeatureValidator", &update, pod(node, generation, cpu)).map(|_| ())
        };
        assert_eq!(run("new", 2, "2"), Ok(()));
        assert_eq!(run("old", 2, "1000m"), Ok(()));
        assert_eq!(run("old", 1, "2"), Ok(()));
        let refused = run("old", 2, "2").unwrap_err();
        let want = "pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node \"old\"";
        assert!(refused.ends_with(want), "{refused}");
        assert!(run("gone", 2, "2").unwrap_err().ends_with("node \"gone\" not found"));
    }
}
