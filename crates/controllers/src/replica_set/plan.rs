//! What a replica owner should do now: how many pods to create, which to delete, and what its status says.

use std::sync::Arc;

use client::selector::Labels;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::kind::{Condition, ReplicaOwner, Status};
use super::rank;
use crate::pods::{is_active, is_available, is_ready, is_terminating, next_available};

/// Pods created or deleted in one go at most (upstream's BurstReplicas).
const BURST: usize = 500;

pub(super) struct View<'a, K> {
    pub owner: &'a K,
    /// All pods of the owner, finished ones too.
    pub pods: &'a [Arc<Pod>],
    /// Active pods of owners with the same controller, this one's included.
    pub related: Vec<Arc<Pod>>,
    pub now: Time,
    /// What just went wrong with creating or deleting.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    /// None when it would not change.
    pub status: Option<Status>,
    /// When a pod becomes available by merely staying ready.
    pub requeue_seconds: Option<i64>,
}

/// Same view, same plan. Touches nothing.
pub(super) fn plan<K: ReplicaOwner>(view: &View<K>) -> Plan {
    let active: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(view.owner.replicas()).unwrap_or(0);
    let mut plan = Plan::default();
    if view.owner.meta().deletion_timestamp.is_none() {
        plan.create = wanted.saturating_sub(active.len()).min(BURST);
        let n_surplus = active.len().saturating_sub(wanted).min(BURST);
        if n_surplus > 0 {
            plan.delete = rank::first_to_delete(&active, &view.related, &view.now, n_surplus);
        }
    }
    let status = status(view, &active);
    let behind = status.ready > status.available;
    let seconds = || next_available(active.iter().map(|pod| pod.as_ref()), view.owner.min_ready_seconds(), &view.now);
    plan.requeue_seconds = behind.then(seconds).flatten();
    plan.status = (status != view.owner.status()).then_some(status);
    plan
}

fn status<K: ReplicaOwner>(view: &View<K>, active: &[&Arc<Pod>]) -> Status {
    let owner = view.owner;
    let template_labels =
        owner.template().and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let count = |takes: &dyn Fn(&Pod) -> bool| n_of(active.iter().filter(|pod| takes(pod)).count());
    let old = owner.status();
    let n_terminating = n_of(view.pods.iter().filter(|pod| is_terminating(pod)).count());
    Status {
        replicas: n_of(active.len()),
        fully_labeled: count(&|pod| has_labels(pod, &template_labels)),
        ready: count(&is_ready),
        available: count(&|pod| is_available(pod, owner.min_ready_seconds(), &view.now)),
        terminating: K::kind(&()).eq("ReplicaSet").then_some(n_terminating),
        observed_generation: owner.meta().generation.max(old.observed_generation),
        conditions: conditions(&old.conditions, view.failure.as_ref(), active.len(), owner.replicas(), &view.now),
    }
}

/// ReplicaFailure is set by a failure that leaves the count wrong, stays while it is wrong, and goes when all is well.
fn conditions(
    old: &[Condition],
    failure: Option<&Failure>,
    n_active: usize,
    wanted: i32,
    now: &Time,
) -> Vec<Condition> {
    const TYPE: &str = "ReplicaFailure";
    let existing = old.iter().find(|condition| condition.type_ == TYPE);
    let mut kept: Vec<Condition> = old.iter().filter(|condition| condition.type_ != TYPE).cloned().collect();
    match (failure, existing) {
        (Some(failure), None) => kept.push(Condition {
            type_: TYPE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(now.clone()),
        }),
        (Some(_), Some(existing)) => kept.push(existing.clone()),
        (None, Some(existing)) if n_of(n_active) != wanted => kept.push(existing.clone()),
        (None, _) => {}
    }
    kept
}

fn has_labels(pod: &Pod, wanted: &Labels) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

