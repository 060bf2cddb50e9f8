//! The engine from the outside: events in, outcomes out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{Engine, Event, Failure, Outcome};
use crate::framework::Status;
use crate::profile::{Profile, ProfileConfig};
use crate::queue::{Pending, QueuedPod};

fn engine() -> Engine {
    Engine::new(vec![Profile::new(&ProfileConfig::default()).unwrap()], 1)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(name: &str, cpu: &str) -> Event {
    let object =
        json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "9"}}});
    Event::NodeApplied(Arc::new(serde_json::from_value(object).unwrap()))
}

fn pod(name: &str, priority: i32, extra: Value) -> Event {
    let mut object = json!({"metadata": {"name": name, "uid": name, "namespace": "d"}, "spec": {"priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
    for (key, value) in extra.as_object().unwrap() {
        object[key] = value.clone();
    }
    Event::PodApplied(Arc::new(serde_json::from_value(object).unwrap()))
}

fn bound(outcome: Option<Outcome>) -> (QueuedPod, Arc<str>) {
    match outcome {
        Some(Outcome::Bind { pod, node }) => (pod, node),
        Some(Outcome::Failed(failure)) => panic!("{failure:?}"),
        _ => panic!("nothing was scheduled"),
    }
}

fn failed(outcome: Option<Outcome>) -> Failure {
    match outcome {
        Some(Outcome::Failed(failure)) => failure,
        Some(Outcome::Bind { node, .. }) => panic!("bound to {node}"),
        _ => panic!("nothing was tried"),
    }
}

#[test]
fn decided_pods_count_before_they_are_bound_and_no_longer_when_binding_fails() {
    let mut engine = engine();
    engine.handle(node("n", "3"), at(0));
    engine.handle(pod("a", 0, json!({})), at(0));
    engine.handle(pod("b", 0, json!({})), at(0));
    let (first, place) = bound(engine.schedule_next(at(0)));
    assert_eq!(
        failed(engine.schedule_next(at(0))).message,
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
        0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let result = Err(Status::error("DefaultBinder", "the server said no"));
    engine.handle(Event::BindingFinished { pod: first, node: place, result }, at(1));
    assert_eq!(&*bound(engine.schedule_next(at(2))).0.pod.name, "b");
}

#[test]
fn a_new_node_brings_waiting_pods_back() {
    let mut engine = engine();
    engine.handle(pod("a", 0, json!({})), at(0));
    let failure = failed(engine.schedule_next(at(0)));
    assert_eq!((failure.reason, failure.message.as_str()), ("Unschedulable", "no nodes available to schedule pods"));
    engine.handle(node("small", "1"), at(1));
    engine.tick(at(1));
    assert_eq!(
        failed(engine.schedule_next(at(1))).message,
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
        0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    engine.handle(node("tiny", "1"), at(10));
    assert_eq!(engine.pending(), Pending { unschedulable: 1, ..Pending::default() });
    engine.handle(node("large", "4"), at(10));
    assert_eq!(&*bound(engine.schedule_next(at(10))).1, "large");
}

#[test]
fn a_pod_that_is_refused_before_its_devices_are_looked_at_is_told_so() {
    let mut engine = engine();
    engine.handle(node("n", "1"), at(0));
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "v"}});
    engine.handle(pod("p", 0, json!({"spec": {"containers": [], "volumes": [volume]}})), at(0));
    let failure = failed(engine.schedule_next(at(0)));
    assert_eq!(failure.message, "0/1 nodes are available: persistentvolumeclaim \"v\" not found. not found");
}

#[test]
fn preemptor_keeps_its_promise_while_the_victim_leaves_and_then_takes_its_place() {
    let mut engine = engine();
    engine.handle(node("n", "3"), at(0));
    let victim = |extra: Value| {
        let mut object = json!({"spec": {"priority": 0, "nodeName": "n",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
        for (key, value) in extra.as_object().unwrap() {
            object[key] = value.clone();
        }
        pod("low", 0, object)
    };
    engine.handle(victim(json!({})), at(0));
    engine.handle(pod("vip", 10, json!({})), at(0));
    let failure = failed(engine.schedule_next(at(0)));
    assert_eq!(failure.message, "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(failure.nominated_node.as_deref(), Some("n"));
    assert_eq!(failure.victims.iter().map(|victim| &*victim.name).collect::<Vec<_>>(), ["low"]);
    let leaving = victim(json!({
        "metadata": {"name": "low", "uid": "low", "namespace": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}}));
    engine.handle(leaving, at(1));
    engine.tick(at(400));
    let failure = failed(engine.schedule_next(at(400)));
    assert_eq!(
        failure.message,
        "0/1 nodes are available: 1 Insufficient cpu. \
        no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node."
    );
    assert_eq!(failure.nominated_node, None);
    // Another pod may not slip into the room that is being made.
    let gone = json!({"metadata": {"name": "low", "uid": "low", "namespace": "d"}, "spec": {"containers": []}});
    engine.handle(Event::PodDeleted(Arc::new(serde_json::from_value(gone).unwrap())), at(401));
    engine.handle(pod("thief", 5, json!({})), at(401));
    engine.tick(at(420));
    let (preemptor, place) = bound(engine.schedule_next(at(420)));
    assert_eq!((&*preemptor.pod.name, &*place), ("vip", "n"));
}

#[test]
fn pods_of_other_schedulers_are_left_alone() {
    let mut engine = engine();
    engine.handle(node("n", "3"), at(0));
    engine.handle(pod("a", 0, json!({"spec": {"schedulerName": "other", "containers": []}})), at(0));
    assert!(engine.schedule_next(at(0)).is_none());
}

#[test]
fn more_important_pods_displace_promises_to_lesser_ones() {
    let mut engine = engine();
    engine.handle(node("n", "3"), at(0));
    engine.handle(
        pod(
            "low",
            0,
            json!({"spec": {"priority": 0, "nodeName": "n",
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}}),
        ),
        at(0),
    );
    engine.handle(pod("middle", 5, json!({})), at(0));
    assert_eq!(failed(engine.schedule_next(at(0))).nominated_node.as_deref(), Some("n"));
    engine.handle(pod("high", 10, json!({})), at(0));
    let failure = failed(engine.schedule_next(at(0)));
    assert_eq!(failure.nominated_node.as_deref(), Some("n"));
    assert_eq!(failure.displaced.iter().map(|pod| &*pod.name).collect::<Vec<_>>(), ["middle"]);
}
