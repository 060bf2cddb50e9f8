//! The etcd v3 API over any [`Store`](crate::Store): gRPC services, gRPC health, the JSON gateway, and etcd's plain HTTP pages, all on the
//! same ports, with or without TLS. Nothing here decides what a request does or whether it is valid; it
//! converts, limits sizes and fills headers. It must not know which store it serves. Start with [`Server`].

mod auth;
mod claim;
mod cluster;
mod election;
mod gateway;
mod health;
mod http;
mod json;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod origins;
mod server;
mod shared;
mod tls;
mod watch;
mod websocket;

use std::net::{AddrParseError, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

pub use crate::reload::Pem;
pub use origins::Origins;
pub use server::Server;
pub use tls::{ServerTls, TlsProtocol};

/// The version that clients are told. 3.6 is the newest whose every call is served.
pub const VERSION: &str = "3.6.13";
/// The version of the stored data, and of the cluster as a whole.
pub const STORAGE_VERSION: &str = "3.6.0";

/// The cluster's version as it is named to people: without the patch.
fn cluster_version() -> &'static str {
    STORAGE_VERSION.rsplit_once('.').map_or(STORAGE_VERSION, |(version, _)| version)
}

/// An address to listen on; port 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Plain text although the server has a certificate.
    pub plain: bool,
    pub serves: Serves,
}

/// What an address offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    #[default]
    Everything,
    Grpc,
    /// Everything that is not gRPC.
    Http,
    /// Metrics and health only.
    Metrics,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address, plain: false, serves: Serves::Everything }
    }
}

impl FromStr for Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<SocketAddr>().map(Self::from)
    }
}

/// Where and how to serve.
#[derive(Clone)]
pub struct ServerConfig {
    pub listen: Vec<Listen>,
    /// Plain text without it.
    pub tls: Option<ServerTls>,
    /// Largest request that changes something.
    pub request_bytes_max: usize,
    /// How often a watch that asked for it, and had no events, is told how far it has come.
    pub progress_interval: Duration,
    /// A client that is silent for this long is asked whether it is there; `None` lets it be.
    pub keep_alive_interval: Option<Duration>,
    /// It is dropped when it does not answer within this time.
    pub keep_alive_timeout: Duration,
    /// Streams that one connection may have open; `None` is no limit.
    pub streams_max: Option<u32>,
    /// Also measure how long calls take: etcd's `--metrics=extensive`.
    pub metrics_extensive: bool,
    /// Who may ask over HTTP.
    pub origins: Origins,
}

impl Default for ServerConfig {
    /// etcd's defaults, but for the progress interval, which is kubeadm's.
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls: None,
            request_bytes_max: 1_572_864,
            progress_interval: Duration::from_secs(5),
            keep_alive_interval: Some(Duration::from_secs(60)),
            keep_alive_timeout: Duration::from_secs(20),
            streams_max: None,
            metrics_extensive: false,
            origins: Origins::default(),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("listening on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// A certificate, key or authority cannot be read or used.
    #[error("tls: {0}")]
    Tls(String),
}

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod tests;
