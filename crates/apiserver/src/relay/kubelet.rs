//! Finding the kubelet of a node.

use ::bytes::Bytes;
use api::status::GroupResource;
use api::{Status, Value};

use crate::outbound::{ClientCertificate, ClientIdentity, Tls, authority};
use crate::source::ObjectSource;

/// Where a kubelet listens when its node does not say.
const DEFAULT_PORT: i64 = 10_250;
/// What a node declares whose kubelet takes apart WebSockets itself. Any other understands SPDY only.
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";

/// How kubelets are reached (`--kubelet-…`).
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// What the API server shows them.
    pub identity: Option<ClientCertificate>,
    /// CAs of their serving certificates (PEM). Without any, as upstream, whatever they show is taken.
    pub certificate_authority: Bytes,
    /// Types of node addresses, best first.
    pub preferred_address_types: Vec<String>,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        let types = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];
        Self {
            identity: None,
            certificate_authority: Bytes::new(),
            preferred_address_types: types.map(str::to_owned).to_vec(),
        }
    }
}

/// The kubelet of one node.
#[derive(Clone, Debug)]
pub(crate) struct Kubelet<'c> {
    config: &'c KubeletConfig,
    pub host: String,
    pub port: i64,
    /// WebSockets with [`super::translate::PROTOCOL`] or a tunnel are for the kubelet to take apart.
    pub takes_websockets: bool,
}

impl KubeletConfig {
    /// The kubelet of a node that is known.
    pub(crate) fn find(&self, source: &dyn ObjectSource, node: &str) -> Result<Kubelet<'_>, Status> {
        let missing = || Status::not_found(GroupResource { group: "", resource: "nodes" }, node);
        let node = source.get("", "nodes", "", node).and_then(|stored| stored.parse()).ok_or_else(missing)?;
        let host = self.address(&node).ok_or_else(|| {
            let known = addresses(&node).map(|a| format!("{{{} {}}}", text(a, "type"), text(a, "address")));
            let known = known.collect::<Vec<_>>().join(" ");
            Status::unknown(format!("no preferred addresses found; known addresses: [{known}]"))
        })?;
        let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_i64).unwrap_or(0);
        let declared = node.pointer("/status/declaredFeatures").and_then(Value::as_array);
        let takes_websockets = declared.is_some_and(|features| features.iter().any(|feature| *feature == WEBSOCKETS));
        let port = if port == 0 { DEFAULT_PORT } else { port };
        Ok(Kubelet { config: self, host: host.to_owned(), port, takes_websockets })
    }

    fn address<'n>(&self, node: &'n Value) -> Option<&'n str> {
        self.preferred_address_types.iter().find_map(|wanted| {
            let found = addresses(node).find(|address| text(address, "type") == wanted);
            let label =
                || node["metadata"]["labels"]["kubernetes.io/hostname"].as_str().filter(|_| wanted == "Hostname");
            found.map(|address| text(address, "address")).or_else(label).filter(|address| !address.is_empty())
        })
    }
}

fn addresses(node: &Value) -> impl Iterator<Item = &Value> {
    node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or("")
}

impl Kubelet<'_> {
    pub(crate) fn url(&self, path: &str, query: &str) -> String {
        let question = if query.is_empty() { "" } else { "?" };
        format!("https://{}{path}{question}{query}", authority(&self.host, self.port))
    }

    pub(crate) fn tls(&self, skip_verify: bool) -> Tls {
        let ca_pem = self.config.certificate_authority.clone();
        let skip_verify = skip_verify || ca_pem.is_empty();
        let identity = self.config.identity.as_ref().map(|certificate| ClientIdentity::clone(&certificate.get()));
        Tls { ca_pem, skip_verify, server_name: None, identity }
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::source::testing::MemorySource;

    #[test]
    fn the_preferred_address_and_the_reported_port_are_used() {
        let source = MemorySource::new();
        let addresses =
            json!([{"type": "InternalIP", "address": "fd00::5"}, {"type": "Hostname", "address": "n.local"}]);
        source.put("", "nodes", json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}}));
        let endpoint = json!({"kubeletEndpoint": {"Port": 1234}});
        source.put(
            "",
            "nodes",
            json!({"metadata": {"name": "m", "labels": {"kubernetes.io/hostname": "m.local"}},
            "status": {"daemonEndpoints": endpoint}}),
        );
        source.put("", "nodes", json!({"metadata": {"name": "o"}}));
        let config = KubeletConfig::default();
        let url = |config: &KubeletConfig, node: &str| {
            config.find(&source, node).map(|kubelet| kubelet.url("/x", "a=b")).map_err(|status| status.message)
        };
        assert_eq!(url(&config, "n").unwrap(), "https://n.local:10250/x?a=b");
        assert_eq!(url(&config, "m").unwrap(), "https://m.local:1234/x?a=b");
        let internal = KubeletConfig { preferred_address_types: vec!["InternalIP".into()], ..config.clone() };
        assert_eq!(url(&internal, "n").unwrap(), "https://[fd00::5]:10250/x?a=b");
        assert_eq!(url(&config, "o").unwrap_err(), "no preferred addresses found; known addresses: []");
        assert_eq!(url(&config, "p").unwrap_err(), "nodes \"p\" not found");
    }

    #[test]
    fn a_kubelet_takes_websockets_when_its_node_declares_so() {
        let source = MemorySource::new();
        let mut node =
            json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "Hostname", "address": "n"}]}});
        let config = KubeletConfig::default();
        source.put("", "nodes", node.clone());
        assert!(!config.find(&source, "n").unwrap().takes_websockets);
        node["status"]["declaredFeatures"] = json!(["Another", "ExtendWebSocketsToKubelet"]);
        source.put("", "nodes", node);
        assert!(config.find(&source, "n").unwrap().takes_websockets);
    }
}
