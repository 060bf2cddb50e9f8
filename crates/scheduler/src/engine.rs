//! The scheduler without I/O: events in, decisions out. Owns queue, cache and nominations, and keeps them in step.
//!
//! Same events, same clock, same seed: same decisions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::cache::Cache;
use crate::cycle::{Cycle, ScheduleError};
use crate::framework::{
    ActionType, ClusterEvent, Code, CycleState, EventObject, EventResource, PostFilterResult, Status, Undo,
    node_change, pod_change,
};
use crate::model::devices::{self, DeviceClaim, Slice};
use crate::model::labels::Selector;
use crate::model::storage::{Capacity, Claim, Class, Volume, claim_key};
use crate::model::{NodeFacts, PodInfo};
use crate::nominator::Nominator;
use crate::profile::Profile;
use crate::queue::{Backoff, Pending, Queue, QueuedPod};
use crate::snapshot::DisruptionBudget;

/// All that can happen to the scheduler.
pub enum Event {
    PodApplied(Arc<Pod>),
    PodDeleted(Arc<Pod>),
    NodeApplied(Arc<Node>),
    NodeDeleted(Arc<Node>),
    NamespaceApplied(Arc<Namespace>),
    NamespaceDeleted(Arc<Namespace>),
    BudgetApplied(Arc<PodDisruptionBudget>),
    BudgetDeleted(Arc<PodDisruptionBudget>),
    ServiceApplied(Arc<Service>),
    ServiceDeleted(Arc<Service>),
    /// The selector of something that controls pods, by its uid.
    OwnerApplied {
        uid: String,
        selector: Selector,
    },
    OwnerDeleted {
        uid: String,
    },
    Storage(StorageChange),
    Devices(DeviceChange),
    /// A binding this scheduler asked for is finished.
    BindingFinished {
        pod: QueuedPod,
        node: Arc<str>,
        result: Result<(), Status>,
    },
}

/// A change of something that has to do with storage.
pub enum StorageChange {
    ClaimApplied(Arc<PersistentVolumeClaim>),
    ClaimDeleted(Arc<PersistentVolumeClaim>),
    VolumeApplied(Arc<PersistentVolume>),
    VolumeDeleted(Arc<PersistentVolume>),
    ClassApplied(Arc<StorageClass>),
    ClassDeleted(Arc<StorageClass>),
    CsiNodeApplied(Arc<CSINode>),
    CsiNodeDeleted(Arc<CSINode>),
    CsiDriverApplied(Arc<CSIDriver>),
    CsiDriverDeleted(Arc<CSIDriver>),
    CapacityApplied(Arc<CSIStorageCapacity>),
    CapacityDeleted(Arc<CSIStorageCapacity>),
}

/// A change of something that has to do with devices.
pub enum DeviceChange {
    ClaimApplied(Arc<ResourceClaim>),
    ClaimDeleted(Arc<ResourceClaim>),
    ClassApplied(Arc<DeviceClass>),
    ClassDeleted(Arc<DeviceClass>),
    SliceApplied(Arc<ResourceSlice>),
    SliceDeleted(Arc<ResourceSlice>),
}

/// What to do after one cycle.
pub enum Outcome {
    /// Bind the pod; report back with `Event::BindingFinished`.
    Bind { pod: QueuedPod, node: Arc<str> },
    /// Tell the user why the pod stays pending.
    Failed(Failure),
    /// The pod needs no scheduling (any more).
    Skipped,
}

/// A pod that could not be scheduled this time. It is already back in the queue.
#[derive(Debug)]
pub struct Failure {
    pub pod: Arc<PodInfo>,
    /// Reason of the `PodScheduled` condition.
    pub reason: &'static str,
    pub message: String,
    /// The new nominated node, when it is to be changed: `Some("")` clears it.
    pub nominated_node: Option<String>,
    /// Pods to be removed so that this one fits on the nominated node.
    pub victims: Vec<Arc<PodInfo>>,
    /// Less important pods that were promised the nominated node and no longer are.
    pub displaced: Vec<Arc<PodInfo>>,
    /// A claim of the pod, and what of it is to be taken back.
    pub take_back: Option<(String, Undo)>,
}

/// Reason of the condition when no node fits.
pub const REASON_UNSCHEDULABLE: &str = "Unschedulable";
/// Reason of the condition when something broke.
pub const REASON_SCHEDULER_ERROR: &str = "SchedulerError";
/// The message when the cluster has no nodes.
const NO_NODES: &str = "no nodes available to schedule pods";

