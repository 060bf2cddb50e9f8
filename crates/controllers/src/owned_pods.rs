//! What the controllers that own pods share: being woken by their pods, a settled view of one owner, taking and letting go of
//! pods by selector, and creating and deleting them with the events that tell of it.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use client::{Event, EventType, Informer, LabelSelectorExt, Object, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::{DeleteParams, PostParams};
use kube::core::NamespaceResourceScope;
use serde::Serialize;

use crate::api_error::ApiErrorExt;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, Claim, adopt, claim, controller_of, name, release};
use crate::pods;
use crate::reconcile::{ReconcileError, Requeue};
use crate::spec::Ctx;

/// A kind whose objects own pods by a selector.
pub(crate) trait PodOwner:
    Object + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + Debug
{
    /// The finalizer that all pods of the owner have.
    const FINALIZER: Option<&'static str> = None;

    /// None selects nothing.
    fn pod_selector(&self) -> Option<LabelSelector>;
}

/// The caches of one kind of owner and of the pods, and which of its own writes they do not show yet.
pub(crate) struct OwnedPods<K: 'static> {
    pub ctx: Ctx,
    pub owners: Informer<K>,
    pub pods: Informer<Pod>,
    pub own_writes: OwnWrites,
}

impl<K: PodOwner> OwnedPods<K> {
    /// The caches, and a queue of owners that changed or whose pods did.
    pub(crate) fn start(ctx: &Ctx) -> (Self, WorkQueue<ObjectKey>) {
        let owners = ctx.informers.informer::<K>();
        let pods = ctx.informers.informer::<Pod>();
        pods.index_by_controller();
        pods::index_orphans(&pods);
        let queue = WorkQueue::default();
        owners.on_event({
            let queue = queue.clone();
            move |event| queue.add(ObjectKey::of(event.object().as_ref()))
        });
        pods.on_event({
            let (queue, owners) = (queue.clone(), owners.clone());
            move |event| wake(event, &owners, &queue)
        });
        (Self { ctx: ctx.clone(), owners, pods, own_writes: OwnWrites::default() }, queue)
    }

    pub(crate) async fn synced(&self) {
        self.owners.has_synced().await;
        self.pods.has_synced().await;
    }

    /// The owner of a key, once the caches show all that was written for it.
    pub(crate) fn settled(&self, key: &ObjectKey) -> Result<Arc<K>, Requeue> {
        let Some(owner) = self.owners.get(key) else {
            self.own_writes.forget(key);
            return Err(Requeue::Never);
        };
        if self.own_writes.settled(key) { Ok(owner) } else { Err(LOOK_AGAIN) }
    }

    /// The pods of the owner, after adopting those that `may_adopt` agrees to, and releasing.
    pub(crate) async fn claim(
        &self,
        key: &ObjectKey,
        owner: &K,
        may_adopt: impl Fn(&Pod) -> bool,
    ) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let Some(selector) = owner.pod_selector() else { return Ok(Vec::new()) };
        let mut owned = Vec::new();
        let mut owner_checked = false;
        for pod in pods::claimable(&self.pods, owner.meta()) {
            match claim(owner.meta(), &selector, &pod.metadata) {
                Claim::Keep => owned.push(pod),
                Claim::Leave => {}
                Claim::Adopt if !may_adopt(&pod) => {}
                Claim::Adopt => {
                    if !owner_checked {
                        self.check_owner_lives(owner).await?;
                        owner_checked = true;
                    }
                    let adopted: Pod = adopt(&self.ctx.connection, owner, &pod.metadata, K::FINALIZER).await?;
                    self.own_writes.wrote(key, &self.pods, &adopted);
                    owned.push(Arc::new(adopted));
                }
                Claim::Release => {
                    let (connection, meta) = (&self.ctx.connection, &pod.metadata);
                    if let Some(released) = release::<Pod>(connection, owner.meta(), meta, K::FINALIZER).await? {
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
}

impl<K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>> OwnedPods<K> {
    /// Creates a pod and tells of it.
    pub(crate) async fn create(&self, key: &ObjectKey, owner: &K, pod: &Pod) -> Result<(), kube::Error> {
        match self.ctx.connection.namespaced::<Pod>(&key.namespace).create(&PostParams::default(), pod).await {
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

    /// Deletes a pod and tells of it. One that is gone already needs neither.
    pub(crate) async fn delete(&self, key: &ObjectKey, owner: &K, pod: &Arc<Pod>) -> Result<(), kube::Error> {
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
}

/// Does `act` for all items in batches of 1, 2, 4 and so on: when the first is refused (quota), the rest is not tried. A namespace
/// that is going away takes the owner with it: then nothing is left to do.
pub(crate) async fn in_slow_start<'a, T, F>(items: &'a [T], act: impl Fn(&'a T) -> F) -> Result<(), kube::Error>
where
    F: Future<Output = Result<(), kube::Error>>,
{
    let (mut left, mut batch) = (items, 1);
    while !left.is_empty() {
        let (now, later) = left.split_at(batch.min(left.len()));
        for result in futures::future::join_all(now.iter().map(&act)).await {
            match result {
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                other => other?,
            }
        }
        (left, batch) = (later, batch * 2);
    }
    Ok(())
}

/// Wakes the pod's controller, or everybody who might adopt it.
fn wake<K: PodOwner>(event: &Event<Pod>, owners: &Informer<K>, queue: &WorkQueue<ObjectKey>) {
    for pod in event.states() {
        let namespace = ownership::namespace(&pod.metadata);
        match controller_of(&pod.metadata) {
            Some(owner) if ownership::refers_to::<K>(owner) => queue.add(ObjectKey::new(namespace, &owner.name)),
            Some(_) => {}
            None if matches!(event, Event::Deleted(_)) => {}
            None => {
                let selecting = |owner: &&Arc<K>| {
                    owner.pod_selector().is_some_and(|selector| selector.takes(pod.metadata.labels.as_ref()))
                };
                for owner in owners.by_namespace(namespace).iter().filter(selecting) {
                    queue.add(ObjectKey::of(owner.as_ref()));
                }
            }
        }
    }
}
