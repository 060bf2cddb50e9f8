//! What a StatefulSet should do now: in order, one pod after another, unless it is told to work in parallel.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::identity::ordinal;
use crate::ownership::uid;
use crate::pods::{is_available, is_ready, next_available, phase};
use crate::revisions::HASH_LABEL;

pub(super) struct View<'a> {
    pub set: &'a StatefulSet,
    pub spec: &'a StatefulSetSpec,
    /// The pods it controls.
    pub pods: &'a [Arc<Pod>],
    /// The revision the rollout started from, and the one it goes to.
    pub current: &'a str,
    pub update: &'a str,
    pub collisions: Option<i32>,
    pub now: Time,
}

#[derive(Debug)]
pub(super) enum Step {
    Create {
        ordinal: i32,
        revision: String,
    },
    /// One that ended will be made again.
    Delete(Arc<Pod>),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    /// None when it would not change.
    pub status: Option<StatefulSetStatus>,
    pub requeue_seconds: Option<i64>,
}

/// Same view, same plan. Touches nothing.
pub(super) fn plan(view: &View) -> Plan {
    let status = status(view);
    let mut plan = Plan::default();
    if view.set.metadata.deletion_timestamp.is_none() {
        let roll = Roll::new(view, &status);
        roll.steps(&mut plan.steps);
    }
    let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
    plan.requeue_seconds = next_available(view.pods.iter().map(Arc::as_ref), min_ready, &view.now);
    plan.status = (Some(&status) != view.set.status.as_ref()).then_some(status);
    plan
}

fn wanted(spec: &StatefulSetSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

struct Roll<'a> {
    view: &'a View<'a>,
    status: &'a StatefulSetStatus,
    by_ordinal: BTreeMap<i32, &'a Arc<Pod>>,
    one_by_one: bool,
}

impl<'a> Roll<'a> {
    fn new(view: &'a View<'a>, status: &'a StatefulSetStatus) -> Self {
        let numbered = view.pods.iter().filter_map(|pod| Some((ordinal(view.set, pod)?, pod)));
        let one_by_one = view.spec.pod_management_policy.as_deref() != Some("Parallel");
        Self { view, status, by_ordinal: numbered.collect(), one_by_one }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && is_available(pod, self.view.spec.min_ready_seconds.unwrap_or(0), &self.view.now)
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        let first = start(self.view.spec);
        first..first.saturating_add(wanted(self.view.spec))
    }

    fn steps(&self, steps: &mut Vec<Step>) {
        if self.fill(steps) && self.shrink(steps) {
            self.update(steps);
        }
    }

    /// Makes missing pods and remakes ended ones, in order. False when something must come first.
    fn fill(&self, steps: &mut Vec<Step>) -> bool {
        for ordinal in self.ordinals() {
            let Some(pod) = self.by_ordinal.get(&ordinal) else {
                steps.push(Step::Create { ordinal, revision: self.revision_for(ordinal).to_owned() });
                if self.one_by_one {
                    return false;
                }
                continue;
            };
            if matches!(phase(pod), "Failed" | "Succeeded") {
                if !is_going(pod) {
                    steps.push(Step::Delete(Arc::clone(pod)));
                }
                if self.one_by_one {
                    return false;
                }
                continue;
            }
            if self.one_by_one && (is_going(pod) || !self.is_available(pod)) {
                return false;
            }
        }
        // A set that works in parallel goes on to shrink in the same pass.
        true
    }

    /// A pod below the partition, or not yet reached by the rollout, is made from the old revision.
    fn revision_for(&self, ordinal: i32) -> &'a str {
        let strategy = self.view.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return self.view.update;
        }
        let old_below = match self.partition() {
            Some(partition) => start(self.view.spec) + partition,
            None => start(self.view.spec) + self.status.current_replicas.unwrap_or(0),
        };
        if ordinal < old_below { self.view.current } else { self.view.update }
    }

    fn partition(&self) -> Option<i32> {
        self.view.spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
    }

    /// Deletes pods beyond the wanted ordinals, highest first. False when one must end before the next.
    fn shrink(&self, steps: &mut Vec<Step>) -> bool {
        let ordinals = self.ordinals();
        let surplus: Vec<_> = self.by_ordinal.iter().rev().filter(|(ordinal, _)| !ordinals.contains(ordinal)).collect();
        let unhealthy = |pod: &Pod| is_going(pod) || !is_running_and_ready(pod);
        let first_unhealthy = self.by_ordinal.values().find(|pod| unhealthy(pod)).map(|pod| uid(&pod.metadata));
        for (_, pod) in surplus {
            if is_going(pod) {
                if self.one_by_one {
                    return false;
                }
                continue;
            }
            if self.one_by_one && !is_running_and_ready(pod) && first_unhealthy != Some(uid(&pod.metadata)) {
                return false;
            }
            steps.push(Step::Delete(Arc::clone(pod)));
            if self.one_by_one {
                return false;
            }
        }
        true
    }

    /// Replaces pods of older revisions, highest ordinal first, each only when those above it serve again.
    fn update(&self, steps: &mut Vec<Step>) {
        let strategy = self.view.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let first = start(self.view.spec) + self.partition().unwrap_or(0);
        for ordinal in self.ordinals().rev().filter(|ordinal| *ordinal >= first) {
            let Some(pod) = self.by_ordinal.get(&ordinal) else { return };
            if revision(pod) != self.view.update && !is_going(pod) {
                steps.push(Step::Delete(Arc::clone(pod)));
                return;
            }
            if is_going(pod) || !self.is_available(pod) {
                return;
            }
        }
    }
}

