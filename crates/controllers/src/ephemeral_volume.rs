//! Ephemeral volume controller: makes the claims of generic ephemeral volumes; they live as long as their pod.
//! Reads Pod, PersistentVolumeClaim. Writes PersistentVolumeClaim. Source: KEP-1698.

use std::sync::Arc;

use client::{EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::api_error::ApiErrorExt;
use crate::ownership::{controller_of, controller_reference, name, namespace, uid};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "ephemeral-volume-controller",
    alias: "ephemeral-volume",
    account: "ephemeral-volume-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

async fn run(ctx: Ctx) {
    let pods = ctx.informers.informer::<Pod>();
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let queue = WorkQueue::default();
    pods.on_event({
        let queue = queue.clone();
        move |event| {
            let pod = event.object();
            if pod.metadata.deletion_timestamp.is_none() && ephemeral_volumes(pod).next().is_some() {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    claims.on_event({
        let queue = queue.clone();
        move |event| {
            // A claim that was deleted while its pod waits is made again.
            let client::Event::Deleted(claim) = event else { return };
            let owner = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod");
            if let Some(pod) = owner {
                queue.add(ObjectKey::new(namespace(&claim.metadata), &pod.name));
            }
        }
    });
    pods.has_synced().await;
    claims.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), pods, claims };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn ephemeral_volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// The name of the claim of a pod's volume.
pub(crate) fn claim_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", name(&pod.metadata))
}

/// The claim of an ephemeral volume.
fn wanted(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(pod, &volume.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let pod = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let Some(pod) = pod else { return Ok(Requeue::Never) };
        for volume in ephemeral_volumes(&pod) {
            if let Err(error) = self.make(key, &pod, volume).await {
                let message = format!("ephemeral volume {}: {error}", volume.name);
                self.ctx.events.event(pod.as_ref(), EventType::Warning, "FailedBinding", message.clone());
                return Err(ReconcileError::NotYet(format!("pod {key}, {message}")));
            }
        }
        Ok(Requeue::Never)
    }
}

impl Controller {
    async fn make(&self, key: &ObjectKey, pod: &Pod, volume: &Volume) -> Result<(), String> {
        let claim_name = claim_name(pod, &volume.name);
        let judge = |claim: &PersistentVolumeClaim| {
            let is_ours = controller_of(&claim.metadata).is_some_and(|owner| owner.uid == uid(&pod.metadata));
            let foreign =
                format!("PVC {}/{claim_name} was not created for pod {key} (pod is not owner)", key.namespace);
            if is_ours { Ok(()) } else { Err(foreign) }
        };
        if let Some(claim) = self.claims.get(&ObjectKey::new(&key.namespace, &claim_name)) {
            return judge(&claim);
        }
        let Some(claim) = wanted(pod, volume) else { return Ok(()) };
        let api = self.ctx.connection.namespaced::<PersistentVolumeClaim>(&key.namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            // The cache is behind.
            Err(error) if error.is_already_exists() => match api.get(&claim_name).await {
                Ok(claim) => judge(&claim),
                Err(error) => Err(format!("get PVC {claim_name}: {}", error.text())),
            },
            Err(error) => Err(format!("create PVC {claim_name}: {}", error.text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volumes_claim_is_named_after_pod_and_volume_and_owned_by_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [], "volumes": [{ "name": "v", "ephemeral": { "volumeClaimTemplate": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            } } }, { "name": "other", "emptyDir": {} }] },
        }))
        .unwrap();
        let claims: Vec<_> = ephemeral_volumes(&pod).filter_map(|volume| wanted(&pod, volume)).collect();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].metadata.name.as_deref(), Some("p-v"));
        assert_eq!(claims[0].metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(controller_of(&claims[0].metadata).unwrap().uid, "u");
    }
}
