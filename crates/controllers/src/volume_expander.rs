//! PersistentVolume expander: says that a claim that wants more waits for its storage's own controller. Kubernetes has no storage
//! of its own left that could grow.
//! Reads PersistentVolumeClaim, PersistentVolume. Writes events.

use std::sync::Arc;

use api::quantity::Quantity;
use client::{EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "persistentvolume-expander-controller",
    alias: "persistentvolume-expander",
    account: "expand-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 10;
const WAITING: &str = "waiting for an external controller to expand this PVC";

struct Controller {
    ctx: Ctx,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

async fn run(ctx: Ctx) {
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let volumes = ctx.informers.informer::<PersistentVolume>();
    let queue = WorkQueue::default();
    claims.on_event({
        let queue = queue.clone();
        move |event| {
            let client::Event::Updated { old, new } = event else { return };
            let sizes = |claim: &PersistentVolumeClaim| {
                let requested = claim.spec.as_ref().and_then(|spec| spec.resources.clone());
                (requested, claim.status.as_ref().and_then(|status| status.capacity.clone()))
            };
            if sizes(old) != sizes(new) && grows(new) {
                queue.add(ObjectKey::of(new.as_ref()));
            }
        }
    });
    claims.has_synced().await;
    volumes.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), claims, volumes };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// Bound, and asks for more than it has.
fn grows(claim: &PersistentVolumeClaim) -> bool {
    let amount =
        |quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| quantity.0.trim().parse::<Quantity>().ok();
    let spec = claim.spec.as_ref();
    let wanted = spec.and_then(|spec| amount(spec.resources.as_ref()?.requests.as_ref()?.get("storage")?));
    let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound"));
    let has = status.and_then(|status| amount(status.capacity.as_ref()?.get("storage")?));
    matches!((wanted, has), (Some(wanted), Some(has)) if wanted > has)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(claim) = self.claims.get(key).filter(|claim| grows(claim)) else { return Ok(Requeue::Never) };
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        let Some(volume) = self.volumes.get(&ObjectKey::cluster(volume)) else { return Ok(Requeue::Never) };
        // Others than these could once grow volumes, and are missed.
        let is_outside = volume
            .spec
            .as_ref()
            .is_some_and(|spec| spec.csi.is_some() || spec.flex_volume.is_some() || spec.host_path.is_some());
        let type_ = if is_outside { EventType::Normal } else { EventType::Warning };
        self.ctx.events.event(claim.as_ref(), type_, "ExternalExpanding", WAITING.to_owned());
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_bound_claims_that_want_more_grow() {
        let claim = |wanted: &str, has: &str, phase: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "metadata": {},
                "spec": { "resources": { "requests": { "storage": wanted } } },
                "status": { "phase": phase, "capacity": { "storage": has } },
            }))
            .unwrap()
        };
        assert!(grows(&claim("2Gi", "1Gi", "Bound")));
        assert!(!grows(&claim("1024Mi", "1Gi", "Bound")));
        assert!(!grows(&claim("2Gi", "1Gi", "Pending")));
    }
}
