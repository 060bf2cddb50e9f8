//! Which values are in memory: those of the newest revisions, up to a budget.
//!
//! The order of leaving is the order of revisions. That keeps what watches and readers ask for most, needs no work when reading,
//! and makes the history in memory one piece: the revisions after [`Cache::forgotten`].

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::Keyspace;
use super::history::Garbage;
use super::record::{Record, RevisionKey};
use super::rows::{RowHead, Rows};
use crate::{LeaseId, Revision};

/// Places of versions that are gone are cleaned up when they are at least this many, and the majority.
const DEAD_MIN: usize = 1024;

/// The versions in memory, and where the others are.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// `None` where nothing is on disk: then everything stays in memory.
    rows: Option<Arc<dyn Rows>>,
    budget_bytes: usize,
    /// Versions with values, by revision; those that were swept are dead places.
    order: VecDeque<Weak<Record>>,
    n_dead: usize,
    bytes: usize,
    /// No value of this revision or an older one need be in memory, nor is their history.
    forgotten: Revision,
}

impl Cache {
    /// Up to `budget_bytes` of values stay in memory; the others are read through `rows`.
    pub(crate) fn backed_by(rows: Arc<dyn Rows>, budget_bytes: usize) -> Self {
        Self { rows: Some(rows), budget_bytes, ..Self::default() }
    }

    pub(crate) fn rows(&self) -> Option<&Arc<dyn Rows>> {
        self.rows.as_ref()
    }

    pub(crate) fn forgotten(&self) -> Revision {
        self.forgotten
    }

    pub(super) fn add(&mut self, record: &Arc<Record>) {
        if self.rows.is_some() {
            self.bytes += record.cost_bytes();
            self.order.push_back(Arc::downgrade(record));
        }
    }

    pub(super) fn remove(&mut self, n_records: usize, bytes: usize) {
        if self.rows.is_none() {
            return;
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.n_dead += n_records;
        if self.n_dead >= DEAD_MIN && self.n_dead * 2 > self.order.len() {
            self.order.retain(|record| record.strong_count() > 0);
            self.n_dead = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn n_places(&self) -> usize {
        self.order.len()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_full(&self) -> bool {
        self.rows.is_some() && self.bytes > self.budget_bytes
    }
}

impl Keyspace {
    /// Goes on with the rows and the budget of the keyspace before this one, which was just loaded, from a state that is now in
    /// those rows.
    pub(crate) fn take_over_cache(&mut self, old: &mut Self) {
        let Cache { rows, budget_bytes, .. } = std::mem::take(&mut old.cache);
        self.cache = Cache { rows, budget_bytes, forgotten: self.cache.forgotten, ..Cache::default() };
        for change in self.history.since(Revision(0)) {
            self.cache.add(&change.record);
        }
    }

    /// Puts a version back whose value stays on disk, as if it had been in memory and left. It must be older than all that are
    /// in memory. Returns the lease of the version before; `None` if that cannot be done.
    pub(crate) fn restore_cold(&mut self, at: RevisionKey, head: &RowHead<'_>) -> Option<LeaseId> {
        debug_assert!(self.history.front().is_none(), "what is in memory is newer");
        let before = self.index.insert_cold(at, head)?;
        self.revision = self.revision.max(at.main);
        self.cache.forgotten = self.cache.forgotten.max(at.main);
        // The first version supersedes nothing.
        if head.version != 1 {
            self.garbage.push_back(Garbage { main: at.main, key: head.key.into() });
        }
        Some(before)
    }

    /// Lets go of up to `n_max` values of revisions that are on disk up to `durable`, the oldest first, until the budget is kept.
    /// True when there is more to let go of.
    pub(crate) fn evict(&mut self, durable: Revision, n_max: usize) -> bool {
        for _ in 0..n_max {
            if !self.cache.is_full() {
                return false;
            }
            let Some(record) = self.cache.order.front().map(Weak::upgrade) else { return false };
            let Some(record) = record else {
                self.cache.order.pop_front();
                self.cache.n_dead = self.cache.n_dead.saturating_sub(1);
                continue;
            };
            if record.main > durable {
                return false;
            }
            self.cache.order.pop_front();
            let freed = self.index.chill(&record.key, record.main, record.sub);
            self.cache.bytes = self.cache.bytes.saturating_sub(freed);
            self.forget_history(record.main);
        }
        self.cache.is_full()
    }

    /// Drops the history up to a revision; what it superseded is remembered for the sweep.
    fn forget_history(&mut self, revision: Revision) {
        self.cache.forgotten = self.cache.forgotten.max(revision);
        while let Some(change) = self.history.pop_through(revision) {
            let is_first = change.record.version == 1 && change.prev.is_none();
            if !is_first || change.record.is_tombstone() {
                let key = change.record.key.as_ref().into();
                self.garbage.push_back(Garbage { main: change.record.main, key });
            }
        }
    }
}
