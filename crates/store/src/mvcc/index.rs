//! The ordered map from key to its versions.
//!
//! A sorted list of sorted leaves: two levels are enough for tens of millions of keys, scans walk contiguous memory, and
//! counts are sums over leaves instead of walks over keys. Each leaf knows how many of its keys exist and the newest revision
//! that touched it, so that also a count at an older revision only walks the leaves changed since.

use std::sync::Arc;

use bytes::Bytes;

use super::record::{Record, RevisionKey};
use crate::{KeyRange, Revision};

/// A full leaf splits in two; half of it moves on an insert in the worst case (some 12 KiB).
const LEAF_ENTRIES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Ordered by key; none is empty.
    leaves: Vec<Leaf>,
}

#[derive(Debug)]
struct Leaf {
    entries: Vec<Entry>,
    /// Entries whose newest record is not a tombstone.
    n_live: usize,
    /// The newest revision of any record ever put into this leaf.
    newest: Revision,
}

/// The retained versions of a key: the newest, and the older ones if there are any, oldest first.
#[derive(Debug)]
pub(crate) struct Entry {
    key: Bytes,
    head: Arc<Record>,
    #[allow(clippy::box_collection)] // One word in the common case of no older version.
    older: Option<Box<Vec<Arc<Record>>>>,
}

/// Where a key is or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    leaf: usize,
    entry: usize,
}

impl Entry {
    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    /// The newest record at or before a revision, tombstones included.
    pub(crate) fn record_at(&self, revision: Revision) -> Option<&Arc<Record>> {
        if self.head.main <= revision {
            return Some(&self.head);
        }
        let older = self.older.as_ref()?;
        older.iter().rev().find(|record| record.main <= revision)
    }

    /// The version that exists at a revision.
    pub(crate) fn live_at(&self, revision: Revision) -> Option<&Arc<Record>> {
        self.record_at(revision).filter(|record| !record.is_tombstone())
    }

    /// The versions a compaction keeps, whether or not the others have been swept.
    pub(crate) fn kept(&self, compacted: Revision) -> impl Iterator<Item = &Arc<Record>> {
        let oldest = self.record_at(compacted);
        let oldest_is_gone = oldest.is_some_and(|record| record.is_tombstone() && record.main < compacted);
        let from = oldest.map(|record| (record.main, record.sub));
        self.records().filter(move |record| match (from, (record.main, record.sub)) {
            (None, _) => true,
            (Some(from), at) => at > from || (at == from && !oldest_is_gone),
        })
    }

    fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.older.iter().flat_map(|older| older.iter()).chain(std::iter::once(&self.head))
    }
}

