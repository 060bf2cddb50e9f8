//! What a Job should do now: pods to create, delete and release, and what its status says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::EventType;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::policy::{Verdict, judge, succeeds};
use super::{FAILURES_KEY, FINALIZER, IGNORED_FAILURES_KEY, INDEX_KEY, indexes};
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

/// A pod to create.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NewPod {
    /// Its completion index, for indexed Jobs.
    pub index: Option<i32>,
    /// Failures of its index so far, counted and ignored, for Jobs with a backoff limit per index.
    pub failures: Option<(i32, i32)>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<NewPod>,
    /// Pods that are one too many: released, then deleted, so that they are not counted.
    pub delete: Vec<Arc<Pod>>,
    /// Pods that end with the Job: deleted before the status is written, released after it.
    pub stop: Vec<Arc<Pod>>,
    /// None when it would not change.
    pub status: Option<JobStatus>,
    /// Pods whose finalizers may go once the status is written.
    pub release: Vec<Arc<Pod>>,
    pub events: Vec<(EventType, String, String)>,
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
    work.settle();
    let mut ending = work.ending();
    match &ending {
        Some(_) => work.stop_pods(),
        None => ending = work.run(),
    }
    work.track(ending.as_ref());
    work.finish(ending);
    work.status_counts();
    work.plan.status = (work.status != old).then_some(work.status);
    work.plan
}

/// A plan in the making.
struct Work<'a> {
    view: &'a View<'a>,
    status: JobStatus,
    /// Indexes that succeeded and failed, those of pods not yet counted included.
    succeeded_indexes: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    /// Uids that are named in the status, but whose finalizers are still there.
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    active: Vec<Arc<Pod>>,
    n_terminating: i32,
    plan: Plan,
}

/// How a Job ends, and why.
#[derive(Clone, Debug)]
struct Ending {
    succeeds: bool,
    reason: String,
    message: String,
}

fn failure(reason: &str, message: impl Into<String>) -> Ending {
    Ending { succeeds: false, reason: reason.to_owned(), message: message.into() }
}

