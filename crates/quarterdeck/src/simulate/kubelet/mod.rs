//! The kubelet of all simulated nodes: one HTTPS endpoint for logs, exec, attach and port-forward.
//!
//! Nothing runs, so everything is told from the pod: [`log`] says what its containers would have printed, [`shell`] what a
//! command would answer, [`port_forward`] plays a small web server. Clients show a certificate of the cluster's CA and, unless
//! they are in `system:masters`, need leave for `nodes/proxy`, as at a real kubelet.

mod files;
mod log;
mod port_forward;
mod shell;
mod stream;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::attributes::UserInfo;
use apiserver::authn::certificate;
use bytes::Bytes;
use client::{ObjectKey, Shutdown};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Fleet;
use files::Files;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a followed log is looked at again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Pods whose files are remembered; more than anybody copies files to by hand.
const PODS_WITH_FILES_MAX: usize = 256;

/// Where the kubelet listens and what it shows.
pub(crate) struct Endpoint {
    pub listener: TcpListener,
    pub tls: Arc<rustls::ServerConfig>,
}

impl Endpoint {
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

pub(super) struct Kubelet {
    fleet: Arc<Fleet>,
    /// Files that were copied into pods, by pod uid.
    files: Mutex<HashMap<String, Files>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Kubelet {
    pub(super) fn new(fleet: Arc<Fleet>) -> Arc<Self> {
        Arc::new(Self { fleet, files: Mutex::default() })
    }

    /// Serves until the stop.
    pub(super) async fn serve(self: Arc<Self>, endpoint: Endpoint, shutdown: Shutdown) {
        let acceptor = TlsAcceptor::from(endpoint.tls);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = endpoint.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (kubelet, acceptor) = (Arc::clone(&self), acceptor.clone());
                        connections.spawn(async move { kubelet.connection(stream, acceptor).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the kubelet cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_ended) = connections.join_next() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, acceptor: TlsAcceptor) {
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
        let user = stream.get_ref().1.peer_certificates().and_then(|chain| certificate::user(chain.first()?));
        let service = hyper::service::service_fn(move |request| {
            let (kubelet, user) = (Arc::clone(&self), user.clone());
            async move { Ok::<_, Infallible>(kubelet.answer(user, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the kubelet ended");
        }
    }

    async fn answer(self: Arc<Self>, user: Option<UserInfo>, request: Request<Incoming>) -> Response<Body> {
        let Some(user) = user else { return text(401, "Unauthorized") };
        let verb = if request.method() == http::Method::POST { "create" } else { "get" };
        match self.may(&user, verb).await {
            Ok(true) => {}
            Ok(false) => {
                let name = &user.name;
                return text(
                    403,
                    format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[proxy])"),
                );
            }
            Err(error) => return text(500, error.to_string()),
        }
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            ["healthz"] => text(200, "ok"),
            ["containerLogs", namespace, pod, container] => self.logs(namespace, pod, container, &request),
            ["exec", namespace, pod, container] => self.session(namespace, pod, container, false, request),
            ["attach", namespace, pod, container] => self.session(namespace, pod, container, true, request),
            ["portForward", namespace, pod] => match self.pod(namespace, pod) {
                Some(_) => port_forward::accept(request, pod),
                None => text(404, format!("pod \"{pod}\" does not exist\n")),
            },
            _ => text(404, "404 page not found\n"),
        }
    }

    /// The cluster's administrators may; anybody else as the API server says.
    async fn may(&self, user: &UserInfo, verb: &str) -> Result<bool, kube::Error> {
        if user.in_group("system:masters") {
            return Ok(true);
        }
        let attributes = json!({"verb": verb, "resource": "nodes", "subresource": "proxy", "version": "v1"});
        let review = json!({"spec": {"user": user.name, "groups": user.groups, "resourceAttributes": attributes}});
        let review: SubjectAccessReview = serde_json::from_value(review).map_err(kube::Error::SerdeError)?;
        let answer = self.fleet.connection.all().create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pod = self.fleet.pods.get(&ObjectKey::new(namespace, name))?;
        super::node_of(&pod).filter(|node| self.fleet.nodes.contains_key(*node))?;
        Some(pod)
    }

    fn logs(
        self: &Arc<Self>,
        namespace: &str,
        pod: &str,
        container: &str,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        let options = match log::Options::parse(request.uri().query().unwrap_or("")) {
            Ok(options) => options,
            Err(error) => return text(400, error),
        };
        let Some(object) = self.pod(namespace, pod) else {
            return text(404, format!("pod \"{pod}\" does not exist\n"));
        };
        if !log::has_container(&object, container) {
            return text(404, format!("container \"{container}\" not found in pod \"{pod}\"\n"));
        }
        let now = Timestamp::now();
        let printed = match log::printed(&object, container, options.previous, now) {
            Ok(printed) => printed,
            Err(refusal) => return text(400, refusal),
        };
        let first = options.render(&printed.lines, None, now);
        if !options.follow || !printed.running {
            return text(200, first);
        }
        let (kubelet, key, container) = (Arc::clone(self), ObjectKey::new(namespace, pod), container.to_owned());
        let rest = futures::stream::unfold((kubelet, now, true), move |(kubelet, seen, running)| {
            let (key, container, options) = (key.clone(), container.clone(), options.clone());
            async move {
                if !running {
                    return None;
                }
                tokio::time::sleep(FOLLOW_INTERVAL).await;
                let now = Timestamp::now();
                let object = kubelet.pod(&key.namespace, &key.name);
                let printed = object.and_then(|pod| log::printed(&pod, &container, false, now).ok())?;
                let more = options.render(&printed.lines, Some(seen), now);
                Some((Bytes::from(more), (kubelet, now, printed.running)))
            }
        });
        let chunks = futures::StreamExt::chain(futures::stream::iter([Bytes::from(first)]), rest);
        let frames = futures::StreamExt::map(chunks, |chunk| Ok(Frame::data(chunk)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    }

    fn session(
        self: &Arc<Self>,
        namespace: &str,
        pod: &str,
        container: &str,
        attaches: bool,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let Some(object) = self.pod(namespace, pod) else {
            return text(404, format!("pod \"{pod}\" does not exist\n"));
        };
        if !log::is_running(&object, container) {
            return text(500, format!("container not found (\"{container}\")"));
        }
        let session =
            stream::Session { kubelet: Arc::clone(self), pod: object, container: container.to_owned(), attaches };
        stream::accept(request, session)
    }

    /// Works on the files of a pod.
    fn with_files<R>(&self, pod: &Pod, work: impl FnOnce(&mut Files) -> R) -> R {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut all = self.files.lock();
        if all.len() >= PODS_WITH_FILES_MAX && !all.contains_key(&uid) {
            all.clear();
        }
        work(all.entry(uid).or_default())
    }
}

fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The response to a WebSocket handshake with the first of `protocols` that the client offers; `None` when it offers none.
fn websocket(headers: &HeaderMap, protocols: &[&str]) -> Option<(Response<Body>, String)> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if !value("upgrade")?.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let offered = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|value| value.split(',')).map(str::trim).collect();
    let chosen = protocols.iter().find(|protocol| offered.contains(protocol))?;
    let key = tokio_tungstenite::tungstenite::handshake::derive_accept_key(value("sec-websocket-key")?.as_bytes());
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", &key),
        ("sec-websocket-protocol", chosen),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_str(value).ok()?);
    }
    Some((response, (*chosen).to_owned()))
}
