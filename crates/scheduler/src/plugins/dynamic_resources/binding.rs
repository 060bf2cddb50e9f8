//! What is written before a pod is bound, and what is waited for: claims get their allocations and users, and devices with
//! binding conditions have to fulfil them.
//! Source: KEP-5007; `bindClaim` and `PreBind` of `dynamicresources.go` of Kubernetes.

use std::time::Duration;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, DeviceRequestAllocationResult, ResourceClaim, ResourceClaimConsumerReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::FINALIZER;
use super::allocate::Given;
use super::extended::Special;
use crate::framework::{BindContext, api_text};
use crate::metrics::Waited;
use crate::model::PodInfo;

/// Tries of one write against other writers.
const WRITES_MAX: usize = 5;
/// How often the API server is asked whether conditions are fulfilled; upstream's number.
const POLL: Duration = Duration::from_secs(5);

/// The claims of a pod on their way, by their names in the API server.
pub(super) struct Binding<'a> {
    ctx: &'a BindContext,
    pod: &'a PodInfo,
    api: Api<ResourceClaim>,
    /// Reserved for the pod by this attempt, to be given back if it fails.
    reserved: Vec<String>,
    /// The claim for extended resources that was made, to be deleted if the attempt fails.
    made: Option<String>,
    /// All claims, as they were last seen.
    claims: Vec<ResourceClaim>,
}

impl<'a> Binding<'a> {
    pub(super) fn new(ctx: &'a BindContext, pod: &'a PodInfo) -> Self {
        let api = Api::namespaced(ctx.client.clone(), &pod.namespace);
        Self { ctx, pod, api, reserved: Vec::new(), made: None, claims: Vec::new() }
    }

