//! A log that is forgotten with the process. The Raft storage keeps the recent entries anyway, so there is nothing to do.

use raft::eraftpb::{Entry, HardState};

use super::log::{Identity, LogError, LogStore, LoggedState};

#[derive(Debug, Default)]
pub(crate) struct MemoryLog;

impl LogStore for MemoryLog {
    fn load(&mut self) -> Result<LoggedState, LogError> {
        Ok(LoggedState::default())
    }

    fn set_identity(&mut self, _identity: Identity) -> Result<(), LogError> {
        Ok(())
    }

    fn reset(&mut self, _index: u64, _term: u64, _hard_state: &HardState) -> Result<(), LogError> {
        Ok(())
    }

    fn append(&mut self, _entries: &[Entry], _hard_state: Option<&HardState>, _sync: bool) -> Result<(), LogError> {
        Ok(())
    }

    fn truncate(&mut self, _index: u64, _term: u64) -> Result<(), LogError> {
        Ok(())
    }
}