impl Index {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let (position, found) = self.position(key);
        found.then(|| &self.leaves[position.leaf].entries[position.entry])
    }

    /// Makes `record` the newest version of its key.
    pub(crate) fn insert(&mut self, record: Arc<Record>) {
        let (position, found) = self.position(&record.key);
        if found {
            return self.leaves[position.leaf].supersede(position.entry, record);
        }
        if self.leaves.is_empty() {
            self.leaves.push(Leaf { entries: Vec::with_capacity(LEAF_ENTRIES_MAX), n_live: 0, newest: Revision(0) });
        }
        let leaf = &mut self.leaves[position.leaf];
        leaf.newest = leaf.newest.max(record.main);
        leaf.n_live += usize::from(!record.is_tombstone());
        let entry = Entry { key: record.key.clone(), head: record, older: None };
        leaf.entries.insert(position.entry, entry);
        if leaf.entries.len() >= LEAF_ENTRIES_MAX {
            // Keys that only grow (events, leases) fill leaves instead of leaving halves behind.
            let appended = position.entry + 1 == leaf.entries.len();
            let tail = leaf.split(if appended { LEAF_ENTRIES_MAX - 1 } else { LEAF_ENTRIES_MAX / 2 });
            self.leaves.insert(position.leaf + 1, tail);
        }
    }

    /// Drops the versions of a key that no read at or above `compacted` can see: all older than the newest one at or before
    /// it, and that one too if it is a tombstone from before. Reports the rows that went.
    pub(crate) fn prune(&mut self, key: &[u8], compacted: Revision, dropped: &mut Vec<RevisionKey>) {
        let (position, found) = self.position(key);
        if !found {
            return;
        }
        let leaf = &mut self.leaves[position.leaf];
        let entry = &mut leaf.entries[position.entry];
        let Some(kept) = entry.record_at(compacted) else { return };
        let kept = kept.clone();
        let kept_is_gone = kept.is_tombstone() && kept.main < compacted;
        let is_garbage = |record: &Record| {
            let order = (record.main, record.sub).cmp(&(kept.main, kept.sub));
            order.is_lt() || (order.is_eq() && kept_is_gone)
        };
        if let Some(older) = &mut entry.older {
            let n_garbage = older.partition_point(|record| is_garbage(record));
            dropped.extend(older.drain(..n_garbage).map(|record| record.revision_key()));
            if older.is_empty() {
                entry.older = None;
            }
        }
        if is_garbage(&entry.head) {
            debug_assert!(entry.older.is_none(), "the head is the newest");
            dropped.push(entry.head.revision_key());
            leaf.entries.remove(position.entry);
            if leaf.entries.is_empty() {
                self.leaves.remove(position.leaf);
            }
        }
    }

    /// Entries of a range in key order.
    pub(crate) fn scan<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a Entry> + 'a {
        let (start, end) = self.bounds(range);
        let last = end.leaf.min(self.leaves.len().saturating_sub(1));
        let leaves = self.leaves.get(start.leaf..=last).unwrap_or_default();
        leaves.iter().enumerate().flat_map(move |(offset, leaf)| {
            let index = start.leaf + offset;
            let from = if index == start.leaf { start.entry } else { 0 };
            let to = if index == end.leaf { end.entry } else { leaf.entries.len() };
            leaf.entries.get(from..to).unwrap_or_default().iter()
        })
    }

    /// How many keys of a range exist at a revision. Stops after walking over about `n_walked_max` keys and returns the key to
    /// go on from.
    pub(crate) fn count(&self, range: &KeyRange, revision: Revision, n_walked_max: usize) -> (usize, Option<Bytes>) {
        let (start, end) = self.bounds(range);
        let (mut count, mut n_walked) = (0, 0);
        for index in start.leaf..=end.leaf {
            let Some(leaf) = self.leaves.get(index) else { break };
            let from = if index == start.leaf { start.entry } else { 0 };
            let to = if index == end.leaf { end.entry } else { leaf.entries.len() };
            let is_whole = from == 0 && to == leaf.entries.len();
            if is_whole && leaf.newest <= revision {
                count += leaf.n_live;
                continue;
            }
            let Some(part) = leaf.entries.get(from..to).filter(|part| !part.is_empty()) else { continue };
            if n_walked >= n_walked_max {
                return (count, Some(part[0].key.clone()));
            }
            n_walked += part.len();
            count += part.iter().filter(|entry| entry.live_at(revision).is_some()).count();
        }
        (count, None)
    }

    /// First position in the range, and first one behind it.
    fn bounds(&self, range: &KeyRange) -> (Position, Position) {
        let (start, found) = self.position(&range.start);
        let end = match range.end.as_ref() {
            b"" if found => Position { leaf: start.leaf, entry: start.entry + 1 },
            b"" => start,
            b"\0" => Position { leaf: self.leaves.len(), entry: 0 },
            end => self.position(end).0,
        };
        (start, end.max(start))
    }

    fn position(&self, key: &[u8]) -> (Position, bool) {
        let n_starting_before = self.leaves.partition_point(|leaf| leaf.entries[0].key.as_ref() <= key);
        let leaf = n_starting_before.saturating_sub(1);
        let Some(entries) = self.leaves.get(leaf).map(|leaf| &leaf.entries) else {
            return (Position { leaf: 0, entry: 0 }, false);
        };
        match entries.binary_search_by(|entry| entry.key.as_ref().cmp(key)) {
            Ok(entry) => (Position { leaf, entry }, true),
            Err(entry) => (Position { leaf, entry }, false),
        }
    }

    /// Panics when the structure contradicts itself.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let keys: Vec<_> = self.leaves.iter().flat_map(|leaf| leaf.entries.iter().map(|entry| &entry.key)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "keys are strictly ordered");
        for leaf in &self.leaves {
            assert!(!leaf.entries.is_empty());
            assert!(leaf.entries.len() < LEAF_ENTRIES_MAX);
            let n_live = leaf.entries.iter().filter(|entry| !entry.head.is_tombstone()).count();
            assert_eq!(leaf.n_live, n_live);
            for entry in &leaf.entries {
                assert!(entry.head.main <= leaf.newest);
                assert!(entry.records().is_sorted_by_key(|record| (record.main, record.sub)));
                assert!(entry.records().all(|record| record.key == entry.key));
                assert!(entry.older.as_ref().is_none_or(|older| !older.is_empty()));
            }
        }
    }
}

impl Leaf {
    fn supersede(&mut self, at: usize, record: Arc<Record>) {
        let entry = &mut self.entries[at];
        assert!((record.main, record.sub) > (entry.head.main, entry.head.sub), "versions of a key only grow");
        self.newest = self.newest.max(record.main);
        self.n_live += usize::from(!record.is_tombstone());
        self.n_live -= usize::from(!entry.head.is_tombstone());
        let superseded = std::mem::replace(&mut entry.head, record);
        entry.older.get_or_insert_default().push(superseded);
    }

    fn split(&mut self, at: usize) -> Self {
        let mut entries = Vec::with_capacity(LEAF_ENTRIES_MAX);
        entries.extend(self.entries.drain(at..));
        let n_live = entries.iter().filter(|entry| !entry.head.is_tombstone()).count();
        self.n_live -= n_live;
        Self { entries, n_live, newest: self.newest }
    }
}
