//! The newest changes in revision order: what watches are fed from.

use std::collections::VecDeque;
use std::sync::Arc;

use super::record::Record;
use super::rows::{Rows, with_values};
use crate::{EventKind, KeyValue, Revision, StoreError, WatchEvent};

/// A change and what it replaced.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) record: Arc<Record>,
    /// The version before this revision, unless there was none or it has been compacted.
    pub(crate) prev: Option<Arc<Record>>,
}

/// A change that is no longer in memory but left something for the sweep.
#[derive(Debug)]
pub(crate) struct Garbage {
    pub(crate) main: Revision,
    pub(crate) key: Box<[u8]>,
}

impl Change {
    pub(crate) fn kind(&self) -> EventKind {
        if self.record.is_tombstone() { EventKind::Delete } else { EventKind::Put }
    }

    /// The values must be in memory; see [`with_previous`].
    pub(crate) fn to_event(&self, prev_kv: bool) -> WatchEvent {
        let kind = self.kind();
        let kv = match kind {
            EventKind::Put => self.record.to_key_value(),
            EventKind::Delete => {
                KeyValue { key: self.record.key.clone(), mod_revision: self.record.main, ..KeyValue::default() }
            }
        };
        let is_create = kind == EventKind::Put && self.record.create == self.record.main;
        let prev = self.prev.as_ref().filter(|_| prev_kv && !is_create);
        WatchEvent { kind, kv, prev_kv: prev.map(|record| record.to_key_value()) }
    }
}

/// Reads the previous versions' values where they are not in memory; one that was compacted meanwhile is none.
pub(crate) fn with_previous(rows: Option<&Arc<dyn Rows>>, changes: &mut [Change]) -> Result<(), StoreError> {
    let is_missing = |change: &Change| change.prev.as_ref().is_some_and(|prev| prev.value.here().is_none());
    let mut lacking: Vec<_> = changes.iter_mut().filter(|change| is_missing(change)).collect();
    let mut previous: Vec<_> = lacking.iter_mut().map(|change| change.prev.take()).collect();
    with_values(rows, &mut previous)?;
    for (change, prev) in lacking.into_iter().zip(previous) {
        change.prev = prev;
    }
    Ok(())
}

/// Changes ordered by revision, then by place in it.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: VecDeque<Change>,
}

impl History {
    pub(crate) fn push(&mut self, change: Change) {
        if let Some(last) = self.changes.back() {
            let (new, old) = (&change.record, &last.record);
            assert!((new.main, new.sub) > (old.main, old.sub), "history only grows");
        }
        self.changes.push_back(change);
    }

    /// All changes from a revision on.
    pub(crate) fn since(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        let start = self.changes.partition_point(|change| change.record.main < revision);
        self.changes.range(start..)
    }

    pub(crate) fn front(&self) -> Option<&Change> {
        self.changes.front()
    }

    pub(crate) fn pop_front(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The oldest change, if it is of this revision or an older one.
    pub(crate) fn pop_through(&mut self, revision: Revision) -> Option<Change> {
        self.changes.pop_front_if(|change| change.record.main <= revision)
    }

    /// Changes of exactly one revision, to forget what they replaced.
    pub(crate) fn at_mut(&mut self, revision: Revision) -> impl Iterator<Item = &mut Change> {
        let start = self.changes.partition_point(|change| change.record.main < revision);
        let end = self.changes.partition_point(|change| change.record.main <= revision);
        self.changes.range_mut(start..end)
    }
}
