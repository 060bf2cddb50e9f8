//! What a write may wait for: a controller is about to make it, or the cache to show it. Upstream looks twice as well.

use std::time::Duration;

use api::Value;

use super::{Operation, Request};
use crate::source::ObjectSource;

/// An object whose absence would refuse the write now, and how long it is worth waiting for; for no time at all where nobody makes
/// it, but the cache may not show yet what somebody has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    pub resource: &'static str,
    pub namespace: String,
    pub name: String,
    pub patience: Duration,
}

/// A namespace created a moment ago may not be visible yet.
const NAMESPACE: Duration = Duration::from_millis(50);
/// The default account of a new namespace is made by a controller.
const DEFAULT_ACCOUNT: Duration = Duration::from_millis(1500);

/// Asked before [`super::Chain::admit`], and again after each look at the cache; `None`: go on.
pub fn awaited(request: &Request<'_>, object: &Value, source: &dyn ObjectSource) -> Option<Awaited> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || request.namespace.is_empty() || request.is("", "namespaces") {
        return None;
    }
    if source.get("", "namespaces", "", request.namespace).is_none() {
        let name = request.namespace.to_owned();
        return Some(Awaited { resource: "namespaces", namespace: String::new(), name, patience: NAMESPACE });
    }
    let is_new_pod = request.is_whole("", "pods") && request.operation == Operation::Create;
    let is_mirror = !object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null();
    if !is_new_pod || is_mirror {
        return None;
    }
    let named = |field: &str| object["spec"][field].as_str().unwrap_or_default();
    let account = Some(named("serviceAccountName")).filter(|name| !name.is_empty()).unwrap_or("default");
    let patience = if account == "default" { DEFAULT_ACCOUNT } else { Duration::ZERO };
    [
        ("", "serviceaccounts", request.namespace, account, patience),
        ("node.k8s.io", "runtimeclasses", "", named("runtimeClassName"), Duration::ZERO),
        ("scheduling.k8s.io", "priorityclasses", "", named("priorityClassName"), Duration::ZERO),
    ]
    .into_iter()
    .find(|(group, resource, namespace, name, _)| {
        !name.is_empty() && source.get(group, resource, namespace, name).is_none()
    })
    .map(|(_, resource, namespace, name, patience)| Awaited {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        patience,
    })
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::{
        admission::testing::{World, request},
        attributes::UserInfo,
        source::testing::MemorySource,
    };

    #[test]
    fn a_pod_waits_for_its_namespace_and_the_default_account() {
        let user = UserInfo::default();
        let create = request(Operation::Create, "", "pods", &user);
        let source = MemorySource::new();
        let pod = json!({"spec": {}});
        assert_eq!(awaited(&create, &pod, &source).map(|a| a.resource), Some("namespaces"));
        source.put("", "namespaces", json!({"metadata": {"name": "ns"}}));
        assert_eq!(awaited(&create, &pod, &source).map(|a| a.name), Some("default".to_owned()));
        assert_eq!(awaited(&create, &pod, &World::new().source), None);
    }

    #[test]
    fn what_a_pod_names_is_looked_for_once_more() {
        let user = UserInfo::default();
        let create = request(Operation::Create, "", "pods", &user);
        let world = World::new();
        for (field, resource) in [
            ("serviceAccountName", "serviceaccounts"),
            ("runtimeClassName", "runtimeclasses"),
            ("priorityClassName", "priorityclasses"),
        ] {
            let missing = awaited(&create, &json!({"spec": {field: "x"}}), &world.source).unwrap();
            assert_eq!((missing.resource, missing.patience), (resource, Duration::ZERO));
        }
        world.source.put("node.k8s.io", "runtimeclasses", json!({"metadata": {"name": "x"}}));
        assert_eq!(awaited(&create, &json!({"spec": {"runtimeClassName": "x"}}), &world.source), None);
        let update = request(Operation::Update, "", "pods", &user);
        assert_eq!(awaited(&update, &json!({"spec": {"runtimeClassName": "y"}}), &world.source), None);
    }
}
