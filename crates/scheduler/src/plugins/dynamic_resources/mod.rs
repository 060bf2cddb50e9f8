//! DynamicResources: a pod goes where the devices that its claims ask for are, and gets them.
//!
//! Claims without an allocation get one for the node that is chosen; what was given is kept aside from `Reserve` until the API
//! server shows it, so that no device is given twice. `PreBind` writes allocation and reservation ([`binding`]). Extended resources
//! with a device class behind them are a claim as well ([`extended`]).

mod allocate;
mod binding;
mod extended;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{PluginArgs, normalize};
use crate::framework::{
    ActionType, BindContext, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Narrowed, Plugin,
    PostFilter, PostFilterInput, PostFilterResult, PreBind, PreEnqueue, PreFilter, PreScore, Reserve, Score, Scoring,
    Status, Undo,
};
use crate::model::devices::{DeviceClaim, Devices, Pool};
use crate::model::shares::Taken;
use crate::model::storage::claim_key;
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;
use allocate::{Given, Search};
use binding::Binding;
pub(crate) use binding::discard;
use extended::Wanted;

pub(super) const NAME: &str = "DynamicResources";
/// Keeps a claim with an allocation until it is taken back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Users of one claim; upstream's number.
const RESERVED_FOR_MAX: usize = 256;
/// Alternatives of one request; upstream's number, of which the best is worth most in scores.
const ALTERNATIVES_MAX: i64 = 8;

/// Arguments of DynamicResources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicResourcesArgs {
    /// How long devices have to fulfil their binding conditions.
    pub binding_timeout: Duration,
}

impl Default for DynamicResourcesArgs {
    fn default() -> DynamicResourcesArgs {
        DynamicResourcesArgs { binding_timeout: Duration::from_secs(600) }
    }
}

struct DynamicResources {
    args: DynamicResourcesArgs,
    given: Mutex<HashMap<Arc<str>, Vec<Given>>>,
    /// Pods whose binding waits for devices.
    waiting: Mutex<HashSet<Arc<str>>>,
}

/// The pod's claims, looked up once.
#[derive(Clone)]
struct PodClaims {
    devices: Arc<Devices>,
    pools: Arc<Vec<Pool>>,
    taken: Arc<Taken>,
    allocated: Vec<Allocated>,
    pending: Vec<Arc<DeviceClaim>>,
    extended: Extended,
}

#[derive(Clone)]
struct Allocated {
    claim: Arc<DeviceClaim>,
    /// Its devices failed their conditions, or took too long.
    is_lost: bool,
}

/// Extended resources of a pod that device classes stand behind.
#[derive(Clone)]
enum Extended {
    None,
    Wanted(Arc<Wanted>),
    /// The claim of this name was made by an attempt that failed, and has to go first.
    Leftover(String),
}

pub(super) fn extend(args: &PluginArgs, points: &mut ExtensionPoints) {
    let args = args.dynamic_resources.clone();
    let plugin = Arc::new(DynamicResources { args, given: Mutex::default(), waiting: Mutex::default() });
    points
        .listen(&plugin)
        .at_pre_enqueue(&plugin)
        .at_pre_filter(&plugin)
        .at_filter(&plugin)
        .at_post_filter(&plugin)
        .at_pre_score(&plugin)
        .at_score(&plugin)
        .at_reserve(&plugin)
        .at_pre_bind(&plugin);
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn events(&self) -> Vec<EventHint> {
        let changed = ActionType::ADD.and(ActionType::UPDATE_OTHER);
        vec![
            EventHint::any(EventResource::ResourceClaim, changed.and(ActionType::DELETE)),
            EventHint::any(EventResource::ResourceSlice, changed),
            EventHint::any(EventResource::DeviceClass, changed),
            EventHint::any(EventResource::TargetPod, ActionType::UPDATE_OTHER),
            EventHint::any(
                EventResource::Node,
                ActionType::ADD.and(ActionType::UPDATE_NODE_LABEL).and(ActionType::UPDATE_NODE_ALLOCATABLE),
            ),
        ]
    }
}

