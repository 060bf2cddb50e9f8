//! What is in use, read from Services and IPAddress objects.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use api::Value;
use api::json;
use parking_lot::Mutex;
use store::Revision;

use super::Family;
use crate::source::ObjectSource;

/// Addresses and node ports that must not be given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    pub ips: HashSet<IpAddr>,
    pub node_ports: HashSet<u16>,
}

/// Keeps [`InUse`] in step with a source: only Services that changed are parsed again.
#[derive(Debug, Default)]
pub struct UsageCache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    version: [Revision; 2],
    services: HashMap<(String, String), (Revision, Arc<InUse>)>,
    total: Arc<InUse>,
}

impl UsageCache {
    pub fn in_use(&self, source: &dyn ObjectSource) -> Arc<InUse> {
        let version = [source.last_change("", "services"), source.last_change("networking.k8s.io", "ipaddresses")];
        let mut state = self.0.lock();
        if state.version == version && version != [Revision(0); 2] {
            return state.total.clone();
        }
        let mut services = HashMap::new();
        let mut total = InUse::default();
        for stored in source.list("", "services", "") {
            let key = (stored.namespace.clone(), stored.name.clone());
            let usage = match state.services.remove(&key) {
                Some((revision, usage)) if revision == stored.mod_revision => usage,
                _ => match stored.parse() {
                    Some(service) => Arc::new(InUse::of_service(&service)),
                    None => continue,
                },
            };
            total.ips.extend(&usage.ips);
            total.node_ports.extend(&usage.node_ports);
            services.insert(key, (stored.mod_revision, usage));
        }
        let addresses = source.list("networking.k8s.io", "ipaddresses", "");
        total.ips.extend(addresses.iter().filter_map(|stored| stored.name.parse::<IpAddr>().ok()));
        *state = State { version, services, total: Arc::new(total) };
        state.total.clone()
    }
}

impl InUse {
    /// What one Service holds.
    pub fn of_service(service: &Value) -> Self {
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" {
            return Self::default();
        }
        let ips = spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]);
        let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
        Self {
            ips: ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
            node_ports: ports.chain([&spec["healthCheckNodePort"]]).filter_map(port_number).collect(),
        }
    }
}

/// The port that a field asks for, whether it can be one or not; 0 asks for any.
pub(super) fn requested_port(value: &Value) -> Option<i64> {
    value.as_i64().filter(|port| *port != 0)
}

pub(super) fn port_number(value: &Value) -> Option<u16> {
    requested_port(value).and_then(|port| u16::try_from(port).ok())
}

/// The label of IPAddress objects that the allocator makes.
pub(super) const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// The IPAddress object (`networking.k8s.io/v1`) that reserves an address for a Service.
pub fn ip_address_object(ip: IpAddr, namespace: &str, service: &str) -> Value {
    json!({
        "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": ip.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": Family::of(ip).name(),
                (MANAGED_BY.0): MANAGED_BY.1,
            },
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    #[test]
    fn a_service_holds_its_addresses_and_ports_until_it_changes() {
        let source = MemorySource::new();
        let cache = UsageCache::default();
        let service = |ip: &str, port: u16| {
            json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIP": ip, "clusterIPs": [ip],
                   "ports": [{"port": 80, "nodePort": port}], "healthCheckNodePort": 31000}})
        };
        source.put("", "services", service("10.0.0.9", 30001));
        source.put("networking.k8s.io", "ipaddresses", ip_address_object("10.0.0.10".parse().unwrap(), "ns", "t"));
        let used = cache.in_use(&source);
        assert_eq!(used.ips, HashSet::from(["10.0.0.9".parse().unwrap(), "10.0.0.10".parse().unwrap()]));
        assert_eq!(used.node_ports, HashSet::from([30001, 31000]));
        source.put("", "services", service("None", 30002));
        assert_eq!(cache.in_use(&source).node_ports, HashSet::from([30002, 31000]));
        assert_eq!(cache.in_use(&source).ips.len(), 1);
    }
}
