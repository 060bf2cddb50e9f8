//! Compaction: a revision below which reads are refused, and the sweeping of what only they could see.
//!
//! The first is part of the replicated state and instant. The second is each member's own housekeeping in small steps. It needs
//! no scan of the keyspace: every superseded version was superseded by a change, and the history lists those in order.

use std::sync::Arc;

use bytes::Bytes;

use super::Keyspace;
use super::record::{Record, RevisionKey};
use crate::{KeyRange, Revision, StoreError};

/// A step of sweeping.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Rows the backend may delete.
    pub(crate) rows: Vec<RevisionKey>,
    /// Nothing is left to sweep at this revision.
    pub(crate) finished: bool,
    /// Something was done, garbage or not.
    pub(crate) advanced: bool,
}

impl Keyspace {
    /// Refuses reads below `revision` from now on.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { compact_revision: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::FutureRevision);
        }
        self.compacted = revision;
        Ok(())
    }

    /// Drops up to `n_max` changes from the front of the history, and the versions they superseded, up to the compacted
    /// revision but not beyond `pinned`, which somebody still reads.
    pub(crate) fn sweep(&mut self, pinned: Revision, n_max: usize) -> Swept {
        let limit = self.compacted.min(pinned);
        let mut swept = Swept::default();
        for _ in 0..n_max {
            let Some(front) = self.history.front().filter(|change| change.record.main < limit) else {
                self.sweep_boundary(limit, &mut swept);
                swept.finished = limit == self.compacted;
                return swept;
            };
            let key = front.record.key.clone();
            swept.advanced = true;
            self.history.pop_front();
            self.index.prune(&key, limit, &mut swept.rows);
        }
        swept
    }

    /// Changes at the limit itself stay for watches that start there, but what they replaced goes.
    fn sweep_boundary(&mut self, limit: Revision, swept: &mut Swept) {
        if limit <= self.swept {
            return;
        }
        for change in self.history.at_mut(limit) {
            change.prev = None;
            self.index.prune(&change.record.key, limit, &mut swept.rows);
        }
        self.swept = limit;
    }
}

impl Keyspace {
    /// Adds the versions up to `revision` that compaction at `compacted` keeps, of up to `n_keys_max` keys from `start` on.
    /// Returns the key to go on from.
    pub(crate) fn collect_kept(
        &self,
        start: &Bytes,
        n_keys_max: usize,
        revision: Revision,
        compacted: Revision,
        records: &mut Vec<Arc<Record>>,
    ) -> Option<Bytes> {
        let rest = KeyRange { start: start.clone(), end: Bytes::from_static(b"\0") };
        for (n_seen, entry) in self.index.scan(&rest).enumerate() {
            if n_seen == n_keys_max {
                return Some(entry.key().clone());
            }
            records.extend(entry.kept(compacted).filter(|record| record.main <= revision).cloned());
        }
        None
    }
}
