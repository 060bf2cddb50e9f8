//! The backend as one redb file: a table per bucket.
//!
//! Commits use two phases and save the allocator's state: a torn write can cost the last commit but never the file, and an
//! unclean stop costs no walk over it. After any I/O error redb wants to be reopened, so the database is dropped then and
//! opened again for the next commit.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError};

use super::{Backend, BackendError, Bucket, Row, Sizes, Staged};
use crate::mvcc::{RevisionKey, Rows};
use crate::{Revision, StoreError};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// redb's cache: for the writer, and for values that are not in the keyspace's own cache any more.
const CACHE_BYTES: usize = 32 << 20;
/// Bytes of all keys and values in the buckets, noted with each commit so that a start need not read everything to know.
pub(super) const SIZES: TableDefinition<'static, &'static str, u64> = TableDefinition::new("sizes");
pub(super) const IN_USE: &str = "in_use";
/// Bytes written in one transaction when defragmenting, and when a whole state arrives.
pub(super) const COPY_BYTES: usize = 4 << 20;

pub(crate) struct RedbBackend {
    path: PathBuf,
    database: Shared,
    /// Bytes of all keys and values.
    in_use_bytes: u64,
}

/// `None` after an error, and while one file takes the place of another. Only the writer changes it.
pub(super) type Shared = Arc<RwLock<Option<Database>>>;

impl RedbBackend {
    pub(crate) fn open(path: PathBuf) -> Result<Self, BackendError> {
        // What was being made when it was interrupted: the copy of a defragmentation, or the file itself, which redb makes in
        // several writes.
        let new = copy_path(&path);
        let _usually_none = std::fs::remove_file(&new);
        if !path.exists() {
            drop(open(&new)?);
            put_in_place(&new, &path).map_err(|error| into_error(error.into()))?;
        }
        let database = Arc::new(RwLock::new(Some(open(&path)?)));
        let noted = match database.read().as_ref() {
            Some(database) => in_use(database).map_err(into_error)?,
            None => None,
        };
        let mut backend = Self { path, database, in_use_bytes: 0 };
        backend.in_use_bytes = match noted {
            Some(in_use_bytes) => in_use_bytes,
            None => backend.count()?,
        };
        Ok(backend)
    }

    /// Bytes in use, in a file that does not say.
    fn count(&self) -> Result<u64, BackendError> {
        let mut in_use_bytes = 0;
        for bucket in Bucket::ALL {
            self.scan(bucket, &mut |key, value| in_use_bytes += (key.len() + value.len()) as u64)?;
        }
        Ok(in_use_bytes)
    }

    /// Compares every page with its checksum; false when something was wrong and has been repaired.
    pub(crate) fn check(&mut self) -> Result<bool, BackendError> {
        match self.database.write().as_mut() {
            Some(database) => database.check_integrity().map_err(|error| BackendError::Failed(error.to_string())),
            None => Err(unavailable()),
        }
    }

    fn ensure_open(&self) -> Result<(), BackendError> {
        let mut database = self.database.write();
        if database.is_none() {
            *database = Some(open(&self.path)?);
        }
        Ok(())
    }

    /// Writes everything to a new file, which then takes the place of the old one.
    fn copy(&self) -> Result<(), redb::Error> {
        let path = copy_path(&self.path);
        let _usually_none = std::fs::remove_file(&path);
        {
            let from = self.database.read();
            let from = from.as_ref().ok_or(redb::Error::from(StorageError::PreviousIo))?;
            let to = create(&path)?;
            copy(from, &to, self.in_use_bytes)?;
        }
        self.put_in_place(&path)
    }

    /// A file that is whole and closed takes the place of the state file.
    fn put_in_place(&self, path: &Path) -> Result<(), redb::Error> {
        let mut database = self.database.write();
        // Closed before, so that the new one finds no lock when it is opened under the old name.
        *database = None;
        put_in_place(path, &self.path)?;
        *database = Some(create(&self.path)?);
        Ok(())
    }
}

/// Readers may be around for longer; the file is closed with its writer.
impl Drop for RedbBackend {
    fn drop(&mut self) {
        *self.database.write() = None;
    }
}

fn copy_path(path: &Path) -> PathBuf {
    path.with_extension("redb.new")
}

