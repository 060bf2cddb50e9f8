//! The keyspace itself and the two ways to change it: put and delete, within a revision.

use std::sync::Arc;

use bytes::Bytes;

use super::history::{Change, History};
use super::index::Index;
use super::record::Record;
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
    pub(super) history: History,
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

    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Option<&Arc<Record>> {
        self.index.get(key)?.live_at(revision)
    }

    /// Puts a record read from disk back; records come in revision order.
    pub(crate) fn restore(&mut self, record: Record) {
        let record = Arc::new(record);
        let prev = self.index.get(&record.key).and_then(|entry| entry.live_at(record.main)).cloned();
        self.revision = self.revision.max(record.main);
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

    /// Changes since a revision, oldest first. Below the compacted revision there may be gaps.
    pub(crate) fn changes_since(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        self.history.since(revision)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.index.check_invariants();
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
        let before = self.keyspace.get(&key, self.next()).cloned();
        let (create, version, old_lease) = match &before {
            Some(record) => (record.create, record.version + 1, record.lease),
            None => (self.next(), 1, LeaseId(0)),
        };
        self.lessor.move_key(&key, old_lease, lease);
        let sub = self.changes.len() as i64;
        self.record(Record { key, value, create, main: self.next(), sub, version, lease });
        before
    }

    /// Deletes the keys of a range that exist and returns their last versions.
    pub(crate) fn delete_range(&mut self, range: &KeyRange) -> Vec<Arc<Record>> {
        let next = self.next();
        let doomed: Vec<_> = self.keyspace.index.scan(range).filter_map(|entry| entry.live_at(next)).cloned().collect();
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
        let prev = self.keyspace.get(&record.key, self.begin).cloned();
        self.keyspace.index.insert(record.clone());
        self.keyspace.history.push(Change { record: record.clone(), prev });
        self.keyspace.revision = record.main;
        self.changes.push(record);
    }

    /// Ends the revision; the changes are for the backend.
    pub(crate) fn finish(self) -> Vec<Arc<Record>> {
        debug_assert_eq!(self.keyspace.revision, self.revision());
        self.changes
    }
}

/// The versions as a response shows them.
pub(crate) fn key_values(records: &[Arc<Record>]) -> Vec<KeyValue> {
    records.iter().map(|record| record.to_key_value()).collect()
}
