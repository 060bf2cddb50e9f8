//! PersistentVolume binder: joins claims and volumes, keeps both sides' phases, and hands released volumes to their fate.
//! Reads PersistentVolume, PersistentVolumeClaim, StorageClass, Pod. Writes PersistentVolume, PersistentVolumeClaim and both
//! statuses. Source: persistent volumes' docs.
//!
//! One queue holds both: a key with a namespace is a claim, one without is a volume. [`plan`] has the rules, [`matching`] the
//! choice of a volume. Claims of a class that waits for its first consumer are left to the scheduler; provisioning and
//! deleting are left to provisioners outside.

mod matching;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use client::{Event, EventRecorder, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;

use crate::api_error::ApiErrorExt;
use crate::ownership::{name, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

use plan::{ClaimPlan, ClaimView, Note, VolumePlan};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "persistentvolume-binder-controller",
    alias: "persistentvolume-binder",
    account: "persistent-volume-binder",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

/// One: each binding changes what the next claim may choose from.
const WORKERS: usize = 1;
/// Claims that are looked at when a volume becomes free.
const ASKED_MAX: usize = 8;
/// The name in events.
const COMPONENT: &str = "persistentvolume-controller";
/// How soon an unbound claim is looked at again (`--pvclaimbinder-sync-period`'s default).
const LOOK_AGAIN: Requeue = Requeue::After(Duration::from_secs(15));

struct Controller {
    ctx: Ctx,
    events: EventRecorder,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
}

async fn run(ctx: Ctx) {
    let volumes = ctx.informers.informer::<PersistentVolume>();
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let classes = ctx.informers.informer::<StorageClass>();
    let pods = ctx.informers.informer::<Pod>();
    let queue = WorkQueue::default();
    volumes.on_event({
        let (queue, claims) = (queue.clone(), claims.clone());
        move |event| {
            queue.add(ObjectKey::of(event.object().as_ref()));
            if let Event::Updated { old, new } = event
                && phase(new) == "Available"
                && phase(old) != "Available"
            {
                // One of them gets it; a few are asked, as others may be given what suits them better.
                let all = claims.list();
                let suited = all.iter().filter(|claim| matching::could_have(claim, new)).take(ASKED_MAX);
                suited.for_each(|claim| queue.add(ObjectKey::of(claim.as_ref())));
            }
            event.states().filter_map(|volume| claim_of(volume)).for_each(|key| queue.add(key));
        }
    });
    claims.on_event({
        let queue = queue.clone();
        move |event| {
            queue.add(ObjectKey::of(event.object().as_ref()));
            let volume = event.object().spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
            if let Some(volume) = volume.filter(|volume| !volume.is_empty()) {
                queue.add(ObjectKey::cluster(volume));
            }
        }
    });
    volumes.has_synced().await;
    claims.has_synced().await;
    classes.has_synced().await;
    pods.has_synced().await;
    let events = EventRecorder::new(ctx.connection.clone(), COMPONENT, ctx.shutdown.clone());
    let controller = Controller { ctx: ctx.clone(), events, volumes, claims, classes, pods, queue: queue.clone() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let done = if key.namespace.is_empty() {
            let Some(volume) = self.volumes.get(key) else { return Ok(Requeue::Never) };
            Box::pin(self.reconcile_volume(&volume)).await
        } else {
            let Some(claim) = self.claims.get(key) else { return Ok(Requeue::Never) };
            Box::pin(self.reconcile_claim(&claim)).await
        };
        match done {
            Err(ReconcileError::Api(error)) if error.is_not_found() => Ok(Requeue::Never),
            done => done,
        }
    }
}

impl Controller {
    async fn reconcile_claim(&self, claim: &PersistentVolumeClaim) -> Result<Requeue, ReconcileError> {
        let waiting_pods = self.waiting_pods(claim);
        let (volumes, classes) = (self.volumes.list(), self.classes.list());
        let view = ClaimView { claim, volumes: &volumes, classes: &classes, waiting_pods: &waiting_pods };
        match plan::plan_claim(&view) {
            ClaimPlan::Bind(volume) => {
                Box::pin(self.bind(claim, &volume)).await?;
                return Ok(Requeue::Never);
            }
            ClaimPlan::Pending(note) => {
                self.tell(claim, note);
                self.set_claim_status(claim, "Pending", None).await?;
            }
            ClaimPlan::Lost(note) => {
                if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Lost") {
                    self.set_claim_status(claim, "Lost", None).await?;
                    self.tell(claim, Some(note));
                }
                return Ok(Requeue::Never);
            }
            ClaimPlan::Tell(note) => self.tell(claim, Some(note)),
            ClaimPlan::SetClass(class) => {
                let mut changed = claim.clone();
                changed.spec.get_or_insert_default().storage_class_name = Some(class);
                self.replace_claim(&changed).await?;
                return Ok(Requeue::Never);
            }
            ClaimPlan::Provision(provisioner) => self.leave_to(claim, &provisioner).await?,
            ClaimPlan::Retry(why) => return Err(ReconcileError::NotYet(why)),
        }
        Ok(LOOK_AGAIN)
    }

    /// Volume, volume's status, claim, claim's status: in this order a crash in between leaves what the next pass completes.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), ReconcileError> {
        let wanted = plan::bound_volume(volume, claim);
        let mut volume = volume.clone();
        if wanted != volume {
            let api = self.ctx.connection.all::<PersistentVolume>();
            volume = api.replace(name(&wanted.metadata), &PostParams::default(), &wanted).await?;
        }
        volume = self.set_phase(volume, "Bound", None).await?;
        let wanted = plan::bound_claim(claim, &volume);
        let claim = if wanted == *claim { wanted } else { self.replace_claim(&wanted).await? };
        self.set_claim_status(&claim, "Bound", Some(&volume)).await
    }

