//! The door of a component that runs as a process of its own: health for probes, metrics for those who may read them. Who asks
//! and what he may do is the API server's to say. Source: upstream's delegated authentication and authorization
//! (`apiserver/pkg/server/options`).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api::{Status, Value};
use apiserver::attributes::{Action, UserInfo};
use apiserver::authn::request_header::FrontProxies;
use apiserver::authn::{AUTHENTICATED_GROUP, bearer_token, certificate};
use apiserver::authz;
use apiserver::bootstrap::objects::AuthenticationInfo;
use apiserver::exposition;
use apiserver::http::body::without_bytes;
use apiserver::indicators::Indicators;
use apiserver::zpages::{Page, Zpages};
use client::{Connection, Shutdown};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use prometheus_client::registry::Registry;
use rustls::pki_types::{CertificateDer, UnixTime};
use scheduler::PodResources;
use store::{FromFiles, Pem};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::component_metrics::ComponentMetrics;
use super::{components, tls};
use crate::args::{MasterFlags, ServingFlags};

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions to the API server at a time; others wait, so that strangers cannot make a flood of theirs ours.
const REVIEWS_MAX: usize = 8;
/// Connections at a time; probes and scrapers need few.
const CONNECTIONS_MAX: usize = 256;
const TEXT: &str = "text/plain; charset=utf-8";

/// What a component shows besides its health.
pub(super) struct Shown {
    /// Its name, as upstream calls it.
    pub component: &'static str,
    /// Paths that `/statusz` names.
    pub paths: &'static [&'static str],
    /// What `/configz` tells, by the names that upstream's components have there.
    pub config: Value,
    /// What `/flagz` tells.
    pub flags: Vec<(String, String)>,
    pub metrics: ComponentMetrics,
    /// `DELETE /metrics` counts anew; otherwise it is nothing but another way to read them, as upstream has it.
    pub resets_metrics: bool,
    /// A scheduler's pods.
    pub pod_resources: Option<PodResources>,
}

/// Serves until `shutdown`. Nothing is served on port 0. `masters` are the API servers' URLs, if not those of the kubeconfigs.
///
/// # Errors
/// When the address cannot be listened on, or a file cannot be used.
pub(super) async fn open(
    flags: &ServingFlags,
    masters: &MasterFlags,
    default_port: u16,
    shown: Shown,
    shutdown: Shutdown,
) -> Result<()> {
    let address = SocketAddr::new(flags.bind_address, flags.secure_port.unwrap_or(default_port));
    if address.port() == 0 {
        return Ok(());
    }
    let (certificate, key) = match (&flags.tls_cert_file, &flags.tls_private_key_file) {
        (Some(certificate), Some(key)) => (Pem::from(certificate.clone()), Pem::from(key.clone())),
        _ => self_signed()?,
    };
    // Without a CA nobody's certificate is accepted: our own has signed none.
    let users = flags.client_ca_file.clone().map_or_else(|| certificate.clone(), Pem::from);
    let proxies = flags.request_header.requestheader_client_ca_file.clone().map(Pem::from);
    let tls = tls::server_config(certificate, key, [users].into_iter().chain(proxies).collect())?;
    let client_ca = flags.client_ca_file.as_deref().map(tls::read).transpose()?.unwrap_or_default();
    let known = AuthenticationInfo { client_ca, request_header: components::front_proxies(&flags.request_header)? };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let reviewer = async |kubeconfig: &Option<std::path::PathBuf>| -> Result<Option<Connection>> {
        match kubeconfig {
            Some(path) => Ok(Some(Connection::to_masters(path, &masters.master, shown.component).await?)),
            None => Ok(None),
        }
    };
    let started = jiff::Timestamp::now();
    let Shown { component, paths, config, flags: all, metrics, resets_metrics, pod_resources } = shown;
    let door = Door {
        authentication: reviewer(&flags.authentication_kubeconfig).await?,
        authorization: reviewer(&flags.authorization_kubeconfig).await?,
        front_proxies: FrontProxies::new(&known),
        always_allowed: flags.authorization_always_allow_paths.clone(),
        reviews: Semaphore::new(REVIEWS_MAX),
        zpages: Zpages { component, paths, started, flags: all },
        config: config.to_string(),
        registry: metrics.registry(),
        metrics,
        resets_metrics,
        pod_resources,
        indicators: Indicators::new(started),
    };
    tokio::spawn(serve(Arc::new(door), listener, tls, shutdown));
    Ok(())
}

