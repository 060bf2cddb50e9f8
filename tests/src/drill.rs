//! A drill: masters are killed one after the other under a mixed load, and what clients saw is held against what is there at the end.
//!
//! No acknowledged write may be lost, controllers must not act twice, and nearly all requests of a client that knows all masters are
//! served. How long writes and the scheduling of pods stand still after each kill is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::endpoints::{Endpoints, balance};
use crate::masters::{Master, form, wait_for_voters};
use crate::{Process, Server, binary, quarterdeck, takes_pods, text};

const N_WORKERS: usize = 4;
/// Between two requests of a worker: the drill shares its machine with the masters.
const WORKER_PAUSE: Duration = Duration::from_millis(25);
/// A request that was not answered by any master in this time was not served.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a fail-over should take.
const FAIL_OVER_WANTED: Duration = Duration::from_secs(2);
/// What a fail-over may take before it is given up.
const FAIL_OVER_MAX: Duration = Duration::from_secs(30);
const DEPLOYMENT_INTERVAL: Duration = Duration::from_secs(2);
const DEPLOYMENT_REPLICAS: usize = 2;
/// A node takes 110 pods; five minutes make more than three nodes can.
const N_NODES: usize = 8;
/// Time to come to rest at the end.
const REST_MAX: Duration = Duration::from_secs(120);
/// Share of requests that must be served.
const SERVED_MIN: f64 = 0.995;

#[derive(Clone, Debug)]
pub struct Plan {
    pub n_masters: usize,
    pub n_kills: usize,
    /// From one kill to the next, at least: everybody has to be back first.
    pub kill_interval: Duration,
    pub victims: Victims,
    pub ending: Ending,
}

/// Who is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    Random,
    /// The one whose store leads.
    Leader,
    /// One after the other.
    InTurn,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// SIGKILL.
    Killed,
    /// SIGTERM: a restart, of which a client that knows all masters loses nothing.
    Stopped,
}

/// What the drill saw.
#[derive(Debug, Default)]
pub struct Report {
    pub n_kills: usize,
    pub n_requests: u64,
    pub n_served: u64,
    pub n_acknowledged: usize,
    /// Acknowledged writes that are not there.
    pub lost: Vec<String>,
    /// What two controllers at once would leave behind.
    pub doubled: Vec<String>,
    /// From a kill to the next acknowledged write, and to a node for the next pod.
    pub writes: Vec<Duration>,
    pub schedules: Vec<Duration>,
}

impl Report {
    pub fn share_served(&self) -> f64 {
        if self.n_requests == 0 { 0.0 } else { self.n_served as f64 / self.n_requests as f64 }
    }

    /// An error when a promise was broken. How fast a fail-over has to be depends on the machine, and is the caller's to judge.
    pub fn check(&self) -> Result<()> {
        ensure!(self.n_kills > 0 && self.n_acknowledged > 0, "nothing happened: {self}");
        ensure!(self.lost.is_empty(), "acknowledged writes were lost: {self}");
        ensure!(self.doubled.is_empty(), "controllers acted twice: {self}");
        ensure!(self.share_served() >= SERVED_MIN, "too few requests were served: {self}");
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = self.share_served() * 100.0;
        writeln!(f, "masters killed: {}", self.n_kills)?;
        writeln!(f, "requests: {} of {} served ({percent:.2} %)", self.n_served, self.n_requests)?;
        writeln!(f, "acknowledged writes: {}, lost: {} {:?}", self.n_acknowledged, self.lost.len(), self.lost)?;
        writeln!(f, "double acts of controllers: {} {:?}", self.doubled.len(), self.doubled)?;
        for (what, times) in [("next write", &self.writes), ("next pod scheduled", &self.schedules)] {
            let [median, most, all] = [0.5, 0.99, 1.0].map(|share| quantile(times, share));
            let slow = times.iter().filter(|time| **time > FAIL_OVER_WANTED).count();
            writeln!(
                f,
                "{what} after a kill: median {median:.2?}, 99 % {most:.2?}, at most {all:.2?}; {slow} of {} slower than {FAIL_OVER_WANTED:?}",
                times.len()
            )?;
        }
        Ok(())
    }
}

pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

/// What the clients count and remember.
#[derive(Debug, Default)]
struct Ledger {
    n_requests: AtomicU64,
    n_served: AtomicU64,
    created: Mutex<BTreeSet<String>>,
    /// The highest number that was acknowledged for each counter.
    counters: Mutex<BTreeMap<String, u64>>,
    deployments: Mutex<BTreeSet<String>>,
    lost: Mutex<Vec<String>>,
    ends: AtomicBool,
}

