//! Devices as the scheduler sees them: what drivers publish, what claims ask for, and what has been given away.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::cel::policy::Compiled;
use api::cel::{Bindings, Environment, Key, MapVal, PER_CALL_LIMIT, Text, Type, Val};
use api::quota::{EXTENDED_CLAIM_ANNOTATION, IMPLICIT_RESOURCE_PREFIX};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use serde_json::Value;

use super::labels::{Labels, NodeTerm};
use super::shares::{self, Amounts, Capacity, Counters, Holding, Taken};

/// Driver, pool and name of a device.
pub type DeviceId = (String, String, String);

/// A CEL selector of devices.
#[derive(Debug, Clone)]
pub struct DeviceSelector {
    pub text: String,
    pub compiled: Compiled,
}

/// The selectors of a request or a class.
pub fn selectors(list: Option<&Vec<resource::DeviceSelector>>) -> Vec<DeviceSelector> {
    let texts = list.into_iter().flatten().filter_map(|selector| selector.cel.as_ref());
    texts
        .map(|cel| DeviceSelector {
            text: cel.expression.clone(),
            compiled: api::cel::device::compile(&cel.expression),
        })
        .collect()
}

/// A ResourceClaim.
#[derive(Debug, Clone)]
pub struct DeviceClaim {
    pub claim: Arc<resource::ResourceClaim>,
    pub key: String,
    pub uid: String,
    pub is_going: bool,
    /// Made by a scheduler for a pod's extended resources.
    pub is_special: bool,
    /// The uid of the pod that controls it.
    pub owner: Option<String>,
    pub requests: Vec<Request>,
    pub allocation: Option<Allocation>,
    /// Uids of those who may use it.
    pub reserved_for: Vec<String>,
}

/// One request of a claim: alternatives, the best first; one unless it is `firstAvailable`.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: String,
    pub alternatives: Vec<Alternative>,
}

#[derive(Debug, Clone)]
pub struct Alternative {
    /// The request's name in results: `request` or `request/subrequest`.
    pub name: String,
    /// One of several, `firstAvailable`.
    pub is_sub_request: bool,
    pub class: String,
    pub selectors: Vec<DeviceSelector>,
    /// `None`: all that match.
    pub count: Option<usize>,
    pub admin_access: bool,
    pub tolerations: Vec<resource::DeviceToleration>,
    /// How much of the device's capacity is asked for.
    pub capacity: Amounts,
}

/// What a claim has been given.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// Nodes it can be used on; `None`: all.
    terms: Option<Vec<NodeTerm>>,
    pub holdings: Vec<Holding>,
}

impl Allocation {
    fn new(result: &resource::AllocationResult) -> Allocation {
        let results = result.devices.as_ref().and_then(|devices| devices.results.as_deref());
        let terms = result.node_selector.as_ref();
        Allocation {
            terms: terms.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
            holdings: Holding::all_of(results.unwrap_or_default()),
        }
    }

    pub fn is_usable_on(&self, node: &str, labels: &Labels) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }
}

impl DeviceClaim {
    pub fn new(claim: &Arc<resource::ResourceClaim>) -> DeviceClaim {
        let meta = &claim.metadata;
        let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
        let status = claim.status.as_ref();
        let owners = meta.owner_references.iter().flatten();
        DeviceClaim {
            claim: claim.clone(),
            key: super::storage::claim_key(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            is_going: meta.deletion_timestamp.is_some(),
            is_special: meta
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(EXTENDED_CLAIM_ANNOTATION))
                .is_some_and(|value| value == "true"),
            owner: owners
                .into_iter()
                .find(|owner| owner.controller == Some(true) && owner.kind == "Pod")
                .map(|owner| owner.uid.clone()),
            requests: requests.map(Request::new).collect(),
            allocation: status.and_then(|status| status.allocation.as_ref()).map(Allocation::new),
            reserved_for: status
                .and_then(|status| status.reserved_for.as_ref())
                .map(|users| users.iter().map(|user| user.uid.clone()).collect())
                .unwrap_or_default(),
        }
    }

