//! What the driver asks of a log.

use raft::eraftpb::{Entry, HardState};

/// Which cluster and member a log belongs to; written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// What a log holds after a start.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoggedState {
    pub(crate) identity: Option<Identity>,
    pub(crate) hard_state: HardState,
    /// Consecutive, the first one right behind `truncated`.
    pub(crate) entries: Vec<Entry>,
    /// Index and term of the last entry that was dropped; zeros when none was.
    pub(crate) truncated: (u64, u64),
}

/// Why a log did not take something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The disk is full. What was to be written is not in the log and will not appear in it.
    #[error("no space left for the log")]
    NoSpace,
    /// Nothing is known about what the disk holds: only a restart, which reads it again, can tell.
    #[error("log failed: {0}")]
    Failed(String),
}

/// A durable list of entries and Raft's vote.
pub(crate) trait LogStore: Send + 'static {
    /// Everything the log holds.
    fn load(&mut self) -> Result<LoggedState, LogError>;

    fn set_identity(&mut self, identity: Identity) -> Result<(), LogError>;

    /// Starts over behind entry `index` of term `term`, whose state came from elsewhere. Durable when this returns.
    fn reset(&mut self, index: u64, term: u64, hard_state: &HardState) -> Result<(), LogError>;

    /// Appends entries, replacing those from the first one's index on, and the hard state if given. All of it is durable
    /// when this returns, if `sync`.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>, sync: bool) -> Result<(), LogError>;

    /// Drops entries up to and including `index`, whose term is `term`. They may stay on disk for a while.
    fn truncate(&mut self, index: u64, term: u64) -> Result<(), LogError>;
}
