//! Namespace controller: empties a namespace that is being deleted, tells what is left, and lets it go.
//! Reads Namespace and, by discovery, everything in it. Writes Namespace.status, Namespace/finalize; deletes everything in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, ListParams, PostParams, PropagationPolicy};

use tracing::debug;

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::discovery::{Discovered, Resource, discover};
use crate::ownership::name;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "namespace-controller",
    alias: "namespace",
    account: "namespace-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 10;
const FINALIZER: &str = "kubernetes";
/// How long to wait for objects that are going: their finalizers, or the kubelet.
const LOOK_AGAIN_SECONDS: i64 = 2;
const LONGEST_WAIT_SECONDS: i64 = 13;

struct Controller {
    ctx: Ctx,
    namespaces: Informer<Namespace>,
}

pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    phase != Some("Terminating") && namespace.metadata.deletion_timestamp.is_none()
}

async fn run(ctx: Ctx) {
    let namespaces = ctx.informers.informer::<Namespace>();
    let queue = WorkQueue::default();
    namespaces.on_event({
        let queue = queue.clone();
        move |event| {
            if event.object().metadata.deletion_timestamp.is_some() {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    namespaces.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), namespaces };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// What one pass over the namespace's contents found.
#[derive(Debug, Default)]
struct Findings {
    discovery_failures: Vec<String>,
    deletion_failures: Vec<String>,
    /// `resource.group` to how many are left; an empty group leaves the dot, as upstream prints it.
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    /// The longest grace period of a pod that is going.
    pod_seconds: i64,
}

impl Findings {
    fn is_empty(&self) -> bool {
        self.discovery_failures.is_empty() && self.deletion_failures.is_empty() && self.remaining.is_empty()
    }
}

/// The five conditions, in upstream's order and words.
fn conditions(findings: &Findings) -> Vec<(&'static str, bool, &'static str, String)> {
    let all_of = |counts: &BTreeMap<String, usize>, what: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name} {what} {count} resource instances")).collect();
        parts.join(", ")
    };
    let mut rows = Vec::new();
    rows.push(match findings.discovery_failures.as_slice() {
        [] => (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        failures => {
            let message =
                format!("Discovery failed for some groups, {} failing: {}", failures.len(), failures.join(", "));
            ("NamespaceDeletionDiscoveryFailure", true, "DiscoveryFailed", message)
        }
    });
    let parsed = "All legacy kube types successfully parsed".to_owned();
    rows.push(("NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions", parsed));
    rows.push(match findings.deletion_failures.as_slice() {
        [] => {
            let message = "All content successfully deleted, may be waiting on finalization".to_owned();
            ("NamespaceDeletionContentFailure", false, "ContentDeleted", message)
        }
        failures => {
            let message =
                format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "));
            ("NamespaceDeletionContentFailure", true, "ContentDeletionFailed", message)
        }
    });
    rows.push(if findings.remaining.is_empty() {
        ("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        let message = format!("Some resources are remaining: {}", all_of(&findings.remaining, "has"));
        ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
    });
    rows.push(if findings.finalizers.is_empty() {
        (
            "NamespaceFinalizersRemaining",
            false,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        let message =
            format!("Some content in the namespace has finalizers remaining: {}", all_of(&findings.finalizers, "in"));
        ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
    });
    rows
}

/// The namespace's new conditions, or None when nothing but times would change.
fn plan_conditions(namespace: &Namespace, findings: &Findings, now: &Time) -> Option<Vec<NamespaceCondition>> {
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut new = old.clone();
    for (type_, status, reason, message) in conditions(findings) {
        let status = if status { "True" } else { "False" };
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(now.clone()),
        };
        match new.iter_mut().find(|old| old.type_ == type_) {
            Some(old)
                if old.status == condition.status
                    && old.reason == condition.reason
                    && old.message == condition.message => {}
            Some(old) if old.status == condition.status => {
                let since = old.last_transition_time.clone();
                *old = NamespaceCondition { last_transition_time: since, ..condition };
            }
            Some(old) => *old = condition,
            None => new.push(condition),
        }
    }
    (new != old).then_some(new)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Requeue::Never) };
        let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
        let ours = finalizers.into_iter().any(|finalizer| finalizer == FINALIZER);
        if namespace.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(Requeue::Never);
        }
        let api = self.ctx.connection.all::<Namespace>();
        if namespace.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Terminating") {
            let mut terminating = namespace.as_ref().clone();
            terminating.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            api.replace_status(&key.name, &PostParams::default(), &terminating).await?;
            return Ok(Requeue::Never);
        }
        let findings = self.empty(&key.name).await?;
        let live = match api.get(&key.name).await {
            Ok(live) if live.metadata.uid == namespace.metadata.uid => live,
            Ok(_) => return Ok(Requeue::Never),
            Err(error) if error.is_not_found() => return Ok(Requeue::Never),
            Err(error) => return Err(error.into()),
        };
        let mut live = live;
        if let Some(conditions) = plan_conditions(&live, &findings, &clock::now()) {
            live.status.get_or_insert_default().conditions = Some(conditions);
            live = api.replace_status(&key.name, &PostParams::default(), &live).await?;
        }
        if !findings.is_empty() {
            debug!(namespace = key.name, ?findings, "content remains");
            if !findings.discovery_failures.is_empty() || !findings.deletion_failures.is_empty() {
                return Err(ReconcileError::NotYet(format!(
                    "content of namespace {} could not all be deleted",
                    key.name
                )));
            }
            return Ok(Requeue::after_seconds(
                LOOK_AGAIN_SECONDS + (findings.pod_seconds / 2).min(LONGEST_WAIT_SECONDS),
            ));
        }
        self.finalize(&api, live).await?;
        Ok(Requeue::Never)
    }
}

