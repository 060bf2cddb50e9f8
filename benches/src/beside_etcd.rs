//! `quarterdeck store` beside the `etcd` on PATH: the same client sends the same load to both, in turns, and every figure comes with
//! the ratio. Client and server share the machine, so the server's CPU time an operation says more than its rate.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use quarterdeck_tests::{PATIENCE, Process, binary, free_port, has_program};
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::kv_client::KvClient;
use store::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use store::proto::etcdserverpb::watch_client::WatchClient;
use store::proto::etcdserverpb::watch_request::RequestUnion;
use tonic::transport::{Channel, Endpoint};

use crate::Options;
use crate::process::{cpu_time, resident_bytes};
use crate::report::{milliseconds, percentile, print};

const VALUE_BYTES: usize = 1024;
/// Connections that the clients share.
const CONNECTIONS: usize = 16;
const CLIENTS: usize = 128;
/// Clients whose puts are measured while something else goes on.
const CLIENTS_BESIDE: usize = 16;
/// Keys of the list that is read again and again.
const LISTED: usize = 10_000;
const WATCHERS: usize = 500;
const WATCHED_WRITES: usize = 100;
/// gRPC's own limit is below a large list.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What is measured: etcd, or the store as it comes, or the store told to keep no values in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Etcd,
    Store,
    StoreWithoutCache,
}

/// A cluster under test, of one member or several.
struct Contender {
    members: Vec<Node>,
}

struct Node {
    kind: Kind,
    name: String,
    dir: tempfile::TempDir,
    port: u16,
    peer_port: u16,
    process: Option<Process>,
}

impl Contender {
    async fn start(kind: Kind, n_members: usize) -> Result<Self> {
        let mut members = Vec::new();
        for number in 1..=n_members {
            let (port, peer_port) = (free_port()?, free_port()?);
            let name = format!("m{number}");
            members.push(Node { kind, name, dir: tempfile::tempdir()?, port, peer_port, process: None });
        }
        let peer = |node: &Node| format!("{}=http://127.0.0.1:{}", node.name, node.peer_port);
        let cluster = members.iter().map(peer).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.spawn(&cluster)?;
        }
        let contender = Self { members };
        contender.ready().await?;
        Ok(contender)
    }

    /// Kills the only member, and measures until it answers again.
    async fn restart(&mut self) -> Result<Duration> {
        let mut started = Instant::now();
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                process.kill();
            }
            started = Instant::now();
            let cluster = format!("{}=http://127.0.0.1:{}", member.name, member.peer_port);
            member.spawn(&cluster)?;
        }
        self.ready().await?;
        Ok(started.elapsed())
    }

    async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for member in &self.members {
            loop {
                let answered = async {
                    let get = pb::RangeRequest { key: b"ready".as_slice().into(), ..Default::default() };
                    anyhow::Ok(KvClient::new(member.connect().await?).range(get).await?)
                };
                match answered.await {
                    Ok(_) => break,
                    Err(error) if Instant::now() > deadline => {
                        return Err(error.context(format!("{:?} is not ready", member.kind)));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        }
        Ok(())
    }

    /// Connections to the members in turn.
    async fn connections(&self, n: usize) -> Result<Vec<Channel>> {
        let mut channels = Vec::new();
        for member in self.members.iter().cycle().take(n) {
            channels.push(member.connect().await?);
        }
        Ok(channels)
    }

    /// CPU time of all members.
    fn cpu(&self) -> Result<Duration> {
        self.processes().map(|process| cpu_time(process.id())).sum()
    }

    fn resident_megabytes(&self) -> Result<f64> {
        let bytes: u64 = self.processes().map(|process| resident_bytes(process.id())).sum::<Result<u64>>()?;
        Ok(bytes as f64 / 1e6)
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().filter_map(|member| member.process.as_ref())
    }
}

impl Node {
    fn spawn(&mut self, cluster: &str) -> Result<()> {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = Command::new(if self.kind == Kind::Etcd { "etcd".into() } else { binary() });
        match self.kind {
            Kind::Etcd => {}
            Kind::Store => {
                command.arg("store");
            }
            Kind::StoreWithoutCache => {
                command.args(["store", "--value-cache-bytes=0"]);
            }
        }
        command.arg("--data-dir").arg(self.dir.path().join("data")).args(["--name", &self.name, "--log-level=error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", cluster, "--quota-backend-bytes=8000000000"]);
        command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        self.process = Some(Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
        Ok(())
    }

    async fn connect(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port))?;
        let endpoint =
            endpoint.tcp_nodelay(true).initial_stream_window_size(1 << 20).initial_connection_window_size(8 << 20);
        Ok(endpoint.connect().await?)
    }
}

