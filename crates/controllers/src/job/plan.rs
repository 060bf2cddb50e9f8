//! What a Job should do now: pods to create, delete and release, and what its status says.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::EventType;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{FINALIZER, INDEX_KEY, indexes};
use crate::clock::seconds_between;
use crate::ownership::uid;
use crate::pods::{is_active, is_ready, is_terminating, max_restarts, phase};

/// Pods created or deleted in one go, and uids written at once (upstream's limits).
const BURST: usize = 500;
const UNCOUNTED_MAX: usize = 500;
const BACKOFF_FIRST_SECONDS: i64 = 10;
const BACKOFF_MAX_SECONDS: i64 = 600;

pub(super) struct View<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    /// The pods it controls.
    pub pods: &'a [Arc<Pod>],
    pub now: Time,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One entry per pod: its completion index, for indexed Jobs.
    pub create: Vec<Option<i32>>,
    pub delete: Vec<Arc<Pod>>,
    /// None when it would not change.
    pub status: Option<JobStatus>,
    /// Pods whose finalizers may go once the status is written.
    pub release: Vec<Arc<Pod>>,
    pub events: Vec<(EventType, &'static str, String)>,
    pub requeue_seconds: Option<i64>,
}

pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER)
}

fn condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn is_true(status: &JobStatus, type_: &str) -> bool {
    condition(status, type_).is_some_and(|condition| condition.status == "True")
}

/// Same view, same plan. Touches nothing.
pub(super) fn plan(view: &View) -> Plan {
    let old = view.job.status.clone().unwrap_or_default();
    if is_true(&old, "Complete") || is_true(&old, "Failed") {
        let release = view.pods.iter().filter(|pod| has_finalizer(pod)).cloned().collect();
        return Plan { release, ..Plan::default() };
    }
    let mut work = Work::new(view, old.clone());
    work.count_finished();
    work.decide();
    work.plan.status = (work.status != old).then_some(work.status);
    work.plan
}

/// A plan in the making.
struct Work<'a> {
    view: &'a View<'a>,
    status: JobStatus,
    completed: BTreeSet<i32>,
    active: Vec<Arc<Pod>>,
    n_terminating: i32,
    plan: Plan,
}

/// Why a Job fails.
struct Failure {
    reason: &'static str,
    message: &'static str,
}

const BACKOFF_LIMIT: Failure =
    Failure { reason: "BackoffLimitExceeded", message: "Job has reached the specified backoff limit" };
