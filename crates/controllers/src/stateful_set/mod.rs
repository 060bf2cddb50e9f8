//! StatefulSet controller: numbered pods with names, hosts and claims that stay theirs.
//! Reads StatefulSet, Pod, PersistentVolumeClaim, ControllerRevision. Writes Pod, PersistentVolumeClaim, ControllerRevision,
//! StatefulSet.status. Source: apps/v1 docs.

mod identity;
mod plan;

use std::sync::Arc;

use client::{Event, EventType, Informer, LabelSelectorExt, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, Claim, adopt, claim, controller_of, name, release};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::revisions::{HASH_LABEL, History, Keeper, template_of};
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
const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";

struct Controller {
    ctx: Ctx,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let sets = ctx.informers.informer::<StatefulSet>();
    let pods = ctx.informers.informer::<Pod>();
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let revisions = ctx.informers.informer::<ControllerRevision>();
    pods.index_by_controller();
    pods::index_orphans(&pods);
    revisions.index_by_controller();
    let queue = WorkQueue::default();
    sets.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    pods.on_event({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |event: &Event<Pod>| event.states().for_each(|pod| wake(pod, &sets, &queue))
    });
    sets.has_synced().await;
    pods.has_synced().await;
    claims.has_synced().await;
    revisions.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), sets, pods, claims, revisions, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn wake(pod: &Pod, sets: &Informer<StatefulSet>, queue: &WorkQueue<ObjectKey>) {
    let namespace = ownership::namespace(&pod.metadata);
    match controller_of(&pod.metadata) {
        Some(owner) if ownership::refers_to::<StatefulSet>(owner) => queue.add(ObjectKey::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            let selects = |spec: &StatefulSetSpec| spec.selector.takes(pod.metadata.labels.as_ref());
            let selecting =
                sets.by_namespace(namespace).into_iter().filter(|set| set.spec.as_ref().is_some_and(selects));
            selecting.for_each(|set| queue.add(ObjectKey::of(set.as_ref())));
        }
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let Some(spec) = &set.spec else { return Ok(Requeue::Never) };
        let keeper = Keeper {
            connection: &self.ctx.connection,
            revisions: &self.revisions,
            own_writes: &self.own_writes,
            hash_label: REVISION_HASH_LABEL,
        };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = keeper.history(set.as_ref(), &spec.template, collisions).await?;
        let owned = self.claim_pods(key, &set, spec).await?;
        let update = name(&history.current.metadata).to_owned();
        let current = current_revision(&set, &history, &update);
        let plan = plan(&View { set: &set, spec, pods: &owned, current: &current, update: &update, now: clock::now() });
        let requeue = plan.requeue_seconds;
        self.execute(key, &set, spec, &history, plan).await?;
        let hashes = owned.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(HASH_LABEL).cloned());
        let in_use: Vec<String> = hashes.chain([current]).collect();
        keeper.trim(set.as_ref(), &history, &in_use, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(requeue.map_or(Requeue::Never, Requeue::after_seconds))
    }

    /// The pods of the set, after adopting and releasing. Only pods named like its own are its to adopt.
    async fn claim_pods(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        spec: &StatefulSetSpec,
    ) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let mut owned = Vec::new();
        for pod in pods::claimable(&self.pods, &set.metadata) {
            match claim(&set.metadata, &spec.selector, &pod.metadata) {
                Claim::Keep => owned.push(pod),
                Claim::Leave => {}
                Claim::Adopt if identity::ordinal(set, &pod).is_none() => {}
                Claim::Adopt => {
                    let live = self.ctx.connection.namespaced::<StatefulSet>(&key.namespace).get(&key.name).await?;
                    if live.metadata.uid != set.metadata.uid || live.metadata.deletion_timestamp.is_some() {
                        return Err(ReconcileError::NotYet(format!("{key} is being replaced or deleted")));
                    }
                    let adopted: Pod = adopt(&self.ctx.connection, set.as_ref(), &pod.metadata).await?;
                    self.own_writes.wrote(key, &self.pods, &adopted);
                    owned.push(Arc::new(adopted));
                }
                Claim::Release => {
                    if let Some(released) = release::<Pod>(&self.ctx.connection, &set.metadata, &pod.metadata).await? {
                        self.own_writes.wrote(key, &self.pods, &released);
                    }
                }
            }
        }
        Ok(owned)
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
                Step::Replace { pod, type_, reason, message } => {
                    self.ctx.events.event(set.as_ref(), type_, reason, message);
                    self.delete(key, set, &pod).await
                }
            };
            if result.is_err() {
                break;
            }
        }
        if let Some(status) = plan.status {
            let changed = StatefulSet { status: Some(status), ..set.as_ref().clone() };
            let api = self.ctx.connection.namespaced::<StatefulSet>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.own_writes.wrote(key, &self.sets, &written);
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
        match self.ctx.connection.namespaced::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(created) => {
                self.own_writes.wrote(key, &self.pods, &created);
                self.record(set, "create", &pod_name, None);
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.record(set, "create", &pod_name, Some(&error));
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
        let api = self.ctx.connection.namespaced::<PersistentVolumeClaim>(&key.namespace);
        match api.create(&PostParams::default(), claim).await {
            Ok(_) => {
                let message = format!("create Claim {claim_name} Pod {pod} in StatefulSet {} success", key.name);
                self.ctx.events.event(set.as_ref(), EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let message = format!(
                    "create Claim {claim_name} for Pod {pod} in StatefulSet {} failed error: {}",
                    key.name,
                    error.text()
                );
                self.ctx.events.event(set.as_ref(), EventType::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &Arc<StatefulSet>, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let pod_name = name(&pod.metadata);
        match self.ctx.connection.namespaced::<Pod>(&key.namespace).delete(pod_name, &DeleteParams::default()).await {
            Ok(_) => {
                self.own_writes.deleted(key, &self.pods, pod.as_ref());
                self.record(set, "delete", pod_name, None);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.record(set, "delete", pod_name, Some(&error));
                Err(error)
            }
        }
    }

    fn record(&self, set: &Arc<StatefulSet>, verb: &str, pod: &str, error: Option<&kube::Error>) {
        let what = if verb == "create" { "Create" } else { "Delete" };
        let set_name = name(&set.metadata);
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set_name} successful");
                self.ctx.events.event(set.as_ref(), EventType::Normal, &format!("Successful{what}"), message);
            }
            Some(error) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set_name} failed error: {}", error.text());
                self.ctx.events.event(set.as_ref(), EventType::Warning, &format!("Failed{what}"), message);
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
