//! DynamicResources: a pod goes where the devices that its claims ask for are, and gets them.
//!
//! Claims without an allocation get one for the node that is chosen; what was given is kept aside from `Reserve` until the API
//! server shows it, so that no device is given twice. `PreBind` writes allocation and reservation.

mod allocate;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use super::PluginArgs;
use crate::framework::{
    ActionType, BindContext, CycleState, EventHint, EventResource, ExtensionPoints, Filter, Narrowed, Plugin,
    PostFilter, PostFilterInput, PostFilterResult, PreBind, PreEnqueue, PreFilter, Reserve, Status, api_text,
};
use crate::model::devices::{DeviceClaim, Devices, Pool};
use crate::model::shares::Taken;
use crate::model::storage::claim_key;
use crate::model::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;
use allocate::{Given, Search};

pub(super) const NAME: &str = "DynamicResources";
/// Keeps a claim with an allocation until it is taken back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Users of one claim; upstream's number.
const RESERVED_FOR_MAX: usize = 256;
/// Tries of one write against other writers.
const WRITES_MAX: usize = 5;

struct DynamicResources {
    given: Mutex<HashMap<Arc<str>, Vec<Given>>>,
}

/// The pod's claims, looked up once.
#[derive(Clone)]
struct PodClaims {
    devices: Arc<Devices>,
    pools: Arc<Vec<Pool>>,
    taken: Arc<Taken>,
    allocated: Vec<Arc<DeviceClaim>>,
    pending: Vec<Arc<DeviceClaim>>,
}

pub(super) fn extend(_: &PluginArgs, points: &mut ExtensionPoints) {
    let plugin = Arc::new(DynamicResources { given: Mutex::default() });
    points
        .listen(&plugin)
        .at_pre_enqueue(&plugin)
        .at_pre_filter(&plugin)
        .at_filter(&plugin)
        .at_post_filter(&plugin)
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
            EventHint::any(EventResource::Node, ActionType::ADD.and(ActionType::UPDATE_NODE_LABEL)),
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
        if pod.device_claims.is_empty() {
            return Ok(Narrowed::Skip);
        }
        let devices = snapshot.devices.clone();
        let claims = claims_of(pod, &devices).map_err(|reason| Status::unresolvable(NAME, reason))?;
        let (allocated, pending): (Vec<_>, Vec<_>) = claims.into_iter().partition(|claim| claim.allocation.is_some());
        for claim in &allocated {
            let is_user = claim.reserved_for.iter().any(|uid| **uid == *pod.uid);
            if !is_user && claim.reserved_for.len() >= RESERVED_FOR_MAX {
                return Err(Status::unschedulable(NAME, "resourceclaim in use"));
            }
        }
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
        if !pending.is_empty() {
            taken = devices.taken();
            let mut given = self.given.lock();
            // What the API server shows is not kept aside any more.
            given.retain(|_, given| given.iter().any(|given| !is_seen(given, &devices)));
            given.values().flatten().flat_map(|given| &given.holdings).for_each(|holding| taken.add(holding));
            let elsewhere =
                |claim: &Arc<DeviceClaim>| given.values().flatten().any(|given| given.claim.uid == claim.uid);
            if pending.iter().any(elsewhere) {
                return Err(Status::unschedulable(NAME, "resource claim is in the process of being allocated"));
            }
        }
        let pools = if pending.is_empty() { Vec::new() } else { devices.pools(&taken) };
        state.set(PodClaims { devices, pools: Arc::new(pools), taken: Arc::new(taken), allocated, pending });
        Ok(Narrowed::No)
    }
}

/// Does the claim have its allocation, or is it gone?
fn is_seen(given: &Given, devices: &Devices) -> bool {
    match devices.claims.get(&given.claim.key) {
        Some(claim) => claim.uid != given.claim.uid || claim.allocation.is_some(),
        None => true,
    }
}

impl PodClaims {
    fn search(&self, node: &NodeInfo) -> Result<Vec<Given>, Status> {
        for claim in &self.allocated {
            let allocation = claim.allocation.as_ref();
            if !allocation.is_some_and(|allocation| allocation.is_usable_on(node.name(), &node.facts.labels)) {
                return Err(Status::unresolvable(NAME, "resourceclaim not available on the node"));
            }
        }
        if self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let search = Search {
            devices: &self.devices,
            pools: &self.pools,
            taken: &self.taken,
            node: node.name(),
            labels: &node.facts.labels,
        };
        match search.run(&self.pending) {
            Ok(Some(given)) => Ok(given),
            Ok(None) => Err(Status::unresolvable(NAME, "cannot allocate all claims")),
            Err(reason) => Err(Status::unresolvable(NAME, reason)),
        }
    }
}