const DEADLINE: Failure =
    Failure { reason: "DeadlineExceeded", message: "Job was active longer than specified deadline" };

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>, status: JobStatus) -> Self {
        let completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or(""));
        let active = view.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let n_terminating = n_of(view.pods.iter().filter(|pod| is_terminating(pod)).count());
        Self { view, status, completed, active, n_terminating, plan: Plan::default() }
    }

    fn is_indexed(&self) -> bool {
        self.view.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.view.spec.suspend.unwrap_or(false)
    }

    fn replaces_only_failed(&self) -> bool {
        self.view.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    fn parallelism(&self) -> i32 {
        self.view.spec.parallelism.unwrap_or(1)
    }

    /// Turns released uids into numbers, and notes newly finished pods, whose finalizers may then go.
    fn count_finished(&mut self) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let held = |one: &String| self.view.pods.iter().any(|pod| uid(&pod.metadata) == one && has_finalizer(pod));
        let (mut succeeded, released_ok): (Vec<String>, Vec<String>) =
            uncounted.succeeded.unwrap_or_default().into_iter().partition(held);
        let (mut failed, released_bad): (Vec<String>, Vec<String>) =
            uncounted.failed.unwrap_or_default().into_iter().partition(held);
        let mut n_succeeded = self.status.succeeded.unwrap_or(0) + n_of(released_ok.len());
        let n_failed = self.status.failed.unwrap_or(0) + n_of(released_bad.len());
        for pod in self.view.pods.iter().filter(|pod| has_finalizer(pod)) {
            if succeeded.len() + failed.len() >= UNCOUNTED_MAX {
                break;
            }
            let pod_uid = uid(&pod.metadata).to_owned();
            let ended_badly = phase(pod) == "Failed" || (!self.replaces_only_failed() && is_terminating(pod));
            if phase(pod) == "Succeeded" {
                match completion_index(pod).filter(|_| self.is_indexed()) {
                    // An index counts once, however many pods succeed with it.
                    Some(index) => drop(self.completed.insert(index)),
                    None if !succeeded.contains(&pod_uid) => succeeded.push(pod_uid),
                    None => {}
                }
                self.plan.release.push(pod.clone());
            } else if ended_badly {
                if !failed.contains(&pod_uid) {
                    failed.push(pod_uid);
                }
                self.plan.release.push(pod.clone());
            }
        }
        if self.is_indexed() {
            let completions = self.view.spec.completions.unwrap_or(0);
            self.completed.retain(|index| *index < completions);
            n_succeeded = n_of(self.completed.len());
            self.status.completed_indexes = Some(indexes::format(&self.completed)).filter(|text| !text.is_empty());
        }
        self.status.succeeded = non_zero(n_succeeded);
        self.status.failed = non_zero(n_failed);
        self.status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: non_empty(succeeded), failed: non_empty(failed) });
    }

    /// Succeeded and failed pods, those not yet turned into numbers included.
    fn totals(&self) -> (i32, i32) {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let len = |list: Option<&Vec<String>>| n_of(list.map_or(0, Vec::len));
        let succeeded = len(uncounted.and_then(|uncounted| uncounted.succeeded.as_ref()));
        let failed = len(uncounted.and_then(|uncounted| uncounted.failed.as_ref()));
        (self.status.succeeded.unwrap_or(0) + succeeded, self.status.failed.unwrap_or(0) + failed)
    }

    fn decide(&mut self) {
        let (n_succeeded, n_failed) = self.totals();
        let failure = self.failure(n_failed);
        let complete = match self.view.spec.completions {
            Some(completions) => n_succeeded >= completions,
            None => n_succeeded > 0 && self.active.is_empty(),
        };
        if let Some((reason, message)) = failure {
            self.set_condition("FailureTarget", "True", &reason, &message);
            self.stop_pods();
            self.finish("Failed", EventType::Warning, &reason, &message);
        } else if complete && !self.is_suspended() {
            let (reason, message) = ("CompletionsReached", "Reached expected number of succeeded pods");
            self.set_condition("SuccessCriteriaMet", "True", reason, message);
            self.stop_pods();
            self.finish("Complete", EventType::Normal, reason, message);
        } else if self.view.job.metadata.deletion_timestamp.is_none() {
            self.run(n_succeeded, n_failed);
        }
        let n_active = n_of(self.active.len());
        let ready = n_of(self.active.iter().filter(|pod| is_ready(pod)).count());
        self.status.active = non_zero(n_active);
        self.status.ready = Some(ready);
        self.status.terminating = Some(self.n_terminating);
    }

    /// A failure decided on earlier stays decided.
    fn failure(&self, n_failed: i32) -> Option<(String, String)> {
        if let Some(target) = condition(&self.status, "FailureTarget").filter(|target| target.status == "True") {
            return Some((target.reason.clone().unwrap_or_default(), target.message.clone().unwrap_or_default()));
        }
        if is_true(&self.status, "SuccessCriteriaMet") {
            return None;
        }
        let limit = self.view.spec.backoff_limit.unwrap_or(6);
        let restarts_in_place =
            self.view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
        let n_restarts: i32 = self.active.iter().map(|pod| max_restarts(pod)).sum();
        let restarted_enough = restarts_in_place && n_restarts > 0 && n_restarts >= limit;
        let overdue = self.deadline_left().is_some_and(|left| left <= 0);
        let failure = match () {
            () if n_failed > limit || restarted_enough => &BACKOFF_LIMIT,
            () if overdue && !self.is_suspended() => &DEADLINE,
            () => return None,
        };
        Some((failure.reason.to_owned(), failure.message.to_owned()))
    }

    fn deadline_left(&self) -> Option<i64> {
        let deadline = self.view.spec.active_deadline_seconds?;
        Some(deadline - seconds_between(self.status.start_time.as_ref()?, &self.view.now))
    }

    fn stop_pods(&mut self) {
        let active = std::mem::take(&mut self.active);
        self.delete(active);
    }

    fn delete(&mut self, pods: Vec<Arc<Pod>>) {
        // Released before deletion, so that they are not counted.
        self.plan.release.retain(|pod| !pods.iter().any(|going| uid(&going.metadata) == uid(&pod.metadata)));
        self.plan.delete.extend(pods.into_iter().take(BURST));
    }

    /// The last condition comes only when every pod has ended and is counted.
    fn finish(&mut self, type_: &str, event: EventType, reason: &str, message: &str) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let counted = uncounted.succeeded.is_none() && uncounted.failed.is_none() && self.plan.release.is_empty();
        if !counted || !self.plan.delete.is_empty() || self.n_terminating > 0 {
            return;
        }
        self.set_condition(type_, "True", reason, message);
        if type_ == "Complete" {
            self.status.completion_time = Some(self.view.now.clone());
            self.plan.events.push((event, "Completed", "Job completed".to_owned()));
        } else {
            let name = if reason == DEADLINE.reason { DEADLINE.reason } else { BACKOFF_LIMIT.reason };
            self.plan.events.push((event, name, message.to_owned()));
        }
    }

    fn run(&mut self, n_succeeded: i32, n_failed: i32) {
        if self.is_suspended() {
            self.stop_pods();
            if !is_true(&self.status, "Suspended") {
                self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
                self.plan.events.push((EventType::Normal, "Suspended", "Job suspended".to_owned()));
            }
            self.status.start_time = None;
            return;
        }
        if is_true(&self.status, "Suspended") {
            self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
            self.plan.events.push((EventType::Normal, "Resumed", "Job resumed".to_owned()));
            self.status.start_time = Some(self.view.now.clone());
        }
        self.status.start_time.get_or_insert_with(|| self.view.now.clone());
        self.plan.requeue_seconds = self.deadline_left();
        let n_active = n_of(self.active.len());
        let wanted = match self.view.spec.completions {
            Some(completions) => (completions - n_succeeded).min(self.parallelism()),
            None if n_succeeded > 0 => n_active,
            None => self.parallelism(),
        };
        if n_active > wanted {
            return self.shrink(usize::try_from(n_active - wanted).unwrap_or(0));
        }
        let replaced = if self.replaces_only_failed() { self.n_terminating } else { 0 };
        let n_missing = usize::try_from(wanted - replaced - n_active).unwrap_or(0);
        if n_missing == 0 {
            return;
        }
        if let Some(seconds) = self.backoff_left(n_failed) {
            let deadline = self.plan.requeue_seconds.unwrap_or(i64::MAX);
            self.plan.requeue_seconds = Some(seconds.min(deadline));
            return;
        }
        self.plan.create = match self.is_indexed() {
            true => self.free_indexes(n_missing.min(BURST)).into_iter().map(Some).collect(),
            false => vec![None; n_missing.min(BURST)],
        };
    }

    /// Too many pods: those not ready, then the youngest, go.
    fn shrink(&mut self, count: usize) {
        let mut ranked = self.active.clone();
        ranked.sort_by_key(|pod| (is_ready(pod), std::cmp::Reverse(pod.metadata.creation_timestamp.clone())));
        let going: Vec<Arc<Pod>> = ranked.into_iter().take(count).collect();
        self.active.retain(|pod| !going.iter().any(|one| uid(&one.metadata) == uid(&pod.metadata)));
        self.delete(going);
    }

    fn free_indexes(&self, count: usize) -> Vec<i32> {
        let terminating = self.view.pods.iter().filter(|pod| self.replaces_only_failed() && is_terminating(pod));
        let taken: BTreeSet<i32> =
            self.active.iter().chain(terminating).filter_map(|pod| completion_index(pod)).collect();
        let all = 0..self.view.spec.completions.unwrap_or(0);
        all.filter(|index| !taken.contains(index) && !self.completed.contains(index)).take(count).collect()
    }

    /// Seconds to wait after the last failure: 10, doubling, at most 10 minutes.
    fn backoff_left(&self, n_failed: i32) -> Option<i64> {
        let failed = self.view.pods.iter().filter(|pod| phase(pod) == "Failed");
        let last = failed.filter_map(|pod| finished_at(pod)).max_by_key(|at| at.0)?;
        let doublings = u32::try_from(n_failed - 1).unwrap_or(0).min(10);
        let delay = (BACKOFF_FIRST_SECONDS << doublings).min(BACKOFF_MAX_SECONDS);
        let left = delay - seconds_between(&last, &self.view.now);
        (left > 0).then_some(left)
    }

    fn set_condition(&mut self, type_: &str, value: &str, reason: &str, message: &str) {
        let now = &self.view.now;
        let new = JobCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        };
        let conditions = self.status.conditions.get_or_insert_default();
        match conditions.iter_mut().find(|old| old.type_ == type_) {
            Some(old) if old.status == new.status => {}
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
}

