//! ReplicaSet and ReplicationController controllers: keep the wanted number of pods.
//! Reads ReplicaSet or ReplicationController, Pod. Writes Pod, and the owner's status. Source: apps/v1 and core/v1 API reference.
//!
//! Both kinds share one engine over [`kind::ReplicaOwner`]; [`plan`] decides, [`rank`] chooses which pods go first.

mod kind;
mod plan;
mod rank;

use std::sync::Arc;

use client::{Event, EventType, Informer, LabelSelectorExt, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, Claim, adopt, claim, controller_of, controller_reference, name, release, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};
use kind::ReplicaOwner;
use plan::{Failure, Plan, View, plan};

pub(crate) const REPLICA_SET: ControllerSpec = ControllerSpec {
    name: "replicaset-controller",
    alias: "replicaset",
    account: "replicaset-controller",
    on_by_default: true,
    run: |ctx| run::<ReplicaSet>(ctx, "replicaset-controller").boxed(),
};

pub(crate) const REPLICATION_CONTROLLER: ControllerSpec = ControllerSpec {
    name: "replicationcontroller-controller",
    alias: "replicationcontroller",
    account: "replication-controller",
    on_by_default: true,
    run: |ctx| run::<ReplicationController>(ctx, "replicationcontroller-controller").boxed(),
};

const WORKERS: usize = 5;

struct ReplicaController<K: 'static> {
    ctx: Ctx,
    owners: Informer<K>,
    pods: Informer<Pod>,
    own_writes: OwnWrites,
}

async fn run<K: ReplicaOwner>(ctx: Ctx, name: &'static str) {
    let owners = ctx.informers.informer::<K>();
    let pods = ctx.informers.informer::<Pod>();
    owners.index_by_controller();
    pods.index_by_controller();
    pods::index_orphans(&pods);
    let queue = WorkQueue::default();
    owners.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    pods.on_event({
        let (queue, owners) = (queue.clone(), owners.clone());
        move |event| pod_changed(event, &owners, &queue)
    });
    owners.has_synced().await;
    pods.has_synced().await;
    let controller = ReplicaController { ctx: ctx.clone(), owners, pods, own_writes: OwnWrites::default() };
    work(&ctx, name, Arc::new(controller), queue, WORKERS).await;
}

/// Wakes the pod's controller, or everybody who might adopt it. A pod that turned ready wakes its owner again once it can
/// count as available.
fn pod_changed<K: ReplicaOwner>(event: &Event<Pod>, owners: &Informer<K>, queue: &WorkQueue<ObjectKey>) {
    for pod in event.states() {
        let namespace = ownership::namespace(&pod.metadata);
        match controller_of(&pod.metadata) {
            Some(owner) if ownership::refers_to::<K>(owner) => queue.add(ObjectKey::new(namespace, &owner.name)),
            Some(_) => {}
            None if matches!(event, Event::Deleted(_)) => {}
            None => {
                let selecting = |owner: &&Arc<K>| owner.selector().takes(pod.metadata.labels.as_ref());
                for owner in owners.by_namespace(namespace).iter().filter(selecting) {
                    queue.add(ObjectKey::of(owner.as_ref()));
                }
            }
        }
    }
}

impl<K: ReplicaOwner> Reconciler for ReplicaController<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

