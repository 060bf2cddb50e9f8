//! Opening connections, and why they do not open, in Go's words.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::OutboundError;
use super::tls::Tls;

/// A TCP connection that takes longer is given up; Go's default dialer waits 30 s.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// A TLS handshake that takes longer is given up, as in Go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConnectError(pub String);

/// A connection, with or without TLS.
pub(crate) struct Link(Box<dyn Stream>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Opens connections that trust alike.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tls: Option<(Arc<rustls::ClientConfig>, Option<String>)>,
}

impl Connector {
    pub(super) fn new(tls: Option<&Tls>) -> Result<Self, OutboundError> {
        let tls = tls.map(|tls| Ok((tls.client_config()?, tls.server_name.clone()))).transpose()?;
        Ok(Self { tls })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move { connect(tls, &uri).await.map(TokioIo::new) })
    }
}

/// Opens a connection of its own, outside the pool.
pub(crate) async fn open(tls: Option<&Tls>, uri: &Uri) -> Result<Link, OutboundError> {
    let connector = Connector::new(tls)?;
    connect(connector.tls, uri).await.map_err(|error| OutboundError::Connect(error.0))
}

async fn connect(tls: Option<(Arc<rustls::ClientConfig>, Option<String>)>, uri: &Uri) -> Result<Link, ConnectError> {
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = dial(host, port).await?;
    // Small frames of a stream must not wait for more.
    let _best_effort = stream.set_nodelay(true);
    let Some((config, server_name)) = tls else { return Ok(Link(Box::new(stream))) };
    let name = server_name.as_deref().unwrap_or(host);
    let server_name = ServerName::try_from(name.to_owned())
        .map_err(|_| ConnectError(format!("tls: invalid server name {name:?}")))?;
    let handshake = TlsConnector::from(config).connect(server_name, stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok(Link(Box::new(stream))),
        Ok(Err(error)) => Err(ConnectError(tls_words(name, &error))),
        Err(_) => Err(ConnectError("net/http: TLS handshake timeout".into())),
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            let found = tokio::net::lookup_host((host, port)).await;
            found.map(Iterator::collect).unwrap_or_default()
        }
    };
    let mut last = ConnectError(format!("dial tcp: lookup {host}: no such host"));
    for address in addresses {
        match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = ConnectError(format!("dial tcp {address}: {}", io_words("connect", &error))),
            Err(_) => last = ConnectError(format!("dial tcp {address}: i/o timeout")),
        }
    }
    Err(last)
}

/// A failed system call: `connect: connection refused`.
pub(super) fn io_words(call: &str, error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let what = match error.kind() {
        Kind::UnexpectedEof => return "EOF".into(),
        Kind::ConnectionRefused => "connection refused",
        Kind::ConnectionReset => "connection reset by peer",
        Kind::BrokenPipe => "broken pipe",
        Kind::HostUnreachable => "no route to host",
        Kind::NetworkUnreachable => "network is unreachable",
        Kind::TimedOut => "connection timed out",
        Kind::PermissionDenied => "permission denied",
        Kind::AddrNotAvailable => "cannot assign requested address",
        _ => return format!("{call}: {error}"),
    };
    format!("{call}: {what}")
}

/// A failed handshake with the server that should be `name`.
fn tls_words(name: &str, error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return io_words("read", error);
    };
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "http: server gave HTTP response to HTTPS client".into()
        }
        rustls::Error::InvalidCertificate(error) => {
            format!("tls: failed to verify certificate: x509: {}", certificate_words(name, error))
        }
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_words(*alert)),
        other => format!("tls: {other}"),
    }
}

fn alert_words(alert: rustls::AlertDescription) -> String {
    use rustls::AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => "certificate required".into(),
        Alert::BadCertificate => "bad certificate".into(),
        Alert::UnknownCA => "unknown certificate authority".into(),
        Alert::CertificateExpired => "expired certificate".into(),
        Alert::HandshakeFailure => "handshake failure".into(),
        Alert::UnrecognisedName => "unrecognized name".into(),
        other => format!("{other:?}"),
    }
}

fn certificate_words(name: &str, error: &CertificateError) -> String {
    match error {
        // The second: an authority of the same name, but another.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".into()
        }
        CertificateError::Expired | CertificateError::NotValidYet => {
            "certificate has expired or is not yet valid".into()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "certificate has expired or is not yet valid: current time {} is after {}",
            rfc3339(time.as_secs()),
            rfc3339(not_after.as_secs())
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "certificate has expired or is not yet valid: current time {} is before {}",
            rfc3339(time.as_secs()),
            rfc3339(not_before.as_secs())
        ),
        CertificateError::NotValidForNameContext { presented, .. } => mismatch_words(name, presented),
        CertificateError::NotValidForName => format!("certificate is not valid for {name}"),
        other => format!("{other:?}"),
    }
}

/// The certificate is good, but somebody else's. `presented` is as rustls prints names: `DnsName("a")`, `IpAddress(127.0.0.1)`.
fn mismatch_words(name: &str, presented: &[String]) -> String {
    let inner =
        |text: &String| text.split_once('(').map(|(_, rest)| rest.trim_end_matches(')').trim_matches('"').to_owned());
    let of = |kind: &str| presented.iter().filter(|text| text.starts_with(kind)).filter_map(inner).collect::<Vec<_>>();
    let (dns, ips) = (of("DnsName"), of("IpAddress"));
    if name.parse::<IpAddr>().is_ok() {
        return if ips.is_empty() {
            format!("cannot validate certificate for {name} because it doesn't contain any IP SANs")
        } else {
            format!("certificate is valid for {}, not {name}", ips.join(", "))
        };
    }
    match (dns.is_empty(), ips.is_empty()) {
        (true, true) => "certificate relies on legacy Common Name field, use SANs instead".into(),
        (true, false) => format!("certificate is not valid for any names, but wanted to match {name}"),
        (false, _) => format!("certificate is valid for {}, not {name}", dns.join(", ")),
    }
}

fn rfc3339(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    timestamp.map(crate::write::rfc3339).unwrap_or_default()
}
