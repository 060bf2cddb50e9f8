//! Are the servers of APIServices there? The answer is a condition of the object.

use std::sync::Arc;
use std::time::Duration;

use api::json;
use api::{Value, meta};
use futures::StreamExt as _;
use http::Method;
use tokio::sync::watch;

use super::proxy::{self, Asked};
use super::{ApiService, GROUP, RESOURCE, Remote, discovery, registration};
use crate::gateway::Gateway;
use crate::outbound::Limits;
use crate::serve::stopped;
use crate::source::ObjectSource;
use crate::startup::{settle, write};

/// Everything is looked at again after this.
const RESYNC: Duration = Duration::from_secs(30);
/// What is not available is looked at again sooner, each time after twice as long.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Changes that come together are answered together.
const GATHER: Duration = Duration::from_millis(100);
/// Checks under way at once.
const CHECKS_AT_ONCE: usize = 16;
/// Tries of one check, at once; one that succeeds is enough.
const ATTEMPTS: usize = 5;
const CHECK: Limits = Limits { timeout: Duration::from_secs(5), response_bytes_max: 4 << 20 };

/// What the checks depend on.
const WATCHED: [(&str, &str); 4] = [
    (GROUP, RESOURCE),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
];

/// Registers, checks and discovers until the stop.
pub(crate) async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = gateway.cache.changes();
    let mut retry = RETRY_MIN;
    loop {
        let seen = WATCHED.map(|(group, resource)| gateway.cache.last_change(group, resource));
        if let Err(status) = settle(&gateway, |gateway| registration::custom(gateway.cache.as_ref())).await {
            tracing::warn!(%status, "cannot register the groups of custom resources");
        }
        let all_available = Box::pin(check_all(&gateway)).await;
        retry = if all_available { RETRY_MIN } else { (retry * 2).min(RESYNC) };
        let due = tokio::time::sleep(if all_available { RESYNC } else { retry });
        let mut due = std::pin::pin!(due);
        loop {
            tokio::select! {
                () = due.as_mut() => break,
                () = stopped(&mut shutdown) => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = WATCHED.map(|(group, resource)| gateway.cache.last_change(group, resource));
                    if now != seen {
                        tokio::time::sleep(GATHER).await;
                        break;
                    }
                }
            }
        }
    }
}

/// Checks every APIService. True: all are available.
async fn check_all(gateway: &Arc<Gateway>) -> bool {
    let services = gateway.aggregation.table(gateway.cache.as_ref());
    let checks = futures::stream::iter(services.services.clone()).map(|service| async move {
        let verdict = verdict(gateway, &service).await;
        let available = verdict.status == "True";
        if service.remote.is_some() {
            discovery::refresh(gateway, &service, available).await;
        }
        if let Err(status) = report(gateway, &service.name, &verdict).await {
            tracing::warn!(%status, name = service.name, "cannot report the availability of an APIService");
        }
        available
    });
    let results: Vec<bool> = checks.buffer_unordered(CHECKS_AT_ONCE).collect().await;
    gateway.aggregation.forget_all_but(&services.services);
    results.into_iter().all(|available| available)
}

/// The Available condition as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

async fn verdict(gateway: &Gateway, service: &ApiService) -> Verdict {
    let Some(remote) = &service.remote else {
        let message = "Local APIServices are always available".to_owned();
        return Verdict { status: "True", reason: "Local", message };
    };
    if let Some(verdict) =
        obstacle(gateway.cache.as_ref(), &gateway.services.slices(&remote.namespace, &remote.name), remote)
    {
        return verdict;
    }
    let attempts = (0..ATTEMPTS).map(|_| Box::pin(attempt(gateway, service, remote)));
    match futures::future::select_ok(attempts).await {
        Ok(_) => Verdict { status: "True", reason: "Passed", message: "all checks passed".to_owned() },
        Err(message) => Verdict { status: "False", reason: "FailedDiscoveryCheck", message },
    }
}

/// What the objects alone say against a server.
fn obstacle(source: &dyn ObjectSource, slices: &[Value], remote: &Remote) -> Option<Verdict> {
    let missing = |reason: &'static str, message: String| Some(Verdict { status: "False", reason, message });
    let Remote { namespace, name, port, .. } = remote;
    let place = format!("service/{name} in {namespace:?}");
    let Some(service) = source.get("", "services", namespace, name).and_then(|stored| stored.parse()) else {
        return missing("ServiceNotFound", format!("{place} is not present"));
    };
    if service["spec"]["type"].as_str().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(found) = ports.find(|found| found["port"] == *port) else {
        return missing("ServicePortError", format!("{place} is not listening on port {port}"));
    };
    if slices.is_empty() {
        return missing("EndpointsNotFound", format!("cannot find endpointslices for {place}"));
    }
    let port_name = found["name"].as_str().unwrap_or("");
    let serves = |slice: &Value| {
        let ready = |endpoint: &Value| endpoint["conditions"]["ready"] != false;
        let named = |port: &Value| port["name"].as_str().unwrap_or("") == port_name && !port["port"].is_null();
        slice["endpoints"].as_array().is_some_and(|endpoints| endpoints.iter().any(ready))
            && slice["ports"].as_array().is_some_and(|ports| ports.iter().any(named))
    };
    if slices.iter().any(serves) {
        return None;
    }
    let message = format!("endpointslices for {place} have no addresses with port name {port_name:?}");
    missing("MissingEndpoints", message)
}

