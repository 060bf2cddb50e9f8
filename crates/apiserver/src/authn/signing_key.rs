//! The key that signs service account tokens: a P-256 key (ES256) or, as kubeadm makes it, an RSA key (RS256).

use std::sync::Arc;

use api::Value;
use api::json;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use x509_parser::pem::Pem;

use super::jwt::{KeyError, PublicKey};

/// Signs tokens.
#[derive(Clone)]
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

#[derive(Clone)]
enum Pair {
    Es256(Arc<EcdsaKeyPair>),
    Rs256(Arc<RsaKeyPair>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The first private key of a PEM file: PKCS #8, or the older forms that openssl writes (PKCS #1 for RSA, SEC 1 for P-256).
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        for block in Pem::iter_from_buffer(text.as_bytes()) {
            let block = block.map_err(|e| KeyError::Pem(e.to_string()))?;
            if block.label != EC_PARAMETERS {
                return Self::from_block(&block.label, &block.contents);
            }
        }
        Err(KeyError::Pem("no key in it".into()))
    }

    pub(super) fn from_block(label: &str, der: &[u8]) -> Result<Self, KeyError> {
        match label {
            "PRIVATE KEY" => p256(der).or_else(|_| rsa(RsaKeyPair::from_pkcs8(der))),
            "RSA PRIVATE KEY" => rsa(RsaKeyPair::from_der(der)),
            "EC PRIVATE KEY" => p256(&pkcs8_of_sec1(der)),
            other => Err(KeyError::Unsupported(other.to_owned())),
        }
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The compact form of a token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let random = SystemRandom::new();
        let no_randomness = |_| KeyError::Damaged("no randomness to sign with".into());
        let algorithm = match self.pair {
            Pair::Es256(_) => "ES256",
            Pair::Rs256(_) => "RS256",
        };
        let header = json!({"alg": algorithm, "kid": self.public.id});
        let input = format!("{}.{}", encode(&header), encode(claims));
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&random, input.as_bytes()).map_err(no_randomness)?.as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature).map_err(no_randomness)?;
                signature
            }
        };
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What openssl puts before a key of SEC 1.
pub(super) const EC_PARAMETERS: &str = "EC PARAMETERS";

fn p256(pkcs8: &[u8]) -> Result<SigningKey, KeyError> {
    // SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point.
    const SPKI: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|e| KeyError::Damaged(e.to_string()))?;
    let public = PublicKey::from_der(&[&SPKI[..], pair.public_key().as_ref()].concat())?;
    Ok(SigningKey { pair: Pair::Es256(Arc::new(pair)), public })
}

fn rsa(pair: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<SigningKey, KeyError> {
    // The algorithm of a SubjectPublicKeyInfo: rsaEncryption without parameters.
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let pair = pair.map_err(|e| KeyError::Damaged(e.to_string()))?;
    let key = tagged(0x03, &[&[0], pair.public().as_ref()].concat());
    let public = PublicKey::from_der(&tagged(0x30, &[&ALGORITHM[..], &key].concat()))?;
    Ok(SigningKey { pair: Pair::Rs256(Arc::new(pair)), public })
}

/// The wrapping of RFC 5958 around a P-256 key of RFC 5915.
fn pkcs8_of_sec1(sec1: &[u8]) -> Vec<u8> {
    // Version 0, then id-ecPublicKey on prime256v1.
    const HEAD: [u8; 24] = [
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    tagged(0x30, &[&HEAD[..], &tagged(0x04, sec1)].concat())
}

/// A value in DER.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match length.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(value);
    out
}

#[cfg(test)]
pub(super) fn test_key() -> SigningKey {
    let key = rcgen::KeyPair::generate().unwrap();
    SigningKey::from_pem(&key.serialize_pem()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::super::jwt::{PublicKeys, Verified};
    use super::*;

    /// What `openssl` prints; `None` when it is not there.
    fn openssl(arguments: &[&str]) -> Option<String> {
        let made = std::process::Command::new("openssl").args(arguments).output().ok()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(String::from_utf8(made.stdout).unwrap())
    }

    #[test]
    fn keys_of_every_form_sign_what_their_public_halves_verify() {
        let forms: [&[&str]; 4] = [
            &["genrsa", "-traditional", "2048"],
            &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            &["ecparam", "-name", "prime256v1", "-genkey"],
            &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ];
        for form in forms {
            let Some(pem) = openssl(form) else {
                eprintln!("skipped: no openssl on PATH");
                return;
            };
            let key = SigningKey::from_pem(&pem).unwrap_or_else(|error| panic!("{form:?}: {error}"));
            let claims = json!({"iss": "me"});
            let token = key.sign(&claims).unwrap();
            let keys = PublicKeys::from_pem(&pem).unwrap();
            assert_eq!(keys.iter().next(), Some(key.public()), "{form:?}");
            assert_eq!(keys.verify(&token), Ok(Verified { claims }), "{form:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(
            SigningKey::from_pem(certificate).unwrap_err().to_string(),
            "service account key of kind CERTIFICATE is not supported"
        );
        assert_eq!(SigningKey::from_pem("").unwrap_err().to_string(), "service account key is not PEM: no key in it");
    }
}
