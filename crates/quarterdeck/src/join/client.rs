//! The side of the joining master.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use apiserver::outbound::Tls;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::lineage::Lineage;
use super::messages::{ClusterSettings, JoinMember, JoinRequest, JoinResponse};
use super::token::{Token, ca_hash};
use crate::pki::{is_file_name, write_file};

/// A cluster that is forming or electing may need a while to let the next one in.
const PATIENCE: Duration = Duration::from_secs(300);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// What a master that has joined keeps beside its PKI.
const FILE: &str = "joined.json";

/// What a master knows after it has been let in; kept in the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Joined {
    pub name: String,
    /// Joined as a witness, and can only be one.
    #[serde(default)]
    pub witness: bool,
    pub members: Vec<JoinMember>,
    pub settings: ClusterSettings,
}

impl Joined {
    /// What was kept, when this data directory has joined before.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Asks a master of the cluster to be let in; keeps the PKI and what else it says in the data directory.
pub(crate) async fn join(
    server: &str,
    token: &str,
    name: &str,
    peer_urls: &[String],
    witness: bool,
    data_dir: &Path,
) -> Result<Joined> {
    let token = Token::parse(token)?;
    let (host, port) = parse_server(server)?;
    let deadline = Instant::now() + PATIENCE;
    let ca_pem = loop {
        match fetch_ca(&host, port).await {
            Ok(pem) => break pem,
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("cannot reach {server}"));
            }
            Err(error) => tracing::info!("{server} does not answer yet: {error:#}"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    };
    ensure!(
        ca_hash(&ca_pem)? == token.ca_hash,
        "the CA of {server} is not the one that the token names: wrong address, wrong token, or somebody in between"
    );
    let request = JoinRequest {
        token_id: token.id,
        token_secret: token.secret,
        name: name.to_owned(),
        peer_urls: peer_urls.to_vec(),
        version: env!("CARGO_PKG_VERSION").into(),
        witness,
    };
    let body = serde_json::to_vec(&request)?;
    let trust = Tls { ca_pem: ca_pem.clone().into(), ..Tls::default() }.client_config()?;
    let response: JoinResponse = loop {
        let sent =
            send(&host, port, Arc::clone(&trust), Method::POST, "/quarterdeck/v1/join/member", body.clone()).await;
        let reason = match sent {
            Ok((StatusCode::OK, body)) => break serde_json::from_slice(&body).context("the cluster's answer")?,
            Ok((StatusCode::UNAUTHORIZED, _)) => bail!("the token is wrong, was taken back, or has expired"),
            Ok((code, body)) if code.is_client_error() => bail!("{}", message(code, &body)),
            Ok((code, body)) => message(code, &body),
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < deadline, "{server} did not let this master in: {reason}");
        tracing::info!("{server} cannot let this master in yet: {reason}");
        tokio::time::sleep(RETRY_INTERVAL).await;
    };
    keep(response, name, witness, data_dir)
}

/// Writes everything down, the mark that it is complete last.
fn keep(response: JoinResponse, name: &str, witness: bool, data_dir: &Path) -> Result<Joined> {
    let pki = data_dir.join("pki");
    std::fs::create_dir_all(&pki).with_context(|| format!("cannot create {}", pki.display()))?;
    for (file, content) in &response.pki {
        ensure!(is_file_name(file), "the cluster sent a file named {file:?}");
        let mode = if file.ends_with(".key") { 0o600 } else { 0o644 };
        write_file(&pki.join(file), content.as_bytes(), mode)?;
    }
    response.lineage.write(data_dir)?;
    let (members, settings) = (response.members, response.settings);
    let joined = Joined { name: name.to_owned(), witness, members, settings };
    write_file(&data_dir.join(FILE), &serde_json::to_vec_pretty(&joined)?, 0o600)?;
    Ok(joined)
}

pub(super) fn parse_server(server: &str) -> Result<(String, u16)> {
    let uri: http::Uri = server.parse().with_context(|| format!("--join {server:?} is not a URL"))?;
    ensure!(uri.scheme_str() == Some("https"), "--join {server:?}: use https://HOST:PORT");
    let host = uri.host().with_context(|| format!("--join {server:?} has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().unwrap_or(6443)))
}

/// What a cluster tells everybody.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Greeting {
    pub ca: String,
    #[serde(default, rename = "restoredFrom")]
    pub lineage: Lineage,
}

async fn fetch_ca(host: &str, port: u16) -> Result<String> {
    // For one request, whose answer is checked against the token's hash. No secret is sent over it.
    let trust = Tls { skip_verify: true, ..Tls::default() }.client_config()?;
    Ok(ask(host, port, trust).await?.ca)
}

pub(super) async fn ask(host: &str, port: u16, trust: Arc<rustls::ClientConfig>) -> Result<Greeting> {
    let (code, body) = send(host, port, trust, Method::GET, "/quarterdeck/v1/join/ca", Vec::new()).await?;
    ensure!(code == StatusCode::OK, "{}", message(code, &body));
    serde_json::from_slice(&body).context("the CA certificate")
}

pub(super) fn message(code: StatusCode, body: &[u8]) -> String {
    let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    status["message"].as_str().map_or_else(|| code.to_string(), str::to_owned)
}

pub(super) async fn send(
    host: &str,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Vec<u8>)> {
    let exchange = async {
        let stream = TcpStream::connect((host, port)).await.context("connecting")?;
        let name = ServerName::try_from(host.to_owned()).context("the host's name")?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.context("TLS")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("HTTP")?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{host}:{port}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes::Bytes::from(body)))
            .context("the request")?;
        let response = sender.send_request(request).await.context("sending")?;
        let code = response.status();
        let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
        connection.abort();
        let body = body.map_err(|error| anyhow!("receiving: {error}"))?.to_bytes().to_vec();
        Ok((code, body))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, exchange).await.context("no answer in time")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_https_urls() {
        assert_eq!(parse_server("https://10.0.0.1:7443").unwrap(), ("10.0.0.1".into(), 7443));
        assert_eq!(parse_server("https://[::1]").unwrap(), ("::1".into(), 6443));
        assert!(parse_server("http://10.0.0.1").is_err());
        assert!(parse_server("10.0.0.1:6443").is_err());
    }

    #[test]
    fn what_was_received_is_kept_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Joined::read(dir.path()).unwrap(), None);
        let response = JoinResponse {
            pki: [("ca.key".to_owned(), "secret".to_owned())].into(),
            member_id: "1".into(),
            members: vec![JoinMember { name: "a".into(), peer_urls: vec!["https://10.0.0.1:2380".into()] }],
            settings: ClusterSettings::default(),
            lineage: Lineage::default().continued("1"),
        };
        let joined = keep(response.clone(), "b", false, dir.path()).unwrap();
        assert_eq!(Joined::read(dir.path()).unwrap(), Some(joined));
        assert!(Lineage::read(dir.path()).unwrap().has("1"));
        let hostile = JoinResponse { pki: [("../ca.key".to_owned(), String::new())].into(), ..response };
        assert!(keep(hostile, "b", false, dir.path()).is_err());
    }
}
