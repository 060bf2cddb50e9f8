//! RuntimeClass: what a pod's runtime class adds to it: overhead, node selector and tolerations.

use std::sync::Arc;

use api::{Status, Value, quantity::Quantity};

use super::{Context, Operation, Request, items, list_mut};

fn class_name(pod: &Value) -> Option<&str> {
    pod["spec"]["runtimeClassName"].as_str()
}

fn is_new_pod(request: &Request<'_>) -> bool {
    request.is_whole("", "pods") && request.operation == Operation::Create
}

fn find(request: &Request<'_>, pod: &Value, ctx: &Context<'_>) -> Result<Option<Arc<Value>>, Status> {
    let Some(name) = class_name(pod) else { return Ok(None) };
    if name.is_empty() {
        // Upstream asks for a class without a name, and passes on what its client says to that.
        return Err(Status::unknown("resource name may not be empty"));
    }
    match ctx.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(request.forbidden(pod, &format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

pub(super) fn admit(request: &Request<'_>, pod: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !is_new_pod(request) {
        return Ok(());
    }
    let Some(class) = find(request, pod, ctx)? else { return Ok(()) };
    let overhead = &class["overhead"]["podFixed"];
    if !overhead.is_null() {
        let given = &pod["spec"]["overhead"];
        if given.as_object().is_some_and(|map| !map.is_empty()) && !same_amounts(given, overhead) {
            let text = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(request.forbidden(pod, text));
        }
        pod["spec"]["overhead"] = overhead.clone();
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let given = pod["spec"]["nodeSelector"][key].as_str();
        let wanted = value.as_str().unwrap_or_default();
        if let Some(given) = given.filter(|given| *given != wanted) {
            let text = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}"
            );
            return Err(request.forbidden(pod, &text));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in items(scheduling, "tolerations") {
        if let Some(tolerations) = list_mut(&mut pod["spec"], "tolerations")
            && !tolerations.contains(toleration)
        {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>, pod: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !is_new_pod(request) {
        return Ok(());
    }
    let class = find(request, pod, ctx)?;
    let defined = class.as_ref().map_or(&Value::Null, |class| &class["overhead"]["podFixed"]);
    let given = &pod["spec"]["overhead"];
    if defined.is_null() && !given.is_null() {
        let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(request.forbidden(pod, text));
    }
    if !defined.is_null() && !same_amounts(given, defined) {
        let text = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(request.forbidden(pod, text));
    }
    Ok(())
}

/// The same resources with the same amounts, however they are written.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let amount = |value: &Value| Quantity::from_value(value).ok();
    match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| amount(value) == amount(other)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn run(spec: Value) -> Result<Value, String> {
        let world = World::new().with(
            "node.k8s.io",
            "runtimeclasses",
            json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "250m"}},
                   "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
        );
        let user = UserInfo::default();
        let pod = json!({"metadata": {"name": "a"}, "spec": spec});
        world.run("RuntimeClass", &request(Operation::Create, "", "pods", &user), pod).map(|pod| pod["spec"].clone())
    }

    #[test]
    fn a_class_adds_overhead_and_scheduling() {
        assert_eq!(
            run(json!({"runtimeClassName": "vm"})).unwrap(),
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "250m"}, "nodeSelector": {"vm": "yes"},
                   "tolerations": [{"key": "vm", "operator": "Exists"}]})
        );
    }

    #[test]
    fn conflicts_and_unknown_classes_are_refused() {
        let table = [
            (json!({"runtimeClassName": "x"}), "pod rejected: RuntimeClass \"x\" not found"),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
            (
                json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                json!({"overhead": {"cpu": "1"}}),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
        ];
        for (spec, text) in table {
            assert_eq!(run(spec).unwrap_err(), format!("pods \"a\" is forbidden: {text}"));
        }
    }
}