/// The pod's claims, or why they cannot be used: upstream's texts.
fn claims_of(pod: &PodInfo, devices: &Devices) -> Result<Vec<Arc<DeviceClaim>>, String> {
    let mut claims = Vec::new();
    for wanted in &pod.device_claims {
        let name = match &wanted.claim {
            Some(Some(name)) => name,
            Some(None) => continue,
            None => {
                return Err(format!("pod {}: pod claim {:?}: ResourceClaim not created yet", pod.key(), wanted.name));
            }
        };
        let claim = devices.claims.get(&claim_key(&pod.namespace, name));
        let Some(claim) = claim else { return Err(format!("resourceclaim.resource.k8s.io \"{name}\" not found")) };
        if claim.is_going {
            return Err(format!("resourceclaim \"{name}\" is being deleted"));
        }
        if wanted.is_from_template && claim.owner.as_deref() != Some(&*pod.uid) {
            return Err(format!(
                "ResourceClaim {} was not created for pod {} (pod is not owner)",
                claim.key,
                pod.key()
            ));
        }
        claims.push(claim.clone());
    }
    Ok(claims)
}

impl PreEnqueue for DynamicResources {
    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Status> {
        // A claim that is still to be made shows in the pod itself.
        match pod.device_claims.iter().find(|claim| claim.claim.is_none()) {
            None => Ok(()),
            Some(claim) => {
                let text = format!("pod {}: pod claim {:?}: ResourceClaim not created yet", pod.key(), claim.name);
                Err(Status::unresolvable(NAME, text))
            }
        }
    }
}

impl PreFilter for DynamicResources {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<Narrowed, Status> {
        let devices = snapshot.devices.clone();
        let extended = extended_of(pod, &devices);
        if pod.device_claims.is_empty() && matches!(extended, Extended::None) {
            return Ok(Narrowed::Skip);
        }
        let claims = claims_of(pod, &devices).map_err(|reason| Status::unresolvable(NAME, reason))?;
        let (allocated, pending): (Vec<_>, Vec<_>) = claims.into_iter().partition(|claim| claim.allocation.is_some());
        for claim in &allocated {
            let is_user = claim.reserved_for.iter().any(|uid| **uid == *pod.uid);
            if !is_user && claim.reserved_for.len() >= RESERVED_FOR_MAX {
                return Err(Status::unresolvable(NAME, "resourceclaim in use"));
            }
        }
        let allocated = allocated.into_iter().map(|claim| self.allocated(claim, snapshot.now)).collect();
        for claim in &pending {
            for alternative in claim.requests.iter().flat_map(|request| &request.alternatives) {
                if !devices.classes.contains_key(&alternative.class) {
                    let text =
                        format!("request {}: device class {} does not exist", alternative.name, alternative.class);
                    return Err(Status::unresolvable(NAME, text));
                }
            }
        }
        let mut taken = Taken::default();
        let searches = !pending.is_empty() || matches!(extended, Extended::Wanted(_));
        if searches {
            taken = devices.taken();
            let mut given = self.given.lock();
            // What the API server shows is not kept aside any more.
            given.retain(|_, given| given.iter().any(|given| !is_seen(given, &devices)));
            given.values().flatten().flat_map(|given| &given.holdings).for_each(|holding| taken.add(holding));
            let elsewhere =
                |claim: &&Arc<DeviceClaim>| given.values().flatten().any(|given| given.claim.uid == claim.uid);
            if let Some(claim) = pending.iter().find(elsewhere) {
                let text = format!("resource claim {} is in the process of being allocated", claim.key);
                return Err(Status::unresolvable(NAME, text));
            }
        }
        let pools = if searches { devices.pools(&taken) } else { Vec::new() };
        state.set(PodClaims { devices, pools: Arc::new(pools), taken: Arc::new(taken), allocated, pending, extended });
        Ok(Narrowed::No)
    }
}

fn extended_of(pod: &PodInfo, devices: &Devices) -> Extended {
    let Some(wanted) = Wanted::of(pod, devices) else { return Extended::None };
    let mut special = devices.claims.values().filter(|claim| claim.is_special);
    match special.find(|claim| claim.owner.as_deref() == Some(&*pod.uid)) {
        Some(left) => Extended::Leftover(left.name().to_owned()),
        None => Extended::Wanted(Arc::new(wanted)),
    }
}

impl DynamicResources {
    fn allocated(&self, claim: Arc<DeviceClaim>, now: Timestamp) -> Allocated {
        let is_lost = match binding::readiness(&claim.claim) {
            Err(_failed) => true,
            Ok(is_ready) => !is_ready && binding::is_late(&claim.claim, self.args.binding_timeout, now),
        };
        Allocated { claim, is_lost }
    }
}

