//! Which groups of watchers want a key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::KeyRange;

/// Watchers that want the same, see [`super::hub`].
pub(super) type GroupId = u64;

/// Groups by what they watch. Few different ranges are watched at a time, so a key costs one look-up and a walk over the ranges
/// that start before it.
#[derive(Debug, Default)]
pub(super) struct Interest {
    keys: HashMap<Bytes, Vec<GroupId>>,
    ranges: BTreeMap<(Bytes, Bytes), Vec<GroupId>>,
}

impl Interest {
    pub(super) fn add(&mut self, range: &KeyRange, id: GroupId) {
        self.groups_of(range).push(id);
    }

    pub(super) fn remove(&mut self, range: &KeyRange, id: GroupId) {
        let groups = self.groups_of(range);
        groups.retain(|other| *other != id);
        if !groups.is_empty() {
            return;
        }
        if range.end.is_empty() {
            self.keys.remove(&range.start);
        } else {
            self.ranges.remove(&(range.start.clone(), range.end.clone()));
        }
    }

    /// Calls `visit` once for every group of a key.
    pub(super) fn matching(&self, key: &Bytes, mut visit: impl FnMut(GroupId)) {
        self.keys.get(key).into_iter().flatten().for_each(|id| visit(*id));
        for ((start, end), groups) in &self.ranges {
            if start > key {
                break;
            }
            if end.as_ref() == b"\0" || key < end {
                groups.iter().for_each(|id| visit(*id));
            }
        }
    }

    fn groups_of(&mut self, range: &KeyRange) -> &mut Vec<GroupId> {
        if range.end.is_empty() {
            self.keys.entry(range.start.clone()).or_default()
        } else {
            self.ranges.entry((range.start.clone(), range.end.clone())).or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_groups_by_key_prefix_and_open_end() {
        let mut interest = Interest::default();
        let ranges = [
            KeyRange::key("/pods/a"),
            KeyRange::prefix("/pods/"),
            KeyRange::prefix("/nodes/"),
            KeyRange { start: "/o".into(), end: "\0".into() },
        ];
        for (id, range) in (1..).zip(&ranges) {
            interest.add(range, id);
        }
        let matching = |interest: &Interest, key: &'static str| {
            let mut found = Vec::new();
            interest.matching(&key.into(), |id| found.push(id));
            found.sort_unstable();
            found
        };
        assert_eq!(matching(&interest, "/pods/a"), [1, 2, 4]);
        assert_eq!(matching(&interest, "/pods/b"), [2, 4]);
        assert_eq!(matching(&interest, "/nodes/a"), [3]);
        for (id, range) in (1..).zip(&ranges) {
            interest.remove(range, id);
        }
        assert_eq!(matching(&interest, "/pods/a"), [0_u64; 0]);
        assert!(interest.keys.is_empty() && interest.ranges.is_empty(), "nothing is left behind");
    }
}
