//! What happens in the cluster, in the words plugins register for: a resource and the kind of change.

use std::ops::BitOr;

use crate::model::{NodeFacts, PodInfo};

/// The kind of thing that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventResource {
    /// A pod that runs on a node.
    AssignedPod,
    /// A pod that waits for a node, other than the one being judged.
    UnscheduledPod,
    /// The waiting pod itself.
    TargetPod,
    Node,
    PersistentVolumeClaim,
    PersistentVolume,
    StorageClass,
    CsiNode,
    CsiDriver,
    CsiStorageCapacity,
    ResourceClaim,
    ResourceSlice,
    DeviceClass,
    /// Everything; used when the scheduler cannot tell what changed.
    WildCard,
}

/// A set of kinds of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActionType(u32);

impl ActionType {
    pub const ADD: ActionType = ActionType(1);
    pub const DELETE: ActionType = ActionType(1 << 1);
    pub const UPDATE_NODE_ALLOCATABLE: ActionType = ActionType(1 << 2);
    pub const UPDATE_NODE_LABEL: ActionType = ActionType(1 << 3);
    pub const UPDATE_NODE_TAINT: ActionType = ActionType(1 << 4);
    pub const UPDATE_NODE_CONDITION: ActionType = ActionType(1 << 5);
    pub const UPDATE_NODE_ANNOTATION: ActionType = ActionType(1 << 6);
    pub const UPDATE_POD_LABEL: ActionType = ActionType(1 << 7);
    pub const UPDATE_POD_SCALE_DOWN: ActionType = ActionType(1 << 8);
    pub const UPDATE_POD_TOLERATION: ActionType = ActionType(1 << 9);
    pub const UPDATE_POD_GATES_ELIMINATED: ActionType = ActionType(1 << 10);
    pub const UPDATE_OTHER: ActionType = ActionType(1 << 11);
    pub const UPDATE_NODE_DECLARED_FEATURE: ActionType = ActionType(1 << 12);
    pub const NONE: ActionType = ActionType(0);
    pub const ALL: ActionType = ActionType((1 << 13) - 1);

    pub const fn and(self, other: ActionType) -> ActionType {
        ActionType(self.0 | other.0)
    }

    pub fn intersects(self, other: ActionType) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for ActionType {
    type Output = ActionType;

    fn bitor(self, other: ActionType) -> ActionType {
        self.and(other)
    }
}

/// A change, or a set of changes a plugin waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterEvent {
    pub resource: EventResource,
    pub action: ActionType,
}

impl ClusterEvent {
    pub const fn new(resource: EventResource, action: ActionType) -> ClusterEvent {
        ClusterEvent { resource, action }
    }

    /// Whether a plugin that waits for `self` is woken by what happened.
    pub fn covers(&self, happened: ClusterEvent) -> bool {
        self.resource == happened.resource && self.action.intersects(happened.action)
    }
}

/// The objects behind an event.
#[derive(Clone, Copy)]
pub enum EventObject<'a> {
    Pod { old: Option<&'a PodInfo>, new: Option<&'a PodInfo> },
    Node { old: Option<&'a NodeFacts>, new: &'a NodeFacts },
    None,
}

/// Whether an event is worth another try for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    Queue,
    Skip,
}

/// Judges one event for one waiting pod.
pub type HintFn = fn(&PodInfo, EventObject<'_>) -> Hint;

/// An event a plugin waits for, and how to tell a helpful one from others. Without a judge every such event helps.
#[derive(Clone, Copy)]
pub struct EventHint {
    pub event: ClusterEvent,
    pub judge: Option<HintFn>,
}

impl EventHint {
    pub const fn any(resource: EventResource, action: ActionType) -> EventHint {
        EventHint { event: ClusterEvent::new(resource, action), judge: None }
    }

    pub const fn judged(resource: EventResource, action: ActionType, judge: HintFn) -> EventHint {
        EventHint { event: ClusterEvent::new(resource, action), judge: Some(judge) }
    }
}

/// What changed between two versions of a node; empty when nothing scheduling depends on did.
pub fn node_change(old: &NodeFacts, new: &NodeFacts) -> ActionType {
    let mut action = ActionType::NONE;
    for (changed, kind) in [
        (old.unschedulable != new.unschedulable || old.taints != new.taints, ActionType::UPDATE_NODE_TAINT),
        (old.allocatable != new.allocatable, ActionType::UPDATE_NODE_ALLOCATABLE),
        (old.labels != new.labels, ActionType::UPDATE_NODE_LABEL),
        (old.conditions != new.conditions, ActionType::UPDATE_NODE_CONDITION),
        (old.annotations != new.annotations, ActionType::UPDATE_NODE_ANNOTATION),
        (old.declared_features != new.declared_features, ActionType::UPDATE_NODE_DECLARED_FEATURE),
    ] {
        if changed {
            action = action | kind;
        }
    }
    action
}

/// What changed between two versions of a pod.
pub fn pod_change(old: &PodInfo, new: &PodInfo) -> ActionType {
    let mut action = ActionType::NONE;
    let shrunk = new.requests.milli_cpu < old.requests.milli_cpu || new.requests.memory < old.requests.memory;
    for (changed, kind) in [
        (old.labels != new.labels, ActionType::UPDATE_POD_LABEL),
        (shrunk, ActionType::UPDATE_POD_SCALE_DOWN),
        (old.tolerations != new.tolerations, ActionType::UPDATE_POD_TOLERATION),
        (!old.gates.is_empty() && new.gates.is_empty(), ActionType::UPDATE_POD_GATES_ELIMINATED),
    ] {
        if changed {
            action = action | kind;
        }
    }
    if action.is_empty() { ActionType::UPDATE_OTHER } else { action }
}
