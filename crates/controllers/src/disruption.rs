//! Disruption controller: how many pods of a PodDisruptionBudget may go now.
//! Reads PodDisruptionBudget, Pod and the workloads that own pods. Writes PodDisruptionBudget.status, Pod.status. Source:
//! policy/v1 docs.
//!
//! A second queue takes back the DisruptionTarget condition of pods that were not disrupted after all.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Event, EventType, Informer, LabelSelectorExt, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_error::ApiErrorExt;
use crate::clock::{self, seconds_between};
use crate::deployment::resolve;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{controller_of, name, namespace, refers_to};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "disruption-controller",
    alias: "disruption",
    account: "disruption-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 1;
/// An eviction promised this long ago without a deletion seen is taken as not happening.
const DELETION_TIMEOUT_SECONDS: i64 = 120;

struct Controller {
    ctx: Ctx,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let controller = Controller {
        ctx: ctx.clone(),
        budgets: ctx.informers.informer(),
        pods: ctx.informers.informer(),
        sets: ctx.informers.informer(),
        deployments: ctx.informers.informer(),
        stateful: ctx.informers.informer(),
        controllers: ctx.informers.informer(),
        own_writes: OwnWrites::default(),
    };
    let queue = WorkQueue::default();
    controller.budgets.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    controller.pods.on_event({
        let (queue, budgets) = (queue.clone(), controller.budgets.clone());
        move |event: &Event<Pod>| {
            for pod in event.states() {
                for budget in budgets.by_namespace(namespace(&pod.metadata)) {
                    if selects(&budget, pod) {
                        queue.add(ObjectKey::of(budget.as_ref()));
                    }
                }
            }
        }
    });
    controller.budgets.has_synced().await;
    controller.pods.has_synced().await;
    controller.sets.has_synced().await;
    controller.deployments.has_synced().await;
    controller.stateful.has_synced().await;
    controller.controllers.has_synced().await;
    let stale = WorkQueue::default();
    controller.pods.on_event({
        let stale = stale.clone();
        move |event: &Event<Pod>| {
            if stale_in(event.object(), &clock::now()).is_some() {
                stale.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    let conditions = StaleConditions { ctx: ctx.clone(), pods: controller.pods.clone() };
    tokio::join!(
        work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS),
        work(&ctx, CONTROLLER.name, Arc::new(conditions), stale, WORKERS),
    );
}

/// Seconds until a pod's announced disruption is taken as not happening; None when none was announced, or it is on its way.
fn stale_in(pod: &Pod, now: &Time) -> Option<i64> {
    let announced = pods::condition(pod, "DisruptionTarget").filter(|one| one.status == "True")?;
    // A kubelet may take as long as it wants.
    let by_kubelet = announced.reason.as_deref() == Some("TerminationByKubelet");
    if by_kubelet || pod.metadata.deletion_timestamp.is_some() || pods::is_terminal(pod) {
        return None;
    }
    Some(DELETION_TIMEOUT_SECONDS - seconds_between(announced.last_transition_time.as_ref()?, now))
}

/// Takes back what was not done.
struct StaleConditions {
    ctx: Ctx,
    pods: Informer<Pod>,
}

impl Reconciler for StaleConditions {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let now = clock::now();
        let Some(pod) = self.pods.get(key) else { return Ok(Requeue::Never) };
        match stale_in(&pod, &now) {
            None => return Ok(Requeue::Never),
            Some(left) if left > 0 => return Ok(Requeue::after_seconds(left)),
            Some(_) => {}
        }
        let condition = json!({ "type": "DisruptionTarget", "status": "False", "reason": null, "message": null, "lastTransitionTime": now, "observedGeneration": pod.metadata.generation });
        let change = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
        let api = self.ctx.connection.namespaced::<Pod>(&key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(change)).await {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selector.takes(pod.metadata.labels.as_ref()))
}

struct View<'a> {
    budget: &'a PodDisruptionBudget,
    spec: &'a PodDisruptionBudgetSpec,
    /// Matching pods that have not ended.
    pods: &'a [Arc<Pod>],
    /// The sizes of the controllers of these pods together, where known.
    scale: i32,
    now: Time,
}

struct Plan {
    status: PodDisruptionBudgetStatus,
    requeue_seconds: Option<i64>,
}

/// Same view, same plan. Touches nothing.
fn plan(view: &View) -> Plan {
    let old = view.budget.status.clone().unwrap_or_default();
    let n_pods = n_of(view.pods.len());
    let (expected, desired) = match (&view.spec.max_unavailable, &view.spec.min_available) {
        (Some(max_unavailable), _) => {
            let may_miss = resolve(max_unavailable, view.scale, true);
            (view.scale, (view.scale - may_miss).max(0))
        }
        (None, Some(IntOrString::Int(number))) => (n_pods, *number),
        (None, Some(share)) => (view.scale, resolve(share, view.scale, true)),
        (None, None) => (n_pods, 0),
    };
    let (disrupted, requeue_seconds) = still_disrupted(view, &old);
    let promised = |pod: &Pod| disrupted.contains_key(name(&pod.metadata));
    let healthy = view
        .pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && pods::is_ready(pod) && !promised(pod));
    let current = n_of(healthy.count());
    let allowed = if expected > 0 { (current - desired).max(0) } else { 0 };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
        observed_generation: view.budget.metadata.generation,
        conditions: old.conditions,
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set_condition(&mut status, allowed > 0, reason, String::new(), &view.now);
    Plan { status, requeue_seconds }
}

/// Promised evictions whose pods have not yet been seen going, and when the next of them is given up.
fn still_disrupted(view: &View, old: &PodDisruptionBudgetStatus) -> (BTreeMap<String, Time>, Option<i64>) {
    let mut kept = BTreeMap::new();
    let mut next: Option<i64> = None;
    for (pod_name, at) in old.disrupted_pods.iter().flatten() {
        let pod = view.pods.iter().find(|pod| name(&pod.metadata) == pod_name);
        let waits = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        let left = DELETION_TIMEOUT_SECONDS - seconds_between(at, &view.now);
        if waits && left > 0 {
            kept.insert(pod_name.clone(), at.clone());
            next = Some(next.map_or(left, |next| next.min(left)));
        }
    }
    (kept, next)
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, value: bool, reason: &str, message: String, now: &Time) {
    const TYPE: &str = "DisruptionAllowed";
    let value = if value { "True" } else { "False" };
    let new = Condition {
        type_: TYPE.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: now.clone(),
        observed_generation: status.observed_generation,
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|old| old.type_ == TYPE) {
        Some(old) if old.status == value => {
            *old = Condition { last_transition_time: old.last_transition_time.clone(), ..new }
        }
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

fn n_of(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(budget) = self.budgets.get(key) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let Some(spec) = &budget.spec else { return Ok(Requeue::Never) };
        let mut pods = self.pods.by_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod) && !pods::is_terminal(pod));
        if pods.is_empty() {
            self.ctx.events.event(budget.as_ref(), EventType::Normal, "NoPods", "No matching pods found");
        }
        let scale = self.scale(&budget, &pods);
        let plan = plan(&View { budget: &budget, spec, pods: &pods, scale, now: clock::now() });
        if Some(&plan.status) != budget.status.as_ref() {
            let changed = PodDisruptionBudget { status: Some(plan.status), ..budget.as_ref().clone() };
            let api = self.ctx.connection.namespaced::<PodDisruptionBudget>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.own_writes.wrote(key, &self.budgets, &written);
        }
        Ok(plan.requeue_seconds.map_or(Requeue::Never, Requeue::after_seconds))
    }
}

