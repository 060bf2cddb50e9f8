//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rolling::Bounds;
use super::sets::replicas;
use crate::clock::seconds_between;
use crate::ownership::name;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// The value kubectl and the API take for "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

/// Seconds a rollout may go without progress, if it has a deadline at all.
pub(super) fn deadline(spec: &DeploymentSpec) -> Option<i32> {
    spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)
}

fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Sets a condition. The same status and reason leave the old one alone; the same status keeps its transition time.
fn set(status: &mut DeploymentStatus, type_: &str, value: &str, reason: &str, message: String, now: &Time) {
    let old = condition(status, type_);
    if old.is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason)) {
        return;
    }
    let since = old.filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone());
    remove(status, type_);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
    });
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != type_);
    if conditions.is_empty() {
        status.conditions = None;
    }
}

/// What happened to the newest set before the counts are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newest<'a> {
    Created(&'a str),
    Found(&'a str),
}

/// Marks the pause, or its end, on a Deployment whose rollout has a deadline and has not passed it.
pub(super) fn note_pause(status: &mut DeploymentStatus, spec: &DeploymentSpec, now: &Time) {
    if deadline(spec).is_none() {
        return;
    }
    let reason = condition(status, PROGRESSING).and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let was_paused = reason.as_deref() == Some("DeploymentPaused");
    match (spec.paused.unwrap_or(false), was_paused) {
        (true, false) => {
            set(status, PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned(), now)
        }
        (false, true) => {
            set(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now)
        }
        _ => {}
    }
}

/// Marks a newest set that was created, or found where no progress was noted yet.
pub(super) fn note_newest(status: &mut DeploymentStatus, spec: &DeploymentSpec, newest: Newest<'_>, now: &Time) {
    if deadline(spec).is_none() {
        return;
    }
    match newest {
        Newest::Created(set_name) => {
            set(
                status,
                PROGRESSING,
                "True",
                "NewReplicaSetCreated",
                format!("Created new replica set \"{set_name}\""),
                now,
            );
        }
        Newest::Found(set_name) if condition(status, PROGRESSING).is_none() => {
            set(
                status,
                PROGRESSING,
                "True",
                "FoundNewReplicaSet",
                format!("Found new replica set \"{set_name}\""),
                now,
            );
        }
        Newest::Found(_) => {}
    }
}

pub(super) fn with_create_error(old: &DeploymentStatus, message: String, now: &Time) -> DeploymentStatus {
    let mut status = old.clone();
    set(&mut status, PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    status
}

/// The counts of all sets, and Available. Starts from `status`, whose other conditions are kept.
pub(super) fn count(
    deployment: &Deployment,
    mut status: DeploymentStatus,
    all: &[Arc<ReplicaSet>],
    newest: Option<&ReplicaSet>,
    bounds: &Bounds,
    now: &Time,
) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        all.iter().filter_map(|set| set.status.as_ref()).map(of).sum()
    };
    let available = sum(&|status| status.available_replicas.unwrap_or(0));
    let wanted: i32 = all.iter().map(|set| replicas(set)).sum();
    let non_zero = |count: i32| Some(count).filter(|count| *count != 0);
    status.observed_generation = deployment.metadata.generation;
    status.replicas = non_zero(sum(&|status| status.replicas));
    status.updated_replicas = non_zero(newest.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas));
    status.ready_replicas = non_zero(sum(&|status| status.ready_replicas.unwrap_or(0)));
    status.available_replicas = non_zero(available);
    status.unavailable_replicas = non_zero((wanted - available).max(0));
    let terminating = all.iter().map(|set| set.status.as_ref().and_then(|status| status.terminating_replicas));
    status.terminating_replicas = terminating.sum::<Option<i32>>();
    if available >= bounds.min_available() {
        let message = "Deployment has minimum availability.".to_owned();
        set(&mut status, AVAILABLE, "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set(&mut status, AVAILABLE, "False", "MinimumReplicasUnavailable", message, now);
    }
    status
}

