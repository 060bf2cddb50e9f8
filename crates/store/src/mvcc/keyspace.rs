//! The keyspace itself and the two ways to change it: put and delete, within a revision.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::CHUNK_KEYS_MAX;
use super::cache::Cache;
use super::history::{Change, Garbage, History};
use super::index::{Found, Index};
use super::record::{Record, Value};
use super::rows::with_values;
use crate::lease::Lessor;
use crate::{KeyRange, KeyValue, LeaseId, Revision, StoreError};

/// Revision of an empty keyspace.
const REVISION_INITIAL: Revision = Revision(1);
/// "Nothing was ever compacted".
const COMPACTED_NEVER: Revision = Revision(-1);

/// Every retained version of every key.
///
/// Invariants: no record is newer than `revision`; `swept <= compacted <= revision`.
#[derive(Debug)]
pub(crate) struct Keyspace {
    pub(super) index: Index,
    /// The revisions after [`Cache::forgotten`].
    pub(super) history: History,
    /// What is left to sweep of the revisions before.
    pub(super) garbage: VecDeque<Garbage>,
    pub(super) cache: Cache,
    pub(super) revision: Revision,
    /// Reads below are refused.
    pub(super) compacted: Revision,
    /// Garbage below is gone from memory.
    pub(super) swept: Revision,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self {
            index: Index::default(),
            history: History::default(),
            garbage: VecDeque::new(),
            cache: Cache::default(),
            revision: REVISION_INITIAL,
            compacted: COMPACTED_NEVER,
            swept: COMPACTED_NEVER,
        }
    }
}

/// One revision in the making. Changes are visible to reads through [`KeyspaceWrite::view`] at once; nobody else can see them,
/// because whoever holds this holds the keyspace.
#[derive(Debug)]
pub(crate) struct KeyspaceWrite<'a> {
    pub(super) keyspace: &'a mut Keyspace,
    pub(super) lessor: &'a mut Lessor,
    begin: Revision,
    /// What the backend has to store.
    changes: Vec<Arc<Record>>,
}

impl Keyspace {
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn begin<'a>(&'a mut self, lessor: &'a mut Lessor) -> KeyspaceWrite<'a> {
        let begin = self.revision;
        KeyspaceWrite { keyspace: self, lessor, begin, changes: Vec::new() }
    }

    /// The revision a read asks for: refused when compacted or not there yet, the newest when unset.
    pub(crate) fn readable(&self, revision: Revision) -> Result<Revision, StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision);
        }
        if revision <= Revision(0) {
            return Ok(self.revision);
        }
        if revision < self.compacted {
            return Err(StoreError::Compacted { compact_revision: self.compacted });
        }
        Ok(revision)
    }

    /// An empty keyspace that need not keep all values in memory.
    pub(crate) fn with_cache(cache: Cache) -> Self {
        Self { cache, ..Self::default() }
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Option<Found<'_>> {
        self.index.get(key)?.live_at(revision)
    }

    /// The versions as a response shows them. They must not have been swept.
    pub(crate) fn key_values(&self, records: Vec<Arc<Record>>) -> Result<Vec<KeyValue>, StoreError> {
        let mut records: Vec<_> = records.into_iter().map(Some).collect();
        with_values(self.cache.rows(), &mut records)?;
        Ok(records.iter().flatten().map(|record| record.to_key_value()).collect())
    }

    /// Puts a record read from disk back; records come in revision order.
    pub(crate) fn restore(&mut self, record: Record) {
        let record = Arc::new(record);
        let prev = self.get(&record.key, record.main).map(Found::to_record);
        self.revision = self.revision.max(record.main);
        self.insert(record, prev);
        // It was just read from there.
        while self.evict(self.revision, CHUNK_KEYS_MAX) {}
    }

    fn insert(&mut self, record: Arc<Record>, prev: Option<Arc<Record>>) {
        self.cache.add(&record);
        self.index.insert(record.clone());
        self.history.push(Change { record, prev });
    }

    /// A restart never lowers the revision, even if the newest row was compacted away.
    pub(crate) fn restore_revision(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    pub(crate) fn restore_compacted(&mut self, compacted: Revision) {
        self.compacted = self.compacted.max(compacted);
        self.revision = self.revision.max(compacted);
    }

    /// Changes since a revision, oldest first. Below the compacted revision there may be gaps; up to [`Cache::forgotten`] there is
    /// nothing.
    pub(crate) fn changes_since(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        self.history.since(revision)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.index.check_invariants();
        if self.cache.rows().is_some() {
            assert_eq!(self.index.hot_bytes(), self.cache.bytes());
        }
        let first = self.history.since(Revision(0)).next();
        assert!(first.is_none_or(|change| change.record.main > self.cache.forgotten()));
        assert!(self.compacted <= self.revision);
        assert!(self.swept <= self.compacted);
        assert!(self.history.since(Revision(0)).all(|change| change.record.main <= self.revision));
    }
}

impl KeyspaceWrite<'_> {
    /// The newest revision, counting the one in the making once it has a change.
    pub(crate) fn revision(&self) -> Revision {
        if self.changes.is_empty() { self.begin } else { self.next() }
    }

    /// The keyspace as earlier operations of this revision left it.
    pub(crate) fn view(&self) -> &Keyspace {
        self.keyspace
    }

    /// The revision before this one.
    pub(crate) fn before(&self) -> Revision {
        self.begin
    }

    fn next(&self) -> Revision {
        Revision(self.begin.0 + 1)
    }

    /// Sets a key and returns the version before.
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes, lease: LeaseId) -> Option<Arc<Record>> {
        let before = self.keyspace.get(&key, self.next()).map(Found::to_record);
        let (create, version, old_lease) = match &before {
            Some(record) => (record.create, record.version + 1, record.lease),
            None => (self.next(), 1, LeaseId(0)),
        };
        self.lessor.move_key(&key, old_lease, lease);
        let sub = self.changes.len() as i64;
        let value = Value::Here(value);
        self.record(Record { key, value, create, main: self.next(), sub, version, lease });
        before
    }

    /// Deletes the keys of a range that exist and returns their last versions.
    pub(crate) fn delete_range(&mut self, range: &KeyRange) -> Vec<Arc<Record>> {
        let next = self.next();
        let doomed = self.keyspace.index.scan(range).filter_map(|entry| entry.live_at(next));
        let doomed: Vec<_> = doomed.map(Found::to_record).collect();
        for record in &doomed {
            self.lessor.move_key(&record.key, record.lease, LeaseId(0));
            let sub = self.changes.len() as i64;
            self.record(Record::tombstone(record.key.clone(), next, sub));
        }
        doomed
    }

    fn record(&mut self, record: Record) {
        let record = Arc::new(record);
        // What a watcher calls "previous" is the state before the revision, not before the operation.
        let prev = self.keyspace.get(&record.key, self.begin).map(Found::to_record);
        self.keyspace.insert(record.clone(), prev);
        self.keyspace.revision = record.main;
        self.changes.push(record);
    }

    /// Ends the revision; the changes are for the backend.
    pub(crate) fn finish(self) -> Vec<Arc<Record>> {
        debug_assert_eq!(self.keyspace.revision, self.revision());
        self.changes
    }
}