/// One try to get the document that every API server has.
async fn attempt(gateway: &Gateway, service: &ApiService, remote: &Remote) -> Result<(), String> {
    let authority = gateway.services.resolve(&remote.namespace, &remote.name, remote.port)?;
    let path = service.root();
    let asked = Asked { path: &path, accept: "application/json", etag: None };
    let url = format!("https://{authority}{path}");
    let failing = |error: String| format!("failing or missing response from {url}: {error}");
    let response = proxy::ask(gateway, service, &authority, asked, CHECK).await.map_err(failing)?;
    match response.status().as_u16() {
        200..=299 => Ok(()),
        code => Err(failing(format!("bad status from {url}: {code}"))),
    }
}

/// The Available condition of an APIService.
pub(super) fn condition(object: &Value) -> Option<&Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|condition| condition["type"] == "Available")
}

/// Writes the verdict into the object's status, if it is news.
async fn report(gateway: &Arc<Gateway>, name: &str, verdict: &Verdict) -> Result<(), api::Status> {
    let stored = gateway.cache.get(GROUP, RESOURCE, "", name).and_then(|stored| stored.parse());
    let Some(object) = stored.and_then(|object| with_condition(object, verdict, &crate::write::Moment::now().now))
    else {
        return Ok(());
    };
    match write(gateway, Method::PUT, GROUP, RESOURCE, "status", &object).await {
        // Somebody changed or deleted it: the next look sees how.
        Err(status) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}

/// The object with the condition; `None` when it has it already.
fn with_condition(mut object: Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let old = condition(&object);
    let same = |field: &str, text: &str| old.is_some_and(|old| old[field].as_str().unwrap_or("") == text);
    if same("status", verdict.status) && same("reason", verdict.reason) && same("message", &verdict.message) {
        return None;
    }
    let since = old.filter(|old| old["status"] == verdict.status).map(|old| old["lastTransitionTime"].clone());
    let fresh = json!({"type": "Available", "status": verdict.status, "lastTransitionTime": since.unwrap_or_else(|| now.into()),
        "reason": verdict.reason, "message": verdict.message});
    let others = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut conditions: Vec<Value> = others.into_iter().filter(|other| other["type"] != "Available").collect();
    conditions.push(fresh);
    object["status"] = json!({"conditions": conditions});
    debug_assert!(!meta::name(&object).is_empty());
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    #[test]
    fn what_stands_in_the_way_of_a_server_is_named() {
        let source = MemorySource::new();
        let remote = Remote { namespace: "ns".into(), name: "s".into(), port: 443, ..Remote::default() };
        let found = |slices: &[Value], source: &MemorySource| {
            obstacle(source, slices, &remote).map(|verdict| (verdict.reason, verdict.message))
        };
        let missing = found(&[], &source).unwrap();
        assert_eq!(missing, ("ServiceNotFound", "service/s in \"ns\" is not present".into()));
        let service = |port: i64| {
            json!({"metadata": {"name": "s", "namespace": "ns"},
            "spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}})
        };
        source.put("", "services", service(80));
        assert_eq!(found(&[], &source).unwrap().1, "service/s in \"ns\" is not listening on port 443");
        source.put("", "services", service(443));
        assert_eq!(found(&[], &source).unwrap().1, "cannot find endpointslices for service/s in \"ns\"");
        let slice = |ready: bool| {
            json!({"ports": [{"name": "https", "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
        };
        let text = "endpointslices for service/s in \"ns\" have no addresses with port name \"https\"";
        assert_eq!(found(&[slice(false)], &source).unwrap().1, text);
        assert_eq!(found(&[slice(true)], &source), None);
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let verdict = |message: &str| Verdict { status: "False", reason: "R", message: message.into() };
        let object = json!({"metadata": {"name": "a"}});
        let first = with_condition(object, &verdict("m"), "t1").unwrap();
        assert_eq!(with_condition(first.clone(), &verdict("m"), "t2"), None);
        let second = with_condition(first, &verdict("n"), "t2").unwrap();
        assert_eq!(
            (&condition(&second).unwrap()["message"], &condition(&second).unwrap()["lastTransitionTime"]),
            (&json!("n"), &json!("t1"))
        );
    }
}
