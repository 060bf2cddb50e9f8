//! Where an issuer's keys are: found by its discovery document, fetched and kept.

use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::Value;
use api::field::go_quote;
use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::signed_token::SignedToken;
use super::keys::KeySet;
use crate::outbound::{self, Limits, Outbound, Tls};

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// Time for one document.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one document.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// An issuer that cannot be reached is tried again after this.
const INIT_RETRY: Duration = Duration::from_secs(10);
/// Keys are not fetched more often, however many tokens name unknown ones.
const REFETCH_MIN: Duration = Duration::from_secs(1);

/// The issuer at a URL.
#[derive(Debug)]
pub(super) struct Provider {
    url: String,
    /// Where its discovery document is, if not below its URL.
    discovery_url: Option<String>,
    outbound: Outbound,
    tls: Tls,
    /// `None` until the issuer has been reached.
    jwks_uri: RwLock<Option<String>>,
    keys: RwLock<Arc<KeySet>>,
    /// When keys were fetched last; held while they are.
    fetched: Mutex<Option<Instant>>,
}

impl Provider {
    /// Begins to look for the issuer, until it is found or nobody asks any more.
    pub(super) fn start(url: &str, discovery_url: Option<String>, tls: Tls) -> Arc<Self> {
        let provider = Arc::new(Self {
            url: url.to_owned(),
            discovery_url,
            outbound: Outbound::default(),
            tls,
            jwks_uri: RwLock::default(),
            keys: RwLock::default(),
            fetched: Mutex::default(),
        });
        let found = Arc::downgrade(&provider);
        tokio::spawn(async move {
            while let Some(provider) = found.upgrade() {
                match provider.discover().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(issuer = provider.url, error, "oidc authenticator: initializing plugin");
                    }
                }
                drop(provider);
                tokio::time::sleep(INIT_RETRY).await;
            }
        });
        provider
    }

    pub(super) fn is_found(&self) -> bool {
        self.jwks_uri.read().is_some()
    }

    async fn discover(&self) -> Result<(), String> {
        let url = match &self.discovery_url {
            Some(url) => url.clone(),
            None => format!("{}{WELL_KNOWN}", self.url.trim_end_matches('/')),
        };
        let document = self.fetch(&url).await?;
        let said = document["issuer"].as_str().unwrap_or("");
        if said != self.url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {} got {}",
                go_quote(&self.url),
                go_quote(said)
            ));
        }
        let uri = document["jwks_uri"].as_str().filter(|uri| !uri.is_empty());
        let uri = uri.ok_or("provider did not return JWKS URL")?.to_owned();
        *self.jwks_uri.write() = Some(uri);
        Ok(())
    }

    async fn fetch(&self, url: &str) -> Result<Value, String> {
        if !url.starts_with("https://") {
            return Err(format!("{url:?}: URL scheme must be https"));
        }
        let response = self.get(url, "").await?;
        if !response.status().is_success() {
            return Err(format!("{}: {}", response.status(), String::from_utf8_lossy(response.body())));
        }
        Value::from_json(response.body()).map_err(|error| format!("{url:?} is not JSON: {error}"))
    }

    /// What is at a URL, which is shown a token if there is one.
    pub(super) async fn get(&self, url: &str, bearer: &str) -> Result<Response<Bytes>, String> {
        let uri: Uri = url.parse().map_err(|error| format!("parse {url:?}: {error}"))?;
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(outbound::USER_AGENT));
        if !bearer.is_empty() {
            let value = HeaderValue::try_from(format!("Bearer {bearer}"));
            let mut value =
                value.map_err(|_| "net/http: invalid header field value for \"Authorization\"".to_owned())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let limits = Limits { timeout: FETCH_TIMEOUT, response_bytes_max: DOCUMENT_BYTES_MAX };
        let response = self.outbound.call(Some(&self.tls), request, limits).await;
        response.map_err(|error| outbound::url_error(&http::Method::GET, url, &error))
    }

    /// Fetches the keys, unless somebody has just done so.
    async fn refresh(&self) -> Result<(), String> {
        let uri = self.jwks_uri.read().clone().ok_or("oidc: authenticator not initialized")?;
        let asked = Instant::now();
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at > asked || at.elapsed() < REFETCH_MIN) {
            return Ok(());
        }
        let document = self.fetch(&uri).await;
        // A failure counts as well: the issuer is not asked all the time.
        *fetched = Some(Instant::now());
        *self.keys.write() = Arc::new(KeySet::parse(&document?));
        Ok(())
    }

    /// Was the token signed by one of the issuer's keys? They are fetched again when none of those known fits.
    pub(super) async fn verify(&self, token: &SignedToken<'_>) -> Result<(), String> {
        let keys = Arc::clone(&self.keys.read());
        if keys.verify(token) {
            return Ok(());
        }
        let failed = |text: &str| format!("failed to verify signature: {text}");
        self.refresh().await.map_err(|error| failed(&format!("fetching keys {error}")))?;
        let keys = Arc::clone(&self.keys.read());
        if keys.verify(token) { Ok(()) } else { Err(failed("failed to verify id token signature")) }
    }
}
