//! Namespaces, the Service `kubernetes` and its endpoints, the ServiceCIDR, priority classes and config maps that an API server
//! creates for itself.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use api::Value;
use api::json;

use super::Change;
use crate::{allocate::Cidr, source::ObjectSource};

const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// Namespaces that every cluster has. They exist before anything is put into them.
pub fn namespaces(source: &dyn ObjectSource) -> Vec<Change> {
    SYSTEM_NAMESPACES
        .into_iter()
        .filter(|name| source.get("", "namespaces", "", name).is_none())
        .map(|name| {
            let object = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
            Change::create("", "namespaces", object)
        })
        .collect()
}

const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The priority classes of system pods.
pub fn priority_classes(source: &dyn ObjectSource) -> Vec<Change> {
    const GROUP: &str = "scheduling.k8s.io";
    PRIORITY_CLASSES
        .into_iter()
        .filter(|(name, ..)| source.get(GROUP, "priorityclasses", "", name).is_none())
        .map(|(name, value, description)| {
            let object = json!({
                "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": {"name": name},
                "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
            });
            Change::create(GROUP, "priorityclasses", object)
        })
        .collect()
}

const SERVICE_CIDR: &str = "kubernetes";

/// The default ServiceCIDR: created from the server's ranges; a single-stack one grows when a second range is configured.
/// Any other difference is the administrator's to resolve and left as it is.
pub fn service_cidr(source: &dyn ObjectSource, ranges: &[Cidr]) -> Option<Change> {
    const GROUP: &str = "networking.k8s.io";
    let wanted: Vec<String> = ranges.iter().map(Cidr::to_string).collect();
    let Some(stored) = source.get(GROUP, "servicecidrs", "", SERVICE_CIDR) else {
        let object = json!({
            "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": SERVICE_CIDR}, "spec": {"cidrs": wanted},
        });
        return Some(Change::create(GROUP, "servicecidrs", object));
    };
    let mut object = stored.parse()?;
    let have = object["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
    let grows = have.len() == 1 && wanted.len() == 2 && have[0] == wanted[0];
    grows.then(|| {
        object["spec"]["cidrs"] = json!(wanted);
        Change::update(GROUP, "servicecidrs", object)
    })
}

/// The status that the default ServiceCIDR should have, when it does not have it: written to `servicecidrs/status` with the
/// field manager `kubernetes-service-cidr-controller`. `now` is RFC 3339.
pub fn service_cidr_ready(source: &dyn ObjectSource, now: &str) -> Option<Value> {
    let mut object = source.get("networking.k8s.io", "servicecidrs", "", SERVICE_CIDR)?.parse()?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == "Ready") {
        return None;
    }
    object["status"] = json!({"conditions": [{
        "type": "Ready", "status": "True", "lastTransitionTime": now, "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
    }]});
    Some(object)
}

/// How clients inside the cluster reach the API servers.
#[derive(Clone, Debug)]
pub struct KubernetesService {
    /// First range; the Service has its first address.
    pub range: Cidr,
    pub secure_port: u16,
    /// A node port instead of a plain cluster IP (`--kubernetes-service-node-port`); 0 for none.
    pub node_port: u16,
}

/// The Service `default/kubernetes`; created when missing, never changed afterwards.
pub fn kubernetes_service(source: &dyn ObjectSource, wanted: &KubernetesService) -> Option<Change> {
    if source.get("", "services", "default", "kubernetes").is_some() {
        return None;
    }
    let ip = wanted.range.nth(1).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_string();
    let mut port = json!({"name": "https", "protocol": "TCP", "port": 443, "targetPort": wanted.secure_port});
    let kind = if wanted.node_port == 0 {
        "ClusterIP"
    } else {
        port["nodePort"] = json!(wanted.node_port);
        "NodePort"
    };
    let object = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "ports": [port], "clusterIP": ip, "clusterIPs": [ip], "type": kind, "sessionAffinity": "None",
            "ipFamilies": [wanted.range.family().name()], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
    });
    Some(Change::create("", "services", object))
}

/// Endpoints and EndpointSlice of the Service, for the API servers that are alive. Only addresses of one family are given.
pub fn kubernetes_endpoints(source: &dyn ObjectSource, masters: &BTreeSet<IpAddr>, secure_port: u16) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(endpoints(source, masters, secure_port));
    changes.extend(endpoint_slice(source, masters, secure_port));
    changes
}

