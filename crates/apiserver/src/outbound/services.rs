//! From a Service to an address that a connection can be opened to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::Value;

use crate::source::ObjectSource;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// How Services are reached from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// By cluster IP: whoever runs on this host routes it.
    #[default]
    ClusterIp,
    /// Straight to a ready endpoint (`--enable-aggregator-routing`).
    Endpoints,
}

/// Finds the address of Services. The master's own Service is this server.
#[derive(Clone)]
pub struct ServiceResolver {
    source: Arc<dyn ObjectSource>,
    routing: Routing,
    /// Where this server listens for itself.
    own_port: u16,
}

impl std::fmt::Debug for ServiceResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceResolver").field("routing", &self.routing).finish_non_exhaustive()
    }
}

impl ServiceResolver {
    pub fn new(source: Arc<dyn ObjectSource>, routing: Routing, own_port: u16) -> Self {
        Self { source, routing, own_port }
    }

    /// `host:port` behind a port of a Service, or why there is none, in upstream's words.
    pub fn resolve(&self, namespace: &str, name: &str, port: i64) -> Result<String, String> {
        if (namespace, name, port) == ("default", "kubernetes", 443) {
            return Ok(format!("127.0.0.1:{}", self.own_port));
        }
        let service = self.source.get("", "services", namespace, name).and_then(|stored| stored.parse());
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        match self.routing {
            Routing::ClusterIp => cluster_address(&service, name, port),
            Routing::Endpoints => {
                let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
                if !["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind) {
                    return Err(format!("unsupported service type {kind:?}"));
                }
                let port_name = service_port(&service, name, port)?["name"].as_str().unwrap_or("");
                self.endpoint(&service, namespace, name, port_name, |_| true)
                    .ok_or_else(|| format!("no endpoints available for service {name:?}"))
            }
        }
    }

    /// A ready endpoint, taken at random, that serves the port of this name and that `fit` accepts.
    pub(crate) fn endpoint(
        &self,
        service: &Value,
        namespace: &str,
        name: &str,
        port_name: &str,
        fit: impl Fn(&Value) -> bool,
    ) -> Option<String> {
        let preferred = service.pointer("/spec/ipFamilies/0").and_then(Value::as_str).unwrap_or("");
        let mut preferred_ones = Vec::new();
        let mut others = Vec::new();
        for slice in self.slices(namespace, name) {
            let Some(port) = slice_port(&slice, port_name) else { continue };
            let list = if slice["addressType"] == preferred { &mut preferred_ones } else { &mut others };
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false && fit(endpoint));
            list.extend(ready.filter_map(|endpoint| Some(authority(endpoint["addresses"][0].as_str()?, port))));
        }
        let choice = if preferred_ones.is_empty() { others } else { preferred_ones };
        let index = rand::random_range(0..choice.len().max(1));
        choice.into_iter().nth(index)
    }

    /// The EndpointSlices of a Service.
    pub(crate) fn slices(&self, namespace: &str, service: &str) -> Vec<Value> {
        let slices = self.source.list("discovery.k8s.io", "endpointslices", namespace);
        let of_service = |slice: &Value| slice["metadata"]["labels"][SERVICE_NAME_LABEL] == service;
        slices.iter().filter_map(|stored| stored.parse()).filter(of_service).collect()
    }
}

fn slice_port(slice: &Value, name: &str) -> Option<i64> {
    let ports = slice["ports"].as_array()?;
    ports.iter().find(|port| port["name"].as_str().unwrap_or("") == name)?["port"].as_i64()
}

fn service_port<'s>(service: &'s Value, name: &str, port: i64) -> Result<&'s Value, String> {
    let ports = service["spec"]["ports"].as_array();
    ports
        .and_then(|ports| ports.iter().find(|p| p["port"] == port))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))
}

fn cluster_address(service: &Value, name: &str, port: i64) -> Result<String, String> {
    let spec = &service["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    match kind {
        "ClusterIP" if spec["clusterIP"] == "None" => Err("cannot route to service with ClusterIP \"None\"".into()),
        "ClusterIP" | "NodePort" | "LoadBalancer" => {
            service_port(service, name, port)?;
            Ok(authority(spec["clusterIP"].as_str().unwrap_or(""), port))
        }
        "ExternalName" => Ok(authority(spec["externalName"].as_str().unwrap_or(""), port)),
        other => Err(format!("unsupported service type {other:?}")),
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn authority(host: &str, port: i64) -> String {
    match (host.parse::<IpAddr>(), u16::try_from(port)) {
        (Ok(ip), Ok(port)) => SocketAddr::new(ip, port).to_string(),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::source::testing::MemorySource;

    fn resolver(routing: Routing) -> ServiceResolver {
        let source = MemorySource::new();
        let put = |object: Value| source.put("", "services", object);
        put(json!({"metadata": {"name": "hook", "namespace": "ns"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.7", "ipFamilies": ["IPv4"], "ports": [{"name": "https", "port": 443}]}}));
        put(json!({"metadata": {"name": "headless", "namespace": "ns"},
            "spec": {"type": "ClusterIP", "clusterIP": "None", "ports": [{"port": 443}]}}));
        put(json!({"metadata": {"name": "outside", "namespace": "ns"},
            "spec": {"type": "ExternalName", "externalName": "hook.example.com"}}));
        let slice = |name: &str, family: &str, address: &str, ready: bool| {
            json!({"metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}},
                "addressType": family, "ports": [{"name": "https", "port": 8443}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}]})
        };
        let slices = [
            slice("a", "IPv6", "fd00::1", true),
            slice("b", "IPv4", "10.1.0.2", false),
            slice("c", "IPv4", "10.1.0.3", true),
        ];
        slices.into_iter().for_each(|slice| source.put("discovery.k8s.io", "endpointslices", slice));
        ServiceResolver::new(source.shared(), routing, 6443)
    }

    #[test]
    fn services_are_reached_by_cluster_address() {
        let resolver = resolver(Routing::ClusterIp);
        let resolve = |name: &str, port: i64| resolver.resolve("ns", name, port);
        assert_eq!(resolve("hook", 443).unwrap(), "10.0.0.7:443");
        assert_eq!(resolve("outside", 8443).unwrap(), "hook.example.com:8443");
        assert_eq!(resolve("hook", 80).unwrap_err(), "no service port 80 found for service \"hook\"");
        assert_eq!(resolve("headless", 443).unwrap_err(), "cannot route to service with ClusterIP \"None\"");
        assert_eq!(resolve("missing", 443).unwrap_err(), "service \"missing\" not found");
        assert_eq!(resolver.resolve("default", "kubernetes", 443).unwrap(), "127.0.0.1:6443");
    }

    #[test]
    fn with_aggregator_routing_a_ready_endpoint_of_the_first_family_is_taken() {
        let resolver = resolver(Routing::Endpoints);
        assert_eq!(resolver.resolve("ns", "hook", 443).unwrap(), "10.1.0.3:8443");
        assert_eq!(
            resolver.resolve("ns", "headless", 443).unwrap_err(),
            "no endpoints available for service \"headless\""
        );
        assert_eq!(resolver.resolve("ns", "outside", 443).unwrap_err(), "unsupported service type \"ExternalName\"");
    }
}