impl Controller {
    /// Takes our finalizer off; the API server then removes the namespace.
    async fn finalize(&self, api: &Api<Namespace>, mut namespace: Namespace) -> Result<(), ReconcileError> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let target = name(&namespace.metadata).to_owned();
        match api.replace_subresource("finalize", &target, &PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// One pass: pods first (their volumes, secrets and accounts must outlive them), then everything else.
    async fn empty(&self, namespace: &str) -> Result<Findings, ReconcileError> {
        let Discovered { resources, failures } = discover(&self.ctx.connection).await?;
        let mut findings = Findings {
            discovery_failures: failures.into_iter().map(|(group, message)| format!("{group}: {message}")).collect(),
            ..Findings::default()
        };
        let contents: Vec<Resource> = resources
            .into_iter()
            .filter(|resource| resource.namespaced && resource.has_verbs(&["delete", "list"]))
            .collect();
        let (pods, others): (Vec<_>, Vec<_>) =
            contents.into_iter().partition(|resource| resource.api.plural == "pods" && resource.api.group.is_empty());
        for resource in &pods {
            self.delete_all(namespace, resource, &mut findings).await;
        }
        if !findings.remaining.is_empty() {
            findings.pod_seconds = self.longest_grace(namespace).await?;
        }
        if findings.remaining.is_empty() {
            for resource in &others {
                self.delete_all(namespace, resource, &mut findings).await;
            }
        }
        Ok(findings)
    }

    async fn delete_all(&self, namespace: &str, resource: &Resource, findings: &mut Findings) {
        if let Err(error) = self.try_delete_all(namespace, resource, findings).await {
            // Not served after all (a CRD that went away, a resource without lists).
            let ignorable = matches!(&error, kube::Error::Api(status) if status.code == 405 || status.code == 404);
            if !ignorable {
                findings.deletion_failures.push(error.text());
            }
        }
    }

    async fn try_delete_all(
        &self,
        namespace: &str,
        resource: &Resource,
        findings: &mut Findings,
    ) -> Result<(), kube::Error> {
        let api: Api<client::informer::Metadata> =
            Api::namespaced_with(self.ctx.connection.client(), namespace, &resource.api);
        let before = api.list(&ListParams::default().limit(1)).await?;
        if before.items.is_empty() {
            return Ok(());
        }
        if resource.has_verbs(&["deletecollection"]) {
            self.delete_collection(namespace, resource).await?;
        } else {
            for object in api.list(&ListParams::default()).await?.items {
                let deleted = api.delete(name(&object.metadata), &DeleteParams::background()).await;
                if let Err(error) = deleted
                    && !error.is_not_found()
                {
                    return Err(error);
                }
            }
        }
        let left = api.list(&ListParams::default()).await?.items;
        if left.is_empty() {
            return Ok(());
        }
        let resource_name = format!("{}.{}", resource.api.plural, resource.api.group);
        findings.remaining.insert(resource_name, left.len());
        for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// As a raw request: what comes back is a list of anything, and of no interest.
    async fn delete_collection(&self, namespace: &str, resource: &Resource) -> Result<(), kube::Error> {
        let path = <kube::core::DynamicObject as kube::Resource>::url_path(&resource.api, Some(namespace));
        let options =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let request = kube::core::Request::new(path).delete_collection(&options, &ListParams::default());
        self.ctx.connection.client().request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
    }

    async fn longest_grace(&self, namespace: &str) -> Result<i64, kube::Error> {
        let pods = self.ctx.connection.namespaced::<Pod>(namespace).list(&ListParams::default()).await?;
        let waiting = pods.items.iter().filter(|pod| !crate::pods::is_terminal(pod));
        Ok(waiting.filter_map(|pod| pod.metadata.deletion_grace_period_seconds).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;

    fn namespace(conditions: Option<Vec<NamespaceCondition>>) -> Namespace {
        let mut namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
        namespace.metadata = ObjectMeta { deletion_timestamp: Some(clock::now()), ..namespace.metadata };
        namespace.status.get_or_insert_default().conditions = conditions;
        namespace
    }

    #[test]
    fn what_remains_is_told_in_upstreams_words() {
        let findings = Findings {
            remaining: [("configmaps.".to_owned(), 1), ("widgets.example.com".to_owned(), 2)].into(),
            finalizers: [("example.com/x".to_owned(), 1)].into(),
            ..Findings::default()
        };
        let conditions = plan_conditions(&namespace(None), &findings, &clock::now()).unwrap();
        let told: Vec<String> = conditions
            .iter()
            .map(|condition| {
                format!("{}={} {}", condition.type_, condition.status, condition.message.as_deref().unwrap_or(""))
            })
            .collect();
        assert_eq!(
            told,
            [
                "NamespaceDeletionDiscoveryFailure=False All resources successfully discovered",
                "NamespaceDeletionGroupVersionParsingFailure=False All legacy kube types successfully parsed",
                "NamespaceDeletionContentFailure=False All content successfully deleted, may be waiting on finalization",
                "NamespaceContentRemaining=True Some resources are remaining: configmaps. has 1 resource instances, \
                 widgets.example.com has 2 resource instances",
                "NamespaceFinalizersRemaining=True Some content in the namespace has finalizers remaining: example.com/x in 1 \
                 resource instances",
            ]
        );
        assert_eq!(plan_conditions(&namespace(Some(conditions)), &findings, &clock::now()), None);
    }
}
