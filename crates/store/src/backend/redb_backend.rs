//! The backend as one redb file: a table per bucket.
//!
//! Commits use two phases and save the allocator's state: a torn write can cost the last commit but never the file, and an
//! unclean stop costs no walk over it. After any I/O error redb wants to be reopened, so the database is dropped then and
//! opened again for the next commit.

use std::io::ErrorKind;
use std::path::PathBuf;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError};

use super::{Backend, BackendError, Bucket, Row, Sizes};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// redb's cache; the keyspace is in memory already, so it only serves the writer.
const CACHE_BYTES: usize = 32 << 20;

pub(crate) struct RedbBackend {
    path: PathBuf,
    /// `None` after an error.
    database: Option<Database>,
    /// Bytes of all keys and values.
    in_use_bytes: u64,
}

impl RedbBackend {
    pub(crate) fn open(path: PathBuf) -> Result<Self, BackendError> {
        let database = open(&path)?;
        let mut backend = Self { path, database: Some(database), in_use_bytes: 0 };
        let mut in_use_bytes = 0;
        for bucket in Bucket::ALL {
            backend.scan(bucket, &mut |key, value| in_use_bytes += (key.len() + value.len()) as u64)?;
        }
        backend.in_use_bytes = in_use_bytes;
        Ok(backend)
    }

    /// Compares every page with its checksum; false when something was wrong and has been repaired.
    pub(crate) fn check(&mut self) -> Result<bool, BackendError> {
        self.database()?;
        let Some(database) = &mut self.database else { return Ok(true) };
        database.check_integrity().map_err(|error| BackendError::Failed(error.to_string()))
    }

    fn database(&mut self) -> Result<&Database, BackendError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        Ok(self.database.insert(database))
    }
}

fn open(path: &PathBuf) -> Result<Database, BackendError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| into_error(error.into()))
}

fn table(bucket: Bucket) -> Table {
    TableDefinition::new(bucket.name())
}

fn into_error(error: redb::Error) -> BackendError {
    match error {
        redb::Error::Io(io) if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            BackendError::NoSpace
        }
        other => BackendError::Failed(other.to_string()),
    }
}

/// Stores the rows and returns by how much the bytes in use changed.
fn commit(database: &Database, rows: &[Row]) -> Result<i64, redb::Error> {
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
    txn.commit()?;
    Ok(growth)
}

/// Stores the rows instead of all others and returns the bytes in use then.
fn replace(database: &Database, rows: &mut dyn Iterator<Item = Row>) -> Result<u64, redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    for bucket in Bucket::ALL {
        txn.delete_table(table(bucket))?;
    }
    let mut in_use_bytes = 0;
    let mut rows = rows.peekable();
    // Rows of a bucket mostly follow each other: a table is opened once for all of them.
    while let Some(bucket) = rows.peek().map(|row| row.bucket) {
        let mut table = txn.open_table(table(bucket))?;
        while let Some(row) = rows.next_if(|row| row.bucket == bucket) {
            let Some(value) = row.value else { continue };
            in_use_bytes += (row.key.len() + value.len()) as u64;
            table.insert(row.key.as_slice(), value.as_slice())?;
        }
    }
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
        match commit(self.database()?, rows) {
            Ok(growth) => {
                self.in_use_bytes = self.in_use_bytes.saturating_add_signed(growth);
                Ok(())
            }
            Err(error) => {
                self.database = None;
                Err(into_error(error))
            }
        }
    }

    fn replace(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), BackendError> {
        match replace(self.database()?, rows) {
            Ok(in_use_bytes) => {
                self.in_use_bytes = in_use_bytes;
                Ok(())
            }
            Err(error) => {
                self.database = None;
                Err(into_error(error))
            }
        }
    }

    fn scan(&self, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError> {
        let database = self.database.as_ref().ok_or(redb::Error::from(StorageError::PreviousIo)).map_err(into_error)?;
        scan(database, bucket, visit).map_err(into_error)
    }

    fn sizes(&self) -> Sizes {
        let file_bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        Sizes { file_bytes, in_use_bytes: self.in_use_bytes }
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        self.database()?;
        let Some(database) = &mut self.database else { return Ok(()) };
        let compacted = database.compact().map_err(|error| BackendError::Failed(error.to_string()));
        if compacted.is_err() {
            self.database = None;
        }
        compacted.map(|_moved_anything| ())
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
        drop(backend);
        let mut backend = RedbBackend::open(path).unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"a".to_vec(), b"one".to_vec())]);
        assert_eq!(rows_in(&backend, Bucket::Meta), [(b"m".to_vec(), b"x".to_vec())]);
        assert_eq!(rows_in(&backend, Bucket::Lease), []);
        assert_eq!(backend.sizes().in_use_bytes, 6);
        backend.defragment().unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"a".to_vec(), b"one".to_vec())]);
        let mut others = [Row::put(Bucket::Lease, "l", "1"), Row::put(Bucket::Key, "z", "9")].into_iter();
        backend.replace(&mut others).unwrap();
        assert_eq!(rows_in(&backend, Bucket::Key), [(b"z".to_vec(), b"9".to_vec())]);
        assert_eq!(rows_in(&backend, Bucket::Meta), []);
        assert_eq!(backend.sizes().in_use_bytes, 4);
    }
}
