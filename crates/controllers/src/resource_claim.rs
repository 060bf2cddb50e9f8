//! ResourceClaim controller: makes the claims that pods ask for by template, and frees claims whose pods are done.
//! Reads Pod, ResourceClaim, ResourceClaimTemplate. Writes ResourceClaim, ResourceClaim.status, Pod.status. Source: KEP-4381.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_error::ApiErrorExt;
use crate::finalizer;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{controller_of, name, namespace, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "resourceclaim-controller",
    alias: "resource-claim-controller",
    account: "resource-claim-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

/// Upstream's default of --concurrent-resourceclaim-syncs.
const WORKERS: usize = 50;
const MANAGER: &str = "ResourceClaimController";
const POD_CLAIM_ANNOTATION: &str = "resource.kubernetes.io/pod-claim-name";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Characters of a generated name before the random ones, so that name and suffix fit a label.
const BASE_NAME_MAX: usize = 57;

struct Pods {
    ctx: Ctx,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    own_writes: OwnWrites,
}

struct Claims {
    ctx: Ctx,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
}

async fn run(ctx: Ctx) {
    let pods = ctx.informers.informer::<Pod>();
    let claims = ctx.informers.informer::<ResourceClaim>();
    let templates = ctx.informers.informer::<ResourceClaimTemplate>();
    claims.index_by_controller();
    pods.add_index("resource claim", |pod| claims_of(pod).map(|key| key.to_string()).collect());
    pods.add_index("resource claim template", |pod| templates_of(pod).map(|key| key.to_string()).collect());
    let (pod_queue, claim_queue) = (WorkQueue::default(), WorkQueue::default());
    pods.on_event({
        let (pod_queue, claim_queue, claims) = (pod_queue.clone(), claim_queue.clone(), claims.clone());
        move |event| {
            let pod = event.object();
            if pod.spec.as_ref().is_none_or(|spec| spec.resource_claims.is_none()) && special_of(pod).is_none() {
                return;
            }
            pod_queue.add(ObjectKey::of(pod.as_ref()));
            if matches!(event, client::Event::Deleted(_)) || is_done(pod) {
                claims_of(pod).for_each(|claim| claim_queue.add(claim));
                let owned = claims.controlled_by(uid(&pod.metadata));
                owned.iter().for_each(|claim| claim_queue.add(ObjectKey::of(claim.as_ref())));
            }
        }
    });
    claims.on_event({
        let (pod_queue, claim_queue, pods) = (pod_queue.clone(), claim_queue.clone(), pods.clone());
        move |event| {
            let key = ObjectKey::of(event.object().as_ref());
            let users = pods.by_index("resource claim", &key.to_string());
            users.iter().for_each(|pod| pod_queue.add(ObjectKey::of(pod.as_ref())));
            claim_queue.add(key);
        }
    });
    templates.on_event({
        let (pod_queue, pods) = (pod_queue.clone(), pods.clone());
        move |event| {
            let key = ObjectKey::of(event.object().as_ref()).to_string();
            let users = pods.by_index("resource claim template", &key);
            users.iter().for_each(|pod| pod_queue.add(ObjectKey::of(pod.as_ref())));
        }
    });
    pods.has_synced().await;
    claims.has_synced().await;
    templates.has_synced().await;
    let of_pods = Pods {
        ctx: ctx.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
        templates,
        own_writes: OwnWrites::default(),
    };
    let of_claims = Claims { ctx: ctx.clone(), pods, claims };
    tokio::join!(
        work(&ctx, CONTROLLER.name, Arc::new(of_pods), pod_queue, WORKERS),
        work(&ctx, CONTROLLER.name, Arc::new(of_claims), claim_queue, WORKERS),
    );
}

fn pod_claims(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten())
}

/// What is known of the claim behind an entry of `spec.resourceClaims`.
#[derive(Debug, PartialEq, Eq)]
enum ClaimName<'a> {
    Known {
        name: &'a str,
        generated: bool,
    },
    /// To be made from this template.
    Unmade {
        template: &'a str,
    },
    /// The pod runs without.
    NotNeeded,
}

