//! A drill of the store alone: members of a real cluster are killed, paused and cut off under load, and what clients were told is held
//! against what happened.
//!
//! Nothing acknowledged may be lost, done twice or read late; watches tell every revision once; members agree. With root and network
//! namespaces, links are cut too, also in one direction; otherwise members are only killed and paused.

mod clients;
mod history;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::kv_client::KvClient;
use store::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;

use self::clients::{Book, Told, channel, watch, work};
use self::history::{Ask, Call, violations};
use crate::lab::Lab;
use crate::stores::{Setup, Stores};
use crate::{PATIENCE, drill::quantile};

const N_MEMBERS: usize = 3;
const N_CLIENTS: usize = 6;
/// How long a fault lasts, in milliseconds: from less than a heartbeat to less than an election.
const FAULT_MS: std::ops::Range<u64> = 50..700;
/// And every so many faults, on average, up to more than an election.
const LONG_FAULT_ONE_IN: u32 = 4;
const LONG_FAULT_MS: std::ops::Range<u64> = 700..2500;
/// Every so many rounds all members have to serve; then data are compared, and history is compacted. In between, a fault may hit while
/// a member still recovers from the one before.
const ROUNDS_BETWEEN_CHECKS: usize = 10;
/// Revisions that compaction leaves to watches that are behind.
const KEPT_REVISIONS: i64 = 500;
/// Entries the leader keeps: fewer than are written during a long fault, so that some members get a state whole.
const CATCHUP_ENTRIES: u64 = 200;

#[derive(Clone, Debug)]
pub struct Plan {
    pub n_rounds: usize,
    /// Decides which faults there are and how long they last; what they hit is up to the machine.
    pub seed: u64,
}

/// What goes wrong in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Kill(Vec<usize>),
    Pause(Vec<usize>),
    /// A plug is pulled.
    Cut(usize),
    /// What the first sends the second gets lost.
    Lose(usize, usize),
}

impl Fault {
    fn name(&self) -> &'static str {
        match self {
            Self::Kill(members) if members.len() == N_MEMBERS => "all killed",
            Self::Kill(members) if members.len() > 1 => "two killed",
            Self::Kill(_) => "killed",
            Self::Pause(members) if members.len() > 1 => "two paused",
            Self::Pause(_) => "paused",
            Self::Cut(_) => "cut off",
            Self::Lose(..) => "deaf in one direction",
        }
    }

    /// Half of the time it hits the leader.
    fn draw(chance: &mut StdRng, leader: usize, has_links: bool) -> Self {
        let any = chance.random_range(0..N_MEMBERS);
        let first = if chance.random_bool(0.5) { leader } else { any };
        let second = (first + chance.random_range(1..N_MEMBERS)) % N_MEMBERS;
        match chance.random_range(0..if has_links { 16 } else { 9 }) {
            0..4 => Self::Kill(vec![first]),
            4 => Self::Kill(vec![first, second]),
            5 => Self::Kill((0..N_MEMBERS).collect()),
            6..8 => Self::Pause(vec![first]),
            8 => Self::Pause(vec![first, second]),
            9..13 => Self::Cut(first),
            _ => Self::Lose(first, second),
        }
    }

    fn begin(&self, stores: &mut Stores) -> Result<()> {
        match self {
            Self::Kill(members) => members.iter().for_each(|at| stores.members[*at].kill()),
            Self::Pause(members) => members.iter().try_for_each(|at| stores.members[*at].signal("STOP"))?,
            Self::Cut(at) => stores.lab.as_ref().context("a lab")?.cut(*at)?,
            Self::Lose(from, to) => stores.lab.as_ref().context("a lab")?.lose(*from, *to)?,
        }
        Ok(())
    }

    fn end(&self, stores: &mut Stores) -> Result<()> {
        match self {
            Self::Kill(members) => {
                members.iter().try_for_each(|at| stores.spawn(*at, &[]))?;
                members.iter().try_for_each(|at| stores.wait_ready(*at))?;
            }
            Self::Pause(members) => members.iter().try_for_each(|at| stores.members[*at].signal("CONT"))?,
            Self::Cut(at) => stores.lab.as_ref().context("a lab")?.heal(*at)?,
            Self::Lose(from, to) => stores.lab.as_ref().context("a lab")?.find(*from, *to)?,
        }
        Ok(())
    }
}

