//! Carrying a request to another server and its answer back, streaming; and copying upgraded connections.

use std::net::IpAddr;

use ::bytes::Bytes;
use futures::StreamExt as _;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{Passing, html};
use crate::gateway::Gateway;
use crate::http::ResponseBody;
use crate::http::body::{self, BoxError};
use crate::outbound::{self, OutboundError, Tls};
use crate::serve::spawn_until_stopped;

/// Headers of one connection, not of the request (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
];
/// A proxied page must not open the API server's origin to others.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];
/// Pages above this are passed on with their links as they are.
const PAGE_BYTES_MAX: usize = 8 << 20;
const FORWARDED_FOR: &str = "x-forwarded-for";

/// What a proxied request brings besides its head: nothing of it has been read yet.
#[derive(Debug)]
pub(crate) struct Raw {
    pub body: ResponseBody,
    /// The client's side of an upgrade, if it asked for one.
    pub upgrade: Option<OnUpgrade>,
    pub client: Option<IpAddr>,
}

impl Default for Raw {
    fn default() -> Self {
        Self { body: body::full(Bytes::new()), upgrade: None, client: None }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forward {
    pub url: String,
    /// `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// Only an upgrade makes sense there.
    pub upgrade_required: bool,
    /// The path that stands for the other server's root here: links in pages and redirects are led back through it.
    pub rewrite_below: Option<String>,
    /// A redirect is an error.
    pub reject_redirects: bool,
    /// Headers laid over the client's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("Upgrade request required")]
    UpgradeRequired,
    #[error("{}{error}", if *upgrade { "error dialing backend: " } else { "" })]
    Outbound { error: OutboundError, upgrade: bool },
    #[error("invalid upgrade response: status code {0}")]
    NotUpgraded(u16),
    #[error("{0}")]
    Url(String),
}

/// `Connection: Upgrade`
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// A GET of our own.
pub(crate) fn get(url: &str) -> Result<Request<ResponseBody>, http::Error> {
    Request::get(url).header(http::header::USER_AGENT, outbound::USER_AGENT).body(body::full(Bytes::new()))
}

pub(crate) async fn forward(
    gateway: &Gateway,
    forward: Forward,
    passing: Passing,
) -> Result<Response<ResponseBody>, Error> {
    let uri: Uri = forward.url.parse().map_err(|error: http::uri::InvalidUri| Error::Url(error.to_string()))?;
    let upgrades = is_upgrade(&passing.headers) && passing.raw.upgrade.is_some();
    match (upgrades, forward.upgrade_required) {
        (true, _) => upgrade(gateway, forward, uri, passing).await,
        (false, true) => Err(Error::UpgradeRequired),
        (false, false) => exchange(gateway, forward, uri, passing).await,
    }
}

/// The client's headers as the other server gets them.
pub(super) fn outgoing_headers(forward: &Forward, passing: &Passing) -> HeaderMap {
    let mut headers = passing.headers.clone();
    // The client's credentials were for us.
    headers.remove(AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(headers.remove(name)));
    if !headers.contains_key(HOST)
        && let Some(authority) = passing.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    if let Some(client) = passing.raw.client {
        let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let chain: Vec<String> = before.map(str::to_owned).chain([client.to_string()]).collect();
        if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
            headers.insert(FORWARDED_FOR, value);
        }
    }
    for (name, value) in &forward.headers {
        headers.append(name, value.clone());
    }
    headers
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_ascii_lowercase())
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP).chain([UPGRADE.as_str()]) {
        headers.remove(name);
    }
}

async fn exchange(
    gateway: &Gateway,
    forward: Forward,
    uri: Uri,
    passing: Passing,
) -> Result<Response<ResponseBody>, Error> {
    let mut headers = outgoing_headers(&forward, &passing);
    remove_hop_by_hop(&mut headers);
    if forward.rewrite_below.is_some()
        && let Ok(path) = HeaderValue::from_str(passing.uri.path())
    {
        headers.insert("x-forwarded-uri", path);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("").to_owned();
    let mut request = Request::new(passing.raw.body);
    *request.method_mut() = passing.method.clone();
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    let answered = gateway.outbound.send(forward.tls.as_ref(), request).await;
    let answered = answered.map_err(|error| Error::Outbound { error, upgrade: false })?;
    let (mut head, incoming) = answered.into_parts();
    remove_hop_by_hop(&mut head.headers);
    if forward.reject_redirects && head.status.is_redirection() && head.headers.contains_key(LOCATION) {
        let text = "the backend attempted to redirect this request, which is not permitted";
        let mut response = Response::new(body::full(text));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        return Ok(response);
    }
    let Some(prefix) = &forward.rewrite_below else {
        return Ok(Response::from_parts(head, incoming.map_err(Into::into).boxed_unsync()));
    };
    CORS.iter().for_each(|name| drop(head.headers.remove(*name)));
    let links = html::Links { prefix, own_host: &host, other_host: uri.authority().map_or("", |a| a.as_str()) };
    if let Some(location) = head.headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
        if let Ok(location) = HeaderValue::from_str(&links.rewrite_url(location)) {
            head.headers.insert(LOCATION, location);
        }
        return Ok(Response::from_parts(head, incoming.map_err(Into::into).boxed_unsync()));
    }
    if passing.method != Method::HEAD && is_plain_page(&head.headers) {
        return Ok(page(head, incoming, &links).await);
    }
    Ok(Response::from_parts(head, incoming.map_err(Into::into).boxed_unsync()))
}