fn claim_name<'a>(pod: &'a Pod, entry: &'a PodResourceClaim) -> ClaimName<'a> {
    if let Some(name) = &entry.resource_claim_name {
        return ClaimName::Known { name, generated: false };
    }
    let Some(template) = &entry.resource_claim_template_name else { return ClaimName::NotNeeded };
    let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match statuses.into_iter().find(|status| status.name == entry.name) {
        None => ClaimName::Unmade { template },
        Some(status) => match &status.resource_claim_name {
            Some(name) => ClaimName::Known { name, generated: true },
            None => ClaimName::NotNeeded,
        },
    }
}

/// The claims that a pod's entries name.
pub(crate) fn named_by(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    let namespace = namespace(&pod.metadata);
    pod_claims(pod).filter_map(move |entry| match claim_name(pod, entry) {
        ClaimName::Known { name, .. } => Some(ObjectKey::new(namespace, name)),
        _ => None,
    })
}

/// The claim that the scheduler made for a pod's extended resources.
fn special_of(pod: &Pod) -> Option<ObjectKey> {
    let status = pod.status.as_ref()?.extended_resource_claim_status.as_ref()?;
    Some(ObjectKey::new(namespace(&pod.metadata), &status.resource_claim_name))
}

/// All claims of a pod.
fn claims_of(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    named_by(pod).chain(special_of(pod))
}

fn templates_of(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    let namespace = namespace(&pod.metadata);
    let names = pod_claims(pod).filter_map(|entry| entry.resource_claim_template_name.as_ref());
    names.map(move |name| ObjectKey::new(namespace, name))
}

/// Certain never to run (again): finished, or deleted before it had a node.
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && pods::node_name(pod).is_empty())
}

fn is_for(pod: &Pod, claim: &ResourceClaim) -> bool {
    controller_of(&claim.metadata).is_some_and(|owner| owner.uid == uid(&pod.metadata))
}

/// The claim a pod's entry is made into.
fn generated(pod: &Pod, entry: &PodResourceClaim, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_ANNOTATION.to_owned(), entry.name.clone());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: name(&pod.metadata).to_owned(),
        uid: uid(&pod.metadata).to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base_name(name(&pod.metadata), &entry.name)),
            namespace: pod.metadata.namespace.clone(),
            annotations: Some(annotations),
            labels: meta.labels,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// `POD-ENTRY-`; both parts are shortened in proportion when it is too long.
fn base_name(pod: &str, entry: &str) -> String {
    let full = format!("{pod}-{entry}-");
    if full.len() <= BASE_NAME_MAX {
        return full;
    }
    let part = |text: &str| text.get(..text.len() * BASE_NAME_MAX / full.len()).unwrap_or(text).to_owned();
    format!("{}-{}", part(pod), part(entry))
}

impl Reconciler for Pods {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let mut made: BTreeMap<String, String> = BTreeMap::new();
        for entry in pod_claims(&pod) {
            match self.claim_for(key, &pod, entry).await {
                Ok(Some(claim)) => drop(made.insert(entry.name.clone(), claim)),
                Ok(None) => {}
                Err(error) => {
                    let message = format!("PodResourceClaim {}: {error}", entry.name);
                    self.ctx.events.event(
                        pod.as_ref(),
                        EventType::Warning,
                        "FailedResourceClaimCreation",
                        message.clone(),
                    );
                    return Err(ReconcileError::NotYet(format!("pod {key}, {message}")));
                }
            }
        }
        if !made.is_empty() {
            self.write_names(key, &made).await?;
        }
        if !pods::node_name(&pod).is_empty() {
            self.reserve(key, &pod).await?;
        }
        Ok(Requeue::Never)
    }
}