    /// Marks the claim for a provisioner outside.
    async fn leave_to(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<(), ReconcileError> {
        let mut marked = claim.clone();
        let annotations = marked.metadata.annotations.get_or_insert_default();
        for key in plan::PROVISIONERS {
            annotations.insert(key.to_owned(), provisioner.to_owned());
        }
        if marked != *claim {
            marked = self.replace_claim(&marked).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
             registered."
        );
        self.events.event(&marked, EventType::Normal, "ExternalProvisioning", message);
        Ok(())
    }

    async fn reconcile_volume(&self, volume: &PersistentVolume) -> Result<Requeue, ReconcileError> {
        let claim = self.live_claim(volume).await?;
        match plan::plan_volume(volume, claim.as_ref()) {
            VolumePlan::Phase(phase) => {
                self.set_phase(volume.clone(), phase, None).await?;
            }
            VolumePlan::WakeClaim(note) => {
                if let (Some(note), Some(claim)) = (note, &claim) {
                    let message = note.message.clone();
                    self.events.event(volume, EventType::Warning, note.reason, message);
                    self.tell(claim, Some(note));
                }
                claim_of(volume).into_iter().for_each(|key| self.queue.add(key));
            }
            VolumePlan::Unbind => {
                let api = self.ctx.connection.all::<PersistentVolume>();
                let free = plan::unbound_volume(volume);
                let free = api.replace(name(&free.metadata), &PostParams::default(), &free).await?;
                self.set_phase(free, "Available", None).await?;
            }
            VolumePlan::Reclaim => {
                let mut volume = volume.clone();
                if !matches!(phase(&volume), "Released" | "Failed") {
                    volume = self.set_phase(volume, "Released", None).await?;
                }
                if let Some(note) = plan::reclaim_failure(&volume)
                    && phase(&volume) != "Failed"
                {
                    let volume = self.set_phase(volume, "Failed", Some(&note.message)).await?;
                    self.events.event(&volume, EventType::Warning, note.reason, note.message);
                }
            }
        }
        Ok(Requeue::Never)
    }

    /// The claim the volume's reference means. Before a volume is given up, the API server is asked: the cache may be late.
    async fn live_claim(&self, volume: &PersistentVolume) -> Result<Option<PersistentVolumeClaim>, ReconcileError> {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let meant = reference.and_then(|reference| reference.uid.as_deref()).filter(|uid| !uid.is_empty());
        let (Some(meant), Some(key)) = (meant, claim_of(volume)) else { return Ok(None) };
        let is_meant = |claim: &PersistentVolumeClaim| uid(&claim.metadata) == meant;
        if let Some(cached) = self.claims.get(&key).filter(|claim| is_meant(claim)) {
            return Ok(Some(cached.as_ref().clone()));
        }
        if matches!(phase(volume), "Released" | "Failed") {
            return Ok(None);
        }
        let live = self.ctx.connection.namespaced::<PersistentVolumeClaim>(&key.namespace).get_opt(&key.name).await?;
        Ok(live.filter(is_meant))
    }

    async fn set_phase(
        &self,
        mut volume: PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<PersistentVolume, kube::Error> {
        let old = volume.status.clone().unwrap_or_default();
        if old.phase.as_deref() == Some(phase) && old.message.as_deref().unwrap_or("") == message.unwrap_or("") {
            return Ok(volume);
        }
        volume.status =
            Some(PersistentVolumeStatus { phase: Some(phase.to_owned()), message: message.map(str::to_owned), ..old });
        let api = self.ctx.connection.all::<PersistentVolume>();
        api.replace_status(name(&volume.metadata), &PostParams::default(), &volume).await
    }

    async fn set_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), ReconcileError> {
        let wanted = Some(plan::claim_status(claim, phase, volume));
        if wanted == claim.status {
            return Ok(());
        }
        let changed = PersistentVolumeClaim { status: wanted, ..claim.clone() };
        let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
        let api = self.ctx.connection.namespaced::<PersistentVolumeClaim>(namespace);
        api.replace_status(name(&claim.metadata), &PostParams::default(), &changed).await?;
        Ok(())
    }

    async fn replace_claim(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, kube::Error> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
        let api = self.ctx.connection.namespaced::<PersistentVolumeClaim>(namespace);
        api.replace(name(&claim.metadata), &PostParams::default(), claim).await
    }

    /// Names of pods that use the claim and have no node yet.
    fn waiting_pods(&self, claim: &PersistentVolumeClaim) -> Vec<String> {
        let names_it = |pod: &Pod| {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let mut sources = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            sources.any(|source| source.claim_name == name(&claim.metadata))
        };
        let pods = self.pods.by_namespace(claim.metadata.namespace.as_deref().unwrap_or(""));
        let waiting =
            pods.iter().filter(|pod| pods::is_active(pod) && pods::node_name(pod).is_empty() && names_it(pod));
        waiting.map(|pod| name(&pod.metadata).to_owned()).collect()
    }

    fn tell(&self, claim: &PersistentVolumeClaim, note: Option<Note>) {
        if let Some(Note { warning, reason, message }) = note {
            let type_ = if warning { EventType::Warning } else { EventType::Normal };
            self.events.event(claim, type_, reason, message);
        }
    }
}
