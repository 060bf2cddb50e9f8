//! The embedded store: one member of a cluster, in this process.
//!
//! A write goes through the log to the state machine, a read looks at the state machine, a watch listens to its history. This
//! module ties them together and is the only one that knows threads, files and the clock all at once.

mod alone;
mod applier;
mod auth;
mod client;
#[cfg(test)]
mod cluster_tests;
mod config;
mod corruption;
#[cfg(test)]
mod crash_tests;
mod downgrade;
mod export;
#[cfg(test)]
mod fault_tests;
mod identity;
mod leases;
mod measured;
mod members;
mod observed;
mod open;
#[cfg(test)]
mod parity_tests;
#[cfg(test)]
mod regressions;
mod store_impl;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};

pub(crate) use alone::catch_up;
pub use config::{ClusterState, EmbeddedConfig, InitialMember, OpenError};
pub(crate) use export::{Versions, buckets, small_rows};
pub(crate) use identity::Newcomer;
pub(crate) use open::{FIRST_ENTRY, LOG_DIR, STATE_FILE, check_agreement, claim};

use self::leases::LeaseDesk;
#[cfg(test)]
use crate::Revision;
use crate::auth::{Passwords, Tokens};
use crate::backend::WriterHandle;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::peer::PeerNet;
use crate::pins::Pins;
use crate::raft::{Identity, Raft};
use crate::watch::Hub;

/// A store in this process. Cheap to share behind an `Arc`; stop it with [`EmbeddedStore::shutdown`].
pub struct EmbeddedStore {
    machine: Arc<RwLock<Machine>>,
    pins: Arc<Pins>,
    raft: Raft,
    hub: Arc<Hub>,
    writer: WriterHandle,
    leases: LeaseDesk,
    identity: Identity,
    /// `None` if the store does not listen for other members.
    peers: Option<PeerNet>,
    quota_bytes: i64,
    txn_ops_max: usize,
    tokens: Tokens,
    passwords: Passwords,
    metrics: Arc<Metrics>,
    threads: Mutex<Threads>,
}

/// Where lease times are counted from.
#[derive(Clone, Copy, Debug)]
struct Clock(std::time::Instant);

impl Clock {
    fn now(self) -> crate::lease::Now {
        self.0.elapsed()
    }
}

/// What has to end before the data directory can be opened again, in that order.
#[derive(Debug, Default)]
struct Threads {
    raft: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
    hub: Option<JoinHandle<()>>,
    lock: Option<std::fs::File>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// True when the other members say that this one was removed for good. It does nothing any more.
    pub fn is_removed(&self) -> bool {
        matches!(self.raft.failure(), Some(crate::StoreError::Fatal(reason)) if reason == crate::raft::REMOVED)
    }

    /// Lets another member lead before this one stops, so that nobody has to wait for an election. Does nothing if this member does not lead, or if
    /// there is nobody else.
    pub async fn resign(&self) {
        let Some(peers) = self.peers.as_ref().filter(|_| self.raft.leads()) else { return };
        if let Err(error) = self.hand_over(peers).await {
            tracing::warn!(%error, "no other member leads yet: the others will elect one");
        }
    }

    /// Stops the store: finishes what was accepted, brings everything to the state file, ends all watches and releases the data
    /// directory. Waits for the threads, so call it outside of async code or through `spawn_blocking`. Later calls do nothing.
    pub fn shutdown(&self) {
        let mut threads = self.threads.lock();
        if let Some(peers) = &self.peers {
            peers.stop();
        }
        self.raft.stop();
        join(threads.raft.take());
        self.writer.stop();
        join(threads.writer.take());
        self.hub.stop();
        join(threads.hub.take());
        threads.lock = None;
    }
}

#[cfg(test)]
impl EmbeddedStore {
    /// Brings everything to the state file and lets go of what the cache need not hold.
    pub(crate) async fn forget_values(&self) {
        self.writer.flush().await.unwrap();
        let newest = self.machine.read().keyspace.revision();
        while self.hub.published() < newest {
            tokio::task::yield_now().await;
        }
        while self.machine.write().keyspace.evict(newest, 1) {}
        assert!(self.machine.read().keyspace.cache().forgotten() > Revision(0));
    }

    /// Ends the store as a crash would: nothing is written from here on.
    pub(crate) fn crash(&self) {
        self.writer.crash();
        self.shutdown();
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("a thread of the store had panicked");
    }
}