fn self_signed() -> Result<(Pem, Pem)> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).context("a serving certificate")?;
    Ok((made.cert.pem().into_bytes().into(), made.signing_key.serialize_pem().into_bytes().into()))
}

async fn serve(door: Arc<Door>, listener: TcpListener, tls: Arc<FromFiles<rustls::ServerConfig>>, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: the ones in use come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (door, acceptor, shutdown) = (Arc::clone(&door), TlsAcceptor::from(tls.get()), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(door, stream, acceptor) => {}
                () = shutdown.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn connection(door: Arc<Door>, stream: TcpStream, acceptor: TlsAcceptor) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let peer = Arc::new(door.peer(stream.get_ref().1.peer_certificates().unwrap_or_default()));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (door, peer) = (Arc::clone(&door), Arc::clone(&peer));
        async move {
            let answer = door.answer(&peer, &request).await;
            let is_head = request.method() == Method::HEAD;
            Ok::<_, Infallible>(if is_head { without_bytes(answer, Full::default()) } else { answer })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// What a connection's certificate says.
struct Peer {
    user: Option<UserInfo>,
    is_proxy: bool,
}

struct Door {
    authentication: Option<Connection>,
    authorization: Option<Connection>,
    front_proxies: Option<FrontProxies>,
    always_allowed: Vec<String>,
    reviews: Semaphore,
    zpages: Zpages,
    config: String,
    registry: Registry,
    metrics: ComponentMetrics,
    resets_metrics: bool,
    pod_resources: Option<PodResources>,
    indicators: Indicators,
}

impl Door {
    fn peer(&self, chain: &[CertificateDer<'_>]) -> Peer {
        let user = || certificate::user(chain.first()?);
        match &self.front_proxies {
            None => Peer { user: user(), is_proxy: false },
            Some(proxies) => {
                let standing = proxies.standing(chain, UnixTime::now());
                Peer { user: user().filter(|_| standing.is_user), is_proxy: standing.is_proxy }
            }
        }
    }

    async fn answer(&self, peer: &Peer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !is_always_allowed(&self.always_allowed, path)
            && let Err(status) = self.admit(peer, request).await
        {
            return refusal(&status);
        }
        let is_delete = *request.method() == Method::DELETE;
        let reset = || page(StatusCode::OK, TEXT, "metrics reset\n".to_owned());
        match path {
            "/metrics/slis" if is_delete => {
                self.indicators.reset();
                return reset();
            }
            "/metrics" if is_delete && self.resets_metrics => {
                self.metrics.reset();
                return reset();
            }
            // There is nothing that it counts.
            "/metrics/resources" if is_delete && self.pod_resources.is_some() => return reset(),
            _ => {}
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_read && path != "/metrics" {
            return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".to_owned());
        }
        match path {
            "/metrics/resources" => match &self.pod_resources {
                Some(resources) => {
                    page(StatusCode::OK, exposition::CONTENT_TYPE, exposition::text(&resources.registry()))
                }
                None => not_found(),
            },
            "/healthz" | "/livez" | "/readyz" => {
                let is_verbose = request.uri().query().is_some_and(|query| query.contains("verbose"));
                let name =
                    ["healthz", "livez", "readyz"].into_iter().find(|name| path.ends_with(name)).unwrap_or_default();
                self.indicators.observe("ping", name, true);
                let text = if is_verbose { format!("[+]ping ok\n{name} check passed\n") } else { "ok".to_owned() };
                page(StatusCode::OK, TEXT, text)
            }
            "/healthz/ping" | "/livez/ping" | "/readyz/ping" => page(StatusCode::OK, TEXT, "ok".to_owned()),
            "/metrics/slis" => page(StatusCode::OK, exposition::CONTENT_TYPE, self.indicators.text()),
            "/metrics" => page(StatusCode::OK, exposition::CONTENT_TYPE, exposition::text(&self.registry)),
            "/configz" => {
                let mut page = page(StatusCode::OK, "application/json", self.config.clone());
                let options = header::HeaderValue::from_static("nosniff");
                page.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, options);
                page
            }
            "/statusz" => zpage(self.zpages.statusz(accept(request))),
            "/flagz" => zpage(self.zpages.flagz(accept(request))),
            _ => not_found(),
        }
    }

    /// May whoever asks read this path?
    async fn admit(&self, peer: &Peer, request: &Request<Incoming>) -> Result<(), Status> {
        let proxies = self.front_proxies.as_ref().filter(|_| peer.is_proxy);
        let named = proxies.and_then(|proxies| proxies.user(request.headers()));
        let user = match (named.or_else(|| peer.user.clone()), bearer_token(request.headers())) {
            (Some(user), _) => authenticated(user),
            (None, Some(token)) => self.user_of(token).await?,
            (None, None) => UserInfo::anonymous(),
        };
        if user.groups.iter().any(|group| group == authz::SUPERUSER_GROUP) {
            return Ok(());
        }
        let (verb, path) = (request.method().as_str().to_ascii_lowercase(), request.uri().path());
        let action = Action::NonResource { verb: verb.clone(), path: path.to_owned() };
        let refused = || authz::forbidden(&user, &action, "");
        let Some(authorization) = &self.authorization else { return Err(refused()) };
        let attributes = NonResourceAttributes { path: Some(path.to_owned()), verb: Some(verb) };
        let spec = SubjectAccessReviewSpec {
            non_resource_attributes: Some(attributes),
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone().into_iter().collect()),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = self.ask(authorization, &review).await?;
        if answer.status.is_some_and(|status| status.allowed) { Ok(()) } else { Err(refused()) }
    }

    async fn user_of(&self, token: &str) -> Result<UserInfo, Status> {
        let Some(authentication) = &self.authentication else { return Err(Status::unauthorized()) };
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.ask(authentication, &review).await?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).ok_or_else(Status::unauthorized)?;
        Ok(UserInfo {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default().into_iter().collect(),
        })
    }

    async fn ask<K>(&self, connection: &Connection, review: &K) -> Result<K, Status>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let _place = self.reviews.acquire().await.map_err(Status::internal)?;
        let api: Api<K> = Api::all(connection.client());
        api.create(&PostParams::default(), review).await.map_err(Status::internal)
    }
}

fn authenticated(mut user: UserInfo) -> UserInfo {
    user.groups.push(AUTHENTICATED_GROUP.to_owned());
    user
}

fn is_always_allowed(allowed: &[String], path: &str) -> bool {
    allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path.trim_start_matches('/') == allowed.trim_start_matches('/'),
    })
}

fn not_found() -> Response<Full<Bytes>> {
    page(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned())
}

fn accept(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(header::ACCEPT)?.to_str().ok()
}

fn zpage(asked: Result<Page, Status>) -> Response<Full<Bytes>> {
    let zpage = match asked {
        Ok(zpage) => zpage,
        Err(status) => return refusal(&status),
    };
    let mut response = Response::new(Full::new(zpage.body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(zpage.content_type));
    if let Some(warning) = zpage.warning.and_then(|warning| header::HeaderValue::from_str(&warning).ok()) {
        response.headers_mut().insert(header::WARNING, warning);
    }
    response
}

fn refusal(status: &Status) -> Response<Full<Bytes>> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    page(code, "application/json", format!("{}\n", serde_json::json!(status)))
}

fn page(code: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(Bytes::from(text)));
    *page.status_mut() = code;
    page.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_opens_all_below() {
        let allowed = ["/healthz".to_owned(), "/debug/*".to_owned()];
        for (path, is_open) in [
            ("/healthz", true),
            ("/healthz/ping", false),
            ("/debug/a/b", true),
            ("/debugger", false),
            ("/metrics", false),
        ] {
            assert_eq!(is_always_allowed(&allowed, path), is_open, "{path}");
        }
    }
}
