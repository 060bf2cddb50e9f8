//! Tokens that others vouch for: issuers of JSON web tokens, a webhook, and a file of fixed tokens.
//!
//! They are asked after this server's own tokens. Each says whose token it is, that it does not know it, or what is wrong with
//! it; the first good answer counts. Source: Kubernetes, "Authenticating"; `apiserver.config.k8s.io/v1`
//! AuthenticationConfiguration.

mod config;
mod issuer;
mod keys;
mod mapping;
mod provider;
#[cfg(test)]
mod tests;
mod token_file;
mod webhook;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

pub use config::{AuthenticationFile, OidcFlags};
pub use token_file::TokenFile;
pub use webhook::TokenWebhook;
pub(crate) use webhook::post;

use super::{AnonymousAccess, Identity};
use crate::config_file;
use issuer::Issuer;

/// A token's answer by an issuer holds this long, upstream's number.
const ISSUER_TTL: Duration = Duration::from_secs(10);
/// Answers kept; when there are more, all are forgotten.
const ANSWERS_MAX: usize = 8192;

/// Everything outside that can vouch for a token.
#[derive(Debug, Default)]
pub struct OutsideConfig {
    /// `--token-auth-file`
    pub tokens: Option<TokenFile>,
    /// `--authentication-config` or `--oidc-…`
    pub authentication: Option<AuthenticationFile>,
    /// Where the configuration came from, to be read again when it changes.
    pub follow: Option<(PathBuf, String)>,
    /// `--authentication-token-webhook-config-file`
    pub webhook: Option<TokenWebhook>,
    /// `--anonymous-auth`, where the configuration says nothing of it.
    pub anonymous: Option<AnonymousAccess>,
}

/// Those who vouch for tokens, and what they have said.
#[derive(Debug)]
pub(crate) struct Outside {
    tokens: Option<TokenFile>,
    issuers: RwLock<Arc<Vec<Arc<Issuer>>>>,
    anonymous: RwLock<AnonymousAccess>,
    anonymous_by_flag: Option<AnonymousAccess>,
    webhook: Option<TokenWebhook>,
    answers: Answers,
}

impl Default for Outside {
    /// Nobody.
    fn default() -> Self {
        Self {
            tokens: None,
            issuers: RwLock::default(),
            anonymous: RwLock::new(AnonymousAccess::On),
            anonymous_by_flag: None,
            webhook: None,
            answers: Answers::default(),
        }
    }
}

impl Outside {
    /// Starts to fetch the issuers' keys.
    pub(crate) fn start(config: OutsideConfig, shutdown: &watch::Receiver<bool>) -> Arc<Self> {
        let OutsideConfig { tokens, authentication, follow, webhook, anonymous } = config;
        let outside = Arc::new(Self {
            tokens,
            issuers: RwLock::default(),
            anonymous: RwLock::new(anonymous.clone().unwrap_or(AnonymousAccess::On)),
            anonymous_by_flag: anonymous,
            webhook,
            answers: Answers::default(),
        });
        if let Some(authentication) = authentication {
            outside.apply(authentication);
        }
        if let Some((path, text)) = follow {
            let (followed, shutdown) = (Arc::clone(&outside), shutdown.clone());
            tokio::spawn(config_file::follow(path, text, shutdown, move |text| {
                match AuthenticationFile::parse(text, followed.anonymous_by_flag.is_some()) {
                    Ok(file) => {
                        followed.apply(file);
                        tracing::info!("the authentication configuration was read again");
                    }
                    Err(error) => tracing::error!(%error, "the changed authentication configuration is not used"),
                }
            }));
        }
        outside
    }

    fn apply(&self, file: AuthenticationFile) {
        let issuers: Vec<_> = file.issuers.into_iter().map(Issuer::start).collect();
        *self.issuers.write() = Arc::new(issuers);
        let by_flag = || self.anonymous_by_flag.clone().unwrap_or(AnonymousAccess::On);
        *self.anonymous.write() = file.anonymous.unwrap_or_else(by_flag);
        self.answers.forget();
    }

    /// Whoever shows no credentials, if he may come at all.
    pub(crate) fn anonymous(&self, path: &str) -> Option<Identity> {
        self.anonymous.read().identity(path)
    }

    /// Whose token is this? `Ok(None)`: nobody here knows it. Errors are what those had to say who did. Only the webhook is asked
    /// for audiences; the others vouch for `own`, those of this API that are asked for.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        own: &[String],
        now: Timestamp,
    ) -> Result<Option<Identity>, Vec<String>> {
        let known = self.tokens.as_ref().and_then(|tokens| tokens.user(token));
        if let Some(user) = known.filter(|_| !own.is_empty()) {
            return Ok(Some(Identity { user: user.clone(), audiences: own.to_vec() }));
        }
        let mut faults = Vec::new();
        let issuers = if own.is_empty() { Arc::default() } else { Arc::clone(&self.issuers.read()) };
        for issuer in issuers.iter() {
            let key = Answers::key(token, own);
            if let Some(Some(identity)) = self.answers.get(&key) {
                return Ok(Some(identity));
            }
            match issuer.authenticate(token, now).await {
                Ok(Some(user)) => {
                    let identity = Identity { user, audiences: own.to_vec() };
                    self.answers.keep(key, Some(identity.clone()), ISSUER_TTL);
                    return Ok(Some(identity));
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(webhook) = &self.webhook {
            let key = Answers::key(token, audiences);
            match self.answers.get(&key) {
                Some(Some(identity)) => return Ok(Some(identity)),
                Some(None) => {}
                None => match webhook.ask(token, audiences).await {
                    Ok(identity) => {
                        self.answers.keep(key, identity.clone(), webhook.ttl);
                        if let Some(identity) = identity {
                            return Ok(Some(identity));
                        }
                    }
                    Err(fault) => faults.push(fault),
                },
            }
        }
        if faults.is_empty() { Ok(None) } else { Err(faults) }
    }
}

/// Answers about tokens, kept for a while under the token's hash.
#[derive(Debug, Default)]
struct Answers(Mutex<HashMap<[u8; 32], Kept>>);

/// Until when, and whose the token is; `None` for nobody's.
type Kept = (Instant, Option<Identity>);

impl Answers {
    fn key(token: &str, audiences: &[String]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(token);
        for audience in audiences {
            hash.update([0]);
            hash.update(audience);
        }
        hash.finalize().into()
    }

    fn get(&self, key: &[u8; 32]) -> Option<Option<Identity>> {
        let answers = self.0.lock();
        let (until, answer) = answers.get(key)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep(&self, key: [u8; 32], answer: Option<Identity>, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let mut answers = self.0.lock();
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(key, (Instant::now() + ttl, answer));
    }

    fn forget(&self) {
        self.0.lock().clear();
    }
}