    pub fn name(&self) -> &str {
        self.claim.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Request {
    fn new(request: &resource::DeviceRequest) -> Request {
        let count = |mode: Option<&str>, count: Option<i64>| {
            (mode != Some("All")).then(|| usize::try_from(count.unwrap_or(1)).unwrap_or(1).max(1))
        };
        let capacity = |asked: Option<&resource::CapacityRequirements>| {
            shares::amounts(asked.and_then(|asked| asked.requests.as_ref()))
        };
        let exact = request.exactly.iter().map(|exact| Alternative {
            name: request.name.clone(),
            is_sub_request: false,
            class: exact.device_class_name.clone(),
            selectors: selectors(exact.selectors.as_ref()),
            count: count(exact.allocation_mode.as_deref(), exact.count),
            admin_access: exact.admin_access == Some(true),
            tolerations: exact.tolerations.clone().unwrap_or_default(),
            capacity: capacity(exact.capacity.as_ref()),
        });
        let first = request.first_available.iter().flatten().map(|sub| Alternative {
            name: format!("{}/{}", request.name, sub.name),
            is_sub_request: true,
            class: sub.device_class_name.clone(),
            selectors: selectors(sub.selectors.as_ref()),
            count: count(sub.allocation_mode.as_deref(), sub.count),
            admin_access: false,
            tolerations: sub.tolerations.clone().unwrap_or_default(),
            capacity: capacity(sub.capacity.as_ref()),
        });
        Request { name: request.name.clone(), alternatives: exact.chain(first).collect() }
    }
}

/// A DeviceClass.
#[derive(Debug, Clone)]
pub struct DeviceClass {
    pub selectors: Vec<DeviceSelector>,
    pub config: Vec<resource::DeviceClassConfiguration>,
    /// The extended resource that it stands behind.
    pub resource: Option<String>,
    created: Option<Timestamp>,
}

impl DeviceClass {
    pub fn new(class: &resource::DeviceClass) -> DeviceClass {
        DeviceClass {
            selectors: selectors(class.spec.selectors.as_ref()),
            config: class.spec.config.clone().unwrap_or_default(),
            resource: class.spec.extended_resource_name.clone(),
            created: class.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }
}

/// A device that a driver publishes.
#[derive(Debug, Clone)]
pub struct Device {
    pub id: DeviceId,
    /// `device` of expressions.
    pub seen: Val<'static>,
    /// By qualified name, for constraints.
    pub attributes: BTreeMap<String, Value>,
    pub taints: Vec<resource::DeviceTaint>,
    pub place: Place,
    /// Whoever has it has its node too: it is used nowhere else.
    pub binds_to_node: bool,
    /// Several requests may have a part of its capacity each.
    pub is_shared: bool,
    pub capacity: BTreeMap<String, Capacity>,
    /// What it takes of the pool's counters while somebody has it.
    pub counters: Counters,
    /// What has to be true of it before a pod may be bound that has it, and what says that it will not be.
    pub binding_conditions: Vec<String>,
    pub binding_failure_conditions: Vec<String>,
}

/// Where a device can be used.
#[derive(Debug, Clone)]
pub enum Place {
    Everywhere,
    Node(String),
    Nodes { selector: core::NodeSelector, terms: Vec<NodeTerm> },
    Nowhere,
}

impl Place {
    fn new(name: Option<&String>, selector: Option<&core::NodeSelector>, all: Option<bool>) -> Place {
        match (name.filter(|name| !name.is_empty()), selector, all) {
            (Some(node), _, _) => Place::Node(node.clone()),
            (None, Some(selector), _) => Place::Nodes {
                selector: selector.clone(),
                terms: selector.node_selector_terms.iter().map(NodeTerm::new).collect(),
            },
            (None, None, Some(true)) => Place::Everywhere,
            (None, None, _) => Place::Nowhere,
        }
    }

    pub fn is_on(&self, node: &str, labels: &Labels) -> bool {
        match self {
            Place::Everywhere => true,
            Place::Node(name) => name == node,
            Place::Nodes { terms, .. } => terms.iter().any(|term| term.matches(node, labels)),
            Place::Nowhere => false,
        }
    }
}

/// A ResourceSlice.
#[derive(Debug, Clone)]
pub struct Slice {
    pub driver: String,
    pub pool: String,
    pub generation: i64,
    /// Slices of the whole pool.
    pub slice_count: i64,
    pub devices: Vec<Arc<Device>>,
    /// What its counter sets have.
    pub counters: Counters,
}

impl Slice {
    pub fn new(slice: &resource::ResourceSlice) -> Slice {
        let spec = &slice.spec;
        let of_slice = Place::new(spec.node_name.as_ref(), spec.node_selector.as_ref(), spec.all_nodes);
        let device = |device: &resource::Device| {
            let place = match spec.per_device_node_selection {
                Some(true) => Place::new(device.node_name.as_ref(), device.node_selector.as_ref(), device.all_nodes),
                _ => of_slice.clone(),
            };
            Arc::new(Device::new(&spec.driver, &spec.pool.name, device, place))
        };
        Slice {
            driver: spec.driver.clone(),
            pool: spec.pool.name.clone(),
            generation: spec.pool.generation,
            slice_count: spec.pool.resource_slice_count,
            devices: spec.devices.iter().flatten().map(device).collect(),
            counters: shares::shared_counters(spec),
        }
    }
}

impl Device {
    fn new(driver: &str, pool: &str, device: &resource::Device, place: Place) -> Device {
        // Names without a domain are in the driver's.
        let split = |name: &str| match name.split_once('/') {
            Some((domain, id)) => (domain.to_owned(), id.to_owned()),
            None => (driver.to_owned(), name.to_owned()),
        };
        let mut attributes = BTreeMap::new();
        let mut by_domain = BTreeMap::new();
        for (name, attribute) in device.attributes.iter().flatten() {
            let (domain, id) = split(name);
            attributes.insert(format!("{domain}/{id}"), attribute_value(attribute));
            put(&mut by_domain, domain, id, shown_attribute(attribute));
        }
        let mut capacity = BTreeMap::new();
        for (name, value) in device.capacity.iter().flatten() {
            let (domain, id) = split(name);
            put(&mut capacity, domain, id, made("quantity(text)", &value.value.0));
        }
        let seen = map([
            ("driver".to_owned(), Val::string(driver)),
            ("attributes".to_owned(), map(by_domain.into_iter().map(|(domain, of)| (domain, map(of))))),
            ("capacity".to_owned(), map(capacity.into_iter().map(|(domain, of)| (domain, map(of))))),
            ("allowMultipleAllocations".to_owned(), Val::Bool(device.allow_multiple_allocations.unwrap_or(false))),
        ]);
        Device {
            id: (driver.to_owned(), pool.to_owned(), device.name.clone()),
            seen,
            attributes,
            taints: device.taints.clone().unwrap_or_default(),
            place,
            binds_to_node: device.binds_to_node == Some(true),
            is_shared: device.allow_multiple_allocations == Some(true),
            capacity: Capacity::all_of(device),
            counters: shares::consumed_counters(device),
            binding_conditions: device.binding_conditions.clone().unwrap_or_default(),
            binding_failure_conditions: device.binding_failure_conditions.clone().unwrap_or_default(),
        }
    }
}

/// Values of expressions, by domain and name.
type ByDomain = BTreeMap<String, BTreeMap<String, Val<'static>>>;

fn put(into: &mut ByDomain, domain: String, id: String, value: Val<'static>) {
    into.entry(domain).or_default().insert(id, value);
}

fn map(entries: impl IntoIterator<Item = (String, Val<'static>)>) -> Val<'static> {
    let entries = entries.into_iter().map(|(key, value)| (Key::String(Text::Shared(key.into())), value));
    Val::Map(MapVal::Made(Arc::new(entries.collect())))
}

/// A quantity or a version of expressions, made by CEL's own functions; null when the text is none.
fn made(function: &str, text: &str) -> Val<'static> {
    let mut environment = Environment::new();
    environment.declare("text", Type::String);
    let Ok(program) = environment.compile(function) else { return Val::Null };
    let bindings = Bindings::new().with("text", Val::string(text));
    program.evaluate(&bindings, PER_CALL_LIMIT).0.unwrap_or(Val::Null)
}

fn shown_attribute(attribute: &resource::DeviceAttribute) -> Val<'static> {
    match (attribute.bool, attribute.int, &attribute.string, &attribute.version) {
        (Some(value), ..) => Val::Bool(value),
        (None, Some(value), ..) => Val::Int(value),
        (None, None, Some(text), _) => Val::string(text.as_str()),
        (None, None, None, Some(version)) => made("semver(text)", version),
        (None, None, None, None) => Val::Null,
    }
}

fn attribute_value(attribute: &resource::DeviceAttribute) -> Value {
    let texts = attribute.string.as_ref().or(attribute.version.as_ref());
    match (attribute.bool, attribute.int, texts) {
        (Some(value), _, _) => value.into(),
        (None, Some(value), _) => value.into(),
        (None, None, Some(value)) => value.as_str().into(),
        (None, None, None) => Value::Null,
    }
}

/// All devices and claims. Shared with cycles and copied only when it changes while one is using it.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// By `namespace/name`.
    pub claims: HashMap<String, Arc<DeviceClaim>>,
    pub classes: HashMap<String, Arc<DeviceClass>>,
    /// By name.
    pub slices: BTreeMap<String, Arc<Slice>>,
    /// The newest version of any claim that was seen.
    pub revision: u64,
}

/// A pool in its newest generation.
#[derive(Debug, Clone)]
pub struct Pool {
    pub name: (String, String),
    /// Not all of its slices or counters are there, or a device is there twice: nothing can be said of the whole.
    pub is_unsound: bool,
    pub devices: Vec<Arc<Device>>,
    /// What is left of the counters; less than nothing when drivers took some back.
    pub counters: Counters,
}

impl Devices {
    /// The class that stands behind an extended resource: the one that is named after it, else the newest that names it.
    pub fn class_behind(&self, resource: &str) -> Option<&str> {
        if let Some(class) = resource.strip_prefix(IMPLICIT_RESOURCE_PREFIX) {
            return self.classes.get_key_value(class).map(|(name, _)| name.as_str());
        }
        let naming = self.classes.iter().filter(|(_, class)| class.resource.as_deref() == Some(resource));
        naming.max_by_key(|(name, class)| (class.created, std::cmp::Reverse(*name))).map(|(name, _)| name.as_str())
    }

    /// Notes the version of a claim.
    pub fn see(&mut self, claim: &resource::ResourceClaim) {
        let version = claim.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        self.revision = self.revision.max(version.unwrap_or(0));
    }

    /// What claims hold.
    pub fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        let allocations = self.claims.values().filter_map(|claim| claim.allocation.as_ref());
        allocations.flat_map(|allocation| &allocation.holdings).for_each(|holding| taken.add(holding));
        taken
    }

    /// The pools, in the order of their names, with what is left of their counters.
    pub fn pools(&self, taken: &Taken) -> Vec<Pool> {
        let mut by_name: BTreeMap<(String, String), Vec<&Arc<Slice>>> = BTreeMap::new();
        for slice in self.slices.values() {
            by_name.entry((slice.driver.clone(), slice.pool.clone())).or_default().push(slice);
        }
        let pool = |(name, slices): ((String, String), Vec<&Arc<Slice>>)| {
            let newest = slices.iter().map(|slice| slice.generation).max().unwrap_or(0);
            let current: Vec<_> = slices.into_iter().filter(|slice| slice.generation == newest).collect();
            let wanted = current.first().map_or(0, |slice| slice.slice_count);
            let devices: Vec<_> = current.iter().flat_map(|slice| slice.devices.iter().cloned()).collect();
            let mut names = HashSet::new();
            let mut counters: Counters = current.iter().flat_map(|slice| slice.counters.clone()).collect();
            let counted = devices.iter().all(|device| device.counters.keys().all(|key| counters.contains_key(key)));
            let is_whole = current.len() as i64 == wanted && devices.iter().all(|device| names.insert(&device.id.2));
            drop(names);
            for device in devices.iter().filter(|device| taken.holds(&device.id)) {
                for (key, consumed) in &device.counters {
                    counters.entry(key.clone()).and_modify(|left| *left = left.sub(consumed));
                }
            }
            Pool { name, is_unsound: !is_whole || !counted, devices, counters }
        };
        by_name.into_iter().map(pool).collect()
    }
}

/// A claim that a pod names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDeviceClaim {
    /// Name within the pod.
    pub name: String,
    /// `None`: it is to be made from a template, and has not been; `Some(None)`: none is needed.
    pub claim: Option<Option<String>>,
    pub is_from_template: bool,
}

/// The claims that a pod names.
pub fn device_claims_of(pod: &core::Pod) -> Vec<PodDeviceClaim> {
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let made = |name: &str| {
        let status = statuses.into_iter().flatten().find(|status| status.name == name)?;
        Some(status.resource_claim_name.clone())
    };
    let claims = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    claims
        .map(|claim| match &claim.resource_claim_name {
            Some(named) => {
                PodDeviceClaim { name: claim.name.clone(), claim: Some(Some(named.clone())), is_from_template: false }
            }
            None => PodDeviceClaim { name: claim.name.clone(), claim: made(&claim.name), is_from_template: true },
        })
        .collect()
}
