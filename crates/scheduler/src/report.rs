//! What the scheduler writes onto pods: the `PodScheduled` condition, the nominated node, and the end of preempted pods.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use crate::engine::Failure;
use crate::framework::Undo;
use crate::model::PodInfo;
use crate::plugins::discard;

/// Writes the condition and the nominated node of a pod that stays pending. Nothing is sent when nothing would change.
pub(crate) async fn update_pod(client: &Client, failure: &Failure) -> Result<(), kube::Error> {
    let Some(patch) = status_patch(failure, Timestamp::now()) else { return Ok(()) };
    patch_status(client, &failure.pod, &patch).await
}

/// Says which node a pod is going to before what it needs there is ready, so that others count with it (KEP-5278).
pub(crate) async fn nominate(client: &Client, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    if pod.nominated_node.as_deref() == Some(node) {
        return Ok(());
    }
    ignore_missing(patch_status(client, pod, &json!({"status": {"nominatedNodeName": node}})).await)
}

/// Takes the promised node away from a pod.
pub(crate) async fn clear_nomination(client: &Client, pod: &PodInfo) -> Result<(), kube::Error> {
    ignore_missing(patch_status(client, pod, &json!({"status": {"nominatedNodeName": null}})).await)
}

/// Marks a pod as preempted, then deletes it.
pub(crate) async fn evict(client: &Client, preemptor: &PodInfo, victim: &PodInfo) -> Result<(), kube::Error> {
    if victim.terminating {
        return Ok(());
    }
    let scheduler = preemptor.scheduler_name();
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "observedGeneration": victim.pod.metadata.generation,
    });
    ignore_missing(patch_status(client, victim, &json!({"status": {"conditions": [condition]}})).await)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &victim.namespace);
    let precondition = Preconditions { uid: Some(victim.uid.to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(precondition), ..DeleteParams::default() };
    ignore_missing(pods.delete(&victim.name, &params).await.map(drop))
}

/// Takes a claim or its allocation back, unless somebody else uses it meanwhile. The finalizer goes with the controller.
pub(crate) async fn take_back(client: &Client, pod: &PodInfo, claim: &str, undo: Undo) -> Result<(), kube::Error> {
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), &pod.namespace);
    if undo == Undo::Claim {
        return ignore_missing(discard(&claims, claim).await);
    }
    let Some(mut found) = claims.get_opt(claim).await? else { return Ok(()) };
    let Some(status) = found.status.as_mut() else { return Ok(()) };
    if status.reserved_for.iter().flatten().any(|user| *user.uid != *pod.uid) {
        return Ok(());
    }
    (status.reserved_for, status.allocation, status.devices) = (None, None, None);
    // Whoever wrote in between decides anew: the next attempt of the pod sees it.
    match claims.replace_status(claim, &PostParams::default(), &found).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => ignore_missing(other.map(drop)),
    }
}

fn ignore_missing(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

async fn patch_status(client: &Client, pod: &PodInfo, patch: &Value) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let mut patch = patch.clone();
    // A pod of the same name that came later is another pod.
    patch["metadata"] = json!({"uid": &*pod.uid});
    pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}

/// The patch that records a failure; `None` when the pod already says so.
fn status_patch(failure: &Failure, now: Timestamp) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if let Some(condition) = condition(failure, now) {
        status.insert("conditions".into(), json!([condition]));
    }
    let nominated = failure.pod.nominated_node.as_deref().unwrap_or_default();
    if let Some(node) = failure.nominated_node.as_deref().filter(|node| *node != nominated) {
        let value = if node.is_empty() { Value::Null } else { json!(node) };
        status.insert("nominatedNodeName".into(), value);
    }
    if status.is_empty() { None } else { Some(json!({"status": status})) }
}

fn condition(failure: &Failure, now: Timestamp) -> Option<Value> {
    let current = current_condition(&failure.pod.pod);
    let same = current.is_some_and(|current| {
        current.status == "False"
            && current.reason.as_deref() == Some(failure.reason)
            && current.message.as_deref() == Some(&failure.message)
            && current.observed_generation == failure.pod.pod.metadata.generation
    });
    if same {
        return None;
    }
    let since = current
        .filter(|current| current.status == "False")
        .and_then(|current| current.last_transition_time.as_ref())
        .map_or(now, |time| time.0);
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": failure.reason,
        "message": failure.message,
        "lastProbeTime": null,
        "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    if let Some(generation) = failure.pod.pod.metadata.generation {
        condition["observedGeneration"] = json!(generation);
    }
    Some(condition)
}

fn current_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn failure(conditions: Value, nominated: Option<&str>) -> Failure {
        Failure {
            pod: pod(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": []},
                "status": {"conditions": conditions}})),
            reason: "Unschedulable",
            message: "0/1 nodes are available: 1 Too many pods.".into(),
            nominated_node: nominated.map(Into::into),
            victims: Vec::new(),
            displaced: Vec::new(),
            take_back: None,
        }
    }

    #[test]
    fn condition_is_written_once_and_keeps_its_transition_time() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let old = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "other",
            "lastTransitionTime": "2001-01-01T00:00:00Z"}]);
        let patch = status_patch(&failure(old, None), now).unwrap();
        assert_eq!(
            patch,
            json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Too many pods.", "lastProbeTime": null,
                "lastTransitionTime": "2001-01-01T00:00:00Z"}]}})
        );
        let same = patch["status"]["conditions"].clone();
        assert_eq!(status_patch(&failure(same.clone(), None), now), None);
        assert_eq!(status_patch(&failure(same, Some("n1")), now), Some(json!({"status": {"nominatedNodeName": "n1"}})));
    }
}
