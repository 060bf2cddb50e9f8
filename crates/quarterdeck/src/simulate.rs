//! Simulated nodes: registers Nodes, keeps their leases and status alive, and takes the pods bound to them through the lives a
//! kubelet would give them, without running anything.
//!
//! An API client like any other: one informer watches the pods of all nodes, a work queue hands changed pods to a bounded number
//! of workers, and `pod::next` decides (purely, from the pod alone) what its status is to be. Only pods on nodes of this
//! simulation are touched.

pub(crate) mod kubelet;
mod node;
mod pod;
mod program;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Connection, Informer, InformerFactory, ObjectKey, Shutdown, WorkQueue};
use futures::StreamExt;
use http::HeaderValue;
use http::header::ACCEPT;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, Request};
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;
use serde_json::json;
use tracing::{debug, info, warn};

use node::SimulatedNode;

/// How often a kubelet renews its lease.
const LEASE_RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// How often a kubelet reports an unchanged status.
const STATUS_REPORT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Wait before a failed request is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// What to simulate.
#[derive(Debug, Clone)]
pub(crate) struct SimulateConfig {
    pub count: usize,
    /// Nodes are called `<name_prefix><index>`, counted from zero.
    pub name_prefix: String,
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
    /// Zones the nodes are spread over in turn; 0 leaves the zone label out.
    pub zones: usize,
    /// More labels for every node.
    pub labels: BTreeMap<String, String>,
    /// Requests about pods in flight at the same time; also the bound for heartbeats.
    pub concurrent_requests_max: usize,
}

impl Default for SimulateConfig {
    fn default() -> SimulateConfig {
        SimulateConfig {
            count: 1,
            name_prefix: "node-".into(),
            cpu: "32".into(),
            memory: "256Gi".into(),
            pods: 110,
            zones: 0,
            labels: BTreeMap::new(),
            concurrent_requests_max: 64,
        }
    }
}

