//! The driver against a few canned answers of an API server: what it asks for and what it writes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use client::{Connection, InformerFactory, Shutdown};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Scheduler, SchedulerConfig};

/// A write the scheduler made: path and body.
type Write = (String, Value);

fn list(path: &str, pods: &Value, nodes: &Value) -> Value {
    let items = match path {
        "/api/v1/pods" => pods.clone(),
        "/api/v1/nodes" => nodes.clone(),
        _ => json!([]),
    };
    json!({"metadata": {"resourceVersion": "1"}, "items": items})
}

/// Runs the scheduler until it has made `count` writes that are not events.
async fn writes(pods: Value, nodes: Value, count: usize) -> Vec<Write> {
    writes_to(|path| !path.ends_with("/events"), pods, nodes, count).await
}

/// Runs the scheduler until it has made `count` writes to paths that are wanted.
async fn writes_to(is_wanted: fn(&str) -> bool, pods: Value, nodes: Value, count: usize) -> Vec<Write> {
    let (sender, mut written) = mpsc::unbounded_channel::<Write>();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (sender, pods, nodes) = (sender.clone(), pods.clone(), nodes.clone());
        async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path().to_owned();
            if head.method == Method::GET {
                if head.uri.query().unwrap_or_default().contains("watch=true") {
                    std::future::pending::<()>().await;
                }
                return Ok::<_, Infallible>(answer(&list(&path, &pods, &nodes)));
            }
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if is_wanted(&path) {
                let _ = sender.send((path, body.clone()));
            }
            let stub =
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}});
            Ok(answer(&stub))
        }
    });
    let connection = Connection::in_process(service, "kube-scheduler").unwrap();
    let shutdown = Shutdown::new();
    let config = SchedulerConfig { seed: Some(1), ..SchedulerConfig::default() };
    let informers = InformerFactory::new(connection.clone(), shutdown.clone());
    let running = tokio::spawn(Scheduler::new(connection, informers, config).run(shutdown.clone()));
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), written.recv()).await;
        seen.push(next.expect("the scheduler writes in time").expect("the scheduler runs"));
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
    seen
}

fn answer(body: &Value) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(body.to_string())))
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "9"}}})
}

fn pod(cpu: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

#[tokio::test]
async fn waiting_pod_is_bound_through_the_binding_subresource() {
    let writes = writes(json!([pod("2")]), json!([node("small", "1"), node("large", "4")]), 1).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": "d", "name": "p", "uid": "u"}, "target": {"kind": "Node", "name": "large"}});
    assert_eq!(writes, [("/api/v1/namespaces/d/pods/p/binding".to_owned(), binding)]);
}

#[tokio::test]
async fn pod_that_fits_nowhere_gets_the_reason_as_its_condition() {
    let writes = writes(json!([pod("2")]), json!([node("small", "1")]), 1).await;
    let (path, patch) = &writes[0];
    assert_eq!(path, "/api/v1/namespaces/d/pods/p/status");
    let condition = &patch["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(
        condition["message"],
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
         0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
}

#[tokio::test]
async fn what_happened_is_told_in_events_of_the_newer_group() {
    let is_event = |path: &str| path.ends_with("/events");
    let nodes = json!([node("large", "4")]);
    for (cpu, type_, reason, action, note) in [
        ("2", "Normal", "Scheduled", "Binding", "Successfully assigned d/p to large"),
        ("8", "Warning", "FailedScheduling", "Scheduling", "0/1 nodes are available: 1 Insufficient cpu."),
    ] {
        let (path, event) = writes_to(is_event, json!([pod(cpu)]), nodes.clone(), 1).await.remove(0);
        assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/d/events");
        let told = ["type", "reason", "action", "reportingController"].map(|field| event[field].as_str().unwrap());
        assert_eq!(told, [type_, reason, action, "default-scheduler"]);
        assert!(event["note"].as_str().unwrap().starts_with(note), "{event}");
        assert!(event["reportingInstance"].as_str().unwrap().starts_with("default-scheduler-"), "{event}");
        assert!(event["eventTime"].is_string(), "{event}");
        assert_eq!((&event["regarding"]["kind"], &event["regarding"]["uid"]), (&json!("Pod"), &json!("u")));
    }
}
