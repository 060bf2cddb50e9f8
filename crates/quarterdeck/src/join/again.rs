//! Members of a cluster that was restored elsewhere find that out by asking, and join what it has become. They hold the same CA, so
//! each side knows that the other is what it says, and a master may let itself in: it has the keys to make any token.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use apiserver::outbound::{ClientIdentity, Tls};
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::client::{Joined, ask, join, message, parse_server, send};
use super::token::{NAMESPACE, Token};
use crate::pki::Identity;

/// A master on the same network that runs answers in this time; others are not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// A token that is used at once.
const TOKEN_LIFETIME: SignedDuration = SignedDuration::from_mins(10);

/// Which of these API servers, of the same CA, belongs to a cluster that was restored from a backup of `cluster_id`.
pub(crate) async fn restored(ca_pem: &str, cluster_id: &str, urls: &[String]) -> Option<String> {
    let trust = Tls { ca_pem: ca_pem.to_owned().into(), ..Tls::default() }.client_config().ok()?;
    let asking = urls.iter().map(|url| {
        let trust = Arc::clone(&trust);
        async move {
            let (host, port) = parse_server(url).ok()?;
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(&host, port, trust)).await.ok()?.ok()?;
            answer.lineage.has(cluster_id).then(|| url.clone())
        }
    });
    futures::future::join_all(asking).await.into_iter().flatten().next()
}

/// Joins a restored cluster as the admin of the one before it. The data of that one are put aside, in the data directory, once the
/// new ones may come.
pub(crate) async fn join_again(
    url: &str,
    ca_pem: &str,
    admin: &Identity,
    name: &str,
    peer_urls: &[String],
    data_dir: &Path,
) -> Result<Joined> {
    let (host, port) = parse_server(url)?;
    let identity =
        ClientIdentity { certificate_pem: admin.certificate_pem.clone().into(), key_pem: admin.key_pem.clone().into() };
    let trust = Tls { ca_pem: ca_pem.to_owned().into(), identity: Some(identity), ..Tls::default() };
    let token = Token::generate(ca_pem)?;
    let secret = token.to_secret(Timestamp::now() + TOKEN_LIFETIME, &format!("{name} joins again after a restore"));
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let sent = send(&host, port, trust.client_config()?, Method::POST, &path, serde_json::to_vec(&secret)?).await;
    let (code, body) = sent.with_context(|| format!("making a token at {url}"))?;
    ensure!(code == StatusCode::CREATED, "making a token at {url}: {}", message(code, &body));
    let joined = join(url, &token.text(), name, peer_urls, false, data_dir).await?;
    // A kill before this leaves old data and a master that asks once more.
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let (store, aside) = (data_dir.join("store"), data_dir.join(format!("store.before-restore-{now}")));
    std::fs::rename(&store, &aside).with_context(|| format!("cannot rename {}", store.display()))?;
    tracing::warn!(url, data = %aside.display(), "this cluster was restored from a backup: joining it again, with the old data put aside");
    Ok(joined)
}
