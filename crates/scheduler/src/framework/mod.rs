//! The scheduling framework: what a plugin may do and when it is asked.
//!
//! A plugin is one struct with one trait per extension point it serves; `extend` puts it at those points. Everything up to and
//! including `Reserve` and `Permit` is synchronous and pure (state, pod, snapshot in; verdict out). `PreBind`, `Bind` and
//! `PostBind` talk to the API server and are asynchronous.

mod event;
mod points;
mod state;
mod status;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use client::{EventType, SeriesRecorder};

use futures::future::BoxFuture;
use rand::RngCore;

pub use event::{
    ActionType, ClusterEvent, EventHint, EventObject, EventResource, Hint, HintFn, node_change, pod_change,
};
pub use points::{ExtensionPoints, Slot};
pub use state::{CycleState, StateData};
pub use status::{Code, Reasons, Status, api_text};

use crate::cycle::Diagnosis;
use crate::metrics::Metrics;
use crate::model::{NodeInfo, PodInfo};
use crate::nominator::Nominator;
use crate::profile::Profile;
use crate::queue::QueuedPod;
use crate::snapshot::Snapshot;

/// The best score a plugin may give after normalising.
pub const MAX_NODE_SCORE: i64 = 100;

/// What every plugin has.
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The cluster events that may make a pod schedulable that this plugin turned away.
    fn events(&self) -> Vec<EventHint> {
        Vec::new()
    }
}

/// Decides whether a pod may enter the active queue.
pub trait PreEnqueue: Plugin {
    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Status>;
}

/// Orders the active queue: smaller keys are scheduled first.
pub trait QueueSort: Plugin {
    fn key(&self, pod: &QueuedPod) -> (i64, u128);
}

/// What a `PreFilter` plugin found out about the pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Narrowed {
    /// Any node may do.
    No,
    /// Only these nodes can do.
    To(BTreeSet<String>),
    /// The plugin's `Filter` has nothing to say about this pod.
    Skip,
}

/// Looks at the pod once, before any node.
pub trait PreFilter: Plugin {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status>;

    /// Adjusts the state as if `added` ran on `node`.
    fn add_pod(&self, _state: &mut CycleState, _pod: &PodInfo, _added: &PodInfo, _node: &NodeInfo, _: &Snapshot) {}

    /// Adjusts the state as if `removed` no longer ran on `node`.
    fn remove_pod(&self, _state: &mut CycleState, _pod: &PodInfo, _removed: &PodInfo, _node: &NodeInfo, _: &Snapshot) {}
}

/// Decides whether a node can run the pod. Called for many nodes: it must not allocate when it accepts.
pub trait Filter: Plugin {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status>;
}

/// All a `PostFilter` plugin may look at.
pub struct PostFilterInput<'a> {
    pub profile: &'a Profile,
    pub snapshot: &'a Snapshot,
    pub nominator: &'a Nominator,
    pub state: &'a CycleState,
    pub pod: &'a PodInfo,
    pub diagnosis: &'a Diagnosis,
    pub rng: &'a mut dyn RngCore,
}

/// What can be done for a pod that no node can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostFilterResult {
    /// Nothing; the message is added to the failure message when not empty. A node promised before is given up.
    Unhelpful { message: String },
    /// Nothing is to be done now, and a node promised before stays promised.
    NotNow { message: String },
    /// As `NotNow`, and the other plugins are not asked: this one cannot say.
    Broken { message: String },
    /// As `NotNow`, and something of the pod's claim of this name is to be taken back.
    TakeBack { claim: String, undo: Undo, message: String },
    /// The pod fits on `node` once the victims (uids) are gone.
    Nominated { node: String, victims: Vec<String> },
}

/// What is taken back of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// The allocation: nobody uses it, and it is for nodes or devices that cannot serve the pod.
    Allocation,
    /// The claim itself: a scheduler made it, for an attempt that failed.
    Claim,
}

/// Asked when no node passed the filters.
pub trait PostFilter: Plugin {
    fn post_filter(&self, input: PostFilterInput<'_>) -> PostFilterResult;
}

/// Whether a plugin's `Score` is to be asked for this pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    Needed,
    Skip,
}

/// Looks at the feasible nodes once, before any is scored.
pub trait PreScore: Plugin {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, nodes: &[&NodeInfo]) -> Scoring;
}

/// Ranks feasible nodes. After `normalize` every score must lie in `0..=MAX_NODE_SCORE`.
pub trait Score: Plugin {
    fn score(&self, state: &CycleState, pod: &PodInfo, snapshot: &Snapshot, node: &NodeInfo) -> i64;

    fn normalize(&self, _state: &CycleState, _nodes: &[&NodeInfo], _scores: &mut [i64]) {}
}

/// Keeps something for the pod before it is bound, and gives it back when binding fails.
pub trait Reserve: Plugin {
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status>;
    fn unreserve(&self, state: &mut CycleState, pod: &PodInfo, node: &str);
}

/// The last word before binding: let the pod go on or reject it.
pub trait Permit: Plugin {
    fn permit(&self, state: &mut CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status>;
}

/// What binding plugins work with.
#[derive(Clone)]
pub struct BindContext {
    pub client: kube::Client,
    /// By scheduler name.
    pub recorders: Arc<HashMap<String, SeriesRecorder>>,
    pub metrics: Metrics,
}

impl BindContext {
    /// Records an event about a pod in the name of its scheduler: why, and what the scheduler did or tried.
    pub fn record(&self, pod: &PodInfo, kind: EventType, reason: &str, action: &str, note: String) {
        self.record_for(pod, pod, kind, reason, action, note);
    }

    /// Records about `about` in the name of the scheduler of `pod`.
    pub fn record_for(
        &self,
        pod: &PodInfo,
        about: &PodInfo,
        kind: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        if let Some(recorder) = self.recorders.get(pod.scheduler_name()) {
            recorder.event(&*about.pod, kind, reason, action, note);
        }
    }
}

/// Prepares a node for a pod, for instance by attaching storage.
pub trait PreBind: Plugin {
    /// Whether `pre_bind` may take long: it then holds none of the places of requests to the API server.
    fn waits(&self, _pod: &PodInfo) -> bool {
        false
    }

    fn pre_bind<'a>(
        &'a self,
        ctx: &'a BindContext,
        pod: &'a PodInfo,
        node: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>>;
}

/// Tells the API server where the pod runs.
pub trait Bind: Plugin {
    fn bind<'a>(&'a self, ctx: &'a BindContext, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Result<(), Status>>;
}

/// Told after the pod was bound.
pub trait PostBind: Plugin {
    fn post_bind<'a>(&'a self, ctx: &'a BindContext, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, ()>;
}
