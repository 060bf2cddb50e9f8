//! What other API servers serve, laid into our discovery documents.
//!
//! Each server is asked for its aggregated document, or, if it has none, for the plain one of the group version. What it said
//! last is kept when it stops answering, and marked stale.

use std::time::{Duration, Instant};

use ::bytes::Bytes;
use api::json;
use api::{Map, Value};

use super::proxy::{self, Asked};
use super::{Aggregation, ApiService, openapi};
use crate::gateway::Gateway;
use crate::outbound::Limits;
use crate::source::ObjectSource;

/// A server's documents are asked for again after this; upstream's refresh interval.
const REFRESH: Duration = Duration::from_secs(60);
const FETCH: Limits = Limits { timeout: Duration::from_secs(5), response_bytes_max: 16 << 20 };
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// What one APIService serves.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// The version's entry in the aggregated form, without freshness.
    version: Value,
    stale: bool,
    /// Path of its OpenAPI v3 document with the hash, as its server's index has it.
    openapi: Option<String>,
    /// Its part in the document of OpenAPI v2.
    pub(super) swagger: Option<openapi::Part>,
    fetched: Instant,
    /// The server it was fetched from: another one is asked at once.
    remote: super::Remote,
}

/// Asks an API server what it serves, unless that is known well enough.
pub(super) async fn refresh(gateway: &Gateway, service: &ApiService, available: bool) {
    let Some(remote) = &service.remote else { return };
    let known = gateway.aggregation.served.lock().get(&service.name).cloned();
    let current = known.as_ref().filter(|known| known.remote == *remote);
    if available && current.is_some_and(|known| !known.stale && known.fetched.elapsed() < REFRESH) {
        return;
    }
    let fetched =
        if available { Box::pin(fetch(gateway, service)).await } else { Err("service unavailable".to_owned()) };
    if let Err(error) = &fetched {
        tracing::debug!(%error, name = service.name, "no discovery document of an aggregated API server");
    }
    let stale = fetched.is_err();
    let version = match (fetched, current) {
        (Ok(version), _) => version,
        (Err(_), Some(known)) => known.version.clone(),
        (Err(_), None) => json!({"version": service.version}),
    };
    let (openapi, swagger) = match (stale, current) {
        (true, known) => known.map(|known| (known.openapi.clone(), known.swagger.clone())).unwrap_or_default(),
        (false, _) => {
            let path = openapi_path(gateway, service).await;
            (path, Box::pin(openapi::fetch(gateway, service, FETCH)).await)
        }
    };
    let served = Served { version, stale, openapi, swagger, fetched: Instant::now(), remote: remote.clone() };
    gateway.aggregation.served.lock().insert(service.name.clone(), served);
}

async fn fetch(gateway: &Gateway, service: &ApiService) -> Result<Value, String> {
    let remote = service.remote.as_ref().ok_or("local")?;
    let authority = gateway.services.resolve(&remote.namespace, &remote.name, remote.port)?;
    let asked = Asked { path: "/apis", accept: AGGREGATED, etag: None };
    let response = proxy::ask(gateway, service, &authority, asked, FETCH).await?;
    let content_type = response.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if response.status() == 200 && content_type.contains("as=APIGroupDiscoveryList") && content_type.contains("v=v2") {
        let document: Value = Value::from_json(response.body()).map_err(|error| error.to_string())?;
        return Ok(version_of(&document, service).unwrap_or_else(|| json!({"version": service.version})));
    }
    let document = proxy::document(gateway, service, &service.root(), FETCH).await?;
    Ok(from_resource_list(&service.version, &document))
}

fn version_of(document: &Value, service: &ApiService) -> Option<Value> {
    let groups = document["items"].as_array()?;
    let group = groups.iter().find(|group| group["metadata"]["name"].as_str().unwrap_or("") == service.group)?;
    let mut version = group["versions"].as_array()?.iter().find(|v| v["version"] == service.version)?.clone();
    version.as_object_mut()?.remove("freshness");
    Some(version)
}

/// An APIResourceList in the aggregated form.
fn from_resource_list(version: &str, document: &Value) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    let listed = || document["resources"].as_array().into_iter().flatten();
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or("").to_owned();
    let kind = |item: &Value| json!({"group": text(item, "group"), "version": text(item, "version"), "kind": text(item, "kind")});
    for item in listed().filter(|item| !text(item, "name").contains('/')) {
        let mut resource = json!({
            "resource": item["name"], "responseKind": kind(item),
            "scope": if item["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": text(item, "singularName"), "verbs": item["verbs"],
        });
        for list in ["shortNames", "categories"] {
            if item[list].is_array() {
                resource[list] = item[list].clone();
            }
        }
        let prefix = format!("{}/", text(item, "name"));
        let subresources: Vec<Value> = listed()
            .filter_map(|sub| {
                let name = text(sub, "name").strip_prefix(&prefix)?.to_owned();
                Some(json!({"subresource": name, "responseKind": kind(sub), "verbs": sub["verbs"]}))
            })
            .collect();
        if !subresources.is_empty() {
            resource["subresources"] = subresources.into();
        }
        resources.push(resource);
    }
    json!({"version": version, "resources": resources})
}