impl Ledger {
    fn count(&self, served: bool) {
        self.n_requests.fetch_add(1, Ordering::Relaxed);
        self.n_served.fetch_add(u64::from(served), Ordering::Relaxed);
    }

    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}

pub async fn run(plan: &Plan) -> Result<Report> {
    let names = (0..plan.n_masters).map(|n| Master::new(&format!("m{n}")));
    let masters: Arc<Vec<Master>> = Arc::new(names.collect::<Result<_>>()?);
    let mut servers: Vec<Option<Server>> = {
        let masters = Arc::clone(&masters);
        blocking(move || form(&masters)).await?.into_iter().map(Some).collect()
    };
    let kubeconfig = masters[0].durable.dir.path().join("admin.kubeconfig");
    let urls: Vec<String> = masters.iter().map(Master::url).collect();
    let endpoints = Endpoints::new(&kubeconfig, &urls).await?;
    let _nodes = nodes(&masters).await?;
    nodes_take_pods(&endpoints).await?;

    let ledger = Arc::new(Ledger::default());
    let mut clients = Vec::new();
    for worker in 0..N_WORKERS {
        clients.push(tokio::spawn(work(endpoints.clone(), Arc::clone(&ledger), worker)));
    }
    clients.push(tokio::spawn(deploy(endpoints.clone(), Arc::clone(&ledger))));

    let mut report = Report::default();
    for n in 1..=plan.n_kills {
        let next = Instant::now() + plan.kill_interval;
        let victim = match plan.victims {
            Victims::Random => rand::random_range(0..masters.len()),
            Victims::Leader => place_of_leader(&masters, servers.iter().flatten().next().context("a master")?)?,
            Victims::InTurn => n % masters.len(),
        };
        let mut server = servers[victim].take().context("the victim runs")?;
        let killed = Instant::now();
        match plan.ending {
            Ending::Killed => server.process.kill(),
            Ending::Stopped => {
                let ended = blocking(move || server.process.terminate()).await?;
                ensure!(ended, "m{victim} did not end well");
            }
        }
        report.n_kills = n;
        let (write, schedule) = tokio::join!(next_write(&endpoints, n, killed), next_schedule(&endpoints, n, killed));
        let (write, schedule) = (write?, schedule?);
        eprintln!("{n}: m{victim} gone; a write after {write:.2?}, a pod scheduled after {schedule:.2?}");
        report.writes.push(write);
        report.schedules.push(schedule);
        let again = Arc::clone(&masters);
        let server = blocking(move || {
            let server = again[victim].start()?;
            wait_for_voters(&server, again.len())?;
            Ok(server)
        });
        servers[victim] = Some(server.await.with_context(|| format!("the restart of m{victim}"))?);
        tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
    }
    ledger.ends.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.context("a client of the drill")?;
    }
    settle(&endpoints, &ledger, &mut report).await?;
    Ok(report)
}

