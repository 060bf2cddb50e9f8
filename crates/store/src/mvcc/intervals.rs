//! Sets of keys as intervals.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::KeyRange;

/// Where an interval ends: before a key, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    At(Bytes),
    Open,
}

impl End {
    fn is_behind(&self, key: &Bytes) -> bool {
        match self {
            Self::At(end) => end > key,
            Self::Open => true,
        }
    }
}

/// A set of keys as disjoint intervals that do not touch, start to end, the end excluded; so that thousands of ranges stay cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intervals(BTreeMap<Bytes, End>);

impl Intervals {
    /// Adds a range as requests mean it: an empty end is one key, `"\0"` everything from the start on. An end that does not lie
    /// behind the start adds nothing.
    pub(crate) fn add_range(&mut self, range: &KeyRange) {
        let start = range.start.clone();
        match range.end.as_ref() {
            b"" => self.add(start.clone(), End::At([&start[..], b"\0"].concat().into())),
            b"\0" => self.add(start, End::Open),
            _ => self.add(start, End::At(range.end.clone())),
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (start, end) in other.0 {
            self.add(start, end);
        }
    }

    /// Absorbs the intervals that the new one touches.
    fn add(&mut self, mut start: Bytes, mut end: End) {
        if !end.is_behind(&start) {
            return;
        }
        loop {
            let before = match &end {
                End::At(end) => self.0.range(..=end.clone()).next_back(),
                End::Open => self.0.iter().next_back(),
            };
            let Some((before, until)) = before else { break };
            if *until < End::At(start.clone()) {
                break;
            }
            let (before, until) = (before.clone(), until.clone());
            self.0.remove(&before);
            start = start.min(before);
            end = end.max(until);
        }
        self.0.insert(start, end);
    }

    pub(crate) fn contains(&self, key: &Bytes) -> bool {
        self.around(key).is_some()
    }

    /// True when every key of the interval is in the set, and there is one.
    pub(crate) fn covers(&self, start: &Bytes, end: &End) -> bool {
        self.around(start).is_some_and(|until| until >= end)
    }

    /// The end of the interval that a key lies in.
    fn around(&self, key: &Bytes) -> Option<&End> {
        let (_, until) = self.0.range(..=key.clone()).next_back()?;
        until.is_behind(key).then_some(until)
    }
}
