//! Deployment controller: keeps ReplicaSets in step with a Deployment.
//! Reads Deployment, ReplicaSet, Pod. Writes ReplicaSet, Deployment.status and its revision annotation. Source: apps/v1 docs.
//!
//! [`plan`] decides (with [`rolling`] for numbers, [`sets`] for what a ReplicaSet's annotations mean, [`status`] for conditions);
//! this file reads the view and carries the plan out.

mod plan;
mod rolling;
mod sets;
mod status;

use std::sync::Arc;

use client::{Event, EventType, Informer, LabelSelectorExt, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, Claim, adopt, claim, controller_of, name, release, uid};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};
use crate::template;
use plan::{Plan, Step, View, plan};
pub(crate) use rolling::resolve;

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "deployment-controller",
    alias: "deployment",
    account: "deployment-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let deployments = ctx.informers.informer::<Deployment>();
    let sets = ctx.informers.informer::<ReplicaSet>();
    let pods = ctx.informers.informer::<Pod>();
    sets.index_by_controller();
    sets.add_index("orphan", |set| match controller_of(&set.metadata) {
        Some(_) => Vec::new(),
        None => set.metadata.namespace.clone().into_iter().collect(),
    });
    pods.index_by_controller();
    let queue = WorkQueue::default();
    deployments.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    sets.on_event({
        let (queue, deployments) = (queue.clone(), deployments.clone());
        move |event| set_changed(event, &deployments, &queue)
    });
    pods.on_event({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |event| pod_changed(event, &sets, &queue)
    });
    deployments.has_synced().await;
    sets.has_synced().await;
    pods.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), deployments, sets, pods, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn set_changed(event: &Event<ReplicaSet>, deployments: &Informer<Deployment>, queue: &WorkQueue<ObjectKey>) {
    for set in event.states() {
        let namespace = ownership::namespace(&set.metadata);
        match controller_of(&set.metadata) {
            Some(owner) if ownership::refers_to::<Deployment>(owner) => {
                queue.add(ObjectKey::new(namespace, &owner.name))
            }
            Some(_) => {}
            None => {
                for deployment in deployments.by_namespace(namespace) {
                    let selects = |spec: &k8s_openapi::api::apps::v1::DeploymentSpec| {
                        spec.selector.takes(set.metadata.labels.as_ref())
                    };
                    if deployment.spec.as_ref().is_some_and(selects) {
                        queue.add(ObjectKey::of(deployment.as_ref()));
                    }
                }
            }
        }
    }
}

