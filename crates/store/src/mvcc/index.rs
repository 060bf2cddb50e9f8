//! The ordered map from key to its versions.
//!
//! A sorted list of sorted leaves: two levels are enough for tens of millions of keys, scans walk contiguous memory, and
//! counts are sums over leaves instead of walks over keys. Each leaf knows how many of its keys exist and the newest revision
//! that touched it, so that also a count at an older revision only walks the leaves changed since. A version whose value is only
//! on disk takes no memory of its own: a key costs its bytes and an entry of 64.

use std::sync::Arc;

use bytes::Bytes;

use super::record::{Record, RevisionKey, Value};
use super::rows::RowHead;
use crate::{KeyRange, KeyValue, LeaseId, Revision};

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
    key: Box<[u8]>,
    head: Version,
    #[allow(clippy::box_collection)] // One word in the common case of no older version.
    older: Option<Box<Vec<Version>>>,
}

/// A version as the index keeps it.
#[derive(Debug)]
enum Version {
    /// With its value.
    Hot(Arc<Record>),
    /// All but the value, which is on disk.
    Cold { create: Revision, main: Revision, version: i64, lease: LeaseId, sub: u32 },
}

// The promise of 64 bytes a key.
const _: () = assert!(size_of::<Entry>() == 64);

/// A version that was looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    key: &'a [u8],
    version: &'a Version,
}

impl Version {
    fn main(&self) -> Revision {
        match self {
            Self::Hot(record) => record.main,
            Self::Cold { main, .. } => *main,
        }
    }

    /// The place in history: revision, and place in that.
    fn at(&self) -> (Revision, i64) {
        match self {
            Self::Hot(record) => (record.main, record.sub),
            Self::Cold { main, sub, .. } => (*main, i64::from(*sub)),
        }
    }

    fn is_tombstone(&self) -> bool {
        match self {
            Self::Hot(record) => record.is_tombstone(),
            Self::Cold { version, .. } => *version == 0,
        }
    }

    fn revision_key(&self) -> RevisionKey {
        let (main, sub) = self.at();
        RevisionKey { main, sub, tombstone: self.is_tombstone() }
    }

    fn lease(&self) -> LeaseId {
        match self {
            Self::Hot(record) => record.lease,
            Self::Cold { lease, .. } => *lease,
        }
    }

    fn hot_bytes(&self) -> usize {
        match self {
            Self::Hot(record) => record.cost_bytes(),
            Self::Cold { .. } => 0,
        }
    }

    /// Lets go of the value; the row must be on disk. Returns the bytes that this frees.
    fn chill(&mut self) -> usize {
        let Self::Hot(record) = self else { return 0 };
        let Ok(sub) = u32::try_from(record.sub) else { return 0 };
        let bytes = record.cost_bytes();
        let Record { create, main, version, lease, .. } = **record;
        *self = Self::Cold { create, main, version, lease, sub };
        bytes
    }
}

impl Found<'_> {
    pub(crate) fn is_tombstone(&self) -> bool {
        self.version.is_tombstone()
    }

    pub(crate) fn revision_key(&self) -> RevisionKey {
        self.version.revision_key()
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.version.lease()
    }

    /// The version with its value, if that is in memory.
    pub(crate) fn hot(&self) -> Option<&Arc<Record>> {
        match self.version {
            Version::Hot(record) if record.value.here().is_some() => Some(record),
            _ => None,
        }
    }

    pub(crate) fn to_record(self) -> Arc<Record> {
        match *self.version {
            Version::Hot(ref record) => Arc::clone(record),
            Version::Cold { create, main, version, lease, sub } => {
                let (key, value, sub) = (Bytes::copy_from_slice(self.key), Value::Stored, i64::from(sub));
                Arc::new(Record { key, value, create, main, sub, version, lease })
            }
        }
    }

    /// Without the value if that is not in memory.
    pub(crate) fn to_key_value(self) -> KeyValue {
        match *self.version {
            Version::Hot(ref record) => record.to_key_value(),
            Version::Cold { create, main, version, lease, .. } => KeyValue {
                key: Bytes::copy_from_slice(self.key),
                value: Bytes::new(),
                create_revision: create,
                mod_revision: main,
                version,
                lease,
            },
        }
    }
}

