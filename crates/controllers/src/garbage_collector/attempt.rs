//! One look at one object: is anybody left who owns it? Nothing is deleted on the word of the graph alone: the object and its owners
//! are asked for live, and the delete names the uid.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use client::informer::Metadata;
use client::{EventType, WorkQueue};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::debug;

use super::Queues;
use super::graph::{FOREGROUND, Graph, Identity, Node, ORPHAN, Uid};
use crate::api_error::ApiErrorExt;
use crate::discovery::Resource;
use crate::ownership::{self, name, uid};
use crate::reconcile::ReconcileError;
use crate::spec::Ctx;

/// Owners known to be gone, so that a thousand dependents ask once (upstream's cache size).
const ABSENT_MAX: usize = 500;

pub(super) struct Collector {
    ctx: Ctx,
    graph: Arc<Mutex<Graph>>,
    queues: Queues,
    /// By group and kind: any version of a reference finds the preferred one.
    resources: Mutex<HashMap<(String, String), Resource>>,
    absent: Mutex<Absent>,
}

#[derive(Default)]
struct Absent {
    owners: HashSet<(String, Uid)>,
    order: VecDeque<(String, Uid)>,
}

pub(super) async fn delete_worker(collector: Arc<Collector>, queue: WorkQueue<Uid>) {
    while let Some(uid) = queue.get().await {
        let result = Box::pin(collector.look(&uid)).await;
        finish(&queue, &uid, result);
    }
}

pub(super) async fn orphan_worker(collector: Arc<Collector>, queue: WorkQueue<Uid>) {
    while let Some(uid) = queue.get().await {
        let result = Box::pin(collector.orphan_dependents(&uid)).await;
        finish(&queue, &uid, result);
    }
}

fn finish(queue: &WorkQueue<Uid>, uid: &Uid, result: Result<(), ReconcileError>) {
    match result {
        Ok(()) => queue.forget(uid),
        Err(error) => {
            debug!(uid, %error, "will look again");
            queue.add_rate_limited(uid.clone());
        }
    }
    queue.done(uid);
}

/// What the owners of an object are.
#[derive(Debug, Default, PartialEq)]
struct Owners {
    solid: Vec<OwnerReference>,
    dangling: Vec<OwnerReference>,
    /// Being deleted, dependents first.
    waiting: Vec<OwnerReference>,
}

/// What to do with an object of such owners.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Somebody owns it still: only these references go.
    Disown(Vec<Uid>),
    Delete(PropagationPolicy),
}

/// Source: upstream's attemptToDeleteItem.
fn judge(owners: &Owners, meta: &ObjectMeta, has_dependents: bool) -> Verdict {
    if !owners.solid.is_empty() {
        let lost: Vec<Uid> = owners.dangling.iter().chain(&owners.waiting).map(|owner| owner.uid.clone()).collect();
        return if lost.is_empty() { Verdict::Keep } else { Verdict::Disown(lost) };
    }
    if !owners.waiting.is_empty() && has_dependents {
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|one| one == finalizer);
    Verdict::Delete(match () {
        () if has(ORPHAN) => PropagationPolicy::Orphan,
        () if has(FOREGROUND) => PropagationPolicy::Foreground,
        () => PropagationPolicy::Background,
    })
}

impl Collector {
    pub(super) fn new(ctx: Ctx, graph: Arc<Mutex<Graph>>, queues: Queues) -> Self {
        Self { ctx, graph, queues, resources: Mutex::default(), absent: Mutex::default() }
    }

    pub(super) fn set_resources(&self, resources: &[Resource]) {
        let by_kind = resources
            .iter()
            .map(|resource| ((resource.api.group.clone(), resource.api.kind.clone()), resource.clone()));
        *self.resources.lock() = by_kind.collect();
    }

    async fn look(&self, item: &str) -> Result<(), ReconcileError> {
        let Some(node) = self.graph.lock().node(item).cloned() else { return Ok(()) };
        // Without owners it is nobody's to collect.
        let is_unowned = !node.is_virtual && node.owners.is_empty();
        if !node.deleting_dependents && (node.being_deleted || is_unowned) {
            return Ok(());
        }
        let Some(live) = self.get(&node.identity).await? else {
            let wakes = self.graph.lock().remove_uid(item);
            self.queues.wake(wakes);
            return Ok(());
        };
        if node.deleting_dependents {
            return self.go_on_deleting(&node, &live).await;
        }
        let references = live.metadata.owner_references.clone().unwrap_or_default();
        // A virtual node that turned out to exist will be observed; without owners it is nobody's to collect.
        if references.is_empty() || live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(owners) = self.classify(&node.identity, references).await? else { return Ok(()) };
        let dependents = self.graph.lock().dependents(item);
        match judge(&owners, &live.metadata, !dependents.is_empty()) {
            Verdict::Keep => Ok(()),
            Verdict::Disown(lost) => self.disown(&node.identity, &live, &lost).await,
            Verdict::Delete(policy) => {
                // A dependent that itself waits would block this one for ever (a cycle): unblock it first.
                if policy == PropagationPolicy::Foreground && dependents.iter().any(|one| one.deleting_dependents) {
                    self.unblock(&node.identity, &live).await?;
                }
                self.delete(&node.identity, &live, policy).await
            }
        }
    }

