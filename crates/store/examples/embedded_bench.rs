//! Prints what the embedded store does per second on this machine: `cargo run --release -p store --example embedded_bench
//! [data-dir]` (without a directory, in memory). Puts of 1 KiB at several numbers of writers, gets of one key, puts beside
//! endless lists of 100 000 keys, watch fan-out.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::{EmbeddedConfig, EmbeddedStore, KeyRange, Op, Put, RangeRequest, Store, StoreError, Txn, WatchRequest};

const VALUE: &[u8] = &[b'x'; 1024];
const SPAN: Duration = Duration::from_secs(2);

fn put(key: String) -> Txn {
    let put = Put { key: key.into(), value: bytes::Bytes::from_static(VALUE), ..Put::default() };
    Txn { success: vec![Op::Put(put)], ..Txn::default() }
}

async fn put_rate(store: &Arc<EmbeddedStore>, writers: usize) -> Result<(), StoreError> {
    let start = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < SPAN {
                let began = Instant::now();
                store.txn(put(format!("/bench/{writer:08}/{:08}", latencies.len() % 1000))).await?;
                latencies.push(began.elapsed());
            }
            Ok::<_, StoreError>(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.map_err(|error| StoreError::Fatal(error.to_string()))??);
    }
    latencies.sort_unstable();
    let (n, p50, p99) = (latencies.len(), latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]);
    println!("put, {writers:4} writers: {:8.0}/s  p50 {p50:?}  p99 {p99:?}", n as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

async fn get_time(store: &EmbeddedStore) -> Result<(), StoreError> {
    const GETS: u32 = 200_000;
    let request = RangeRequest { range: KeyRange::key("/bench/00000000/00000000"), ..RangeRequest::default() };
    let start = Instant::now();
    for _ in 0..GETS {
        store.range(request.clone()).await?;
    }
    println!("get, linearizable:  {:?} each", start.elapsed() / GETS);
    Ok(())
}

async fn lists(store: &Arc<EmbeddedStore>) -> Result<(), StoreError> {
    for chunk in 0..1000 {
        let ops = (0..100).map(|n| put(format!("/lists/{chunk:04}/{n:04}")).success.remove(0));
        store.txn(Txn { success: ops.collect(), ..Txn::default() }).await?;
    }
    let request = RangeRequest { range: KeyRange::prefix("/lists/"), ..RangeRequest::default() };
    let is_done = Arc::new(AtomicBool::new(false));
    let n_lists = Arc::new(AtomicU64::new(0));
    let lister = {
        let (store, is_done, n_lists, request) = (store.clone(), is_done.clone(), n_lists.clone(), request.clone());
        tokio::spawn(async move {
            while !is_done.load(Ordering::Relaxed) {
                n_lists.fetch_add(store.range(request.clone()).await.map_or(0, |_| 1), Ordering::Relaxed);
            }
        })
    };
    println!("beside endless lists of 100 000 keys:");
    let start = Instant::now();
    put_rate(store, 8).await?;
    is_done.store(true, Ordering::Relaxed);
    let _joined = lister.await;
    let per_second = n_lists.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    println!("  lists:            {per_second:8.1}/s");
    let page = RangeRequest { limit: 500, ..request };
    let start = Instant::now();
    for _ in 0..100 {
        store.range(page.clone()).await?;
    }
    println!("page of 500 of 100 000, with count: {:?}", start.elapsed() / 100);
    Ok(())
}

async fn fan_out(store: &Arc<EmbeddedStore>) -> Result<(), StoreError> {
    const WATCHERS: usize = 1000;
    const WRITES: usize = 200;
    let mut tasks = Vec::new();
    for _ in 0..WATCHERS {
        let request = WatchRequest { range: KeyRange::key("/fan"), ..WatchRequest::default() };
        let mut watch = store.watch(request).await?;
        tasks.push(tokio::spawn(async move {
            let mut n_seen = 0;
            while n_seen < WRITES {
                let Some(Ok(batch)) = watch.next().await else { break };
                n_seen += batch.events.len();
            }
        }));
    }
    let start = Instant::now();
    for _ in 0..WRITES {
        store.txn(put("/fan".into())).await?;
    }
    for task in tasks {
        let _joined = task.await;
    }
    let n_events = (WATCHERS * WRITES) as f64;
    println!("watch, {WATCHERS} watchers of a key: {:.0} events/s", n_events / start.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data_dir = std::env::args().nth(1).map(std::path::PathBuf::from);
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig { data_dir, ..EmbeddedConfig::default() })?);
    for writers in [1, 64, 512] {
        put_rate(&store, writers).await?;
    }
    get_time(&store).await?;
    lists(&store).await?;
    fan_out(&store).await?;
    tokio::task::spawn_blocking(move || store.shutdown()).await?;
    Ok(())
}
