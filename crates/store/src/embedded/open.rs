//! From a data directory, or none, to a running store.
//!
//! ```text
//! DATA/lock          held while the store is open
//! DATA/format        version of this layout
//! DATA/wal/          the log (raft-engine)
//! DATA/state.redb    the state up to some log entry (redb)
//! ```

use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::applier::Applier;
use super::{Clock, EmbeddedConfig, EmbeddedStore, OpenError, Threads, join};
use crate::backend::{
    Backend, BackendError, DiscardBackend, LoadError, Loaded, RedbBackend, Writer, initial_rows, load,
};
use crate::pins::Pins;
use crate::raft::{Driver, DriverConfig, EngineLog, Identity, LogError, LogStore, LoggedState, MemoryLog};
use crate::watch::Hub;
use crate::{Member, StoreError};

const FORMAT: u32 = 1;
pub(crate) const LOG_DIR: &str = "wal";
pub(crate) const STATE_FILE: &str = "state.redb";

impl EmbeddedStore {
    /// Opens a store, creating it if there is none, and brings it to where it was: when this returns, everything that was ever
    /// acknowledged can be read. Reads the whole state file, so call it outside of async code or through `spawn_blocking`.
    pub fn open(config: EmbeddedConfig) -> Result<Self, OpenError> {
        match config.data_dir.clone() {
            None => start(config, MemoryLog, Box::new(DiscardBackend::default()), Path::new(""), None),
            Some(dir) => {
                let lock = claim(&dir)?;
                let log = EngineLog::open(&dir.join(LOG_DIR)).map_err(|error| log_error(&dir, &error))?;
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
    mut log: L,
    mut backend: Box<dyn Backend>,
    dir: &Path,
    lock: Option<File>,
) -> Result<EmbeddedStore, OpenError> {
    let loaded = load(backend.as_ref()).map_err(|error| load_error(dir, &error))?;
    let logged = log.load().map_err(|error| log_error(dir, &error))?;
    check_agreement(dir, &loaded, &logged)?;
    let identity = match logged.identity {
        Some(identity) => identity,
        None => {
            let identity = Identity::of_new_cluster(&config);
            log.set_identity(identity).map_err(|error| log_error(dir, &error))?;
            identity
        }
    };
    let member = Member {
        id: identity.member_id,
        name: config.name,
        peer_urls: config.peer_urls,
        client_urls: config.client_urls,
        is_learner: false,
    };
    backend.commit(&initial_rows(&member)).map_err(|error| backend_error(dir, &error))?;

    let Loaded { machine, index, term } = loaded;
    let machine = Arc::new(RwLock::new(machine));
    let pins = Arc::new(Pins::default());
    let clock = Clock(Instant::now());
    let (hub, hub_thread) = Hub::start(machine.clone()).map_err(|error| OpenError::Start(error.to_string()))?;
    let (writer_loop, writer) = Writer::new(backend, (index, term), machine.clone(), pins.clone(), hub.clone());
    let mut threads = Threads { hub: Some(hub_thread), lock, ..Threads::default() };
    threads.writer = Some(spawn("state-writer", move || writer_loop.run())?);

    let applier = Applier { machine: machine.clone(), writer: writer.clone(), hub: hub.clone(), clock };
    let driver_config =
        DriverConfig { member_id: identity.member_id, voters: vec![identity.member_id], applied: index };
    let established = Driver::new(driver_config, log, logged, applier).and_then(|(mut driver, raft)| {
        driver.establish()?;
        Ok((driver, raft))
    });
    let (driver, raft) = match established {
        Ok(established) => established,
        Err(error) => {
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
    let EmbeddedConfig { quota_bytes, txn_ops_max, .. } = config;
    let threads = Mutex::new(threads);
    Ok(EmbeddedStore { machine, pins, raft, hub, writer, clock, identity, member, quota_bytes, txn_ops_max, threads })
}

/// The state must not be ahead of the log it came from, nor may there be a gap between them.
pub(crate) fn check_agreement(dir: &Path, loaded: &Loaded, logged: &LoggedState) -> Result<(), OpenError> {
    let first = logged.truncated.0 + 1;
    let last = logged.truncated.0 + logged.entries.len() as u64;
    if loaded.index > last || loaded.index + 1 < first {
        let index = loaded.index;
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

fn backend_error(dir: &Path, error: &BackendError) -> OpenError {
    match error {
        BackendError::NoSpace => OpenError::NoSpace(dir.to_owned()),
        BackendError::Failed(_) => OpenError::Damaged { path: dir.to_owned(), detail: error.to_string() },
    }
}

fn load_error(dir: &Path, error: &LoadError) -> OpenError {
    match error {
        LoadError::Backend(error) => backend_error(dir, error),
        LoadError::Damaged { .. } => OpenError::Damaged { path: dir.to_owned(), detail: error.to_string() },
    }
}
