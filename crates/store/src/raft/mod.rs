//! Replication: the driver around raft-rs.
//!
//! One thread owns the Raft state. It drains its queue, proposes everything in it, writes the resulting entries with one sync,
//! applies what is committed in one go, and only then answers. Invariants: nothing is applied before it is durable here and
//! committed; nothing is acknowledged before it is applied; a log whose sync failed is never written again. The Raft core does
//! no I/O; the log is behind [`LogStore`], and what a committed entry means is behind [`Apply`].

mod driver;
mod engine_log;
mod handle;
mod log;
mod logger;
mod memory_log;
mod storage;

pub(crate) use driver::{Applied, Apply, Committed, Driver, DriverConfig, ELECTION_TIMEOUT};
pub(crate) use engine_log::EngineLog;
pub(crate) use handle::Raft;
pub(crate) use log::{Identity, LogError, LogStore, LoggedState};
pub(crate) use memory_log::MemoryLog;
