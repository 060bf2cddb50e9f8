//! Storage as the scheduler sees it: claims, volumes, classes, and what each node's drivers can take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1 as storage;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::labels::{Labels, NodeTerm, Selector};
use super::quantity;

/// On a claim: both halves of its binding have been written.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim: the node its volume is to be made for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes that have none.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub class: Option<String>,
    pub volume: Option<String>,
    /// Claim and volume point at each other, for good.
    pub is_bound: bool,
    pub is_lost: bool,
    pub is_going: bool,
    pub selected_node: Option<String>,
    /// Access modes that the volume must all have.
    pub modes: Vec<String>,
    pub is_block: bool,
    pub selector: Option<Selector>,
    /// Bytes asked for.
    pub bytes: i64,
    /// The uid of the pod that controls it.
    pub owner: Option<String>,
}

impl Claim {
    pub fn new(claim: &core::PersistentVolumeClaim) -> Claim {
        let meta = &claim.metadata;
        let spec = claim.spec.clone().unwrap_or_default();
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let owners = meta.owner_references.iter().flatten();
        let volume = spec.volume_name.filter(|name| !name.is_empty());
        Claim {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            class: annotation(CLASS_ANNOTATION).or(spec.storage_class_name).filter(|class| !class.is_empty()),
            is_bound: volume.is_some() && annotation(BIND_COMPLETED).is_some(),
            volume,
            is_lost: claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost"),
            is_going: meta.deletion_timestamp.is_some(),
            selected_node: annotation(SELECTED_NODE).filter(|node| !node.is_empty()),
            modes: spec.access_modes.unwrap_or_default(),
            is_block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec.selector.as_ref().map(|selector| Selector::from_label_selector(Some(selector))),
            bytes: spec
                .resources
                .and_then(|resources| resources.requests)
                .and_then(|requests| requests.get("storage").map(bytes))
                .unwrap_or(0),
            owner: owners
                .into_iter()
                .find(|owner| owner.controller == Some(true) && owner.kind == "Pod")
                .map(|owner| owner.uid.clone()),
        }
    }

    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        claim_key(&self.namespace, &self.name)
    }
}

fn bytes(quantity: &Quantity) -> i64 {
    quantity::value(&quantity.0).unwrap_or(0)
}

/// `NAMESPACE/NAME`.
pub fn claim_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// A PersistentVolume.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub volume: Arc<core::PersistentVolume>,
    pub name: String,
    pub class: Option<String>,
    pub labels: Labels,
    pub modes: Vec<String>,
    pub is_block: bool,
    pub bytes: i64,
    pub is_going: bool,
    /// The claim it is for, `namespace/name`, and that claim's uid when the two are bound.
    pub claim: Option<(String, String)>,
    /// Nodes it can be used on; None: all.
    terms: Option<Vec<NodeTerm>>,
    /// Driver and handle of a CSI volume.
    pub csi: Option<(String, String)>,
}

impl Volume {
    pub fn new(volume: &Arc<core::PersistentVolume>) -> Volume {
        let spec = volume.spec.clone().unwrap_or_default();
        let meta = &volume.metadata;
        let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        let class = meta.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION)).cloned();
        Volume {
            volume: volume.clone(),
            name: meta.name.clone().unwrap_or_default(),
            class: class.or(spec.storage_class_name).filter(|class| !class.is_empty()),
            labels: meta.labels.clone().unwrap_or_default(),
            modes: spec.access_modes.unwrap_or_default(),
            is_block: spec.volume_mode.as_deref() == Some("Block"),
            bytes: spec.capacity.and_then(|capacity| capacity.get("storage").map(bytes)).unwrap_or(0),
            is_going: meta.deletion_timestamp.is_some(),
            claim: spec.claim_ref.map(|claim| {
                let key = claim_key(
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default(),
                );
                (key, claim.uid.unwrap_or_default())
            }),
            terms: required.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        }
    }

    pub fn is_usable_on(&self, node: &str, labels: &Labels) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }

    /// Whether it would do for a claim, wherever.
    pub fn fits(&self, claim: &Claim) -> bool {
        self.class == claim.class
            && self.is_block == claim.is_block
            && self.bytes >= claim.bytes
            && claim.modes.iter().all(|mode| self.modes.contains(mode))
            && claim.selector.as_ref().is_none_or(|selector| selector.matches(&self.labels))
    }
}

