//! Aggregation: groups that other API servers serve, behind this one.
//!
//! An APIService names the server of one group version. [`registration`] keeps one for every version served here, [`availability`]
//! asks the others whether they are there, [`discovery`] lays what they serve into our documents, and [`proxy`] hands them their
//! requests, saying who asks in headers that a front-proxy certificate vouches for. A server that is down costs its own
//! requests a 503 and is marked stale in discovery; nobody waits for it.

mod availability;
mod discovery;
mod openapi;
mod proxy;
mod registration;

use std::collections::HashMap;
use std::sync::Arc;

use ::bytes::Bytes;
use api::Value;
use base64::Engine as _;
use parking_lot::Mutex;
use store::Revision;

use crate::http::path::Target;
use crate::outbound::{ClientCertificate, ClientIdentity, Tls};
use crate::source::{ObjectSource, StoredObject};

pub(crate) use availability::run;
pub(crate) use proxy::answer;
pub(crate) use registration::builtin;

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";

/// What is known of other API servers.
#[derive(Debug, Default)]
pub(crate) struct Aggregation {
    /// Shown to other servers; it vouches for the identity headers.
    front_proxy: Option<ClientCertificate>,
    table: Mutex<(Revision, Arc<Table>)>,
    /// What the servers serve, by APIService name.
    served: Mutex<HashMap<String, discovery::Served>>,
}

/// The APIServices, read again when one changes.
#[derive(Debug, Default)]
struct Table {
    services: Vec<ApiService>,
    any_remote: bool,
}

/// One APIService.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiService {
    pub name: String,
    pub group: String,
    pub version: String,
    group_priority: i64,
    version_priority: i64,
    available: bool,
    /// Where it is served, when not here.
    remote: Option<Remote>,
}

/// The Service behind which an API server listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Remote {
    namespace: String,
    name: String,
    port: i64,
    ca_bundle: Bytes,
    skip_verify: bool,
}

impl ApiService {
    fn parse(stored: &StoredObject) -> Option<Self> {
        let object = stored.parse()?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let remote = object.pointer("/spec/service").filter(|service| service.is_object()).map(|service| Remote {
            namespace: text("/spec/service/namespace"),
            name: text("/spec/service/name"),
            port: service["port"].as_i64().unwrap_or(443),
            ca_bundle: base64::prelude::BASE64_STANDARD.decode(text("/spec/caBundle")).unwrap_or_default().into(),
            skip_verify: object.pointer("/spec/insecureSkipTLSVerify") == Some(&Value::Bool(true)),
        });
        Some(Self {
            name: stored.name.clone(),
            group: text("/spec/group"),
            version: text("/spec/version"),
            group_priority: number("/spec/groupPriorityMinimum"),
            version_priority: number("/spec/versionPriority"),
            available: availability::condition(&object).is_some_and(|condition| condition["status"] == "True"),
            remote,
        })
    }

    /// `/apis/GROUP/VERSION`, or `/api/v1`.
    fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}

impl Remote {
    fn tls(&self, front_proxy: Option<ClientIdentity>) -> Tls {
        Tls {
            ca_pem: self.ca_bundle.clone(),
            skip_verify: self.skip_verify,
            server_name: Some(format!("{}.{}.svc", self.name, self.namespace)),
            identity: front_proxy,
        }
    }
}

impl Aggregation {
    pub(crate) fn new(front_proxy: Option<ClientCertificate>) -> Self {
        Self { front_proxy, ..Self::default() }
    }

    /// What remote servers are shown, as it is now.
    pub(crate) fn front_proxy(&self) -> Option<ClientIdentity> {
        self.front_proxy.as_ref().map(|certificate| ClientIdentity::clone(&certificate.get()))
    }

    fn table(&self, source: &dyn ObjectSource) -> Arc<Table> {
        let changed = source.last_change(GROUP, RESOURCE);
        let mut table = self.table.lock();
        if table.0 != changed {
            let stored = source.list(GROUP, RESOURCE, "");
            let services: Vec<ApiService> = stored.iter().filter_map(|stored| ApiService::parse(stored)).collect();
            let any_remote = services.iter().any(|service| service.remote.is_some());
            *table = (changed, Arc::new(Table { services, any_remote }));
        }
        Arc::clone(&table.1)
    }

    /// The APIService that serves a path elsewhere; `None` when it is served here.
    pub(crate) fn remote_for(&self, source: &dyn ObjectSource, target: &Target) -> Option<ApiService> {
        let table = self.table(source);
        if !table.any_remote {
            return None;
        }
        let (group, version) = match target {
            Target::Resource(path) => (path.group.as_str(), path.version.as_str()),
            Target::Other(path) => group_version(path)?,
        };
        let fits = |service: &&ApiService| service.group == group && service.version == version;
        table.services.iter().find(fits).filter(|service| service.remote.is_some()).cloned()
    }
}

/// The group version that a path outside of resources is about: its discovery document or its OpenAPI document.
fn group_version(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
    let mut segments = path.trim_matches('/').split('/');
    match (segments.next()?, segments.next()?, segments.next()) {
        ("api", version, None) => Some(("", version)),
        ("apis", group, Some(version)) => Some((group, version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::http::path::parse;
    use crate::source::testing::MemorySource;

    #[test]
    fn paths_of_a_remote_group_version_lead_to_its_server() {
        let source = MemorySource::new();
        let service = |group: &str, service: Value| json!({"metadata": {"name": format!("v1.{group}")}, "spec": {"group": group, "version": "v1", "service": service}});
        source.put(GROUP, RESOURCE, service("apps", Value::Null));
        let aggregation = Aggregation::default();
        let remote = |path: &str| aggregation.remote_for(&source, &parse(path).unwrap()).map(|service| service.name);
        assert_eq!(remote("/apis/metrics.k8s.io/v1/nodes"), None);
        source.put(GROUP, RESOURCE, service("metrics.k8s.io", json!({"namespace": "kube-system", "name": "m"})));
        for path in ["/apis/metrics.k8s.io/v1/nodes", "/apis/metrics.k8s.io/v1", "/openapi/v3/apis/metrics.k8s.io/v1"] {
            assert_eq!(remote(path).as_deref(), Some("v1.metrics.k8s.io"), "{path}");
        }
        for path in ["/apis/metrics.k8s.io", "/apis/metrics.k8s.io/v2/nodes", "/apis/apps/v1/deployments", "/healthz"] {
            assert_eq!(remote(path), None, "{path}");
        }
    }
}