    /// Writes that the pod uses a claim, and what the claim is given, if it is given anything.
    pub(super) async fn reserve(&mut self, name: &str, given: Option<&Given>) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..WRITES_MAX {
            match self.try_reserve(name, given).await {
                Ok(claim) => {
                    self.claims.push(claim);
                    return Ok(());
                }
                Err(Refused::Conflict(message)) => last = message,
                Err(Refused::Other(message)) => return Err(message),
            }
        }
        Err(last)
    }

    async fn try_reserve(&mut self, name: &str, given: Option<&Given>) -> Result<ResourceClaim, Refused> {
        let params = PostParams::default();
        let mut claim = self.api.get(name).await?;
        let key = format!("{}/{name}", self.pod.namespace);
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(Refused::Other(format!("claim {key} got deleted in the meantime")));
        }
        if let Some(given) = given {
            if claim.status.as_ref().is_some_and(|status| status.allocation.is_some()) {
                return Err(Refused::Other(format!("claim {key} got allocated elsewhere in the meantime")));
            }
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
                let added = self.api.replace(name, &params, &claim).await;
                claim = added.map_err(|error| Refused::from(error).while_doing("add finalizer to claim", &key))?;
            }
            claim.status.get_or_insert_default().allocation = Some(given.result.clone());
        }
        let status = claim.status.get_or_insert_default();
        let users = status.reserved_for.get_or_insert_default();
        if users.iter().any(|user| *user.uid == *self.pod.uid) {
            return Ok(claim);
        }
        users.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: self.pod.name.to_string(),
            uid: self.pod.uid.to_string(),
        });
        let Some(allocation) = &mut status.allocation else {
            return Err(Refused::Other(format!("claim {key} got deallocated elsewhere in the meantime")));
        };
        // Fulfilling conditions is timed from here.
        allocation.allocation_timestamp.get_or_insert_with(|| Time(Timestamp::now()));
        let doing =
            if given.is_some() { "add allocation and reservation to claim" } else { "add reservation to claim" };
        let written = self.api.replace_status(name, &params, &claim).await;
        let written = written.map_err(|error| Refused::from(error).while_doing(doing, &key))?;
        self.reserved.push(name.to_owned());
        Ok(written)
    }

    /// Makes the claim for extended resources; the pod's status tells of it. Returns the version last written.
    pub(super) async fn make(&mut self, given: &Given) -> Result<Option<u64>, String> {
        let claim = Special::to_create(&given.claim);
        let created = self.api.create(&PostParams::default(), &claim).await;
        let created = created.map_err(|error| format!("create claim for extended resources: {}", api_text(error)))?;
        let name = created.metadata.name.unwrap_or_default();
        self.made = Some(name.clone());
        self.reserve(&name, Some(given)).await?;
        let status = json!({"requestMappings": given.mappings, "resourceClaimName": name});
        let patch = json!({"metadata": {"uid": &*self.pod.uid}, "status": {"extendedResourceClaimStatus": status}});
        let pods: Api<Pod> = Api::namespaced(self.ctx.client.clone(), &self.pod.namespace);
        let patched = pods.patch_status(&self.pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        patched.map_err(|error| {
            format!("update pod {} ExtendedResourceClaimStatus: {}", self.pod.key(), api_text(error))
        })?;
        let version = self.claims.last().and_then(|claim| claim.metadata.resource_version.as_deref());
        Ok(version.and_then(|version| version.parse().ok()))
    }

    /// Waits until all conditions are fulfilled, if there are any.
    pub(super) async fn wait(&mut self, node: &str, timeout: Duration) -> Result<(), String> {
        if !self.claims.iter().any(has_conditions) {
            return Ok(());
        }
        let note = format!("waiting for binding conditions for device on node {node}");
        self.ctx.record(self.pod, EventType::Normal, "BindingConditionsPending", "Scheduling", note);
        let started = tokio::time::Instant::now();
        let polled = tokio::time::timeout(timeout, self.poll(timeout)).await;
        let ended = polled.unwrap_or_else(|_| Err(NotBound::Timeout("context deadline exceeded".to_owned())));
        let status = match &ended {
            Ok(()) => "success",
            Err(NotBound::Timeout(_)) => "timeout",
            Err(NotBound::Failed(_)) => "failure",
            Err(NotBound::Error(_)) => "error",
        };
        let results = || self.claims.iter().flat_map(results_of);
        let waited = Waited { profile: self.pod.scheduler_name(), status, seconds: started.elapsed().as_secs_f64() };
        self.ctx.metrics.waited_for_devices(
            &waited,
            results().map(|result| result.driver.as_str()),
            results().filter(|result| is_conditional(result)).map(|result| result.driver.as_str()),
        );
        ended.map_err(|error| match error {
            NotBound::Timeout(text) => format!("device binding timeout: {text}"),
            NotBound::Failed(text) | NotBound::Error(text) => text,
        })
    }

    async fn poll(&mut self, timeout: Duration) -> Result<(), NotBound> {
        loop {
            let mut is_ready = true;
            for claim in &mut self.claims {
                let name = claim.metadata.name.clone().unwrap_or_default();
                *claim = self.api.get(&name).await.map_err(|error| NotBound::Error(api_text(error)))?;
                if !readiness(claim).map_err(NotBound::Failed)? {
                    if is_late(claim, timeout, Timestamp::now()) {
                        return Err(NotBound::Timeout(format!("claim={name}")));
                    }
                    is_ready = false;
                    break;
                }
            }
            if is_ready {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Undoes what this attempt has written; allocations stay, for the next attempt to use or to take back.
    pub(super) async fn give_back(self) {
        let failed = |claim: &str, error: kube::Error| {
            tracing::warn!(pod = self.pod.key(), claim, error = api_text(error), "claim not given back");
        };
        for name in self.reserved.iter().filter(|name| self.made.as_ref() != Some(name)) {
            let Some(claim) = self.claims.iter().find(|claim| claim.metadata.name.as_ref() == Some(name)) else {
                continue;
            };
            let entry = json!({"$patch": "delete", "uid": &*self.pod.uid});
            let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": {"reservedFor": [entry]}});
            let patched = self.api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            patched.map_or_else(|error| failed(name, error), drop);
        }
        if let Some(name) = &self.made
            && let Err(error) = discard(&self.api, name).await
        {
            failed(name, error);
        }
    }
}

/// Deletes a claim that the scheduler has made.
pub(crate) async fn discard(api: &Api<ResourceClaim>, name: &str) -> Result<(), kube::Error> {
    for last in [false, false, true] {
        let Some(mut claim) = api.get_opt(name).await? else { return Ok(()) };
        claim.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        match api.replace(name, &PostParams::default(), &claim).await {
            Err(kube::Error::Api(status)) if status.code == 409 && !last => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    api.delete(name, &DeleteParams::default()).await.map(drop)
}

/// Why a write did not happen.
enum Refused {
    /// Somebody else wrote: read and decide again.
    Conflict(String),
    Other(String),
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict(status.message),
            other => Self::Other(api_text(other)),
        }
    }
}

impl Refused {
    fn while_doing(self, doing: &str, claim: &str) -> Self {
        match self {
            Self::Conflict(text) => Self::Conflict(format!("{doing} {claim}: {text}")),
            Self::Other(text) => Self::Other(format!("{doing} {claim}: {text}")),
        }
    }
}

enum NotBound {
    Timeout(String),
    Failed(String),
    Error(String),
}

fn results_of(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten()
}

fn is_conditional(result: &DeviceRequestAllocationResult) -> bool {
    result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
}

/// Has any device that it was given conditions?
pub(super) fn has_conditions(claim: &ResourceClaim) -> bool {
    results_of(claim).any(is_conditional)
}

/// Are all conditions of all devices fulfilled? An error: one of them will not be.
pub(super) fn readiness(claim: &ResourceClaim) -> Result<bool, String> {
    let status = claim.status.as_ref();
    if status.and_then(|status| status.allocation.as_ref()).is_none() {
        return Ok(false);
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    for result in results_of(claim).filter(|result| is_conditional(result)) {
        let of_device = |status: &&AllocatedDeviceStatus| {
            status.driver == result.driver && status.pool == result.pool && status.device == result.device
        };
        let devices = status.and_then(|status| status.devices.as_ref());
        let Some(device) = devices.into_iter().flatten().find(of_device) else { return Ok(false) };
        let holds = |wanted: &String| {
            let all = device.conditions.iter().flatten();
            all.into_iter().find(|condition| condition.type_ == *wanted && condition.status == "True")
        };
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(holds) {
            let text = format!("claim={name}, reason={}, message={:?}", failed.reason, failed.message);
            return Err(format!("device binding failed: {text}"));
        }
        if !result.binding_conditions.iter().flatten().all(|wanted| holds(wanted).is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Have its devices had the time that they have for their conditions?
pub(super) fn is_late(claim: &ResourceClaim, timeout: Duration, now: Timestamp) -> bool {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let Some(since) = allocation.and_then(|allocation| allocation.allocation_timestamp.as_ref()) else { return false };
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    has_conditions(claim) && now.duration_since(since.0) > timeout
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn claim(conditions: Value) -> ResourceClaim {
        let mut status = json!({"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z", "devices": {"results": [
            {"request": "r", "driver": "d", "pool": "p", "device": "x", "bindingConditions": ["Ready"],
             "bindingFailureConditions": ["Broken"]},
            {"request": "r", "driver": "d", "pool": "p", "device": "y"}]}}});
        if !conditions.is_null() {
            status["devices"] = json!([{"driver": "d", "pool": "p", "device": "x", "conditions": conditions}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}, "status": status})).unwrap()
    }

    fn condition(type_: &str, status: &str) -> Value {
        json!({"type": type_, "status": status, "reason": "Why", "message": "so \"it\" is",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn conditions_are_fulfilled_or_fail() {
        assert_eq!(readiness(&claim(Value::Null)), Ok(false), "the driver has said nothing yet");
        assert_eq!(readiness(&claim(json!([condition("Ready", "False")]))), Ok(false));
        assert_eq!(readiness(&claim(json!([condition("Ready", "True"), condition("Broken", "False")]))), Ok(true));
        assert_eq!(
            readiness(&claim(json!([condition("Ready", "True"), condition("Broken", "True")]))).unwrap_err(),
            "device binding failed: claim=c, reason=Why, message=\"so \\\"it\\\" is\""
        );
    }

    #[test]
    fn conditions_have_their_time_from_the_allocation_on() {
        let claim = claim(Value::Null);
        let late = |now: &str| is_late(&claim, Duration::from_secs(600), now.parse().unwrap());
        assert!(!late("2026-01-01T00:10:00Z"));
        assert!(late("2026-01-01T00:10:01Z"));
    }
}
