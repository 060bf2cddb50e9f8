//! Job controller: runs pods until enough of them succeeded.
//! Reads Job, Pod. Writes Pod, Job.status. Source: batch/v1 docs, KEP-2307 (tracking finalizers), KEP-2214 (indexed jobs).
//!
//! A finished pod is counted once: its uid is written to `uncountedTerminatedPods` first, then its finalizer goes, then the uid turns
//! into a number. [`plan`] decides; this file carries it out in that order.

mod indexes;
mod plan;
mod policy;

use std::sync::Arc;

use client::{LabelSelectorExt, ObjectKey};
use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::LOOK_AGAIN;
use crate::owned_pods::{OwnedPods, PodOwner, in_slow_start};
use crate::ownership::{self, controller_of, controller_reference, name, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};
use plan::{NewPod, Plan, View, has_finalizer, plan};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "job-controller",
    alias: "job",
    account: "job-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX_KEY: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
const FAILURES_KEY: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES_KEY: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const MANAGER: &str = "kubernetes.io/job-controller";
/// Before the name of a pod in the queue of Jobs: no Job's name has a slash.
const ORPHAN: &str = "pod/";

struct Controller {
    owned: OwnedPods<Job>,
}

impl PodOwner for Job {
    const FINALIZER: Option<&'static str> = Some(FINALIZER);

    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref()?.selector.clone()
    }
}

async fn run(ctx: Ctx) {
    let (owned, queue) = OwnedPods::<Job>::start(&ctx);
    owned.pods.add_index("job", |pod| {
        job_of(pod).filter(|_| has_finalizer(pod)).map(|key| key.to_string()).into_iter().collect()
    });
    owned.pods.on_event({
        let queue = queue.clone();
        move |event| {
            let pod = event.object();
            if has_finalizer(pod) && controller_of(&pod.metadata).is_none() {
                let meta = &pod.metadata;
                queue.add(ObjectKey::new(ownership::namespace(meta), format!("{ORPHAN}{}", name(meta))));
            }
        }
    });
    owned.synced().await;
    work(&ctx, CONTROLLER.name, Arc::new(Controller { owned }), queue, WORKERS).await;
}

fn job_of(pod: &Pod) -> Option<ObjectKey> {
    let owner = controller_of(&pod.metadata).filter(|owner| ownership::refers_to::<Job>(owner))?;
    Some(ObjectKey::new(ownership::namespace(&pod.metadata), &owner.name))
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        match key.name.strip_prefix(ORPHAN) {
            Some(pod) => self.release_orphan(&ObjectKey::new(&key.namespace, pod)).await,
            None => Box::pin(self.sync(key)).await,
        }
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        if !self.owned.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let job = self.owned.owners.get(key);
        self.release_strangers(key, job.as_deref()).await?;
        let Some(job) = job else {
            self.owned.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        let Some(spec) = &job.spec else { return Ok(Requeue::Never) };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
            return Ok(Requeue::Never);
        }
        let pods = self.owned.claim(key, &job, |_| true).await?;
        let plan = plan(&View { job: &job, spec, pods: &pods, now: clock::now() });
        self.execute(key, &job, plan).await
    }

    /// A pod that no Job controls any more keeps nobody waiting; one that a Job takes (back) gets the finalizer again.
    async fn release_orphan(&self, pod: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let orphan = self.owned.pods.get(pod).filter(|pod| controller_of(&pod.metadata).is_none());
        let Some(orphan) = orphan else { return Ok(Requeue::Never) };
        let takes = |job: &Arc<Job>| {
            let selector = job.pod_selector().filter(|_| job.metadata.deletion_timestamp.is_none());
            selector.is_some_and(|selector| selector.takes(orphan.metadata.labels.as_ref()))
        };
        // A Job that is about to take the pod needs the finalizer.
        if !self.owned.owners.by_namespace(&pod.namespace).iter().any(takes) {
            self.release(pod, &orphan).await?;
        }
        Ok(Requeue::Never)
    }

    /// Finalizers of pods whose Job is gone, or is another of the same name, would keep them for ever.
    async fn release_strangers(&self, key: &ObjectKey, job: Option<&Job>) -> Result<(), ReconcileError> {
        for pod in self.owned.pods.by_index("job", &key.to_string()) {
            let owner = controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
            if owner != job.map(|job| uid(&job.metadata)) {
                self.release(key, &pod).await?;
            }
        }
        Ok(())
    }

    async fn execute(&self, key: &ObjectKey, job: &Arc<Job>, plan: Plan) -> Result<Requeue, ReconcileError> {
        for pod in &plan.delete {
            // Without its finalizer first, the deletion would count as a failure.
            self.release(key, pod).await?;
            self.owned.delete(key, job, pod).await?;
        }
        for pod in &plan.stop {
            self.owned.delete(key, job, pod).await?;
        }
        let created = in_slow_start(&plan.create, |new| self.create_pod(key, job, *new)).await;
        if let Some(status) = plan.status {
            let changed = Job { status: Some(status), ..job.as_ref().clone() };
            let api = self.owned.ctx.connection.namespaced::<Job>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.owned.own_writes.wrote(key, &self.owned.owners, &written);
        }
        for (type_, reason, message) in plan.events {
            self.owned.ctx.events.event(job.as_ref(), type_, &reason, message);
        }
        // Only now: the status that names these pods is safe.
        for pod in &plan.release {
            self.release(key, pod).await?;
        }
        created?;
        Ok(plan.requeue_seconds.map_or(Requeue::Never, Requeue::after_seconds))
    }

    async fn create_pod(&self, key: &ObjectKey, job: &Arc<Job>, new: NewPod) -> Result<(), kube::Error> {
        let Some(spec) = &job.spec else { return Ok(()) };
        let mut pod = pods::from_template(&spec.template, &job.metadata, controller_reference(job.as_ref()));
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        if let Some(index) = new.index {
            number(&mut pod, &key.name, index);
        }
        if let Some((counted, ignored)) = new.failures {
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(FAILURES_KEY.to_owned(), counted.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED_FAILURES_KEY.to_owned(), ignored.to_string());
            }
        }
        self.owned.create(key, job, &pod).await
    }

    async fn release(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Result<(), ReconcileError> {
        if !has_finalizer(pod) {
            return Ok(());
        }
        let finalizers = json!({ "$deleteFromPrimitiveList/finalizers": [FINALIZER], "uid": pod.metadata.uid });
        let change = Patch::Strategic(json!({ "metadata": finalizers }));
        let api = self.owned.ctx.connection.namespaced::<Pod>(&key.namespace);
        match api.patch(name(&pod.metadata), &PatchParams::default(), &change).await {
            Ok(written) => self.owned.own_writes.wrote(key, &self.owned.pods, &written),
            Err(error) if error.is_not_found() || error.is_conflict() || error.is_invalid() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Gives the pod its completion index: annotation, label, host name and variable.
fn number(pod: &mut Pod, job: &str, index: i32) {
    let text = index.to_string();
    pod.metadata.generate_name = Some(format!("{job}-{index}-"));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX_KEY.to_owned(), text.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX_KEY.to_owned(), text);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job}-{index}"));
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX_KEY}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    let variable = EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(source) };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|one| one.name == INDEX_VARIABLE) {
            env.push(variable.clone());
        }
    }
}
