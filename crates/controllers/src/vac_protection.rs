//! VolumeAttributesClass protection: a class that is being deleted stays while a claim or a volume has it.
//! Reads VolumeAttributesClass, PersistentVolumeClaim, PersistentVolume. Writes VolumeAttributesClass.metadata.finalizers.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{ListParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::finalizer::{self, Step};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "volumeattributesclass-protection-controller",
    alias: "",
    account: "volumeattributesclass-protection-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const FINALIZER: &str = "kubernetes.io/vac-protection";

struct Controller {
    ctx: Ctx,
    classes: Informer<VolumeAttributesClass>,
}

async fn run(ctx: Ctx) {
    let classes = ctx.informers.informer::<VolumeAttributesClass>();
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let volumes = ctx.informers.informer::<PersistentVolume>();
    let queue = WorkQueue::default();
    classes.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    claims.on_event({
        let queue = queue.clone();
        move |event| {
            event
                .states()
                .flat_map(|claim| classes_of_claim(claim))
                .for_each(|name| queue.add(ObjectKey::cluster(name)))
        }
    });
    volumes.on_event({
        let queue = queue.clone();
        move |event| {
            event
                .states()
                .filter_map(|volume| class_of_volume(volume))
                .for_each(|name| queue.add(ObjectKey::cluster(name)))
        }
    });
    classes.has_synced().await;
    claims.has_synced().await;
    volumes.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), classes };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, 1).await;
}

/// The classes a claim wants, has, and is being changed to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let modify = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = modify.and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten()
}

fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(class) = self.classes.get(key) else { return Ok(Requeue::Never) };
        let mut wanted = class.as_ref().clone();
        match finalizer::step(&class.metadata, FINALIZER) {
            Step::Nothing => return Ok(Requeue::Never),
            Step::Add => finalizer::add(&mut wanted.metadata, FINALIZER),
            Step::Release if self.is_used(&key.name).await? => return Ok(Requeue::Never),
            Step::Release => finalizer::remove(&mut wanted.metadata, FINALIZER),
        }
        let api = self.ctx.connection.all::<VolumeAttributesClass>();
        match api.replace(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

impl Controller {
    /// Asked of the API server: the caches may be too old to be sure, and classes seldom go.
    async fn is_used(&self, class: &str) -> Result<bool, ReconcileError> {
        let volumes = self.ctx.connection.all::<PersistentVolume>().list(&ListParams::default()).await?;
        if volumes.items.iter().any(|volume| class_of_volume(volume) == Some(class)) {
            return Ok(true);
        }
        let claims = self.ctx.connection.all::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
        Ok(claims.items.iter().any(|claim| classes_of_claim(claim).any(|name| name == class)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_holds_all_classes_it_is_between() {
        let claim = json!({
            "spec": { "volumeAttributesClassName": "new" },
            "status": {
                "currentVolumeAttributesClassName": "old",
                "modifyVolumeStatus": { "status": "InProgress", "targetVolumeAttributesClassName": "next" },
            },
        });
        let claim = serde_json::from_value(claim).unwrap();
        assert_eq!(classes_of_claim(&claim).collect::<Vec<_>>(), ["new", "old", "next"]);
    }
}
