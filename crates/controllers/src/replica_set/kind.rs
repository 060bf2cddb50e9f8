//! The two kinds that keep a number of pods, seen as one.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};

use crate::owned_pods::PodOwner;
use crate::ownership::map_selector;

/// What the engine needs of a ReplicaSet or ReplicationController.
pub(super) trait ReplicaOwner: PodOwner {
    fn replicas(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn min_ready_seconds(&self) -> i32;
    fn status(&self) -> Status;
    fn with_status(&self, status: Status) -> Self;
}

/// The status both kinds share. A ReplicationController has no `terminating`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub type_: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub last_transition_time: Option<Time>,
}

impl PodOwner for ReplicaSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        Some(self.spec.as_ref()?.selector.clone())
    }
}

impl PodOwner for ReplicationController {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref()?.selector.as_ref().map(map_selector)
    }
}

impl ReplicaOwner for ReplicaSet {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> Status {
        let Some(status) = &self.status else { return Status::default() };
        let conditions = status.conditions.iter().flatten().map(|condition| Condition {
            type_: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            last_transition_time: condition.last_transition_time.clone(),
        });
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation,
            conditions: conditions.collect(),
        }
    }

    fn with_status(&self, status: Status) -> Self {
        let conditions = status.conditions.into_iter().map(|condition| ReplicaSetCondition {
            type_: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            last_transition_time: condition.last_transition_time,
        });
        let status = ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: non_zero(status.fully_labeled),
            ready_replicas: non_zero(status.ready),
            available_replicas: non_zero(status.available),
            terminating_replicas: status.terminating,
            observed_generation: status.observed_generation,
            conditions: Some(conditions.collect::<Vec<_>>()).filter(|conditions| !conditions.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

impl ReplicaOwner for ReplicationController {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> Status {
        let Some(status) = &self.status else { return Status::default() };
        let conditions = status.conditions.iter().flatten().map(|condition| Condition {
            type_: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            last_transition_time: condition.last_transition_time.clone(),
        });
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation,
            conditions: conditions.collect(),
        }
    }

    fn with_status(&self, status: Status) -> Self {
        let conditions = status.conditions.into_iter().map(|condition| ReplicationControllerCondition {
            type_: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            last_transition_time: condition.last_transition_time,
        });
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: non_zero(status.fully_labeled),
            ready_replicas: non_zero(status.ready),
            available_replicas: non_zero(status.available),
            observed_generation: status.observed_generation,
            conditions: Some(conditions.collect::<Vec<_>>()).filter(|conditions| !conditions.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn non_zero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}
