//! Taint eviction: deletes pods from nodes with NoExecute taints they do not tolerate, after as long as they do.
//! Reads Node, Pod. Writes Pod.status, deletes Pod. Source: taints and tolerations docs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint, Toleration};
use kube::api::{DeleteParams, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::ownership::{name, namespace};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "taint-eviction-controller",
    alias: "",
    account: "node-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 8;

struct Controller {
    ctx: Ctx,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// When each pod waiting for its eviction began to wait.
    waiting: Mutex<HashMap<ObjectKey, Waiting>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    uid: Option<String>,
    since: Timestamp,
}

async fn run(ctx: Ctx) {
    let pods = ctx.informers.informer::<Pod>();
    let nodes = ctx.informers.informer::<Node>();
    pods::index_by_node(&pods);
    let queue = WorkQueue::default();
    pods.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    nodes.on_event({
        let (queue, pods) = (queue.clone(), pods.clone());
        move |event| {
            let changed = match event {
                Event::Updated { old, new } => no_execute(old) != no_execute(new),
                Event::Added(node) | Event::Deleted(node) => !no_execute(node).is_empty(),
            };
            if changed {
                let node = name(&event.object().metadata).to_owned();
                pods.by_index("node", &node).iter().for_each(|pod| queue.add(ObjectKey::of(pod.as_ref())));
            }
        }
    });
    pods.has_synced().await;
    nodes.has_synced().await;
    let controller = Controller { ctx: ctx.clone(), pods, nodes, waiting: Mutex::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    Evict,
    /// After so many seconds from the moment the taints were first seen.
    EvictAfter(i64),
}

/// Every taint must be tolerated; of the tolerations used, the shortest time counts.
fn judge(taints: &[Taint], tolerations: &[Toleration]) -> Verdict {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let mut used = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if used.peek().is_none() {
            return Verdict::Evict;
        }
        let times = used.filter_map(|toleration| toleration.toleration_seconds);
        shortest = times.chain(shortest).min();
    }
    match shortest {
        None => Verdict::Stay,
        Some(seconds) if seconds <= 0 => Verdict::Evict,
        Some(seconds) => Verdict::EvictAfter(seconds),
    }
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (part(&toleration.effect), part(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match part(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => part(&toleration.value) == part(&taint.value),
        _ => false,
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let pod = self.pods.get(key);
        let Some(pod) = pod.filter(|pod| pods::is_active(pod) && !pods::node_name(pod).is_empty()) else {
            self.waiting.lock().remove(key);
            return Ok(Requeue::Never);
        };
        let taints = self
            .nodes
            .get(&ObjectKey::cluster(pods::node_name(&pod)))
            .map(|node| no_execute(&node))
            .unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        match judge(&taints, &tolerations) {
            Verdict::Stay => {
                if self.waiting.lock().remove(key).is_some() {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.tell(key, message);
                }
                Ok(Requeue::Never)
            }
            Verdict::Evict => self.evict(key, &pod).await,
            Verdict::EvictAfter(seconds) => {
                let left = seconds - self.waited_seconds(key, &pod);
                if left <= 0 { self.evict(key, &pod).await } else { Ok(Requeue::after_seconds(left)) }
            }
        }
    }
}

impl Controller {
    fn waited_seconds(&self, key: &ObjectKey, pod: &Pod) -> i64 {
        let now = Timestamp::now();
        let fresh = Waiting { uid: pod.metadata.uid.clone(), since: now };
        let mut waiting = self.waiting.lock();
        let entry = waiting.entry(key.clone()).or_insert_with(|| fresh.clone());
        if entry.uid != fresh.uid {
            *entry = fresh;
        }
        now.as_second() - entry.since.as_second()
    }

    /// Upstream names the pod, and not which one of this name it was.
    fn tell(&self, key: &ObjectKey, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            ..ObjectReference::default()
        };
        self.ctx.events.event_about(about, EventType::Normal, "TaintManagerEviction", message);
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<Requeue, ReconcileError> {
        self.waiting.lock().remove(key);
        let message = format!("Marking for deletion Pod {key}");
        self.tell(key, message);
        let (reason, why) = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        let condition = json!({ "reason": reason, "message": why, "observedGeneration": pod.metadata.generation });
        delete_marked(&self.ctx, pod, condition, &DeleteParams::default()).await
    }
}

/// Says in the pod's status that it is disrupted, with what the condition is to say of it, then deletes it.
pub(crate) async fn delete_marked(
    ctx: &Ctx,
    pod: &Pod,
    mut condition: Value,
    params: &DeleteParams,
) -> Result<Requeue, ReconcileError> {
    let (api, name) = (ctx.connection.namespaced::<Pod>(namespace(&pod.metadata)), name(&pod.metadata));
    condition["type"] = json!("DisruptionTarget");
    condition["status"] = json!("True");
    condition["lastTransitionTime"] = json!(clock::now());
    let change = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
    let result = async {
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(change)).await?;
        api.delete(name, params).await
    };
    match result.await {
        Ok(_) => Ok(Requeue::Never),
        Err(error) if error.is_not_found() => Ok(Requeue::Never),
        Err(error) if error.is_conflict() => Ok(Requeue::After(Duration::from_secs(1))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn the_shortest_used_toleration_counts() {
        for (taints, tolerations, expected) in [
            (vec![taint("a")], vec![], Verdict::Evict),
            (vec![taint("a")], vec![toleration("a", None)], Verdict::Stay),
            (vec![taint("a"), taint("b")], vec![toleration("a", None)], Verdict::Evict),
            (
                vec![taint("a"), taint("b")],
                vec![toleration("a", Some(300)), toleration("b", Some(60))],
                Verdict::EvictAfter(60),
            ),
            (vec![taint("a")], vec![toleration("a", Some(300)), toleration("b", Some(1))], Verdict::EvictAfter(300)),
            (vec![taint("a")], vec![toleration("a", Some(0))], Verdict::Evict),
            (vec![], vec![toleration("a", Some(0))], Verdict::Stay),
        ] {
            assert_eq!(judge(&taints, &tolerations), expected, "{taints:?} {tolerations:?}");
        }
    }
}
