//! A data directory from a snapshot file: the data as they were, in a cluster of its own.
//!
//! Everything is made in a directory beside the wanted one and renamed when it is complete and on disk, so that a data directory is either
//! whole or not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use ::raft::eraftpb::HardState;
use bytes::Bytes;
use prost::Message;

use super::OfflineError;
use crate::backend::{
    Backend, Bucket, COMPACTION_FINISHED, COMPACTION_SCHEDULED, RedbBackend, Row, initial_rows, lease_row,
    progress_rows, record_row,
};
use crate::bolt::Reader;
use crate::embedded::{EmbeddedConfig, FIRST_ENTRY, InitialMember, LOG_DIR, Newcomer, STATE_FILE, claim};
use crate::lease::StoredLease;
use crate::mvcc::{Record, RevisionKey, Value};
use crate::proto::mvccpb;
use crate::raft::{EngineLog, LogStore};
use crate::{EventKind, LeaseId, Revision, WatchEvent};

/// Rows gathered before they are committed.
const BATCH_BYTES: usize = 8 << 20;

/// Changes tell to which lease a key belongs, and not how long it lives: long enough for whoever owns it to come back, and as long as
/// Kubernetes keeps events.
const LEASE_TTL_SECONDS: i64 = 3600;

/// etcdutl's `snapshot restore`.
#[derive(Clone, Debug)]
pub struct Restore {
    pub snapshot: PathBuf,
    /// Must not exist, or be empty.
    pub data_dir: PathBuf,
    pub name: String,
    pub peer_urls: Vec<String>,
    /// `NAME=PEER-URL`, comma separated.
    pub initial_cluster: String,
    pub cluster_token: String,
    /// Take a file whose SHA-256 is missing or wrong.
    pub skip_hash_check: bool,
    /// Start this many revisions later, all before being compacted; 0 for the snapshot's own revision.
    pub bump_revision: u64,
}

/// What a restore adds to a snapshot, or leaves out.
pub struct Replay<'a> {
    /// Nothing that was written later; none for all there is. Must not be before the snapshot's compaction.
    pub revision_max: Option<Revision>,
    /// Changes after the snapshot's: all events of a revision at a time, in order. Those the snapshot has already are passed over.
    pub changes: &'a mut dyn Iterator<Item = Result<Vec<WatchEvent>, OfflineError>>,
    /// Keys that the restored store never had.
    pub leave_out: &'a dyn Fn(&[u8]) -> bool,
}

impl std::fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("revision_max", &self.revision_max).finish_non_exhaustive()
    }
}

/// The snapshot as it is.
pub fn restore(request: &Restore) -> Result<(), OfflineError> {
    let replay = Replay { revision_max: None, changes: &mut std::iter::empty(), leave_out: &|_| false };
    restore_at(request, replay).map(drop)
}

/// The snapshot and the changes after it. Returns the revision of the data, before it is raised by `bump_revision`.
pub fn restore_at(request: &Restore, replay: Replay<'_>) -> Result<Revision, OfflineError> {
    let member = local_member(request)?;
    let dir = &request.data_dir;
    let is_empty = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if !is_empty {
        return Err(OfflineError::Refused(format!("data-dir {:?} not empty or could not be read", dir.display())));
    }
    let reader = open(request)?;
    let making = beside(dir);
    discard_leftovers(&making)?;
    let made = make(request, replay, &reader, &making, &member).and_then(|revision| {
        std::fs::rename(&making, dir).map_err(|source| OfflineError::io(dir, source))?;
        sync_dir(parent(dir))?;
        Ok(revision)
    });
    if made.is_err() {
        // What is left is in nobody's way: the next attempt begins with removing it.
        let _leftovers = std::fs::remove_dir_all(&making);
    }
    made
}

