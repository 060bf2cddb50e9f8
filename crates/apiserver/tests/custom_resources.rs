//! Custom resources: definitions made at run time, and the objects they describe.

mod support;

use api::{Value, json};
use base64::Engine as _;
use http::Method;
use http_body_util::BodyExt as _;
use support::{Ca, Cluster, Seen, respond, stub};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition of widgets; `more` is laid over its only version.
fn definition(more: Value) -> Value {
    let mut version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        version[key] = value;
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wg"]}},
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

fn condition<'v>(definition: &'v Value, kind: &str) -> &'v Value {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

async fn define(cluster: &Cluster, definition: Value) {
    cluster.make(DEFINITIONS, definition).await;
    cluster.until(DEFINITION, |reply| condition(&reply.body, "Established")["status"] == "True").await;
}

#[tokio::test]
async fn an_established_definition_is_served_at_once() {
    let cluster = Cluster::start().await;
    define(&cluster, definition(json!({"selectableFields": [{"jsonPath": ".spec.color"}]}))).await;
    let made = cluster.post(WIDGETS, widget("a", json!({"size": 3, "bogus": 1}))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"], json!({"size": 3, "color": "red"}));
    assert_eq!(made.body["metadata"]["generation"], 1);
    assert_eq!(made.warnings, ["299 - \"unknown field \\\"spec.bogus\\\"\""]);
    let refused = cluster.post(WIDGETS, widget("b", json!({"size": 0}))).await;
    assert_eq!(
        refused.message(),
        "Widget.example.com \"b\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
    );
    let listed = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(listed.body["kind"], "WidgetList");
    assert_eq!(listed.body["items"][0]["apiVersion"], "example.com/v1");
    let none = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!(none.body["items"], json!([]));
    let resources = cluster.get("/apis/example.com/v1").await;
    assert_eq!(resources.body["resources"][0]["shortNames"], json!(["wg"]));
    let group = cluster.get("/apis/example.com").await;
    assert_eq!(group.body["preferredVersion"]["version"], "v1");
    assert_eq!(cluster.get("/openapi/v3/apis/example.com/v1").await.code, 200);
    assert_eq!(cluster.get("/apis/example.com/v1/namespaces/default/gadgets").await.text, "404 page not found\n");
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_with_it() {
    let cluster = Cluster::start().await;
    define(&cluster, definition(json!({}))).await;
    let mut held = widget("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.make(WIDGETS, held).await;
    cluster.make(WIDGETS, widget("free", json!({"size": 1}))).await;
    let deleted = cluster.request(Method::DELETE, DEFINITION, &Value::Null).await;
    assert_eq!(condition(&deleted.body, "Terminating")["status"], "True");
    cluster.until(&format!("{WIDGETS}/free"), |reply| reply.code == 404).await;
    let refused = cluster.post(WIDGETS, widget("late", json!({"size": 1}))).await;
    assert_eq!(
        refused.message(),
        "widgets.example.com \"late\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    assert_eq!(cluster.get(DEFINITION).await.code, 200);
    let path = format!("{WIDGETS}/held");
    let released = cluster.request(Method::PATCH, &path, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{}", released.text);
    cluster.until(DEFINITION, |reply| reply.code == 404).await;
    cluster.until(WIDGETS, |reply| reply.text == "404 page not found\n").await;
    // The name is free again.
    define(&cluster, definition(json!({}))).await;
    assert_eq!(cluster.get(WIDGETS).await.body["items"], json!([]));
}

#[tokio::test]
async fn objects_are_shown_by_the_schema_of_today() {
    let cluster = Cluster::start().await;
    define(&cluster, definition(json!({}))).await;
    cluster.make(WIDGETS, widget("a", json!({"size": 3}))).await;
    let mut object = cluster.get(DEFINITION).await.body;
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["shape"] =
        json!({"type": "string", "default": "round"});
    let updated = cluster.request(Method::PUT, DEFINITION, &object).await;
    assert_eq!(updated.code, 200, "{}", updated.text);
    let path = format!("{WIDGETS}/a");
    let shown = cluster.until(&path, |reply| reply.body["spec"]["shape"] == "round").await;
    assert_eq!(shown.body["spec"], json!({"size": 3, "color": "red", "shape": "round"}));
    let listed = cluster.until(WIDGETS, |reply| reply.body["items"][0]["spec"]["shape"] == "round").await;
    assert_eq!(listed.body["items"][0]["metadata"], shown.body["metadata"]);
}

#[tokio::test]
async fn the_status_is_written_alone_and_the_scale_is_part_of_the_object() {
    let cluster = Cluster::start().await;
    let version = json!({"subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size",
        "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}}});
    define(&cluster, definition(version)).await;
    let mut object = widget("a", json!({"size": 3}));
    object["status"] = json!({"size": 9});
    let made = cluster.post(WIDGETS, object).await;
    assert_eq!(made.body["status"], Value::Null);
    let status = format!("{WIDGETS}/a/status");
    let patch = json!({"spec": {"size": 7}, "status": {"size": 2, "selector": "a=b"}});
    let written = cluster.request(Method::PATCH, &status, &patch).await;
    assert_eq!((&written.body["spec"]["size"], &written.body["status"]["size"]), (&json!(3), &json!(2)));
    assert_eq!(written.body["metadata"]["generation"], 1);
    let scale = format!("{WIDGETS}/a/scale");
    let shown = cluster.get(&scale).await.body;
    assert_eq!(
        (&shown["spec"], &shown["status"]),
        (&json!({"replicas": 3}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let scaled = cluster.request(Method::PATCH, &scale, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scaled.body["spec"]["replicas"], 5, "{}", scaled.text);
    assert_eq!(cluster.get(&format!("{WIDGETS}/a")).await.body["spec"]["size"], 5);
    assert_eq!(cluster.get(&format!("{WIDGETS}/a/log")).await.code, 404);
}

/// Converts `size` of v1 to `bytes` of v2 (a thousand times as many) and back.
async fn converter(ca: &Ca) -> std::net::SocketAddr {
    stub(ca, &["convert.ns.svc"], |Seen { request, .. }| {
        Box::pin(async move {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("a review");
            let wanted = review["request"]["desiredAPIVersion"].clone();
            let objects = review["request"]["objects"].as_array().cloned().unwrap_or_default();
            let convert = |mut object: Value| {
                let spec = object["spec"].as_object_mut().expect("a spec");
                if wanted == "example.com/v2" {
                    let size = spec.remove("size").and_then(|n| n.as_i64()).unwrap_or(0);
                    spec.insert("bytes".to_owned(), (size * 1000).into());
                } else {
                    let bytes = spec.remove("bytes").and_then(|n| n.as_i64()).unwrap_or(0);
                    spec.insert("size".to_owned(), (bytes / 1000).into());
                }
                object["apiVersion"] = wanted.clone();
                object
            };
            let converted: Vec<Value> = objects.into_iter().map(convert).collect();
            let response = json!({"uid": review["request"]["uid"], "result": {"status": "Success"},
                "convertedObjects": converted});
            respond(
                200,
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}),
            )
        })
    })
    .await
}

#[tokio::test]
async fn versions_that_differ_are_converted_by_their_webhook() {
    let ca = Ca::new();
    let address = converter(&ca).await;
    let cluster = Cluster::start().await;
    let mut object = definition(json!({"selectableFields": [{"jsonPath": ".spec.size"}]}));
    let v2 = json!({"name": "v2", "served": true, "storage": false,
        "selectableFields": [{"jsonPath": ".spec.bytes"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "bytes": {"type": "integer"}, "color": {"type": "string"}}}}}}});
    object["spec"]["versions"].as_array_mut().expect("versions").push(v2);
    let bundle = base64::prelude::BASE64_STANDARD.encode(&ca.pem);
    object["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{address}/convert"), "caBundle": bundle}}});
    define(&cluster, object).await;
    const V2: &str = "/apis/example.com/v2/namespaces/default/widgets";
    cluster.make(WIDGETS, widget("a", json!({"size": 3}))).await;
    let shown = cluster.get(&format!("{V2}/a")).await;
    assert_eq!(shown.body["spec"], json!({"color": "red", "bytes": 3000}), "{}", shown.text);
    assert_eq!(shown.body["apiVersion"], "example.com/v2");
    let mut other = widget("b", json!({"bytes": 7000}));
    other["apiVersion"] = "example.com/v2".into();
    let made = cluster.post(V2, other).await;
    assert_eq!((made.code, &made.body["spec"]["bytes"]), (201, &json!(7000)), "{}", made.text);
    assert_eq!(cluster.get(&format!("{WIDGETS}/b")).await.body["spec"]["size"], 7);
    let patched = cluster.request(Method::PATCH, &format!("{V2}/a"), &json!({"spec": {"bytes": 9000}})).await;
    assert_eq!((patched.code, &patched.body["spec"]["bytes"]), (200, &json!(9000)), "{}", patched.text);
    let names = |reply: support::Reply| -> Vec<Value> {
        reply.body["items"].as_array().into_iter().flatten().map(|i| i["metadata"]["name"].clone()).collect()
    };
    assert_eq!(names(cluster.get(V2).await), ["a", "b"]);
    assert_eq!(names(cluster.get(&format!("{V2}?fieldSelector=spec.bytes%3D7000")).await), ["b"]);
    assert_eq!(names(cluster.get(&format!("{V2}?fieldSelector=spec.bytes%3D9000&limit=5")).await), ["a"]);
    let watched = cluster.get(&format!("{V2}?watch=1&timeoutSeconds=1&fieldSelector=spec.bytes%3D9000")).await;
    let event: Value = serde_json::from_str(watched.text.lines().next().unwrap_or("")).expect("an event");
    assert_eq!((&event["type"], &event["object"]["spec"]["bytes"]), (&json!("ADDED"), &json!(9000)));
    let before = made.body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let selected = format!("{V2}?watch=1&timeoutSeconds=1&resourceVersion={before}&fieldSelector=spec.bytes%3D9000");
    let watched = cluster.get(&selected).await;
    let event: Value = serde_json::from_str(watched.text.lines().next().unwrap_or("")).expect("an event");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
}

#[tokio::test]
async fn a_conversion_that_fails_is_told() {
    let cluster = Cluster::start().await;
    let mut object = definition(json!({}));
    let v2 = json!({"name": "v2", "served": true, "storage": false,
        "schema": {"openAPIV3Schema": {"type": "object"}}});
    object["spec"]["versions"].as_array_mut().expect("versions").push(v2);
    object["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "ns", "name": "none"}}}});
    define(&cluster, object).await;
    cluster.make(WIDGETS, widget("a", json!({"size": 3}))).await;
    let refused = cluster.get("/apis/example.com/v2/namespaces/default/widgets/a").await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            500,
            "conversion webhook for example.com/v1, Kind=Widget failed: Post \
             \"https://none.ns.svc:443/?timeout=30s\": service \"none\" not found"
        )
    );
}

