//! The handle: whom to reach, what to send, and the thread behind it.

use std::collections::{BTreeSet, HashMap};
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use raft::eraftpb::{Message, MessageType};
use rustls::{ClientConfig, ServerConfig};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::config::{PeerConfig, PeerError, PeerUrl};
use super::pace::{Haste, Pace};
use super::{dial, listen, snapshot};
use crate::backend::Staging;
use crate::machine::Machine;
use crate::membership::Membership;
use crate::proto::peer as pb;
use crate::raft::message::to_wire;
use crate::raft::{Identity, Outbox, Raft};
use crate::reload::FromFiles;
use crate::{Member, StoreError};

/// Messages waiting for a connection; a heartbeat or an acknowledgement each.
const CONTROL_QUEUE_MAX: usize = 1024;
/// Messages with entries, of up to a megabyte each. Raft keeps at most 512 on their way to a follower.
const BULK_QUEUE_MAX: usize = 64;
const CALL_QUEUE_MAX: usize = 256;
/// A member in touch for this long counts as healthy when members change, as in etcd.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// What blocks when the store stops gets this long.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What this member answers to others.
#[async_trait]
pub(crate) trait Desk: Send + Sync + 'static {
    async fn answer(&self, request: pb::call::Request) -> Result<pb::Answer, StoreError>;
}

/// What connections need of this member.
pub(crate) struct Local {
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<RwLock<Machine>>,
    pub(crate) desk: Arc<dyn Desk>,
    /// Where states that others send are kept; `None` where they stay in memory.
    pub(crate) staging: Option<Arc<Staging>>,
    pub(crate) is_witness: bool,
}

/// The way to the other members. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PeerNet {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) identity: Identity,
    pub(super) server_tls: Option<FromFiles<ServerConfig>>,
    pub(super) client_tls: Option<FromFiles<ClientConfig>>,
    pub(super) local: OnceLock<Local>,
    /// One snapshot comes in at a time: it takes as much disk as the state.
    pub(super) receiving: Semaphore,
    pub(super) snapshot_pace: Pace,
    peers: RwLock<HashMap<u64, Peer>>,
    runtime: Handle,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Peer {
    link: Arc<Link>,
    control: mpsc::Sender<pb::Message>,
    bulk: mpsc::Sender<pb::Message>,
    calls: mpsc::Sender<Asked>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A member to dial.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) urls: watch::Sender<Vec<String>>,
    /// Since when its control connection stands.
    pub(super) active_since: Mutex<Option<Instant>>,
    pub(super) haste: Haste,
}

/// A call and who waits for its answer; dropped when it cannot be made.
pub(super) type Asked = (pb::call::Request, oneshot::Sender<pb::Answer>);

impl std::fmt::Debug for PeerNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerNet").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

impl PeerNet {
    /// Listens; connections are taken from [`PeerNet::run`] on. States are sent at so many bytes a second; 0 is no limit.
    pub(crate) fn bind(
        config: &PeerConfig,
        identity: Identity,
        snapshot_bytes_per_second: u64,
    ) -> Result<Self, PeerError> {
        let server_tls = config.tls.as_ref().map(|tls| tls.server()).transpose()?;
        let client_tls = config.tls.as_ref().map(|tls| tls.client()).transpose()?;
        let mut listeners = Vec::new();
        for text in &config.listen_urls {
            let url = PeerUrl::parse(text)?;
            if url.is_https && server_tls.is_none() {
                return Err(PeerError::NoTls);
            }
            let listen = || {
                let listener = TcpListener::bind(url.to_socket_addr()?)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            let listener = listen().map_err(|source| PeerError::Listen { url: text.clone(), source })?;
            listeners.push((listener, url.is_https));
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inner = Arc::new(Inner {
            identity,
            server_tls,
            client_tls,
            local: OnceLock::new(),
            receiving: Semaphore::new(1),
            snapshot_pace: Pace::new(snapshot_bytes_per_second),
            peers: RwLock::default(),
            runtime: runtime.handle().clone(),
            stop: watch::Sender::new(false),
            thread: Mutex::new(None),
        });
        for (listener, is_https) in listeners {
            runtime.spawn(listen::accept(inner.clone(), listener, is_https));
        }
        let mut stopped = inner.stop.subscribe();
        let thread = std::thread::Builder::new().name("peers".into()).spawn(move || {
            let _told = runtime.block_on(async { stopped.wait_for(|stopped| *stopped).await.map(|_| ()) });
            runtime.shutdown_timeout(STOP_PATIENCE);
        })?;
        *inner.thread.lock() = Some(thread);
        Ok(Self { inner })
    }

    pub(crate) fn run(&self, local: Local) {
        let membership = local.machine.read().membership.clone();
        let _set_once = self.inner.local.set(local);
        self.update(&membership);
    }

    /// Runs something beside the connections, until the store stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.runtime.spawn(task);
    }

    /// Ends all connections. Waits for the thread.
    pub(crate) fn stop(&self) {
        self.inner.stop.send_replace(true);
        if let Some(thread) = self.inner.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the peer connections had panicked");
        }
        self.inner.peers.write().clear();
    }

