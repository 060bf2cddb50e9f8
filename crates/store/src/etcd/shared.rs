//! What all services of one server share: the store, the limits, and the part of a response header that does not come with
//! the response.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::ServerConfig;
use super::metrics::ServerMetrics;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::{Credentials, Revision, Store, StoreError};

/// How often term and leadership are looked at.
const REFRESH: Duration = Duration::from_millis(300);
/// And while there is no leader: who asks for one is not refused for longer than there is none.
const REFRESH_LEADERLESS: Duration = Duration::from_millis(30);
/// A stream that requires a leader is ended after this long without one: three elections.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);

pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) config: ServerConfig,
    pub(super) metrics: Arc<ServerMetrics>,
    leader_id: AtomicU64,
    cluster_id: AtomicU64,
    member_id: AtomicU64,
    raft_term: AtomicU64,
    state: watch::Sender<State>,
}

/// What ends streams before their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) leader: bool,
    /// There has been no leader for [`LEADERLESS_MAX`].
    pub(super) leaderless: bool,
    pub(super) closing: bool,
}

impl Shared {
    pub(super) fn new(store: Arc<dyn Store>, config: ServerConfig) -> Self {
        let state = watch::Sender::new(State { leader: true, leaderless: false, closing: false });
        let zero = || AtomicU64::new(0);
        let metrics = Arc::new(ServerMetrics::new(config.metrics_extensive));
        let (cluster_id, member_id, leader_id, raft_term) = (zero(), zero(), zero(), zero());
        Self { store, config, metrics, leader_id, cluster_id, member_id, raft_term, state }
    }

    /// Keeps headers and leadership fresh; runs as long as the server does.
    pub(super) async fn follow_status(&self) {
        let mut seen_leader = Instant::now();
        loop {
            let leader = self.refresh().await;
            if leader {
                seen_leader = Instant::now();
            }
            let leaderless = seen_leader.elapsed() >= LEADERLESS_MAX;
            self.state.send_if_modified(|state| {
                let next = State { leader, leaderless, ..*state };
                std::mem::replace(state, next) != next
            });
            tokio::time::sleep(if leader { REFRESH } else { REFRESH_LEADERLESS }).await;
        }
    }

    /// Reads ids and term; returns whether there is a leader.
    pub(super) async fn refresh(&self) -> bool {
        let Ok(status) = self.store.status().await else { return false };
        self.cluster_id.store(status.cluster_id, Ordering::Relaxed);
        self.member_id.store(status.member_id, Ordering::Relaxed);
        self.raft_term.store(status.raft_term, Ordering::Relaxed);
        let before = self.leader_id.swap(status.leader_id, Ordering::Relaxed);
        if status.leader_id != 0 && status.leader_id != before {
            self.metrics.leader_changes.inc();
        }
        status.leader_id != 0
    }

    pub(super) fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id.load(Ordering::Relaxed),
            member_id: self.member_id.load(Ordering::Relaxed),
            revision: revision.0,
            raft_term: self.raft_term.load(Ordering::Relaxed),
        })
    }

    /// A header with the store's own newest revision, for answers that do not bring one.
    pub(super) async fn header_now(&self) -> Result<Option<ResponseHeader>, StoreError> {
        let revision = self.store.status().await?.revision;
        Ok(self.header(revision))
    }

    pub(super) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn close(&self) {
        self.state.send_modify(|state| state.closing = true);
    }

    /// The store as the client of a request sees it.
    pub(super) fn store_for<T>(&self, request: &Request<T>) -> Arc<dyn Store> {
        Arc::clone(&self.store).on_behalf_of(credentials(request))
    }

    /// A client may ask not to be served by a member that has lost its leader.
    pub(super) fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.admit_as("unary", request)
    }

    /// The same for a call whose client sends more than one message.
    pub(super) fn admit_stream<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.admit_as("stream", request)
    }

    fn admit_as<T>(&self, kind: &str, request: &Request<T>) -> Result<(), Status> {
        let version = request.metadata().get("client-api-version");
        let version = version.map(|version| std::str::from_utf8(version.as_bytes())).transpose();
        let version = version.map_err(|_not_utf8| StoreError::InvalidArgument("invalid client api version"))?;
        self.metrics.client_request(kind, version);
        let refused = requires_leader(request) && !self.state.borrow().leader;
        if refused { Err(StoreError::NoLeader.into()) } else { Ok(()) }
    }

    /// Only requests that enter the log are limited; [`Shared::decode_bytes_max`] limits all.
    pub(super) fn admit_size<M: prost::Message>(&self, message: &M) -> Result<(), Status> {
        let refused = message.encoded_len() > self.config.request_bytes_max;
        if refused { Err(StoreError::RequestTooLarge.into()) } else { Ok(()) }
    }

    /// Room above the request limit for what surrounds a request, as etcd leaves it.
    pub(super) fn decode_bytes_max(&self) -> usize {
        self.config.request_bytes_max + 512 * 1024
    }

    /// Resolves when streams have to end, with what to tell their clients.
    pub(super) async fn must_end(states: &mut watch::Receiver<State>, leader_required: bool) -> StoreError {
        let ended = states.wait_for(|state| state.closing || (leader_required && state.leaderless)).await;
        match ended {
            Ok(state) if !state.closing => StoreError::NoLeader,
            _ => StoreError::Stopped,
        }
    }
}

/// The common name of the certificate that a connection's client showed, where one is required; in the extensions of a request.
#[derive(Clone, Debug)]
pub(super) struct CommonName(pub(super) Arc<str>);

/// What a request shows of who sent it: a token under etcd's name or HTTP's, or a certificate.
fn credentials<T>(request: &Request<T>) -> Credentials {
    let metadata = request.metadata();
    let token = metadata.get("token").or_else(|| metadata.get("authorization"));
    let token = token.map(|token| {
        let text = String::from_utf8_lossy(token.as_bytes());
        text.strip_prefix("Bearer ").unwrap_or(&text).to_owned()
    });
    let common_name = request.extensions().get::<CommonName>().map(|name| Arc::clone(&name.0));
    Credentials { token, common_name }
}

pub(super) fn requires_leader<T>(request: &Request<T>) -> bool {
    request.metadata().get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}
