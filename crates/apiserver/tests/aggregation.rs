//! API groups that another server has.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{Value, json};
use http::Method;
use support::{Ca, Cluster, Seen, respond, stub};

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// A server of `things.example.com/v1` that says who asked, and can be switched off.
async fn extension(ca: &Ca, up: Arc<AtomicBool>) -> std::net::SocketAddr {
    stub(ca, &["things.ns.svc"], move |Seen { request, client }| {
        let up = up.load(Ordering::SeqCst);
        Box::pin(async move {
            if !up {
                return respond(500, "out of order");
            }
            let path = request.uri().path().to_owned();
            let header = |name: &str| {
                let values = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
                values.map(str::to_owned).collect::<Vec<_>>()
            };
            match path.as_str() {
                "/apis/things.example.com/v1" => respond(200, json!({"kind": "APIResourceList", "groupVersion": "things.example.com/v1",
                    "resources": [{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"]}]})),
                "/openapi/v3" => respond(200, json!({"paths": {"apis/things.example.com/v1":
                    {"serverRelativeURL": "/openapi/v3/apis/things.example.com/v1?hash=A"}}})),
                "/openapi/v2" => respond(200, json!({"swagger": "2.0",
                    "paths": {"/apis/things.example.com/v1/namespaces/{namespace}/things": {"get": {"schema": {"$ref": "#/definitions/com.example.Thing"}}},
                        "/version": {"get": {"description": "not ours"}}},
                    "definitions": {"com.example.Thing": {"description": "A thing."}, "com.example.Unused": {}}})),
                path if path.contains("things") && path.contains("/namespaces/") => respond(200, json!({
                    "kind": "Seen", "path": path, "user": header("x-remote-user"), "groups": header("x-remote-group"),
                    "authorization": header("authorization"), "vouched": client.is_some()})),
                _ => respond(404, "404 page not found"),
            }
        })
    })
    .await
}

/// A cluster whose Service `ns/things` leads to `address`. Loopback is no address of an EndpointSlice, so the Service has the
/// name of the server instead.
async fn cluster(ca: &Ca, address: std::net::SocketAddr) -> Cluster {
    let identity = ca.identity("front-proxy-client", "", &[]);
    let cluster = Cluster::start_with(|config| {
        config.service_routing = apiserver::outbound::Routing::ClusterIp;
        config.front_proxy = Some(
            apiserver::outbound::ClientIdentity::follow(
                identity.certificate.into_bytes().into(),
                identity.key.into_bytes().into(),
            )
            .expect("a certificate and its key"),
        );
    })
    .await;
    cluster.make("/api/v1/namespaces", json!({"metadata": {"name": "ns"}})).await;
    let service = json!({"metadata": {"name": "things"}, "spec": {"type": "ExternalName", "externalName": "localhost",
        "ports": [{"port": address.port()}]}});
    cluster.make("/api/v1/namespaces/ns/services", service).await;
    cluster
}

fn api_service(ca: &Ca, port: u16) -> Value {
    use base64::Engine as _;
    let bundle = base64::prelude::BASE64_STANDARD.encode(&ca.pem);
    json!({"metadata": {"name": "v1.things.example.com"}, "spec": {"group": "things.example.com", "version": "v1",
        "groupPriorityMinimum": 17500, "versionPriority": 15, "caBundle": bundle,
        "service": {"namespace": "ns", "name": "things", "port": port}}})
}

fn available(reply: &support::Reply) -> (&str, &str) {
    let condition = &reply.body["status"]["conditions"][0];
    (condition["status"].as_str().unwrap_or(""), condition["reason"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn what_is_served_here_is_registered_and_available() {
    let cluster = Cluster::start().await;
    let reply = cluster.get(&format!("{API_SERVICES}/v1.apps")).await;
    assert_eq!(reply.body["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(available(&reply), ("True", "Local"));
    let list = cluster.get(API_SERVICES).await;
    let names: Vec<&str> =
        list.body["items"].as_array().expect("items").iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
    assert!(names.contains(&"v1.") && names.contains(&"v2.autoscaling") && names.len() == 21, "{names:?}");
}

#[tokio::test]
async fn another_servers_group_is_served_through_this_one() {
    let (ca, up) = (Ca::new(), Arc::new(AtomicBool::new(true)));
    let address = extension(&ca, Arc::clone(&up)).await;
    let cluster = cluster(&ca, address).await;
    cluster.make(API_SERVICES, api_service(&ca, address.port())).await;
    let path = format!("{API_SERVICES}/v1.things.example.com");
    let reply = cluster.until(&path, |reply| !available(reply).0.is_empty()).await;
    assert_eq!(available(&reply), ("True", "Passed"), "{}", reply.text);

    let things = "/apis/things.example.com/v1/namespaces/default/things/a";
    let reply = cluster.until(things, |reply| reply.code == 200).await;
    assert_eq!((&reply.body["path"], &reply.body["user"]), (&json!(things), &json!(["admin"])));
    assert_eq!(reply.body["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!((&reply.body["authorization"], &reply.body["vouched"]), (&json!([]), &json!(true)));

    let groups = cluster.get("/apis").await;
    let names = groups.body["groups"].as_array().expect("groups").iter().filter_map(|g| g["name"].as_str());
    let names: Vec<&str> = names.collect();
    let at = names.iter().position(|name| *name == "things.example.com").expect("the group");
    assert_eq!(names[at + 1], "batch");
    assert_eq!(cluster.get("/apis/things.example.com").await.body["preferredVersion"]["version"], "v1");
    assert_eq!(cluster.get("/apis/things.example.com/v1").await.body["resources"][0]["name"], "things");
    let index = cluster.until("/openapi/v3", |reply| reply.text.contains("things.example.com")).await;
    assert_eq!(
        index.body["paths"]["apis/things.example.com/v1"]["serverRelativeURL"],
        "/openapi/v3/apis/things.example.com/v1?hash=A"
    );

    let swagger = cluster.until("/openapi/v2", |reply| reply.text.contains("things.example.com")).await;
    let definitions = &swagger.body["definitions"];
    assert_eq!(definitions["com.example.Thing"]["description"], "A thing.");
    assert_eq!(
        (&definitions["com.example.Unused"], &swagger.body["paths"]["/version"]["description"]),
        (&Value::Null, &Value::Null)
    );

    assert_eq!(cluster.request(Method::DELETE, &path, &Value::Null).await.code, 200);
    cluster.until(things, |reply| reply.code == 404).await;
    cluster.until("/openapi/v2", |reply| !reply.text.contains("things.example.com")).await;
}

#[tokio::test]
async fn a_server_that_is_down_is_said_to_be_and_harms_nobody() {
    let (ca, up) = (Ca::new(), Arc::new(AtomicBool::new(false)));
    let address = extension(&ca, Arc::clone(&up)).await;
    let cluster = cluster(&ca, address).await;
    cluster.make(API_SERVICES, api_service(&ca, address.port())).await;
    let path = format!("{API_SERVICES}/v1.things.example.com");
    let reply = cluster.until(&path, |reply| !available(reply).0.is_empty()).await;
    assert_eq!(available(&reply), ("False", "FailedDiscoveryCheck"));
    let url = format!("https://localhost:{}/apis/things.example.com/v1", address.port());
    let text = format!("failing or missing response from {url}: bad status from {url}: 500");
    assert_eq!(reply.body["status"]["conditions"][0]["message"], text);
    let reply = cluster.get("/apis/things.example.com/v1/namespaces/default/things").await;
    assert_eq!((reply.code, reply.text.as_str()), (503, "service unavailable\n"));
    assert_eq!(cluster.get("/apis/apps/v1/deployments").await.code, 200);
    up.store(true, Ordering::SeqCst);
    cluster.until(&path, |reply| available(reply) == ("True", "Passed")).await;
    let lost = json!({"metadata": {"name": "v1.lost.example.com"}, "spec": {"group": "lost.example.com", "version": "v1",
        "groupPriorityMinimum": 100, "versionPriority": 15, "insecureSkipTLSVerify": true,
        "service": {"namespace": "ns", "name": "nowhere"}}});
    cluster.make(API_SERVICES, lost).await;
    let reply =
        cluster.until(&format!("{API_SERVICES}/v1.lost.example.com"), |reply| !available(reply).0.is_empty()).await;
    assert_eq!(reply.body["status"]["conditions"][0]["message"], "service/nowhere in \"ns\" is not present");
}
