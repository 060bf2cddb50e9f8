//! A pod as the scheduler sees it: identity, wishes and requests, compiled from the object once.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::class::PodClass;
use super::devices::{PodDeviceClaim, device_claims_of};
use super::labels::{Labels, NodeTerm, Selector};
use super::storage::{PodClaim, claims_of};
use super::{Resources, requests};

/// A pod with everything the plugins ask of it. Cheap to share; never changed.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<core::Pod>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub labels: Labels,
    /// Of namespace and labels.
    pub class: PodClass,
    pub priority: i32,
    /// Start time in seconds since 1970; `None` while the node has not acknowledged the pod.
    pub started: Option<i64>,
    pub terminating: bool,
    pub node_name: Option<Arc<str>>,
    pub nominated_node: Option<Arc<str>>,
    pub requests: Resources,
    /// Requests with defaults for missing CPU and memory; what scores use.
    pub non_zero: Resources,
    pub ports: Vec<HostPort>,
    pub tolerations: Vec<core::Toleration>,
    /// `spec.nodeSelector`; `None` when absent or empty.
    pub node_selector: Option<Selector>,
    /// Required node affinity: one of the terms must match. `None` when there is none.
    pub required_node_terms: Option<Vec<NodeTerm>>,
    pub preferred_node_terms: Vec<Weighted<NodeTerm>>,
    pub required_affinity: Vec<PodTerm>,
    pub required_anti_affinity: Vec<PodTerm>,
    pub preferred_affinity: Vec<Weighted<PodTerm>>,
    pub preferred_anti_affinity: Vec<Weighted<PodTerm>>,
    pub spread: Vec<SpreadConstraint>,
    pub images: Vec<String>,
    pub claims: Vec<PodClaim>,
    pub device_claims: Vec<PodDeviceClaim>,
    pub gates: Vec<String>,
    pub container_count: usize,
}

/// A host port a pod occupies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub ip: Arc<str>,
    pub protocol: Arc<str>,
    pub port: i32,
}

impl HostPort {
    /// The address that stands for all addresses.
    const ANY: &'static str = "0.0.0.0";

    pub fn conflicts_with(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == HostPort::ANY || &*other.ip == HostPort::ANY)
    }
}

#[derive(Debug, Clone)]
pub struct Weighted<T> {
    pub weight: i64,
    pub term: T,
}

/// A pod affinity or anti-affinity term.
#[derive(Debug, Clone)]
pub struct PodTerm {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: Option<Selector>,
    pub selector: Selector,
    pub topology_key: String,
}

impl PodTerm {
    fn new(source: &core::PodAffinityTerm, namespace: &str) -> PodTerm {
        let mut namespaces: BTreeSet<String> = source.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && source.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        PodTerm {
            namespaces,
            namespace_selector: source.namespace_selector.as_ref().map(|s| Selector::from_label_selector(Some(s))),
            selector: Selector::from_label_selector(source.label_selector.as_ref()),
            topology_key: source.topology_key.clone(),
        }
    }

    /// Whether the term means this pod, given the labels of the pod's namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: &Labels) -> bool {
        let in_namespace = self.namespaces.contains(&*pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(namespace_labels));
        in_namespace && self.selector.matches(&pod.labels)
    }
}