fn key(n: usize) -> bytes::Bytes {
    format!("/bench/keys/{n:020}").into()
}

fn put_of(n: usize) -> pb::PutRequest {
    pb::PutRequest { key: key(n), value: vec![b'v'; VALUE_BYTES].into(), ..Default::default() }
}

/// What one load cost.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    per_second: f64,
    /// The server's CPU time an operation, in microseconds.
    cpu_us: f64,
    median_ms: f64,
    late_ms: f64,
}

/// Runs operations from a number of clients for a while.
async fn load<F>(
    contender: &Contender,
    clients: usize,
    span: Duration,
    operation: impl Fn(Channel, usize) -> F,
) -> Result<Sample>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let channels = contender.connections(CONNECTIONS.min(clients)).await?;
    let next = Arc::new(AtomicU64::new(0));
    let (cpu, started) = (contender.cpu()?, Instant::now());
    let mut running = futures::stream::FuturesUnordered::new();
    let begin = |client: usize| {
        let n = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or_default();
        let work = operation(channels[client % channels.len()].clone(), n);
        async move {
            let began = Instant::now();
            // A task of its own, so that clients use more than one thread.
            tokio::spawn(work).await.context("a client panicked")??;
            anyhow::Ok((client, began.elapsed()))
        }
    };
    running.extend((0..clients).map(begin));
    let mut latencies = Vec::new();
    while let Some(done) = running.next().await {
        let (client, latency) = done?;
        latencies.push(latency);
        if started.elapsed() < span {
            running.push(begin(client));
        }
    }
    let (took, cpu) = (started.elapsed(), contender.cpu()? - cpu);
    let n = latencies.len() as f64;
    Ok(Sample {
        per_second: n / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / n,
        median_ms: milliseconds(percentile(&mut latencies, 50)),
        late_ms: milliseconds(percentile(&mut latencies, 99)),
    })
}

async fn put(channel: Channel, n: usize) -> Result<()> {
    KvClient::new(channel).put(put_of(n % 50_000)).await?;
    Ok(())
}

async fn get(channel: Channel, n: usize) -> Result<()> {
    let request = pb::RangeRequest { key: key(n % LISTED), ..Default::default() };
    let response = KvClient::new(channel).range(request).await?;
    ensure!(response.get_ref().kvs.len() == 1, "a key is missing");
    Ok(())
}

async fn list(channel: Channel, _: usize) -> Result<()> {
    let request = pb::RangeRequest { key: key(0), range_end: key(LISTED), ..Default::default() };
    let response = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).range(request).await?;
    ensure!(response.get_ref().kvs.len() == LISTED, "keys are missing");
    Ok(())
}

