//! The log as the Raft core sees it: recent entries in memory.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::log::LoggedState;

/// Invariants: `entries` are consecutive and start right behind `truncated`; `applied` is not before `truncated`.
#[derive(Debug)]
pub(super) struct RaftStorage {
    hard_state: HardState,
    conf_state: ConfState,
    entries: VecDeque<Entry>,
    truncated: (u64, u64),
    /// Index and term of the last entry whose effects the state has.
    applied: (u64, u64),
    bytes: usize,
    /// A member without a state must never send it.
    has_state: bool,
}

impl RaftStorage {
    pub(super) fn new(state: LoggedState, conf_state: ConfState, applied: (u64, u64)) -> Self {
        let bytes = state.entries.iter().map(entry_bytes).sum();
        let LoggedState { hard_state, entries, truncated, .. } = state;
        Self { hard_state, conf_state, entries: entries.into(), truncated, applied, bytes, has_state: true }
    }

    pub(super) fn without_state(self, is_witness: bool) -> Self {
        Self { has_state: !is_witness, ..self }
    }

    pub(super) fn set_applied(&mut self, index: u64, term: u64) {
        self.applied = (index, term);
    }

    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Starts over behind a snapshot.
    pub(super) fn restore(&mut self, metadata: &SnapshotMetadata) {
        self.entries.clear();
        self.bytes = 0;
        self.truncated = (metadata.index, metadata.term);
        self.applied = self.truncated;
        self.conf_state = metadata.get_conf_state().clone();
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
    }

    /// Forgets the entries behind `last`.
    pub(super) fn cut(&mut self, last: u64) {
        let keep = usize::try_from(last.saturating_sub(self.truncated.0)).unwrap_or(usize::MAX);
        for entry in self.entries.drain(keep.min(self.entries.len())..) {
            self.bytes -= entry_bytes(&entry);
        }
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.truncated.0, "a truncated entry is committed");
        let keep = usize::try_from(first.index - self.truncated.0 - 1).unwrap_or(usize::MAX);
        assert!(keep <= self.entries.len(), "entries are consecutive");
        for replaced in self.entries.drain(keep..) {
            self.bytes -= entry_bytes(&replaced);
        }
        self.bytes += entries.iter().map(entry_bytes).sum::<usize>();
        self.entries.extend(entries);
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// What a restart from this storage would find.
    pub(super) fn to_logged_state(&self) -> LoggedState {
        LoggedState {
            identity: None,
            hard_state: self.hard_state.clone(),
            entries: self.entries.iter().cloned().collect(),
            truncated: self.truncated,
        }
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Number and bytes of the entries kept.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    pub(super) fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    pub(super) fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    /// Forgets entries up to and including `index`; returns its term, or `None` if there is nothing to forget.
    pub(super) fn truncate(&mut self, index: u64) -> Option<u64> {
        let n = usize::try_from(index.checked_sub(self.truncated.0)?).ok()?.min(self.entries.len());
        for entry in self.entries.drain(..n) {
            self.bytes -= entry_bytes(&entry);
            self.truncated = (entry.index, entry.term);
        }
        (n > 0).then_some(self.truncated.1)
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len() + entry.context.len()
}

impl Storage for RaftStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::new();
        for entry in (low..high).map_while(|index| self.entry(index)) {
            size += entry_bytes(entry) as u64;
            // One entry is returned whatever its size, or Raft could not go on.
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.entry(index).map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The state is not in the message: whoever sends it takes the state of that moment, which is this one or a later one.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if !self.has_state {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = self.applied;
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}
