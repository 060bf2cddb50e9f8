//! Watches: from the history to whoever listens.
//!
//! The hub's thread follows the history and hands every change to the watchers that are up to date, through bounded channels it
//! never waits for. A watcher that is behind (it starts in the past, or its channel was full) is fed from the history by a task
//! of its own, which may wait, and rejoins the hub when it has caught up. So a slow watcher costs nobody else anything.
//! Invariants: each watcher gets each change of its range once, in order, whole revisions at a time; an empty batch of revision
//! R follows everything up to R; what a watcher still needs and compaction has taken ends it with `Compacted`.

mod batch;
mod feed;
mod hub;
mod interest;

pub use batch::{Delivery, SharedBatch, WatchSink};
pub(crate) use hub::Hub;
