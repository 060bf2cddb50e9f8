//! TTL after finished: deletes Jobs some time after they ended, where they ask for it.
//! Reads Job. Deletes Job. Source: KEP-592.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Preconditions};

use crate::api_error::ApiErrorExt;
use crate::clock::{self, seconds_between};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "ttl-after-finished-controller",
    alias: "ttl-after-finished",
    account: "ttl-after-finished-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;

struct Controller {
    ctx: Ctx,
    jobs: Informer<Job>,
}

async fn run(ctx: Ctx) {
    let jobs = ctx.informers.informer::<Job>();
    let queue = WorkQueue::default();
    jobs.on_event({
        let queue = queue.clone();
        move |event| {
            if seconds_left(event.object(), &clock::now()).is_some() {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    jobs.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), jobs };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// Seconds until the Job may go; None while it runs, is going already, or wants to stay.
fn seconds_left(job: &Job, now: &Time) -> Option<i64> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    let ended = conditions.find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")?;
    Some(i64::from(ttl) - seconds_between(ended.last_transition_time.as_ref()?, now))
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(cached) = self.jobs.get(key) else { return Ok(Requeue::Never) };
        match seconds_left(&cached, &clock::now()) {
            None => return Ok(Requeue::Never),
            Some(left) if left > 0 => return Ok(Requeue::after_seconds(left)),
            Some(_) => {}
        }
        // The time to live may have been raised since: ask before deleting.
        let api = self.ctx.connection.namespaced::<Job>(&key.namespace);
        let Some(live) = api.get_opt(&key.name).await? else { return Ok(Requeue::Never) };
        match seconds_left(&live, &clock::now()) {
            None => return Ok(Requeue::Never),
            Some(left) if left > 0 => return Ok(Requeue::after_seconds(left)),
            Some(_) => {}
        }
        let preconditions = Preconditions { uid: live.metadata.uid, resource_version: live.metadata.resource_version };
        match api.delete(&key.name, &DeleteParams::foreground().preconditions(preconditions)).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_counts_from_the_end_of_the_job() {
        let ended = json!([{ "type": "Complete", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z" }]);
        let job = |ttl: Option<i32>, conditions: &serde_json::Value| -> Job {
            let spec = json!({ "ttlSecondsAfterFinished": ttl, "template": {} });
            serde_json::from_value(json!({ "spec": spec, "status": { "conditions": conditions } })).unwrap()
        };
        let now = Time("2024-01-01T00:00:40Z".parse().unwrap());
        assert_eq!(seconds_left(&job(Some(100), &ended), &now), Some(60));
        assert_eq!(seconds_left(&job(Some(0), &ended), &now), Some(-40));
        assert_eq!(seconds_left(&job(None, &ended), &now), None);
        assert_eq!(seconds_left(&job(Some(100), &json!([])), &now), None);
    }
}
