//! One issuer of JSON web tokens: its keys, fetched and kept, and its tokens, checked.

use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::Value;
use api::field::go_quote;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::signed_token::SignedToken;
use super::config::IssuerConfig;
use super::keys::KeySet;
use crate::attributes::UserInfo;
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
/// Clocks may differ by this much about when a token begins; the OIDC library's number.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 300;

#[derive(Debug)]
pub(super) struct Issuer {
    config: IssuerConfig,
    outbound: Outbound,
    tls: Tls,
    /// `None` until the issuer has been reached.
    jwks_uri: RwLock<Option<String>>,
    keys: RwLock<Arc<KeySet>>,
    /// When keys were fetched last; held while they are.
    fetched: Mutex<Option<Instant>>,
}

impl Issuer {
    /// Begins to look for the issuer, until it is found or nobody asks any more.
    pub(super) fn start(config: IssuerConfig) -> Arc<Self> {
        let tls = Tls { ca_pem: config.certificate_authority.clone().into(), ..Tls::default() };
        let issuer = Arc::new(Self {
            config,
            outbound: Outbound::default(),
            tls,
            jwks_uri: RwLock::default(),
            keys: RwLock::default(),
            fetched: Mutex::default(),
        });
        let found = Arc::downgrade(&issuer);
        tokio::spawn(async move {
            while let Some(issuer) = found.upgrade() {
                match issuer.discover().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(issuer = issuer.config.url, error, "oidc authenticator: initializing plugin");
                    }
                }
                drop(issuer);
                tokio::time::sleep(INIT_RETRY).await;
            }
        });
        issuer
    }

    async fn discover(&self) -> Result<(), String> {
        let url = match &self.config.discovery_url {
            Some(url) => url.clone(),
            None => format!("{}{WELL_KNOWN}", self.config.url.trim_end_matches('/')),
        };
        let document = self.fetch(&url).await?;
        let said = document["issuer"].as_str().unwrap_or("");
        if said != self.config.url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {} got {}",
                go_quote(&self.config.url),
                go_quote(said)
            ));
        }
        let uri = document["jwks_uri"].as_str().filter(|uri| !uri.is_empty());
        let uri = uri.ok_or("provider did not return JWKS URL")?.to_owned();
        *self.jwks_uri.write() = Some(uri);
        Ok(())
    }

    async fn fetch(&self, url: &str) -> Result<Value, String> {
        let uri: Uri = url.parse().map_err(|error| format!("parse {url:?}: {error}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{url:?}: URL scheme must be https"));
        }
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(outbound::USER_AGENT));
        let limits = Limits { timeout: FETCH_TIMEOUT, response_bytes_max: DOCUMENT_BYTES_MAX };
        let response = self.outbound.call(Some(&self.tls), request, limits).await;
        let response = response.map_err(|error| outbound::url_error(&http::Method::GET, url, &error))?;
        if !response.status().is_success() {
            return Err(format!("{}: {}", response.status(), String::from_utf8_lossy(response.body())));
        }
        serde_json::from_slice(response.body()).map_err(|error| format!("{url:?} is not JSON: {error}"))
    }

    /// Fetches the keys, unless somebody has just done so.
    async fn refresh(&self, uri: &str) -> Result<(), String> {
        let asked = Instant::now();
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at > asked || at.elapsed() < REFETCH_MIN) {
            return Ok(());
        }
        let document = self.fetch(uri).await;
        // A failure counts as well: the issuer is not asked all the time.
        *fetched = Some(Instant::now());
        *self.keys.write() = Arc::new(KeySet::parse(&document?));
        Ok(())
    }

    /// `Ok(None)`: the token is of another issuer.
    pub(super) async fn authenticate(&self, text: &str, now: Timestamp) -> Result<Option<UserInfo>, String> {
        let Some(token) = SignedToken::parse(text) else { return Ok(None) };
        if claimed_issuer(&token.claims) != self.config.url {
            return Ok(None);
        }
        let uri = self.jwks_uri.read().clone().ok_or("oidc: authenticator not initialized")?;
        self.verify(&token, &uri, now).await.map_err(|error| format!("oidc: verify token: {error}"))?;
        self.config.mapping.user(&token.claims).map(Some)
    }

    async fn verify(&self, token: &SignedToken<'_>, jwks_uri: &str, now: Timestamp) -> Result<(), String> {
        let claims = &token.claims;
        let audiences: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one],
            many => many.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        };
        let wanted = &self.config.audiences;
        if !audiences.iter().any(|audience| wanted.iter().any(|wanted| wanted == audience)) {
            let quoted = |list: &[&str]| list.iter().map(|one| go_quote(one)).collect::<Vec<_>>().join(" ");
            return Err(match wanted.as_slice() {
                [one] => format!("oidc: expected audience {} got [{}]", go_quote(one), quoted(&audiences)),
                many => {
                    let many: Vec<&str> = many.iter().map(String::as_str).collect();
                    format!("oidc: expected audience in [{}] got [{}]", quoted(&many), quoted(&audiences))
                }
            });
        }
        let seconds = |claim: &str| claims[claim].as_f64().map(|seconds| seconds as i64);
        let time = |seconds: i64| Timestamp::from_second(seconds).map(|t| t.to_string()).unwrap_or_default();
        let expires = seconds("exp").unwrap_or(0);
        if expires < now.as_second() {
            return Err(format!("oidc: token is expired (Token Expiry: {})", time(expires)));
        }
        if let Some(begins) = seconds("nbf").filter(|begins| now.as_second() + NOT_BEFORE_LEEWAY_SECONDS < *begins) {
            let now = now.as_second();
            return Err(format!("oidc: current time {} before the nbf (not before) time: {}", time(now), time(begins)));
        }
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(format!(
                "oidc: malformed jwt: unexpected signature algorithm {}; expected [{}]",
                go_quote(&token.algorithm),
                self.config.algorithms.join(" ")
            ));
        }
        let keys = Arc::clone(&self.keys.read());
        if keys.verify(token) {
            return Ok(());
        }
        let failed = |text: &str| format!("failed to verify signature: {text}");
        self.refresh(jwks_uri).await.map_err(|error| failed(&format!("fetching keys {error}")))?;
        let keys = Arc::clone(&self.keys.read());
        if keys.verify(token) { Ok(()) } else { Err(failed("failed to verify id token signature")) }
    }
}

/// Who the token says it is from; one issuer leaves out its scheme.
fn claimed_issuer(claims: &Value) -> &str {
    match claims["iss"].as_str().unwrap_or("") {
        "accounts.google.com" => "https://accounts.google.com",
        issuer => issuer,
    }
}
