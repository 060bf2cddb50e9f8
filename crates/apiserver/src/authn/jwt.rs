//! Signed JSON tokens, ES256 and RS256: what they look like, and who verifies them.

use std::{collections::HashMap, sync::Arc};

use api::Value;
use api::json;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest, Sha256};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::signed_token::SignedToken;
use super::signing_key::{EC_PARAMETERS, SigningKey};

/// An uncompressed point: a marker and two coordinates.
const P256_POINT_BYTES: usize = 65;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("service account key is not PEM: {0}")]
    Pem(String),
    /// Keys are of P-256 or RSA.
    #[error("service account key of kind {0} is not supported")]
    Unsupported(String),
    #[error("service account key is damaged: {0}")]
    Damaged(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Es256,
    Rs256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// Verifies tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// base64url of the SHA-256 of the key's DER, as upstream.
    pub id: String,
    algorithm: Algorithm,
    /// The key as ring takes it: an uncompressed point, or an RSA public key.
    bytes: Vec<u8>,
    /// Modulus and exponent of an RSA key, without leading zeros.
    rsa: Option<(Vec<u8>, Vec<u8>)>,
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|e| KeyError::Damaged(e.to_string()))?;
        let bytes = info.subject_public_key.data.to_vec();
        let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let (algorithm, rsa) = match info.parsed() {
            Ok(x509_parser::public_key::PublicKey::EC(_)) if bytes.len() == P256_POINT_BYTES => {
                (Algorithm::Es256, None)
            }
            Ok(x509_parser::public_key::PublicKey::RSA(key)) => {
                (Algorithm::Rs256, Some((strip(key.modulus), strip(key.exponent))))
            }
            _ => return Err(KeyError::Unsupported(info.algorithm.algorithm.to_id_string())),
        };
        Ok(Self { id: key_id(der), algorithm, bytes, rsa })
    }

    fn verifies(&self, input: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(input, signature).is_ok()
    }

    /// The key as an entry of a JWK set.
    pub fn jwk(&self) -> Option<Value> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::Es256 => Some(json!({
                "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
                "x": encode(self.bytes.get(1..33)?), "y": encode(self.bytes.get(33..65)?),
            })),
            Algorithm::Rs256 => {
                let (modulus, exponent) = self.rsa.as_ref()?;
                Some(json!({
                    "use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256",
                    "n": encode(modulus), "e": encode(exponent),
                }))
            }
        }
    }
}

fn key_id(der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(der))
}

/// All keys whose tokens are accepted.
#[derive(Clone, Debug, Default)]
pub struct PublicKeys(Vec<PublicKey>);

/// A token with a good signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    pub claims: Value,
}

/// Keys that remember which tokens they have verified: a client sends the same one again and again, and a signature once good
/// stays good. Everything else about a token is checked every time.
#[derive(Debug, Default)]
pub(super) struct RememberingKeys {
    keys: PublicKeys,
    seen: Mutex<HashMap<[u8; 32], Arc<Value>>>,
}

/// Tokens remembered; when there are more, all are forgotten.
const TOKENS_MAX: usize = 8192;

impl RememberingKeys {
    pub(super) fn new(keys: PublicKeys) -> Self {
        Self { keys, seen: Mutex::default() }
    }

    /// As [`PublicKeys::verify`].
    pub(super) fn claims(&self, token: &str) -> Result<Arc<Value>, String> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.seen.lock().get(&hash) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.keys.verify(token)?.claims);
        let mut seen = self.seen.lock();
        if seen.len() >= TOKENS_MAX {
            seen.clear();
        }
        seen.insert(hash, claims.clone());
        Ok(claims)
    }
}

impl PublicKeys {
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Keys of PEM files: public keys, certificates, or private keys of which the public half is taken.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for block in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()) {
            let block = block.map_err(|e| KeyError::Pem(e.to_string()))?;
            keys.push(match block.label.as_str() {
                EC_PARAMETERS => continue,
                "PUBLIC KEY" => PublicKey::from_der(&block.contents)?,
                "CERTIFICATE" => {
                    let certificate = block.parse_x509().map_err(|e| KeyError::Damaged(e.to_string()))?;
                    PublicKey::from_der(certificate.tbs_certificate.subject_pki.raw)?
                }
                label => SigningKey::from_block(label, &block.contents)?.public().clone(),
            });
        }
        if keys.is_empty() {
            return Err(KeyError::Pem("no key in it".into()));
        }
        Ok(Self(keys))
    }

    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// Checks the signature and nothing else. `Err` is what to tell the owner.
    pub fn verify(&self, token: &str) -> Result<Verified, String> {
        const BAD: &str = "failed to verify signature";
        let parts = SignedToken::parse(token).ok_or_else(|| "malformed token".to_owned())?;
        // The key the token names, or any of its algorithm: a kid is a hint, not a promise.
        let candidates = self.0.iter().filter(|key| key.algorithm.name() == parts.algorithm);
        let named = |key: &&PublicKey| parts.key_id.as_deref().is_none_or(|id| id == key.id);
        let good = candidates.clone().filter(named).any(|key| key.verifies(parts.input, &parts.signature))
            || candidates.filter(|key| !named(key)).any(|key| key.verifies(parts.input, &parts.signature));
        if good { Ok(Verified { claims: parts.claims }) } else { Err(BAD.to_owned()) }
    }
}

/// The issuer a token claims, unverified; `None` when it is no JSON token at all.
pub fn claimed_issuer(token: &str) -> Option<String> {
    let claims = SignedToken::parse(token)?.claims;
    claims.get("iss").and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::signing_key::test_key;
    use super::*;

    #[test]
    fn a_signed_token_verifies_with_its_key_only() {
        let key = test_key();
        let claims = json!({"iss": "me", "sub": "you"});
        let token = key.sign(&claims).unwrap();
        let keys = PublicKeys::new(vec![test_key().public().clone(), key.public().clone()]);
        assert_eq!(keys.verify(&token), Ok(Verified { claims }));
        assert_eq!(claimed_issuer(&token).as_deref(), Some("me"));
        let others = PublicKeys::new(vec![test_key().public().clone()]);
        assert_eq!(others.verify(&token), Err("failed to verify signature".to_owned()));
    }

    #[test]
    fn a_changed_claim_or_algorithm_breaks_the_token() {
        let key = test_key();
        let token = key.sign(&json!({"sub": "you"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let keys = PublicKeys::new(vec![key.public().clone()]);
        let changed = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode("{\"sub\":\"me\"}"), parts[2]);
        assert!(keys.verify(&changed).is_err());
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), parts[1]);
        assert!(keys.verify(&none).is_err());
        assert_eq!(claimed_issuer("bogus"), None);
    }

    #[test]
    fn the_key_id_is_the_hash_of_the_public_key() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = SigningKey::from_pem(&pair.serialize_pem()).unwrap();
        let public = PublicKeys::from_pem(&pair.public_key_pem()).unwrap();
        assert_eq!(public.iter().next(), Some(key.public()));
        let jwk = key.public().jwk().unwrap();
        assert_eq!((&jwk["kty"], &jwk["crv"]), (&json!("EC"), &json!("P-256")));
    }
}