fn success(reason: &str, message: impl Into<String>) -> Ending {
    Ending { succeeds: true, reason: reason.to_owned(), message: message.into() }
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>, status: JobStatus) -> Self {
        let mut work = Self {
            view,
            succeeded_indexes: indexes::parse(status.completed_indexes.as_deref().unwrap_or("")),
            failed_indexes: indexes::parse(status.failed_indexes.as_deref().unwrap_or("")),
            uncounted_succeeded: Vec::new(),
            uncounted_failed: Vec::new(),
            active: view.pods.iter().filter(|pod| is_active(pod)).cloned().collect(),
            n_terminating: n_of(view.pods.iter().filter(|pod| is_terminating(pod)).count()),
            status,
            plan: Plan::default(),
        };
        if work.is_indexed() {
            work.classify_indexes();
        }
        work
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

    fn limit_per_index(&self) -> Option<i32> {
        self.view.spec.backoff_limit_per_index.filter(|_| self.is_indexed())
    }

    /// Pods that hold a place until they are counted.
    fn held(&self) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        self.view.pods.iter().filter(|pod| has_finalizer(pod))
    }

    /// Deleted pods count as failures unless the Job waits for them to end: nobody may be left to say that they did.
    fn has_failed(&self, pod: &Pod) -> bool {
        phase(pod) == "Failed" || (!self.replaces_only_failed() && is_terminating(pod))
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        judge(self.view.spec.pod_failure_policy.as_ref(), pod)
    }

    /// The pod's index, when the Job has it.
    fn index_of(&self, pod: &Pod) -> Option<i32> {
        let completions = self.view.spec.completions.unwrap_or(0);
        completion_index(pod).filter(|index| (0..completions).contains(index))
    }

    fn classify_indexes(&mut self) {
        let completions = self.view.spec.completions.unwrap_or(0);
        self.succeeded_indexes.retain(|index| *index < completions);
        let succeeded = self.held().filter(|pod| phase(pod) == "Succeeded");
        let succeeded: Vec<i32> = succeeded.filter_map(|pod| self.index_of(pod)).collect();
        self.succeeded_indexes.extend(succeeded);
        let Some(limit) = self.limit_per_index() else { return };
        let failed = self.held().filter(|pod| self.has_failed(pod) && self.fails_index(pod, limit));
        let failed: Vec<i32> = failed.filter_map(|pod| self.index_of(pod)).collect();
        self.failed_indexes.extend(failed);
        self.failed_indexes.retain(|index| *index < completions && !self.succeeded_indexes.contains(index));
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        match self.verdict(pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => count_annotation(pod, FAILURES_KEY) >= limit,
        }
    }

    /// Turns uids whose finalizers are gone into numbers.
    fn settle(&mut self) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let held = |one: &String| self.view.pods.iter().any(|pod| uid(&pod.metadata) == one && has_finalizer(pod));
        let (succeeded, released_ok): (Vec<String>, Vec<String>) =
            uncounted.succeeded.unwrap_or_default().into_iter().partition(held);
        let (failed, released_bad): (Vec<String>, Vec<String>) =
            uncounted.failed.unwrap_or_default().into_iter().partition(held);
        self.status.succeeded = non_zero(self.status.succeeded.unwrap_or(0) + n_of(released_ok.len()));
        self.status.failed = non_zero(self.status.failed.unwrap_or(0) + n_of(released_bad.len()));
        (self.uncounted_succeeded, self.uncounted_failed) = (succeeded, failed);
    }

    fn is_named(&self, pod: &Pod) -> bool {
        let pod_uid = uid(&pod.metadata);
        self.uncounted_succeeded.iter().chain(&self.uncounted_failed).any(|one| one == pod_uid)
    }

    fn n_succeeded(&self) -> i32 {
        if self.is_indexed() {
            return n_of(self.succeeded_indexes.len());
        }
        let new = self.held().filter(|pod| phase(pod) == "Succeeded" && !self.is_named(pod)).count();
        self.status.succeeded.unwrap_or(0) + n_of(self.uncounted_succeeded.len() + new)
    }

    fn n_failed(&self) -> i32 {
        let new = self
            .held()
            .filter(|pod| self.has_failed(pod) && !self.is_named(pod) && self.verdict(pod) != Verdict::Ignore);
        self.status.failed.unwrap_or(0) + n_of(self.uncounted_failed.len() + new.count())
    }

    /// Whether the Job ends now, whatever its pods still do. What was decided earlier stays decided.
    fn ending(&self) -> Option<Ending> {
        for (type_, succeeds) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
            if let Some(target) = condition(&self.status, type_).filter(|target| target.status == "True") {
                let (reason, message) = (target.reason.clone(), target.message.clone());
                return Some(Ending {
                    succeeds,
                    reason: reason.unwrap_or_default(),
                    message: message.unwrap_or_default(),
                });
            }
        }
        let failed = self.view.pods.iter().filter(|pod| self.has_failed(pod));
        for pod in failed {
            if let Verdict::FailJob(message) = self.verdict(pod) {
                return Some(failure("PodFailurePolicy", message));
            }
        }
        let limit = self.view.spec.backoff_limit.unwrap_or(6);
        if self.n_failed() > limit || self.has_restarted_enough(limit) {
            return Some(failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if !self.is_suspended() && self.deadline_left().is_some_and(|left| left <= 0) {
            return Some(failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        if !self.is_indexed() {
            return None;
        }
        let (n_failed, n_succeeded) = (n_of(self.failed_indexes.len()), n_of(self.succeeded_indexes.len()));
        if self.limit_per_index().is_some() {
            if self.view.spec.max_failed_indexes.is_some_and(|max| n_failed > max) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Some(failure("MaxFailedIndexesExceeded", message));
            }
            if n_failed > 0 && n_failed + n_succeeded >= self.view.spec.completions.unwrap_or(0) {
                return Some(failure("FailedIndexes", "Job has failed indexes"));
            }
        }
        let message = succeeds(self.view.spec.success_policy.as_ref(), &self.succeeded_indexes)?;
        Some(success("SuccessPolicy", message))
    }

    /// Pods that restart in place count by their containers.
    fn has_restarted_enough(&self, limit: i32) -> bool {
        let policy = self.view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let n_restarts: i32 = self.active.iter().map(|pod| max_restarts(pod)).sum();
        policy == Some("OnFailure") && n_restarts > 0 && n_restarts >= limit
    }

    fn deadline_left(&self) -> Option<i64> {
        let deadline = self.view.spec.active_deadline_seconds?;
        Some(deadline - seconds_between(self.status.start_time.as_ref()?, &self.view.now))
    }

    fn stop_pods(&mut self) {
        self.plan.stop = std::mem::take(&mut self.active);
    }

    /// Creates and deletes pods; says when that leaves the Job complete.
    fn run(&mut self) -> Option<Ending> {
        if self.view.job.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let n_succeeded = self.n_succeeded();
        if self.is_suspended() {
            let active = std::mem::take(&mut self.active);
            self.plan.delete.extend(active.into_iter().take(BURST));
        } else {
            if self.status.start_time.is_none() {
                self.status.start_time = Some(self.view.now.clone());
            }
            self.plan.requeue_seconds = self.deadline_left();
            self.manage(n_succeeded);
        }
        let complete = match self.view.spec.completions {
            Some(completions) => n_succeeded >= completions,
            None => n_succeeded > 0,
        };
        if complete && self.active.is_empty() && self.plan.create.is_empty() {
            return Some(success("CompletionsReached", "Reached expected number of succeeded pods"));
        }
        self.say_whether_suspended();
        None
    }

    fn say_whether_suspended(&mut self) {
        let was_suspended = is_true(&self.status, "Suspended");
        if self.is_suspended() && !was_suspended {
            self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
            self.plan.events.push((EventType::Normal, "Suspended".to_owned(), "Job suspended".to_owned()));
            self.status.start_time = None;
        } else if !self.is_suspended() && was_suspended {
            self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
            self.plan.events.push((EventType::Normal, "Resumed".to_owned(), "Job resumed".to_owned()));
            self.status.start_time = Some(self.view.now.clone());
        }
    }

    fn manage(&mut self, n_succeeded: i32) {
        let n_active = n_of(self.active.len());
        let wanted = match self.view.spec.completions {
            Some(completions) => (completions - n_succeeded).min(self.parallelism()).max(0),
            None if n_succeeded > 0 => n_active,
            None => self.parallelism(),
        };
        let going = self.pods_to_remove(usize::try_from(n_active - wanted).unwrap_or(0));
        if !going.is_empty() {
            self.active.retain(|pod| !going.iter().any(|one| uid(&one.metadata) == uid(&pod.metadata)));
            self.plan.delete.extend(going.into_iter().take(BURST));
            return;
        }
        let replaced = if self.replaces_only_failed() { self.n_terminating } else { 0 };
        let n_missing = usize::try_from(wanted - replaced - n_active).unwrap_or(0).min(BURST);
        if n_missing == 0 {
            return;
        }
        if self.limit_per_index().is_some() {
            return self.create_per_index(n_missing);
        }
        if let Some(seconds) = self.backoff_left(self.n_failed()) {
            return self.look_again(seconds);
        }
        self.plan.create = match self.is_indexed() {
            true => {
                let indexes = self.free_indexes(n_missing).into_iter();
                indexes.map(|index| NewPod { index: Some(index), failures: None }).collect()
            }
            false => vec![NewPod::default(); n_missing],
        };
    }

    fn look_again(&mut self, seconds: i64) {
        let sooner = self.plan.requeue_seconds.map_or(seconds, |planned| planned.min(seconds));
        self.plan.requeue_seconds = Some(sooner);
    }

    /// Second pods of an index, pods of indexes that are done, and then of the rest so many: those not ready, then the youngest.
    fn pods_to_remove(&self, count: usize) -> Vec<Arc<Pod>> {
        let mut ranked = self.active.clone();
        ranked.sort_by_key(|pod| (is_ready(pod), std::cmp::Reverse(pod.metadata.creation_timestamp.clone())));
        if !self.is_indexed() {
            ranked.truncate(count);
            return ranked;
        }
        let mut seen = self.succeeded_indexes.clone();
        let (mut going, mut left) = (Vec::new(), Vec::new());
        // The oldest of an index stays.
        for pod in ranked.into_iter().rev() {
            match self.index_of(&pod) {
                Some(index) if seen.insert(index) => left.push(pod),
                _ => going.push(pod),
            }
        }
        left.reverse();
        let n_more = count.saturating_sub(going.len());
        going.extend(left.into_iter().take(n_more));
        going
    }

    fn free_indexes(&self, count: usize) -> Vec<i32> {
        let terminating = self.view.pods.iter().filter(|pod| self.replaces_only_failed() && is_terminating(pod));
        let taken: BTreeSet<i32> =
            self.active.iter().chain(terminating).filter_map(|pod| completion_index(pod)).collect();
        let is_free = |index: &i32| {
            !taken.contains(index) && !self.succeeded_indexes.contains(index) && !self.failed_indexes.contains(index)
        };
        (0..self.view.spec.completions.unwrap_or(0)).filter(is_free).take(count).collect()
    }

    /// Each index has its own failures and its own back-off.
    fn create_per_index(&mut self, count: usize) {
        let last_failures = self.last_failures();
        let mut soonest: Option<i64> = None;
        for index in self.free_indexes(count) {
            let last = last_failures.get(&index);
            let left = last.and_then(|pod| {
                let n_failures = failures_of(pod) + 1;
                left_after(finished_at(pod)?, n_failures, &self.view.now)
            });
            match left {
                Some(left) => soonest = Some(soonest.map_or(left, |soonest| soonest.min(left))),
                None => {
                    let failures = last.map_or((0, 0), |pod| self.failures_after(pod));
                    self.plan.create.push(NewPod { index: Some(index), failures: Some(failures) });
                }
            }
        }
        if let Some(seconds) = soonest {
            self.look_again(seconds);
        }
    }

    /// Counted and ignored failures of an index once `pod` is replaced.
    fn failures_after(&self, pod: &Pod) -> (i32, i32) {
        let (counted, ignored) = (count_annotation(pod, FAILURES_KEY), count_annotation(pod, IGNORED_FAILURES_KEY));
        match self.verdict(pod) {
            Verdict::Ignore => (counted, ignored + 1),
            _ => (counted + 1, ignored),
        }
    }

    /// The newest failed pod of each index that has to be tried again. It keeps its finalizer until its successor is there, which
    /// takes over its count.
    fn last_failures(&self) -> BTreeMap<i32, &'a Arc<Pod>> {
        let mut last: BTreeMap<i32, &'a Arc<Pod>> = BTreeMap::new();
        if self.limit_per_index().is_none() {
            return last;
        }
        let active: BTreeSet<i32> = self.active.iter().filter_map(|pod| completion_index(pod)).collect();
        for pod in self.held().filter(|pod| self.has_failed(pod)) {
            let Some(index) = self.index_of(pod) else { continue };
            let done = self.succeeded_indexes.contains(&index) || self.failed_indexes.contains(&index);
            if done || active.contains(&index) {
                continue;
            }
            let rank = |pod: &Pod| (failures_of(pod), finished_at(pod).map(|at| at.0));
            let is_newer = last.get(&index).is_none_or(|other| rank(pod) >= rank(other));
            if is_newer {
                last.insert(index, pod);
            }
        }
        last
    }

    /// Names finished pods in the status, so that their finalizers may go.
    fn track(&mut self, ending: Option<&Ending>) {
        let fails = ending.is_some_and(|ending| !ending.succeeds);
        let ends = ending.is_some() || self.view.job.metadata.deletion_timestamp.is_some();
        let kept: BTreeSet<&str> = self.last_failures().values().map(|pod| uid(&pod.metadata)).collect();
        let deleted: BTreeSet<&str> = self.plan.delete.iter().map(|pod| uid(&pod.metadata)).collect();
        let mut release = Vec::new();
        for pod in self.view.pods.iter().filter(|pod| has_finalizer(pod)) {
            let n_named = self.uncounted_succeeded.len() + self.uncounted_failed.len();
            if n_named >= UNCOUNTED_MAX || release.len() >= UNCOUNTED_MAX {
                break;
            }
            let pod_uid = uid(&pod.metadata);
            let (succeeded, failed) = (phase(pod) == "Succeeded", self.has_failed(pod));
            let is_due = ends || succeeded || (failed && !kept.contains(pod_uid));
            if !is_due || deleted.contains(pod_uid) {
                continue;
            }
            if succeeded {
                // A success of an index is told by the index.
                if !self.is_indexed() && !self.is_named(pod) {
                    self.uncounted_succeeded.push(pod_uid.to_owned());
                }
            } else if failed || fails {
                let has_place = !self.is_indexed() || self.index_of(pod).is_some();
                if has_place && !self.is_named(pod) && self.verdict(pod) != Verdict::Ignore {
                    self.uncounted_failed.push(pod_uid.to_owned());
                }
            }
            release.push(pod.clone());
        }
        self.plan.release = release;
    }

    /// The condition that the Job will end comes with the end; the last one when every pod has ended and is counted.
    fn finish(&mut self, ending: Option<Ending>) {
        let Some(Ending { succeeds, reason, message }) = ending else { return };
        let target = if succeeds { "SuccessCriteriaMet" } else { "FailureTarget" };
        self.set_condition(target, "True", &reason, &message);
        let is_counted = self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty();
        let waits = !self.plan.release.is_empty() || !self.plan.stop.is_empty() || !self.plan.delete.is_empty();
        if !is_counted || waits || self.n_terminating > 0 {
            return;
        }
        self.set_condition(if succeeds { "Complete" } else { "Failed" }, "True", &reason, &message);
        if !succeeds {
            return self.plan.events.push((EventType::Warning, reason, message));
        }
        self.status.completion_time = Some(self.view.now.clone());
        if self.view.spec.completions.is_some_and(|completions| self.n_succeeded() > completions) {
            let message = "Too many succeeded pods running after completion count reached".to_owned();
            self.plan.events.push((EventType::Warning, "TooManySucceededPods".to_owned(), message));
        }
        self.plan.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
    }

    fn status_counts(&mut self) {
        if self.is_indexed() {
            self.status.succeeded = non_zero(n_of(self.succeeded_indexes.len()));
            let completed = indexes::format(&self.succeeded_indexes);
            self.status.completed_indexes = Some(completed).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.limit_per_index().map(|_| indexes::format(&self.failed_indexes));
        }
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: non_empty(std::mem::take(&mut self.uncounted_succeeded)),
            failed: non_empty(std::mem::take(&mut self.uncounted_failed)),
        });
        self.status.active = non_zero(n_of(self.active.len()));
        self.status.ready = Some(n_of(self.active.iter().filter(|pod| is_ready(pod)).count()));
        self.status.terminating = Some(self.n_terminating);
    }

    /// Seconds to wait after the last failure.
    fn backoff_left(&self, n_failed: i32) -> Option<i64> {
        let failed = self.view.pods.iter().filter(|pod| phase(pod) == "Failed");
        let last = failed.filter_map(|pod| finished_at(pod)).max_by_key(|at| at.0)?;
        left_after(last, n_failed.max(1), &self.view.now)
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

/// Seconds left of the wait after the n-th failure: 10, doubling, at most 10 minutes.
fn left_after(failed_at: Time, n_failures: i32, now: &Time) -> Option<i64> {
    let doublings = u32::try_from(n_failures - 1).unwrap_or(0).min(10);
    let delay = (BACKOFF_FIRST_SECONDS << doublings).min(BACKOFF_MAX_SECONDS);
    let left = delay - seconds_between(&failed_at, now);
    (left > 0).then_some(left)
}

fn count_annotation(pod: &Pod, key: &str) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(key)?.parse().ok()).unwrap_or(0)
}

