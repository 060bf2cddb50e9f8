//! `quarterdeck store` beside the `etcd` on PATH: the same client sends the same load to both, in turns, and every figure comes with
//! the ratio. Client and server share the machine, so the server's CPU time an operation says more than its rate.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use quarterdeck_tests::{PATIENCE, Process, binary, free_port, has_program};
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::kv_client::KvClient;
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
/// Keys of the list that is read again and again.
const LISTED: usize = 10_000;
const WATCHERS: usize = 500;
const WATCHED_WRITES: usize = 100;
/// gRPC's own limit is below a large list.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A server under test.
struct Contender {
    name: &'static str,
    dir: tempfile::TempDir,
    port: u16,
    peer_port: u16,
    process: Process,
}

impl Contender {
    async fn start(name: &'static str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (port, peer_port) = (free_port()?, free_port()?);
        let process = spawn(name, dir.path(), port, peer_port)?;
        let contender = Self { name, dir, port, peer_port, process };
        contender.ready().await?;
        Ok(contender)
    }

    /// Kills it, and measures until it answers again.
    async fn restart(&mut self) -> Result<Duration> {
        self.process.kill();
        let started = Instant::now();
        self.process = spawn(self.name, self.dir.path(), self.port, self.peer_port)?;
        self.ready().await?;
        Ok(started.elapsed())
    }

    async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = async {
                let get = pb::RangeRequest { key: b"ready".as_slice().into(), ..Default::default() };
                anyhow::Ok(KvClient::new(self.connect().await?).range(get).await?)
            };
            match answered.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{} is not ready", self.name)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    async fn connect(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port))?;
        let endpoint =
            endpoint.tcp_nodelay(true).initial_stream_window_size(1 << 20).initial_connection_window_size(8 << 20);
        Ok(endpoint.connect().await?)
    }

    async fn connections(&self, n: usize) -> Result<Vec<Channel>> {
        let mut channels = Vec::new();
        for _ in 0..n {
            channels.push(self.connect().await?);
        }
        Ok(channels)
    }

    fn cpu(&self) -> Result<Duration> {
        cpu_time(self.process.id())
    }
}

fn spawn(name: &str, dir: &Path, port: u16, peer_port: u16) -> Result<Process> {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = match name {
        "etcd" => Command::new("etcd"),
        _ => {
            let mut command = Command::new(binary());
            command.arg("store");
            command
        }
    };
    command.arg("--data-dir").arg(dir.join("data")).args(["--name=one", "--log-level=error"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg(format!("--initial-cluster=one={peer}")).arg("--quota-backend-bytes=8000000000");
    command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
    Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))
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

pub(crate) async fn compare(options: &Options) -> Result<()> {
    if !has_program("etcd") {
        return Ok(());
    }
    let version = Command::new("etcd").arg("--version").output()?.stdout;
    let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
    print(&format!("{version}; {CLIENTS} clients on {CONNECTIONS} connections, {VALUE_BYTES} B values\n"));
    print("| what | etcd | quarterdeck store | ratio |\n|---|---|---|---|");
    let mut contenders = [Contender::start("etcd").await?, Contender::start("store").await?];
    let span = Duration::from_secs(options.store_seconds);
    for contender in &contenders {
        fill(contender, LISTED).await?;
    }
    for (what, clients) in [
        ("put", CLIENTS),
        ("put, 1 client", 1),
        ("get, linearizable", CLIENTS),
        ("list of 10 000 keys", 4),
        ("watch event", 0),
    ] {
        let mut samples: [Vec<Sample>; 2] = Default::default();
        for _ in 0..options.rounds {
            for (contender, samples) in contenders.iter().zip(&mut samples) {
                samples.push(match what {
                    "put" | "put, 1 client" => load(contender, clients, span, put).await?,
                    "get, linearizable" => load(contender, clients, span, get).await?,
                    "list of 10 000 keys" => load(contender, clients, span, list).await?,
                    "watch event" => watch(contender).await?,
                    other => bail!("no load is called {other}"),
                });
            }
        }
        let of =
            |figure: fn(&Sample) -> f64| samples.each_ref().map(|samples| median(samples.iter().map(figure).collect()));
        row(what, "/s", of(|sample| sample.per_second));
        row(&format!("{what}: server CPU"), "µs", of(|sample| sample.cpu_us));
        row(&format!("{what}: median"), "ms", of(|sample| sample.median_ms));
    }
    for contender in &contenders {
        fill(contender, options.store_keys).await?;
    }
    // What is only there until the next commit or collection is not counted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut resident = [0.0; 2];
    for (contender, resident) in contenders.iter().zip(&mut resident) {
        *resident = resident_bytes(contender.process.id())? as f64 / 1e6;
    }
    row(&format!("resident with {} keys", options.store_keys), "MB", resident);
    let mut restarts: [Vec<f64>; 2] = Default::default();
    for _ in 0..options.rounds {
        for (contender, restarts) in contenders.iter_mut().zip(&mut restarts) {
            restarts.push(milliseconds(contender.restart().await?));
        }
    }
    row("restart after kill -9, until it answers", "ms", restarts.map(median));
    let mut after = [0.0; 2];
    for (contender, after) in contenders.iter().zip(&mut after) {
        *after = resident_bytes(contender.process.id())? as f64 / 1e6;
    }
    row("resident after the restart", "MB", after);
    Ok(())
}
