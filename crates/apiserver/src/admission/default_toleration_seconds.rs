//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or unreachable, unless it says otherwise.

use api::json;
use api::{Status, Value};

use super::{Context, Operation, Request, items, list_mut};

pub(super) fn admit(request: &Request<'_>, pod: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    if !request.is_whole("", "pods") || !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let defaults = [
        ("node.kubernetes.io/not-ready", ctx.config.not_ready_toleration_seconds),
        ("node.kubernetes.io/unreachable", ctx.config.unreachable_toleration_seconds),
    ];
    let missing: Vec<Value> = defaults
        .into_iter()
        .filter(|(key, _)| !items(&pod["spec"], "tolerations").any(|t| tolerates(t, key)))
        .map(|(key, seconds)| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
        })
        .collect();
    if !missing.is_empty()
        && let Some(tolerations) = list_mut(&mut pod["spec"], "tolerations")
    {
        tolerations.extend(missing);
    }
    Ok(())
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let is_empty_or = |field: &str, wanted: &str| {
        let text = toleration[field].as_str().unwrap_or_default();
        text.is_empty() || text == wanted
    };
    is_empty_or("key", key) && is_empty_or("effect", "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn keys(tolerations: Value) -> Vec<String> {
        let user = UserInfo::default();
        let pod = json!({"spec": {"tolerations": tolerations}});
        let pod =
            World::new().run("DefaultTolerationSeconds", &request(Operation::Create, "", "pods", &user), pod).unwrap();
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        list.iter().map(|t| t["key"].as_str().unwrap_or("*").rsplit('/').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_not_tolerated_yet_is_added() {
        assert_eq!(keys(json!(null)), ["not-ready", "unreachable"]);
        assert_eq!(keys(json!([{"operator": "Exists"}])), ["*"]);
        let own = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]);
        assert_eq!(keys(own), ["unreachable", "not-ready"]);
    }
}
