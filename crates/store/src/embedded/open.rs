//! From a data directory, or none, to a running store.
//!
//! ```text
//! DATA/lock          held while the store is open
//! DATA/format        version of this layout
//! DATA/wal/          the log (raft-engine)
//! DATA/state.redb    the state up to some log entry (redb)
//! DATA/incoming-N    a state on its way in, which takes the place of state.redb or goes
//! ```

use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::raft::eraftpb::Message;
use parking_lot::{Mutex, RwLock};

use super::alone::go_on_alone;
use super::applier::Applier;
use super::identity::Newcomer;
use super::leases::LeaseDesk;
use super::measured::{MeasuredBackend, MeasuredLog};
use super::members::MemberDesk;
use super::{Clock, ClusterState, EmbeddedConfig, EmbeddedStore, OpenError, Threads, join};
use crate::auth::Passwords;
use crate::backend::{
    Backend, BackendError, DiscardBackend, LoadError, Loaded, RedbBackend, Staging, Writer, auth_row, initial_rows,
    load, progress_rows,
};
use crate::command::Command;
use crate::machine::Machine;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::peer::{Local, PeerNet};
use crate::pins::Pins;
use crate::raft::{
    CoreConfig, Driver, DriverConfig, EngineLog, Identity, LogError, LogStore, LoggedState, MemoryLog, Outbox, Raft,
};
use crate::watch::Hub;
use crate::{AuthConfig, StoreError};

const FORMAT: u32 = 1;
pub(crate) const LOG_DIR: &str = "wal";
pub(crate) const STATE_FILE: &str = "state.redb";
/// Between two attempts of a member to say who it is.
const PUBLISH_RETRY: Duration = Duration::from_millis(500);

impl EmbeddedStore {
    /// Opens a store, creating it if there is none, and brings it to where it was: when this returns, everything that was ever
    /// acknowledged can be read. Reads the whole state file, so call it outside of async code or through `spawn_blocking`.
    pub fn open(config: EmbeddedConfig) -> Result<Self, OpenError> {
        match config.data_dir.clone() {
            None => start(config, MemoryLog, Box::new(DiscardBackend::default()), Path::new(""), None),
            Some(dir) => {
                let lock = claim(&dir)?;
                let log = EngineLog::open(&dir.join(LOG_DIR)).map_err(|error| log_error(&dir, &error))?;
                let log = if config.unsafe_no_sync { log.without_sync() } else { log };
                let backend = RedbBackend::open(dir.join(STATE_FILE));
                let backend = backend.map_err(|error| backend_error(&dir, &error))?;
                start(config, log, Box::new(backend), &dir, Some(lock))
            }
        }
    }
}

/// Makes the directory ours, for as long as the returned file is open.
pub(crate) fn claim(dir: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    create_private_dir(dir).map_err(io)?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    let format = dir.join("format");
    match std::fs::read_to_string(&format) {
        Ok(found) if found.trim().parse::<u32>().is_ok_and(|version| version <= FORMAT) => {}
        Ok(found) => {
            let (path, found) = (dir.to_owned(), found.trim().to_owned());
            return Err(OpenError::TooNew { path, found, supported: FORMAT });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&format, format!("{FORMAT}\n")).map_err(io)?;
            File::open(&format).and_then(|file| file.sync_all()).map_err(io)?;
            File::open(dir).and_then(|file| file.sync_all()).map_err(io)?;
        }
        Err(source) => return Err(io(source)),
    }
    Ok(lock)
}

/// What is stored is secret: only the owner may look.
fn create_private_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