/// Does the claim have its allocation, or is it gone?
fn is_seen(given: &Given, devices: &Devices) -> bool {
    if !given.mappings.is_empty() {
        // It had no name when it was given.
        return given.written.is_some_and(|version| devices.revision >= version);
    }
    match devices.claims.get(&given.claim.key) {
        Some(claim) => claim.uid != given.claim.uid || claim.allocation.is_some(),
        None => true,
    }
}

impl Allocated {
    fn is_usable_on(&self, node: &NodeInfo) -> bool {
        let allocation = self.claim.allocation.as_ref();
        !self.is_lost && allocation.is_some_and(|allocation| allocation.is_usable_on(node.name(), &node.facts.labels))
    }
}

impl PodClaims {
    /// What the pod would be given on a node.
    fn search(&self, pod: &PodInfo, node: &NodeInfo) -> Result<Vec<Given>, Status> {
        let special = match &self.extended {
            Extended::None => None,
            Extended::Leftover(_) => {
                return Err(Status::unresolvable(NAME, "cannot schedule extended resource claim"));
            }
            Extended::Wanted(wanted) => wanted.on(pod, node, NAME)?,
        };
        if !self.allocated.iter().all(|allocated| allocated.is_usable_on(node)) {
            return Err(Status::unresolvable(NAME, "resourceclaim not available on the node"));
        }
        match special {
            None if self.pending.is_empty() => Ok(Vec::new()),
            None => self.search_for(&self.pending, node),
            Some(special) => {
                let claims = [self.pending.as_slice(), std::slice::from_ref(&special.claim)].concat();
                let mut given = self.search_for(&claims, node)?;
                if let Some(last) = given.last_mut() {
                    last.mappings.clone_from(&special.mappings);
                }
                Ok(given)
            }
        }
    }

    fn search_for(&self, claims: &[Arc<DeviceClaim>], node: &NodeInfo) -> Result<Vec<Given>, Status> {
        let search = Search {
            devices: &self.devices,
            pools: &self.pools,
            taken: &self.taken,
            node: node.name(),
            labels: &node.facts.labels,
        };
        match search.run(claims) {
            Ok(Some(given)) => Ok(given),
            Ok(None) => Err(Status::unresolvable(NAME, "cannot allocate all claims")),
            Err(reason) => Err(Status::unresolvable(NAME, reason)),
        }
    }
}

impl Filter for DynamicResources {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        match state.get::<PodClaims>() {
            Some(claims) => claims.search(pod, node).map(drop),
            None => Ok(()),
        }
    }
}

const NO_CLAIMS: &str = "no new claims to deallocate";
const NOT_SEEN: &str = "not found";

/// An allocation that keeps the pod from some nodes, and that nobody else uses, is taken back, so that another can be made. So is
/// the claim that an earlier attempt made for extended resources.
impl PostFilter for DynamicResources {
    fn post_filter(&self, input: PostFilterInput<'_>) -> PostFilterResult {
        let unhelpful = |message: &str| PostFilterResult::Unhelpful { message: message.to_owned() };
        let Some(claims) = input.state.get::<PodClaims>() else {
            let was_asked = input.diagnosis.pre_filter_message.is_empty() || input.diagnosis.plugins.contains(NAME);
            // Upstream's words for a pod that another plugin refused before this one saw it.
            return if was_asked {
                unhelpful(NO_CLAIMS)
            } else {
                PostFilterResult::Broken { message: NOT_SEEN.to_owned() }
            };
        };
        let is_idle = |allocated: &&Allocated| match allocated.claim.reserved_for.as_slice() {
            [] => true,
            [only] => **only == *input.pod.uid,
            _ => false,
        };
        let refused = || {
            let by_us = input.diagnosis.refused.iter().filter(|(_, status)| status.plugin == NAME);
            by_us.filter_map(|(node, _)| input.snapshot.node(node))
        };
        let keeps_off = |allocated: &&Allocated| refused().any(|node| !allocated.is_usable_on(node));
        match (claims.allocated.iter().filter(is_idle).find(keeps_off), &claims.extended) {
            (Some(allocated), _) => PostFilterResult::TakeBack {
                claim: allocated.claim.name().to_owned(),
                undo: Undo::Allocation,
                message: "deallocation of ResourceClaim completed".to_owned(),
            },
            (None, Extended::Leftover(name)) => PostFilterResult::TakeBack {
                claim: name.clone(),
                undo: Undo::Claim,
                message: "deletion of ResourceClaim completed".to_owned(),
            },
            (None, _) => unhelpful("still not schedulable"),
        }
    }
}

