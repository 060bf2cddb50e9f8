//! PVC protection: a claim that is being deleted stays until no scheduled pod uses it.
//! Reads PersistentVolumeClaim, Pod. Writes PersistentVolumeClaim.metadata.finalizers.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::api::{ListParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::finalizer::{self, Step};
use crate::ownership::{controller_of, name, namespace, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "persistentvolumeclaim-protection-controller",
    alias: "pvc-protection",
    account: "pvc-protection-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const FINALIZER: &str = "kubernetes.io/pvc-protection";
const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

async fn run(ctx: Ctx) {
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let pods = ctx.informers.informer::<Pod>();
    pods.add_index("claim", |pod| claims_of(pod).map(|key| key.to_string()).collect());
    let queue = WorkQueue::default();
    claims.on_event({
        let queue = queue.clone();
        move |event| {
            if finalizer::step(&event.object().metadata, FINALIZER) != Step::Nothing {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    pods.on_event({
        let queue = queue.clone();
        move |event| event.states().flat_map(|pod| claims_of(pod)).for_each(|key| queue.add(key))
    });
    claims.has_synced().await;
    pods.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), claims, pods };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// The claim behind a volume: named, or made for the pod.
fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", name(&pod.metadata), volume.name)),
        (None, None) => None,
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = ObjectKey> + '_ {
    volumes(pod).filter_map(|volume| Some(ObjectKey::new(namespace(&pod.metadata), claim_name(pod, volume)?)))
}

/// The kubelet is done with the pod, or was told to forget it: only the object waits to be removed.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Only a scheduled pod uses a claim: no kubelet starts one whose claim is going.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let is_it = |volume: &Volume| {
        if claim_name(pod, volume).as_deref() != Some(name(&claim.metadata)) {
            return false;
        }
        let owned = controller_of(&claim.metadata).is_some_and(|owner| owner.uid == uid(&pod.metadata));
        volume.persistent_volume_claim.is_some() || (owned && !is_shut_down(pod))
    };
    !pods::node_name(pod).is_empty() && volumes(pod).any(is_it)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Requeue::Never) };
        let mut wanted = claim.as_ref().clone();
        match finalizer::step(&claim.metadata, FINALIZER) {
            Step::Nothing => return Ok(Requeue::Never),
            Step::Add => finalizer::add(&mut wanted.metadata, FINALIZER),
            Step::Release if self.is_used(key, &claim).await? => return Ok(Requeue::Never),
            Step::Release => finalizer::remove(&mut wanted.metadata, FINALIZER),
        }
        let api = self.ctx.connection.namespaced::<PersistentVolumeClaim>(&key.namespace);
        match api.replace(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

impl Controller {
    /// A pod missing from the cache may only be too new for it: the API server has the last word.
    async fn is_used(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<bool, ReconcileError> {
        if self.pods.by_index("claim", &key.to_string()).iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let live = self.ctx.connection.namespaced::<Pod>(&key.namespace).list(&ListParams::default()).await?;
        Ok(live.items.iter().any(|pod| uses(pod, claim)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(owner: Option<&str>) -> PersistentVolumeClaim {
        let owners: Vec<Value> = owner
            .map(|uid| json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true }))
            .into_iter()
            .collect();
        let metadata = json!({ "name": "p-data", "namespace": "n", "ownerReferences": owners });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn pod(node: Option<&str>, volume: Value) -> Pod {
        let metadata = json!({ "name": "p", "namespace": "n", "uid": "p" });
        let spec = json!({ "containers": [], "nodeName": node, "volumes": [volume] });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    #[test]
    fn scheduled_pods_use_the_claims_they_name() {
        let volume = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "p-data" } });
        assert!(uses(&pod(Some("node"), volume.clone()), &claim(None)));
        assert!(!uses(&pod(None, volume.clone()), &claim(None)));
        assert!(!uses(&pod(Some("node"), json!({ "name": "v", "emptyDir": {} })), &claim(None)));
        assert_eq!(claims_of(&pod(None, volume)).collect::<Vec<_>>(), [ObjectKey::new("n", "p-data")]);
    }

    #[test]
    fn a_pods_own_claim_is_free_once_the_pod_is_shut_down() {
        let mut pod = pod(Some("node"), json!({ "name": "data", "ephemeral": {} }));
        assert!(uses(&pod, &claim(Some("p"))));
        assert!(!uses(&pod, &claim(Some("another"))));
        pod.metadata.deletion_timestamp = Some(crate::clock::now());
        pod.metadata.deletion_grace_period_seconds = Some(0);
        assert!(!uses(&pod, &claim(Some("p"))));
    }
}
