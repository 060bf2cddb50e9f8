//! Objects to measure with, and creating many of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{PostParams, Request};
use kube::{Api, Resource};
use serde::Serialize;
use serde_json::{Value, json};

/// Requests on their way at the same time.
const IN_FLIGHT: usize = 32;
/// Bytes of a ConfigMap's one value.
const VALUE_BYTES: usize = 512;

/// How long it took to create all of them. Answers are received whole and not read further: the one who measures shares the
/// machine with what it measures.
pub(crate) async fn create_all<K>(api: &Api<K>, objects: impl Iterator<Item = K>) -> Result<Duration>
where
    K: Clone + Resource + Serialize,
{
    let started = Instant::now();
    let create = |object| async move {
        let request = Request::new(api.resource_url()).create(&PostParams::default(), serde_json::to_vec(&object)?)?;
        api.clone().into_client().request_text(request).await?;
        anyhow::Ok(())
    };
    stream::iter(objects).map(create).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    Ok(started.elapsed())
}

pub(crate) fn config_map(name: String) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name);
    object.data = Some(BTreeMap::from([("key".to_owned(), "x".repeat(VALUE_BYTES))]));
    object
}

/// A pod as people write them: two containers with ports, resources, variables and probes.
pub(crate) fn pod_spec() -> Value {
    let container = |name: &str| {
        json!({
            "name": name,
            "image": format!("registry.example/{name}:1.4.2"),
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "env": [{ "name": "LEVEL", "value": "info" }, { "name": "REGION", "value": "north" }],
            "resources": { "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "memory": "128Mi" } },
            "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 5 },
        })
    };
    json!({ "containers": [container("web"), { "name": "log", "image": "registry.example/log:2" }] })
}

pub(crate) fn pod(name: String) -> Result<Pod> {
    let metadata = json!({ "name": name, "labels": { "app": "web", "tier": "front" } });
    Ok(serde_json::from_value(json!({ "metadata": metadata, "spec": pod_spec() }))?)
}
