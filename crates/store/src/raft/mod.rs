//! Replication: raft-rs with everything around it that it needs.
//!
//! [`Core`] decides and does no I/O; the driver's thread owns it, and does what it says: sends through an [`Outbox`], has the
//! log written, applies what is committed in one go, and only then answers. A member that is alone writes its log itself; with
//! others, a thread of its own does (`wal`), while the driver goes on with the next entries. Invariants: nothing is applied
//! before it is durable here and committed; nothing is acknowledged before it is applied; a follower says nothing before what
//! it says is durable; a log whose sync failed is never written again. The log is behind [`LogStore`], and what a committed
//! entry means is behind [`Apply`].

mod core;
mod driver;
mod engine_log;
mod file_header;
mod handle;
mod log;
mod logger;
mod memory_log;
pub(crate) mod message;
mod proposals;
mod reads;
#[cfg(test)]
mod sim;
mod storage;
mod wal;
mod zeroed_files;

pub(crate) use self::core::{CoreConfig, KEPT_ENTRIES_MAX};
pub(crate) use driver::{Applied, Apply, Committed, Driver, DriverConfig, Outbox, REMOVED};
pub(crate) use engine_log::EngineLog;
pub(crate) use handle::Raft;
pub(crate) use log::{Identity, LogError, LogStore, LoggedState};
pub(crate) use memory_log::MemoryLog;
pub(crate) use message::decode_change;
pub(crate) use wal::Install;
