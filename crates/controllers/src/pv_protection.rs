//! PV protection: a volume that is being deleted stays as long as it is bound.
//! Reads PersistentVolume. Writes PersistentVolume.metadata.finalizers.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::PostParams;

use crate::api_error::ApiErrorExt;
use crate::finalizer::{self, Step};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "persistentvolume-protection-controller",
    alias: "pv-protection",
    account: "pv-protection-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const FINALIZER: &str = "kubernetes.io/pv-protection";

struct Controller {
    ctx: Ctx,
    volumes: Informer<PersistentVolume>,
}

async fn run(ctx: Ctx) {
    let volumes = ctx.informers.informer::<PersistentVolume>();
    let queue = WorkQueue::default();
    volumes.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    volumes.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), volumes };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, 1).await;
}

/// The volume with its finalizer as it should be; None when it is.
fn plan(volume: &PersistentVolume) -> Option<PersistentVolume> {
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let mut wanted = volume.clone();
    match finalizer::step(&volume.metadata, FINALIZER) {
        Step::Add => finalizer::add(&mut wanted.metadata, FINALIZER),
        Step::Release if !bound => finalizer::remove(&mut wanted.metadata, FINALIZER),
        Step::Release | Step::Nothing => return None,
    }
    Some(wanted)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(wanted) = self.volumes.get(key).and_then(|volume| plan(&volume)) else { return Ok(Requeue::Never) };
        let api = self.ctx.connection.all::<PersistentVolume>();
        match api.replace(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bound_volume_is_kept_and_a_released_one_let_go() {
        let volume = |phase: &str| -> PersistentVolume {
            let metadata =
                json!({ "name": "v", "finalizers": [FINALIZER, "x/y"], "deletionTimestamp": "2026-01-01T00:00:00Z" });
            serde_json::from_value(json!({ "metadata": metadata, "status": { "phase": phase } })).unwrap()
        };
        assert_eq!(plan(&volume("Bound")), None);
        let released = plan(&volume("Released")).unwrap();
        assert_eq!(released.metadata.finalizers, Some(vec!["x/y".to_owned()]));
    }
}