fn endpoints(source: &dyn ObjectSource, masters: &BTreeSet<IpAddr>, port: u16) -> Option<Change> {
    let addresses: Vec<Value> = masters.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let subsets = if addresses.is_empty() {
        json!([])
    } else {
        json!([{"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}])
    };
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let Some(stored) = source.get("", "endpoints", "default", "kubernetes") else {
        let object = json!({
            "kind": "Endpoints", "apiVersion": "v1",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels}, "subsets": subsets,
        });
        return Some(Change::create("", "endpoints", object));
    };
    let mut object = stored.parse()?;
    let skip_mirror = &object["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"];
    let same_subsets = if object["subsets"].is_null() { subsets == json!([]) } else { object["subsets"] == subsets };
    if same_subsets && skip_mirror == "true" {
        return None;
    }
    object["subsets"] = subsets;
    object["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"] = json!("true");
    Some(Change::update("", "endpoints", object))
}

fn endpoint_slice(source: &dyn ObjectSource, masters: &BTreeSet<IpAddr>, port: u16) -> Option<Change> {
    const GROUP: &str = "discovery.k8s.io";
    let family = if masters.iter().next().is_some_and(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> =
        masters.iter().map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}})).collect();
    let ports = json!([{"name": "https", "protocol": "TCP", "port": port}]);
    let fresh = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family, "endpoints": endpoints, "ports": ports,
    });
    let Some(stored) = source.get(GROUP, "endpointslices", "default", "kubernetes") else {
        return Some(Change::create(GROUP, "endpointslices", fresh));
    };
    let mut object = stored.parse()?;
    if object["addressType"] != fresh["addressType"] {
        return Some(Change {
            action: super::ChangeAction::Recreate,
            ..Change::create(GROUP, "endpointslices", fresh)
        });
    }
    let same = object["endpoints"] == fresh["endpoints"]
        && object["ports"] == fresh["ports"]
        && object["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes";
    if same {
        return None;
    }
    object["endpoints"] = fresh["endpoints"].clone();
    object["ports"] = fresh["ports"].clone();
    object["metadata"]["labels"]["kubernetes.io/service-name"] = json!("kubernetes");
    Some(Change::update(GROUP, "endpointslices", object))
}

/// What aggregated API servers need to know about authentication. PEM bundles and header names.
#[derive(Clone, Debug, Default)]
pub struct AuthenticationInfo {
    pub client_ca: String,
    /// Set when a front proxy is configured.
    pub request_header: Option<RequestHeaderInfo>,
}

#[derive(Clone, Debug, Default)]
pub struct RequestHeaderInfo {
    pub client_ca: String,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_header_prefixes: Vec<String>,
    pub allowed_names: Vec<String>,
}

/// ConfigMap `kube-system/extension-apiserver-authentication`: certificates of several servers are merged, lists replaced.
pub fn authentication_config(source: &dyn ObjectSource, info: &AuthenticationInfo) -> Option<Change> {
    const NAME: &str = "extension-apiserver-authentication";
    let existing = source.get("", "configmaps", "kube-system", NAME).and_then(|stored| stored.parse());
    let creates = existing.is_none();
    let mut object = existing.unwrap_or_else(
        || json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": NAME, "namespace": "kube-system"}}),
    );
    let before = object.clone();
    let mut set = |key: &str, value: String| object["data"][key] = json!(value);
    let bundle = |key: &str, ours: &str| merge_bundles(before["data"][key].as_str().unwrap_or_default(), ours);
    if !info.client_ca.is_empty() {
        set("client-ca-file", bundle("client-ca-file", &info.client_ca));
    }
    if let Some(headers) = &info.request_header {
        let list = |values: &[String]| json!(values).to_string();
        set("requestheader-client-ca-file", bundle("requestheader-client-ca-file", &headers.client_ca));
        set("requestheader-username-headers", list(&headers.username_headers));
        set("requestheader-uid-headers", list(&headers.uid_headers));
        set("requestheader-group-headers", list(&headers.group_headers));
        set("requestheader-extra-headers-prefix", list(&headers.extra_header_prefixes));
        set("requestheader-allowed-names", list(&headers.allowed_names));
    }
    if creates {
        return Some(Change::create("", "configmaps", object));
    }
    (object != before).then(|| Change::update("", "configmaps", object))
}