impl Pods {
    /// The name of a claim that was made now, or found unrecorded; None when there is nothing to record.
    async fn claim_for(&self, key: &ObjectKey, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<String>, String> {
        let template = match claim_name(pod, entry) {
            ClaimName::NotNeeded => return Ok(None),
            ClaimName::Known { generated: false, .. } => return Ok(None),
            ClaimName::Known { name, generated: true } => {
                let claim = self.claims.get(&ObjectKey::new(&key.namespace, name));
                if claim.is_some_and(|claim| is_for(pod, &claim)) {
                    return Ok(None);
                }
                entry.resource_claim_template_name.as_deref().unwrap_or("")
            }
            ClaimName::Unmade { template } => template,
        };
        let is_entrys = |claim: &&Arc<ResourceClaim>| {
            let annotations = claim.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(POD_CLAIM_ANNOTATION)) == Some(&entry.name)
        };
        let owned = self.claims.controlled_by(uid(&pod.metadata));
        if let Some(claim) = owned.iter().find(is_entrys) {
            return Ok(Some(name(&claim.metadata).to_owned()));
        }
        let Some(template) = self.templates.get(&ObjectKey::new(&key.namespace, template)) else {
            return Err(format!(
                "resource claim template \"{template}\": resourceclaimtemplate.resource.k8s.io \"{template}\" not found"
            ));
        };
        let claim = generated(pod, entry, &template);
        let api = self.ctx.connection.namespaced::<ResourceClaim>(&key.namespace);
        let created = api
            .create(&PostParams::default(), &claim)
            .await
            .map_err(|error| format!("create ResourceClaim : {}", error.text()))?;
        self.own_writes.wrote(key, &self.claims, &created);
        Ok(Some(name(&created.metadata).to_owned()))
    }

    async fn write_names(&self, key: &ObjectKey, made: &BTreeMap<String, String>) -> Result<(), ReconcileError> {
        let statuses: Vec<_> =
            made.iter().map(|(entry, claim)| json!({ "name": entry, "resourceClaimName": claim })).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": key.name, "namespace": key.namespace },
            "status": { "resourceClaimStatuses": statuses },
        });
        let api = self.ctx.connection.namespaced::<Pod>(&key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await?;
        self.own_writes.wrote(key, &self.pods, &written);
        Ok(())
    }

    /// A pod that got its node without the scheduler must still be among its claims' users.
    async fn reserve(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ReconcileError> {
        for entry in pod_claims(pod) {
            let ClaimName::Known { name: claim, generated } = claim_name(pod, entry) else { continue };
            let Some(claim) = self.claims.get(&ObjectKey::new(&key.namespace, claim)) else { return Ok(()) };
            if generated && !is_for(pod, &claim) {
                return Err(ReconcileError::NotYet(format!(
                    "ResourceClaim {} was not created for pod {key} (pod is not owner)",
                    ObjectKey::of(claim.as_ref())
                )));
            }
            let status = claim.status.clone().unwrap_or_default();
            let users = status.reserved_for.unwrap_or_default();
            let is_user = users.iter().any(|user| user.uid == uid(&pod.metadata));
            if status.allocation.is_none() || is_user || users.len() >= RESERVED_MAX {
                continue;
            }
            let mut changed = claim.as_ref().clone();
            let consumer = ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".to_owned(),
                name: key.name.clone(),
                uid: uid(&pod.metadata).to_owned(),
            };
            changed.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
            let api = self.ctx.connection.namespaced::<ResourceClaim>(&key.namespace);
            api.replace_status(name(&claim.metadata), &PostParams::default(), &changed).await?;
        }
        Ok(())
    }
}

/// Users that the API lets a claim have.
const RESERVED_MAX: usize = 256;

impl Reconciler for Claims {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Requeue::Never) };
        let status = claim.status.clone().unwrap_or_default();
        let users = status.reserved_for.clone().unwrap_or_default();
        let mut valid = Vec::with_capacity(users.len());
        for user in &users {
            if user.api_group.is_some() || user.resource != "pods" {
                return Err(ReconcileError::NotYet(format!("unsupported ReservedFor entry: {user:?}")));
            }
            if self.still_uses(key, user).await? {
                valid.push(user.clone());
            }
        }
        let is_ours = finalizer::has(&claim.metadata, FINALIZER);
        let is_going = claim.metadata.deletion_timestamp.is_some();
        if valid.len() < users.len() || (is_ours && is_going && valid.is_empty()) {
            self.free(key, &claim, &valid).await?;
        }
        if valid.is_empty() {
            self.delete_unneeded(key, &claim).await?;
        }
        Ok(Requeue::Never)
    }
}

