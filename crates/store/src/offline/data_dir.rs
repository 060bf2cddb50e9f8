//! Tools for a data directory on which no store is running; some also read snapshot files.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::OfflineError;
use crate::backend::{
    Backend, BackendError, Bucket, LoadError, Loaded, RedbBackend, Row, STORAGE_VERSION, SnapshotFile, load,
};
use crate::bolt::Reader;
use crate::embedded::{LOG_DIR, STATE_FILE, Versions, check_agreement, claim};
use crate::raft::{EngineLog, LogStore};
use crate::{HashKv, OpenError, Revision};

const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// A tool reads everything once.
pub(super) const VALUE_CACHE_BYTES: usize = 16 << 20;

/// What a check found, all of it well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub revision: Revision,
    /// -1 when nothing was ever compacted.
    pub compact_revision: Revision,
    pub n_versions: usize,
    pub n_leases: usize,
    pub hash: HashKv,
    /// Entries of the log that the state does not have yet; `None` for a snapshot file, which has no log.
    pub n_log_entries_ahead: Option<u64>,
}

/// Gives free space of the state file back to the file system. Returns the sizes before and after, in bytes.
pub fn defragment(dir: &Path) -> Result<(u64, u64), OfflineError> {
    let (_lock, mut backend) = open_state(dir)?;
    let before = backend.sizes().file_bytes;
    backend.defragment().map_err(backend_error)?;
    Ok((before, backend.sizes().file_bytes))
}

/// The hash of the history up to a revision (0: all of it) of a snapshot file or a data directory.
pub fn hash_kv(path: &Path, revision: Revision) -> Result<HashKv, OfflineError> {
    let (_lock, backend) = open_readable(path)?;
    let loaded = load(backend.as_ref(), VALUE_CACHE_BYTES).map_err(load_error)?;
    hash_loaded(&loaded, revision)
}

/// Reads everything in a snapshot file or a data directory and compares what must agree.
pub fn verify(path: &Path) -> Result<Verified, OfflineError> {
    if !path.is_dir() {
        let backend = SnapshotFile(Reader::open_any(path)?);
        return verified(&load(&backend, VALUE_CACHE_BYTES).map_err(load_error)?, None);
    }
    let (_lock, mut backend) = open_state(path)?;
    if !backend.check().map_err(backend_error)? {
        return Err(OfflineError::Data("the state file was damaged and has been repaired; verify again".to_owned()));
    }
    let loaded = load(&backend, VALUE_CACHE_BYTES).map_err(load_error)?;
    let log = EngineLog::open(&path.join(LOG_DIR)).and_then(|mut log| log.load());
    let logged = log.map_err(|error| OfflineError::Data(error.to_string()))?;
    let index = loaded.machine.applied.0;
    check_agreement(path, index, &logged)?;
    let last = logged.truncated.0 + logged.entries.len() as u64;
    verified(&loaded, Some(last - index))
}

fn verified(loaded: &Loaded, n_log_entries_ahead: Option<u64>) -> Result<Verified, OfflineError> {
    let keyspace = &loaded.machine.keyspace;
    let versions = Versions::of(keyspace, Revision(0)).map_err(OfflineError::Revision)?;
    Ok(Verified {
        revision: keyspace.revision(),
        compact_revision: keyspace.compacted(),
        n_versions: versions.len(),
        n_leases: loaded.machine.lessor.ids().len(),
        hash: versions.hash().map_err(OfflineError::Revision)?,
        n_log_entries_ahead,
    })
}

fn hash_loaded(loaded: &Loaded, revision: Revision) -> Result<HashKv, OfflineError> {
    Versions::of(&loaded.machine.keyspace, revision)
        .and_then(|versions| versions.hash())
        .map_err(OfflineError::Revision)
}

/// The version of etcd whose data this is; `None` stands for etcd 3.5 and older, which do not tell.
pub fn storage_version(dir: &Path) -> Result<Option<String>, OfflineError> {
    let (_lock, backend) = open_state(dir)?;
    let mut version = None;
    let scanned = backend.scan(Bucket::Meta, &mut |key, value| {
        if key == STORAGE_VERSION {
            version = Some(String::from_utf8_lossy(value).into_owned());
        }
    });
    scanned.map_err(backend_error)?;
    Ok(version)
}

/// Labels the data with a version, or takes the label off.
pub fn set_storage_version(dir: &Path, version: Option<&str>) -> Result<(), OfflineError> {
    let (_lock, mut backend) = open_state(dir)?;
    let row = match version {
        Some(version) => Row::put(Bucket::Meta, STORAGE_VERSION, version),
        None => Row::delete(Bucket::Meta, STORAGE_VERSION),
    };
    backend.commit(&[row]).map_err(backend_error)
}

/// A data directory's state, locked; it must be there.
pub(super) fn open_state(dir: &Path) -> Result<(File, RedbBackend), OfflineError> {
    let path = dir.join(STATE_FILE);
    std::fs::metadata(&path).map_err(|source| OfflineError::Io { path: path.display().to_string(), source })?;
    let lock = patiently_claim(dir)?;
    Ok((lock, RedbBackend::open(path).map_err(backend_error)?))
}

/// A store that is just stopping, or a child that one is just starting, holds the lock for another moment.
fn patiently_claim(dir: &Path) -> Result<File, OpenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match claim(dir) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            claimed => return claimed,
        }
    }
}

/// A data directory, locked, or a snapshot file.
fn open_readable(path: &Path) -> Result<(Option<File>, Box<dyn Backend>), OfflineError> {
    if path.is_dir() {
        let (lock, backend) = open_state(path)?;
        return Ok((Some(lock), Box::new(backend)));
    }
    Ok((None, Box::new(SnapshotFile(Reader::open_any(path)?))))
}

pub(super) fn backend_error(error: BackendError) -> OfflineError {
    OfflineError::Data(error.to_string())
}

pub(super) fn load_error(error: LoadError) -> OfflineError {
    OfflineError::Data(error.to_string())
}

impl From<BackendError> for OfflineError {
    fn from(error: BackendError) -> Self {
        backend_error(error)
    }
}

impl OfflineError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Open(OpenError::Io { path: path.to_owned(), source })
    }
}