/// Certificates of `theirs`, then those of `ours` that are not among them.
fn merge_bundles(theirs: &str, ours: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut out = String::new();
    let mut seen = BTreeSet::new();
    for block in theirs.split_inclusive(END).chain(ours.split_inclusive(END)) {
        let block = block.trim();
        if block.ends_with(END) && seen.insert(block.to_owned()) {
            out.push_str(block);
            out.push('\n');
        }
    }
    out
}

/// ConfigMap that tells since when the use of legacy service account tokens is tracked. `today` is `YYYY-MM-DD`, UTC.
pub fn legacy_token_tracking(source: &dyn ObjectSource, today: &str) -> Option<Change> {
    const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
    if source.get("", "configmaps", "kube-system", NAME).is_some() {
        return None;
    }
    let object = json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": NAME, "namespace": "kube-system"}, "data": {"since": today},
    });
    Some(Change::create("", "configmaps", object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    fn names(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|c| api::meta::name(&c.object)).collect()
    }

    #[test]
    fn system_namespaces_are_created_when_missing() {
        let source = MemorySource::new();
        source.put("", "namespaces", json!({"metadata": {"name": "default"}}));
        assert_eq!(names(&namespaces(&source)), ["kube-system", "kube-public", "kube-node-lease"]);
    }

    #[test]
    fn the_kubernetes_service_has_the_first_address_of_the_range() {
        let source = MemorySource::new();
        let wanted = KubernetesService { range: "10.0.0.0/24".parse().unwrap(), secure_port: 6443, node_port: 0 };
        let change = kubernetes_service(&source, &wanted).unwrap();
        assert_eq!(change.object["spec"]["clusterIP"], "10.0.0.1");
        source.put("", "services", change.object);
        assert_eq!(kubernetes_service(&source, &wanted), None);
    }

    #[test]
    fn endpoints_follow_the_masters_that_are_alive() {
        let source = MemorySource::new();
        let one: BTreeSet<IpAddr> = ["10.1.0.1".parse().unwrap()].into();
        for change in kubernetes_endpoints(&source, &one, 6443) {
            source.put(change.group, change.resource, change.object);
        }
        assert_eq!(kubernetes_endpoints(&source, &one, 6443), []);
        let two: BTreeSet<IpAddr> = ["10.1.0.2".parse().unwrap(), "10.1.0.1".parse().unwrap()].into();
        let changes = kubernetes_endpoints(&source, &two, 6443);
        assert_eq!(
            changes[0].object["subsets"],
            json!([{"addresses": [{"ip": "10.1.0.1"}, {"ip": "10.1.0.2"}],
                    "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}])
        );
        assert_eq!(
            changes[1].object["endpoints"][1],
            json!({"addresses": ["10.1.0.2"], "conditions": {"ready": true}})
        );
    }

    #[test]
    fn certificates_of_other_servers_stay_in_the_bundle() {
        let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let source = MemorySource::new();
        let info = |ca: String| AuthenticationInfo { client_ca: ca, request_header: None };
        let change = authentication_config(&source, &info(pem("A"))).unwrap();
        source.put("", "configmaps", change.object);
        assert_eq!(authentication_config(&source, &info(pem("A"))), None);
        let change = authentication_config(&source, &info(pem("B"))).unwrap();
        assert_eq!(change.object["data"]["client-ca-file"], format!("{}{}", pem("A"), pem("B")));
    }

    #[test]
    fn the_service_cidr_grows_to_dual_stack() {
        let source = MemorySource::new();
        let v4: Cidr = "10.0.0.0/24".parse().unwrap();
        let v6: Cidr = "fd00::/112".parse().unwrap();
        let change = service_cidr(&source, &[v4]).unwrap();
        source.put("networking.k8s.io", "servicecidrs", change.object);
        assert_eq!(service_cidr(&source, &[v4]), None);
        let change = service_cidr(&source, &[v4, v6]).unwrap();
        assert_eq!(change.object["spec"]["cidrs"], json!(["10.0.0.0/24", "fd00::/112"]));
        assert!(service_cidr_ready(&source, "2026-01-01T00:00:00Z").is_some());
    }
}
