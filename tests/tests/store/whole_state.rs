//! A member that joins, and is sent everything there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::PATIENCE;
use quarterdeck_tests::drill::quantile;
use quarterdeck_tests::stores::{Setup, Stores};
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::cluster_client::ClusterClient;
use store::proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::Channel;

const VALUE_BYTES: usize = 1 << 20;
const N_VALUES: usize = 192;
/// Anonymous memory of the new member, of which the values in memory, redb's caches of two files and what is on its way take less than
/// half; all values together would be more than all of it.
const MEMORY_BYTES_MAX: u64 = 160 << 20;
const WRITES_BEFORE: usize = 300;

async fn put(channel: &Channel, key: String, value: Vec<u8>) -> Result<()> {
    let request = pb::PutRequest { key: key.into_bytes().into(), value: value.into(), ..Default::default() };
    KvClient::new(channel.clone()).put(request).await?;
    Ok(())
}

/// Small writes one after the other, until `ends` or so many; how long each took.
async fn small_writes(channel: Channel, n_max: usize, ends: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    while took.len() < n_max && !ends.load(Ordering::Relaxed) {
        let began = Instant::now();
        put(&channel, "small".into(), vec![b'x'; 100]).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}

/// What a process has in memory that is in no file.
fn anonymous_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kibibytes.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_sent_a_state_keeps_its_budget_of_it_and_others_write_on() -> Result<()> {
    let flags = vec!["--value-cache-bytes=1048576".to_owned()];
    let setup = Setup { n_members: 3, flags, ..Setup::default() };
    let mut stores = tokio::task::block_in_place(|| Stores::start(setup))?;
    let leader = stores.channel(stores.leader().await?)?;
    for n in 0..N_VALUES {
        put(&leader, format!("large/{n}"), vec![u8::try_from(n % 251)?; VALUE_BYTES]).await?;
    }
    let ends = Arc::new(AtomicBool::new(false));
    let before = small_writes(leader.clone(), WRITES_BEFORE, Arc::clone(&ends)).await?;
    let place = stores.place("new")?;
    let added = pb::MemberAddRequest { peer_ur_ls: vec![stores.peer_url(&place)], is_learner: true };
    let began = Instant::now();
    while let Err(error) = ClusterClient::new(leader.clone()).member_add(added.clone()).await {
        ensure!(began.elapsed() < PATIENCE, "no learner can be added: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let writing = tokio::spawn(small_writes(leader.clone(), usize::MAX, Arc::clone(&ends)));
    let joined = tokio::task::block_in_place(|| stores.begin_to_join(place))?;
    let process = stores.members[joined].process.as_ref().context("a process")?.id();
    let sampling = std::thread::spawn({
        let ends = Arc::clone(&ends);
        move || {
            let mut most = 0;
            while !ends.load(Ordering::Relaxed) {
                most = anonymous_bytes(process).max(most);
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        }
    });
    tokio::task::block_in_place(|| stores.wait_ready(joined))?;
    let (began, channel) = (Instant::now(), stores.channel(joined)?);
    let last =
        pb::RangeRequest { key: format!("large/{}", N_VALUES - 1).into(), serializable: true, ..Default::default() };
    loop {
        let found =
            KvClient::new(channel.clone()).range(last.clone()).await.map(|response| response.into_inner().count);
        if found.as_ref().is_ok_and(|count| *count == 1) {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "the new member does not get the state: {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ends.store(true, Ordering::Relaxed);
    let during = writing.await.context("the writer")??;
    let most = sampling.join().ok().context("the sampler")?;
    let p99 = |took: &[Duration]| quantile(took, 0.99);
    eprintln!("p99 of small writes: {:.2?} before, {:.2?} of {} during", p99(&before), p99(&during), during.len());
    eprintln!("the new member had at most {} MiB in memory", most >> 20);
    ensure!(most > 0 && most < MEMORY_BYTES_MAX, "the new member had {} MiB in memory", most >> 20);
    for n in 0..N_VALUES {
        let key = format!("large/{n}");
        let request = pb::RangeRequest { key: key.clone().into(), serializable: true, ..Default::default() };
        let kvs = KvClient::new(channel.clone()).range(request).await?.into_inner().kvs;
        ensure!(kvs.len() == 1 && kvs[0].value.iter().all(|byte| usize::from(*byte) == n % 251), "{key} is wrong");
    }
    Ok(())
}
