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