impl Controller {
    /// Each controller once; pods without one that is known are reported, and do not count.
    fn scale(&self, budget: &Arc<PodDisruptionBudget>, pods: &[Arc<Pod>]) -> i32 {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        let mut unmanaged: Vec<&str> = Vec::new();
        for pod in pods {
            match self.size_of_owner(pod) {
                Some((uid, size)) => drop(sizes.insert(uid, size)),
                None => unmanaged.push(name(&pod.metadata)),
            }
        }
        let by_number =
            matches!(budget.spec.as_ref().and_then(|spec| spec.min_available.as_ref()), Some(IntOrString::Int(_)));
        if !unmanaged.is_empty() && !by_number {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB \
                 cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
                 \".spec.minAvailable\" field of the PDB to an integer value.",
                shown(budget)
            );
            self.ctx.events.event(budget.as_ref(), EventType::Warning, "UnmanagedPods", message);
        }
        sizes.values().sum()
    }

    fn size_of_owner(&self, pod: &Pod) -> Option<(String, i32)> {
        let owner = controller_of(&pod.metadata)?;
        let key = ObjectKey::new(namespace(&pod.metadata), &owner.name);
        let size = if refers_to::<ReplicaSet>(owner) {
            let set = self.sets.get(&key)?;
            if let Some(parent) = controller_of(&set.metadata).filter(|parent| refers_to::<Deployment>(parent)) {
                let deployment = self.deployments.get(&ObjectKey::new(&key.namespace, &parent.name))?;
                return Some((parent.uid.clone(), deployment.spec.as_ref()?.replicas.unwrap_or(1)));
            }
            set.spec.as_ref()?.replicas
        } else if refers_to::<StatefulSet>(owner) {
            self.stateful.get(&key)?.spec.as_ref()?.replicas
        } else if refers_to::<ReplicationController>(owner) {
            self.controllers.get(&key)?.spec.as_ref()?.replicas
        } else {
            return None;
        };
        Some((owner.uid.clone(), size.unwrap_or(1)))
    }
}

