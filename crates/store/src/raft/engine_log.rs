//! The log as a raft-engine directory.
//!
//! raft-engine panics when a sync fails, and rightly so: nobody knows what is on the disk then. The panic ends here as
//! [`LogError::Failed`], after which the engine is not used again.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use super::file_header;
use super::log::{Identity, LogError, LogStore, LoggedState};
use super::zeroed_files::ZeroedFiles;

/// There is one Raft group per directory.
const GROUP: u64 = 1;
const IDENTITY: &[u8] = b"identity";
const HARD_STATE: &[u8] = b"hard_state";
const TRUNCATED: &[u8] = b"truncated";

const FILE_BYTES: u64 = 64 << 20;
/// Log kept on disk before files are dropped; the state file makes older ones superfluous.
const KEPT_BYTES: u64 = 256 << 20;
/// Entries read at a time when starting.
const LOAD_BYTES: usize = 16 << 20;

pub(crate) struct EngineLog {
    engine: Engine<ZeroedFiles>,
    syncs: bool,
    has_failed: bool,
}

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl EngineLog {
    pub(crate) fn open(dir: &Path) -> Result<Self, LogError> {
        file_header::check_all(dir)?;
        let dir = dir.to_str().ok_or_else(|| LogError::Failed(format!("path {} is not unicode", dir.display())))?;
        let config = Config {
            dir: dir.to_owned(),
            // A torn tail was never acknowledged.
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            // Values are compressed, if at all, by whoever wrote them.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(FILE_BYTES),
            purge_threshold: ReadableSize(KEPT_BYTES),
            enable_log_recycle: true,
            ..Config::default()
        };
        let engine = guarded(|| Engine::open_with_file_system(config, Arc::new(ZeroedFiles)))?;
        Ok(Self { engine, syncs: true, has_failed: false })
    }

    /// Never waits for the disk: after a crash of the machine, acknowledged writes may be gone.
    pub(crate) fn without_sync(self) -> Self {
        Self { syncs: false, ..self }
    }

    fn write(&mut self, mut batch: LogBatch, sync: bool) -> Result<(), LogError> {
        if self.has_failed {
            return Err(LogError::Failed("an earlier write failed".into()));
        }
        let written = guarded(|| self.engine.write(&mut batch, sync && self.syncs));
        self.has_failed |= matches!(written, Err(LogError::Failed(_)));
        written.map(|_bytes| ())
    }
}

impl LogStore for EngineLog {
    fn load(&mut self) -> Result<LoggedState, LogError> {
        let value = |key: &[u8]| self.engine.get(GROUP, key);
        let damaged = |what: &[u8]| LogError::Failed(format!("{} is damaged", String::from_utf8_lossy(what)));
        let mut state = LoggedState::default();
        if let Some(bytes) = value(IDENTITY) {
            let [cluster_id, member_id] = numbers(&bytes).ok_or_else(|| damaged(IDENTITY))?;
            state.identity = Some(Identity { cluster_id, member_id });
        }
        if let Some(bytes) = value(HARD_STATE) {
            let [term, vote, commit] = numbers(&bytes).ok_or_else(|| damaged(HARD_STATE))?;
            state.hard_state = HardState { term, vote, commit, ..HardState::default() };
        }
        if let Some(bytes) = value(TRUNCATED) {
            let [index, term] = numbers(&bytes).ok_or_else(|| damaged(TRUNCATED))?;
            state.truncated = (index, term);
        }
        let mut next = state.truncated.0 + 1;
        let last = self.engine.last_index(GROUP).unwrap_or(0);
        while next <= last {
            let fetch =
                || self.engine.fetch_entries_to::<Entries>(GROUP, next, last + 1, Some(LOAD_BYTES), &mut state.entries);
            guarded(fetch)?;
            let reached = state.entries.last().map_or(0, |entry| entry.index);
            if reached < next {
                return Err(LogError::Failed(format!("entry {next} is missing")));
            }
            next = reached + 1;
        }
        Ok(state)
    }

