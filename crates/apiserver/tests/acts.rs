//! Writes that are more than an object: acts on pods and accounts by a kubelet, and Services with their addresses.

mod support;

use api::{Value, json};
use apiserver::admission::Chain;
use apiserver::attributes::UserInfo;
use http::Method;
use support::Cluster;

const NODE: &str = "n1";

/// A server on which kubelets may do what is theirs, and a pod on each of two nodes.
async fn cluster() -> Cluster {
    let plugins = (["NodeRestriction".to_owned()], ["ServiceAccount".to_owned()]);
    let cluster =
        Cluster::start_with(|config| config.admission = Chain::new(&plugins.0, &plugins.1).expect("plugins")).await;
    for node in [NODE, "n2"] {
        let labels = json!({"topology.kubernetes.io/zone": format!("zone-of-{node}")});
        cluster.make("/api/v1/nodes", json!({"metadata": {"name": node, "labels": labels}})).await;
        let token = json!({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}});
        let containers = json!([{"name": "c", "image": "i"}]);
        let spec = json!({"nodeName": node, "serviceAccountName": "a", "containers": containers, "volumes": [token]});
        let pod = json!({"metadata": {"name": format!("on-{node}")}, "spec": spec});
        cluster.make("/api/v1/namespaces/default/pods", pod).await;
    }
    cluster.make("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "a"}})).await;
    // Admission looks at pods in the cache.
    let both = |reply: &support::Reply| reply.body["items"].as_array().is_some_and(|items| items.len() == 2);
    cluster.until("/api/v1/namespaces/default/pods?resourceVersion=0", both).await;
    cluster
}