/// A Recreate rollout waits for old pods to end; everything else shows in ReplicaSet status.
fn pod_changed(event: &Event<Pod>, sets: &Informer<ReplicaSet>, queue: &WorkQueue<ObjectKey>) {
    let pod = event.object();
    let ended = matches!(event, Event::Deleted(_)) || crate::pods::is_terminal(pod);
    let Some(owner) = controller_of(&pod.metadata).filter(|owner| ended && ownership::refers_to::<ReplicaSet>(owner))
    else {
        return;
    };
    let namespace = ownership::namespace(&pod.metadata);
    let Some(set) = sets.get(&ObjectKey::new(namespace, &owner.name)) else { return };
    if let Some(deployment) = controller_of(&set.metadata).filter(|owner| ownership::refers_to::<Deployment>(owner)) {
        queue.add(ObjectKey::new(namespace, &deployment.name));
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let Some(spec) = &deployment.spec else { return Ok(Requeue::Never) };
        if spec.selector.is_empty_selector() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.ctx.events.event(deployment.as_ref(), EventType::Warning, "SelectingAll", message);
            return self.only_observe(key, &deployment).await;
        }
        let owned = self.claim_sets(key, &deployment).await?;
        let plan = {
            let old_pods_run = |newest: Option<&str>| {
                let others = owned.iter().filter(|set| Some(uid(&set.metadata)) != newest);
                let mut pods = others.flat_map(|set| self.pods.controlled_by(uid(&set.metadata)));
                pods.any(|pod| !crate::pods::is_terminal(&pod))
            };
            plan(&View { deployment: &deployment, spec, sets: &owned, old_pods_run: &old_pods_run, now: clock::now() })
        };
        self.execute(key, &deployment, plan).await
    }

    /// The ReplicaSets of the Deployment, after adopting and releasing.
    async fn claim_sets(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
    ) -> Result<Vec<Arc<ReplicaSet>>, ReconcileError> {
        let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let mut candidates = self.sets.controlled_by(uid(&deployment.metadata));
        candidates.extend(self.sets.by_index("orphan", &key.namespace));
        let mut owned = Vec::new();
        for set in candidates {
            match claim(&deployment.metadata, &selector, &set.metadata) {
                Claim::Keep => owned.push(set),
                Claim::Leave => {}
                Claim::Adopt => {
                    let live = self.ctx.connection.namespaced::<Deployment>(&key.namespace).get(&key.name).await?;
                    if live.metadata.uid != deployment.metadata.uid || live.metadata.deletion_timestamp.is_some() {
                        return Err(ReconcileError::NotYet(format!("{key} is being replaced or deleted")));
                    }
                    let adopted: ReplicaSet =
                        adopt(&self.ctx.connection, deployment.as_ref(), &set.metadata, None).await?;
                    self.own_writes.wrote(key, &self.sets, &adopted);
                    owned.push(Arc::new(adopted));
                }
                Claim::Release => {
                    if let Some(released) =
                        release::<ReplicaSet>(&self.ctx.connection, &deployment.metadata, &set.metadata, None).await?
                    {
                        self.own_writes.wrote(key, &self.sets, &released);
                    }
                }
            }
        }
        Ok(owned)
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        plan: Plan,
    ) -> Result<Requeue, ReconcileError> {
        for step in plan.steps {
            match step {
                Step::Create(set) => {
                    if let Some(requeue) = self.create_set(key, deployment, *set).await? {
                        return Ok(requeue);
                    }
                }
                Step::Update { set, scaled } => self.update_set(key, deployment, &set, scaled).await?,
                Step::Delete(set) => self.delete_set(key, &set).await?,
            }
        }
        if plan.status.is_some() || plan.revision.is_some() {
            let mut changed = deployment.as_ref().clone();
            if let Some(status) = plan.status {
                changed.status = Some(status);
            }
            if let Some(revision) = plan.revision {
                changed.metadata.annotations.get_or_insert_default().insert(sets::REVISION.to_owned(), revision);
            }
            self.write_status(key, &changed).await?;
        }
        Ok(plan.requeue_seconds.map_or(Requeue::Never, Requeue::after_seconds))
    }

    /// Some requeue when the name was taken by something else, and the next try will use another.
    async fn create_set(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        set: ReplicaSet,
    ) -> Result<Option<Requeue>, ReconcileError> {
        let api = self.ctx.connection.namespaced::<ReplicaSet>(&key.namespace);
        match api.create(&PostParams::default(), &set).await {
            Ok(created) => {
                self.own_writes.wrote(key, &self.sets, &created);
                let replicas = sets::replicas(&created);
                if replicas > 0 {
                    self.record_scaling(deployment, name(&created.metadata), 0, replicas);
                }
                Ok(None)
            }
            Err(error) if error.is_already_exists() => self.resolve_collision(key, deployment, &set).await.map(Some),
            Err(error) if error.is_namespace_terminating() => Err(error.into()),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{}\": {}", name(&set.metadata), error.text());
                self.ctx.events.event(
                    deployment.as_ref(),
                    EventType::Warning,
                    "ReplicaSetCreateError",
                    message.clone(),
                );
                let old = deployment.status.clone().unwrap_or_default();
                let status = status::with_create_error(&old, message, &clock::now());
                if status != old {
                    let changed = Deployment { status: Some(status), ..deployment.as_ref().clone() };
                    self.write_status(key, &changed).await?;
                }
                Err(error.into())
            }
        }
    }

    /// The name exists. If it is ours and the same, the cache was behind; else the next hash takes another salt.
    async fn resolve_collision(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<Requeue, ReconcileError> {
        let api = self.ctx.connection.namespaced::<ReplicaSet>(&key.namespace);
        let existing = api.get(name(&set.metadata)).await?;
        let ours = controller_of(&existing.metadata).is_some_and(|owner| owner.uid == uid(&deployment.metadata));
        let same = match (sets::template(&existing), sets::template(set)) {
            (Some(existing), Some(wanted)) => template::equal_ignoring_hash(existing, wanted),
            _ => false,
        };
        if ours && same {
            self.own_writes.wrote(key, &self.sets, &existing);
            return Ok(LOOK_AGAIN);
        }
        let mut changed = deployment.clone();
        *changed.status.get_or_insert_default().collision_count.get_or_insert(0) += 1;
        self.write_status(key, &changed).await?;
        Ok(LOOK_AGAIN)
    }

    async fn update_set(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        set: &ReplicaSet,
        scaled: Option<(i32, i32)>,
    ) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<ReplicaSet>(&key.namespace);
        let written = api.replace(name(&set.metadata), &PostParams::default(), set).await?;
        self.own_writes.wrote(key, &self.sets, &written);
        if let Some((from, to)) = scaled {
            self.record_scaling(deployment, name(&set.metadata), from, to);
        }
        Ok(())
    }

    fn record_scaling(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.ctx.events.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
    }

    async fn delete_set(&self, key: &ObjectKey, set: &Arc<ReplicaSet>) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<ReplicaSet>(&key.namespace);
        let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
        match api.delete(name(&set.metadata), &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => self.own_writes.deleted(key, &self.sets, set.as_ref()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn only_observe(&self, key: &ObjectKey, deployment: &Deployment) -> Result<Requeue, ReconcileError> {
        let mut changed = deployment.clone();
        let generation = changed.metadata.generation;
        let status = changed.status.get_or_insert_default();
        if status.observed_generation < generation {
            status.observed_generation = generation;
            self.write_status(key, &changed).await?;
        }
        Ok(Requeue::Never)
    }

    async fn write_status(&self, key: &ObjectKey, deployment: &Deployment) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<Deployment>(&key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), deployment).await?;
        self.own_writes.wrote(key, &self.deployments, &written);
        Ok(())
    }
}
