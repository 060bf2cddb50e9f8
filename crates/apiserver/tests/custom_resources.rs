//! Custom resources: definitions made at run time, and the objects they describe.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::Cluster;

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
