//! Sockets and connections: accepts, speaks TLS where configured, and hands every request to the service named in its path.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service as _;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::auth::AuthService;
use super::cluster::ClusterService;
use super::election::ElectionService;
use super::health::HealthService;
use super::kv::KvService;
use super::lease::LeaseService;
use super::lock::LockService;
use super::maintenance::MaintenanceService;
use super::shared::{CommonName, Shared, State};
use super::tls::Acceptor;
use super::watch::WatchService;
use super::{Listen, ServeError, ServerConfig, Serves, gateway, http as pages};
use crate::Store;
use crate::proto::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for open requests to end after the shutdown signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// JSON is larger than what it stands for: base64 by a third, names and quotes by about as much.
const JSON_PER_PROTO_BYTE: usize = 2;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound server. It serves while [`Server::run`] runs.
pub struct Server {
    listeners: Vec<(TcpListener, Listen)>,
    addresses: Vec<SocketAddr>,
    tls: Option<Acceptor>,
    services: Services,
}

impl Server {
    pub async fn bind(store: Arc<dyn Store>, config: ServerConfig) -> Result<Self, ServeError> {
        let tls = config.tls.as_ref().map(Acceptor::new).transpose()?;
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for listen in &config.listen {
            let failed = |source| ServeError::Listen { address: listen.address, source };
            let listener = TcpListener::bind(listen.address).await.map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            listeners.push((listener, *listen));
        }
        Ok(Self { listeners, addresses, tls, services: Services::new(Arc::new(Shared::new(store, config))) })
    }

    /// The addresses really listened on, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` resolves; then streams are ended, and open calls get a moment to finish.
    pub fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
        self.serve(shutdown.boxed())
    }

    fn serve(self, shutdown: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let serving = async move {
            let shared = Arc::clone(&self.services.shared);
            shared.refresh().await;
            let mut tasks = JoinSet::new();
            for (listener, Listen { plain, serves, .. }) in self.listeners {
                let tls = self.tls.clone().filter(|_| !plain);
                let is_secure = tls.is_some();
                tasks.spawn(accept(listener, tls, Services { serves, is_secure, ..self.services.clone() }));
            }
            let refresher = Arc::clone(&shared);
            let refresher = tokio::spawn(async move { refresher.follow_status().await });
            shutdown.await;
            shared.close();
            while tasks.join_next().await.is_some() {}
            refresher.abort();
        };
        serving.boxed()
    }
}