fn open(request: &Restore) -> Result<Reader, OfflineError> {
    if request.skip_hash_check {
        return Ok(Reader::open_unchecked(&request.snapshot)?);
    }
    Reader::open(&request.snapshot).map_err(|error| match error {
        crate::bolt::BoltError::NotASnapshot(_) if request.snapshot.is_file() => {
            OfflineError::Refused(format!("snapshot missing hash but --skip-hash-check=false ({error})"))
        }
        error => error.into(),
    })
}

/// The member that this directory is for, and the others, as the cluster's configuration has them.
fn local_member(request: &Restore) -> Result<EmbeddedConfig, OfflineError> {
    let initial_cluster = InitialMember::parse_list(&request.initial_cluster);
    let config = EmbeddedConfig {
        name: request.name.clone(),
        peer_urls: request.peer_urls.clone(),
        client_urls: Vec::new(),
        cluster_token: request.cluster_token.clone(),
        initial_cluster: initial_cluster.map_err(OfflineError::Refused)?,
        ..EmbeddedConfig::default()
    };
    config.check().map_err(|error| OfflineError::Refused(error.to_string()))?;
    Ok(config)
}

/// Fills `making` with everything a data directory has.
fn make(
    request: &Restore,
    replay: Replay<'_>,
    reader: &Reader,
    making: &Path,
    config: &EmbeddedConfig,
) -> Result<Revision, OfflineError> {
    let _lock = claim(making)?;
    let Newcomer { identity, membership } = Newcomer::of(config)?;
    let mut backend = RedbBackend::open(making.join(STATE_FILE))?;
    let mut batch = Batch { backend: &mut backend, rows: Vec::new(), bytes: 0 };
    let mut newest = Revision(0);
    let mut leases = BTreeSet::new();
    // The members, the log position and the versions are the new cluster's own.
    let own = [Bucket::Cluster, Bucket::Members, Bucket::MembersRemoved, Bucket::Meta];
    let carried = Bucket::ALL.into_iter().filter(|bucket| !own.contains(bucket));
    for bucket in carried {
        for row in reader.bucket(bucket.name())?.into_iter().flatten() {
            let (key, value) = row?;
            if bucket == Bucket::Key {
                let at = RevisionKey::decode(&key);
                let at = at.ok_or_else(|| OfflineError::Data(format!("bucket key has a damaged row {key:02x?}")))?;
                if replay.revision_max.is_some_and(|max| at.main > max) || is_left_out(&replay, &value)? {
                    continue;
                }
                newest = newest.max(at.main);
            }
            if bucket == Bucket::Lease {
                leases.insert(key.clone());
            }
            batch.add(Row::put(bucket, key.to_vec(), value.to_vec()))?;
        }
    }
    for row in reader.bucket(Bucket::Meta.name())?.into_iter().flatten() {
        let (key, value) = row?;
        if key == COMPACTION_SCHEDULED || key == COMPACTION_FINISHED {
            let compacted = RevisionKey::decode(&value).map(|at| at.main);
            if let (Some(compacted), Some(max)) = (compacted, replay.revision_max)
                && compacted > max
            {
                return Err(OfflineError::Refused(format!(
                    "revision {max} was compacted: the snapshot begins at {compacted}"
                )));
            }
            batch.add(Row::put(Bucket::Meta, key.to_vec(), value.to_vec()))?;
        }
    }
    newest = add_changes(replay, newest, &leases, &mut batch)?;
    if request.bump_revision > 0 {
        let amount = i64::try_from(request.bump_revision).ok().and_then(|amount| newest.0.checked_add(amount));
        let bumped = amount.ok_or_else(|| OfflineError::Refused("--bump-revision is too large".to_owned()))?;
        let key = RevisionKey::of_revision(Revision(bumped)).encode();
        batch.add(Row::put(Bucket::Meta, COMPACTION_SCHEDULED, key.clone()))?;
        batch.add(Row::put(Bucket::Key, key, Vec::new()))?;
    }
    for row in initial_rows(&membership).into_iter().chain(progress_rows(FIRST_ENTRY.0, FIRST_ENTRY.1)) {
        batch.add(row)?;
    }
    batch.commit()?;
    // Rows that cannot be read are found now, not at the first start.
    crate::backend::load(&backend, 0).map_err(|error| OfflineError::Data(error.to_string()))?;
    drop(backend);

    let log_error = |error: crate::raft::LogError| OfflineError::Data(error.to_string());
    let mut log = EngineLog::open(&making.join(LOG_DIR)).map_err(log_error)?;
    log.set_identity(identity).map_err(log_error)?;
    let hard_state = HardState { term: FIRST_ENTRY.1, vote: 0, commit: FIRST_ENTRY.0, ..HardState::default() };
    log.append(&[], Some(&hard_state), true).map_err(log_error)?;
    log.truncate(FIRST_ENTRY.0, FIRST_ENTRY.1).map_err(log_error)?;
    drop(log);
    sync_dir(&making.join(LOG_DIR))?;
    sync_dir(making)?;
    Ok(newest)
}