/// Where a key is or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    leaf: usize,
    entry: usize,
}

impl Entry {
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The newest version at or before a revision, tombstones included.
    fn version_at(&self, revision: Revision) -> Option<&Version> {
        if self.head.main() <= revision {
            return Some(&self.head);
        }
        let older = self.older.as_ref()?;
        older.iter().rev().find(|version| version.main() <= revision)
    }

    pub(crate) fn found_at(&self, revision: Revision) -> Option<Found<'_>> {
        Some(Found { key: &self.key, version: self.version_at(revision)? })
    }

    /// The version that exists at a revision.
    pub(crate) fn live_at(&self, revision: Revision) -> Option<Found<'_>> {
        self.found_at(revision).filter(|found| !found.is_tombstone())
    }

    /// The versions a compaction keeps, oldest first, whether or not the others have been swept.
    pub(crate) fn kept(&self, compacted: Revision) -> impl Iterator<Item = Found<'_>> {
        let oldest = self.version_at(compacted);
        let oldest_is_gone = oldest.is_some_and(|version| version.is_tombstone() && version.main() < compacted);
        let from = oldest.map(Version::at);
        let kept = self.versions().filter(move |version| match (from, version.at()) {
            (None, _) => true,
            (Some(from), at) => at > from || (at == from && !oldest_is_gone),
        });
        kept.map(|version| Found { key: &self.key, version })
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.older.iter().flat_map(|older| older.iter()).chain(std::iter::once(&self.head))
    }

    fn version_mut(&mut self, at: (Revision, i64)) -> Option<&mut Version> {
        if self.head.at() == at {
            return Some(&mut self.head);
        }
        let older = self.older.as_mut()?;
        let place = older.binary_search_by_key(&at, Version::at).ok()?;
        older.get_mut(place)
    }
}

/// What pruning took out of the index.
#[derive(Debug, Default)]
pub(crate) struct Pruned {
    pub(crate) rows: Vec<RevisionKey>,
    /// How many of them were in memory, and what they took there.
    pub(crate) n_hot: usize,
    pub(crate) hot_bytes: usize,
}

impl Pruned {
    fn add(&mut self, version: &Version) {
        self.rows.push(version.revision_key());
        self.n_hot += usize::from(matches!(version, Version::Hot(_)));
        self.hot_bytes += version.hot_bytes();
    }
}