impl Filter for DynamicResources {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        match state.get::<PodClaims>() {
            Some(claims) => claims.search(node).map(drop),
            None => Ok(()),
        }
    }
}

/// An allocation that keeps the pod from some nodes, and that nobody else uses, is taken back, so that another can be made.
impl PostFilter for DynamicResources {
    fn post_filter(&self, input: PostFilterInput<'_>) -> PostFilterResult {
        let unhelpful = |message: &str| PostFilterResult::Unhelpful { message: message.to_owned() };
        let Some(claims) = input.state.get::<PodClaims>() else { return unhelpful("") };
        let is_idle = |claim: &&Arc<DeviceClaim>| match claim.reserved_for.as_slice() {
            [] => true,
            [only] => **only == *input.pod.uid,
            _ => false,
        };
        let refused = || {
            let by_us = input.diagnosis.refused.iter().filter(|(_, status)| status.plugin == NAME);
            by_us.filter_map(|(node, _)| input.snapshot.node(node))
        };
        let keeps_off = |claim: &&Arc<DeviceClaim>| {
            let allocation = claim.allocation.as_ref();
            refused().any(|node| allocation.is_some_and(|of| !of.is_usable_on(node.name(), &node.facts.labels)))
        };
        match claims.allocated.iter().filter(is_idle).find(keeps_off) {
            Some(claim) => PostFilterResult::TakeBack {
                claim: claim.name().to_owned(),
                message: "deallocation of ResourceClaim completed".to_owned(),
            },
            None => unhelpful("still not schedulable"),
        }
    }
}

impl Reserve for DynamicResources {
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Status> {
        let Some(claims) = state.get::<PodClaims>() else { return Ok(()) };
        let given = claims.search(node)?;
        if !given.is_empty() {
            self.given.lock().insert(pod.uid.clone(), given);
        }
        Ok(())
    }

    fn unreserve(&self, _: &mut CycleState, pod: &PodInfo, _: &str) {
        self.given.lock().remove(&pod.uid);
    }
}

impl PreBind for DynamicResources {
    fn pre_bind<'a>(&'a self, ctx: &'a BindContext, pod: &'a PodInfo, _: &'a str) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            if pod.device_claims.is_empty() {
                return Ok(());
            }
            let given = self.given.lock().get(&pod.uid).cloned().unwrap_or_default();
            let api: Api<ResourceClaim> = Api::namespaced(ctx.client.clone(), &pod.namespace);
            for name in pod.device_claims.iter().filter_map(|claim| claim.claim.clone().flatten()) {
                let given = given.iter().find(|given| given.claim.name() == name);
                let failed = |error| Status::error(NAME, format!("resourceclaim {name}: {error}"));
                reserve(&api, pod, &name, given).await.map_err(failed)?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Writes what a claim is given, if it is given anything, and that the pod uses it.
async fn reserve(api: &Api<ResourceClaim>, pod: &PodInfo, name: &str, given: Option<&Given>) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..WRITES_MAX {
        match try_reserve(api, pod, name, given).await {
            Ok(()) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => last = status.message,
            Err(error) => return Err(api_text(error)),
        }
    }
    Err(last)
}

async fn try_reserve(
    api: &Api<ResourceClaim>,
    pod: &PodInfo,
    name: &str,
    given: Option<&Given>,
) -> Result<(), kube::Error> {
    let params = PostParams::default();
    let mut claim = api.get(name).await?;
    let is_allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    if let Some(given) = given.filter(|_| !is_allocated) {
        let finalizers = claim.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
            claim = api.replace(name, &params, &claim).await?;
        }
        claim.status.get_or_insert_default().allocation = Some(given.result.clone());
    }
    let users = claim.status.get_or_insert_default().reserved_for.get_or_insert_default();
    if users.iter().any(|user| *user.uid == *pod.uid) {
        return Ok(());
    }
    users.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
    });
    api.replace_status(name, &params, &claim).await.map(drop)
}