/// Whether a row of the `key` bucket belongs to a key that is not wanted.
fn is_left_out(replay: &Replay<'_>, value: &Bytes) -> Result<bool, OfflineError> {
    let kv = mvccpb::KeyValue::decode(value.clone());
    let kv = kv.map_err(|_| OfflineError::Data("bucket key has a row that is no key and value".to_owned()))?;
    Ok((replay.leave_out)(&kv.key))
}

/// Adds the rows of later changes; returns the newest revision then.
fn add_changes(
    replay: Replay<'_>,
    snapshot: Revision,
    known_leases: &BTreeSet<Bytes>,
    batch: &mut Batch<'_>,
) -> Result<Revision, OfflineError> {
    let mut newest = snapshot;
    let mut leases = BTreeMap::new();
    for events in replay.changes {
        let events = events?;
        let Some(main) = events.first().map(|event| event.kv.mod_revision) else { continue };
        if main <= snapshot {
            continue;
        }
        if replay.revision_max.is_some_and(|max| main > max) {
            break;
        }
        for (event, sub) in events.into_iter().zip(0..) {
            let kv = event.kv;
            if (replay.leave_out)(&kv.key) {
                continue;
            }
            let record = match event.kind {
                EventKind::Delete => Record::tombstone(kv.key, main, sub),
                EventKind::Put => Record {
                    key: kv.key,
                    value: Value::Here(kv.value),
                    create: kv.create_revision,
                    main,
                    sub,
                    version: kv.version,
                    lease: kv.lease,
                },
            };
            if record.lease != LeaseId(0) {
                let lease = StoredLease { id: record.lease, ttl_seconds: LEASE_TTL_SECONDS, remaining_seconds: 0 };
                leases.insert(record.lease, lease_row(lease));
            }
            batch.add(record_row(&record))?;
        }
        newest = main;
    }
    for lease in leases.into_values().filter(|row| !known_leases.contains(row.key.as_slice())) {
        batch.add(lease)?;
    }
    Ok(newest)
}

struct Batch<'a> {
    backend: &'a mut RedbBackend,
    rows: Vec<Row>,
    bytes: usize,
}

impl Batch<'_> {
    fn add(&mut self, row: Row) -> Result<(), OfflineError> {
        self.bytes += row.key.len() + row.value.as_ref().map_or(0, Vec::len);
        self.rows.push(row);
        if self.bytes >= BATCH_BYTES { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), OfflineError> {
        self.backend.commit(&self.rows)?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }
}

fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn beside(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    parent(dir).join(format!(".{name}.restoring"))
}

/// Removes what an attempt that was killed left, but not from under one that is running.
fn discard_leftovers(making: &Path) -> Result<(), OfflineError> {
    if !making.exists() {
        return Ok(());
    }
    let lock = claim(making)?;
    std::fs::remove_dir_all(making).map_err(|source| OfflineError::io(making, source))?;
    drop(lock);
    Ok(())
}

fn sync_dir(dir: &Path) -> Result<(), OfflineError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| OfflineError::io(dir, source))
}