/// A topology spread constraint with upstream's defaults filled in.
#[derive(Debug, Clone)]
pub struct SpreadConstraint {
    pub max_skew: i64,
    pub topology_key: String,
    pub do_not_schedule: bool,
    pub selector: Selector,
    pub min_domains: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

impl PodInfo {
    pub fn new(pod: Arc<core::Pod>) -> PodInfo {
        let meta = &pod.metadata;
        let namespace: Arc<str> = meta.namespace.as_deref().unwrap_or_default().into();
        let labels = meta.labels.clone().unwrap_or_default();
        let empty = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let affinity = spec.affinity.as_ref();
        let node_affinity = affinity.and_then(|a| a.node_affinity.as_ref());
        let towards = affinity.and_then(|a| a.pod_affinity.as_ref());
        let away = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<core::PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.into_iter().flatten().map(|term| PodTerm::new(term, &namespace)).collect()
        };
        let preferred = |terms: Option<&Vec<core::WeightedPodAffinityTerm>>| -> Vec<Weighted<PodTerm>> {
            let compile = |t: &core::WeightedPodAffinityTerm| Weighted {
                weight: t.weight.into(),
                term: PodTerm::new(&t.pod_affinity_term, &namespace),
            };
            terms.into_iter().flatten().map(compile).collect()
        };
        PodInfo {
            class: PodClass::of(&namespace, &labels),
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            priority: spec.priority.unwrap_or(0),
            started: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second()),
            terminating: meta.deletion_timestamp.is_some(),
            node_name: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            nominated_node: pod
                .status
                .as_ref()
                .and_then(|s| s.nominated_node_name.as_deref())
                .filter(|name| !name.is_empty())
                .map(Into::into),
            requests: requests::of_pod(&pod),
            non_zero: requests::of_pod_non_zero(&pod),
            ports: host_ports(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.as_ref().filter(|s| !s.is_empty()).map(Selector::from_map),
            required_node_terms: node_affinity
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred_node_terms: node_affinity
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|t| Weighted { weight: t.weight.into(), term: NodeTerm::new(&t.preference) })
                .collect(),
            required_affinity: required(
                towards.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                away.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity: preferred(
                towards.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti_affinity: preferred(
                away.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            spread: spec.topology_spread_constraints.iter().flatten().map(|c| spread(c, &labels)).collect(),
            images: images(spec),
            claims: claims_of(&pod),
            device_claims: device_claims_of(&pod),
            gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.clone()).collect(),
            container_count: spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len),
            namespace,
            labels,
            pod: pod.clone(),
        }
    }

    /// Whether any affinity or anti-affinity term is there, required or preferred.
    pub fn has_pod_affinity(&self) -> bool {
        !(self.required_affinity.is_empty()
            && self.required_anti_affinity.is_empty()
            && self.preferred_affinity.is_empty()
            && self.preferred_anti_affinity.is_empty())
    }

    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub fn scheduler_name(&self) -> &str {
        let name = self.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
        name.filter(|name| !name.is_empty()).unwrap_or("default-scheduler")
    }

    /// Whether the pod has ended and no longer holds anything on its node.
    pub fn is_terminal(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Whether `nodeSelector` and required node affinity accept a node.
    pub fn accepts_node(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.as_ref().is_none_or(|selector| selector.matches(labels))
            && self.required_node_terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }
}

fn spread(source: &core::TopologySpreadConstraint, labels: &Labels) -> SpreadConstraint {
    let mut selector = Selector::from_label_selector(source.label_selector.as_ref());
    for key in source.match_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.require(key, value);
        }
    }
    SpreadConstraint {
        max_skew: source.max_skew.into(),
        topology_key: source.topology_key.clone(),
        do_not_schedule: source.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: source.min_domains.unwrap_or(1).into(),
        honor_affinity: source.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: source.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()) {
        let Some(number) = port.host_port.filter(|number| *number > 0) else { continue };
        ports.push(HostPort {
            ip: port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or(HostPort::ANY).into(),
            protocol: port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP").into(),
            port: number,
        });
    }
    ports
}

fn images(spec: &core::PodSpec) -> Vec<String> {
    let init = spec.init_containers.iter().flatten();
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    let containers = init.chain(&spec.containers).filter_map(|container| container.image.as_deref());
    containers.chain(volumes).map(normalized_image).collect()
}

/// The image name with `:latest` when it names neither tag nor digest.
pub fn normalized_image(name: &str) -> String {
    let after_slash = name.rsplit('/').next().unwrap_or(name);
    if after_slash.contains(':') || name.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}