/// A StorageClass.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    pub waits_for_consumer: bool,
    /// None when volumes of the class are only made by hand.
    pub provisioner: Option<String>,
    /// Topologies volumes may be made for: one must match. Empty: all.
    topologies: Vec<Vec<(String, Vec<String>)>>,
}

impl Class {
    pub fn new(class: &storage::StorageClass) -> Class {
        let term = |term: &core::TopologySelectorTerm| {
            let all = term.match_label_expressions.iter().flatten();
            all.map(|one| (one.key.clone(), one.values.clone())).collect()
        };
        Class {
            waits_for_consumer: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisioner: Some(class.provisioner.clone()).filter(|name| !name.is_empty() && name != NO_PROVISIONER),
            topologies: class.allowed_topologies.iter().flatten().map(term).collect(),
        }
    }

    pub fn allows(&self, labels: &Labels) -> bool {
        let has = |(key, values): &(String, Vec<String>)| labels.get(key).is_some_and(|value| values.contains(value));
        self.topologies.is_empty() || self.topologies.iter().any(|term| term.iter().all(has))
    }
}

/// How much of a class there is to have on some nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    pub class: String,
    nodes: Selector,
    /// Bytes one volume may have.
    pub bytes_max: i64,
}

impl Capacity {
    pub fn new(capacity: &storage::CSIStorageCapacity) -> Capacity {
        let quantity = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
        Capacity {
            class: capacity.storage_class_name.clone(),
            nodes: Selector::from_label_selector(capacity.node_topology.as_ref()),
            bytes_max: quantity.map(bytes).unwrap_or(0),
        }
    }

    pub fn is_for(&self, labels: &Labels) -> bool {
        self.nodes.matches(labels)
    }
}

/// All storage. Shared with cycles and copied only when it changes while one is using it.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// By `namespace/name`.
    pub claims: HashMap<String, Arc<Claim>>,
    pub volumes: BTreeMap<String, Arc<Volume>>,
    pub classes: HashMap<String, Arc<Class>>,
    /// Volumes that each node's drivers can take, by node and driver.
    pub limits: HashMap<String, BTreeMap<String, i64>>,
    /// Drivers that publish how much storage they have.
    pub with_capacity: HashMap<String, bool>,
    pub capacities: BTreeMap<String, Arc<Capacity>>,
}

impl Storage {
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<Claim>> {
        self.claims.get(&claim_key(namespace, name))
    }

    pub fn class_of(&self, claim: &Claim) -> Option<&Arc<Class>> {
        self.classes.get(claim.class.as_deref()?)
    }

    /// Whether a claim's volume is chosen or made only when its pod has a node.
    pub fn waits_for_consumer(&self, claim: &Claim) -> bool {
        self.class_of(claim).is_some_and(|class| class.waits_for_consumer)
    }

    pub fn set_limits(&mut self, node: &storage::CSINode) {
        let limit = |driver: &storage::CSINodeDriver| {
            let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count)?;
            Some((driver.name.clone(), count.into()))
        };
        let limits = node.spec.drivers.iter().filter_map(limit).collect();
        self.limits.insert(node.metadata.name.clone().unwrap_or_default(), limits);
    }
}

/// A volume of a pod that a claim stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    pub name: String,
    /// Made for this pod and with it.
    pub is_ephemeral: bool,
}

/// The claims a pod mounts.
pub fn claims_of(pod: &core::Pod) -> Vec<PodClaim> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume: &core::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(PodClaim { name: source.claim_name.clone(), is_ephemeral: false }),
        (None, Some(_)) => Some(PodClaim { name: format!("{pod_name}-{}", volume.name), is_ephemeral: true }),
        (None, None) => None,
    };
    volumes.filter_map(claim).collect()
}
