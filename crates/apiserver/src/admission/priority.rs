//! Priority: the class a pod names becomes a number; there is at most one default class.

use std::sync::Arc;

use api::json;
use api::{Status, Value, meta};

use super::{Context, Operation, Request};

const GROUP: &str = "scheduling.k8s.io";

pub(super) fn admit(request: &Request<'_>, pod: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !request.is_whole("", "pods") {
        return Ok(());
    }
    match request.operation {
        Operation::Create => resolve(request, pod, ctx),
        Operation::Update => {
            // Set once at creation; a client that leaves them out keeps them.
            for field in ["priority", "preemptionPolicy"] {
                let before = request.old.map_or(&Value::Null, |old| &old["spec"][field]);
                if pod["spec"][field].is_null() && !before.is_null() {
                    pod["spec"][field] = before.clone();
                }
            }
            Ok(())
        }
        Operation::Delete | Operation::Connect => Ok(()),
    }
}

fn resolve(request: &Request<'_>, pod: &mut Value, ctx: &Context<'_>) -> Result<(), Status> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if name.is_empty() {
        default_class(ctx)
    } else {
        let class = ctx.get(GROUP, "priorityclasses", "", &name);
        let text = format!("no PriorityClass with name {name} was found");
        Some(class.ok_or_else(|| request.forbidden(pod, &text))?)
    };
    let (priority, policy) = match &class {
        Some(class) => (class["value"].as_i64().unwrap_or(0), class["preemptionPolicy"].as_str()),
        None => (0, Some("PreemptLowerPriority")),
    };
    if let (true, Some(class)) = (name.is_empty(), &class) {
        pod["spec"]["priorityClassName"] = json!(meta::name(class));
    }
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != priority) {
        let text = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed \
             {priority} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, &text));
    }
    pod["spec"]["priority"] = json!(priority);
    if let Some(policy) = policy {
        if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
            let text = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            );
            return Err(request.forbidden(pod, &text));
        }
        pod["spec"]["preemptionPolicy"] = json!(policy);
    }
    Ok(())
}

/// Of several default classes (made while nobody looked) the lowest counts.
fn default_class(ctx: &Context<'_>) -> Option<Arc<Value>> {
    let classes = ctx.list(GROUP, "priorityclasses", "");
    classes.into_iter().filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64())
}

pub(super) fn validate(request: &Request<'_>, class: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !request.is_whole(GROUP, "priorityclasses") || !writes || class["globalDefault"] != true {
        return Ok(());
    }
    let Some(default) = default_class(ctx) else { return Ok(()) };
    let name = meta::name(&default);
    if request.operation == Operation::Create || name != meta::name(class) {
        let text = format!("PriorityClass {name} is already marked as default. Only one default can exist");
        return Err(request.forbidden(class, &text));
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

    fn world() -> World {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        World::new().with(GROUP, "priorityclasses", class("high", 1000, false)).with(
            GROUP,
            "priorityclasses",
            class("usual", 7, true),
        )
    }

    fn pod(world: &World, spec: Value) -> Result<Value, String> {
        let user = UserInfo::default();
        let pod = json!({"metadata": {"name": "a"}, "spec": spec});
        world.run("Priority", &request(Operation::Create, "", "pods", &user), pod).map(|pod| pod["spec"].clone())
    }

    #[test]
    fn a_class_becomes_a_number() {
        assert_eq!(
            pod(&world(), json!({"priorityClassName": "high"})).unwrap(),
            json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
        );
        assert_eq!(
            pod(&world(), json!({})).unwrap(),
            json!({"priorityClassName": "usual", "priority": 7, "preemptionPolicy": "Never"})
        );
        assert_eq!(
            pod(&World::new(), json!({})).unwrap(),
            json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})
        );
    }

    #[test]
    fn unknown_classes_and_other_numbers_are_refused() {
        assert_eq!(
            pod(&world(), json!({"priorityClassName": "x"})).unwrap_err(),
            "pods \"a\" is forbidden: no PriorityClass with name x was found"
        );
        assert_eq!(
            pod(&world(), json!({"priorityClassName": "high", "priority": 5})).unwrap_err(),
            "pods \"a\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission \
             controller computed 1000 from the given PriorityClass name"
        );
    }

    #[test]
    fn there_is_one_default_class() {
        let user = UserInfo::default();
        let class = json!({"metadata": {"name": "h"}, "value": 8, "globalDefault": true});
        assert_eq!(
            world().run("Priority", &request(Operation::Create, GROUP, "priorityclasses", &user), class).unwrap_err(),
            "priorityclasses.scheduling.k8s.io \"h\" is forbidden: PriorityClass usual is already marked as default. Only one \
             default can exist"
        );
    }
}