impl Claims {
    /// A pod missing from the cache may be too new for it: the API server has the last word.
    async fn still_uses(&self, key: &ObjectKey, user: &ResourceClaimConsumerReference) -> Result<bool, ReconcileError> {
        match self.pods.get(&ObjectKey::new(&key.namespace, &user.name)) {
            Some(pod) => Ok(uid(&pod.metadata) == user.uid && !is_done(&pod)),
            None => {
                let live = self.ctx.connection.namespaced::<Pod>(&key.namespace).get_opt(&user.name).await?;
                Ok(live.is_some_and(|pod| uid(&pod.metadata) == user.uid))
            }
        }
    }

    /// Only these keep using the claim; without any it is deallocated, and its finalizer goes.
    async fn free(
        &self,
        key: &ObjectKey,
        claim: &ResourceClaim,
        valid: &[ResourceClaimConsumerReference],
    ) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<ResourceClaim>(&key.namespace);
        let mut changed = claim.clone();
        let is_ours = finalizer::has(&claim.metadata, FINALIZER);
        if let Some(status) = &mut changed.status {
            status.reserved_for = Some(valid.to_vec()).filter(|valid| !valid.is_empty());
            if valid.is_empty() && is_ours {
                (status.allocation, status.devices) = (None, None);
            }
        }
        if changed.status != claim.status {
            changed = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        }
        let is_allocated = changed.status.as_ref().is_some_and(|status| status.allocation.is_some());
        if finalizer::has(&changed.metadata, FINALIZER) && !is_allocated {
            finalizer::remove(&mut changed.metadata, FINALIZER);
            match api.replace(&key.name, &PostParams::default(), &changed).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A claim made for a pod goes when the pod is done; when the pod is gone, the garbage collector sees to it.
    async fn delete_unneeded(&self, key: &ObjectKey, claim: &ResourceClaim) -> Result<(), ReconcileError> {
        let owner = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
        let Some(owner) = owner else { return Ok(()) };
        let Some(pod) = self.pods.get(&ObjectKey::new(&key.namespace, &owner.name)) else { return Ok(()) };
        if claim.metadata.deletion_timestamp.is_some() || (uid(&pod.metadata) == owner.uid && !is_done(&pod)) {
            return Ok(());
        }
        let api = self.ctx.connection.namespaced::<ResourceClaim>(&key.namespace);
        match api.delete(&key.name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pod(statuses: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [], "resourceClaims": [
                { "name": "rc", "resourceClaimTemplateName": "t" }, { "name": "own", "resourceClaimName": "c" },
            ] },
            "status": { "resourceClaimStatuses": statuses },
        }))
        .unwrap()
    }

    #[test]
    fn a_pods_entries_name_their_claims_once_made() {
        let names = |pod: &Pod| claims_of(pod).map(|key| key.name).collect::<Vec<_>>();
        assert_eq!(names(&pod(json!([]))), ["c"]);
        assert_eq!(names(&pod(json!([{ "name": "rc", "resourceClaimName": "p-rc-x" }]))), ["p-rc-x", "c"]);
        assert_eq!(names(&pod(json!([{ "name": "rc" }]))), ["c"], "not needed");
    }

    #[test]
    fn a_made_claim_is_the_pods_and_says_for_what() {
        let template: ResourceClaimTemplate = serde_json::from_value(json!({
            "metadata": { "name": "t" },
            "spec": { "metadata": { "labels": { "a": "b" } }, "spec": { "devices": {} } },
        }))
        .unwrap();
        let pod = pod(json!([]));
        let claim = generated(&pod, pod_claims(&pod).next().unwrap(), &template);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-rc-"));
        assert_eq!(claim.metadata.annotations.as_ref().unwrap()[POD_CLAIM_ANNOTATION], "rc");
        assert!(is_for(&pod, &claim));
        let (long_pod, long_entry) = ("p".repeat(80), "e".repeat(20));
        assert_eq!(base_name(&long_pod, &long_entry).len(), 44 + 1 + 11);
    }
}
