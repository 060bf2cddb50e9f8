//! Compaction: a revision below which reads are refused, and the sweeping of what only they could see.
//!
//! The first is part of the replicated state and instant. The second is each member's own housekeeping in small steps. It needs
//! no scan of the keyspace: every superseded version was superseded by a change, and history and garbage list those in order.

use std::sync::Arc;

use bytes::Bytes;

use super::Keyspace;
use super::index::Pruned;
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
        let mut pruned = Pruned::default();
        let mut swept = Swept::default();
        for _ in 0..n_max {
            // What left memory is older than what is still there.
            let key = match self.garbage.pop_front_if(|garbage| garbage.main < limit) {
                Some(garbage) => garbage.key,
                None => {
                    let front = self.history.front().filter(|change| change.record.main < limit);
                    let Some(key) = front.map(|change| change.record.key.as_ref().into()) else {
                        self.sweep_boundary(limit, &mut pruned);
                        swept.finished = limit == self.compacted;
                        break;
                    };
                    self.history.pop_front();
                    key
                }
            };
            swept.advanced = true;
            self.index.prune(&key, limit, &mut pruned);
        }
        self.cache.remove(pruned.n_hot, pruned.hot_bytes);
        swept.rows = pruned.rows;
        swept
    }

    /// Changes at the limit itself stay for watches that start there, but what they replaced goes.
    fn sweep_boundary(&mut self, limit: Revision, pruned: &mut Pruned) {
        if limit <= self.swept {
            return;
        }
        for garbage in self.garbage.iter().take_while(|garbage| garbage.main == limit) {
            self.index.prune(&garbage.key, limit, pruned);
        }
        for change in self.history.at_mut(limit) {
            change.prev = None;
            self.index.prune(&change.record.key, limit, pruned);
        }
        self.swept = limit;
    }
}

/// A version that compaction keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) at: RevisionKey,
    /// `None` when it is only on disk.
    pub(crate) hot: Option<Arc<Record>>,
    /// The newest of its key, up to the revision asked for.
    pub(crate) is_newest: bool,
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
        kept: &mut Vec<Kept>,
    ) -> Option<Bytes> {
        let rest = KeyRange { start: start.clone(), end: Bytes::from_static(b"\0") };
        for (n_seen, entry) in self.index.scan(&rest).enumerate() {
            if n_seen == n_keys_max {
                return Some(Bytes::copy_from_slice(entry.key()));
            }
            let versions = entry.kept(compacted).filter(|found| found.revision_key().main <= revision);
            let n_before = kept.len();
            kept.extend(versions.map(|found| Kept {
                at: found.revision_key(),
                hot: found.hot().cloned(),
                is_newest: false,
            }));
            if let Some(newest) = kept[n_before..].last_mut() {
                newest.is_newest = true;
            }
        }
        None
    }
}
