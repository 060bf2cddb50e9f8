//! The doors of the gateway: TLS connections, and calls from within the process.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::{CertificateDer, UnixTime};
use store::FromFiles;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::attributes::UserInfo;
use crate::authn::certificate;
use crate::authn::request_header::Standing;
use crate::deadline;
use crate::gateway::{Gateway, Peer};
use crate::http::ResponseBody;
use crate::http::body::{self, BoxError, RequestBody};
use crate::metrics::{LateEnd, Metrics, RequestLabel};
use crate::relay::forward::{Raw, is_upgrade};
use crate::sending::{self, Link, Streams};

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that do not end by themselves after the stop are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Header bytes of an HTTP/1 request, and of an HTTP/2 header list; upstream (Go) allows 1 MiB.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// So long is a write watched whose client was told that it is late.
const LATE_WRITE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Concurrent streams of an HTTP/2 connection, upstream's `--http2-max-streams-per-connection`.
const HTTP2_STREAMS_MAX: u32 = 1_000;

/// Calls the gateway as one user, without a network: what `kube::Client` takes as its service.
#[derive(Clone, Debug)]
pub struct InProcess {
    gateway: Arc<Gateway>,
    peer: Peer,
}

impl InProcess {
    pub(crate) fn new(gateway: Arc<Gateway>, user: UserInfo) -> Self {
        Self { gateway, peer: Peer::InProcess(Arc::new(user)) }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let gateway = Arc::clone(&self.gateway);
        let peer = self.peer.clone();
        let request = request.map(body::boxed);
        Box::pin(async move { Ok(answer_in_task(gateway, peer, request).await.0) })
    }
}

/// Answers in a task of its own, in time: a panic costs one request, and a client that gives up, or who is told that it is late,
/// does not stop a write half-way. A read is given up with its client. Also says by when the answer must have been read.
async fn answer_in_task(
    gateway: Arc<Gateway>,
    peer: Peer,
    mut request: Request<RequestBody>,
) -> (Response<ResponseBody>, Option<tokio::time::Instant>) {
    let upgrade = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (head, mut incoming) = request.into_parts();
    let mut call = gateway.call(head.method, head.uri, head.headers);
    let (deadline, audit_id, label) = (call.deadline(), call.audit_id.clone(), call.label.clone());
    let metrics = gateway.metrics.clone();
    let is_read = matches!(call.method, Method::GET | Method::HEAD);
    let (giving_up, given_up) = (is_read && deadline.is_some()).then(oneshot::channel).unzip();
    call.given_up = given_up;
    let mut is_unread = false;
    let mut task = None;
    let answering = async {
        if gateway.passes_on(&call) {
            // The body is for somebody else, and the connection may be as well.
            let client = match &peer {
                Peer::Network { address, .. } => Some(*address),
                Peer::InProcess(_) => None,
            };
            call.raw = Some(Raw { body: std::mem::take(&mut incoming), upgrade, client });
        } else {
            is_unread = true;
            call.body = body::read(&mut incoming).await;
            is_unread = call.body.is_err();
        }
        // A task moves its future about, at its start as at its end; this one is twelve kilobytes.
        let work: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { gateway.handle(&peer, call).await });
        task.insert(tokio::spawn(work)).await
    };
    let answered = match deadline {
        None => Ok(answering.await),
        Some(deadline) => tokio::time::timeout_at(deadline, answering).await,
    };
    let response = match (answered, deadline) {
        (Ok(Ok(response)), None) => response,
        (Ok(Ok(response)), Some(deadline)) => deadline::cut_off(response, deadline),
        (Ok(Err(error)), _) => {
            tracing::error!(%error, "request handler failed");
            crate::gateway::text(500, "This request caused apiserver to panic. Look in the logs for details.\n")
        }
        (Err(_late), _) => {
            metrics.terminated(&label, deadline::LATE.as_u16());
            if let Some(task) = task {
                tokio::spawn(see_end(task, metrics, label, audit_id.clone()));
            }
            deadline::late(audit_id)
        }
    };
    drop(giving_up);
    let response = if is_unread { response.map(|answer| body::hold(answer, incoming)) } else { response };
    (response, deadline)
}

/// Tells what becomes of a request whose client was told that it is late.
async fn see_end(
    mut task: JoinHandle<Response<ResponseBody>>,
    metrics: Metrics,
    label: RequestLabel,
    audit_id: HeaderValue,
) {
    let late = Instant::now();
    let ended = match tokio::time::timeout(LATE_WRITE_TIMEOUT, &mut task).await {
        Ok(Ok(response)) => LateEnd::Answer(response.status().as_u16()),
        Ok(Err(_panic)) => LateEnd::Panic,
        Err(_still_running) => LateEnd::Pending,
    };
    metrics.ended_late(&label, ended);
    tracing::warn!(?audit_id, ?ended, late = ?late.elapsed(), "a request went on after its deadline");
}

/// Accepts connections until `shutdown` turns true, then lets running requests finish for a moment.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    tls: Arc<FromFiles<rustls::ServerConfig>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let (gateway, acceptor) = (Arc::clone(&gateway), TlsAcceptor::from(tls.get()));
                    let connection = connection(gateway, stream, client.ip(), acceptor, shutdown.clone());
                    connections.spawn(sending::noting(connection));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the ones in use come back.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
            () = stopped(&mut shutdown) => break,
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.abort_all();
    }
}

/// Resolves when the server stops, or is gone.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _either_way_the_server_stops = shutdown.wait_for(|stop| *stop).await.is_ok();
}

/// Does something beside the request that began it, until it is done or the server stops.
pub(crate) fn spawn_until_stopped(
    mut shutdown: watch::Receiver<bool>,
    work: impl Future<Output: Send> + Send + 'static,
) {
    tokio::spawn(async move {
        tokio::select! {
            _done = work => {}
            () = stopped(&mut shutdown) => {}
        }
    });
}

/// Who is at the other end, by the certificates that TLS verified.
fn peer(gateway: &Gateway, chain: &[CertificateDer<'_>], address: IpAddr) -> Peer {
    let standing = match &gateway.front_proxies {
        None => Standing { is_user: true, is_proxy: false },
        Some(proxies) => proxies.standing(chain, UnixTime::now()),
    };
    let user = chain.first().filter(|_| standing.is_user).and_then(|der| certificate::user(der)).map(Arc::new);
    Peer::Network { user, is_proxy: standing.is_proxy, address }
}

async fn connection(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    address: IpAddr,
    acceptor: TlsAcceptor,
    mut shutdown: watch::Receiver<bool>,
) {
    // Small frames (watch events) must not wait for more.
    let _best_effort = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let peer = peer(&gateway, stream.get_ref().1.peer_certificates().unwrap_or_default(), address);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let gateway = Arc::clone(&gateway);
        let peer = peer.clone();
        async move {
            let is_head = request.method() == Method::HEAD;
            let is_shared = request.version() == Version::HTTP_2;
            let (response, deadline) = answer_in_task(gateway, peer, request.map(body::boxed)).await;
            sending::must_be_read(deadline);
            Ok::<_, Infallible>(if is_head {
                body::without_bytes(response, body::full(Bytes::new()))
            } else if is_shared {
                response.map(sending::in_pieces)
            } else {
                response
            })
        }
    });
    let mut builder = auto::Builder::new(Streams);
    builder.http1().timer(TokioTimer::new()).max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let served = builder.serve_connection_with_upgrades(TokioIo::new(Link::new(stream)), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut shutdown) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