    /// A foreground deletion: wait for those that block it, then let it go.
    async fn go_on_deleting(&self, node: &Node, live: &Metadata) -> Result<(), ReconcileError> {
        let blocking = self.graph.lock().blocking_dependents(&node.identity.uid);
        if blocking.is_empty() {
            return self.remove_finalizer(&node.identity, live, FOREGROUND).await;
        }
        for dependent in blocking.iter().filter(|dependent| !dependent.deleting_dependents) {
            self.queues.delete.add(dependent.identity.uid.clone());
        }
        Ok(())
    }

    /// None when an owner cannot be resolved at all, so that nothing may be concluded.
    async fn classify(
        &self,
        item: &Identity,
        references: Vec<OwnerReference>,
    ) -> Result<Option<Owners>, ReconcileError> {
        let mut owners = Owners::default();
        for reference in references {
            if self.absent.lock().owners.contains(&(item.namespace.clone(), reference.uid.clone())) {
                owners.dangling.push(reference);
                continue;
            }
            let owner = Identity {
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
                namespace: item.namespace.clone(),
                name: reference.name.clone(),
                uid: reference.uid.clone(),
            };
            let Some(resource) = self.resource(&owner) else {
                let what = format!("no resource of kind {} in {} is served", owner.kind, owner.api_version);
                return Err(ReconcileError::NotYet(what));
            };
            if resource.namespaced && item.namespace.is_empty() {
                self.report_namespace(item, &reference);
                return Ok(None);
            }
            match self.get(&owner).await? {
                None => {
                    self.remember_absent(&item.namespace, &reference.uid);
                    if resource.namespaced && self.lives_elsewhere(item, &reference) {
                        self.report_namespace(item, &reference);
                    }
                    owners.dangling.push(reference);
                }
                Some(live) => {
                    let finalizers = live.metadata.finalizers.iter().flatten();
                    let waits = live.metadata.deletion_timestamp.is_some()
                        && finalizers.into_iter().any(|one| one == FOREGROUND);
                    if waits { owners.waiting.push(reference) } else { owners.solid.push(reference) }
                }
            }
        }
        Ok(Some(owners))
    }

    fn lives_elsewhere(&self, item: &Identity, reference: &OwnerReference) -> bool {
        let graph = self.graph.lock();
        graph.node(&reference.uid).is_some_and(|owner| !owner.is_virtual && owner.identity.namespace != item.namespace)
    }

    fn report_namespace(&self, item: &Identity, reference: &OwnerReference) {
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            reference.api_version, reference.kind, item.namespace, reference.name, reference.uid, item.namespace
        );
        let about = ObjectReference {
            api_version: Some(item.api_version.clone()),
            kind: Some(item.kind.clone()),
            namespace: Some(item.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(item.name.clone()),
            uid: Some(item.uid.clone()),
            ..ObjectReference::default()
        };
        self.ctx.events.event_about(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    fn remember_absent(&self, namespace: &str, owner: &str) {
        let mut absent = self.absent.lock();
        let key = (namespace.to_owned(), owner.to_owned());
        if absent.owners.insert(key.clone()) {
            absent.order.push_back(key);
        }
        if absent.order.len() > ABSENT_MAX
            && let Some(oldest) = absent.order.pop_front()
        {
            absent.owners.remove(&oldest);
        }
    }

    /// Takes the owner off all its dependents, then lets the owner go.
    async fn orphan_dependents(&self, owner: &str) -> Result<(), ReconcileError> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            (graph.node(owner).cloned(), graph.dependents(owner))
        };
        let Some(node) = node else { return Ok(()) };
        for dependent in dependents {
            if let Some(live) = self.get(&dependent.identity).await? {
                self.disown(&dependent.identity, &live, &[owner.to_owned()]).await?;
            }
        }
        match self.get(&node.identity).await? {
            Some(live) => self.remove_finalizer(&node.identity, &live, ORPHAN).await,
            None => Ok(()),
        }
    }