fn n_of(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus, ReplicationController};
    use serde_json::json;

    use super::*;
    use crate::clock;
    use crate::ownership::name;

    fn replica_set(replicas: i32) -> ReplicaSet {
        let object = json!({
            "metadata": { "name": "a", "namespace": "n", "uid": "u", "generation": 2 },
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": { "app": "a" } },
                "template": { "metadata": { "labels": { "app": "a" } } },
            },
        });
        serde_json::from_value(object).unwrap()
    }

    fn pod(pod_name: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(pod_name.into());
        pod.metadata.labels = Some([("app".to_owned(), "a".to_owned())].into());
        pod.spec = Some(PodSpec { node_name: (phase == "Running").then(|| "node".to_owned()), ..PodSpec::default() });
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            last_transition_time: Some(clock::now()),
            ..PodCondition::default()
        };
        pod.status =
            Some(PodStatus { phase: Some(phase.into()), conditions: Some(vec![ready]), ..PodStatus::default() });
        Arc::new(pod)
    }

    fn view<'a, K>(owner: &'a K, pods: &'a [Arc<Pod>]) -> View<'a, K> {
        View { owner, pods, related: Vec::new(), now: clock::now(), failure: None }
    }

    #[test]
    fn finished_and_terminating_pods_are_replaced() {
        let mut going = pod("going", "Running", true);
        Arc::make_mut(&mut going).metadata.deletion_timestamp = Some(clock::now());
        let pods = [pod("done", "Succeeded", false), going, pod("up", "Running", true)];
        let plan = plan(&view(&replica_set(3), &pods));
        assert_eq!(plan.create, 2);
        assert!(plan.delete.is_empty());
        let expected = Status {
            replicas: 1,
            fully_labeled: 1,
            ready: 1,
            available: 1,
            terminating: Some(1),
            observed_generation: Some(2),
            conditions: Vec::new(),
        };
        assert_eq!(plan.status, Some(expected));
    }

    #[test]
    fn an_owner_being_deleted_keeps_its_hands_off() {
        let mut owner = replica_set(3);
        owner.metadata.deletion_timestamp = Some(clock::now());
        let plan = plan(&view(&owner, &[]));
        assert_eq!(plan.create, 0);
    }

    #[test]
    fn surplus_goes_unscheduled_pods_first() {
        let pods = [pod("ready", "Running", true), pod("pending", "Pending", false), pod("unready", "Running", false)];
        let plan = plan(&view(&replica_set(1), &pods));
        let names: Vec<&str> = plan.delete.iter().map(|pod| name(&pod.metadata)).collect();
        assert_eq!(names, ["pending", "unready"]);
    }

    #[test]
    fn min_ready_seconds_delay_availability_and_ask_to_be_called_again() {
        let mut owner = replica_set(1);
        owner.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let plan = plan(&view(&owner, &[pod("p", "Running", true)]));
        let status = plan.status.unwrap();
        assert_eq!((status.ready, status.available), (1, 0));
        assert!(plan.requeue_seconds.is_some_and(|seconds| (28..=30).contains(&seconds)));
    }

    #[test]
    fn a_failure_is_a_condition_until_the_count_is_right() {
        let owner = replica_set(1);
        let failure = Failure { reason: "FailedCreate", message: "pods is forbidden".into() };
        let failed = plan(&View { failure: Some(failure), ..view(&owner, &[]) }).status.unwrap();
        let condition = &failed.conditions[0];
        assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
        let owner = owner.with_status(failed);
        let still_wrong = plan(&view(&owner, &[]));
        assert_eq!(still_wrong.status, None);
        let well = plan(&view(&owner, &[pod("p", "Running", true)])).status.unwrap();
        assert!(well.conditions.is_empty());
    }

    #[test]
    fn a_replication_controller_counts_no_terminating_pods() {
        let owner: ReplicationController =
            serde_json::from_value(json!({ "metadata": { "generation": 1 }, "spec": { "replicas": 0 } })).unwrap();
        let status = plan(&view(&owner, &[])).status.unwrap();
        assert_eq!((status.terminating, status.observed_generation), (None, Some(1)));
    }
}
