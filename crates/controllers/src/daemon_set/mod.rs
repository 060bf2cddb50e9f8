//! DaemonSet controller: one pod on every node that takes it.
//! Reads DaemonSet, Pod, Node, ControllerRevision. Writes Pod, ControllerRevision, DaemonSet.status. Source: apps/v1 docs.

mod node;
mod plan;

use std::sync::Arc;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, Claim, adopt, claim, controller_of, controller_reference, name, release};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::revisions::{HASH_LABEL, History, Keeper, hash_of};
use crate::spec::{ControllerSpec, Ctx};
use plan::{Plan, View, plan};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "daemonset-controller",
    alias: "daemonset",
    account: "daemon-set-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 2;
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

struct Controller {
    ctx: Ctx,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let sets = ctx.informers.informer::<DaemonSet>();
    let pods = ctx.informers.informer::<Pod>();
    let nodes = ctx.informers.informer::<Node>();
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
    nodes.on_event({
        let (queue, sets) = (queue.clone(), sets.clone());
        move |event| {
            // Heartbeats change nothing; labels, taints and coming and going may.
            let same = matches!(event, Event::Updated { old, new }
                if old.metadata.labels == new.metadata.labels && old.spec == new.spec);
            if !same {
                sets.list().iter().for_each(|set| queue.add(ObjectKey::of(set.as_ref())));
            }
        }
    });
    sets.has_synced().await;
    pods.has_synced().await;
    nodes.has_synced().await;
    revisions.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), sets, pods, nodes, revisions, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn wake(pod: &Pod, sets: &Informer<DaemonSet>, queue: &WorkQueue<ObjectKey>) {
    use client::LabelSelectorExt;
    let namespace = ownership::namespace(&pod.metadata);
    match controller_of(&pod.metadata) {
        Some(owner) if ownership::refers_to::<DaemonSet>(owner) => queue.add(ObjectKey::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            let selects = |spec: &DaemonSetSpec| spec.selector.takes(pod.metadata.labels.as_ref());
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
        let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(Requeue::Never);
        };
        let keeper = Keeper {
            connection: &self.ctx.connection,
            revisions: &self.revisions,
            own_writes: &self.own_writes,
            hash_label: HASH_LABEL,
        };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = keeper.history(set.as_ref(), &spec.template, collisions).await?;
        let owned = self.claim_pods(key, &set, spec).await?;
        let hash = hash_of(&history.current).to_owned();
        let nodes = self.nodes.list();
        let plan = plan(&View { set: &set, spec, pods: &owned, nodes: &nodes, hash: &hash, now: clock::now() });
        let requeue = plan.requeue_seconds;
        self.execute(key, &set, spec, &hash, plan).await?;
        self.trim(&keeper, &set, spec, &history, &owned).await?;
        Ok(requeue.map_or(Requeue::Never, Requeue::after_seconds))
    }

    async fn trim(
        &self,
        keeper: &Keeper<'_>,
        set: &Arc<DaemonSet>,
        spec: &DaemonSetSpec,
        history: &History,
        owned: &[Arc<Pod>],
    ) -> Result<(), ReconcileError> {
        let hashes = owned.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(HASH_LABEL).cloned());
        let in_use: Vec<String> = hashes.collect();
        keeper.trim(set.as_ref(), history, &in_use, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(())
    }

    async fn claim_pods(
        &self,
        key: &ObjectKey,
        set: &Arc<DaemonSet>,
        spec: &DaemonSetSpec,
    ) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let mut owned = Vec::new();
        for pod in pods::claimable(&self.pods, &set.metadata) {
            match claim(&set.metadata, &spec.selector, &pod.metadata) {
                Claim::Keep => owned.push(pod),
                Claim::Leave => {}
                Claim::Adopt => {
                    let live = self.ctx.connection.namespaced::<DaemonSet>(&key.namespace).get(&key.name).await?;
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
        set: &Arc<DaemonSet>,
        spec: &DaemonSetSpec,
        hash: &str,
        plan: Plan,
    ) -> Result<(), ReconcileError> {
        for (pod, reason, message) in &plan.events {
            let type_ = if *reason == "FailedDaemonPod" { EventType::Warning } else { EventType::Normal };
            self.ctx.events.event(set.as_ref(), type_, reason, message.clone());
            tracing::debug!(pod = %ObjectKey::of(pod.as_ref()), reason, "daemon pod ended");
        }
        let mut result = Ok(());
        let (mut left, mut batch) = (plan.create.as_slice(), 1);
        while !left.is_empty() && result.is_ok() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let creations = now.iter().map(|node| self.create_pod(key, set, spec, hash, node));
            result = futures::future::join_all(creations).await.into_iter().collect::<Result<(), kube::Error>>();
            (left, batch) = (later, batch * 2);
        }
        for pod in &plan.delete {
            self.delete_pod(key, set, pod).await?;
        }
        if let Some(status) = plan.status {
            let changed = DaemonSet { status: Some(status), ..set.as_ref().clone() };
            let api = self.ctx.connection.namespaced::<DaemonSet>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.own_writes.wrote(key, &self.sets, &written);
        }
        match result {
            Err(error) if !error.is_namespace_terminating() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn create_pod(
        &self,
        key: &ObjectKey,
        set: &Arc<DaemonSet>,
        spec: &DaemonSetSpec,
        hash: &str,
        node: &str,
    ) -> Result<(), kube::Error> {
        let mut pod = pods::from_template(&spec.template, &set.metadata, controller_reference(set.as_ref()));
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
        if let Some(generation) =
            set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(GENERATION_ANNOTATION))
        {
            labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
        }
        node::bind(pod.spec.get_or_insert_default(), node);
        match self.ctx.connection.namespaced::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(created) => {
                self.own_writes.wrote(key, &self.pods, &created);
                let message = format!("Created pod: {}", name(&created.metadata));
                self.ctx.events.event(set.as_ref(), EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {}", error.text());
                    self.ctx.events.event(set.as_ref(), EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete_pod(&self, key: &ObjectKey, set: &Arc<DaemonSet>, pod: &Arc<Pod>) -> Result<(), ReconcileError> {
        match self
            .ctx
            .connection
            .namespaced::<Pod>(&key.namespace)
            .delete(name(&pod.metadata), &DeleteParams::default())
            .await
        {
            Ok(_) => {
                self.own_writes.deleted(key, &self.pods, pod.as_ref());
                let message = format!("Deleted pod: {}", name(&pod.metadata));
                self.ctx.events.event(set.as_ref(), EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", error.text());
                self.ctx.events.event(set.as_ref(), EventType::Warning, "FailedDelete", message);
                Err(error.into())
            }
        }
    }
}
