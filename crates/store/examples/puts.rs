//! Puts and reads per second through the etcd API: the embedded store behind our server against an installed etcd, in turn on
//! the same machine, disk and client. Each server is a process of its own, so that its CPU time can be told from the client's.
//!
//! `cargo run --release -p store --example puts -- [seconds per load] [bytes per value]`
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::etcd::{Server, ServerConfig};
use store::proto::etcdserverpb::kv_client::KvClient;
use store::proto::etcdserverpb::{PutRequest, RangeRequest};
use store::{EmbeddedConfig, EmbeddedStore};
use tonic::transport::{Channel, Endpoint};

/// The binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Concurrent clients, and connections they share.
const LOADS: &[(usize, usize)] = &[(1, 1), (64, 16), (256, 16), (512, 32)];
const KEYS: usize = 10_000;
/// Linux counts CPU time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, serve, address, dir] = &args[..]
        && serve == "serve"
    {
        return serve_embedded(address, Path::new(dir)).await;
    }
    let seconds: u64 = args.get(1).map_or(Ok(5), |text| text.parse())?;
    let value_bytes: usize = args.get(2).map_or(Ok(1024), |text| text.parse())?;
    let value = Bytes::from(vec![b'x'; value_bytes]);
    let duration = Duration::from_secs(seconds);

    println!("| load | server | ops/s | p50 ms | p99 ms | server CPU us/op |");
    println!("|---|---|---|---|---|---|");
    for (clients, connections) in LOADS {
        for (what, reads) in [("put", false), ("get", true)] {
            for subject in [Subject::etcd()?, Subject::ours()?] {
                subject.measure(what, reads, *clients, *connections, duration, &value).await?;
            }
        }
    }
    Ok(())
}

async fn serve_embedded(address: &str, dir: &Path) -> Result<(), Error> {
    let store = EmbeddedStore::open(EmbeddedConfig { data_dir: Some(dir.to_owned()), ..EmbeddedConfig::default() })?;
    let config = ServerConfig { listen: vec![address.parse()?], ..ServerConfig::default() };
    Server::bind(Arc::new(store), config).await?.run(std::future::pending()).await;
    Ok(())
}

/// A server process with an empty data directory.
struct Subject {
    name: &'static str,
    url: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn free_address() -> Result<String, Error> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl Subject {
    fn etcd() -> Result<Self, Error> {
        let dir = tempfile::tempdir_in(".")?;
        let url = format!("http://{}", free_address()?);
        let peer = format!("http://{}", free_address()?);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path().join("data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        Self::start("etcd", url, command, dir)
    }

    fn ours() -> Result<Self, Error> {
        let dir = tempfile::tempdir_in(".")?;
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", &address]).arg(dir.path().join("data"));
        Self::start("quarterdeck", format!("http://{address}"), command, dir)
    }

    fn start(name: &'static str, url: String, mut command: Command, dir: tempfile::TempDir) -> Result<Self, Error> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { name, url, child, _dir: dir })
    }

    async fn connect(&self) -> Result<Channel, Error> {
        let endpoint = Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match endpoint.connect().await {
                Ok(channel) => return Ok(channel),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// User and system time so far, in seconds.
    fn cpu(&self) -> Result<f64, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = fields.get(11..13).ok_or("no CPU time in /proc")?.iter().map(|field| field.parse::<f64>());
        Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
    }

    async fn measure(
        &self,
        what: &str,
        reads: bool,
        clients: usize,
        connections: usize,
        duration: Duration,
        value: &Bytes,
    ) -> Result<(), Error> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(self.connect().await?);
        }
        let mut first = KvClient::new(channels[0].clone());
        // The first leader takes a moment.
        while first.range(RangeRequest { key: "x".into(), ..Default::default() }).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if reads {
            for n in 0..KEYS / 10 {
                first.put(PutRequest { key: key(n), value: value.clone(), ..Default::default() }).await?;
            }
        }
        let cpu_before = self.cpu()?;
        let end = Instant::now() + duration;
        let tasks = (0..clients).map(|client| {
            let kv = KvClient::new(channels[client % connections].clone());
            tokio::spawn(one_client(kv, client, reads, end, value.clone()))
        });
        let mut latencies = Vec::new();
        for task in futures::future::join_all(tasks).await {
            latencies.extend(task??);
        }
        let cpu = self.cpu()? - cpu_before;
        latencies.sort_unstable();
        let count = latencies.len();
        let at = |share: f64| latencies[((count - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        println!(
            "| {what}, {clients} clients | {} | {:.0} | {:.2} | {:.2} | {:.0} |",
            self.name,
            count as f64 / duration.as_secs_f64(),
            at(0.5),
            at(0.99),
            cpu * 1e6 / count as f64,
        );
        Ok(())
    }
}

fn key(n: usize) -> Bytes {
    format!("/registry/bench/default/object-{n:06}").into()
}

async fn one_client(
    mut kv: KvClient<Channel>,
    client: usize,
    reads: bool,
    end: Instant,
    value: Bytes,
) -> Result<Vec<Duration>, tonic::Status> {
    let mut latencies = Vec::new();
    let mut n = client * 7919;
    while Instant::now() < end {
        n += 1;
        let start = Instant::now();
        if reads {
            kv.range(RangeRequest { key: key(n % (KEYS / 10)), ..Default::default() }).await?;
        } else {
            kv.put(PutRequest { key: key(n % KEYS), value: value.clone(), ..Default::default() }).await?;
        }
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}