fn kubelet(cluster: &Cluster) -> Cluster {
    let groups = vec!["system:nodes".to_owned(), "system:authenticated".to_owned()];
    cluster.acting_as(UserInfo { name: format!("system:node:{NODE}"), groups, ..UserInfo::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_evicts_only_its_own_pods() {
    let cluster = cluster().await;
    let kubelet = kubelet(&cluster);
    let evict = async |pod: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        kubelet.post(&format!("/api/v1/namespaces/default/pods/{pod}/eviction"), eviction).await
    };
    let refused = evict("on-n2").await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert!(refused.message().contains("node n1 can only evict pods with spec.nodeName set to itself"));
    assert_eq!(evict("on-n1").await.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_gets_tokens_only_for_its_own_pods() {
    let cluster = cluster().await;
    let kubelet = kubelet(&cluster);
    let uid = async |pod: &str| {
        let pod = cluster.get(&format!("/api/v1/namespaces/default/pods/{pod}")).await;
        pod.body["metadata"]["uid"].clone()
    };
    let ask = async |bound: Value| {
        let spec = json!({"audiences": [], "expirationSeconds": 3607, "boundObjectRef": bound});
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        kubelet.post("/api/v1/namespaces/default/serviceaccounts/a/token", request).await
    };
    let bound = |name: &str, uid: Value| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    let unbound = ask(Value::Null).await;
    assert_eq!(unbound.code, 403, "{}", unbound.text);
    assert!(unbound.message().ends_with("node requested token not bound to a pod"), "{}", unbound.text);
    let elsewhere = ask(bound("on-n2", uid("on-n2").await)).await;
    assert!(elsewhere.message().ends_with("bound to a pod scheduled on a different node"), "{}", elsewhere.text);
    let own = ask(bound("on-n1", uid("on-n1").await)).await;
    assert_eq!(own.code, 201, "{}", own.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_pod_carries_the_zone_of_its_node() {
    let cluster = cluster().await;
    let pods = "/api/v1/namespaces/default/pods";
    let spec = json!({"serviceAccountName": "a", "containers": [{"name": "c", "image": "i"}]});
    cluster.make(pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    cluster.make(&format!("{pods}/p/binding"), json!({"metadata": {"name": "p"}, "target": {"name": "n2"}})).await;
    let pod = cluster.get(&format!("{pods}/p")).await.body;
    assert_eq!(pod["spec"]["nodeName"], "n2");
    assert_eq!(pod["metadata"]["labels"]["topology.kubernetes.io/zone"], "zone-of-n2");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_of_ranges_that_come_later() {
    let cluster = Cluster::start().await;
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let service =
        |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    let refused = cluster.post(services, service("s", "10.9.0.7")).await;
    assert!(refused.message().contains("the provided network does not match the current range"), "{}", refused.text);
    cluster.make(ranges, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.9.0.0/24"]}})).await;
    let ready = json!({"type": "Ready", "status": "True", "reason": "", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [ready]}});
    assert_eq!(cluster.request(Method::PATCH, &format!("{ranges}/more/status"), &status).await.code, 200);
    let taken = cluster.post(services, service("s", "10.9.0.7")).await;
    assert_eq!(taken.code, 201, "{}", taken.text);
    let address = cluster.get("/apis/networking.k8s.io/v1/ipaddresses/10.9.0.7").await.body;
    assert_eq!(address["spec"]["parentRef"]["name"], "s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_says_why_the_pod_goes_and_takes_the_version_before_that() {
    let cluster = cluster().await;
    let path = "/api/v1/namespaces/default/pods/on-n1";
    let version = cluster.get(path).await.body["metadata"]["resourceVersion"].clone();
    let evict = async |version: Value| {
        let options = json!({"preconditions": {"resourceVersion": version}});
        cluster
            .post(&format!("{path}/eviction"), json!({"metadata": {"name": "on-n1"}, "deleteOptions": options}))
            .await
    };
    let refused = evict("1".into()).await;
    assert_eq!(refused.code, 409, "{}", refused.text);
    assert_eq!(cluster.get(path).await.body["metadata"]["resourceVersion"], version, "left alone");
    assert_eq!(evict(version).await.code, 201);
    let pod = cluster.get(path).await.body;
    assert!(!pod["metadata"]["deletionTimestamp"].is_null(), "{pod}");
    // No budget is asked about a pod that does not run.
    let told =
        pod["status"]["conditions"].as_array().is_some_and(|list| list.iter().any(|c| c["type"] == "DisruptionTarget"));
    assert!(told, "{pod}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_containers_stay() {
    let cluster = cluster().await;
    let path = "/api/v1/namespaces/default/pods/on-n1/ephemeralcontainers";
    let set =
        async |list: Value| cluster.request(Method::PATCH, path, &json!({"spec": {"ephemeralContainers": list}})).await;
    assert_eq!(set(json!([{"name": "e", "image": "i"}])).await.code, 200);
    for none in [json!([]), Value::Null] {
        let refused = set(none).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert!(
            refused.message().contains("existing ephemeral containers \"e\" may not be removed"),
            "{}",
            refused.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_does_not_hold_is_told_before_what_is_malformed() {
    let cluster = Cluster::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let rule = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]});
    cluster.make(roles, json!({"metadata": {"name": "maker"}, "rules": [rule]})).await;
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maker"});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"});
    let binding = json!({"metadata": {"name": "maker"}, "roleRef": role, "subjects": [subject]});
    cluster.make("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let jane = cluster.acting_as(UserInfo { name: "jane".to_owned(), ..UserInfo::default() });
    let malformed = json!([{"nonResourceURLs": ["/x"], "verbs": ["get"]}]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let refused = jane.post(roles, json!({"metadata": {"name": "r"}, "rules": malformed})).await;
        assert_eq!(refused.code, 403, "{}", refused.text);
        if refused.message().contains("is attempting to grant RBAC permissions not currently held") {
            break;
        }
        // Until her role is known to who authorizes.
        assert!(std::time::Instant::now() < deadline, "{}", refused.text);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_charged_to_a_quota_is_owned_by_the_server() {
    let cluster = cluster().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"count/configmaps": "1"});
    cluster.make(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let status = json!({"status": {"hard": hard, "used": {"count/configmaps": "0"}}});
    assert_eq!(cluster.request(Method::PATCH, &format!("{quotas}/q/status"), &status).await.code, 200);
    let counted = |reply: &support::Reply| reply.body["items"][0]["status"]["used"]["count/configmaps"] == "0";
    cluster.until(&format!("{quotas}?resourceVersion=0"), counted).await;
    cluster.make("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}})).await;
    let quota = cluster.get(&format!("{quotas}/q")).await.body;
    assert_eq!(quota["status"]["used"]["count/configmaps"], "1", "{quota}");
    let entries = quota["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let own = entries.iter().find(|entry| entry["manager"] == "kube-apiserver").cloned().unwrap_or_default();
    assert_eq!(own["subresource"], "status", "{quota}");
    assert_eq!(own["fieldsV1"], json!({"f:status": {"f:used": {"f:count/configmaps": {}}}}));
}