impl<K: ReplicaOwner> ReplicaController<K> {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(owner) = self.owners.get(key) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let owned = self.claim_pods(key, &owner).await?;
        let view = View {
            owner: owner.as_ref(),
            pods: &owned,
            related: self.related(&owner),
            now: clock::now(),
            failure: None,
        };
        let plan_ = plan(&view);
        let failure = self.execute(key, &owner, &plan_).await;
        let now = clock::now();
        let status = match &failure {
            Some((failure, _)) => plan(&View { failure: Some(failure.clone()), now, ..view }).status,
            None => plan_.status,
        };
        if let Some(status) = status {
            let written = self.write_status(&owner, status).await?;
            self.own_writes.wrote(key, &self.owners, &written);
        }
        match failure {
            Some((_, error)) => Err(error.into()),
            None => Ok(plan_.requeue_seconds.map_or(Requeue::Never, Requeue::after_seconds)),
        }
    }

    /// The pods of the owner, after adopting and releasing.
    async fn claim_pods(&self, key: &ObjectKey, owner: &K) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let selector = owner.selector();
        let mut owned = Vec::new();
        let mut owner_checked = false;
        for pod in pods::claimable(&self.pods, owner.meta()) {
            match claim(owner.meta(), &selector, &pod.metadata) {
                Claim::Keep => owned.push(pod),
                Claim::Leave => {}
                Claim::Adopt if !pods::is_active(&pod) => {}
                Claim::Adopt => {
                    if !owner_checked {
                        self.check_owner_lives(owner).await?;
                        owner_checked = true;
                    }
                    let adopted: Pod = adopt(&self.ctx.connection, owner, &pod.metadata).await?;
                    self.own_writes.wrote(key, &self.pods, &adopted);
                    owned.push(Arc::new(adopted));
                }
                Claim::Release => {
                    if let Some(released) = release::<Pod>(&self.ctx.connection, owner.meta(), &pod.metadata).await? {
                        self.own_writes.wrote(key, &self.pods, &released);
                    }
                }
            }
        }
        Ok(owned)
    }

    /// Nothing is adopted on the word of a cache: the owner may be gone, or another of the same name.
    async fn check_owner_lives(&self, owner: &K) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<K>(ownership::namespace(owner.meta()));
        let live = api.get(name(owner.meta())).await?;
        if live.meta().uid != owner.meta().uid || live.meta().deletion_timestamp.is_some() {
            return Err(ReconcileError::NotYet(format!("{} is being replaced or deleted", name(owner.meta()))));
        }
        Ok(())
    }

    /// Active pods of all owners that share this one's controller: a Deployment's other ReplicaSets.
    fn related(&self, owner: &K) -> Vec<Arc<Pod>> {
        let Some(parent) = controller_of(owner.meta()) else { return Vec::new() };
        let siblings = self.owners.controlled_by(&parent.uid);
        siblings
            .iter()
            .flat_map(|sibling| self.pods.controlled_by(uid(sibling.meta())))
            .filter(|pod| pods::is_active(pod))
            .collect()
    }

    /// Creates or deletes pods; the first failure is returned for the owner's condition.
    async fn execute(&self, key: &ObjectKey, owner: &K, plan: &Plan) -> Option<(Failure, kube::Error)> {
        let created = self.create_pods(key, owner, plan.create).await;
        if let Err(error) = created {
            return Some((Failure { reason: "FailedCreate", message: error.text() }, error));
        }
        let deletions = plan.delete.iter().map(|pod| self.delete_pod(key, owner, pod));
        let results = futures::future::join_all(deletions).await;
        let error = results.into_iter().find_map(Result::err)?;
        Some((Failure { reason: "FailedDelete", message: error.text() }, error))
    }

    /// In batches of 1, 2, 4 and so on: when the first pod is refused (quota), the rest is not tried.
    async fn create_pods(&self, key: &ObjectKey, owner: &K, count: usize) -> Result<(), kube::Error> {
        let Some(template) = owner.template() else { return Ok(()) };
        let pod = pods::from_template(template, owner.meta(), controller_reference(owner));
        let (mut n_left, mut batch) = (count, 1);
        while n_left > 0 {
            let n_now = batch.min(n_left);
            let creations = (0..n_now).map(|_| self.create_pod(key, owner, &pod));
            let results = futures::future::join_all(creations).await;
            for result in results {
                match result {
                    // The namespace goes away, and the owner with it.
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    other => other?,
                }
            }
            n_left -= n_now;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_pod(&self, key: &ObjectKey, owner: &K, pod: &Pod) -> Result<(), kube::Error> {
        let api = self.ctx.connection.namespaced::<Pod>(&key.namespace);
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.own_writes.wrote(key, &self.pods, &created);
                let message = format!("Created pod: {}", name(&created.metadata));
                self.ctx.events.event(owner, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {}", error.text());
                    self.ctx.events.event(owner, EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete_pod(&self, key: &ObjectKey, owner: &K, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let api = self.ctx.connection.namespaced::<Pod>(&key.namespace);
        match api.delete(name(&pod.metadata), &DeleteParams::default()).await {
            Ok(_) => {
                self.own_writes.deleted(key, &self.pods, pod.as_ref());
                let message = format!("Deleted pod: {}", name(&pod.metadata));
                self.ctx.events.event(owner, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", error.text());
                self.ctx.events.event(owner, EventType::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }

    async fn write_status(&self, owner: &K, status: kind::Status) -> Result<K, kube::Error> {
        let api = self.ctx.connection.namespaced::<K>(ownership::namespace(owner.meta()));
        api.replace_status(name(owner.meta()), &PostParams::default(), &owner.with_status(status)).await
    }
}