impl Index {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let (position, found) = self.position(key);
        found.then(|| &self.leaves[position.leaf].entries[position.entry])
    }

    /// Makes `record` the newest version of its key.
    pub(crate) fn insert(&mut self, record: Arc<Record>) {
        let key = record.key.clone();
        self.insert_version(&key, Version::Hot(record));
    }

    /// Makes a version whose value is only on disk the newest of its key. Returns the lease of the one before.
    pub(crate) fn insert_cold(&mut self, at: RevisionKey, head: &RowHead<'_>) -> Option<LeaseId> {
        let RowHead { key, create, version, lease } = *head;
        let sub = u32::try_from(at.sub).ok()?;
        let main = at.main;
        Some(self.insert_version(key, Version::Cold { create, main, version, lease, sub }))
    }

    fn insert_version(&mut self, key: &[u8], version: Version) -> LeaseId {
        let (position, found) = self.position(key);
        if found {
            return self.leaves[position.leaf].supersede(position.entry, version);
        }
        if self.leaves.is_empty() {
            self.leaves.push(Leaf { entries: Vec::with_capacity(LEAF_ENTRIES_MAX), n_live: 0, newest: Revision(0) });
        }
        let leaf = &mut self.leaves[position.leaf];
        leaf.newest = leaf.newest.max(version.main());
        leaf.n_live += usize::from(!version.is_tombstone());
        leaf.entries.insert(position.entry, Entry { key: key.into(), head: version, older: None });
        if leaf.entries.len() >= LEAF_ENTRIES_MAX {
            // Keys that only grow (events, leases) fill leaves instead of leaving halves behind, also when they come a little out of
            // order from many clients: then some room is left for those that are late.
            let tail = leaf.split(match position.entry {
                entry if entry + 1 == LEAF_ENTRIES_MAX => LEAF_ENTRIES_MAX - 1,
                entry if entry >= LEAF_ENTRIES_MAX / 4 * 3 => LEAF_ENTRIES_MAX / 8 * 7,
                _ => LEAF_ENTRIES_MAX / 2,
            });
            self.leaves.insert(position.leaf + 1, tail);
        }
        LeaseId(0)
    }

    /// Drops the versions of a key that no read at or above `compacted` can see: all older than the newest one at or before
    /// it, and that one too if it is a tombstone from before. Reports the rows that went.
    pub(crate) fn prune(&mut self, key: &[u8], compacted: Revision, pruned: &mut Pruned) {
        let (position, found) = self.position(key);
        if !found {
            return;
        }
        let leaf = &mut self.leaves[position.leaf];
        let entry = &mut leaf.entries[position.entry];
        let Some(kept) = entry.version_at(compacted) else { return };
        let kept_at = kept.at();
        let kept_is_gone = kept.is_tombstone() && kept.main() < compacted;
        let is_garbage = |version: &Version| {
            let order = version.at().cmp(&kept_at);
            order.is_lt() || (order.is_eq() && kept_is_gone)
        };
        if let Some(older) = &mut entry.older {
            let n_garbage = older.partition_point(is_garbage);
            older.drain(..n_garbage).for_each(|version| pruned.add(&version));
            if older.is_empty() {
                entry.older = None;
            }
        }
        if is_garbage(&entry.head) {
            debug_assert!(entry.older.is_none(), "the head is the newest");
            pruned.add(&entry.head);
            leaf.entries.remove(position.entry);
            if leaf.entries.is_empty() {
                self.leaves.remove(position.leaf);
            }
        }
    }

    /// Lets go of a version's value, which must be on disk. Returns the bytes that this frees.
    pub(crate) fn chill(&mut self, key: &[u8], main: Revision, sub: i64) -> usize {
        let (position, found) = self.position(key);
        if !found {
            return 0;
        }
        let entry = &mut self.leaves[position.leaf].entries[position.entry];
        entry.version_mut((main, sub)).map_or(0, Version::chill)
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
                return (count, Some(Bytes::copy_from_slice(&part[0].key)));
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
        let n_starting_before = self.leaves.partition_point(|leaf| *leaf.entries[0].key <= *key);
        let leaf = n_starting_before.saturating_sub(1);
        let Some(entries) = self.leaves.get(leaf).map(|leaf| &leaf.entries) else {
            return (Position { leaf: 0, entry: 0 }, false);
        };
        match entries.binary_search_by(|entry| (*entry.key).cmp(key)) {
            Ok(entry) => (Position { leaf, entry }, true),
            Err(entry) => (Position { leaf, entry }, false),
        }
    }

    /// Bytes of the versions whose values are in memory.
    #[cfg(test)]
    pub(crate) fn hot_bytes(&self) -> usize {
        let entries = self.leaves.iter().flat_map(|leaf| &leaf.entries);
        entries.flat_map(Entry::versions).map(Version::hot_bytes).sum()
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
                assert!(entry.head.main() <= leaf.newest);
                assert!(entry.versions().is_sorted_by(|a, b| a.at() < b.at()));
                let is_own = |version: &Version| !matches!(version, Version::Hot(record) if *record.key != *entry.key);
                assert!(entry.versions().all(is_own));
                assert!(entry.older.as_ref().is_none_or(|older| !older.is_empty()));
            }
        }
    }
}

impl Leaf {
    /// Returns the lease of the version before.
    fn supersede(&mut self, at: usize, version: Version) -> LeaseId {
        let entry = &mut self.entries[at];
        assert!(version.at() > entry.head.at(), "versions of a key only grow");
        self.newest = self.newest.max(version.main());
        self.n_live += usize::from(!version.is_tombstone());
        self.n_live -= usize::from(!entry.head.is_tombstone());
        let superseded = std::mem::replace(&mut entry.head, version);
        let lease = superseded.lease();
        entry.older.get_or_insert_default().push(superseded);
        lease
    }

    fn split(&mut self, at: usize) -> Self {
        let mut entries = Vec::with_capacity(LEAF_ENTRIES_MAX);
        entries.extend(self.entries.drain(at..));
        let n_live = entries.iter().filter(|entry| !entry.head.is_tombstone()).count();
        self.n_live -= n_live;
        Self { entries, n_live, newest: self.newest }
    }
}
