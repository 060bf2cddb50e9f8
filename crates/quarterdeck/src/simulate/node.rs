//! One simulated node: its Node object, its lease, and the addresses it gives to pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

use client::Connection;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::SimulateConfig;

/// Where kubelets keep their leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long a lease of a kubelet holds.
const LEASE_DURATION_SECONDS: i32 = 40;
const KUBELET_VERSION: &str = "v1.36.2";
/// What a kubelet of that version says of itself.
const DECLARED_FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// See the module.
pub(super) struct SimulatedNode {
    name: String,
    index: usize,
    ip: Ipv4Addr,
    /// Where its kubelet really is.
    kubelet: Option<SocketAddr>,
    labels: BTreeMap<String, String>,
    resources: Value,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    uid: String,
    /// The lease as last written.
    lease: Option<Lease>,
    /// First address and size of the pods' network.
    pod_network: Option<(u32, u32)>,
    pod_ips: HashMap<String, u32>,
    taken: BTreeSet<u32>,
}

impl SimulatedNode {
    pub(super) fn new(config: &SimulateConfig, index: usize, kubelet: Option<SocketAddr>) -> SimulatedNode {
        let name = format!("{}{index}", config.name_prefix);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let mut labels: BTreeMap<String, String> = [
            ("beta.kubernetes.io/arch", "amd64"),
            ("beta.kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/hostname", &name),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        if config.zones > 0 {
            labels.insert("topology.kubernetes.io/zone".into(), format!("zone-{}", index % config.zones));
            labels.insert("topology.kubernetes.io/region".into(), "region-0".into());
        }
        labels.extend(config.labels.clone());
        SimulatedNode {
            name,
            index,
            ip: Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)).wrapping_add(number)),
            kubelet,
            labels,
            resources: json!({"cpu": config.cpu, "memory": config.memory, "pods": config.pods.to_string(),
                "ephemeral-storage": "100Gi"}),
            state: Mutex::new(State::default()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn ip(&self) -> String {
        self.ip.to_string()
    }

    /// The address of a pod; another for every other pod of the node. The one that it has, it keeps: the node's range may have become
    /// known since, or the simulation begun anew.
    pub(super) fn pod_ip(&self, uid: &str, present: Option<&str>) -> String {
        let mut state = self.state.lock();
        let (first, size) = state.pod_network.unwrap_or_else(|| self.synthetic_network());
        let present = present.filter(|ip| *ip != self.ip()).and_then(|ip| ip.parse::<Ipv4Addr>().ok()).map(u32::from);
        let address = present.or_else(|| state.pod_ips.get(uid).copied()).unwrap_or_else(|| {
            // The network's own address and the node's bridge come first.
            let mut all = (2..size).map(|number| first.wrapping_add(number));
            all.find(|address| !state.taken.contains(address)).unwrap_or(first.wrapping_add(2))
        });
        state.taken.insert(address);
        state.pod_ips.insert(uid.to_owned(), address);
        Ipv4Addr::from(address).to_string()
    }

    pub(super) fn release_ip(&self, uid: &str) {
        let mut state = self.state.lock();
        if let Some(address) = state.pod_ips.remove(uid) {
            state.taken.remove(&address);
        }
    }

    /// 256 addresses out of 100.64.0.0/10, for nodes nobody gave a range.
    fn synthetic_network(&self) -> (u32, u32) {
        let number = u32::try_from(self.index).unwrap_or(u32::MAX);
        (u32::from(Ipv4Addr::new(100, 64, 0, 0)).wrapping_add(number.wrapping_mul(256)), 256)
    }

    /// Creates the Node, or takes over the one that is there, and makes its lease.
    pub(super) async fn register(&self, connection: &Connection) -> Result<(), kube::Error> {
        let nodes = connection.all::<Node>();
        let object = self.object(Timestamp::now());
        match nodes.create(&PostParams::default(), &object).await {
            Ok(node) => self.learn(&node),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let patch = Patch::Merge(json!({"metadata": {"labels": self.labels}}));
                let node = nodes.patch(&self.name, &PatchParams::default(), &patch).await?;
                self.learn(&node);
                self.report_status(connection).await?;
            }
            Err(error) => return Err(error),
        }
        self.renew_lease(connection).await
    }

    pub(super) async fn report_status(&self, connection: &Connection) -> Result<(), kube::Error> {
        let patch = Patch::Strategic(json!({"status": self.status(Timestamp::now())}));
        let node = connection.all::<Node>().patch_status(&self.name, &PatchParams::default(), &patch).await?;
        self.learn(&node);
        Ok(())
    }