    async fn disown(&self, item: &Identity, live: &Metadata, lost: &[Uid]) -> Result<(), ReconcileError> {
        let lost: HashSet<&str> = lost.iter().map(String::as_str).collect();
        let references = live.metadata.owner_references.iter().flatten();
        let kept: Vec<&OwnerReference> =
            references.filter(|reference| !lost.contains(reference.uid.as_str())).collect();
        self.patch(item, live, json!({ "ownerReferences": kept })).await
    }

    async fn unblock(&self, item: &Identity, live: &Metadata) -> Result<(), ReconcileError> {
        let mut references = live.metadata.owner_references.clone().unwrap_or_default();
        for reference in &mut references {
            reference.block_owner_deletion = Some(false);
        }
        self.patch(item, live, json!({ "ownerReferences": references })).await
    }

    async fn remove_finalizer(&self, item: &Identity, live: &Metadata, finalizer: &str) -> Result<(), ReconcileError> {
        let finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|one| one == finalizer) {
            return Ok(());
        }
        let kept: Vec<&String> = finalizers.iter().filter(|one| *one != finalizer).collect();
        self.patch(item, live, json!({ "finalizers": kept })).await
    }

    /// As a merge patch, which custom resources take too; the resourceVersion makes it safe to send whole lists.
    async fn patch(&self, item: &Identity, live: &Metadata, mut metadata: Value) -> Result<(), ReconcileError> {
        let Some(api) = self.api(item) else { return Ok(()) };
        metadata["resourceVersion"] = json!(live.metadata.resource_version);
        metadata["uid"] = json!(live.metadata.uid);
        let change = json!({ "metadata": metadata });
        match api.patch_metadata(name(&live.metadata), &PatchParams::default(), &Patch::Merge(change)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, item: &Identity, live: &Metadata, policy: PropagationPolicy) -> Result<(), ReconcileError> {
        let Some(api) = self.api(item) else { return Ok(()) };
        let preconditions =
            Preconditions { uid: live.metadata.uid.clone(), resource_version: live.metadata.resource_version.clone() };
        let options = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match api.delete(&item.name, &options).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The object with this very uid.
    async fn get(&self, item: &Identity) -> Result<Option<Metadata>, ReconcileError> {
        let Some(api) = self.api(item) else {
            return Err(ReconcileError::NotYet(format!(
                "no resource of kind {} in {} is served",
                item.kind, item.api_version
            )));
        };
        let live = api.get_metadata_opt(&item.name).await?;
        Ok(live.filter(|live| uid(&live.metadata) == item.uid))
    }

    fn resource(&self, item: &Identity) -> Option<Resource> {
        let group = ownership::group(&item.api_version);
        self.resources.lock().get(&(group.to_owned(), item.kind.clone())).cloned()
    }

    fn api(&self, item: &Identity) -> Option<Api<kube::core::DynamicObject>> {
        let resource = self.resource(item)?;
        let client = self.ctx.connection.client();
        Some(if resource.namespaced {
            Api::namespaced_with(client, &item.namespace, &resource.api)
        } else {
            Api::all_with(client, &resource.api)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference { uid: uid.into(), ..OwnerReference::default() }
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner_does() {
        let owners = Owners { solid: vec![owner("a")], dangling: vec![owner("b")], waiting: vec![owner("c")] };
        assert_eq!(judge(&owners, &ObjectMeta::default(), false), Verdict::Disown(vec!["b".into(), "c".into()]));
        let solid = Owners { solid: vec![owner("a")], ..Owners::default() };
        assert_eq!(judge(&solid, &ObjectMeta::default(), false), Verdict::Keep);
    }

    #[test]
    fn the_policy_follows_waiting_owners_and_finalizers() {
        let dangling = || Owners { dangling: vec![owner("b")], ..Owners::default() };
        let plain = ObjectMeta::default();
        assert_eq!(judge(&dangling(), &plain, true), Verdict::Delete(PropagationPolicy::Background));
        let waiting = Owners { waiting: vec![owner("c")], ..Owners::default() };
        assert_eq!(judge(&waiting, &plain, true), Verdict::Delete(PropagationPolicy::Foreground));
        assert_eq!(judge(&waiting, &plain, false), Verdict::Delete(PropagationPolicy::Background));
        let orphaning = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..ObjectMeta::default() };
        assert_eq!(judge(&dangling(), &orphaning, true), Verdict::Delete(PropagationPolicy::Orphan));
    }
}