/// Many watchers of one key: how fast, and at what cost, events are delivered.
async fn watch(contender: &Contender) -> Result<Sample> {
    let watched = bytes::Bytes::from_static(b"/bench/watched");
    let channels = contender.connections(CONNECTIONS).await?;
    let mut streams = Vec::new();
    for n in 0..WATCHERS {
        let create = pb::WatchCreateRequest { key: watched.clone(), ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures::stream::iter([request]).chain(futures::stream::pending());
        let mut client = WatchClient::new(channels[n % channels.len()].clone());
        let mut stream = client.watch(requests).await?.into_inner();
        let created = stream.message().await?.context("the watch ended")?;
        ensure!(created.created, "not created");
        streams.push(stream);
    }
    let (cpu, started) = (contender.cpu()?, Instant::now());
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let mut n_events = 0;
                while n_events < WATCHED_WRITES {
                    let response = stream.message().await?.context("the watch ended")?;
                    n_events += response.events.len();
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let mut writer = KvClient::new(channels[0].clone());
    let mut latencies = Vec::new();
    for _ in 0..WATCHED_WRITES {
        let began = Instant::now();
        writer
            .put(pb::PutRequest { key: watched.clone(), value: vec![b'v'; 100].into(), ..Default::default() })
            .await?;
        latencies.push(began.elapsed());
    }
    for reader in readers {
        reader.await.context("a watcher panicked")??;
    }
    let n = (WATCHERS * WATCHED_WRITES) as f64;
    Ok(Sample {
        per_second: n / started.elapsed().as_secs_f64(),
        cpu_us: (contender.cpu()? - cpu).as_secs_f64() * 1e6 / n,
        median_ms: milliseconds(percentile(&mut latencies, 50)),
        late_ms: milliseconds(percentile(&mut latencies, 99)),
    })
}

/// Fills the store with keys of its own.
async fn fill(contender: &Contender, n_keys: usize) -> Result<()> {
    let channels = contender.connections(CONNECTIONS).await?;
    let puts = (0..n_keys).map(|n| {
        let mut client = KvClient::new(channels[n % channels.len()].clone());
        async move { client.put(put_of(n)).await.map(drop) }
    });
    let mut running = futures::stream::iter(puts).buffer_unordered(CLIENTS);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(what: &str, unit: &str, values: [f64; 2]) {
    let [etcd, ours] = values;
    print(&format!("| {what} | {etcd:.1} {unit} | {ours:.1} {unit} | {:.2}x |", ours / etcd));
}

/// A load by name, and how many clients make it.
#[derive(Clone, Copy, Debug)]
enum Load {
    Put(usize),
    Get,
    List,
    Watch,
    /// Puts while somebody reads all keys again and again.
    PutBesideLists,
    /// Puts while the state file is defragmented again and again.
    PutBesideDefragmentation,
}

impl Load {
    async fn run(self, contender: &Contender, span: Duration) -> Result<Sample> {
        match self {
            Self::Put(clients) => load(contender, clients, span, put).await,
            Self::Get => load(contender, CLIENTS, span, get).await,
            Self::List => load(contender, 4, span, list).await,
            Self::Watch => watch(contender).await,
            Self::PutBesideLists => {
                let beside = Beside(tokio::spawn(list_everything(contender.members[0].connect().await?)));
                let sample = load(contender, CLIENTS_BESIDE, span, put).await;
                drop(beside);
                sample
            }
            Self::PutBesideDefragmentation => {
                let beside = Beside(tokio::spawn(defragment(contender.members[0].connect().await?)));
                let sample = load(contender, CLIENTS_BESIDE, span, put).await;
                drop(beside);
                sample
            }
        }
    }
}

/// Work beside a load, which ends with it.
struct Beside(tokio::task::JoinHandle<Result<()>>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn list_everything(channel: Channel) -> Result<()> {
    let mut client = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    loop {
        client.range(pb::RangeRequest { key: key(0), range_end: key(usize::MAX), ..Default::default() }).await?;
    }
}

async fn defragment(channel: Channel) -> Result<()> {
    let mut client = MaintenanceClient::new(channel);
    loop {
        client.defragment(pb::DefragmentRequest {}).await?;
    }
}

/// Runs a load on both, in turns, and prints the medians.
async fn measure(what: &str, load: Load, contenders: &[Contender; 2], options: &Options) -> Result<()> {
    let span = Duration::from_secs(options.store_seconds);
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for _ in 0..options.rounds {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            samples.push(load.run(contender, span).await.with_context(|| what.to_owned())?);
        }
    }
    let of =
        |figure: fn(&Sample) -> f64| samples.each_ref().map(|samples| median(samples.iter().map(figure).collect()));
    row(what, "/s", of(|sample| sample.per_second));
    row(&format!("{what}: server CPU"), "µs", of(|sample| sample.cpu_us));
    row(&format!("{what}: median"), "ms", of(|sample| sample.median_ms));
    row(&format!("{what}: 99 %"), "ms", of(|sample| sample.late_ms));
    Ok(())
}

pub(crate) async fn compare(options: &Options) -> Result<()> {
    if !has_program("etcd") {
        return Ok(());
    }
    let version = Command::new("etcd").arg("--version").output()?.stdout;
    let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
    print(&format!("{version}; {CLIENTS} clients on {CONNECTIONS} connections, {VALUE_BYTES} B values\n"));
    print("| what | etcd | quarterdeck store | ratio |\n|---|---|---|---|");
    {
        let contenders = [Contender::start(Kind::Etcd, 1).await?, Contender::start(Kind::Store, 1).await?];
        for contender in &contenders {
            fill(contender, LISTED).await?;
        }
        measure("put", Load::Put(CLIENTS), &contenders, options).await?;
        measure("put, 1 client", Load::Put(1), &contenders, options).await?;
        measure("get, linearizable", Load::Get, &contenders, options).await?;
        measure("list of 10 000 keys", Load::List, &contenders, options).await?;
        measure("watch event", Load::Watch, &contenders, options).await?;
        measure("put beside lists of all keys", Load::PutBesideLists, &contenders, options).await?;
        measure("put beside defragmentation", Load::PutBesideDefragmentation, &contenders, options).await?;
    }
    {
        let contenders = [Contender::start(Kind::Etcd, 3).await?, Contender::start(Kind::Store, 3).await?];
        for contender in &contenders {
            fill(contender, LISTED).await?;
        }
        measure("3 members: put", Load::Put(CLIENTS), &contenders, options).await?;
        measure("3 members: put, 1 client", Load::Put(1), &contenders, options).await?;
        measure("3 members: get, linearizable", Load::Get, &contenders, options).await?;
    }
    footprint(options).await
}

/// Memory and restart of fresh clusters of one member that hold a number of keys.
async fn footprint(options: &Options) -> Result<()> {
    let mut contenders = Vec::new();
    for kind in [Kind::Etcd, Kind::Store, Kind::StoreWithoutCache] {
        let contender = Contender::start(kind, 1).await?;
        fill(&contender, options.store_keys).await?;
        contenders.push(contender);
    }
    // What is only there until the next commit or collection is not counted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let resident = contenders.iter().map(Contender::resident_megabytes).collect::<Result<Vec<_>>>()?;
    let keys = options.store_keys;
    row(&format!("resident with {keys} keys"), "MB", [resident[0], resident[1]]);
    row(&format!("resident with {keys} keys, no value cache"), "MB", [resident[0], resident[2]]);
    let mut restarts: [Vec<f64>; 3] = Default::default();
    for _ in 0..options.rounds {
        for (contender, restarts) in contenders.iter_mut().zip(&mut restarts) {
            restarts.push(milliseconds(contender.restart().await?));
        }
    }
    let restarts = restarts.map(median);
    row("restart after kill -9, until it answers", "ms", [restarts[0], restarts[1]]);
    let resident = contenders.iter().map(Contender::resident_megabytes).collect::<Result<Vec<_>>>()?;
    row("resident after the restart", "MB", [resident[0], resident[1]]);
    row("resident after the restart, no value cache", "MB", [resident[0], resident[2]]);
    Ok(())
}