    /// Moves the renew time of the lease; makes the lease when it is not there.
    pub(super) async fn renew_lease(&self, connection: &Connection) -> Result<(), kube::Error> {
        let leases = connection.namespaced::<Lease>(LEASE_NAMESPACE);
        let known = self.state.lock().lease.clone();
        let written = match known {
            Some(mut lease) => {
                lease.spec.get_or_insert_default().renew_time = Some(micro_now());
                match leases.replace(&self.name, &PostParams::default(), &lease).await {
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => None,
                    other => Some(other?),
                }
            }
            None => None,
        };
        let lease = match written {
            Some(lease) => lease,
            None => match leases.create(&PostParams::default(), &self.lease()).await {
                // Somebody made it before; take it from here.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let patch = Patch::Merge(json!({"spec": self.lease().spec}));
                    leases.patch(&self.name, &PatchParams::default(), &patch).await?
                }
                other => other?,
            },
        };
        self.state.lock().lease = Some(lease);
        Ok(())
    }

    fn learn(&self, node: &Node) {
        let mut state = self.state.lock();
        state.uid = node.metadata.uid.clone().unwrap_or_default();
        let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
        if let Some(network) = range.and_then(parse_network) {
            state.pod_network = Some(network);
        }
    }

    fn lease(&self) -> Lease {
        let uid = self.state.lock().uid.clone();
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": uid}]);
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.clone());
        lease.metadata.namespace = Some(LEASE_NAMESPACE.into());
        lease.metadata.owner_references = serde_json::from_value(owner).ok();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.name.clone());
        spec.lease_duration_seconds = Some(LEASE_DURATION_SECONDS);
        spec.renew_time = Some(micro_now());
        lease
    }

    fn object(&self, now: Timestamp) -> Node {
        let object = json!({
            "metadata": {
                "name": self.name,
                "labels": self.labels,
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {},
            "status": self.status(now),
        });
        serde_json::from_value(object).unwrap_or_default()
    }

    fn status(&self, now: Timestamp) -> Value {
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        // The InternalIP is invented; an API server that starts with the Hostname, as by default, finds the kubelet.
        let hostname = self.kubelet.map_or_else(|| self.name.clone(), |kubelet| kubelet.ip().to_string());
        let port = self.kubelet.map_or(10_250, |kubelet| kubelet.port());
        json!({
            "capacity": self.resources,
            "allocatable": self.resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "addresses": [
                {"type": "InternalIP", "address": self.ip.to_string()},
                {"type": "Hostname", "address": hostname},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "declaredFeatures": DECLARED_FEATURES,
            "nodeInfo": {
                "machineID": format!("{:032x}", self.index),
                "systemUUID": format!("00000000-0000-0000-0000-{:012x}", self.index),
                "bootID": format!("00000000-0000-0000-0001-{:012x}", self.index),
                "kernelVersion": "6.12.0",
                "osImage": "Simulated Linux",
                "containerRuntimeVersion": "simulated://1.0.0",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        })
    }
}

fn micro_now() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now())
}

/// First address and size of an IPv4 range; `None` for anything else.
fn parse_network(text: &str) -> Option<(u32, u32)> {
    let (address, bits) = text.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok().filter(|bits| (8..=30).contains(bits))?;
    Some((u32::from(address), 1 << (32 - bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_addresses_of_the_nodes_range_and_give_them_back() {
        let node = SimulatedNode::new(&SimulateConfig { zones: 2, ..SimulateConfig::default() }, 3, None);
        assert_eq!(node.name(), "node-3");
        assert_eq!(node.labels["topology.kubernetes.io/zone"], "zone-1");
        assert_eq!(node.pod_ip("a", None), "100.64.3.2");
        let mut object = Node::default();
        object.spec.get_or_insert_default().pod_cidr = Some("10.244.7.0/24".into());
        node.learn(&object);
        assert_eq!(node.pod_ip("a", None), "100.64.3.2", "a pod keeps its address");
        assert_eq!(node.pod_ip("b", None), "10.244.7.2");
        assert_eq!(node.pod_ip("old", Some("10.244.7.3")), "10.244.7.3");
        assert_eq!(node.pod_ip("c", None), "10.244.7.4");
        node.release_ip("b");
        assert_eq!(node.pod_ip("d", None), "10.244.7.2");
    }

    #[test]
    fn registered_node_is_ready_and_offers_what_was_asked() {
        let node = SimulatedNode::new(&SimulateConfig::default(), 0, None);
        let object = node.object(Timestamp::UNIX_EPOCH);
        let status = object.status.unwrap();
        assert_eq!(status.capacity.unwrap()["cpu"].0, "32");
        let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True");
        assert_eq!(status.node_info.unwrap().kubelet_version, "v1.36.2");
    }
}
