//! Job controller: runs pods until enough of them succeeded.
//! Reads Job, Pod. Writes Pod, Job.status. Source: batch/v1 docs, KEP-2307 (tracking finalizers), KEP-2214 (indexed jobs).
//!
//! A finished pod is counted once: its uid is written to `uncountedTerminatedPods` first, then its finalizer goes, then the uid turns
//! into a number. [`plan`] decides; this file carries it out in that order.

mod indexes;
mod plan;

use std::sync::Arc;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, controller_of, controller_reference, name, uid};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};
use plan::{Plan, View, has_finalizer, plan};

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
const MANAGER: &str = "kubernetes.io/job-controller";

struct Controller {
    ctx: Ctx,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let jobs = ctx.informers.informer::<Job>();
    let pods = ctx.informers.informer::<Pod>();
    pods.index_by_controller();
    pods.add_index("job", |pod| {
        job_of(pod).filter(|_| has_finalizer(pod)).map(|key| key.to_string()).into_iter().collect()
    });
    let queue = WorkQueue::default();
    jobs.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    pods.on_event({
        let queue = queue.clone();
        move |event: &Event<Pod>| event.states().filter_map(|pod| job_of(pod)).for_each(|job| queue.add(job))
    });
    jobs.has_synced().await;
    pods.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), jobs, pods, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn job_of(pod: &Pod) -> Option<ObjectKey> {
    let owner = controller_of(&pod.metadata).filter(|owner| ownership::refers_to::<Job>(owner))?;
    Some(ObjectKey::new(ownership::namespace(&pod.metadata), &owner.name))
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let job = self.jobs.get(key);
        self.release_strangers(key, job.as_deref()).await?;
        let Some(job) = job else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        let Some(spec) = &job.spec else { return Ok(Requeue::Never) };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
            return Ok(Requeue::Never);
        }
        let pods = self.pods.controlled_by(uid(&job.metadata));
        let plan = plan(&View { job: &job, spec, pods: &pods, now: clock::now() });
        self.execute(key, &job, plan).await
    }

    /// Finalizers of pods whose Job is gone, or is another of the same name, would keep them for ever.
    async fn release_strangers(&self, key: &ObjectKey, job: Option<&Job>) -> Result<(), ReconcileError> {
        for pod in self.pods.by_index("job", &key.to_string()) {
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
            self.delete(key, job, pod).await?;
        }
        let created = self.create_pods(key, job, &plan).await;
        if let Some(status) = plan.status {
            let changed = Job { status: Some(status), ..job.as_ref().clone() };
            let api = self.ctx.connection.namespaced::<Job>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.own_writes.wrote(key, &self.jobs, &written);
        }
        for (type_, reason, message) in plan.events {
            self.ctx.events.event(job.as_ref(), type_, reason, message);
        }
        // Only now: the status that names these pods is safe.
        for pod in &plan.release {
            self.release(key, pod).await?;
        }
        created?;
        Ok(plan.requeue_seconds.map_or(Requeue::Never, Requeue::after_seconds))
    }

    async fn create_pods(&self, key: &ObjectKey, job: &Arc<Job>, plan: &Plan) -> Result<(), ReconcileError> {
        let (mut left, mut batch) = (plan.create.as_slice(), 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let results = futures::future::join_all(now.iter().map(|index| self.create_pod(key, job, *index))).await;
            for result in results {
                match result {
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    other => other?,
                }
            }
            left = later;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_pod(&self, key: &ObjectKey, job: &Arc<Job>, index: Option<i32>) -> Result<(), kube::Error> {
        let Some(spec) = &job.spec else { return Ok(()) };
        let mut pod = pods::from_template(&spec.template, &job.metadata, controller_reference(job.as_ref()));
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        if let Some(index) = index {
            number(&mut pod, &key.name, index);
        }
        match self.ctx.connection.namespaced::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(created) => {
                self.own_writes.wrote(key, &self.pods, &created);
                let message = format!("Created pod: {}", name(&created.metadata));
                self.ctx.events.event(job.as_ref(), EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {}", error.text());
                    self.ctx.events.event(job.as_ref(), EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, job: &Arc<Job>, pod: &Arc<Pod>) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<Pod>(&key.namespace);
        match api.delete(name(&pod.metadata), &DeleteParams::default()).await {
            Ok(_) => {
                self.own_writes.deleted(key, &self.pods, pod.as_ref());
                let message = format!("Deleted pod: {}", name(&pod.metadata));
                self.ctx.events.event(job.as_ref(), EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn release(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Result<(), ReconcileError> {
        if !has_finalizer(pod) {
            return Ok(());
        }
        let finalizers = json!({ "$deleteFromPrimitiveList/finalizers": [FINALIZER], "uid": pod.metadata.uid });
        let change = Patch::Strategic(json!({ "metadata": finalizers }));
        let api = self.ctx.connection.namespaced::<Pod>(&key.namespace);
        match api.patch(name(&pod.metadata), &PatchParams::default(), &change).await {
            Ok(written) => self.own_writes.wrote(key, &self.pods, &written),
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
