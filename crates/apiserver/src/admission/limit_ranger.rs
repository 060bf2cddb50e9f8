//! LimitRanger: defaults, minima, maxima and ratios of a namespace's LimitRanges, for pods and claims.
//!
//! All LimitRanges of the namespace apply; the first one (by name) that gives a default sets it.

use api::amounts::{self, Amounts, of_list};
use api::quantity::Quantity;
use api::{Status, Value, json};

use super::{Context, Operation, Request, items};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) fn admit(request: &Request<'_>, object: &mut Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let sets_defaults = request.is_whole("", "pods") && request.operation == Operation::Create;
    if !sets_defaults {
        return Ok(());
    }
    for range in ctx.list("", "limitranges", request.namespace) {
        apply_defaults(object, &range);
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>, object: &Value, ctx: &mut Context<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    let is_pod = request.is("", "pods")
        && match request.subresource {
            "" => request.operation == Operation::Create,
            "resize" => request.operation == Operation::Update,
            _ => false,
        };
    let is_claim = request.is_whole("", "persistentvolumeclaims") && writes;
    if !is_pod && !is_claim {
        return Ok(());
    }
    for range in ctx.list("", "limitranges", request.namespace) {
        let mut errors = Vec::new();
        for limit in items(&range["spec"], "limits") {
            match limit["type"].as_str().unwrap_or_default() {
                "Container" if is_pod => check_containers(limit, object, &mut errors),
                "Pod" if is_pod => {
                    let (requests, limits) = (pod_total(object, "requests"), pod_total(object, "limits"));
                    check(limit, "Pod", &requests, &limits, &mut errors);
                }
                "PersistentVolumeClaim" if is_claim => {
                    let requests = of_list(&object["spec"]["resources"]["requests"]);
                    check_claim(limit, &requests, &mut errors);
                }
                _ => {}
            }
        }
        if let Some(text) = aggregate(&errors) {
            return Err(request.forbidden(object, &text));
        }
    }
    Ok(())
}

/// One error as it is, several in brackets, each once.
fn aggregate(errors: &[String]) -> Option<String> {
    let mut seen: Vec<&str> = Vec::new();
    for error in errors {
        if !seen.contains(&error.as_str()) {
            seen.push(error);
        }
    }
    match seen.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// Missing requests and limits of containers, and an annotation that tells which ones were set.
fn apply_defaults(pod: &mut Value, range: &Value) {
    let mut requests = api::Map::new();
    let mut limits = api::Map::new();
    for limit in items(&range["spec"], "limits").filter(|limit| limit["type"] == "Container") {
        requests.extend(limit["defaultRequest"].as_object().cloned().unwrap_or_default());
        limits.extend(limit["default"].as_object().cloned().unwrap_or_default());
    }
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = add_missing(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] = json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Adds what a container does not name, and returns the names, sorted.
fn add_missing(container: &mut Value, field: &str, defaults: &api::Map) -> Vec<String> {
    let given = &container["resources"][field];
    let missing: Vec<(String, Value)> = defaults
        .iter()
        .filter(|(name, _)| given[name.as_str()].is_null())
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut names: Vec<String> = missing.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    let list = &mut container["resources"][field];
    for (name, value) in missing {
        list[name] = value;
    }
    // Resource lists are kept sorted by name, as Go writes maps.
    if let Some(list) = list.as_object_mut() {
        list.sort_keys();
    }
    names
}

fn check_containers(limit: &Value, pod: &Value, errors: &mut Vec<String>) {
    for list in ["containers", "initContainers"] {
        for container in items(&pod["spec"], list) {
            let requests = of_list(&container["resources"]["requests"]);
            let limits = of_list(&container["resources"]["limits"]);
            check(limit, "Container", &requests, &limits, errors);
        }
    }
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, enforced) in of_list(&limit["min"]) {
        errors.extend(below_min(kind, &name, &enforced, requests.get(&name), limits.get(&name)));
    }
    for (name, enforced) in of_list(&limit["max"]) {
        errors.extend(above_max(kind, &name, &enforced, requests.get(&name), limits.get(&name)));
    }
    for (name, enforced) in of_list(&limit["maxLimitRequestRatio"]) {
        errors.extend(above_ratio(kind, &name, &enforced, requests.get(&name), limits.get(&name)));
    }
}

fn below_min(
    kind: &str,
    name: &str,
    enforced: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("minimum {name} usage per {kind} is {enforced}");
    match request {
        None => Some(format!("{rule}.  No request is specified")),
        Some(request) if request < enforced => Some(format!("{rule}, but request is {request}")),
        Some(_) => limit.filter(|limit| *limit < enforced).map(|limit| format!("{rule}, but limit is {limit}")),
    }
}

fn above_max(
    kind: &str,
    name: &str,
    enforced: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("maximum {name} usage per {kind} is {enforced}");
    match limit {
        None => Some(format!("{rule}.  No limit is specified")),
        Some(limit) if limit > enforced => Some(format!("{rule}, but limit is {limit}")),
        Some(_) => {
            request.filter(|request| *request > enforced).map(|request| format!("{rule}, but request is {request}"))
        }
    }
}

fn above_ratio(
    kind: &str,
    name: &str,
    enforced: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let rule = format!("{name} max limit to request ratio per {kind} is {enforced}");
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{rule}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else {
        return Some(format!("{rule}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.to_f64() / request.to_f64();
    (ratio > enforced.to_f64()).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
}

fn check_claim(limit: &Value, requests: &Amounts, errors: &mut Vec<String>) {
    let kind = "PersistentVolumeClaim";
    for (name, enforced) in of_list(&limit["min"]) {
        errors.extend(below_min(kind, &name, &enforced, requests.get(&name), None));
    }
    for (name, enforced) in of_list(&limit["max"]) {
        let rule = format!("maximum {name} usage per {kind} is {enforced}");
        match requests.get(&name) {
            None => errors.push(format!("{rule}.  No request is specified")),
            Some(request) if *request > enforced => errors.push(format!("{rule}, but request is {request}")),
            Some(_) => {}
        }
    }
}

/// What a pod needs of each resource: its containers at their peak. A resource that one container does not name has no total.
/// Amounts of the pod itself win.
fn pod_total(pod: &Value, field: &str) -> Amounts {
    let spec = &pod["spec"];
    let mut total = spec.as_object().map(|spec| amounts::of_containers(spec, field)).unwrap_or_default();
    amounts::replace(&mut total, &of_list(&spec["resources"][field]));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
    };

    fn world(limits: Value) -> World {
        let range = json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"limits": limits}});
        World::new().with("", "limitranges", range)
    }

    fn pod(world: &World, spec: Value) -> Result<Value, String> {
        let user = UserInfo::default();
        let pod = json!({"metadata": {"name": "a"}, "spec": spec});
        world.run("LimitRanger", &request(Operation::Create, "", "pods", &user), pod)
    }

    fn container(resources: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": resources}]})
    }

    #[test]
    fn pod_limits_count_all_containers() {
        let world = world(json!([{"type": "Pod", "max": {"cpu": "1", "memory": "1Gi"}, "min": {"cpu": "100m"}}]));
        let refuse = |spec: Value| pod(&world, spec).unwrap_err().replace("pods \"a\" is forbidden: ", "");
        let limits =
            |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "1Mi"}, "requests": {"cpu": cpu, "memory": "1Mi"}});
        assert_eq!(refuse(container(limits("2"))), "maximum cpu usage per Pod is 1, but limit is 2");
        let two = json!({"containers": [{"name": "a", "resources": limits("700m")}, {"name": "b", "resources": limits("700m")}]});
        assert_eq!(refuse(two), "maximum cpu usage per Pod is 1, but limit is 1400m");
        let init = json!({"containers": [{"name": "a", "resources": limits("700m")}],
                          "initContainers": [{"name": "i", "resources": limits("2")}]});
        assert_eq!(refuse(init), "maximum cpu usage per Pod is 1, but limit is 2");
        // Who names nothing adds nothing, and the sum is written as its first part is.
        let some = json!({"containers": [{"name": "a", "resources": limits("700m")},
            {"name": "b", "resources": {"limits": {"memory": "2Gi"}}}, {"name": "c"}]});
        assert_eq!(refuse(some), "maximum memory usage per Pod is 1Gi, but limit is 2049Mi");
    }

    #[test]
    fn the_ratio_is_printed_with_six_digits() {
        let world = world(json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]));
        let refuse = |resources: Value| pod(&world, container(resources)).unwrap_err();
        assert_eq!(
            refuse(json!({})),
            "pods \"a\" is forbidden: cpu max limit to request ratio per Container is 2, but no request is specified or \
             request is 0"
        );
        assert_eq!(
            refuse(json!({"limits": {"cpu": 3}, "requests": {"cpu": 1}})),
            "pods \"a\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"
        );
        assert!(pod(&world, container(json!({"limits": {"cpu": 2}, "requests": {"cpu": 1}}))).is_ok());
    }

    #[test]
    fn defaults_are_set_and_told() {
        let world = world(json!([{"type": "Container", "default": {"memory": "10Mi", "cpu": "500m"},
                                  "defaultRequest": {"cpu": "100m"}}]));
        let pod = pod(&world, container(json!({"limits": {"memory": "1Gi"}}))).unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn a_container_that_lacks_nothing_stays_as_it_is() {
        let world = world(json!([{"type": "Container", "defaultRequest": {"cpu": "100m"}}]));
        let bare = pod(&world, json!({"containers": [{"name": "c"}]})).unwrap();
        assert_eq!(bare["spec"]["containers"][0], json!({"name": "c", "resources": {"requests": {"cpu": "100m"}}}));
        let full = container(json!({"requests": {"cpu": "1"}}));
        assert_eq!(pod(&world, full.clone()).unwrap()["spec"], full);
    }

    #[test]
    fn claims_have_sizes_between_bounds() {
        let world =
            world(json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]));
        let user = UserInfo::default();
        let refuse = |size: &str| {
            let claim = json!({"metadata": {"name": "a"}, "spec": {"resources": {"requests": {"storage": size}}}});
            let create = request(Operation::Create, "", "persistentvolumeclaims", &user);
            world.run("LimitRanger", &create, claim).unwrap_err()
        };
        assert_eq!(
            refuse("5Gi"),
            "persistentvolumeclaims \"a\" is forbidden: maximum storage usage per PersistentVolumeClaim is 2Gi, but request \
             is 5Gi"
        );
        assert_eq!(
            refuse("1Mi"),
            "persistentvolumeclaims \"a\" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request \
             is 1Mi"
        );
    }
}
