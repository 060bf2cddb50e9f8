//! One issuer of JSON web tokens: its tokens, checked, and claims of them that are elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use api::Value;
use api::field::go_quote;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;

use super::super::signed_token::SignedToken;
use super::config::IssuerConfig;
use super::provider::Provider;
use crate::attributes::UserInfo;
use crate::outbound::Tls;

/// Clocks may differ by this much about when a token begins; the OIDC library's number.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 300;
/// Issuers of distributed claims that are known at once. Who they are is said by those whom the issuer names: few in earnest.
const CLAIM_ISSUERS_MAX: usize = 64;
/// OIDC Core 1.0, section 5.6.2.
const CLAIM_NAMES: &str = "_claim_names";
const CLAIM_SOURCES: &str = "_claim_sources";

#[derive(Debug)]
pub(super) struct Issuer {
    config: IssuerConfig,
    tls: Tls,
    provider: Arc<Provider>,
    /// Issuers of distributed claims, by URL.
    claim_issuers: Mutex<HashMap<String, Arc<Provider>>>,
}

/// Where a distributed claim is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimSource {
    endpoint: String,
    access_token: String,
}

impl Issuer {
    /// Begins to look for the issuer, until it is found or nobody asks any more.
    pub(super) fn start(config: IssuerConfig) -> Arc<Self> {
        let tls = Tls { ca_pem: config.certificate_authority.clone().into(), ..Tls::default() };
        let provider = Provider::start(&config.url, config.discovery_url.clone(), tls.clone());
        Arc::new(Self { config, tls, provider, claim_issuers: Mutex::default() })
    }

    /// `Ok(None)`: the token is of another issuer.
    pub(super) async fn authenticate(&self, text: &str, now: Timestamp) -> Result<Option<UserInfo>, String> {
        let Some(mut token) = SignedToken::parse(text) else { return Ok(None) };
        if claimed_issuer(&token.claims) != self.config.url {
            return Ok(None);
        }
        if !self.provider.is_found() {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        let verified = self.verify(&self.provider, &token, now).await;
        verified.map_err(|error| format!("oidc: verify token: {error}"))?;
        if let Some(claim) = self.config.mapping.groups_claim() {
            let expanded = self.expand(claim, &mut token.claims, now).await;
            expanded.map_err(|error| format!("oidc: could not expand distributed claims: {error}"))?;
        }
        self.config.mapping.user(&token.claims).map(Some)
    }

    /// Fetches the claim if the token says where it is instead of what it is.
    async fn expand(&self, claim: &str, claims: &mut Value, now: Timestamp) -> Result<(), String> {
        let has = |name: &str| claims.get(name).is_some();
        if has(claim) || !has(CLAIM_NAMES) {
            return Ok(());
        }
        let names: HashMap<String, String> = api::value::from_value(claims[CLAIM_NAMES].clone())
            .map_err(|error| format!("oidc: error parsing distributed claim names: {error}"))?;
        if !has(CLAIM_SOURCES) {
            return Err("oidc: no claim sources".to_owned());
        }
        let mut sources: HashMap<String, ClaimSource> = api::value::from_value(claims[CLAIM_SOURCES].clone())
            .map_err(|error| format!("oidc: could not parse claim sources: {error}"))?;
        let Some(name) = names.get(claim) else { return Ok(()) };
        let Some(source) = sources.remove(name) else {
            return Err(format!("id token _claim_names contained a source {name} missing in _claims_sources"));
        };
        // An aggregated claim has no endpoint, and is not followed.
        if !source.endpoint.is_empty() {
            claims[claim] = self.resolve(claim, &source, now).await?;
        }
        Ok(())
    }

    /// The value of a claim that is in a token of its own.
    async fn resolve(&self, claim: &str, source: &ClaimSource, now: Timestamp) -> Result<Value, String> {
        let endpoint = &source.endpoint;
        let text = self.claim_token(source).await;
        let text = text.map_err(|error| format!("while getting distributed claim {claim:?}: {error}"))?;
        let Some(token) = SignedToken::parse(&text) else {
            return Err(format!(
                "getting untrusted issuer from endpoint {endpoint} failed for claim {claim:?}: malformed token"
            ));
        };
        let issuer = claimed_issuer(&token.claims);
        let provider = self.claim_issuer(issuer);
        let provider = provider.map_err(|error| format!("verifying untrusted issuer {issuer} failed: {error}"))?;
        let verified = self.verify(&provider, &token, now).await;
        verified.map_err(|error| format!("verify distributed claim token: {error}"))?;
        token.claims.get(claim).cloned().ok_or_else(|| {
            format!("jwt returned by distributed claim endpoint {endpoint:?} did not contain claim: {claim}")
        })
    }

    async fn claim_token(&self, source: &ClaimSource) -> Result<String, String> {
        let response = self.provider.get(&source.endpoint, &source.access_token).await?;
        if !response.status().is_success() {
            return Err(format!("error while getting distributed claim JWT: {}", response.status()));
        }
        let text = String::from_utf8(response.into_body().to_vec());
        text.map_err(|_| "could not decode distributed claim response".to_owned())
    }

    /// The issuer of a distributed claim, if it is known by now. One that is not is looked for.
    fn claim_issuer(&self, url: &str) -> Result<Arc<Provider>, String> {
        let mut known = self.claim_issuers.lock();
        if !known.contains_key(url) {
            if known.len() >= CLAIM_ISSUERS_MAX {
                return Err(format!("more than {CLAIM_ISSUERS_MAX} issuers of distributed claims"));
            }
            let provider = match url == self.config.url {
                true => Arc::clone(&self.provider),
                false => Provider::start(url, None, self.tls.clone()),
            };
            known.insert(url.to_owned(), provider);
        }
        let provider = Arc::clone(&known[url]);
        match provider.is_found() {
            true => Ok(provider),
            false => Err(format!("verifier not initialized for issuer: {url:?}")),
        }
    }

    /// Is the token meant for us, of this time, and signed by the provider?
    async fn verify(&self, provider: &Provider, token: &SignedToken<'_>, now: Timestamp) -> Result<(), String> {
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
        provider.verify(token).await
    }
}

/// Who the token says it is from; one issuer leaves out its scheme.
fn claimed_issuer(claims: &Value) -> &str {
    match claims["iss"].as_str().unwrap_or("") {
        "accounts.google.com" => "https://accounts.google.com",
        issuer => issuer,
    }
}