/// See the module.
pub struct Engine {
    profiles: Arc<HashMap<String, Arc<Profile>>>,
    cache: Cache,
    queue: Queue,
    nominator: Nominator,
    start_index: usize,
    rng: SmallRng,
    /// The time at which `now` was zero.
    epoch: Timestamp,
}

impl Engine {
    pub fn new(profiles: Vec<Profile>, seed: u64) -> Engine {
        Engine::with_backoff(profiles, Backoff::default(), seed)
    }

    pub fn with_backoff(profiles: Vec<Profile>, backoff: Backoff, seed: u64) -> Engine {
        let profiles: HashMap<String, Arc<Profile>> =
            profiles.into_iter().map(|profile| (profile.scheduler_name.clone(), Arc::new(profile))).collect();
        let profiles = Arc::new(profiles);
        Engine {
            queue: Queue::new(profiles.clone(), backoff),
            profiles,
            cache: Cache::default(),
            nominator: Nominator::default(),
            start_index: 0,
            rng: SmallRng::seed_from_u64(seed),
            epoch: Timestamp::UNIX_EPOCH,
        }
    }

    /// The same, whose `now` counts from this time.
    #[must_use]
    pub fn since(self, epoch: Timestamp) -> Engine {
        Engine { epoch, ..self }
    }

    pub fn pending(&self) -> Pending {
        self.queue.pending()
    }

    pub fn profile(&self, scheduler_name: &str) -> Option<&Arc<Profile>> {
        self.profiles.get(scheduler_name)
    }

