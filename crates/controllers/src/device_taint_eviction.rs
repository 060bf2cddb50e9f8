//! Device taint eviction: deletes pods that have devices with NoExecute taints they do not tolerate, after as long as they do.
//! Reads Pod, ResourceClaim, ResourceSlice. Writes Pod.status, deletes Pod. Source: KEP-5055; `devicetainteviction` of Kubernetes.
//!
//! A taint's time begins when it was added, and ends after the shortest of the tolerations that a claim got with the device. (Taints by
//! DeviceTaintRules are not served: their API is off by default.)

use std::collections::HashSet;
use std::sync::Arc;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use kube::api::{DeleteParams, Preconditions};
use parking_lot::Mutex;

use crate::ownership::{namespace, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::resource_claim;
use crate::spec::{ControllerSpec, Ctx};
use crate::taint_eviction::delete_marked;

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "device-taint-eviction-controller",
    alias: "",
    account: "device-taint-eviction-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 8;
/// The index of slices by driver and pool.
const BY_POOL: &str = "pool";

struct Controller {
    ctx: Ctx,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    /// Pods that will be evicted, by uid.
    waiting: Mutex<HashSet<String>>,
}

async fn run(ctx: Ctx) {
    let pods = ctx.informers.informer::<Pod>();
    let claims = ctx.informers.informer::<ResourceClaim>();
    let slices = ctx.informers.informer::<ResourceSlice>();
    slices.add_index(BY_POOL, |slice| vec![pool_key(&slice.spec.driver, &slice.spec.pool.name)]);
    let queue = WorkQueue::default();
    pods.on_event({
        let queue = queue.clone();
        move |event| {
            let pod = event.object();
            if pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    claims.on_event({
        let queue = queue.clone();
        move |event| event.states().for_each(|claim| users_of(claim).for_each(|pod| queue.add(pod)))
    });
    slices.on_event({
        let (queue, claims) = (queue.clone(), claims.clone());
        move |event| {
            let changed = match event {
                Event::Updated { old, new } => {
                    old.spec.pool.generation != new.spec.pool.generation || no_execute(old) != no_execute(new)
                }
                Event::Added(slice) | Event::Deleted(slice) => !no_execute(slice).is_empty(),
            };
            if changed {
                let spec = &event.object().spec;
                let affected = |result: &DeviceRequestAllocationResult| {
                    result.driver == spec.driver && result.pool == spec.pool.name
                };
                for claim in claims.list().iter().filter(|claim| results_of(claim).any(affected)) {
                    users_of(claim).for_each(|pod| queue.add(pod));
                }
            }
        }
    });
    pods.has_synced().await;
    claims.has_synced().await;
    slices.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), pods, claims, slices, waiting: Mutex::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn pool_key(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

/// Device and taint, of those that end things.
fn no_execute(slice: &ResourceSlice) -> Vec<(&str, &DeviceTaint)> {
    let devices = slice.spec.devices.iter().flatten();
    let taints =
        devices.flat_map(|device| device.taints.iter().flatten().map(move |taint| (device.name.as_str(), taint)));
    taints.filter(|(_, taint)| taint.effect == "NoExecute").collect()
}

fn results_of(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten()
}

fn users_of(claim: &ResourceClaim) -> impl Iterator<Item = ObjectKey> {
    let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    let pods = users.filter(|user| user.resource == "pods" && user.api_group.as_deref().unwrap_or("").is_empty());
    pods.map(|user| ObjectKey::new(namespace(&claim.metadata), &user.name))
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let (effect, key) = (toleration.effect.as_deref().unwrap_or(""), toleration.key.as_deref().unwrap_or(""));
    // Only who says that the effect is tolerated has a say in when.
    if effect != "NoExecute" || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        _ => false,
    }
}

/// When a taint ends the use of a device that came with these tolerations; `None`: never.
fn end(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    let since = taint.time_added.as_ref()?.0;
    let used: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if used.iter().any(|toleration| toleration.toleration_seconds.is_none()) {
        return None;
    }
    let seconds = used.iter().filter_map(|toleration| toleration.toleration_seconds).min().unwrap_or(0).max(0);
    Some(since.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
}

impl Controller {
    /// When a claim's users are to go.
    fn end_of(&self, claim: &ResourceClaim) -> Option<Timestamp> {
        let of_device = |result: &DeviceRequestAllocationResult| {
            let slices = self.slices.by_index(BY_POOL, &pool_key(&result.driver, &result.pool));
            let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
            let current = slices.iter().filter(|slice| Some(slice.spec.pool.generation) == newest);
            let tolerations = result.tolerations.as_deref().unwrap_or_default();
            let ends = current.flat_map(|slice| {
                let taints = no_execute(slice).into_iter().filter(|(device, _)| *device == result.device);
                taints.filter_map(|(_, taint)| end(taint, tolerations)).collect::<Vec<_>>()
            });
            ends.min()
        };
        results_of(claim).filter_map(of_device).min()
    }

    /// When a pod is to go.
    fn end_of_pod(&self, pod: &Pod) -> Option<Timestamp> {
        let claims = resource_claim::named_by(pod).filter_map(|key| self.claims.get(&key));
        let used = claims.filter(|claim| {
            let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
            users.into_iter().any(|user| user.uid == uid(&pod.metadata))
        });
        used.filter_map(|claim| self.end_of(&claim)).min()
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Requeue::Never) };
        let uid = uid(&pod.metadata).to_owned();
        if pod.metadata.deletion_timestamp.is_some() {
            self.waiting.lock().remove(&uid);
            return Ok(Requeue::Never);
        }
        let end = if pods::node_name(&pod).is_empty() { None } else { self.end_of_pod(&pod) };
        let Some(end) = end else {
            if self.waiting.lock().remove(&uid) {
                self.tell(&pod, "Cancelling deletion");
            }
            return Ok(Requeue::Never);
        };
        let left = end.duration_since(Timestamp::now());
        if left.is_positive() {
            self.waiting.lock().insert(uid);
            return Ok(Requeue::After(left.unsigned_abs()));
        }
        self.waiting.lock().remove(&uid);
        self.evict(&pod).await
    }
}

impl Controller {
    fn tell(&self, pod: &Pod, message: &str) {
        self.ctx.events.event(pod, EventType::Normal, "DeviceTaintManagerEviction", message);
    }

    async fn evict(&self, pod: &Pod) -> Result<Requeue, ReconcileError> {
        self.tell(pod, "Marking for deletion");
        let precondition = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(precondition), ..DeleteParams::default() };
        let why = "Device Taint manager: deleting due to NoExecute taint";
        let condition = serde_json::json!({ "reason": "DeletionByDeviceTaintManager", "message": why });
        delete_marked(&self.ctx, pod, condition, &params).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taint(effect: &str) -> DeviceTaint {
        serde_json::from_value(json!({"key": "k", "value": "v", "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"}))
            .unwrap()
    }

    fn toleration(value: serde_json::Value) -> DeviceToleration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_shortest_toleration_of_the_effect_counts_from_when_the_taint_was_added() {
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let ends = |tolerations: &[DeviceToleration]| end(&taint("NoExecute"), tolerations);
        let seconds = |seconds: i64| {
            toleration(json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}))
        };
        assert_eq!(ends(&[]), at("2026-01-01T00:00:00Z"));
        assert_eq!(ends(&[seconds(300), seconds(60)]), at("2026-01-01T00:01:00Z"));
        assert_eq!(ends(&[seconds(-5)]), at("2026-01-01T00:00:00Z"));
        let forever = toleration(json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}));
        assert_eq!(ends(&[seconds(60), forever]), None);
        for other in [
            json!({"operator": "Exists", "effect": "NoSchedule"}),
            json!({"operator": "Exists"}),
            json!({"key": "k", "operator": "Equal", "value": "w", "effect": "NoExecute"}),
        ] {
            assert_eq!(ends(&[toleration(other)]), at("2026-01-01T00:00:00Z"));
        }
    }

    #[test]
    fn taints_that_keep_off_end_nothing() {
        let slice: ResourceSlice = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"driver": "d",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [
            {"name": "a", "taints": [{"key": "k", "effect": "NoSchedule"}]},
            {"name": "b", "taints": [{"key": "k", "effect": "NoExecute"}]}]}}))
        .unwrap();
        let devices: Vec<_> = no_execute(&slice).into_iter().map(|(device, _)| device).collect();
        assert_eq!(devices, ["b"]);
    }
}