/// What the drill saw.
#[derive(Debug, Default)]
pub struct Report {
    pub n_rounds: usize,
    pub faults: BTreeMap<&'static str, usize>,
    pub n_calls: usize,
    pub n_acknowledged: usize,
    pub n_unknown: usize,
    pub n_revisions: usize,
    pub n_streams: usize,
    pub n_compared: usize,
    /// From the end of each fault until all members knew a leader.
    pub recoveries: Vec<Duration>,
    pub violations: Vec<String>,
}

impl Report {
    /// An error when a promise was broken.
    pub fn check(&self) -> Result<()> {
        ensure!(self.n_acknowledged > 0 && self.n_compared > 0, "nothing happened: {self}");
        ensure!(self.violations.is_empty(), "promises were broken: {self}");
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "rounds: {}, faults: {:?}", self.n_rounds, self.faults)?;
        let Self { n_calls, n_acknowledged, n_unknown, n_revisions, n_streams, n_compared, .. } = self;
        writeln!(f, "calls: {n_calls}, acknowledged writes: {n_acknowledged}, writes of unknown outcome: {n_unknown}")?;
        writeln!(f, "revisions: {n_revisions}, told by each member's watch, over {n_streams} streams in all")?;
        let (median, most) = (quantile(&self.recoveries, 0.5), quantile(&self.recoveries, 1.0));
        writeln!(f, "all members have a leader again after {median:.2?} (median), {most:.2?} (most)")?;
        writeln!(f, "data compared: {n_compared} times")?;
        writeln!(f, "violations: {}", self.violations.len())?;
        self.violations.iter().take(20).try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

pub async fn run(plan: &Plan) -> Result<Report> {
    let mut chance = StdRng::seed_from_u64(plan.seed);
    let setup = || Setup {
        n_members: N_MEMBERS,
        flags: vec![format!("--snapshot-catchup-entries={CATCHUP_ENTRIES}")],
        ..Setup::default()
    };
    let mut stores = tokio::task::block_in_place(|| match Lab::new(N_MEMBERS)? {
        Some(lab) => Stores::in_lab(setup(), lab),
        None => Stores::start(setup()),
    })?;
    let urls = stores.members.iter().map(|member| format!("http://{}:{}", member.host, member.client_port));
    let channels = urls.map(|url| channel(&url)).collect::<Result<Vec<_>>>()?;
    let book = Arc::new(Book::new());
    let told: Vec<_> = (0..N_MEMBERS).map(|_| Arc::new(Mutex::new(Told::default()))).collect();
    let client = |client| tokio::spawn(work(Arc::clone(&book), channels.clone(), client));
    let clients: Vec<_> = (0..N_CLIENTS).map(client).collect();
    let watch =
        |(member, told): (&Channel, &Arc<_>)| tokio::spawn(watch(Arc::clone(&book), member.clone(), Arc::clone(told)));
    let watches: Vec<_> = channels.iter().zip(&told).map(watch).collect();
    let mut report = Report::default();
    let mut leader = stores.leader().await?;
    for round in 1..=plan.n_rounds {
        let fault = Fault::draw(&mut chance, leader, stores.lab.is_some());
        *report.faults.entry(fault.name()).or_default() += 1;
        let lasts = if chance.random_ratio(1, LONG_FAULT_ONE_IN) { LONG_FAULT_MS } else { FAULT_MS };
        let lasts = Duration::from_millis(chance.random_range(lasts));
        let in_round = || format!("round {round} of seed {}: {fault:?} for {lasts:?}", plan.seed);
        tokio::task::block_in_place(|| fault.begin(&mut stores)).with_context(in_round)?;
        tokio::time::sleep(lasts).await;
        let ended = Instant::now();
        tokio::task::block_in_place(|| fault.end(&mut stores)).with_context(in_round)?;
        leader = stores.leader().await.with_context(in_round)?;
        report.recoveries.push(ended.elapsed());
        report.n_rounds += 1;
        if round % ROUNDS_BETWEEN_CHECKS == 0 || round == plan.n_rounds {
            all_serve(&channels).await.with_context(in_round)?;
            compare(&channels, &mut report).await.with_context(in_round)?;
            let seen = told.iter().map(|told| told.lock().revisions.newest()).min().unwrap_or(0);
            compact(channels.choose(&mut chance).context("members")?, seen - KEPT_REVISIONS).await?;
            eprintln!("round {round} of {}, {} calls", plan.n_rounds, book.calls.lock().len());
        }
    }
    book.clients_end.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.context("a client of the drill")?;
    }
    let newest = newest_revision(&channels[0]).await?;
    let deadline = Instant::now() + PATIENCE;
    while told.iter().any(|told| told.lock().revisions.newest() < newest) {
        if Instant::now() > deadline {
            let seen: Vec<_> = told.iter().map(|told| told.lock().revisions.newest()).collect();
            report.violations.push(format!("watches do not tell of revision {newest}: they are at {seen:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    book.watches_end.store(true, Ordering::Relaxed);
    for watch in watches {
        watch.await.context("a watch of the drill")?;
    }
    judge(&book.calls.lock(), &told, &mut report);
    Ok(report)
}

/// Holds everything against each other.
fn judge(calls: &[Call], told: &[Arc<Mutex<Told>>], report: &mut Report) {
    let told: Vec<Told> = told.iter().map(|told| std::mem::take(&mut *told.lock())).collect();
    let Some(most) = told.iter().map(|told| &told.revisions).max_by_key(|revisions| revisions.newest()) else { return };
    for (at, told) in told.iter().enumerate() {
        report.n_streams += told.n_streams;
        report.violations.extend(told.wrong.iter().map(|wrong| format!("the watch of m{at}: {wrong}")));
        if let Some((own, other)) = told.revisions.0.iter().zip(&most.0).find(|(own, other)| own != other) {
            report.violations.push(format!("the watch of m{at} tells {own:?}, another one {other:?}"));
        }
    }
    report.n_calls = calls.len();
    let writes = || calls.iter().filter(|call| matches!(call.ask, Ask::Write { .. }));
    report.n_acknowledged = writes().filter(|call| call.answer.as_ref().is_some_and(|answer| answer.done)).count();
    report.n_unknown = writes().filter(|call| call.answer.is_none()).count();
    report.n_revisions = most.0.len();
    report.violations.extend(violations(calls, most));
}

async fn newest_revision(member: &Channel) -> Result<i64> {
    let request = pb::RangeRequest { key: "none".into(), ..Default::default() };
    let response = KvClient::new(member.clone()).range(request).await?.into_inner();
    Ok(response.header.context("a header")?.revision)
}

/// Waits until a linearizable read succeeds at each member.
async fn all_serve(channels: &[Channel]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for (at, member) in channels.iter().enumerate() {
        loop {
            match tokio::time::timeout(Duration::from_secs(3), newest_revision(member)).await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) if Instant::now() > deadline => {
                    return Err(error).context(format!("m{at} does not serve"));
                }
                Err(_) if Instant::now() > deadline => anyhow::bail!("m{at} does not answer"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    Ok(())
}

/// All members' checksums of one revision, once they have compacted equally far.
async fn compare(channels: &[Channel], report: &mut Report) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let revision = newest_revision(&channels[0]).await?;
    loop {
        let mut hashes = Vec::new();
        for member in channels {
            let request = pb::HashKvRequest { revision };
            let hash = MaintenanceClient::new(member.clone()).hash_kv(request).await.map(tonic::Response::into_inner);
            // A member that is behind does not know the revision yet.
            hashes.extend(hash.map(|hash| (hash.compact_revision, hash.hash)));
        }
        let is_comparable = hashes.len() == channels.len() && hashes.iter().all(|hash| hash.0 == hashes[0].0);
        if is_comparable {
            report.n_compared += 1;
            if hashes.iter().any(|hash| hash.1 != hashes[0].1) {
                report.violations.push(format!("members differ at revision {revision}: {hashes:?}"));
            }
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "members' data cannot be compared at revision {revision}: {hashes:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn compact(member: &Channel, revision: i64) -> Result<()> {
    if revision < 1 {
        return Ok(());
    }
    let request = pb::CompactionRequest { revision, physical: false };
    match KvClient::new(member.clone()).compact(request).await {
        Err(status) if !status.message().contains("compacted") => Err(status).context("compaction"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_drawn_and_links_only_where_there_are_some() {
        let mut chance = StdRng::seed_from_u64(1);
        let mut names = |has_links| {
            let drawn = (0..500).map(|_| Fault::draw(&mut chance, 1, has_links).name());
            drawn.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((names(true), names(false)), (7, 5));
    }
}