    fn set_identity(&mut self, identity: Identity) -> Result<(), LogError> {
        let mut batch = LogBatch::default();
        put(&mut batch, IDENTITY, &[identity.cluster_id, identity.member_id])?;
        self.write(batch, true)
    }

    fn reset(&mut self, index: u64, term: u64, hard_state: &HardState) -> Result<(), LogError> {
        let mut batch = LogBatch::default();
        // One batch, so all of it or nothing: entries away, the place noted, the identity kept.
        let identity = self.engine.get(GROUP, IDENTITY);
        batch.add_command(GROUP, Command::Clean);
        if let Some(identity) = identity {
            batch.put(GROUP, IDENTITY.to_vec(), identity).map_err(|error| LogError::Failed(error.to_string()))?;
        }
        put(&mut batch, TRUNCATED, &[index, term])?;
        put(&mut batch, HARD_STATE, &[hard_state.term, hard_state.vote, hard_state.commit])?;
        self.write(batch, true)
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>, sync: bool) -> Result<(), LogError> {
        let mut batch = LogBatch::with_capacity(2);
        if let Err(error) = batch.add_entries::<Entries>(GROUP, entries) {
            return Err(LogError::Failed(error.to_string()));
        }
        if let Some(state) = hard_state {
            put(&mut batch, HARD_STATE, &[state.term, state.vote, state.commit])?;
        }
        self.write(batch, sync)
    }

    fn truncate(&mut self, index: u64, term: u64) -> Result<(), LogError> {
        let mut batch = LogBatch::default();
        put(&mut batch, TRUNCATED, &[index, term])?;
        // First the note, durably, then what it is about.
        self.write(batch, true)?;
        guarded(|| {
            self.engine.compact_to(GROUP, index + 1);
            self.engine.purge_expired_files()
        })
        .map(|_groups| ())
    }
}

/// The engine retries on a full disk by itself and then says so, or passes on an error that it has given this name.
fn is_no_space(error: &raft_engine::Error) -> bool {
    match error {
        raft_engine::Error::TryAgain(_) => true,
        raft_engine::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
                || error.to_string().contains("nospace")
        }
        _ => false,
    }
}

/// Runs something of the engine and tells a full disk from the rest.
fn guarded<T>(work: impl FnOnce() -> raft_engine::Result<T>) -> Result<T, LogError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if is_no_space(&error) => Err(LogError::NoSpace),
        Ok(Err(error)) => Err(LogError::Failed(error.to_string())),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(LogError::Failed(message.unwrap_or("the log engine panicked").to_owned()))
        }
    }
}

fn put(batch: &mut LogBatch, key: &[u8], numbers: &[u64]) -> Result<(), LogError> {
    let value = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    batch.put(GROUP, key.to_vec(), value).map_err(|error| LogError::Failed(error.to_string()))
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let chunks: &[[u8; 8]; N] = chunks.try_into().ok()?;
    rest.is_empty().then(|| chunks.map(u64::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![7; 100].into(), ..Entry::default() }
    }

    #[test]
    fn a_log_that_starts_over_keeps_its_identity_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { cluster_id: 1, member_id: 2 };
        let hard_state = |commit| HardState { term: 5, vote: 2, commit, ..HardState::default() };
        {
            let mut log = EngineLog::open(dir.path()).unwrap();
            log.set_identity(identity).unwrap();
            log.append(&[entry(1, 1), entry(2, 1), entry(3, 1)], Some(&hard_state(2)), true).unwrap();
            log.reset(50, 4, &hard_state(50)).unwrap();
            let logged = log.load().unwrap();
            assert_eq!((logged.truncated, logged.entries.len()), ((50, 4), 0));
        }
        for _ in 0..2 {
            let mut log = EngineLog::open(dir.path()).unwrap();
            let logged = log.load().unwrap();
            assert_eq!(logged.identity, Some(identity));
            assert_eq!((logged.truncated, logged.entries.len()), ((50, 4), 0));
            assert_eq!(logged.hard_state, hard_state(50));
        }
        let mut log = EngineLog::open(dir.path()).unwrap();
        log.append(&[entry(51, 5)], None, true).unwrap();
        drop(log);
        let logged = EngineLog::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(logged.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [51]);
    }
}