/// Progressing and ReplicaFailure of a rollout, given the counts.
pub(super) fn note_progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    status: &mut DeploymentStatus,
    all: &[Arc<ReplicaSet>],
    newest: Option<&ReplicaSet>,
    now: &Time,
) {
    let Some(deadline) = deadline(spec) else {
        remove(status, PROGRESSING);
        note_failure(status, all, newest, now);
        return;
    };
    let current = condition(status, PROGRESSING).cloned();
    let was_complete = current.as_ref().and_then(|current| current.reason.as_deref()) == Some(NEW_SET_AVAILABLE);
    if !(was_complete && status.replicas == status.updated_replicas) {
        let subject = match newest {
            Some(set) => format!("ReplicaSet \"{}\"", name(&set.metadata)),
            None => format!("Deployment \"{}\"", name(&deployment.metadata)),
        };
        if is_complete(deployment, spec, status) {
            set(status, PROGRESSING, "True", NEW_SET_AVAILABLE, format!("{subject} has successfully progressed."), now);
        } else if is_progressing(deployment.status.as_ref(), status) {
            // Set anew each time: its update time is what the deadline counts from.
            remove(status, PROGRESSING);
            set(status, PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            let since =
                current.filter(|current| current.status == "True").and_then(|current| current.last_transition_time);
            let fresh = status.conditions.iter_mut().flatten().find(|condition| condition.type_ == PROGRESSING);
            if let (Some(since), Some(fresh)) = (since, fresh) {
                fresh.last_transition_time = Some(since);
            }
        } else if has_timed_out(status, deadline, now) {
            set(status, PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."), now);
        }
    }
    note_failure(status, all, newest, now);
}

fn note_failure(status: &mut DeploymentStatus, all: &[Arc<ReplicaSet>], newest: Option<&ReplicaSet>, now: &Time) {
    let sets = newest.into_iter().chain(all.iter().map(Arc::as_ref));
    let conditions = sets.filter_map(|set| set.status.as_ref()).flat_map(|status| status.conditions.iter().flatten());
    match conditions.into_iter().find(|condition| condition.type_ == REPLICA_FAILURE) {
        Some(failure) => {
            let (reason, message) =
                (failure.reason.clone().unwrap_or_default(), failure.message.clone().unwrap_or_default());
            set(status, REPLICA_FAILURE, &failure.status, &reason, message, now);
        }
        None if condition(status, REPLICA_FAILURE).is_some() => remove(status, REPLICA_FAILURE),
        None => {}
    }
}

/// All pods are of the newest set, as many as wanted, and available.
pub(super) fn is_complete(deployment: &Deployment, spec: &DeploymentSpec, status: &DeploymentStatus) -> bool {
    let wanted = Some(spec.replicas.unwrap_or(1)).filter(|replicas| *replicas != 0);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let default = DeploymentStatus::default();
    let old = old.unwrap_or(&default);
    let left = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || left(new) < left(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

fn has_timed_out(status: &DeploymentStatus, deadline: i32, now: &Time) -> bool {
    let Some(progressing) = condition(status, PROGRESSING) else { return false };
    match progressing.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => progressing.last_update_time.as_ref().is_some_and(|at| seconds_between(at, now) > i64::from(deadline)),
    }
}

/// Seconds until the deadline must be checked, for a rollout that is neither complete nor timed out.
pub(super) fn seconds_to_deadline(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    status: &DeploymentStatus,
    now: &Time,
) -> Option<i64> {
    let deadline = deadline(spec)?;
    let progressing = condition(status, PROGRESSING)?;
    let decided = progressing.reason.as_deref() == Some(TIMED_OUT) || is_complete(deployment, spec, status);
    if decided || spec.paused.unwrap_or(false) {
        return None;
    }
    let passed = seconds_between(progressing.last_update_time.as_ref()?, now);
    Some((i64::from(deadline) - passed).max(0) + 1)
}