/// The selector as upstream's Go prints it in messages.
fn shown(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let labels: Vec<String> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: Vec<String> = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|one| format!("{{{} {} {:?}}}", one.key, one.operator, one.values.clone().unwrap_or_default()))
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.concat(),
        expressions.join(",")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(pod_name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({ "metadata": { "name": pod_name }, "status": { "conditions": [{ "type": "Ready", "status": status }] } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn check(spec: Value, n_ready: usize, scale: i32, expected: (i32, i32, i32, i32)) {
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({ "metadata": { "name": "b" }, "spec": spec })).unwrap();
        let pods: Vec<_> = (0..4).map(|n| pod(&format!("p{n}"), n < n_ready)).collect();
        let view = View { budget: &budget, spec: budget.spec.as_ref().unwrap(), pods: &pods, scale, now: clock::now() };
        let status = plan(&view).status;
        let counts = (status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed);
        let expected = (Some(expected.0), Some(expected.1), Some(expected.2), Some(expected.3));
        assert_eq!(counts, expected, "{spec} with {n_ready} ready");
    }

    #[test]
    fn a_disruption_that_does_not_come_is_taken_back() {
        let now = Time("2024-01-01T00:03:00Z".parse().unwrap());
        let left = |reason: &str, at: &str, phase: &str| {
            let condition =
                json!({ "type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": at });
            let pod = json!({ "metadata": {}, "status": { "phase": phase, "conditions": [condition] } });
            stale_in(&serde_json::from_value(pod).unwrap(), &now)
        };
        assert_eq!(left("EvictionByEvictionAPI", "2024-01-01T00:02:00Z", "Running"), Some(60));
        assert_eq!(left("EvictionByEvictionAPI", "2024-01-01T00:00:30Z", "Running"), Some(-30));
        assert_eq!(left("TerminationByKubelet", "2024-01-01T00:00:00Z", "Running"), None);
        assert_eq!(left("EvictionByEvictionAPI", "2024-01-01T00:00:00Z", "Failed"), None);
    }

    #[test]
    fn budgets_follow_their_bounds() {
        check(json!({ "minAvailable": 2 }), 3, 0, (4, 2, 3, 1));
        check(json!({ "minAvailable": 4 }), 3, 0, (4, 4, 3, 0));
        check(json!({ "minAvailable": "50%" }), 3, 5, (5, 3, 3, 0));
        check(json!({ "maxUnavailable": "25%" }), 4, 5, (5, 3, 4, 1));
        check(json!({ "maxUnavailable": 1 }), 4, 4, (4, 3, 4, 1));
    }

    #[test]
    fn a_promised_eviction_counts_until_its_pod_goes_or_time_runs_out() {
        let now = clock::now();
        let mut budget: PodDisruptionBudget = serde_json::from_value(json!({ "spec": { "minAvailable": 1 } })).unwrap();
        let disrupted = [("p0".to_owned(), now.clone()), ("gone".to_owned(), now.clone())].into();
        budget.status =
            Some(PodDisruptionBudgetStatus { disrupted_pods: Some(disrupted), ..PodDisruptionBudgetStatus::default() });
        let pods = [pod("p0", true), pod("p1", true)];
        let plan = plan(&View { budget: &budget, spec: budget.spec.as_ref().unwrap(), pods: &pods, scale: 2, now });
        assert_eq!(plan.status.disruptions_allowed, Some(0));
        assert_eq!(plan.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
        assert_eq!(plan.requeue_seconds, Some(120));
    }
}