/// Gives a finished file its name, durably.
fn put_in_place(new: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::rename(new, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn unavailable() -> BackendError {
    into_error(StorageError::PreviousIo.into())
}

/// Copies all tables, durably at the end, with a note of the bytes in use.
fn copy(from: &Database, to: &Database, in_use_bytes: u64) -> Result<(), redb::Error> {
    let reading = from.begin_read()?;
    for bucket in Bucket::ALL {
        let source = match reading.open_table(table(bucket)) {
            Ok(source) => source,
            Err(TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut rows = source.iter()?.peekable();
        while rows.peek().is_some() {
            let mut writing = to.begin_write()?;
            writing.set_durability(Durability::None)?;
            let mut target = writing.open_table(table(bucket))?;
            let mut n_bytes = 0;
            for row in rows.by_ref() {
                let (key, value) = row?;
                target.insert(key.value(), value.value())?;
                n_bytes += key.value().len() + value.value().len();
                if n_bytes >= COPY_BYTES {
                    break;
                }
            }
            drop(target);
            writing.commit()?;
        }
    }
    last_commit(to, in_use_bytes)
}

/// Makes what was written before durable, with the bytes in use.
pub(super) fn last_commit(database: &Database, in_use_bytes: u64) -> Result<(), redb::Error> {
    let mut last = database.begin_write()?;
    last.open_table(SIZES)?.insert(IN_USE, in_use_bytes)?;
    last.set_durability(Durability::Immediate)?;
    last.set_two_phase_commit(true);
    last.set_quick_repair(true);
    last.commit()?;
    Ok(())
}

pub(super) fn open(path: &Path) -> Result<Database, BackendError> {
    create(path).map_err(into_error)
}

fn create(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
}

pub(super) fn table(bucket: Bucket) -> Table {
    TableDefinition::new(bucket.name())
}

pub(super) fn into_error(error: redb::Error) -> BackendError {
    match error {
        redb::Error::Io(io) if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            BackendError::NoSpace
        }
        other => BackendError::Failed(other.to_string()),
    }
}

/// The bytes in use as the last commit noted them.
fn in_use(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(SIZES) {
        Ok(sizes) => Ok(sizes.get(IN_USE)?.map(|noted| noted.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stores the rows; returns the bytes in use after, given those before.
fn commit(database: &Database, rows: &[Row], in_use_bytes: u64) -> Result<u64, redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    let mut growth = 0_i64;
    for bucket in Bucket::ALL {
        let mut rows = rows.iter().filter(|row| row.bucket == bucket).peekable();
        if rows.peek().is_none() {
            continue;
        }
        let mut table = txn.open_table(table(bucket))?;
        for row in rows {
            let old = match &row.value {
                Some(value) => {
                    growth += (row.key.len() + value.len()) as i64;
                    table.insert(row.key.as_slice(), value.as_slice())?
                }
                None => table.remove(row.key.as_slice())?,
            };
            growth -= old.map_or(0, |old| row.key.len() + old.value().len()) as i64;
        }
    }
    let in_use_bytes = in_use_bytes.saturating_add_signed(growth);
    txn.open_table(SIZES)?.insert(IN_USE, in_use_bytes)?;
    txn.commit()?;
    Ok(in_use_bytes)
}

/// Stores the rows instead of all others and returns the bytes in use then.
fn replace(database: &Database, rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<u64, redb::Error> {
    let mut rows = rows.map(|row| row.map_err(|error| redb::Error::Corrupted(error.to_string())));
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    for bucket in Bucket::ALL {
        txn.delete_table(table(bucket))?;
    }
    let mut in_use_bytes = 0;
    let mut next = rows.next().transpose()?;
    // Rows of a bucket mostly follow each other: a table is opened once for all of them.
    while let Some(bucket) = next.as_ref().map(|row| row.bucket) {
        let mut table = txn.open_table(table(bucket))?;
        while let Some(row) = next.take_if(|row| row.bucket == bucket) {
            next = rows.next().transpose()?;
            let Some(value) = row.value else { continue };
            in_use_bytes += (row.key.len() + value.len()) as u64;
            table.insert(row.key.as_slice(), value.as_slice())?;
        }
    }
    txn.open_table(SIZES)?.insert(IN_USE, in_use_bytes)?;
    txn.commit()?;
    Ok(in_use_bytes)
}

fn scan(database: &Database, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), redb::Error> {
    let txn = database.begin_read()?;
    let table = match txn.open_table(table(bucket)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for row in table.iter()? {
        let (key, value) = row?;
        visit(key.value(), value.value());
    }
    Ok(())
}

impl Backend for RedbBackend {
    fn commit(&mut self, rows: &[Row]) -> Result<(), BackendError> {
        self.ensure_open()?;
        let committed = match self.database.read().as_ref() {
            Some(database) => commit(database, rows, self.in_use_bytes),
            None => return Err(unavailable()),
        };
        match committed {
            Ok(in_use_bytes) => {
                self.in_use_bytes = in_use_bytes;
                Ok(())
            }
            Err(error) => {
                *self.database.write() = None;
                Err(into_error(error))
            }
        }
    }

    fn replace(&mut self, rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<(), BackendError> {
        self.ensure_open()?;
        let replaced = match self.database.read().as_ref() {
            Some(database) => replace(database, rows),
            None => return Err(unavailable()),
        };
        match replaced {
            Ok(in_use_bytes) => {
                self.in_use_bytes = in_use_bytes;
                Ok(())
            }
            Err(error) => {
                *self.database.write() = None;
                Err(into_error(error))
            }
        }
    }

    fn adopt(&mut self, staged: Staged) -> Result<(), BackendError> {
        let (path, in_use_bytes) = staged.close();
        self.put_in_place(&path).map_err(into_error)?;
        self.in_use_bytes = in_use_bytes;
        Ok(())
    }

    fn scan(&self, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError> {
        let database = self.database.read();
        scan(database.as_ref().ok_or_else(unavailable)?, bucket, visit).map_err(into_error)
    }

    fn sizes(&self) -> Sizes {
        let file_bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        Sizes { file_bytes, in_use_bytes: self.in_use_bytes }
    }

    fn rows(&self) -> Option<Arc<dyn Rows>> {
        Some(Arc::new(RedbRows(self.database.clone())))
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        self.ensure_open()?;
        let copied = self.copy().map_err(into_error);
        if copied.is_err() {
            let _usually_gone = std::fs::remove_file(copy_path(&self.path));
        }
        copied
    }
}

pub(super) struct RedbRows(pub(super) Shared);

impl std::fmt::Debug for RedbRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbRows").finish_non_exhaustive()
    }
}

impl RedbRows {
    fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.0.read();
        let database = database.as_ref().ok_or_else(|| unavailable().into_store_error())?;
        let opened = || Ok(database.begin_read()?.open_table(table(Bucket::Key))?);
        opened().and_then(|table| read(&table)).map_err(|error: redb::Error| into_error(error).into_store_error())
    }

    /// What `of` makes of the row of each version.
    fn each<T>(&self, versions: &[RevisionKey], of: impl Fn(&[u8]) -> T) -> Result<Vec<Option<T>>, StoreError> {
        self.read(|table| {
            let get = |at: &RevisionKey| Ok(table.get(at.encode().as_slice())?.map(|row| of(row.value())));
            versions.iter().map(get).collect()
        })
    }
}

impl Rows for RedbRows {
    fn get(&self, versions: &[RevisionKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.each(versions, Bytes::copy_from_slice)
    }

    fn lengths(&self, versions: &[RevisionKey]) -> Result<Vec<Option<usize>>, StoreError> {
        self.each(versions, <[u8]>::len)
    }

    fn scan(&self, from: Revision, to: Revision, n_max: usize) -> Result<Vec<(RevisionKey, Bytes)>, StoreError> {
        let start = RevisionKey::of_revision(from).encode();
        let end = RevisionKey::of_revision(Revision(to.0.saturating_add(1))).encode();
        self.read(|table| {
            let mut rows: Vec<(RevisionKey, Bytes)> = Vec::new();
            for row in table.range(start.as_slice()..end.as_slice())? {
                let (key, value) = row?;
                let Some(at) = RevisionKey::decode(key.value()) else { continue };
                if rows.len() >= n_max && rows.last().is_some_and(|(last, _)| last.main != at.main) {
                    break;
                }
                rows.push((at, Bytes::copy_from_slice(value.value())));
            }
            Ok(rows)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_in(backend: &RedbBackend, bucket: Bucket) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        backend.scan(bucket, &mut |key, value| rows.push((key.to_vec(), value.to_vec()))).unwrap();
        rows
    }

    #[test]
    fn commits_survive_reopening_and_sizes_follow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let mut backend = RedbBackend::open(path.clone()).unwrap();
        let gone = Row { bucket: Bucket::Key, key: b"b".to_vec(), value: None };
        backend.commit(&[Row::put(Bucket::Key, "b", "2"), Row::put(Bucket::Key, "a", "1")]).unwrap();
        backend.commit(&[gone, Row::put(Bucket::Key, "a", "one"), Row::put(Bucket::Meta, "m", "x")]).unwrap();
        assert_eq!(backend.sizes().in_use_bytes, 6);
        assert_eq!(backend.count().unwrap(), 6);
        drop(backend);
        let mut backend = RedbBackend::open(path).unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"a".to_vec(), b"one".to_vec())]);
        assert_eq!(rows_in(&backend, Bucket::Meta), [(b"m".to_vec(), b"x".to_vec())]);
        assert_eq!(rows_in(&backend, Bucket::Lease), []);
        assert_eq!(backend.sizes().in_use_bytes, 6);
        backend.defragment().unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"a".to_vec(), b"one".to_vec())]);
        let mut others = [Row::put(Bucket::Lease, "l", "1"), Row::put(Bucket::Key, "z", "9")].into_iter().map(Ok);
        backend.replace(&mut others).unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"z".to_vec(), b"9".to_vec())]);
        assert_eq!(rows_in(&backend, Bucket::Meta), []);
        assert_eq!(backend.sizes().in_use_bytes, 4);
    }

    #[test]
    fn a_file_is_never_found_half_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        std::fs::write(copy_path(&path), [0; 4096]).unwrap();
        RedbBackend::open(path.clone()).unwrap().commit(&[Row::put(Bucket::Key, "a", "1")]).unwrap();
        assert!(!copy_path(&path).exists());
        let backend = RedbBackend::open(path).unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"a".to_vec(), b"1".to_vec())]);
    }
}