fn place_of_leader(masters: &[Master], server: &Server) -> Result<usize> {
    let leader = crate::lab::leader(server)?;
    masters.iter().position(|master| master.name == leader).context("the leader's place")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Simulated nodes that reach whichever master is there.
async fn nodes(masters: &[Master]) -> Result<Process> {
    let port = balance(masters.iter().map(|master| master.durable.secure_port).collect()).await?;
    let dir = masters[0].durable.dir.path();
    let server = format!("https://127.0.0.1:{port}");
    let output = quarterdeck(&["kubeconfig", "--server", &server, "--data-dir", text(dir)?])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kubeconfig: PathBuf = dir.join("balanced.kubeconfig");
    std::fs::write(&kubeconfig, output.stdout)?;
    let mut command = Command::new(binary());
    command.args(["simulate-nodes", "--count", &N_NODES.to_string(), "--kubeconfig"]).arg(kubeconfig);
    Process::spawn(&mut command)
}

/// Before that, a pod would wait for nodes and not for masters.
async fn nodes_take_pods(endpoints: &Endpoints) -> Result<()> {
    let deadline = Instant::now() + REST_MAX;
    let list = |client| async move { Api::<Node>::all(client).list(&ListParams::default()).await };
    while endpoints.request(FAIL_OVER_MAX, list).await.0?.iter().filter(|node| takes_pods(node)).count() < N_NODES {
        ensure!(Instant::now() < deadline, "the nodes do not become ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map
}

/// Creates an object; true when it is there because of that.
async fn create(endpoints: &Endpoints, name: &str, patience: Duration) -> bool {
    let ask = |client| async move {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        api.create(&PostParams::default(), &config_map(name)).await
    };
    match endpoints.request(patience, ask).await {
        (Ok(_), _) => true,
        // The attempt before was carried out, and its answer lost with the master.
        (Err(kube::Error::Api(status)), true) => status.code == 409,
        (Err(_), _) => false,
    }
}

/// One client: creates, reads what it wrote, lists, counts, and so on.
async fn work(endpoints: Endpoints, ledger: Arc<Ledger>, worker: usize) {
    let counter = format!("counter-{worker}");
    let counter = counter.as_str();
    while !create(&endpoints, counter, PATIENCE).await && !ledger.ends() {}
    for n in 1_u64.. {
        if ledger.ends() {
            return;
        }
        let name = format!("drill-{worker}-{n}");
        let name = name.as_str();
        let created = create(&endpoints, name, PATIENCE).await;
        ledger.count(created);
        if created {
            ledger.created.lock().insert(name.to_owned());
            let get = |client| async move { Api::<ConfigMap>::default_namespaced(client).get_opt(name).await };
            let (found, _) = endpoints.request(PATIENCE, get).await;
            ledger.count(found.is_ok());
            if matches!(found, Ok(None)) {
                ledger.lost.lock().push(format!("{name} was not there when read back"));
            }
        }
        let list = |client| async move {
            Api::<ConfigMap>::default_namespaced(client).list(&ListParams::default().limit(20)).await
        };
        ledger.count(endpoints.request(PATIENCE, list).await.0.is_ok());
        let change = json!({ "data": { "n": n.to_string() } });
        let patch = |client| {
            let change = Patch::Merge(change.clone());
            async move {
                Api::<ConfigMap>::default_namespaced(client).patch(counter, &PatchParams::default(), &change).await
            }
        };
        let patched = endpoints.request(PATIENCE, patch).await.0.is_ok();
        ledger.count(patched);
        if patched {
            ledger.counters.lock().insert(counter.to_owned(), n);
        }
        tokio::time::sleep(WORKER_PAUSE).await;
    }
}

/// Makes Deployments for the controllers and the scheduler to work on.
async fn deploy(endpoints: Endpoints, ledger: Arc<Ledger>) {
    for n in 0.. {
        if ledger.ends() {
            return;
        }
        let name = format!("drill-{n}");
        let labels = json!({ "app": name });
        let spec = json!({
            "metadata": { "name": name },
            "spec": { "replicas": DEPLOYMENT_REPLICAS, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "c", "image": "x" }] } } },
        });
        let deployment: Deployment = serde_json::from_value(spec).expect("a deployment");
        let deployment = &deployment;
        let ask = |client| async move {
            Api::<Deployment>::default_namespaced(client).create(&PostParams::default(), deployment).await
        };
        let made = match endpoints.request(PATIENCE, ask).await {
            (Ok(_), _) => true,
            (Err(kube::Error::Api(status)), true) => status.code == 409,
            (Err(_), _) => false,
        };
        ledger.count(made);
        if made {
            ledger.deployments.lock().insert(name);
        }
        tokio::time::sleep(DEPLOYMENT_INTERVAL).await;
    }
}

async fn next_write(endpoints: &Endpoints, n: usize, killed: Instant) -> Result<Duration> {
    let is_there = create(endpoints, &format!("after-kill-{n}"), FAIL_OVER_MAX).await;
    ensure!(is_there, "no write succeeded within {FAIL_OVER_MAX:?} of a kill");
    Ok(killed.elapsed())
}