impl PreScore for DynamicResources {
    fn pre_score(&self, state: &mut CycleState, _: &PodInfo, _: &Snapshot, _: &[&NodeInfo]) -> Scoring {
        let Some(claims) = state.get::<PodClaims>() else { return Scoring::Skip };
        let all = claims.pending.iter().chain(claims.allocated.iter().map(|allocated| &allocated.claim));
        let mut requests = all.flat_map(|claim| &claim.requests);
        if requests.any(|request| request.alternatives.len() > 1) { Scoring::Needed } else { Scoring::Skip }
    }
}

/// Nodes where requests get their better alternatives are better.
impl Score for DynamicResources {
    fn score(&self, state: &CycleState, pod: &PodInfo, _: &Snapshot, node: &NodeInfo) -> i64 {
        let Some(claims) = state.get::<PodClaims>() else { return 0 };
        let given = claims.search(pod, node).unwrap_or_default();
        let given = given.iter().map(|given| worth(&given.claim, &given.result));
        let before = claims.allocated.iter().map(|allocated| {
            let status = allocated.claim.claim.status.as_ref();
            status.and_then(|status| status.allocation.as_ref()).map_or(0, |result| worth(&allocated.claim, result))
        });
        given.chain(before).sum()
    }

    fn normalize(&self, _: &CycleState, _: &[&NodeInfo], scores: &mut [i64]) {
        normalize::by_largest(scores, false);
    }
}

/// The sum over requests with alternatives: the earlier the alternative that was given, the more.
fn worth(claim: &DeviceClaim, result: &k8s_openapi::api::resource::v1::AllocationResult) -> i64 {
    let results = || result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    let with_choice = claim.requests.iter().filter(|request| request.alternatives.iter().any(|one| one.is_sub_request));
    let of_request = |alternatives: &[crate::model::devices::Alternative]| -> i64 {
        let places = alternatives.iter().zip((0..=ALTERNATIVES_MAX).rev());
        places.filter(|(one, _)| results().any(|result| result.request == one.name)).map(|(_, worth)| worth).sum()
    };
    with_choice.map(|request| of_request(&request.alternatives)).sum()
}

impl Reserve for DynamicResources {
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(claims) = state.get::<PodClaims>() else { return Ok(()) };
        let given = claims.search(pod, node)?;
        let waits = given.iter().any(Given::has_conditions)
            || claims.allocated.iter().any(|allocated| binding::has_conditions(&allocated.claim.claim));
        if waits {
            self.waiting.lock().insert(pod.uid.clone());
        }
        if !given.is_empty() {
            self.given.lock().insert(pod.uid.clone(), given);
        }
        Ok(())
    }

    fn unreserve(&self, _: &mut CycleState, pod: &PodInfo, _: &str) {
        self.given.lock().remove(&pod.uid);
        self.waiting.lock().remove(&pod.uid);
    }
}

impl PreBind for DynamicResources {
    fn waits(&self, pod: &PodInfo) -> bool {
        self.waiting.lock().contains(&pod.uid)
    }

    fn pre_bind<'a>(
        &'a self,
        ctx: &'a BindContext,
        pod: &'a PodInfo,
        node: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            let given = self.given.lock().get(&pod.uid).cloned().unwrap_or_default();
            if pod.device_claims.is_empty() && given.is_empty() {
                return Ok(());
            }
            let mut binding = Binding::new(ctx, pod);
            let bound = self.write_and_wait(&mut binding, pod, &given, node).await;
            self.waiting.lock().remove(&pod.uid);
            if let Err(error) = bound {
                binding.give_back().await;
                return Err(Status::error(NAME, error));
            }
            Ok(())
        }
        .boxed()
    }
}

impl DynamicResources {
    async fn write_and_wait(
        &self,
        binding: &mut Binding<'_>,
        pod: &PodInfo,
        given: &[Given],
        node: &str,
    ) -> Result<(), String> {
        for name in pod.device_claims.iter().filter_map(|claim| claim.claim.clone().flatten()) {
            let given = given.iter().find(|given| given.claim.name() == name);
            binding.reserve(&name, given).await?;
        }
        if let Some(special) = given.iter().find(|given| !given.mappings.is_empty()) {
            let written = binding.make(special).await?;
            let mut all = self.given.lock();
            let kept = all.get_mut(&pod.uid).into_iter().flatten();
            kept.filter(|given| !given.mappings.is_empty()).for_each(|given| given.written = written);
        }
        binding.wait(node, self.args.binding_timeout).await
    }
}