async fn accept(listener: TcpListener, tls: Option<Acceptor>, services: Services) {
    let mut states = services.shared.states();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = Shared::must_end(&mut states, false) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((socket, _)) => {
                connections.spawn(in_batches(connection(socket, tls.clone(), services.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a store client failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is cut off with the set.
    let _late = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}

/// Lets the tasks that are ready go first each time a connection is woken: what they have to send then goes out in one write,
/// and not in one each. Many streams of a connection become ready together, with the batches of the log.
async fn in_batches<F: Future>(connection: F) -> F::Output {
    let mut connection = std::pin::pin!(connection);
    let mut has_waited = false;
    std::future::poll_fn(|context| {
        has_waited = !has_waited;
        if has_waited {
            // A task that wakes itself goes to the end of the queue.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        connection.as_mut().poll(context)
    })
    .await
}

async fn connection(socket: TcpStream, tls: Option<Acceptor>, services: Services) {
    let _not_fatal = socket.set_nodelay(true);
    let Some(tls) = tls else { return serve(TokioIo::new(socket), services).await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(socket)).await {
        Ok(Ok(stream)) if !tls.lets_in(stream.get_ref().1) => {
            tracing::debug!("a store client's certificate has none of the names that are let in");
        }
        Ok(Ok(stream)) => {
            let services = services.with_common_name(common_name(stream.get_ref().1));
            serve(TokioIo::new(stream), services).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "tls handshake with a store client failed"),
        Err(_late) => tracing::debug!("tls handshake with a store client took too long"),
    }
}

/// Whom a client's certificate names. There is one only where the server demands and has verified it.
fn common_name(connection: &rustls::ServerConnection) -> Option<CommonName> {
    let (_, certificate) = X509Certificate::from_der(connection.peer_certificates()?.first()?).ok()?;
    // Of several the last counts, as in Go.
    let name = certificate.subject().iter_common_name().last()?.as_str().ok()?;
    Some(CommonName(name.into()))
}

async fn serve<I>(io: I, services: Services)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut states = services.shared.states();
    let config = &services.shared.config;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout);
    let connection = builder.serve_connection_with_upgrades(io, services);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = Shared::must_end(&mut states, false) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection of a store client ended");
    }
}

/// Every service of the port, for one connection. A clone is a handful of counters.
#[derive(Clone)]
pub(super) struct Services {
    serves: Serves,
    is_secure: bool,
    shared: Arc<Shared>,
    common_name: Option<CommonName>,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    auth: AuthServer<AuthService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    health: HealthServer<HealthService>,
}

impl Services {
    fn new(shared: Arc<Shared>) -> Self {
        let bytes_max = shared.decode_bytes_max();
        let service = || Arc::clone(&shared);
        Self {
            serves: Serves::Everything,
            is_secure: false,
            kv: KvServer::new(KvService(service())).max_decoding_message_size(bytes_max),
            watch: WatchServer::new(WatchService(service())).max_decoding_message_size(bytes_max),
            lease: LeaseServer::new(LeaseService(service())).max_decoding_message_size(bytes_max),
            cluster: ClusterServer::new(ClusterService(service())).max_decoding_message_size(bytes_max),
            maintenance: MaintenanceServer::new(MaintenanceService(service())).max_decoding_message_size(bytes_max),
            auth: AuthServer::new(AuthService(service())).max_decoding_message_size(bytes_max),
            lock: LockServer::new(LockService(service())).max_decoding_message_size(bytes_max),
            election: ElectionServer::new(ElectionService(service())).max_decoding_message_size(bytes_max),
            health: HealthServer::new(HealthService(service())),
            common_name: None,
            shared,
        }
    }

    fn with_common_name(self, common_name: Option<CommonName>) -> Self {
        Self { common_name, ..self }
    }

    /// Largest request that a client may send as JSON.
    pub(super) fn json_bytes_max(&self) -> usize {
        self.shared.decode_bytes_max() * JSON_PER_PROTO_BYTE
    }

    pub(super) fn states(&self) -> tokio::sync::watch::Receiver<State> {
        self.shared.states()
    }

    /// Calls the service that the path of a gRPC request names, or gives the request back.
    pub(super) fn call_grpc<B>(&self, request: Request<B>) -> Result<Answering, Request<B>>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let Some(counting) = self.shared.metrics.begin(request.uri().path()) else { return self.call_service(request) };
        let request = request.map(|body| counting.request(body));
        // A path that is counted has a service.
        let Ok(answering) = self.call_service(request) else { return Ok(Box::pin(async { Ok(unknown_call("")) })) };
        Ok(Box::pin(async move {
            let (head, body) = answering.await?.into_parts();
            let body = Body::new(counting.response(&head.headers, body));
            Ok(Response::from_parts(head, body))
        }))
    }

    fn call_service<B>(&self, request: Request<B>) -> Result<Answering, Request<B>>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map_or("", |(service, _)| service);
        Ok(match service {
            "etcdserverpb.KV" => self.kv.clone().call(request),
            "etcdserverpb.Watch" => self.watch.clone().call(request),
            "etcdserverpb.Lease" => self.lease.clone().call(request),
            "etcdserverpb.Cluster" => self.cluster.clone().call(request),
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request),
            "etcdserverpb.Auth" => self.auth.clone().call(request),
            "v3lockpb.Lock" => self.lock.clone().call(request),
            "v3electionpb.Election" => self.election.clone().call(request),
            "grpc.health.v1.Health" => self.health.clone().call(request),
            _ => return Err(request),
        })
    }

    async fn call_http(&self, request: Request<Incoming>) -> Response<Body> {
        if is_grpc(&request) {
            return unknown_call(request.uri().path());
        }
        if self.serves == Serves::Metrics {
            return self.call_page(request).await;
        }
        let origins = &self.shared.config.origins;
        if !self.is_secure
            && let Some(refusal) = origins.refuse_host(&request)
        {
            return refusal;
        }
        let allowed = origins.allowed(&request);
        let mut response = match *request.method() {
            Method::OPTIONS => Response::new(Body::empty()),
            _ => self.call_page(request).await,
        };
        allowed.tell(&mut response);
        response
    }

    async fn call_page(&self, request: Request<Incoming>) -> Response<Body> {
        if gateway::route(request.uri().path()).is_some() {
            return gateway::serve(self, request).await;
        }
        pages::serve(&self.shared, request.method(), request.uri()).await
    }
}

fn unknown_call(path: &str) -> Response<Body> {
    tonic::Status::unimplemented(format!("unknown service or method {path}")).into_http()
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let is_grpc = is_grpc(&request);
        let is_refused = match self.serves {
            Serves::Everything => false,
            Serves::Grpc => !is_grpc,
            Serves::Http => is_grpc,
            Serves::Metrics => is_grpc || !pages::is_probe(request.uri().path()),
        };
        if is_refused {
            return Box::pin(async { Ok(pages::not_found()) });
        }
        if let Some(common_name) = &self.common_name {
            request.extensions_mut().insert(common_name.clone());
        }
        match self.call_grpc(request) {
            Ok(answering) => answering,
            Err(request) => {
                let services = self.clone();
                Box::pin(async move { Ok(services.call_http(request).await) })
            }
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
