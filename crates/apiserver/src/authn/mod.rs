//! Authentication: who is asking? Client certificates, service account and bootstrap tokens; otherwise nobody.
//!
//! Whether a certificate chain is trusted and in date has been decided by TLS; here its subject becomes a user. A token that is
//! presented must be good: a bad one is refused even where anonymous requests are served. Everybody with good credentials is
//! in the group `system:authenticated`.

mod anonymous;
pub mod bootstrap_token;
pub mod certificate;
pub mod impersonation;
pub mod jwt;
pub mod oidc;
pub mod outside;
pub mod request_header;
pub mod review;
pub mod service_account;
mod signed_token;
mod signing_key;
pub mod token_request;

use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use crate::{attributes::UserInfo, source::ObjectSource};

pub use anonymous::AnonymousAccess;
pub use jwt::PublicKeys;
use outside::Outside;
pub(crate) use outside::post as outside_post;
pub use signing_key::SigningKey;

pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";

/// A user with good credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: UserInfo,
    /// Audiences of the token that are also audiences asked for; empty for credentials without an audience.
    pub audiences: Vec<String>,
}

/// Credentials were presented and are not good: the answer is 401.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct BadCredentials {
    /// What each authenticator that recognised the token had to say.
    pub details: Vec<String>,
}

impl BadCredentials {
    fn text(&self) -> String {
        const GENERAL: &str = "invalid bearer token";
        if self.details.is_empty() { GENERAL.to_owned() } else { format!("[{GENERAL}, {}]", self.details.join(", ")) }
    }
}

/// The authenticators of one API server.
pub struct Authenticator {
    source: Arc<dyn ObjectSource>,
    /// Keys that verify service account tokens.
    keys: jwt::RememberingKeys,
    /// First the issuer of new tokens, then others whose tokens are still accepted.
    issuers: Vec<String>,
    /// Audiences of the API server: the issuers, unless configured otherwise.
    audiences: Vec<String>,
    /// Bootstrap tokens are accepted (`--enable-bootstrap-token-auth`).
    bootstrap_tokens: bool,
    /// Who else vouches for tokens, and whether one may come without any.
    outside: Arc<Outside>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("issuers", &self.issuers).finish_non_exhaustive()
    }
}

/// How an [`Authenticator`] is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    pub keys: PublicKeys,
    pub issuers: Vec<String>,
    pub audiences: Vec<String>,
    pub bootstrap_tokens: bool,
}

impl Authenticator {
    pub fn new(source: Arc<dyn ObjectSource>, settings: Settings) -> Self {
        let Settings { keys, issuers, audiences, bootstrap_tokens } = settings;
        let audiences = if audiences.is_empty() { issuers.clone() } else { audiences };
        let keys = jwt::RememberingKeys::new(keys);
        Self { source, keys, issuers, audiences, bootstrap_tokens, outside: Arc::default() }
    }

    /// The same with others who vouch for tokens.
    #[must_use]
    pub(crate) fn with(self, outside: Arc<Outside>) -> Self {
        Self { outside, ..self }
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Who sent the request? `Ok(None)`: nobody who says so. `peer` is the [`certificate::user`] of a client certificate that
    /// TLS verified; it wins over a token.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&UserInfo>,
        now: Timestamp,
    ) -> Result<Option<Identity>, BadCredentials> {
        if let Some(user) = peer {
            return Ok(Some(Identity { user: authenticated(user.clone()), audiences: Vec::new() }));
        }
        match bearer_token(headers) {
            Some(token) => self.authenticate_anywhere(token, &self.audiences, now).await.map(Some),
            None => Ok(None),
        }
    }

    /// The user for a request without credentials to this path, if there is one.
    pub(crate) fn anonymous(&self, path: &str) -> Option<Identity> {
        self.outside.anonymous(path)
    }

    /// Whose token is this, for one of these audiences? Asks everybody who may know.
    pub async fn authenticate_anywhere(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Identity, BadCredentials> {
        let mut bad = match self.authenticate_token(token, audiences, now) {
            Ok(identity) => return Ok(identity),
            Err(bad) => bad,
        };
        match self.outside.authenticate(token, audiences, &self.own(audiences), now).await {
            Ok(Some(identity)) => Ok(Identity { user: authenticated(identity.user), ..identity }),
            Ok(None) => Err(bad),
            Err(mut faults) => {
                bad.details.append(&mut faults);
                Err(bad)
            }
        }
    }

    /// Of the audiences asked for those of this API: whoever knows nothing of audiences vouches for no others.
    fn own(&self, audiences: &[String]) -> Vec<String> {
        audiences.iter().filter(|audience| self.audiences.contains(audience)).cloned().collect()
    }

    /// The same for tokens of this server itself.
    fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Identity, BadCredentials> {
        if self.bootstrap_tokens {
            let own = self.own(audiences);
            let user = if own.is_empty() { None } else { bootstrap_token::user(self.source.as_ref(), token, now) };
            if let Some(user) = user {
                return Ok(Identity { user: authenticated(user), audiences: own });
            }
        }
        let verifier = service_account::Verifier {
            source: self.source.as_ref(),
            keys: &self.keys,
            issuers: &self.issuers,
            api_audiences: &self.audiences,
        };
        match verifier.verify(token, audiences, now) {
            Ok(Some(identity)) => Ok(Identity { user: authenticated(identity.user), ..identity }),
            Ok(None) => Err(BadCredentials::default()),
            Err(detail) => Err(BadCredentials { details: vec![detail] }),
        }
    }
}

/// A user that a front proxy named, with the group of everybody who is known.
pub(crate) fn named_by_proxy(user: UserInfo) -> UserInfo {
    authenticated(user)
}

/// The token of an `Authorization: Bearer` header. Any other scheme, and an empty token, is as good as no header.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = header.split_once(' ')?;
    let token = token.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED_GROUP) && !user.in_group(UNAUTHENTICATED_GROUP) {
        user.groups.push(AUTHENTICATED_GROUP.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    async fn authenticate(authorization: &str) -> Result<Option<Identity>, BadCredentials> {
        let settings = Settings {
            keys: PublicKeys::default(),
            issuers: vec!["https://kubernetes.default.svc".into()],
            audiences: vec![],
            bootstrap_tokens: true,
        };
        let authenticator = Authenticator::new(MemorySource::new().shared(), settings);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, authorization.parse().unwrap());
        authenticator.authenticate(&headers, None, Timestamp::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn a_bad_token_is_refused_and_no_token_is_nobody() {
        assert_eq!(authenticate("Bearer bogus").await.unwrap_err().to_string(), "invalid bearer token");
        assert_eq!(
            authenticate("Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.AAAA").await,
            Err(BadCredentials::default())
        );
        assert_eq!(authenticate("Basic dTpw").await, Ok(None));
        assert_eq!(authenticate("Bearer ").await, Ok(None));
    }
}
