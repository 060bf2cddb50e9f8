//! The members of a cluster as seen by a client: one connection each, made when first used, and again when the certificates that it
//! shows have changed; and the rule by which a call moves on to the next member.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::StoreError;
use crate::proto::etcdserverpb::{
    auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use crate::reload::{FromFiles, Pem};
use crate::status::from_status;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call may take with all its repetitions. A server gives up a write after 7 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before trying again once every member has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow control windows that keep a fast link busy during long lists.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How to reach members over TLS. What is in files is followed when they change: calls under way end on the connection they began on.
#[derive(Clone)]
pub struct RemoteTls {
    /// The authority that signed the members' certificates.
    pub ca: Pem,
    /// Our certificate and its key.
    pub identity: Option<(Pem, Pem)>,
    /// The name to expect in the members' certificates, when it is not the host of the URL.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for RemoteTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The clients of one member; a clone is cheap.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) kv: KvClient<Caller>,
    pub(super) watch: WatchClient<Caller>,
    pub(super) lease: LeaseClient<Caller>,
    pub(super) cluster: ClusterClient<Caller>,
    pub(super) maintenance: MaintenanceClient<Caller>,
    pub(super) auth: AuthClient<Caller>,
}

/// A connection, and the token that is shown with every call.
type Caller = InterceptedService<Channel, Token>;

#[derive(Clone, Debug)]
pub(super) struct Token(Option<AsciiMetadataValue>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

impl Member {
    /// Sizes are limited by the server, not here.
    fn new(channel: &Channel, token: &Token) -> Self {
        const UNLIMITED: usize = usize::MAX;
        let caller = || InterceptedService::new(channel.clone(), token.clone());
        Self {
            kv: KvClient::new(caller()).max_decoding_message_size(UNLIMITED),
            watch: WatchClient::new(caller()).max_decoding_message_size(UNLIMITED),
            lease: LeaseClient::new(caller()).max_decoding_message_size(UNLIMITED),
            cluster: ClusterClient::new(caller()).max_decoding_message_size(UNLIMITED),
            maintenance: MaintenanceClient::new(caller()).max_decoding_message_size(UNLIMITED),
            auth: AuthClient::new(caller()).max_decoding_message_size(UNLIMITED),
        }
    }
}

/// When a call may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Doing it twice is the same as once.
    Always,
    /// Only when no connection could be made.
    UnlessSent,
}

#[derive(Debug)]
pub(super) struct Endpoints {
    channels: Arc<FromFiles<Vec<Channel>>>,
    n_members: usize,
    token: Token,
    /// Clients over the channels as they were when last looked at.
    made: Mutex<Made>,
    /// The member that answered last.
    current: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Made {
    channels: Arc<Vec<Channel>>,
    members: Vec<Member>,
}

impl Made {
    fn new(channels: Arc<Vec<Channel>>, token: &Token) -> Self {
        let members = channels.iter().map(|channel| Member::new(channel, token)).collect();
        Self { channels, members }
    }
}

impl Endpoints {
    pub(super) fn new(urls: &[String], tls: Option<RemoteTls>) -> Result<Self, StoreError> {
        if urls.is_empty() {
            return Err(StoreError::Remote("no etcd endpoints given".to_owned()));
        }
        let urls = urls.to_vec();
        let channels = match tls {
            None => Ok(FromFiles::from(Arc::new(connect_all(&urls, None)?))),
            Some(RemoteTls { ca, identity, server_name }) => {
                let parts = std::iter::once(ca).chain(identity.into_iter().flat_map(|(cert, key)| [cert, key]));
                FromFiles::of_pems(parts.collect(), move |texts| {
                    let tls = client_tls(texts, server_name.as_deref());
                    connect_all(&urls, Some(&tls)).map_err(|error| error.to_string())
                })
            }
        };
        Ok(Self::over(Arc::new(channels.map_err(StoreError::Remote)?), Token(None), Arc::default()))
    }

    fn over(channels: Arc<FromFiles<Vec<Channel>>>, token: Token, current: Arc<AtomicUsize>) -> Self {
        let made = Made::new(channels.get(), &token);
        Self { channels, n_members: made.members.len(), token, made: Mutex::new(made), current }
    }

    /// The same connections, with a token shown on every call. One that cannot be sent is sent as one that nobody has.
    pub(super) fn with_token(&self, token: Option<&str>) -> Self {
        let value = |token: &str| token.parse().unwrap_or_else(|_unsendable| AsciiMetadataValue::from_static("?"));
        Self::over(Arc::clone(&self.channels), Token(token.map(value)), Arc::clone(&self.current))
    }

    pub(super) fn len(&self) -> usize {
        self.n_members
    }

    /// The member to try first, and its number.
    pub(super) fn pick(&self) -> (usize, Member) {
        let index = self.current.load(Ordering::Relaxed);
        let channels = self.channels.get();
        let mut made = self.made.lock();
        if !Arc::ptr_eq(&made.channels, &channels) {
            *made = Made::new(channels, &self.token);
        }
        (index, made.members[index].clone())
    }

    /// Moves on after member `failed` did not answer; of several callers who saw the same failure one moves.
    pub(super) fn fail(&self, failed: usize) {
        let next = (failed + 1) % self.n_members;
        let _moved_by_another = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) async fn call<T, F, Fut>(&self, repeat: Repeat, call: F) -> Result<T, StoreError>
    where
        F: Fn(Member) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut failures = 0;
        loop {
            let (index, member) = self.pick();
            let Ok(answer) = tokio::time::timeout_at(deadline, call(member)).await else {
                self.fail(index);
                return Err(StoreError::Timeout);
            };
            let status = match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let failure = Failure::of(&status);
            if failure == Failure::Answer {
                return Err(from_status(&status));
            }
            self.fail(index);
            let may_repeat = repeat == Repeat::Always || failure == Failure::NotSent;
            failures += 1;
            let pause = if failures % self.n_members == 0 { RETRY_PAUSE } else { Duration::ZERO };
            if !may_repeat || Instant::now() + pause >= deadline {
                return Err(failure.error(&status));
            }
            tracing::debug!(error = %status, "store call failed, trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

/// What a failed call says about the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server worked on the request and refused it.
    Answer,
    /// The server said that it cannot serve now.
    Unavailable,
    /// No connection could be made; the request never left.
    NotSent,
    /// The connection broke; the request may have been carried out.
    Broken,
}

impl Failure {
    pub(super) fn of(status: &Status) -> Self {
        // Only statuses made on this side have a cause.
        let Some(source) = status.source() else {
            return if status.code() == Code::Unavailable { Self::Unavailable } else { Self::Answer };
        };
        let mut causes = std::iter::successors(Some(source), |&cause| cause.source());
        if causes.any(|cause| cause.is::<tonic::ConnectError>()) { Self::NotSent } else { Self::Broken }
    }

    pub(super) fn error(self, status: &Status) -> StoreError {
        match self {
            Self::Answer | Self::Unavailable => from_status(status),
            Self::NotSent => StoreError::Remote(format!("cannot reach the store: {}", causes(status))),
            Self::Broken => StoreError::Timeout,
        }
    }
}

fn causes(status: &Status) -> String {
    let chain = std::iter::successors(status.source(), |&cause| cause.source());
    let mut texts: Vec<String> = chain.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

fn connect_all(urls: &[String], tls: Option<&ClientTlsConfig>) -> Result<Vec<Channel>, StoreError> {
    urls.iter().map(|url| connect(url, tls)).collect()
}

/// From the texts of the CA and, if there is one, of the certificate and its key.
fn client_tls(texts: &[&[u8]], server_name: Option<&str>) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new();
    if let [ca, identity @ ..] = texts {
        config = config.ca_certificate(Certificate::from_pem(ca));
        if let [certificate, key] = identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
    }
    match server_name {
        Some(name) => config.domain_name(name),
        None => config,
    }
}

fn connect(url: &str, tls: Option<&ClientTlsConfig>) -> Result<Channel, StoreError> {
    let wrong = |error: tonic::transport::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        StoreError::Remote(format!("etcd endpoint {url}: {error}{cause}"))
    };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(wrong)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.clone()).map_err(wrong)?;
    }
    Ok(endpoint.connect_lazy())
}