/// All failures of the pod's index before it.
fn failures_of(pod: &Pod) -> i32 {
    count_annotation(pod, FAILURES_KEY) + count_annotation(pod, IGNORED_FAILURES_KEY)
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

    fn created(plan: &Plan) -> Vec<Option<i32>> {
        plan.create.iter().map(|new| new.index).collect()
    }

    fn conditions(status: &JobStatus) -> Vec<String> {
        status.conditions.iter().flatten().map(|one| format!("{}={}", one.type_, one.status)).collect()
    }

    #[test]
    fn a_new_job_starts_and_creates_its_pods() {
        let plan = planned(&job(json!({ "parallelism": 3, "completions": 2 }), None), &[]);
        assert_eq!(plan.create, [NewPod::default(), NewPod::default()]);
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
        assert_eq!((first.stop.len(), first.release.len()), (1, 2));
        let status = first.status.unwrap();
        assert_eq!(conditions(&status), ["FailureTarget=True"]);
        let second = planned(&job(json!({}), Some(status)), &[pod("bad", "Failed", None, false)]);
        let status = second.status.unwrap();
        assert_eq!(status.failed, Some(2), "a pod that is stopped has failed");
        assert_eq!(conditions(&status), ["FailureTarget=True", "Failed=True"]);
        assert_eq!(second.events[0].1, "BackoffLimitExceeded");
    }

    #[test]
    fn an_indexed_job_creates_only_missing_indexes() {
        let indexed = json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 4, "backoffLimit": 6 });
        let pods = [pod("a", "Succeeded", Some(0), true), pod("b", "Running", Some(2), true)];
        let plan = planned(&job(indexed, None), &pods);
        assert_eq!(created(&plan), [Some(1), Some(3)]);
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
        assert_eq!(created(&resumed), [None]);
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

    /// A failed pod of an index, with this many failures before it, and its exit code.
    fn failed(pod_uid: &str, index: i32, failures: i32, code: i32) -> Arc<Pod> {
        let mut failed = pod(pod_uid, "Failed", Some(index), true);
        let changed = Arc::make_mut(&mut failed);
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(FAILURES_KEY.to_owned(), failures.to_string());
        changed.status = serde_json::from_value(json!({
            "phase": "Failed",
            "containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": code, "finishedAt": "2020-01-01T00:00:00Z" } },
            }],
        }))
        .unwrap();
        failed
    }

    fn per_index(more: Value) -> Job {
        let mut spec = json!({
            "completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimit": 100,
            "backoffLimitPerIndex": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        job(spec, None)
    }

    #[test]
    fn an_index_is_tried_again_with_its_failures_until_its_limit() {
        let pods = [failed("a", 0, 0, 1), failed("b", 1, 1, 1), pod("c", "Running", Some(2), true)];
        let plan = planned(&per_index(json!({})), &pods);
        assert_eq!(plan.create, [NewPod { index: Some(0), failures: Some((1, 0)) }]);
        let released: Vec<&str> = plan.release.iter().map(|pod| uid(&pod.metadata)).collect();
        assert_eq!(released, ["b"], "the pod that is replaced waits for its successor");
        assert_eq!(plan.status.unwrap().failed_indexes.as_deref(), Some("1"));
    }

    #[test]
    fn a_job_with_failed_indexes_fails_when_all_are_done_or_too_many() {
        let pods = [failed("a", 0, 1, 1), pod("b", "Succeeded", Some(1), true), pod("c", "Succeeded", Some(2), true)];
        let done = planned(&per_index(json!({})), &pods).status.unwrap();
        assert_eq!(condition(&done, "FailureTarget").unwrap().reason.as_deref(), Some("FailedIndexes"));
        let pods = [failed("a", 0, 1, 1), pod("b", "Running", Some(1), true)];
        let plan = planned(&per_index(json!({ "maxFailedIndexes": 0 })), &pods);
        assert_eq!(plan.stop.len(), 1);
        let reason = condition(plan.status.as_ref().unwrap(), "FailureTarget").unwrap().reason.as_deref();
        assert_eq!(reason, Some("MaxFailedIndexesExceeded"));
    }

    #[test]
    fn policies_ignore_failures_fail_indexes_and_end_jobs() {
        let rule = |action: &str| {
            let codes = json!({ "operator": "In", "values": [42] });
            json!({ "podFailurePolicy": { "rules": [{ "action": action, "onExitCodes": codes }] } })
        };
        let ignored = planned(&per_index(rule("Ignore")), &[failed("a", 0, 0, 42)]);
        assert_eq!(ignored.create.iter().find(|new| new.index == Some(0)).unwrap().failures, Some((0, 1)));
        let index = planned(&per_index(rule("FailIndex")), &[failed("a", 0, 0, 42)]);
        assert_eq!(index.status.unwrap().failed_indexes.as_deref(), Some("0"));
        let whole = planned(&per_index(rule("FailJob")), &[failed("a", 0, 0, 42)]);
        let status = whole.status.unwrap();
        assert_eq!(condition(&status, "FailureTarget").unwrap().reason.as_deref(), Some("PodFailurePolicy"));
    }

    #[test]
    fn a_success_policy_ends_the_job_before_all_indexes_ran() {
        let policy = json!({ "successPolicy": { "rules": [{ "succeededIndexes": "0" }] } });
        let pods = [pod("a", "Succeeded", Some(0), true), pod("b", "Running", Some(1), true)];
        let plan = planned(&per_index(policy), &pods);
        assert_eq!((plan.stop.len(), plan.create.len()), (1, 0));
        let status = plan.status.unwrap();
        let met = condition(&status, "SuccessCriteriaMet").unwrap();
        assert_eq!(met.message.as_deref(), Some("Matched rules at index 0"));
        assert_eq!(status.failed, None);
    }
}
