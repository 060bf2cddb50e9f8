//! What can be done to the files of a store while none is running on them: looking at snapshot files, restoring them, checking,
//! defragmenting and re-labelling data directories. Everything here blocks and is for command line tools.

mod data_dir;
mod restore;
mod save;
mod snapshot_status;

pub use data_dir::{Verified, defragment, hash_kv, set_storage_version, storage_version, verify};
pub use restore::{Replay, Restore, restore, restore_at};
pub use save::save;
pub use snapshot_status::{SnapshotStatus, snapshot_status};

use crate::bolt::BoltError;
use crate::{OpenError, StoreError};

/// Why a tool did not do its work. Nothing was changed, unless a message says so.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Snapshot(#[from] BoltError),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// The data cannot be read as a store's.
    #[error("{0}")]
    Data(String),
    /// A revision that is not there.
    #[error(transparent)]
    Revision(StoreError),
    /// The request contradicts itself or what is there.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests;
