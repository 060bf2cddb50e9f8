//! A whole state on its way in: its rows go to a file beside the state file, whose place it takes when the state is taken over.
//!
//! In memory are, at any time, as many values as the keyspace may keep anyway, and the rows of one transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use redb::{Database, Durability, StorageError};

use super::redb_backend::{COPY_BYTES, RedbRows, Shared, into_error, last_commit, open, table};
use super::{BackendError, Loader, Row};
use crate::machine::Machine;
use crate::mvcc::{Cache, Keyspace, Rows};

/// Followed by a number: a state may arrive while the one before it waits to be taken over.
const NAME: &str = "incoming-";
/// Bytes after which what was written is made durable, so that the end does not have to wait for all of it.
const SYNC_BYTES: u64 = 64 << 20;

/// A state that has arrived.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) machine: Machine,
    /// The file with its rows; `None` where states are not kept in files.
    pub(crate) staged: Option<Staged>,
}

/// Where states that arrive are kept, and how much of them in memory.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    value_cache_bytes: usize,
    next: AtomicU64,
}

/// Rows in a file of their own. Dropping it removes the file.
pub(crate) struct Staged {
    path: PathBuf,
    database: Shared,
    /// Rows that are not in the file yet, up to [`COPY_BYTES`] of them.
    waiting: Vec<Row>,
    waiting_bytes: usize,
    unsynced_bytes: u64,
    in_use_bytes: u64,
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Staging {
    /// In the directory of the state file, from which what an earlier life received and did not take over is removed.
    pub(crate) fn new(dir: &Path, value_cache_bytes: usize) -> Self {
        for file in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            if file.file_name().to_string_lossy().starts_with(NAME) {
                let _nobody_misses_it = std::fs::remove_file(file.path());
            }
        }
        Self { dir: dir.to_owned(), value_cache_bytes, next: AtomicU64::new(0) }
    }

    /// An empty file, and a loader that leaves values there which have no room in memory.
    pub(crate) fn begin(&self) -> Result<(Staged, Loader), BackendError> {
        let path = self.dir.join(format!("{NAME}{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let database: Shared = Arc::new(RwLock::new(Some(open(&path)?)));
        let rows: Arc<dyn Rows> = Arc::new(RedbRows(database.clone()));
        let cache = Cache::backed_by(rows, self.value_cache_bytes);
        let (waiting, waiting_bytes) = (Vec::new(), 0);
        let staged = Staged { path, database, waiting, waiting_bytes, unsynced_bytes: 0, in_use_bytes: 0 };
        Ok((staged, Loader::into_keyspace(Keyspace::with_cache(cache))))
    }
}

impl Staged {
    /// Takes a row, and writes what waits when that is much.
    pub(crate) fn add(&mut self, row: Row) -> Result<(), BackendError> {
        let bytes = row.key.len() + row.value.as_ref().map_or(0, Vec::len);
        self.in_use_bytes += bytes as u64;
        self.waiting_bytes += bytes;
        self.waiting.push(row);
        if self.waiting_bytes >= COPY_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), BackendError> {
        self.unsynced_bytes += self.waiting_bytes as u64;
        let is_sync = self.unsynced_bytes >= SYNC_BYTES;
        self.with(|database| insert(database, &self.waiting, is_sync))?;
        if is_sync {
            self.unsynced_bytes = 0;
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Makes all of it durable.
    pub(crate) fn finish(&mut self) -> Result<(), BackendError> {
        self.write()?;
        self.with(|database| last_commit(database, self.in_use_bytes))
    }

    fn with(&self, act: impl FnOnce(&Database) -> Result<(), redb::Error>) -> Result<(), BackendError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or_else(|| into_error(StorageError::PreviousIo.into()))?;
        act(database).map_err(into_error)
    }

    /// Closes the file and leaves it to the caller, with the bytes in use.
    pub(super) fn close(mut self) -> (PathBuf, u64) {
        *self.database.write() = None;
        (std::mem::take(&mut self.path), self.in_use_bytes)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            *self.database.write() = None;
            let _nobody_misses_it = std::fs::remove_file(&self.path);
        }
    }
}

fn insert(database: &Database, rows: &[Row], is_sync: bool) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(if is_sync { Durability::Immediate } else { Durability::None })?;
    // Rows of a bucket mostly follow each other: a table is opened once for all of them.
    for rows in rows.chunk_by(|a, b| a.bucket == b.bucket) {
        let mut table = txn.open_table(table(rows[0].bucket))?;
        for row in rows {
            table.insert(row.key.as_slice(), row.value.as_deref().unwrap_or_default())?;
        }
    }
    txn.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend as _, Bucket, RedbBackend, StateRows, load};
    use crate::{Op, Put, Txn};