fn status(view: &View) -> StatefulSetStatus {
    let old = view.set.status.clone().unwrap_or_default();
    let count = |takes: &dyn Fn(&Pod) -> bool| -> i32 {
        i32::try_from(view.pods.iter().filter(|pod| takes(pod)).count()).unwrap_or(i32::MAX)
    };
    let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
    let non_zero = |count: i32| Some(count).filter(|count| *count != 0);
    let counts = |of: &str| count(&|pod| !is_going(pod) && revision(pod) == of);
    let mut status = StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: non_zero(count(&is_running_and_ready)),
        available_replicas: Some(count(&|pod| is_running_and_ready(pod) && is_available(pod, min_ready, &view.now))),
        current_replicas: non_zero(counts(view.current)),
        updated_replicas: non_zero(counts(view.update)),
        current_revision: Some(view.current.to_owned()),
        update_revision: Some(view.update.to_owned()),
        collision_count: Some(view.collisions.unwrap_or(0)),
        conditions: old.conditions,
    };
    let all = non_zero(wanted(view.spec));
    let on_delete =
        view.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    let rolled = status.updated_replicas == all && status.ready_replicas == all && non_zero(status.replicas) == all;
    if rolled && !on_delete {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock;
    use crate::ownership::name;

    fn set(replicas: i32, more: Value) -> StatefulSet {
        let mut object = json!({
            "metadata": { "name": "db", "namespace": "n", "generation": 1 },
            "spec": { "replicas": replicas, "selector": {}, "template": { "spec": { "containers": [] } } },
        });
        for (key, value) in more.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn pod(ordinal: i32, revision: &str, phase: &str) -> Arc<Pod> {
        let ready = if phase == "Running" { "True" } else { "False" };
        let pod = json!({
            "metadata": { "name": format!("db-{ordinal}"), "uid": format!("u{ordinal}"), "labels": { HASH_LABEL: revision } },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn steps(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
        let view = View {
            set,
            spec: set.spec.as_ref().unwrap(),
            pods,
            current: "old",
            update: "new",
            collisions: None,
            now: clock::now(),
        };
        let word = |step: &Step| match step {
            Step::Create { ordinal, revision } => format!("create {ordinal} {revision}"),
            Step::Delete(pod) => format!("delete {}", name(&pod.metadata)),
        };
        plan(&view).steps.iter().map(word).collect()
    }

    #[test]
    fn pods_are_made_one_after_another_unless_in_parallel() {
        assert_eq!(steps(&set(3, json!({})), &[]), ["create 0 new"]);
        assert_eq!(steps(&set(3, json!({})), &[pod(0, "new", "Pending")]), Vec::<String>::new());
        assert_eq!(steps(&set(3, json!({})), &[pod(0, "new", "Running")]), ["create 1 new"]);
        let parallel = json!({ "podManagementPolicy": "Parallel" });
        assert_eq!(steps(&set(2, parallel), &[]), ["create 0 new", "create 1 new"]);
        assert_eq!(steps(&set(1, json!({ "ordinals": { "start": 5 } })), &[]), ["create 5 new"]);
    }

    #[test]
    fn the_highest_pod_goes_first() {
        let pods = [pod(0, "new", "Running"), pod(1, "new", "Running"), pod(2, "new", "Running")];
        assert_eq!(steps(&set(1, json!({})), &pods), ["delete db-2"]);
    }

    #[test]
    fn an_update_goes_down_from_the_highest_to_the_partition() {
        let (old0, old1) = (pod(0, "old", "Running"), pod(1, "old", "Running"));
        assert_eq!(steps(&set(2, json!({})), &[old0.clone(), old1.clone()]), ["delete db-1"]);
        let half = [old0.clone(), pod(1, "new", "Running")];
        assert_eq!(steps(&set(2, json!({})), &half), ["delete db-0"]);
        let partitioned = json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 1 } } });
        assert_eq!(steps(&set(2, partitioned.clone()), &half), Vec::<String>::new());
        assert_eq!(steps(&set(2, partitioned), &[]), ["create 0 old"]);
        assert_eq!(
            steps(&set(2, json!({ "updateStrategy": { "type": "OnDelete" } })), &[old0, old1]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_failed_pod_is_made_again() {
        let expected = "delete db-0";
        assert_eq!(steps(&set(1, json!({})), &[pod(0, "new", "Failed")]), [expected]);
    }

    #[test]
    fn a_finished_rollout_makes_the_new_revision_current() {
        let set = set(1, json!({}));
        let pods = [pod(0, "new", "Running")];
        let view = View {
            set: &set,
            spec: set.spec.as_ref().unwrap(),
            pods: &pods,
            current: "old",
            update: "new",
            collisions: None,
            now: clock::now(),
        };
        let status = plan(&view).status.unwrap();
        assert_eq!(status.current_revision.as_deref(), Some("new"));
        assert_eq!((status.current_replicas, status.updated_replicas), (Some(1), Some(1)));
    }
}
