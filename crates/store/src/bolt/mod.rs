//! Snapshot files: etcd's database format (bbolt), written in one pass from sorted rows and read back for a restore. Nothing
//! here knows what a bucket means. A file is a sequence of pages, little-endian, 4096 bytes each unless its meta page says
//! otherwise, followed in a snapshot by the 32-byte SHA-256 of all of it:
//!
//! ```text
//! page    id u64 | flags u16 | count u16 | overflow u32 | elements ...        overflow: further pages that belong to it
//! meta    magic u32 | version u32 | page size u32 | flags u32 | root u64 | sequence u64 | freelist u64 | pages u64 | txid u64 | fnv1a u64
//! leaf    element: flags u32 (1: a bucket) | pos u32 | key len u32 | value len u32     pos: from the element's own start
//! branch  element: pos u32 | key len u32 | child page u64                              key: the first of the child
//! bucket  value of a leaf element with flag 1: root page u64 | sequence u64; root 0: a leaf page follows in place
//! ```

mod layout;
mod read;
mod write;

pub use read::{Reader, Rows};
pub use write::{Bucket, Writer};

/// Why a snapshot file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    #[error("reading snapshot file: {0}")]
    Io(#[from] std::io::Error),
    #[error("not an etcd snapshot: {0}")]
    NotASnapshot(&'static str),
    /// The trailer does not match: the file was cut or changed after it was written.
    #[error("snapshot file does not match its SHA-256 trailer")]
    HashMismatch,
    #[error("snapshot file is corrupt: page {page}: {what}")]
    Corrupt { page: u64, what: &'static str },
}

impl From<BoltError> for crate::StoreError {
    fn from(error: BoltError) -> Self {
        Self::Fatal(error.to_string())
    }
}

#[cfg(test)]
mod tests;
