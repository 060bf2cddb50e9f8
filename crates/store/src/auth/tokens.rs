//! Which kind of token this member issues and accepts, from etcd's `--auth-token`.

use std::time::Duration;

use super::jwt::Jwt;
use super::simple_tokens::TTL_DEFAULT;

/// How users prove who they are.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    pub(crate) tokens: Tokens,
    /// Life of a simple token after its last use.
    pub(crate) simple_ttl: Duration,
    pub(crate) bcrypt_cost: u32,
}

impl Default for AuthConfig {
    /// Simple tokens of 300 s, bcrypt with cost 10: etcd's defaults.
    fn default() -> Self {
        Self { tokens: Tokens::Simple, simple_ttl: TTL_DEFAULT, bcrypt_cost: BCRYPT_COST_DEFAULT }
    }
}

const BCRYPT_COST_DEFAULT: u32 = 10;
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=31;

#[derive(Clone, Debug)]
pub(crate) enum Tokens {
    Simple,
    Jwt(std::sync::Arc<Jwt>),
    /// Nobody gets one, only certificates name users.
    None,
}

/// Why `--auth-token` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthConfigError {
    /// Malformed, or of an unknown type; etcd says no more either.
    #[error("auth: invalid auth options")]
    InvalidOptions,
    #[error("auth: invalid auth signature method")]
    InvalidMethod,
    #[error("auth: missing key data")]
    MissingKey,
    #[error("auth: public and private keys don't match")]
    KeyMismatch,
    #[error("auth: {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// A key file holds no key for the signing method.
    #[error("auth: {path}: {what}")]
    Key { path: String, what: String },
}

impl AuthConfig {
    /// From the values of `--auth-token` (`simple`, `jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…`, or nothing for no tokens),
    /// `--auth-token-ttl` and `--bcrypt-cost`. Reads the key files. A cost that bcrypt does not know is the default, as in etcd.
    pub fn parse(token: &str, simple_ttl: Duration, bcrypt_cost: u32) -> Result<Self, AuthConfigError> {
        let (kind, options) = token.split_once(',').unwrap_or((token, ""));
        let options = parse_options(options)?;
        let tokens = match kind {
            "simple" => Tokens::Simple,
            "jwt" => Tokens::Jwt(std::sync::Arc::new(Jwt::from_options(&options)?)),
            "" => Tokens::None,
            _ => return Err(AuthConfigError::InvalidOptions),
        };
        let bcrypt_cost = if BCRYPT_COSTS.contains(&bcrypt_cost) { bcrypt_cost } else { BCRYPT_COST_DEFAULT };
        let simple_ttl = if simple_ttl.is_zero() { TTL_DEFAULT } else { simple_ttl };
        Ok(Self { tokens, simple_ttl, bcrypt_cost })
    }
}

fn parse_options(text: &str) -> Result<Vec<(&str, &str)>, AuthConfigError> {
    let mut options: Vec<(&str, &str)> = Vec::new();
    for pair in text.split(',').filter(|_| !text.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(AuthConfigError::InvalidOptions)?;
        let is_twice = options.iter().any(|(other, _)| *other == name);
        if is_twice || value.contains('=') {
            return Err(AuthConfigError::InvalidOptions);
        }
        options.push((name, value));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_options_are_read_as_etcd_reads_them() {
        let parse = |text: &str| AuthConfig::parse(text, TTL_DEFAULT, 10).map(|config| config.tokens);
        assert!(matches!(parse("simple"), Ok(Tokens::Simple)));
        assert!(matches!(parse(""), Ok(Tokens::None)));
        for wrong in ["complex", "simple,x", "jwt,a=b,a=c", "jwt,a=b=c"] {
            assert!(matches!(parse(wrong), Err(AuthConfigError::InvalidOptions)), "{wrong}");
        }
        assert!(matches!(parse("jwt,sign-method=XX"), Err(AuthConfigError::InvalidMethod)));
        assert!(matches!(parse("jwt,sign-method=RS256"), Err(AuthConfigError::MissingKey)));
        let missing = parse("jwt,sign-method=RS256,pub-key=/does/not/exist");
        assert!(matches!(missing, Err(AuthConfigError::Read { .. })));
    }
}