pub(super) fn start<L: LogStore>(
    config: EmbeddedConfig,
    log: L,
    backend: Box<dyn Backend>,
    dir: &Path,
    lock: Option<File>,
) -> Result<EmbeddedStore, OpenError> {
    config.check()?;
    let metrics = Arc::new(Metrics::default());
    let mut log = MeasuredLog { log, metrics: Arc::clone(&metrics) };
    let mut backend: Box<dyn Backend> = Box::new(MeasuredBackend { backend, metrics: Arc::clone(&metrics) });
    let loaded = load(backend.as_ref(), config.value_cache_bytes).map_err(|error| load_error(dir, &error))?;
    let logged = log.load().map_err(|error| log_error(dir, &error))?;
    let start = begin(&config, dir, &mut log, backend.as_mut(), loaded, logged)?;
    let Start { identity, mut machine, logged, others } = start;
    check_agreement(dir, machine.applied.0, &logged)?;
    let own = machine.membership.members.get(&identity.member_id).or(others.members.get(&identity.member_id));
    if own.is_some_and(|own| own.is_witness != config.is_witness) {
        let is = if config.is_witness { "not that of a witness" } else { "that of a witness" };
        return Err(OpenError::Config(format!("the member is {is}: it cannot become the other by a restart")));
    }
    if config.force_new_cluster {
        go_on_alone(dir, identity, &mut machine, &logged, backend.as_mut())?;
    }
    let is_own = |id: &&u64| **id == identity.member_id;
    let has_others = machine.membership.members.keys().any(|id| !is_own(&id)) || !others.members.is_empty();
    if has_others && config.peer.is_none() {
        return Err(OpenError::Config("the cluster has other members: the store has to listen for them".into()));
    }
    let peers =
        config.peer.as_ref().map(|peer| PeerNet::bind(peer, identity, config.snapshot_bytes_per_second)).transpose();
    let peers = peers.map_err(|error| OpenError::Start(error.to_string()))?;

    let applied = machine.applied;
    let conf_state = machine.membership.conf_state();
    let attributes = own_attributes(&config, identity.member_id, &machine);
    let machine = Arc::new(RwLock::new(machine));
    let pins = Arc::new(Pins::default());
    let clock = Clock(Instant::now());
    let (hub, hub_thread) = Hub::start(machine.clone()).map_err(|error| OpenError::Start(error.to_string()))?;
    let (writer_loop, writer) = Writer::new(backend, applied, machine.clone(), pins.clone(), hub.clone());
    let mut threads = Threads { hub: Some(hub_thread), lock, ..Threads::default() };
    threads.writer = Some(spawn("state-writer", move || writer_loop.run())?);

    let applier = Applier {
        machine: machine.clone(),
        writer: writer.clone(),
        hub: hub.clone(),
        clock,
        peers: peers.clone(),
        election_timeout: config.election_timeout,
        metrics: Arc::clone(&metrics),
        is_witness: config.is_witness,
    };
    let election_ticks = config.election_timeout.div_duration_f64(config.heartbeat_interval).ceil() as usize;
    let core = CoreConfig {
        member_id: identity.member_id,
        conf_state,
        applied,
        election_ticks,
        kept_entries_max: config.catchup_entries,
        is_witness: config.is_witness,
        election_seed: None,
    };
    let (tick, request_bytes_max) = (config.heartbeat_interval, config.request_bytes_max);
    let driver_config = DriverConfig { core, tick, request_bytes_max };
    let outbox: Box<dyn Outbox> = match &peers {
        Some(peers) => Box::new(peers.clone()),
        None => Box::new(Nobody),
    };
    let established = Driver::new(driver_config, log, logged, applier, outbox).and_then(|(mut driver, raft)| {
        driver.establish(attributes.clone())?;
        Ok((driver, raft))
    });
    let (driver, raft) = match established {
        Ok(established) => established,
        Err(error) => {
            if let Some(peers) = &peers {
                peers.stop();
            }
            writer.stop();
            join(threads.writer.take());
            hub.stop();
            join(threads.hub.take());
            return Err(match error {
                StoreError::NoSpace => OpenError::NoSpace(dir.to_owned()),
                error => OpenError::Damaged { path: dir.to_owned(), detail: error.to_string() },
            });
        }
    };
    let handle = raft.clone();
    threads.raft = Some(spawn("raft", move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| driver.run())) {
            handle.fail(StoreError::Fatal("the store broke one of its own rules; see the log".into()));
            std::panic::resume_unwind(panic);
        }
    })?);
    let leases = LeaseDesk { machine: machine.clone(), raft: raft.clone(), clock, is_witness: config.is_witness };
    if let Some(peers) = &peers {
        let desk = Arc::new(MemberDesk { raft: raft.clone(), leases: leases.clone(), pins: pins.clone() });
        let is_witness = config.is_witness;
        let kept_in = config.data_dir.as_deref().filter(|_| !is_witness);
        let staging = kept_in.map(|dir| Arc::new(Staging::new(dir, config.value_cache_bytes)));
        peers.run(Local { raft: raft.clone(), machine: machine.clone(), desk, staging, is_witness });
        if !others.members.is_empty() {
            peers.update(&others);
        }
        if let Some(attributes) = attributes {
            peers.spawn(publish(raft.clone(), attributes));
        }
    }
    let EmbeddedConfig { quota_bytes, txn_ops_max, auth, .. } = config;
    let AuthConfig { tokens, simple_ttl, bcrypt_cost } = auth;
    machine.read().auth.tokens().lock().set_ttl(simple_ttl);
    let passwords = Passwords::new(bcrypt_cost);
    let threads = Mutex::new(threads);
    Ok(EmbeddedStore {
        machine,
        pins,
        raft,
        hub,
        writer,
        leases,
        identity,
        peers,
        quota_bytes,
        txn_ops_max,
        tokens,
        passwords,
        metrics,
        threads,
    })
}

