//! DaemonSet controller: one pod on every node that takes it.
//! Reads DaemonSet, Pod, Node, ControllerRevision. Writes Pod, ControllerRevision, DaemonSet.status. Source: apps/v1 docs.

mod node;
mod plan;

use std::sync::Arc;

use client::{EventType, Informer, ObjectKey};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::PostParams;

use crate::clock;
use crate::owned_pods::{OwnedPods, PodOwner, in_slow_start};
use crate::ownership::{controller_of, controller_reference, namespace, refers_to};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::revisions::{HASH_LABEL, History, Keeper, Naming, hash_of};
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
    owned: OwnedPods<DaemonSet>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
}

impl PodOwner for DaemonSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        Some(self.spec.as_ref()?.selector.clone())
    }
}

async fn run(ctx: Ctx) {
    let (owned, queue) = OwnedPods::<DaemonSet>::start(&ctx);
    let nodes = ctx.informers.informer::<Node>();
    let revisions = ctx.informers.informer::<ControllerRevision>();
    revisions.index_by_controller();
    nodes.on_event({
        let (queue, sets) = (queue.clone(), owned.owners.clone());
        move |event| {
            // Heartbeats change nothing; labels, taints and coming and going may.
            let same = matches!(event, client::Event::Updated { old, new }
                if old.metadata.labels == new.metadata.labels && old.spec == new.spec);
            if !same {
                sets.list().iter().for_each(|set| queue.add(ObjectKey::of(set.as_ref())));
            }
        }
    });
    revisions.on_event({
        let queue = queue.clone();
        move |event| {
            // One that is gone is made again.
            let meta = &event.object().metadata;
            let owner = controller_of(meta).filter(|owner| refers_to::<DaemonSet>(owner));
            if let Some(owner) = owner {
                queue.add(ObjectKey::new(namespace(meta), &owner.name));
            }
        }
    });
    owned.synced().await;
    nodes.has_synced().await;
    revisions.has_synced().await;
    let controller = Controller { owned, nodes, revisions };
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
    async fn sync(&self, key: &ObjectKey, set: &Arc<DaemonSet>) -> Result<Requeue, ReconcileError> {
        let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(Requeue::Never);
        };
        let keeper = Keeper {
            connection: &self.owned.ctx.connection,
            revisions: &self.revisions,
            own_writes: &self.owned.own_writes,
            naming: Naming::Template,
        };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = keeper.history(set.as_ref(), &spec.template, collisions).await?;
        let owned = self.owned.claim(key, set, |_| true).await?;
        let hash = hash_of(&history.current).to_owned();
        let nodes = self.nodes.list();
        let plan = plan(&View {
            set,
            spec,
            pods: &owned,
            nodes: &nodes,
            hash: &hash,
            collisions: history.collisions,
            now: clock::now(),
        });
        let requeue = plan.requeue_seconds;
        self.execute(key, set, spec, &hash, plan).await?;
        self.trim(&keeper, set, spec, &history, &owned).await?;
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
            self.owned.ctx.events.event(set.as_ref(), type_, reason, message.clone());
            tracing::debug!(pod = %ObjectKey::of(pod.as_ref()), reason, "daemon pod ended");
        }
        let created = in_slow_start(&plan.create, |node| self.create_pod(key, set, spec, hash, node)).await;
        for pod in &plan.delete {
            self.owned.delete(key, set, pod).await?;
        }
        if let Some(status) = plan.status {
            let changed = DaemonSet { status: Some(status), ..set.as_ref().clone() };
            let api = self.owned.ctx.connection.namespaced::<DaemonSet>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.owned.own_writes.wrote(key, &self.owned.owners, &written);
        }
        Ok(created?)
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
        self.owned.create(key, set, &pod).await
    }
}
