//! PodResizeValidator: a running pod is not resized beyond what its node has, nor on a node that cannot resize.

use api::{Status, Value, meta, quantity::Quantity};

use super::{Context, Operation, Request, items};

pub(super) fn validate(request: &Request<'_>, pod: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !request.is("", "pods") || request.subresource != "resize" || request.operation != Operation::Update {
        return Ok(());
    }
    let Some(node) = pod["spec"]["nodeName"].as_str().and_then(|name| ctx.get("", "nodes", "", name)) else {
        return Ok(());
    };
    let os = node["metadata"]["labels"]["kubernetes.io/os"].as_str().unwrap_or("linux");
    if os != "linux" {
        let text = format!("pod resize is not supported on node {} with OS {os}", meta::name(&node));
        return Err(request.forbidden(pod, &text).with_cause("UnsupportedPlatform", &text, ""));
    }
    let mut short = Vec::new();
    for resource in ["cpu", "memory"] {
        let asked = items(&pod["spec"], "containers")
            .filter_map(|c| Quantity::from_value(&c["resources"]["requests"][resource]).ok())
            .fold(Quantity::default(), |sum, q| sum.add(&q));
        let Ok(allocatable) = Quantity::from_value(&node["status"]["allocatable"][resource]) else { continue };
        if asked > allocatable {
            let amount = |q: &Quantity| if resource == "cpu" { q.milli_value() } else { q.value() };
            short.push(format!("{resource}, requested: {}, allocatable: {}", amount(&asked), amount(&allocatable)));
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    let text = format!("node didn't have enough allocatable resources: {}", short.join("; "));
    Err(request.forbidden(pod, &text).with_cause("NodeCapacity", &text, ""))
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
    fn a_pod_does_not_outgrow_its_node() {
        let world = World::new().with(
            "",
            "nodes",
            json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}}),
        );
        let user = UserInfo::default();
        let mut update = request(Operation::Update, "", "pods", &user);
        update.subresource = "resize";
        let pod = |cpu: &str| {
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n",
                   "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        assert_eq!(world.run("PodResizeValidator", &update, pod("1")), Ok(pod("1")));
        assert_eq!(
            world.run("PodResizeValidator", &update, pod("2")).unwrap_err(),
            "pods \"a\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2000, allocatable: 1000"
        );
    }
}