/// For a store that listens to nobody.
struct Nobody;

impl Outbox for Nobody {
    fn send(&self, _messages: Vec<Message>) {}
}

/// What this member has to say of itself, if the table of members says something else.
fn own_attributes(config: &EmbeddedConfig, id: u64, machine: &Machine) -> Option<Command> {
    let known = machine.membership.members.get(&id);
    let is_known = known.is_some_and(|own| own.name == config.name && own.client_urls == config.client_urls);
    let (name, client_urls) = (config.name.clone(), config.client_urls.clone());
    (!is_known).then_some(Command::MemberAttributes { id, name, client_urls })
}

/// Says it until somebody has heard.
async fn publish(raft: Raft, attributes: Command) {
    while let Err(error) = raft.propose(attributes.clone()).await {
        if raft.failure().is_some() || error == StoreError::Stopped {
            return;
        }
        tokio::time::sleep(PUBLISH_RETRY).await;
    }
}

/// Where a member begins.
struct Start {
    identity: Identity,
    machine: Machine,
    logged: LoggedState,
    /// Members that one without data knows from hearsay.
    others: Membership,
}

/// Every log begins behind an entry that nobody has: so a new member can only begin with a state that another sends.
pub(crate) const FIRST_ENTRY: (u64, u64) = (1, 1);

