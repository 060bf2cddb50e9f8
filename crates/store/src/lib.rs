//! The cluster store: an MVCC keyspace with etcd's semantics, replicated by Raft, served through etcd's v3 API.
//!
//! Invariants: an acknowledged write is durable; a read never returns what is not yet durable; revisions never repeat or go
//! back; all events of one revision reach a watcher together and in order, or the watch ends. The crate knows nothing of
//! Kubernetes. Start reading at [`Store`], the door that the API server uses, then `mvcc` (the pure keyspace) and `raft`
//! (the driver around it).

mod auth;
mod backend;
mod background;
pub mod bolt;
mod command;
mod compactor;
mod convert;
mod embedded;
pub mod etcd;
#[cfg(test)]
mod hostile_tests;
mod lease;
mod machine;
mod membership;
mod metrics;
mod mvcc;
pub mod offline;
mod peer;
mod pins;
pub mod proto;
mod raft;
mod reload;
mod remote;
mod status;
#[cfg(test)]
mod testing;
mod types;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};

pub use auth::{
    AuthChange, AuthConfig, AuthConfigError, AuthRequest, AuthResponse, Credentials, NewPassword, Permission,
    PermissionKind,
};
pub use background::{give_way, in_background, spawn_background, stand_behind};
pub use compactor::Retention;
pub use embedded::{ClusterState, EmbeddedConfig, EmbeddedStore, InitialMember, OpenError};
pub use peer::{PeerConfig, PeerTls, SNAPSHOT_BYTES_PER_SECOND};
pub use reload::{FromFiles, Pem};
pub use remote::{RemoteStore, RemoteTls};
pub use types::*;
pub use watch::{Delivery, SharedBatch, WatchSink};

/// Batches a watch may be behind before the store keeps them for it no longer.
const WATCH_BATCHES_MAX: usize = 128;

/// A cluster store: the embedded one, or a stand-alone etcd cluster reached over gRPC.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Keys of a range at one revision. Linearizable unless `serializable`.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;

    /// Compare and change, atomically, at one new revision.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError>;

    /// Events of a range from a revision on. A start revision below the compacted one is [`StoreError::Compacted`], either
    /// here or as the watch's first item.
    async fn watch(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        let (sink, deliveries) = WatchSink::channel(WATCH_BATCHES_MAX);
        let progress = self.watch_into(request, sink).await?;
        Ok(Watch { deliveries, progress })
    }

    /// As [`Store::watch`], with a sink that several watches may share. The watch lives until what is returned, and all clones of
    /// it, are dropped, or nobody listens at the sink's other end.
    async fn watch_into(&self, request: WatchRequest, sink: WatchSink) -> Result<ProgressRequester, StoreError>;

    /// The newest committed revision: a linearizable read of nothing.
    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// Forgets versions superseded at or before `revision`.
    async fn compact(&self, revision: Revision, physical: bool) -> Result<(), StoreError>;

    /// Grants a lease; `LeaseId(0)` lets the store pick. Returns the id and the TTL actually granted, in seconds.
    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), StoreError>;

    /// Ends a lease and deletes its keys in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError>;

    /// Restarts a lease's clock; returns its TTL in seconds, or `LeaseNotFound`.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError>;

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError>;

    /// Every lease, the soonest to expire first.
    async fn lease_list(&self) -> Result<Vec<LeaseId>, StoreError>;

    async fn status(&self) -> Result<StoreStatus, StoreError>;

    /// The members of the cluster, started or not.
    async fn members(&self) -> Result<Vec<Member>, StoreError>;

    /// Adds a member that is still to be started, as a voter or a learner. Returns it and the members there are then.
    async fn member_add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<(Member, Vec<Member>), StoreError>;

    /// Removes a member for good: its id never comes back.
    async fn member_remove(&self, id: u64) -> Result<Vec<Member>, StoreError>;

    /// Tells the cluster that a member has moved.
    async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, StoreError>;

    /// Makes a learner that has caught up a voter.
    async fn member_promote(&self, id: u64) -> Result<Vec<Member>, StoreError>;

    /// Hands leadership to another voter. Only the leader can.
    async fn move_leader(&self, id: u64) -> Result<(), StoreError>;

    /// The alarms raised in the cluster.
    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError>;

    /// Raises one alarm; returns the alarms that are raised now.
    async fn arm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError>;

    /// Lowers one alarm; returns the alarms that were lowered.
    async fn disarm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError>;

    /// A checksum over every kept version up to `revision` (0: the newest), equal on all members.
    async fn hash_kv(&self, revision: Revision) -> Result<HashKv, StoreError>;

    /// A checksum over everything stored, as a bare help in tests: members may differ.
    async fn hash(&self) -> Result<Hash, StoreError>;

    /// Gives free pages of this member's state file back to the file system.
    async fn defragment(&self) -> Result<(), StoreError>;

    /// The whole keyspace as an etcd snapshot file (bbolt, with the SHA-256 trailer).
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Prepares the cluster for members of an older version, or takes that back. Returns the cluster's version.
    async fn downgrade(&self, request: Downgrade) -> Result<String, StoreError>;

    /// What the store counts and times, under etcd's names; nothing for a store somewhere else.
    fn metrics(&self) -> Vec<prometheus::proto::MetricFamily> {
        Vec::new()
    }

    /// Users, roles, and whether they matter.
    async fn auth(&self, request: AuthRequest) -> Result<AuthResponse, StoreError>;

    /// This store as a client of its API sees it: once authentication is enabled, every call is checked against what the
    /// credentials allow. The store itself refuses nothing: its owner is trusted.
    fn on_behalf_of(self: Arc<Self>, credentials: Credentials) -> Arc<dyn Store>;
}

