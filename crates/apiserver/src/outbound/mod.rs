//! The one way out: every connection that the API server opens to webhooks, kubelets, pods and aggregated servers.
//!
//! Callers say where ([`http::Uri`]) and whom to trust ([`Tls`]); connections are kept and shared by calls that trust alike. A
//! call is bounded in time and in bytes, redirects are answers like any other, and failures are told in the words of Go's HTTP
//! client, because clients and their tests match on them. Nothing here knows what is being asked.

mod connect;
mod remote;
mod services;
mod tls;

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

use ::bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;

use crate::http::ResponseBody;
use crate::http::body;
use connect::{ConnectError, Connector};

pub(crate) use connect::open;
pub use remote::RemoteEndpoint;
pub(crate) use services::authority;
pub use services::{Routing, ServiceResolver};
pub use tls::{ClientCertificate, ClientIdentity, Tls};

/// Clients kept at a time; upstream's size of the webhook client cache.
const CLIENTS_MAX: usize = 200;
/// An idle connection is closed after this; Go's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Idle connections kept per host; client-go's number.
const IDLE_PER_HOST_MAX: usize = 25;

/// What the API server calls itself to others.
pub(crate) const USER_AGENT: &str = "kube-apiserver/v1.36.2";

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The peer could not be reached, or is not who it should be.
    #[error("{0}")]
    Connect(String),
    /// No whole answer within the time given.
    #[error("context deadline exceeded")]
    Timeout,
    /// The answer is longer than the caller takes.
    #[error("http: response body too large: more than {limit} bytes")]
    TooLarge { limit: usize },
    /// The connection broke, or what came is not HTTP.
    #[error("{0}")]
    Broken(String),
    /// The certificates given are none.
    #[error("{0}")]
    Certificates(String),
}

/// How far a call may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub timeout: Duration,
    pub response_bytes_max: usize,
}

type HttpClient = Client<Connector, ResponseBody>;

/// Connections to others, by what they trust.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    by_trust: HashMap<Option<Tls>, (HttpClient, u64)>,
    /// Counts uses: the least recently used client goes first.
    uses: u64,
}

impl Outbound {
    /// Sends a request and gives the answer as soon as its head is there. `tls`: `None` for plain HTTP.
    pub(crate) async fn send(
        &self,
        tls: Option<&Tls>,
        request: Request<ResponseBody>,
    ) -> Result<Response<Incoming>, OutboundError> {
        let client = self.client(tls)?;
        client.request(request).await.map_err(|error| explain(&error))
    }

    /// Sends a request and reads the whole answer, within limits.
    pub(crate) async fn call(
        &self,
        tls: Option<&Tls>,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, OutboundError> {
        let exchange = async {
            let (head, body) = self.send(tls, request.map(body::full)).await?.into_parts();
            match Limited::new(body, limits.response_bytes_max).collect().await {
                Ok(collected) => Ok(Response::from_parts(head, collected.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(OutboundError::TooLarge { limit: limits.response_bytes_max })
                }
                Err(_) => Err(OutboundError::Broken("unexpected EOF".into())),
            }
        };
        tokio::time::timeout(limits.timeout, exchange).await.unwrap_or(Err(OutboundError::Timeout))
    }

    fn client(&self, tls: Option<&Tls>) -> Result<HttpClient, OutboundError> {
        let mut clients = self.clients.lock();
        clients.uses += 1;
        let now = clients.uses;
        let key = tls.cloned();
        if let Some((client, used)) = clients.by_trust.get_mut(&key) {
            *used = now;
            return Ok(client.clone());
        }
        if clients.by_trust.len() >= CLIENTS_MAX
            && let Some(oldest) = clients.by_trust.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            clients.by_trust.remove(&oldest);
        }
        let connector = Connector::new(tls)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .build(connector);
        clients.by_trust.insert(key, (client.clone(), now));
        Ok(client)
    }
}

/// What Go's client would have said.
fn explain(error: &hyper_util::client::legacy::Error) -> OutboundError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return OutboundError::Connect(error.0.clone());
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse() {
                return OutboundError::Broken(
                    "net/http: HTTP/1.x transport connection broken: malformed HTTP response".into(),
                );
            }
            if error.is_incomplete_message() {
                return OutboundError::Broken("EOF".into());
            }
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return OutboundError::Broken(connect::io_words("read", error));
        }
        cause = error.source();
    }
    OutboundError::Broken(error.to_string())
}

/// An error of a call as Go's client wraps it: `Post "https://host/path": EOF`.
pub(crate) fn url_error(method: &http::Method, url: &str, error: &impl std::fmt::Display) -> String {
    let lower = method.as_str().to_ascii_lowercase();
    let mut verb = lower[..1].to_ascii_uppercase();
    verb.push_str(&lower[1..]);
    format!("{verb} {}: {error}", api::field::go_quote(url))
}

#[cfg(test)]
mod tests;