    /// To be called every second.
    pub fn tick(&mut self, now: Duration) {
        self.queue.flush(now);
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::PodApplied(pod) => self.pod_applied(Arc::new(PodInfo::new(pod)), now),
            Event::PodDeleted(pod) => self.pod_gone(&Arc::new(PodInfo::new(pod)), now),
            Event::NodeApplied(node) => self.node_applied(Arc::new(NodeFacts::new(&node)), now),
            Event::NodeDeleted(node) => self.cache.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Event::NamespaceApplied(namespace) => {
                let name = namespace.metadata.name.clone().unwrap_or_default();
                self.cache.snapshot.namespaces.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
            }
            Event::NamespaceDeleted(namespace) => {
                self.cache.snapshot.namespaces.remove(namespace.metadata.name.as_deref().unwrap_or_default());
            }
            Event::BudgetApplied(budget) => {
                let (key, budget) = disruption_budget(&budget);
                self.cache.snapshot.budgets.insert(key, budget);
            }
            Event::BudgetDeleted(budget) => {
                self.cache.snapshot.budgets.remove(&disruption_budget(&budget).0);
            }
            Event::ServiceApplied(service) => {
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                match selector.filter(|selector| !selector.is_empty()) {
                    Some(selector) => {
                        let selector = Selector::from_map(selector);
                        self.cache.snapshot.services.insert(service_key(&service), selector);
                    }
                    None => drop(self.cache.snapshot.services.remove(&service_key(&service))),
                }
            }
            Event::ServiceDeleted(service) => drop(self.cache.snapshot.services.remove(&service_key(&service))),
            Event::OwnerApplied { uid, selector } => {
                self.cache.snapshot.owner_selectors.insert(uid, selector);
            }
            Event::OwnerDeleted { uid } => drop(self.cache.snapshot.owner_selectors.remove(&uid)),
            Event::Storage(change) => self.storage_changed(change, now),
            Event::Devices(change) => self.devices_changed(change, now),
            Event::BindingFinished { pod, node, result } => self.binding_finished(pod, &node, result, now),
        }
    }

    /// Tries the next pod. `None` when none is ready.
    pub fn schedule_next(&mut self, now: Duration) -> Option<Outcome> {
        let queued = self.queue.pop(now)?;
        let pod = queued.pod.clone();
        let Some(profile) = self.profiles.get(pod.scheduler_name()).cloned() else {
            self.queue.done(&pod.uid);
            return Some(Outcome::Skipped);
        };
        if pod.terminating || self.cache.contains(&pod.uid) {
            self.queue.done(&pod.uid);
            return Some(Outcome::Skipped);
        }
        self.cache.snapshot.settle();
        self.cache.snapshot.now = self.epoch.checked_add(now).unwrap_or(Timestamp::MAX);
        let found = Cycle {
            profile: &profile,
            snapshot: &self.cache.snapshot,
            nominator: &self.nominator,
            start_index: &mut self.start_index,
            rng: &mut self.rng,
        }
        .run(&pod);
        Some(match found {
            Ok(mut decision) => match self.reserve(&profile, &pod, &mut decision) {
                Ok(()) => {
                    self.cache.assume(pod.clone(), &decision.node);
                    self.nominator.remove(&pod.uid);
                    Outcome::Bind { pod: queued, node: decision.node }
                }
                Err(status) => Outcome::Failed(self.refused(queued, status, now)),
            },
            Err(error) => Outcome::Failed(self.failed(queued, error, now)),
        })
    }

    fn reserve(&self, profile: &Profile, pod: &PodInfo, decision: &mut crate::cycle::Decision) -> Result<(), Status> {
        let Some(node) = self.cache.snapshot.node(&decision.node) else { return Ok(()) };
        let state = &mut decision.state;
        let reserved = profile.points.reserve.iter().try_for_each(|slot| slot.plugin.reserve(state, pod, node));
        let permitted = reserved
            .and_then(|()| profile.points.permit.iter().try_for_each(|slot| slot.plugin.permit(state, pod, node)));
        if permitted.is_err() {
            for slot in profile.points.reserve.iter().rev() {
                slot.plugin.unreserve(state, pod, &decision.node);
            }
        }
        permitted
    }

    fn failed(&mut self, queued: QueuedPod, error: ScheduleError, now: Duration) -> Failure {
        let pod = queued.pod.clone();
        let clear = pod.nominated_node.is_some().then(String::new);
        match error {
            ScheduleError::NoNodes => {
                self.nominator.remove(&pod.uid);
                self.queue.put_back_unschedulable(queued, [].into(), now);
                Failure {
                    pod,
                    reason: REASON_UNSCHEDULABLE,
                    message: NO_NODES.into(),
                    nominated_node: clear,
                    victims: Vec::new(),
                    displaced: Vec::new(),
                    take_back: None,
                }
            }
            ScheduleError::Plugin(status) => self.refused(queued, status, now),
            ScheduleError::Unfit { diagnosis, remedy } => {
                let message = diagnosis.message();
                let rejectors = diagnosis.plugins.union(&diagnosis.pending_plugins).copied().collect();
                let mut displaced = Vec::new();
                let (nominated_node, victims) = match remedy {
                    PostFilterResult::NotNow { .. }
                    | PostFilterResult::Broken { .. }
                    | PostFilterResult::TakeBack { .. } => (None, Vec::new()),
                    PostFilterResult::Unhelpful { .. } => {
                        self.nominator.remove(&pod.uid);
                        (clear, Vec::new())
                    }
                    PostFilterResult::Nominated { node, victims } => {
                        let victims = self.find_on_node(&node, &victims);
                        let promised = self.nominator.on_node(&node).iter();
                        displaced = promised.filter(|other| other.priority < pod.priority).cloned().collect();
                        for other in &displaced {
                            self.nominator.remove(&other.uid);
                        }
                        self.nominator.put(pod.clone(), &node);
                        (Some(node), victims)
                    }
                };
                self.queue.put_back_unschedulable(queued, rejectors, now);
                let take_back = diagnosis.take_back;
                Failure { pod, reason: REASON_UNSCHEDULABLE, message, nominated_node, victims, displaced, take_back }
            }
        }
    }

    /// One plugin stopped a pod after a node had been found, or broke.
    fn refused(&mut self, queued: QueuedPod, status: Status, now: Duration) -> Failure {
        let pod = queued.pod.clone();
        let message = status.message();
        let reason = if status.code == Code::Error {
            self.queue.put_back_error(queued, now);
            REASON_SCHEDULER_ERROR
        } else {
            self.queue.put_back_unschedulable(queued, [status.plugin].into(), now);
            REASON_UNSCHEDULABLE
        };
        let (victims, displaced) = (Vec::new(), Vec::new());
        Failure { pod, reason, message, nominated_node: None, victims, displaced, take_back: None }
    }

    fn find_on_node(&self, node: &str, uids: &[String]) -> Vec<Arc<PodInfo>> {
        let pods = self.cache.snapshot.node(node).map(|node| node.pods.as_slice()).unwrap_or_default();
        uids.iter().filter_map(|uid| pods.iter().find(|pod| *pod.uid == **uid).cloned()).collect()
    }

    fn pod_applied(&mut self, pod: Arc<PodInfo>, now: Duration) {
        if pod.is_terminal() {
            return self.pod_gone(&pod, now);
        }
        if pod.node_name.is_none() {
            return self.pod_waits(pod, now);
        }
        self.queue.remove(&pod.uid);
        self.nominator.remove(&pod.uid);
        let confirmed = self.cache.is_assumed(&pod.uid);
        let before = self.cache.put_pod(pod.clone());
        let action = match &before {
            Some(before) if !confirmed => pod_change(before, &pod),
            _ => ActionType::ADD,
        };
        let object = EventObject::Pod { old: before.as_deref(), new: Some(&pod) };
        self.queue.on_event(ClusterEvent::new(EventResource::AssignedPod, action), object, now);
    }

    fn pod_waits(&mut self, pod: Arc<PodInfo>, now: Duration) {
        if !self.profiles.contains_key(pod.scheduler_name()) {
            return;
        }
        if self.cache.is_assumed(&pod.uid) {
            return self.queue.refresh(pod);
        }
        if pod.terminating {
            return self.queue.remove(&pod.uid);
        }
        if let Some(node) = pod.nominated_node.clone() {
            self.nominator.put(pod.clone(), &node);
        }
        self.queue.upsert(pod, now);
    }

    fn pod_gone(&mut self, pod: &Arc<PodInfo>, now: Duration) {
        self.queue.remove(&pod.uid);
        let promised = self.nominator.node_of(&pod.uid).is_some();
        self.nominator.remove(&pod.uid);
        let Some(before) = self.cache.remove_pod(&pod.uid) else {
            // Room that was promised to this pod is free again.
            if promised {
                let event = ClusterEvent::new(EventResource::AssignedPod, ActionType::DELETE);
                self.queue.on_event(event, EventObject::Pod { old: Some(pod), new: None }, now);
            }
            return;
        };
        let object = EventObject::Pod { old: Some(&before), new: None };
        self.queue.on_event(ClusterEvent::new(EventResource::AssignedPod, ActionType::DELETE), object, now);
    }

    fn node_applied(&mut self, facts: Arc<NodeFacts>, now: Duration) {
        let before = self.cache.snapshot.node(&facts.name).map(|node| node.facts.clone());
        let action = before.as_ref().map_or(ActionType::ADD, |before| node_change(before, &facts));
        if before.as_deref() == Some(&*facts) {
            return;
        }
        self.cache.put_node(facts.clone());
        if !action.is_empty() {
            let object = EventObject::Node { old: before.as_deref(), new: &facts };
            self.queue.on_event(ClusterEvent::new(EventResource::Node, action), object, now);
        }
    }

    fn storage_changed(&mut self, change: StorageChange, now: Duration) {
        let storage = Arc::make_mut(&mut self.cache.snapshot.storage);
        let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
        let key = |meta: &ObjectMeta| claim_key(meta.namespace.as_deref().unwrap_or_default(), &name(meta));
        let (resource, added) = match change {
            StorageChange::ClaimApplied(claim) => {
                let old = storage.claims.insert(key(&claim.metadata), Arc::new(Claim::new(&claim)));
                (EventResource::PersistentVolumeClaim, old.is_none())
            }
            StorageChange::VolumeApplied(volume) => {
                let old = storage.volumes.insert(name(&volume.metadata), Arc::new(Volume::new(&volume)));
                (EventResource::PersistentVolume, old.is_none())
            }
            StorageChange::ClassApplied(class) => {
                let old = storage.classes.insert(name(&class.metadata), Arc::new(Class::new(&class)));
                (EventResource::StorageClass, old.is_none())
            }
            StorageChange::CsiNodeApplied(node) => {
                let is_new = !storage.limits.contains_key(&name(&node.metadata));
                storage.set_limits(&node);
                (EventResource::CsiNode, is_new)
            }
            StorageChange::CsiDriverApplied(driver) => {
                let publishes = driver.spec.storage_capacity.unwrap_or(false);
                let old = storage.with_capacity.insert(name(&driver.metadata), publishes);
                (EventResource::CsiDriver, old.is_none())
            }
            StorageChange::CapacityApplied(capacity) => {
                let old = storage.capacities.insert(key(&capacity.metadata), Arc::new(Capacity::new(&capacity)));
                (EventResource::CsiStorageCapacity, old.is_none())
            }
            // Nothing that goes makes a pod fit.
            StorageChange::ClaimDeleted(claim) => return drop(storage.claims.remove(&key(&claim.metadata))),
            StorageChange::VolumeDeleted(volume) => return drop(storage.volumes.remove(&name(&volume.metadata))),
            StorageChange::ClassDeleted(class) => return drop(storage.classes.remove(&name(&class.metadata))),
            StorageChange::CsiNodeDeleted(node) => return drop(storage.limits.remove(&name(&node.metadata))),
            StorageChange::CsiDriverDeleted(driver) => {
                storage.with_capacity.remove(&name(&driver.metadata));
                return;
            }
            StorageChange::CapacityDeleted(capacity) => {
                return drop(storage.capacities.remove(&key(&capacity.metadata)));
            }
        };
        let action = if added { ActionType::ADD } else { ActionType::UPDATE_OTHER };
        self.queue.on_event(ClusterEvent::new(resource, action), EventObject::None, now);
    }

    fn devices_changed(&mut self, change: DeviceChange, now: Duration) {
        let devices = Arc::make_mut(&mut self.cache.snapshot.devices);
        let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
        let key = |meta: &ObjectMeta| claim_key(meta.namespace.as_deref().unwrap_or_default(), &name(meta));
        let (resource, action) = match change {
            DeviceChange::ClaimApplied(claim) => {
                devices.see(&claim);
                let old = devices.claims.insert(key(&claim.metadata), Arc::new(DeviceClaim::new(&claim)));
                (EventResource::ResourceClaim, applied(old.is_none()))
            }
            DeviceChange::ClassApplied(class) => {
                let old = devices.classes.insert(name(&class.metadata), Arc::new(devices::DeviceClass::new(&class)));
                (EventResource::DeviceClass, applied(old.is_none()))
            }
            DeviceChange::SliceApplied(slice) => {
                let old = devices.slices.insert(name(&slice.metadata), Arc::new(Slice::new(&slice)));
                (EventResource::ResourceSlice, applied(old.is_none()))
            }
            // What the claim held is free.
            DeviceChange::ClaimDeleted(claim) => {
                devices.see(&claim);
                devices.claims.remove(&key(&claim.metadata));
                (EventResource::ResourceClaim, ActionType::DELETE)
            }
            DeviceChange::ClassDeleted(class) => return drop(devices.classes.remove(&name(&class.metadata))),
            DeviceChange::SliceDeleted(slice) => return drop(devices.slices.remove(&name(&slice.metadata))),
        };
        self.queue.on_event(ClusterEvent::new(resource, action), EventObject::None, now);
    }

    fn binding_finished(&mut self, pod: QueuedPod, node: &str, result: Result<(), Status>, now: Duration) {
        let uid = pod.pod.uid.clone();
        if result.is_ok() {
            return self.queue.done(&uid);
        }
        if let Some(profile) = self.profiles.get(pod.pod.scheduler_name()) {
            for slot in profile.points.reserve.iter().rev() {
                slot.plugin.unreserve(&mut CycleState::default(), &pod.pod, node);
            }
        }
        let node_freed = self.cache.is_assumed(&uid);
        self.cache.forget(&uid);
        self.queue.put_back_error(pod.clone(), now);
        if node_freed {
            let object = EventObject::Pod { old: Some(&pod.pod), new: None };
            self.queue.on_event(ClusterEvent::new(EventResource::AssignedPod, ActionType::DELETE), object, now);
        }
    }
}

fn applied(is_new: bool) -> ActionType {
    if is_new { ActionType::ADD } else { ActionType::UPDATE_OTHER }
}

fn service_key(service: &Service) -> (String, String) {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

fn disruption_budget(budget: &PodDisruptionBudget) -> (String, DisruptionBudget) {
    let namespace = budget.metadata.namespace.clone().unwrap_or_default();
    let key = format!("{namespace}/{}", budget.metadata.name.as_deref().unwrap_or_default());
    let status = budget.status.as_ref();
    let budget = DisruptionBudget {
        namespace,
        selector: Selector::from_label_selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
        disruptions_allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
        disrupted_pods: status
            .and_then(|status| status.disrupted_pods.as_ref())
            .map(|pods| pods.keys().cloned().collect())
            .unwrap_or_default(),
    };
    (key, budget)
}