/// From the kill until a pod that is made right after it has a node.
async fn next_schedule(endpoints: &Endpoints, n: usize, killed: Instant) -> Result<Duration> {
    let name = format!("after-kill-{n}");
    let name = name.as_str();
    let spec = json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "x" }] } });
    let pod: Pod = serde_json::from_value(spec)?;
    let pod = &pod;
    let make = |client| async move { Api::<Pod>::default_namespaced(client).create(&PostParams::default(), pod).await };
    match endpoints.request(FAIL_OVER_MAX, make).await {
        (Ok(_), _) => {}
        (Err(kube::Error::Api(status)), true) if status.code == 409 => {}
        (Err(error), _) => return Err(error).context("no pod could be made after a kill"),
    }
    let get = |client| async move { Api::<Pod>::default_namespaced(client).get(name).await };
    while killed.elapsed() < FAIL_OVER_MAX {
        let (found, _) = endpoints.request(PATIENCE, get).await;
        if found.is_ok_and(|pod| pod.spec.is_some_and(|spec| spec.node_name.is_some())) {
            return Ok(killed.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("no pod was scheduled within {FAIL_OVER_MAX:?} of a kill")
}

/// Waits until controllers have come to rest, and compares.
async fn settle(endpoints: &Endpoints, ledger: &Ledger, report: &mut Report) -> Result<()> {
    let deadline = Instant::now() + REST_MAX;
    let wanted = ledger.deployments.lock().clone();
    loop {
        let found: BTreeMap<String, i32> = all::<Deployment>(endpoints).await?.into_iter().map(ready).collect();
        let is_ready = |name: &&String| found.get(*name) == Some(&(DEPLOYMENT_REPLICAS as i32));
        let missing: Vec<_> = wanted.iter().filter(|name| !is_ready(name)).collect();
        if missing.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            describe(endpoints, &missing).await?;
            bail!("deployments do not become ready: {missing:?}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let maps = all::<ConfigMap>(endpoints).await?;
    let maps: BTreeMap<_, _> = maps.into_iter().map(|map| (map.metadata.name.unwrap_or_default(), map.data)).collect();
    let created = ledger.created.lock().clone();
    report.lost = std::mem::take(&mut *ledger.lost.lock());
    report.lost.extend(created.iter().filter(|name| !maps.contains_key(*name)).cloned());
    for (counter, acknowledged) in ledger.counters.lock().iter() {
        let data = maps.get(counter).cloned().flatten().unwrap_or_default();
        let is = data.get("n").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        if is < *acknowledged {
            report.lost.push(format!("{counter} is {is}, {acknowledged} was acknowledged"));
        }
    }
    report.n_acknowledged = created.len() + ledger.counters.lock().values().map(|n| *n as usize).sum::<usize>();
    report.n_requests = ledger.n_requests.load(Ordering::Relaxed);
    report.n_served = ledger.n_served.load(Ordering::Relaxed);

    let app = |labels: &Option<BTreeMap<String, String>>| labels.as_ref().and_then(|labels| labels.get("app").cloned());
    let mut sets = BTreeMap::<String, usize>::new();
    for set in all::<ReplicaSet>(endpoints).await? {
        *sets.entry(app(&set.metadata.labels).unwrap_or_default()).or_default() += 1;
    }
    let mut pods = BTreeMap::<String, usize>::new();
    for pod in all::<Pod>(endpoints).await? {
        if let Some(app) = app(&pod.metadata.labels) {
            *pods.entry(app).or_default() += 1;
        }
    }
    for name in &wanted {
        let (n_sets, n_pods) = (sets.get(name).copied().unwrap_or(0), pods.get(name).copied().unwrap_or(0));
        if (n_sets, n_pods) != (1, DEPLOYMENT_REPLICAS) {
            report.doubled.push(format!("{name} has {n_sets} replica sets and {n_pods} pods"));
        }
    }
    // A pod too many would have been deleted again.
    let deletions =
        all::<Event>(endpoints).await?.into_iter().filter(|e| e.reason.as_deref() == Some("SuccessfulDelete"));
    report.doubled.extend(deletions.map(|event| event.message.unwrap_or_default()));
    Ok(())
}

/// Prints what there is of these Deployments.
async fn describe(endpoints: &Endpoints, names: &[&String]) -> Result<()> {
    let is_of = |labels: &Option<BTreeMap<String, String>>| {
        labels.as_ref().and_then(|labels| labels.get("app")).is_some_and(|app| names.contains(&app))
    };
    for deployment in all::<Deployment>(endpoints).await? {
        if names.iter().any(|name| Some(*name) == deployment.metadata.name.as_ref()) {
            eprintln!("{}", json!([deployment.metadata, deployment.status]));
        }
    }
    for set in all::<ReplicaSet>(endpoints).await?.iter().filter(|set| is_of(&set.metadata.labels)) {
        eprintln!("{}", json!([set.metadata, set.status]));
    }
    for pod in all::<Pod>(endpoints).await?.iter().filter(|pod| is_of(&pod.metadata.labels)) {
        eprintln!("{}", json!([pod.metadata, pod.status]));
    }
    Ok(())
}

fn ready(deployment: Deployment) -> (String, i32) {
    let n_ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
    (deployment.metadata.name.unwrap_or_default(), n_ready)
}

async fn all<K>(endpoints: &Endpoints) -> Result<Vec<K>>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let ask = |client| async move { Api::<K>::default_namespaced(client).list(&ListParams::default()).await };
    Ok(endpoints.request(FAIL_OVER_MAX, ask).await.0?.items)
}
