//! Join tokens: what another master needs to find out that it talks to the right cluster, and to be let in.
//!
//! ```text
//! quarterdeck1.CA-HASH.ID.SECRET
//! ```
//!
//! CA-HASH is the SHA-256 of the cluster CA's certificate (DER), ID six and SECRET 32 characters, all in lower case. The cluster keeps a
//! Secret `kube-system/quarterdeck-join-ID` with the SHA-256 of the secret and when it expires, so that whoever reads the store can
//! let nobody in.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

const VERSION: &str = "quarterdeck1";
const ID_CHARS: usize = 6;
const SECRET_CHARS: usize = 32;
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const NAME_PREFIX: &str = "quarterdeck-join-";
/// Type of the Secrets.
pub(crate) const SECRET_TYPE: &str = "quarterdeck.io/join-token";
const HASH: &str = "secret-sha256";
const EXPIRATION: &str = "expiration";
const DESCRIPTION: &str = "description";

/// A token as it is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub ca_hash: [u8; 32],
    pub id: String,
    pub secret: String,
}

impl Token {
    pub(crate) fn generate(ca_pem: &str) -> Result<Self> {
        let random = |n_chars: usize| -> String {
            (0..n_chars).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
        };
        Ok(Self { ca_hash: ca_hash(ca_pem)?, id: random(ID_CHARS), secret: random(SECRET_CHARS) })
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let malformed = || "the token is malformed: it looks like quarterdeck1.HASH.ID.SECRET";
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [version, hash, id, secret] = parts.as_slice() else { anyhow::bail!(malformed()) };
        ensure!(*version == VERSION, malformed());
        let is_ours = |text: &str, n_chars| text.len() == n_chars && text.bytes().all(|byte| ALPHABET.contains(&byte));
        ensure!(is_ours(id, ID_CHARS) && is_ours(secret, SECRET_CHARS) && hash.len() == 64, malformed());
        let bytes: Option<Vec<u8>> =
            (0..32).map(|at| u8::from_str_radix(hash.get(2 * at..2 * at + 2)?, 16).ok()).collect();
        let ca_hash = bytes.and_then(|bytes| bytes.try_into().ok()).with_context(malformed)?;
        Ok(Self { ca_hash, id: (*id).to_owned(), secret: (*secret).to_owned() })
    }

    pub(crate) fn text(&self) -> String {
        let hash: String = self.ca_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{VERSION}.{hash}.{}.{}", self.id, self.secret)
    }

    /// What the cluster keeps of it.
    pub(crate) fn to_secret(&self, expires: Timestamp, description: &str) -> Secret {
        let entry = |key: &str, value: String| (key.to_owned(), ByteString(value.into_bytes()));
        let data = BTreeMap::from([
            entry(HASH, secret_hash(&self.secret)),
            entry(EXPIRATION, expires.to_string()),
            entry(DESCRIPTION, description.to_owned()),
        ]);
        Secret {
            metadata: ObjectMeta {
                name: Some(format!("{NAME_PREFIX}{}", self.id)),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }
}

/// A token as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptToken {
    pub id: String,
    pub description: String,
    pub expires: Timestamp,
    secret_hash: String,
}

impl KeptToken {
    /// `None` for Secrets that are something else.
    pub(crate) fn read(secret: &Secret) -> Option<Self> {
        if secret.type_.as_deref() != Some(SECRET_TYPE) {
            return None;
        }
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            id: secret.metadata.name.as_deref()?.strip_prefix(NAME_PREFIX)?.to_owned(),
            description: text(DESCRIPTION).unwrap_or_default(),
            expires: text(EXPIRATION)?.parse().ok()?,
            secret_hash: text(HASH)?,
        })
    }

    /// Whether a secret is this token's, in time that does not tell how much of it was right. The hashes are compared, of which
    /// a guesser controls nothing.
    pub(crate) fn admits(&self, secret: &str, now: Timestamp) -> bool {
        now < self.expires && self.secret_hash == secret_hash(secret)
    }
}

fn secret_hash(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash by which tokens name a CA.
pub(crate) fn ca_hash(ca_pem: &str) -> Result<[u8; 32]> {
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("the CA certificate is unreadable")?;
    Ok(Sha256::digest(&der).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { ca_hash: [0xab; 32], id: "abcde2".into(), secret: "x".repeat(SECRET_CHARS) }
    }

    #[test]
    fn tokens_are_read_as_they_are_written() {
        assert_eq!(Token::parse(&token().text()).unwrap(), token());
        assert_eq!(Token::parse(&format!("{}\n", token().text())).unwrap(), token());
        for wrong in
            ["", "quarterdeck1.ab.abcde2.x", "quarterdeck2.", &token().text()[..80], &token().text().to_uppercase()]
        {
            assert!(Token::parse(wrong).is_err(), "{wrong:?}");
        }
        let non_ascii = token().text().replacen("abab", "éé", 1);
        assert!(Token::parse(&non_ascii).is_err());
    }

    #[test]
    fn the_cluster_keeps_no_secret_and_forgets_in_time() {
        let expires: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let secret = token().to_secret(expires, "for the third master");
        assert!(!format!("{secret:?}").contains(&token().secret));
        let kept = KeptToken::read(&secret).unwrap();
        assert_eq!((kept.id.as_str(), kept.description.as_str()), ("abcde2", "for the third master"));
        let before = expires - jiff::SignedDuration::from_secs(1);
        assert!(kept.admits(&token().secret, before));
        assert!(!kept.admits(&token().secret, expires));
        assert!(!kept.admits("another", before));
    }
}