    /// Whom to dial from now on.
    pub(crate) fn update(&self, membership: &Membership) {
        if self.inner.local.get().is_none() {
            return;
        }
        let others = || membership.members.values().filter(|member| member.id != self.inner.identity.member_id);
        let mut peers = self.inner.peers.write();
        peers.retain(|id, _| membership.members.contains_key(id));
        for member in others() {
            match peers.get(&member.id) {
                Some(peer) => {
                    peer.link.urls.send_if_modified(|urls| {
                        let is_new = *urls != member.peer_urls;
                        urls.clone_from(&member.peer_urls);
                        is_new
                    });
                }
                None => {
                    peers.insert(member.id, self.connect(member));
                }
            }
        }
    }

    fn connect(&self, member: &Member) -> Peer {
        let link = Arc::new(Link {
            id: member.id,
            urls: watch::Sender::new(member.peer_urls.clone()),
            active_since: Mutex::new(None),
            haste: Haste::default(),
        });
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (bulk, bulk_queue) = mpsc::channel(BULK_QUEUE_MAX);
        let (calls, call_queue) = mpsc::channel(CALL_QUEUE_MAX);
        let runtime = &self.inner.runtime;
        let stream = |purpose, queue| {
            runtime.spawn(dial::stream(self.inner.clone(), link.clone(), purpose, queue)).abort_handle()
        };
        let tasks = vec![
            stream(pb::Purpose::Control, control_queue),
            stream(pb::Purpose::Bulk, bulk_queue),
            runtime.spawn(dial::calls(self.inner.clone(), link.clone(), call_queue)).abort_handle(),
        ];
        Peer { link, control, bulk, calls, tasks }
    }

    /// Asks another member; `None` if it could not be reached.
    pub(crate) async fn call(&self, to: u64, request: pb::call::Request) -> Option<pb::Answer> {
        let calls = self.inner.peers.read().get(&to)?.calls.clone();
        let (reply, answer) = oneshot::channel();
        calls.try_send((request, reply)).ok()?;
        answer.await.ok()
    }

    pub(crate) fn is_connected(&self, id: u64) -> bool {
        self.inner.peers.read().get(&id).is_some_and(|peer| peer.link.active_since.lock().is_some())
    }

    /// Members that have been in touch for a while; this one always is.
    pub(crate) fn healthy(&self) -> BTreeSet<u64> {
        let is_healthy = |peer: &&Peer| peer.link.active_since.lock().is_some_and(|at| at.elapsed() >= HEALTHY_AFTER);
        let peers = self.inner.peers.read();
        let mut healthy: BTreeSet<_> = peers.values().filter(is_healthy).map(|peer| peer.link.id).collect();
        healthy.insert(self.inner.identity.member_id);
        healthy
    }
}

impl Outbox for PeerNet {
    fn send(&self, messages: Vec<Message>) {
        let peers = self.inner.peers.read();
        for message in messages {
            let Some(peer) = peers.get(&message.to) else { continue };
            let to = message.to;
            match message.get_msg_type() {
                MessageType::MsgSnapshot => {
                    let sending = snapshot::send(self.inner.clone(), peer.link.clone(), to_wire(message));
                    self.inner.runtime.spawn(sending);
                }
                MessageType::MsgAppend | MessageType::MsgPropose if !message.entries.is_empty() => {
                    if peer.bulk.try_send(to_wire(message)).is_err() {
                        self.inner.report_unreachable(to);
                    }
                }
                _ => {
                    // The next heartbeat says it again.
                    let _dropped = peer.control.try_send(to_wire(message));
                }
            }
        }
    }
}

impl Inner {
    pub(super) fn report_unreachable(&self, id: u64) {
        if let Some(local) = self.local.get() {
            local.raft.report_unreachable(id);
        }
    }

    pub(super) fn report_removed(&self) {
        if let Some(local) = self.local.get() {
            local.raft.report_removed();
        }
    }

    pub(super) fn is_removed(&self, id: u64) -> bool {
        self.local.get().is_some_and(|local| local.machine.read().membership.removed.contains(&id))
    }
}
