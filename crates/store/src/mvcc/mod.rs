//! The keyspace: etcd's multi-version data model as plain data structures.
//!
//! Everything here is a value and functions of values: no files, no clock, no tokio. A change makes a new [`Record`]; the
//! [`Index`](index::Index) finds the record of a key at a revision, the [`History`](history::History) finds the changes since
//! a revision, both share the same records. Invariants: revisions only grow; a record is never changed once made; reads at or
//! above the compacted revision do not depend on how much of the garbage below it has been swept.

mod cache;
pub(crate) mod check;
mod compare;
pub(crate) mod history;
mod index;
mod intervals;
mod keyspace;
mod prune;
mod range;
mod record;
mod rows;
mod txn;

#[cfg(test)]
mod model_tests;

pub(crate) use cache::Cache;
pub(crate) use history::{Change, with_previous};
pub(crate) use index::Found;
pub(crate) use intervals::{End, Intervals};
pub(crate) use keyspace::Keyspace;
pub(crate) use prune::Kept;
pub(crate) use range::RangeCursor;
pub(crate) use record::{Record, RevisionKey, Value};
pub(crate) use rows::{RowHead, Rows, decode_head, decode_record};
pub(crate) use txn::{is_read_only, is_serializable};

/// Keys looked at under one hold of the keyspace's lock: some tens of microseconds.
pub(crate) const CHUNK_KEYS_MAX: usize = 1000;
