//! Pod garbage collector: deletes pods nobody will miss: too many finished ones, pods of vanished nodes, pods that never ran.
//! Reads Pod, Node. Writes Pod.status, deletes Pod.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::ownership::{name, namespace};
use crate::pods;
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "pod-garbage-collector-controller",
    alias: "podgc",
    account: "pod-garbage-collector",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be gone before its pods go: the cache may only be late.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

async fn run(ctx: Ctx) {
    let pods = ctx.informers.informer::<Pod>();
    let nodes = ctx.informers.informer::<Node>();
    pods.has_synced().await;
    nodes.has_synced().await;
    let mut missing_since: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = ctx.shutdown.cancelled() => return,
        }
        let pods_now = pods.list();
        let gone = gone_nodes(&ctx, &pods_now, &nodes, &mut missing_since).await;
        let view = View {
            pods: &pods_now,
            nodes: &nodes.list(),
            gone: &gone,
            threshold: ctx.config.terminated_pod_gc_threshold,
        };
        for collected in plan(&view) {
            collect(&ctx, &collected).await;
        }
    }
}

/// Nodes that pods name, that are not in the cache, have not been for the quarantine, and that the API server does not have.
async fn gone_nodes(
    ctx: &Ctx,
    pods: &[Arc<Pod>],
    nodes: &Informer<Node>,
    missing_since: &mut BTreeMap<String, Instant>,
) -> HashSet<String> {
    let named: HashSet<String> =
        pods.iter().map(|pod| pods::node_name(pod)).filter(|node| !node.is_empty()).map(str::to_owned).collect();
    let missing: HashSet<String> =
        named.into_iter().filter(|node| nodes.get(&ObjectKey::cluster(node)).is_none()).collect();
    missing_since.retain(|node, _| missing.contains(node));
    let mut gone = HashSet::new();
    for node in missing {
        let since = *missing_since.entry(node.clone()).or_insert_with(Instant::now);
        if since.elapsed() < QUARANTINE {
            continue;
        }
        match ctx.connection.all::<Node>().get_opt(&node).await {
            Ok(None) => {
                gone.insert(node);
            }
            Ok(Some(_)) => {}
            Err(error) => warn!(node, %error, "cannot tell whether the node is gone"),
        }
    }
    gone
}

struct View<'a> {
    pods: &'a [Arc<Pod>],
    nodes: &'a [Arc<Node>],
    gone: &'a HashSet<String>,
    threshold: i32,
}

#[derive(Debug, PartialEq)]
struct Collected {
    pod: Arc<Pod>,
    /// The DisruptionTarget condition's message, for pods that did not end by themselves.
    disrupted: Option<&'static str>,
}

/// Same view, same plan. Touches nothing. A pod is in it once.
fn plan(view: &View) -> Vec<Collected> {
    let mut collected: Vec<Collected> = Vec::new();
    let mut add = |pod: &Arc<Pod>, disrupted| {
        if !collected.iter().any(|one| one.pod.metadata.uid == pod.metadata.uid) {
            collected.push(Collected { pod: pod.clone(), disrupted });
        }
    };
    for pod in surplus(view) {
        add(pod, None);
    }
    let out_of_service: HashSet<&str> =
        view.nodes.iter().filter(|node| is_out_of_service(node)).map(|node| name(&node.metadata)).collect();
    for pod in view.pods {
        let terminating = pod.metadata.deletion_timestamp.is_some();
        if terminating && out_of_service.contains(pods::node_name(pod)) {
            add(pod, None);
        }
        if view.gone.contains(pods::node_name(pod)) {
            add(pod, Some("PodGC: node no longer exists"));
        }
        if terminating && pods::node_name(pod).is_empty() {
            add(pod, None);
        }
    }
    collected
}

/// Finished pods beyond the threshold, oldest first; evicted ones before others.
fn surplus<'a>(view: &'a View) -> Vec<&'a Arc<Pod>> {
    let Ok(threshold) = usize::try_from(view.threshold) else { return Vec::new() };
    if threshold == 0 {
        return Vec::new();
    }
    let mut finished: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| pods::is_terminal(pod)).collect();
    let n_surplus = finished.len().saturating_sub(threshold);
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    finished
        .sort_by_key(|pod| (!evicted(pod), pod.metadata.creation_timestamp.clone(), name(&pod.metadata).to_owned()));
    finished.truncate(n_surplus);
    finished
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or(&[]);
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.iter().any(|taint: &Taint| taint.key == OUT_OF_SERVICE)
}

/// Marks an unfinished pod as failed, then deletes it at once: no kubelet will.
async fn collect(ctx: &Ctx, collected: &Collected) {
    let pod = &collected.pod;
    let api = ctx.connection.namespaced::<Pod>(namespace(&pod.metadata));
    let result = async {
        if !pods::is_terminal(pod) {
            let status = failed_status(pod, collected.disrupted, &clock::now());
            let change = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
            api.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Strategic(change)).await?;
        }
        api.delete(name(&pod.metadata), &DeleteParams::default().grace_period(0)).await
    };
    match result.await {
        Ok(_) => info!(pod = %ObjectKey::of(pod.as_ref()), "pod collected"),
        Err(error) if error.is_not_found() => {}
        Err(error) => warn!(pod = %ObjectKey::of(pod.as_ref()), error = error.text(), "pod could not be collected"),
    }
}

fn failed_status(pod: &Pod, disrupted: Option<&str>, now: &Time) -> serde_json::Value {
    let seen = pod.metadata.generation;
    let conditions = disrupted.map(|message| {
        json!([{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": message, "lastTransitionTime": now, "observedGeneration": seen,
        }])
    });
    match conditions {
        Some(conditions) => json!({ "phase": "Failed", "observedGeneration": seen, "conditions": conditions }),
        None => json!({ "phase": "Failed", "observedGeneration": seen }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pod_name: &str, phase: &str, node: &str, terminating: bool, created: i64) -> Arc<Pod> {
        let object = json!({
            "metadata": { "name": pod_name, "uid": pod_name },
            "spec": { "nodeName": node, "containers": [] }, "status": { "phase": phase },
        });
        let mut pod: Pod = serde_json::from_value(object).unwrap();
        pod.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(created).unwrap()));
        pod.metadata.deletion_timestamp = terminating.then(clock::now);
        Arc::new(pod)
    }

    fn names(view: &View) -> Vec<String> {
        plan(view).iter().map(|one| name(&one.pod.metadata).to_owned()).collect()
    }

    #[test]
    fn only_the_oldest_finished_pods_beyond_the_threshold_go() {
        let pods = [
            pod("new", "Failed", "n", false, 3),
            pod("old", "Succeeded", "n", false, 1),
            pod("runs", "Running", "n", false, 0),
        ];
        let none = HashSet::new();
        assert_eq!(names(&View { pods: &pods, nodes: &[], gone: &none, threshold: 1 }), ["old"]);
        assert_eq!(names(&View { pods: &pods, nodes: &[], gone: &none, threshold: 0 }), Vec::<String>::new());
    }

    #[test]
    fn pods_of_gone_nodes_and_unscheduled_terminating_pods_go() {
        let pods = [
            pod("lost", "Running", "gone", false, 1),
            pod("nowhere", "Pending", "", true, 1),
            pod("waits", "Pending", "", false, 1),
        ];
        let gone = HashSet::from(["gone".to_owned()]);
        let view = View { pods: &pods, nodes: &[], gone: &gone, threshold: 100 };
        assert_eq!(names(&view), ["lost", "nowhere"]);
        assert_eq!(plan(&view)[0].disrupted, Some("PodGC: node no longer exists"));
    }
}
