//! A node as the scheduler sees it: what it offers (`NodeFacts`) and what is already taken (`NodeInfo`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::class::ClassCounts;
use super::labels::Labels;
use super::pod::{HostPort, normalized_image};
use super::{PodInfo, Resources};

pub const HOSTNAME: &str = "kubernetes.io/hostname";
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The parts of a Node object that scheduling depends on. Two equal values schedule alike.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    pub name: Arc<str>,
    pub labels: Labels,
    hostname: Option<Arc<str>>,
    zone_label: Option<Arc<str>>,
    pub annotations: Labels,
    pub taints: Vec<core::Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// Image name (normalised) to size in bytes.
    pub images: BTreeMap<String, i64>,
    /// Condition type to status; heartbeat times are left out on purpose.
    pub conditions: BTreeMap<String, String>,
    pub declared_features: Vec<String>,
}

impl NodeFacts {
    pub fn new(node: &core::Node) -> NodeFacts {
        let spec = node.spec.clone().unwrap_or_default();
        let empty = core::NodeStatus::default();
        let status = node.status.as_ref().unwrap_or(&empty);
        let mut images = BTreeMap::new();
        for image in status.images.iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(normalized_image(name), image.size_bytes.unwrap_or(0));
            }
        }
        let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(|value| value.as_str().into());
        NodeFacts {
            hostname: label(HOSTNAME),
            zone_label: label(ZONE),
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            annotations: node.metadata.annotations.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: status.allocatable.as_ref().map(Resources::from_list).unwrap_or_default(),
            images,
            conditions: status
                .conditions
                .iter()
                .flatten()
                .map(|condition| (condition.type_.clone(), condition.status.clone()))
                .collect(),
            declared_features: status.declared_features.clone().unwrap_or_default(),
        }
    }

    /// The value of a label that names a domain; those that all pods are spread by by default are found at once.
    pub fn domain(&self, key: &str) -> Option<&str> {
        match key {
            HOSTNAME => self.hostname.as_deref(),
            ZONE => self.zone_label.as_deref(),
            _ => self.labels.get(key).map(String::as_str),
        }
    }

    /// Region and zone, the unit nodes are interleaved by. Empty when neither label is there.
    pub fn zone(&self) -> String {
        let label = |name: &str, old: &str| {
            self.labels.get(name).or_else(|| self.labels.get(old)).map(String::as_str).unwrap_or_default()
        };
        let region = label("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region");
        let zone = label(ZONE, "failure-domain.beta.kubernetes.io/zone");
        if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
    }
}

/// A node and the pods on it, with running totals. Totals always equal the sum over `pods`.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub facts: Arc<NodeFacts>,
    pub pods: Vec<Arc<PodInfo>>,
    pub classes: ClassCounts,
    pub requested: Resources,
    /// CPU and memory with defaults for missing requests.
    pub non_zero_requested: Resources,
    pub ports: Vec<HostPort>,
    pub pods_with_affinity: u32,
    pub pods_with_required_anti_affinity: u32,
}

impl NodeInfo {
    pub fn new(facts: Arc<NodeFacts>) -> NodeInfo {
        NodeInfo {
            facts,
            pods: Vec::new(),
            classes: ClassCounts::default(),
            requested: Resources::default(),
            non_zero_requested: Resources::default(),
            ports: Vec::new(),
            pods_with_affinity: 0,
            pods_with_required_anti_affinity: 0,
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.facts.name
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.classes.add(&pod);
        self.requested.add(&pod.requests);
        self.non_zero_requested.milli_cpu += pod.non_zero.milli_cpu;
        self.non_zero_requested.memory += pod.non_zero.memory;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods_with_affinity += u32::from(pod.has_pod_affinity());
        self.pods_with_required_anti_affinity += u32::from(!pod.required_anti_affinity.is_empty());
        self.pods.push(pod);
    }

    /// Takes the pod with this uid away; `false` when it is not here.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(position) = self.pods.iter().position(|pod| &*pod.uid == uid) else { return false };
        let pod = self.pods.swap_remove(position);
        self.classes.remove(&pod);
        self.requested.subtract(&pod.requests);
        self.non_zero_requested.milli_cpu -= pod.non_zero.milli_cpu;
        self.non_zero_requested.memory -= pod.non_zero.memory;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        self.pods_with_affinity -= u32::from(pod.has_pod_affinity());
        self.pods_with_required_anti_affinity -= u32::from(!pod.required_anti_affinity.is_empty());
        true
    }
}
