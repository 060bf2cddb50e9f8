//! Where members listen, and how they know each other.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::reload::Pem;

/// How a member listens for the others.
#[derive(Clone, Debug, Default)]
pub struct PeerConfig {
    /// URLs to listen on, `http://host:port` or `https://host:port`.
    pub listen_urls: Vec<String>,
    /// Needed for `https`, here or at another member.
    pub tls: Option<PeerTls>,
}

/// The certificate is shown to those who connect, and to those that are connected to.
#[derive(Clone)]
pub struct PeerTls {
    pub certificate: Pem,
    pub key: Pem,
    /// Authority of the other members' certificates; without it, the certificate's own.
    pub ca: Option<Pem>,
    /// Those who connect must show a certificate of the authority.
    pub client_cert_auth: bool,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("client_cert_auth", &self.client_cert_auth).finish_non_exhaustive()
    }
}

/// Why members cannot talk to each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("{0:?} is not a URL of a peer: it must be http:// or https://, a host and a port")]
    Url(String),
    #[error("listening on {url}: {source}")]
    Listen { url: String, source: std::io::Error },
    #[error("peer tls: {0}")]
    Tls(String),
    #[error("https in peer URLs needs a peer certificate and key")]
    NoTls,
    #[error("peer connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("a peer sent {0}")]
    Protocol(&'static str),
    #[error("a peer sent what cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("no answer in time")]
    Timeout,
    #[error("the other member belongs to another cluster, or is another member")]
    WrongCluster,
    #[error("the member was removed from the cluster")]
    Removed,
    #[error("the other member speaks another version")]
    Version,
    #[error("the other member answers: {0}")]
    Answer(String),
}

/// A peer URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerUrl {
    pub(crate) is_https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl PeerUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, PeerError> {
        let wrong = || PeerError::Url(text.to_owned());
        let uri: http::Uri = text.trim().parse().map_err(|_| wrong())?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { is_https, host, port: uri.port_u16().ok_or_else(wrong)? })
    }

    /// An address to listen on.
    pub(crate) fn to_socket_addr(&self) -> std::io::Result<SocketAddr> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs()?;
        found.next().ok_or_else(|| std::io::Error::other("the name has no address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_scheme_host_and_port() {
        let url = PeerUrl::parse("https://a.example:2380").unwrap();
        assert_eq!(url, PeerUrl { is_https: true, host: "a.example".into(), port: 2380 });
        let url = PeerUrl::parse("http://[::1]:2380/").unwrap();
        assert_eq!(url, PeerUrl { is_https: false, host: "::1".into(), port: 2380 });
        for wrong in ["a:2380", "ftp://a:1", "http://a", "http://a:1/path", "http://:1", ""] {
            assert!(PeerUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