/// Runs the nodes until `shutdown`. The Node objects stay, as they do when a kubelet stops.
/// Logs and sessions are served at the `kubelet` endpoint, when there is one.
pub(crate) async fn run(
    config: SimulateConfig,
    kubelet: Option<kubelet::Endpoint>,
    connection: Connection,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let address = kubelet.as_ref().and_then(kubelet::Endpoint::address);
    let limit = config.concurrent_requests_max.max(1);
    let nodes: Vec<Arc<SimulatedNode>> =
        (0..config.count).map(|index| Arc::new(SimulatedNode::new(&config, index, address))).collect();
    let by_name: HashMap<String, Arc<SimulatedNode>> =
        nodes.iter().map(|node| (node.name().to_owned(), node.clone())).collect();
    for_all(&nodes, limit, &shutdown, |node| {
        let (connection, shutdown) = (connection.clone(), shutdown.clone());
        async move { register(&node, &connection, &shutdown).await }
    })
    .await;
    if shutdown.is_cancelled() {
        return Ok(());
    }
    info!(count = nodes.len(), "simulated nodes are registered");
    let factory = InformerFactory::new(connection.clone(), shutdown.clone());
    let pods: Informer<Pod> = factory.informer_of_fields("spec.nodeName!=");
    let fleet = Arc::new(Fleet {
        nodes: by_name,
        pods: pods.clone(),
        queue: WorkQueue::default(),
        written: Mutex::new(HashMap::new()),
        connection: connection.clone(),
    });
    let listener = Arc::downgrade(&fleet);
    pods.on_event(move |event| {
        if let Some(fleet) = listener.upgrade() {
            fleet.on_pod(event);
        }
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..limit {
        let fleet = fleet.clone();
        workers.spawn(async move { fleet.work().await });
    }
    if let Some(endpoint) = kubelet {
        let serving = kubelet::Kubelet::new(fleet.clone()).serve(endpoint, shutdown.clone());
        workers.spawn(serving);
    }
    tokio::select! {
        () = heartbeats(&nodes, limit, &connection, &shutdown) => {}
        () = shutdown.cancelled() => {}
    }
    fleet.queue.shut_down();
    while workers.join_next().await.is_some() {}
    Ok(())
}

/// Registers one node, for as long as it takes.
async fn register(node: &SimulatedNode, connection: &Connection, shutdown: &Shutdown) {
    while let Err(error) = node.register(connection).await {
        warn!(node = node.name(), %error, "node not registered yet");
        tokio::select! {
            () = tokio::time::sleep(RETRY_DELAY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Renews leases and reports status; every node at its own moment of the interval.
async fn heartbeats(nodes: &[Arc<SimulatedNode>], limit: usize, connection: &Connection, shutdown: &Shutdown) {
    /// The interval is cut into this many turns.
    const TURNS: u32 = 100;
    let mut ticks = tokio::time::interval(LEASE_RENEW_INTERVAL / TURNS);
    let rounds_per_report =
        u32::try_from(STATUS_REPORT_INTERVAL.as_secs() / LEASE_RENEW_INTERVAL.as_secs()).unwrap_or(1);
    for tick in 0u32.. {
        ticks.tick().await;
        let turn = (tick % TURNS) as usize;
        let round = tick / TURNS;
        let due: Vec<Arc<SimulatedNode>> = nodes.iter().skip(turn).step_by(TURNS as usize).cloned().collect();
        for_all(&due, limit, shutdown, |node| {
            let connection = connection.clone();
            async move {
                if let Err(error) = node.renew_lease(&connection).await {
                    warn!(node = node.name(), %error, "lease not renewed");
                }
                // Reports are spread over the rounds by the node's index.
                let due = round > 0 && (round as usize + node.index()).is_multiple_of(rounds_per_report as usize);
                if due && let Err(error) = node.report_status(&connection).await {
                    warn!(node = node.name(), %error, "node status not reported");
                }
            }
        })
        .await;
    }
}

async fn for_all<F, Work>(nodes: &[Arc<SimulatedNode>], limit: usize, shutdown: &Shutdown, act: F)
where
    F: Fn(Arc<SimulatedNode>) -> Work,
    Work: Future<Output = ()>,
{
    let all = futures::stream::iter(nodes.iter().cloned()).map(act).buffer_unordered(limit).collect::<()>();
    tokio::select! {
        () = all => {}
        () = shutdown.cancelled() => {}
    }
}

/// The pods of all simulated nodes.
struct Fleet {
    nodes: HashMap<String, Arc<SimulatedNode>>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// By pod uid: the resourceVersion our last write made. What the informer holds below it is old news.
    written: Mutex<HashMap<String, u64>>,
    connection: Connection,
}

impl Fleet {
    fn on_pod(&self, event: &client::Event<Pod>) {
        let pod = event.object();
        let Some(node) = node_of(pod).and_then(|name| self.nodes.get(name)) else { return };
        if let client::Event::Deleted(pod) = event {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            self.written.lock().remove(uid);
            node.release_ip(uid);
            return;
        }
        self.queue.add(ObjectKey::of(&**pod));
    }

    async fn work(&self) {
        while let Some(key) = self.queue.get().await {
            match self.handle(&key).await {
                Ok(Some(delay)) => self.queue.add_after(key.clone(), delay),
                Ok(None) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    debug!(pod = %format_args!("{}/{}", key.namespace, key.name), %error, "pod not brought forward, trying again");
                    self.queue.add_after(key.clone(), RETRY_DELAY);
                }
            }
            self.queue.done(&key);
        }
    }

    /// Brings one pod a step forward; returns when to look again.
    async fn handle(&self, key: &ObjectKey) -> Result<Option<Duration>, kube::Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let Some(node) = node_of(&pod).and_then(|name| self.nodes.get(name)) else { return Ok(None) };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.written.lock().get(&uid).is_some_and(|written| version_of(&pod.metadata) < *written) {
            return Ok(None);
        }
        let host = pod::Host { node_ip: node.ip(), pod_ip: node.pod_ip(&uid, present_ip(&pod)) };
        let step = pod::next(&pod, &host, Timestamp::now());
        let pods = self.connection.namespaced::<Pod>(&key.namespace);
        if let Some(status) = step.status {
            let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
            // Of the answer only the version matters.
            let mut request = Request::new(pods.resource_url())
                .patch_subresource("status", &key.name, &PatchParams::default(), &patch)
                .map_err(kube::Error::BuildRequest)?;
            request.headers_mut().insert(ACCEPT, METADATA_ONLY);
            let now: PartialObjectMeta<Pod> = self.connection.client().request(request).await?;
            self.written.lock().insert(uid.clone(), version_of(&now.metadata));
        }
        if step.delete {
            let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
            pods.delete(&key.name, &params).await?;
        }
        Ok(step.again)
    }
}

fn present_ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Kubelets may not look into a resourceVersion either; here it only saves repeated writes, so anything not a number is oldest.
fn version_of(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}