/// Where the server's own index says its OpenAPI v3 document is.
async fn openapi_path(gateway: &Gateway, service: &ApiService) -> Option<String> {
    let index = proxy::document(gateway, service, "/openapi/v3", FETCH).await.ok()?;
    let path = service.root().trim_start_matches('/').to_owned();
    index["paths"][&path]["serverRelativeURL"].as_str().map(str::to_owned)
}

impl Aggregation {
    /// Forgets servers whose APIService is gone.
    pub(super) fn forget_all_but(&self, services: &[ApiService]) {
        let is_remote = |name: &String| services.iter().any(|s| s.name == *name && s.remote.is_some());
        self.served.lock().retain(|name, _| is_remote(name));
    }

    /// Is there anything to lay into our documents?
    pub(crate) fn has_remotes(&self, source: &dyn ObjectSource) -> bool {
        self.table(source).any_remote
    }

    /// An APIGroupList with the groups and versions of others, in order of priority.
    pub(crate) fn merge_group_list(&self, source: &dyn ObjectSource, document: &[u8]) -> Option<Bytes> {
        let table = self.table(source);
        let mut document: Value = Value::from_json(document).ok()?;
        let groups = document["groups"].as_array_mut()?;
        for service in table.services.iter().filter(|service| service.remote.is_some() && !service.group.is_empty()) {
            let group = match groups.iter_mut().position(|group| group["name"] == service.group) {
                Some(at) => &mut groups[at],
                None => {
                    groups.push(json!({"name": service.group, "versions": [], "preferredVersion": {}}));
                    groups.last_mut()?
                }
            };
            let listed = group["versions"].as_array_mut()?;
            let group_version = format!("{}/{}", service.group, service.version);
            if !listed.iter().any(|version| version["version"] == service.version) {
                listed.push(json!({"groupVersion": group_version, "version": service.version}));
            }
            sort_versions(&table, &service.group, listed);
            group["preferredVersion"] = group["versions"][0].clone();
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group_priority(&table, group["name"].as_str().unwrap_or(""))));
        Some(format!("{document}\n").into())
    }

    /// `/apis/GROUP` of a group that has versions elsewhere; `ours` is the document of what is served here.
    pub(crate) fn merge_group(&self, source: &dyn ObjectSource, name: &str, ours: Option<&[u8]>) -> Option<Bytes> {
        let table = self.table(source);
        if !table.services.iter().any(|service| service.group == name && service.remote.is_some()) {
            return None;
        }
        let own: Option<Value> = ours.and_then(|bytes| Value::from_json(bytes).ok());
        let groups: Vec<Value> = own.into_iter().collect();
        let list = self.merge_group_list(source, json!({"groups": groups}).to_string().as_bytes())?;
        let list: Value = Value::from_json(&list).ok()?;
        let found = list["groups"].as_array()?.iter().find(|group| group["name"] == name)?;
        let mut document = Map::new();
        document.insert("kind", "APIGroup".into());
        document.insert("apiVersion", "v1".into());
        document.extend(
            found
                .as_object()?
                .iter()
                .filter(|(key, _)| !["kind", "apiVersion"].contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        Some(format!("{}\n", Value::Object(document)).into())
    }

    /// The aggregated document of `/apis` with what others serve.
    pub(crate) fn merge_aggregated(&self, source: &dyn ObjectSource, document: &[u8]) -> Option<Bytes> {
        let table = self.table(source);
        let mut document: Value = Value::from_json(document).ok()?;
        let items = document["items"].as_array_mut()?;
        let served = self.served.lock();
        for service in table.services.iter().filter(|service| service.remote.is_some() && !service.group.is_empty()) {
            let (mut version, stale) = match served.get(&service.name) {
                Some(served) => (served.version.clone(), served.stale),
                None => (json!({"version": service.version}), true),
            };
            version["freshness"] = if stale { "Stale" } else { "Current" }.into();
            let item = match items.iter().position(|item| item["metadata"]["name"] == service.group) {
                Some(at) => &mut items[at],
                None => {
                    items.push(json!({"metadata": {"name": service.group}, "versions": []}));
                    items.last_mut()?
                }
            };
            let versions = item["versions"].as_array_mut()?;
            versions.retain(|version| version["version"] != service.version);
            versions.push(version);
            sort_versions(&table, &service.group, versions);
        }
        items.sort_by_key(|item| {
            std::cmp::Reverse(group_priority(&table, item["metadata"]["name"].as_str().unwrap_or("")))
        });
        Some(format!("{document}\n").into())
    }

    /// The index of OpenAPI v3 with the documents of others.
    pub(crate) fn merge_openapi_index(&self, source: &dyn ObjectSource, index: &[u8]) -> Option<Bytes> {
        let table = self.table(source);
        let mut document: Value = Value::from_json(index).ok()?;
        let served = self.served.lock();
        for service in table.services.iter().filter(|service| service.remote.is_some()) {
            if let Some(url) = served.get(&service.name).and_then(|served| served.openapi.clone()) {
                let path = service.root().trim_start_matches('/').to_owned();
                document["paths"][path] = json!({"serverRelativeURL": url});
            }
        }
        Some(document.to_string().into())
    }
}

/// Highest priority first; what has none comes as it was.
fn sort_versions(table: &super::Table, group: &str, versions: &mut [Value]) {
    let priority = |version: &str| {
        let found = table.services.iter().find(|service| service.group == group && service.version == version);
        found.map_or(0, |service| service.version_priority)
    };
    versions.sort_by_key(|version| std::cmp::Reverse(priority(version["version"].as_str().unwrap_or(""))));
}

/// The registration's own group comes first, whatever others claim.
fn group_priority(table: &super::Table, group: &str) -> i64 {
    if group == super::GROUP {
        return i64::MAX;
    }
    let of_group = table.services.iter().filter(|service| service.group == group);
    of_group.map(|service| service.group_priority).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    fn aggregation() -> (Aggregation, MemorySource) {
        let source = MemorySource::new();
        let put = |group: &str, version: &str, priority: i64, service: Value| {
            let spec = json!({"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 10,
                "service": service});
            source.put(
                super::super::GROUP,
                super::super::RESOURCE,
                json!({"metadata": {"name": format!("{version}.{group}")}, "spec": spec}),
            );
        };
        put("apps", "v1", 17800, Value::Null);
        put("batch", "v1", 17400, Value::Null);
        put("metrics.k8s.io", "v1beta1", 17500, json!({"namespace": "kube-system", "name": "metrics-server"}));
        (Aggregation::default(), source)
    }

    #[test]
    fn groups_of_others_stand_where_their_priority_puts_them() {
        let (aggregation, source) = aggregation();
        let group = |name: &str| {
            json!({"name": name, "versions": [{"groupVersion": format!("{name}/v1"), "version": "v1"}],
            "preferredVersion": {"groupVersion": format!("{name}/v1"), "version": "v1"}})
        };
        let ours =
            json!({"kind": "APIGroupList", "groups": [group("apiregistration.k8s.io"), group("apps"), group("batch")]});
        let merged = aggregation.merge_group_list(&source, ours.to_string().as_bytes()).unwrap();
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        let names: Vec<&str> = merged["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
        assert_eq!(names, ["apiregistration.k8s.io", "apps", "metrics.k8s.io", "batch"]);
        let document = aggregation.merge_group(&source, "metrics.k8s.io", None).unwrap();
        let version = json!({"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"});
        let want = json!({"kind": "APIGroup", "apiVersion": "v1", "name": "metrics.k8s.io", "versions": [version],
            "preferredVersion": version});
        assert_eq!(serde_json::from_slice::<Value>(&document).unwrap(), want);
        assert_eq!(aggregation.merge_group(&source, "apps", None), None);
    }

    #[test]
    fn a_server_that_never_answered_is_listed_as_stale() {
        let (aggregation, source) = aggregation();
        let ours =
            json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "freshness": "Current"}]}]});
        let merged = aggregation.merge_aggregated(&source, ours.to_string().as_bytes()).unwrap();
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        let want =
            json!({"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale"}]});
        assert_eq!(merged["items"][1], want);
    }

    #[test]
    fn a_plain_resource_list_becomes_an_aggregated_entry() {
        let list = json!({"resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]},
            {"name": "pods/status", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get"]},
        ]});
        let want = json!({"version": "v1beta1", "resources": [{
            "resource": "pods", "responseKind": {"group": "", "version": "", "kind": "PodMetrics"}, "scope": "Namespaced",
            "singularResource": "pod", "verbs": ["get", "list"],
            "subresources": [{"subresource": "status", "responseKind": {"group": "", "version": "", "kind": "PodMetrics"}, "verbs": ["get"]}],
        }]});
        assert_eq!(from_resource_list("v1beta1", &list), want);
    }
}