/// A snapshot file on its way.
pub struct Snapshot {
    /// Bytes of all chunks together, the trailer of 32 bytes included.
    pub size_bytes: u64,
    pub chunks: BoxStream<'static, Result<Bytes, StoreError>>,
    /// HashKV of the revision it was taken at, told after the last chunk; `None` where the store does not tell.
    pub hash_kv: Option<oneshot::Receiver<HashKv>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// A running watch. Dropping it cancels it.
#[derive(Debug)]
pub struct Watch {
    deliveries: mpsc::Receiver<Delivery>,
    progress: ProgressRequester,
}

impl Watch {
    /// The next batch; `None` when the store is shutting down. After an error the watch is over.
    pub async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        match self.deliveries.recv().await?.outcome {
            Err(StoreError::Stopped) => None,
            outcome => Some(outcome.map(WatchBatch::from)),
        }
    }

    /// A handle that asks for a progress notification: an empty batch, once everything before it has been delivered.
    pub fn progress_requester(&self) -> ProgressRequester {
        self.progress.clone()
    }
}

/// Asks a [`Watch`] for a progress notification without owning it.
#[derive(Clone, Debug)]
pub struct ProgressRequester(mpsc::Sender<()>);

impl ProgressRequester {
    /// For implementations: the requester and the end that hears of requests, which may be coalesced.
    pub fn channel() -> (Self, mpsc::Receiver<()>) {
        let (requester, requests) = mpsc::channel(1);
        (Self(requester), requests)
    }

    /// Never waits: a request already pending serves this one too.
    pub fn request(&self) {
        let _already_pending = self.0.try_send(());
    }
}

/// Why the store refused or failed. Texts are etcd's.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The revision is older than what is kept; start again from the current state.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted { compact_revision: Revision },
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The request itself is wrong; the text is etcd's.
    #[error("etcdserver: {0}")]
    InvalidArgument(&'static str),
    /// Something else forbids the request, in etcd's words: what is stored, who asks, or a fault of the cluster.
    #[error("etcdserver: {0}")]
    Refused(&'static str),
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The disk or the quota is full: writes are refused, reads go on.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Another member leads now; a read that was under way may be repeated.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// The outcome of a write is unknown.
    #[error("etcdserver: request timed out")]
    Timeout,
    #[error("etcdserver: server stopped")]
    Stopped,
    /// Storage failed; the member no longer acknowledges writes.
    #[error("store failed: {0}")]
    Fatal(String),
    /// Another server answered with something else.
    #[error("{0}")]
    Remote(String),
}
