//! StatefulSet controller: numbered pods with names, hosts and claims that stay theirs.
//! Reads StatefulSet, Pod, PersistentVolumeClaim, ControllerRevision. Writes Pod, PersistentVolumeClaim, ControllerRevision,
//! StatefulSet.status. Source: apps/v1 docs.

mod identity;
mod plan;
mod retention;

use std::sync::Arc;

use client::{EventType, Informer, ObjectKey};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::owned_pods::{OwnedPods, PodOwner};
use crate::ownership::name;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::revisions::{HASH_LABEL, History, Keeper, Naming, template_of};
use crate::spec::{ControllerSpec, Ctx};
use plan::{Plan, Step, View, plan};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "statefulset-controller",
    alias: "statefulset",
    account: "statefulset-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    owned: OwnedPods<StatefulSet>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
}

impl PodOwner for StatefulSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        Some(self.spec.as_ref()?.selector.clone())
    }
}

async fn run(ctx: Ctx) {
    let (owned, queue) = OwnedPods::start(&ctx);
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let revisions = ctx.informers.informer::<ControllerRevision>();
    revisions.index_by_controller();
    owned.synced().await;
    claims.has_synced().await;
    revisions.has_synced().await;
    let controller = Controller { owned, claims, revisions };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        match self.owned.settled(key) {
            Ok(set) => Box::pin(self.sync(key, &set)).await,
            Err(requeue) => Ok(requeue),
        }
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey, set: &Arc<StatefulSet>) -> Result<Requeue, ReconcileError> {
        let Some(spec) = &set.spec else { return Ok(Requeue::Never) };
        let keeper = Keeper {
            connection: &self.owned.ctx.connection,
            revisions: &self.revisions,
            own_writes: &self.owned.own_writes,
            naming: Naming::Data,
        };
        // Upstream counts from a zero that is there, which makes another hash than none.
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).or(Some(0));
        let history = keeper.history(set.as_ref(), &spec.template, collisions).await?;
        // Only pods named like its own are its to adopt.
        let owned = self.owned.claim(key, set, |pod| identity::ordinal(set, pod).is_some()).await?;
        self.keep_claims(key, set, spec, &owned).await?;
        let update = name(&history.current.metadata).to_owned();
        let current = current_revision(set, &history, &update);
        let view = View {
            set,
            spec,
            pods: &owned,
            current: &current,
            update: &update,
            collisions: history.collisions,
            now: clock::now(),
        };
        let plan = plan(&view);
        let requeue = plan.requeue_seconds;
        self.execute(key, set, spec, &history, plan).await?;
        let hashes = owned.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(HASH_LABEL).cloned());
        let in_use: Vec<String> = hashes.chain([current]).collect();
        keeper.trim(set.as_ref(), &history, &in_use, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(requeue.map_or(Requeue::Never, Requeue::after_seconds))
    }

    /// Gives the pods' claims the owners that the set's retention policy wants, before any pod goes.
    async fn keep_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        owned: &[Arc<Pod>],
    ) -> Result<(), ReconcileError> {
        for pod in owned {
            let Some(ordinal) = identity::ordinal(set, pod) else { continue };
            for claim in identity::claims(set, spec, ordinal) {
                let claim_key = ObjectKey::new(&key.namespace, name(&claim.metadata));
                let Some(cached) = self.claims.get(&claim_key) else { continue };
                let Some(owners) = retention::owners(set, spec, pod, &cached) else { continue };
                let mut changed = cached.as_ref().clone();
                changed.metadata.owner_references = Some(owners).filter(|owners| !owners.is_empty());
                let api = self.owned.ctx.connection.namespaced::<PersistentVolumeClaim>(&key.namespace);
                let written = api.replace(&claim_key.name, &PostParams::default(), &changed).await?;
                self.owned.own_writes.wrote(key, &self.claims, &written);
            }
        }
        Ok(())
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        spec: &StatefulSetSpec,
        history: &History,
        plan: Plan,
    ) -> Result<(), ReconcileError> {
        let mut result = Ok(());
        for step in plan.steps {
            result = match step {
                Step::Create { ordinal, revision } => self.create(key, set, spec, history, ordinal, &revision).await,
                Step::Delete(pod) => self.delete(key, set, &pod).await,
            };
            if result.is_err() {
                break;
            }
        }
        if let Some(status) = plan.status {
            let changed = StatefulSet { status: Some(status), ..set.as_ref().clone() };
            let api = self.owned.ctx.connection.namespaced::<StatefulSet>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.owned.own_writes.wrote(key, &self.owned.owners, &written);
        }
        match result {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => Ok(result?),
        }
    }

    /// Claims first: a pod must not start before its storage is asked for.
    async fn create(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        spec: &StatefulSetSpec,
        history: &History,
        ordinal: i32,
        revision: &str,
    ) -> Result<(), kube::Error> {
        let held = history.all.iter().find(|one| name(&one.metadata) == revision).and_then(|one| template_of(one));
        let template = held.as_ref().unwrap_or(&spec.template);
        let pod = identity::pod(set, spec, template, ordinal, revision);
        let pod_name = name(&pod.metadata).to_owned();
        for claim in identity::claims(set, spec, ordinal) {
            self.create_claim(key, set, &pod_name, &claim).await?;
        }
        match self.owned.ctx.connection.namespaced::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(created) => {
                self.owned.own_writes.wrote(key, &self.owned.pods, &created);
                self.record(set, "Create", &pod_name, None);
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.record(set, "Create", &pod_name, Some(&error));
                }
                Err(error)
            }
        }
    }

    async fn create_claim(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        pod: &str,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), kube::Error> {
        let claim_name = name(&claim.metadata);
        if self.claims.get(&ObjectKey::new(&key.namespace, claim_name)).is_some() {
            return Ok(());
        }
        let api = self.owned.ctx.connection.namespaced::<PersistentVolumeClaim>(&key.namespace);
        match api.create(&PostParams::default(), claim).await {
            Ok(_) => {
                let message = format!("Create Claim {claim_name} Pod {pod} in StatefulSet {} success", key.name);
                self.owned.ctx.events.event(set.as_ref(), EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let message = format!(
                    "Create Claim {claim_name} for Pod {pod} in StatefulSet {} failed error: {}",
                    key.name,
                    error.text()
                );
                self.owned.ctx.events.event(set.as_ref(), EventType::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &Arc<StatefulSet>, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let pod_name = name(&pod.metadata);
        match self
            .owned
            .ctx
            .connection
            .namespaced::<Pod>(&key.namespace)
            .delete(pod_name, &DeleteParams::default())
            .await
        {
            Ok(_) => {
                self.owned.own_writes.deleted(key, &self.owned.pods, pod.as_ref());
                self.record(set, "Delete", pod_name, None);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.record(set, "Delete", pod_name, Some(&error));
                Err(error)
            }
        }
    }

    fn record(&self, set: &Arc<StatefulSet>, verb: &str, pod: &str, error: Option<&kube::Error>) {
        let set_name = name(&set.metadata);
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set_name} successful");
                self.owned.ctx.events.event(set.as_ref(), EventType::Normal, &format!("Successful{verb}"), message);
            }
            Some(error) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set_name} failed error: {}", error.text());
                self.owned.ctx.events.event(set.as_ref(), EventType::Warning, &format!("Failed{verb}"), message);
            }
        }
    }
}

/// The revision a rollout started from, while its history still has it.
fn current_revision(set: &StatefulSet, history: &History, update: &str) -> String {
    let noted = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let known = noted.filter(|noted| history.all.iter().any(|one| name(&one.metadata) == *noted));
    known.unwrap_or(update).to_owned()
}