#[tokio::test]
async fn what_custom_resources_are_refused_with() {
    let cluster = Cluster::start().await;
    let properties = json!({"spec": {"type": "object", "properties": {
        "half": {"type": "number", "multipleOf": 0.5}, "size": {"type": "integer"}}}});
    let version = json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}});
    define(&cluster, definition(version)).await;
    // Beside a whole number the factor is cut to one.
    let refused = cluster.post(WIDGETS, widget("b", json!({"half": 1}))).await;
    let text = "Widget.example.com \"b\" is invalid: spec.half: Invalid value: 0: factor MultipleOf declared for spec.half must be \
                positive: 0";
    assert_eq!(refused.message(), text);
    let made = cluster
        .send(
            Method::POST,
            WIDGETS,
            &[("content-type", "application/json")],
            widget("a", json!({"size": 1})).to_string().replace(":1}", ":1.0}"),
        )
        .await;
    assert!(made.text.contains("\"size\":1}"), "{}", made.text);
    let path = format!("{WIDGETS}/a");
    let renamed = cluster.request(Method::PATCH, &path, &json!({"metadata": {"uid": "x"}})).await;
    let causes = renamed.body["details"]["causes"].as_array().map_or(0, Vec::len);
    assert_eq!(causes, 2, "told twice: {}", renamed.text);
    let other = cluster.request(Method::PATCH, &path, &json!({"apiVersion": "example.com/v9"})).await;
    let text =
        "Widget.example.com \"a\" is invalid: apiVersion: Invalid value: \"example.com/v9\": must be example.com/v1";
    assert_eq!(other.message(), text);
    let finalized = cluster.request(Method::PATCH, &path, &json!({"metadata": {"finalizers": ["abc", "a.b"]}})).await;
    assert!(finalized.warnings[0].contains("name including a path (/) to"), "{:?}", finalized.warnings);
    assert!(finalized.warnings[1].contains("name to avoid"), "{:?}", finalized.warnings);
}