fn completion_index(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX_KEY)?.parse().ok()
}

/// When the last container ended, or else when the pod was seen to be finished.
fn finished_at(pod: &Pod) -> Option<Time> {
    let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    let ended = statuses.filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.clone());
    ended.max_by_key(|at| at.0).or_else(|| pod.metadata.creation_timestamp.clone())
}

fn n_of(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn non_zero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

fn non_empty(list: Vec<String>) -> Option<Vec<String>> {
    Some(list).filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock;

    fn job(more: Value, status: Option<JobStatus>) -> Job {
        let mut object = json!({
            "metadata": { "name": "a", "uid": "j" },
            "spec": { "parallelism": 1, "completions": 1, "backoffLimit": 0, "template": { "spec": { "containers": [] } } },
        });
        for (key, value) in more.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        Job { status, ..serde_json::from_value(object).unwrap() }
    }

    fn pod(pod_uid: &str, phase: &str, index: Option<i32>, held: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": {
                "name": pod_uid, "uid": pod_uid, "creationTimestamp": "2020-01-01T00:00:00Z",
                "finalizers": if held { json!([FINALIZER]) } else { json!([]) },
                "annotations": index.map(|index| json!({ INDEX_KEY: index.to_string() })),
            },
            "status": { "phase": phase },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn planned(job: &Job, pods: &[Arc<Pod>]) -> Plan {
        plan(&View { job, spec: job.spec.as_ref().unwrap(), pods, now: clock::now() })
    }

    fn conditions(status: &JobStatus) -> Vec<String> {
        status.conditions.iter().flatten().map(|one| format!("{}={}", one.type_, one.status)).collect()
    }

    #[test]
    fn a_new_job_starts_and_creates_its_pods() {
        let plan = planned(&job(json!({ "parallelism": 3, "completions": 2 }), None), &[]);
        assert_eq!(plan.create, [None, None]);
        let status = plan.status.unwrap();
        assert!(status.start_time.is_some());
        assert_eq!((status.ready, status.terminating, status.active), (Some(0), Some(0), None));
        assert_eq!(status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    }

    #[test]
    fn a_success_is_named_then_released_then_counted_then_the_job_completes() {
        let first = planned(&job(json!({}), None), &[pod("p", "Succeeded", None, true)]);
        let status = first.status.unwrap();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap();
        assert_eq!(uncounted.succeeded, Some(vec!["p".to_owned()]));
        assert_eq!(first.release.len(), 1);
        assert_eq!(conditions(&status), ["SuccessCriteriaMet=True"]);
        let second = planned(&job(json!({}), Some(status)), &[pod("p", "Succeeded", None, false)]);
        let status = second.status.unwrap();
        assert_eq!(status.succeeded, Some(1));
        assert_eq!(conditions(&status), ["SuccessCriteriaMet=True", "Complete=True"]);
        assert!(status.completion_time.is_some());
        assert!(second.create.is_empty());
        let third = planned(&job(json!({}), Some(status)), &[]);
        assert_eq!(third.status, None);
    }

    #[test]
    fn beyond_the_backoff_limit_the_job_fails_and_its_pods_stop() {
        let pods = [pod("bad", "Failed", None, true), pod("runs", "Running", None, true)];
        let first = planned(&job(json!({ "parallelism": 2, "completions": 2 }), None), &pods);
        assert_eq!(first.delete.len(), 1);
        let status = first.status.unwrap();
        assert_eq!(conditions(&status), ["FailureTarget=True"]);
        let second = planned(&job(json!({}), Some(status)), &[pod("bad", "Failed", None, false)]);
        let status = second.status.unwrap();
        assert_eq!(status.failed, Some(1));
        assert_eq!(conditions(&status), ["FailureTarget=True", "Failed=True"]);
        assert_eq!(second.events[0].1, "BackoffLimitExceeded");
    }

    #[test]
    fn an_indexed_job_creates_only_missing_indexes() {
        let indexed = json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 4, "backoffLimit": 6 });
        let pods = [pod("a", "Succeeded", Some(0), true), pod("b", "Running", Some(2), true)];
        let plan = planned(&job(indexed, None), &pods);
        assert_eq!(plan.create, [Some(1), Some(3)]);
        let status = plan.status.unwrap();
        assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0"), Some(1)));
    }

    #[test]
    fn a_suspended_job_stops_its_pods_and_forgets_its_start() {
        let started = JobStatus { start_time: Some(clock::now()), ..JobStatus::default() };
        let plan = planned(&job(json!({ "suspend": true }), Some(started)), &[pod("p", "Running", None, true)]);
        assert_eq!(plan.delete.len(), 1);
        let status = plan.status.unwrap();
        assert_eq!(conditions(&status), ["Suspended=True"]);
        assert_eq!(status.start_time, None);
        let resumed = planned(&job(json!({}), Some(status)), &[]);
        assert_eq!(resumed.create, [None]);
        assert_eq!(conditions(&resumed.status.unwrap()), ["Suspended=False"]);
    }

    #[test]
    fn a_failure_delays_the_next_try() {
        let now = clock::now();
        let mut failed = pod("bad", "Failed", None, true);
        Arc::make_mut(&mut failed).metadata.creation_timestamp = Some(now);
        let plan = planned(&job(json!({ "backoffLimit": 3 }), None), &[failed]);
        assert!(plan.create.is_empty());
        assert!(plan.requeue_seconds.is_some_and(|seconds| (9..=10).contains(&seconds)));
    }
}