    const VALUE_BYTES: usize = 100 << 10;
    const BUDGET_BYTES: usize = 1 << 20;

    /// Rows of a state with 8 MiB of values.
    fn state() -> Vec<Row> {
        let mut machine = Machine { applied: (90, 3), ..Machine::default() };
        for n in 0..80 {
            let put = Put { key: format!("k{n}").into(), value: vec![n; VALUE_BYTES].into(), ..Put::default() };
            let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
            machine.keyspace.txn(&mut machine.lessor, &txn).unwrap();
        }
        StateRows::of(&machine).into_rows().map(Result::unwrap).collect()
    }

    fn files(dir: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(NAME)).collect()
    }

    #[test]
    fn a_state_that_arrives_is_in_its_file_and_only_the_budget_of_it_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = RedbBackend::open(dir.path().join("state.redb")).unwrap();
        backend.commit(&[Row::put(Bucket::Lease, "old", "x")]).unwrap();
        let staging = Staging::new(dir.path(), BUDGET_BYTES);
        let (mut staged, mut loader) = staging.begin().unwrap();
        for row in state() {
            loader.row(row.bucket, &row.key, row.value.as_deref().unwrap_or_default()).unwrap();
            staged.add(row).unwrap();
            assert!(loader.cached_bytes() <= BUDGET_BYTES + VALUE_BYTES);
            assert!(staged.waiting_bytes < COPY_BYTES);
        }
        staged.finish().unwrap();
        let mut arrived = loader.finish().machine;
        arrived.keyspace.check_invariants();
        backend.adopt(staged).unwrap();
        assert_eq!(files(dir.path()), Vec::<String>::new());
        // As the machine before it, which reads from the state file.
        let mut before = load(&backend, BUDGET_BYTES).unwrap().machine;
        arrived.keyspace.take_over_cache(&mut before.keyspace);
        arrived.keyspace.check_invariants();
        let rows = StateRows::of(&arrived).into_rows().map(Result::unwrap).collect::<Vec<_>>();
        assert!(rows == state(), "what arrived is what was sent, and all of it can be read");
        let in_use_bytes = rows.iter().map(|row| row.key.len() + row.value.as_ref().unwrap().len()).sum::<usize>();
        assert_eq!(backend.sizes().in_use_bytes, in_use_bytes as u64);
        drop(backend);
        let backend = RedbBackend::open(dir.path().join("state.redb")).unwrap();
        let loaded = load(&backend, BUDGET_BYTES).unwrap();
        assert!(loaded.is_installed && loaded.machine.applied == (90, 3));
    }

    #[test]
    fn what_is_not_taken_over_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::new(dir.path(), BUDGET_BYTES);
        let (first, _) = staging.begin().unwrap();
        let (second, _) = staging.begin().unwrap();
        assert_eq!(files(dir.path()).len(), 2);
        drop(first);
        assert_eq!(files(dir.path()), ["incoming-1"]);
        std::fs::write(dir.path().join("incoming-7"), "cut short").unwrap();
        drop(second);
        Staging::new(dir.path(), BUDGET_BYTES);
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
}
