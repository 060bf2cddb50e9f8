//! The state on disk: etcd's buckets, written behind the log by one thread.
//!
//! The log makes writes durable; the backend only shortens what has to be replayed. Each commit holds a prefix of the applied
//! log: the rows it led to, and the index up to which it is whole. Invariant: what a backend holds after any crash is what some
//! commit left.

use std::sync::Arc;

use crate::StoreError;
use crate::mvcc::Rows;

mod discard;
mod load;
mod redb_backend;
mod rows;
mod snapshot_file;
mod staged;
mod writer;

pub(crate) use discard::DiscardBackend;
pub(crate) use load::{LoadError, Loaded, Loader, load};
pub(crate) use redb_backend::RedbBackend;
pub(crate) use rows::{
    Bucket, COMPACTION_FINISHED, COMPACTION_SCHEDULED, CONSISTENT_INDEX, Row, STORAGE_VERSION, StateRows, TERM,
    alarm_row, auth_row, downgrade_row, encode_versions, initial_rows, lease_row, progress_rows, push_rows_of,
    record_row, row_lengths, rows_of,
};
pub(crate) use snapshot_file::SnapshotFile;
pub(crate) use staged::{Incoming, Staged, Staging};
pub(crate) use writer::{Replacement, Writer, WriterHandle};

/// Sizes as etcd reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) file_bytes: u64,
    pub(crate) in_use_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// The disk is full; nothing of the commit is stored, and it can be tried again.
    #[error("no space left for the state file")]
    NoSpace,
    #[error("state file failed: {0}")]
    Failed(String),
}

/// Sorted rows in buckets, changed by atomic and durable commits.
pub(crate) trait Backend: Send + 'static {
    /// Stores all of the rows or none.
    fn commit(&mut self, rows: &[Row]) -> Result<(), BackendError>;

    /// Stores these rows instead of everything there is, or changes nothing.
    fn replace(&mut self, rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<(), BackendError>;

    /// As [`Backend::replace`], by a file with the rows, where states are files.
    fn adopt(&mut self, _staged: Staged) -> Result<(), BackendError> {
        Err(BackendError::Failed("the state is not a file".to_owned()))
    }

    /// Visits a bucket in key order.
    fn scan(&self, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError>;

    fn sizes(&self) -> Sizes;

    /// A way to the rows of the `key` bucket that does not need the backend itself; `None` where nothing is kept.
    fn rows(&self) -> Option<Arc<dyn Rows>>;

    /// Gives free space back to the file system. Rows can be read meanwhile.
    fn defragment(&mut self) -> Result<(), BackendError>;
}