/// Brings log and state together: of a store that is new, that was there, or that took over a state and ended before the log
/// was told.
fn begin(
    config: &EmbeddedConfig,
    dir: &Path,
    log: &mut impl LogStore,
    backend: &mut dyn Backend,
    loaded: Loaded,
    mut logged: LoggedState,
) -> Result<Start, OpenError> {
    let log_failed = |error: LogError| log_error(dir, &error);
    let Loaded { mut machine, is_installed, .. } = loaded;
    let n_entries = logged.entries.len() as u64;
    let last = logged.truncated.0 + n_entries;
    let has_members = !machine.membership.members.is_empty();
    // It was told who it is, and nothing more yet.
    let is_joining = logged.identity.is_some() && !has_members && logged.truncated == (0, 0) && n_entries == 0;
    let mut others = Membership::default();
    let identity = match logged.identity {
        Some(identity) if has_members => identity,
        known => {
            let newcomer = if is_joining || config.cluster_state == ClusterState::Existing {
                Newcomer::of(&EmbeddedConfig { cluster_state: ClusterState::Existing, ..config.clone() })?
            } else {
                Newcomer::of(config)?
            };
            let identity = known.unwrap_or(newcomer.identity);
            if config.cluster_state == ClusterState::New && !is_joining {
                reset(log, &mut logged, FIRST_ENTRY).map_err(log_failed)?;
                machine.membership = newcomer.membership;
                machine.applied = FIRST_ENTRY;
                let mut rows = initial_rows(&machine.membership);
                rows.extend(machine.auth.settings().iter().map(auth_row));
                rows.extend(progress_rows(FIRST_ENTRY.0, FIRST_ENTRY.1));
                log.set_identity(identity).map_err(log_failed)?;
                backend.commit(&rows).map_err(|error| backend_error(dir, &error))?;
            } else {
                others = newcomer.membership;
                log.set_identity(identity).map_err(log_failed)?;
            }
            return Ok(Start { identity, machine, logged, others });
        }
    };
    if machine.applied.0 > last && is_installed {
        reset(log, &mut logged, machine.applied).map_err(log_failed)?;
    } else if last == 0 {
        // It ended before it had written anything.
        reset(log, &mut logged, FIRST_ENTRY).map_err(log_failed)?;
        machine.applied = FIRST_ENTRY;
    } else if logged.truncated.0 == 0 && logged.entries.first().is_some_and(|entry| entry.data.is_empty()) {
        // A log of earlier versions, which began with an empty entry.
        let first = logged.entries.remove(0);
        logged.truncated = (first.index, first.term);
        if machine.applied.0 == 0 {
            machine.applied = logged.truncated;
        }
    }
    Ok(Start { identity, machine, logged, others })
}

fn reset(log: &mut impl LogStore, logged: &mut LoggedState, place: (u64, u64)) -> Result<(), LogError> {
    let (index, term) = place;
    let mut hard_state = logged.hard_state.clone();
    if term > hard_state.term {
        (hard_state.term, hard_state.vote) = (term, 0);
    }
    hard_state.commit = index;
    log.reset(index, term, &hard_state)?;
    logged.hard_state = hard_state;
    logged.entries.clear();
    logged.truncated = place;
    Ok(())
}

/// The state must not be ahead of the log it came from, nor may there be a gap between them.
pub(crate) fn check_agreement(dir: &Path, index: u64, logged: &LoggedState) -> Result<(), OpenError> {
    let first = logged.truncated.0 + 1;
    let last = logged.truncated.0 + logged.entries.len() as u64;
    if index > last || index + 1 < first {
        let detail = format!("the state is that of log entry {index}, but the log has entries {first} to {last}");
        return Err(OpenError::Damaged { path: dir.to_owned(), detail });
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| OpenError::Start(error.to_string()))
}

fn log_error(dir: &Path, error: &LogError) -> OpenError {
    match error {
        LogError::NoSpace => OpenError::NoSpace(dir.to_owned()),
        LogError::Failed(_) => OpenError::Damaged { path: dir.to_owned(), detail: error.to_string() },
    }
}

pub(super) fn backend_error(dir: &Path, error: &BackendError) -> OpenError {
    match error {
        BackendError::NoSpace => OpenError::NoSpace(dir.to_owned()),
        BackendError::Failed(_) => OpenError::Damaged { path: dir.to_owned(), detail: error.to_string() },
    }
}

pub(super) fn damaged(dir: &Path, detail: String) -> OpenError {
    OpenError::Damaged { path: dir.to_owned(), detail }
}

fn load_error(dir: &Path, error: &LoadError) -> OpenError {
    match error {
        LoadError::Backend(error) => backend_error(dir, error),
        LoadError::Damaged { .. } => OpenError::Damaged { path: dir.to_owned(), detail: error.to_string() },
    }
}
