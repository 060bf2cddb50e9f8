//! ReplicaSet and ReplicationController controllers: keep the wanted number of pods.
//! Reads ReplicaSet or ReplicationController, Pod. Writes Pod, and the owner's status. Source: apps/v1 and core/v1 API reference.
//!
//! Both kinds share one engine over [`kind::ReplicaOwner`]; [`plan`] decides, [`rank`] chooses which pods go first.

mod kind;
mod plan;
mod rank;

use std::sync::Arc;

use client::ObjectKey;
use futures::FutureExt;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::PostParams;

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::owned_pods::{OwnedPods, in_slow_start};
use crate::ownership::{self, controller_of, controller_reference, name, uid};
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
    owned: OwnedPods<K>,
}

async fn run<K: ReplicaOwner>(ctx: Ctx, name: &'static str) {
    let (owned, queue) = OwnedPods::<K>::start(&ctx);
    owned.owners.index_by_controller();
    owned.synced().await;
    work(&ctx, name, Arc::new(ReplicaController { owned }), queue, WORKERS).await;
}

impl<K: ReplicaOwner> Reconciler for ReplicaController<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        match self.owned.settled(key) {
            Ok(owner) => Box::pin(self.sync(key, &owner)).await,
            Err(requeue) => Ok(requeue),
        }
    }
}

impl<K: ReplicaOwner> ReplicaController<K> {
    async fn sync(&self, key: &ObjectKey, owner: &K) -> Result<Requeue, ReconcileError> {
        let owned = self.owned.claim(key, owner, pods::is_active).await?;
        let view = View { owner, pods: &owned, related: self.related(owner), now: clock::now(), failure: None };
        let plan_ = plan(&view);
        let failure = self.execute(key, owner, &plan_).await;
        let now = clock::now();
        let status = match &failure {
            Some((failure, _)) => plan(&View { failure: Some(failure.clone()), now, ..view }).status,
            None => plan_.status,
        };
        if let Some(status) = status {
            let written = self.write_status(owner, status).await?;
            self.owned.own_writes.wrote(key, &self.owned.owners, &written);
        }
        match failure {
            Some((_, error)) => Err(error.into()),
            None => Ok(plan_.requeue_seconds.map_or(Requeue::Never, Requeue::after_seconds)),
        }
    }

    /// Active pods of all owners that share this one's controller: a Deployment's other ReplicaSets.
    fn related(&self, owner: &K) -> Vec<Arc<Pod>> {
        let Some(parent) = controller_of(owner.meta()) else { return Vec::new() };
        let siblings = self.owned.owners.controlled_by(&parent.uid);
        siblings
            .iter()
            .flat_map(|sibling| self.owned.pods.controlled_by(uid(sibling.meta())))
            .filter(|pod| pods::is_active(pod))
            .collect()
    }

    /// Creates or deletes pods; the first failure is returned for the owner's condition.
    async fn execute(&self, key: &ObjectKey, owner: &K, plan: &Plan) -> Option<(Failure, kube::Error)> {
        let created = self.create_pods(key, owner, plan.create).await;
        if let Err(error) = created {
            return Some((Failure { reason: "FailedCreate", message: error.text() }, error));
        }
        let deletions = plan.delete.iter().map(|pod| self.owned.delete(key, owner, pod));
        let results = futures::future::join_all(deletions).await;
        let error = results.into_iter().find_map(Result::err)?;
        Some((Failure { reason: "FailedDelete", message: error.text() }, error))
    }

    async fn create_pods(&self, key: &ObjectKey, owner: &K, count: usize) -> Result<(), kube::Error> {
        let Some(template) = owner.template() else { return Ok(()) };
        let pod = pods::from_template(template, owner.meta(), controller_reference(owner));
        in_slow_start(&vec![&pod; count], |pod| self.owned.create(key, owner, pod)).await
    }

    async fn write_status(&self, owner: &K, status: kind::Status) -> Result<K, kube::Error> {
        let api = self.owned.ctx.connection.namespaced::<K>(ownership::namespace(owner.meta()));
        api.replace_status(name(owner.meta()), &PostParams::default(), &owner.with_status(status)).await
    }
}