fn is_plain_page(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    content_type.split(';').next().unwrap_or("").trim() == "text/html"
        && !headers.contains_key(http::header::CONTENT_ENCODING)
}

/// A page with its links led back through the proxy.
async fn page(
    mut head: http::response::Parts,
    mut incoming: Incoming,
    links: &html::Links<'_>,
) -> Response<ResponseBody> {
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = incoming.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => read.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
            Err(error) => return Response::from_parts(head, broken(read, error)),
        }
        if read.len() > PAGE_BYTES_MAX {
            let start = futures::stream::iter([Ok(Frame::data(Bytes::from(read)))]);
            let rest = incoming.into_data_stream().map(|data| data.map(Frame::data).map_err(BoxError::from));
            return Response::from_parts(head, StreamBody::new(start.chain(rest)).boxed_unsync());
        }
    }
    let rewritten = match String::from_utf8(read) {
        Ok(page) => links.rewrite(&page).into_bytes(),
        Err(other) => other.into_bytes(),
    };
    if head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(rewritten.len()));
    }
    Response::from_parts(head, body::full(rewritten))
}

/// What came, and then the error that ended it.
fn broken(read: Vec<u8>, error: hyper::Error) -> ResponseBody {
    let parts = [Ok(Frame::data(Bytes::from(read))), Err(BoxError::from(error))];
    StreamBody::new(futures::stream::iter(parts)).boxed_unsync()
}

/// Asks for an upgrade, on a connection of its own.
pub(super) async fn ask(
    tls: Option<&Tls>,
    uri: &Uri,
    method: Method,
    mut headers: HeaderMap,
) -> Result<Response<Incoming>, OutboundError> {
    let broken = |error: hyper::Error| OutboundError::Broken(error.to_string());
    let link = outbound::open(tls, uri).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(link)).await.map_err(broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upgraded connection ended");
        }
    });
    if !headers.contains_key(HOST)
        && let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    let mut request = Request::new(body::full(Bytes::new()));
    *request.method_mut() = method;
    *request.uri_mut() = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    *request.headers_mut() = headers;
    sender.send_request(request).await.map_err(broken)
}

/// A refusal is the client's to read; anything else than that makes no sense.
pub(super) fn not_switched(response: Response<Incoming>) -> Result<Response<ResponseBody>, Error> {
    if response.status().as_u16() < 400 {
        return Err(Error::NotUpgraded(response.status().as_u16()));
    }
    let (mut head, incoming) = response.into_parts();
    remove_hop_by_hop(&mut head.headers);
    Ok(Response::from_parts(head, incoming.map_err(Into::into).boxed_unsync()))
}

/// Hands the client's upgrade on. What the other side answers is what the client gets.
async fn upgrade(
    gateway: &Gateway,
    forward: Forward,
    uri: Uri,
    mut passing: Passing,
) -> Result<Response<ResponseBody>, Error> {
    let headers = outgoing_headers(&forward, &passing);
    let asked = ask(forward.tls.as_ref(), &uri, passing.method.clone(), headers).await;
    let mut response = asked.map_err(|error| Error::Outbound { error, upgrade: true })?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return not_switched(response);
    }
    let backend = hyper::upgrade::on(&mut response);
    if let Some(client) = passing.raw.upgrade.take() {
        spawn_until_stopped(gateway.shutdown.clone(), copy(client, backend));
    }
    let (head, _) = response.into_parts();
    let mut switched = Response::new(body::full(Bytes::new()));
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = head.headers;
    Ok(switched)
}

/// Copies in both directions until one side is done; then both are closed.
async fn copy(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match futures::future::try_join(client, backend).await {
        Ok((client, backend)) => (TokioIo::new(client), TokioIo::new(backend)),
        Err(error) => return tracing::debug!(%error, "connection was not upgraded"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut from_client, &mut to_backend) => ended,
        ended = tokio::io::copy(&mut from_backend, &mut to_client) => {
            use tokio::io::AsyncWriteExt as _;
            let _client_may_be_gone = to_client.shutdown().await;
            ended
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "upgraded connection ended");
    }
}
