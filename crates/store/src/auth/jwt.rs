//! JSON web tokens as etcd issues and reads them: claims `username`, `revision` and `exp`, signed by a key that all members
//! share. Keys are read by rustls, signatures made by it and checked by ring; a member with only a public key checks.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::tokens::AuthConfigError;
use super::{AUTH_FAILED, Identity};
use crate::StoreError;

/// etcd's default of the `ttl` option.
const TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// How a name in the `sign-method` option and in a token's header is signed and checked.
#[derive(Clone, Copy)]
enum Method {
    Hmac(hmac::Algorithm),
    /// The last is the length of each of the two numbers of an ECDSA signature, where there are two.
    Key(SignatureScheme, &'static dyn signature::VerificationAlgorithm, Option<usize>),
}

/// Go's names. P-521 (`ES512`) is missing in ring.
const METHODS: &[(&str, Method)] = &[
    ("HS256", Method::Hmac(hmac::HMAC_SHA256)),
    ("HS384", Method::Hmac(hmac::HMAC_SHA384)),
    ("HS512", Method::Hmac(hmac::HMAC_SHA512)),
    ("RS256", Method::Key(SignatureScheme::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256, None)),
    ("RS384", Method::Key(SignatureScheme::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384, None)),
    ("RS512", Method::Key(SignatureScheme::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512, None)),
    ("PS256", Method::Key(SignatureScheme::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256, None)),
    ("PS384", Method::Key(SignatureScheme::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384, None)),
    ("PS512", Method::Key(SignatureScheme::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512, None)),
    ("ES256", Method::Key(SignatureScheme::ECDSA_NISTP256_SHA256, &signature::ECDSA_P256_SHA256_FIXED, Some(32))),
    ("ES384", Method::Key(SignatureScheme::ECDSA_NISTP384_SHA384, &signature::ECDSA_P384_SHA384_FIXED, Some(48))),
    ("EdDSA", Method::Key(SignatureScheme::ED25519, &signature::ED25519, None)),
];

/// The keys of a cluster's tokens.
pub(crate) struct Jwt {
    name: &'static str,
    ttl: Duration,
    keys: Keys,
}

enum Keys {
    Hmac(hmac::Key),
    Pair {
        scheme: SignatureScheme,
        algorithm: &'static dyn signature::VerificationAlgorithm,
        ecdsa_bytes: Option<usize>,
        /// The key itself, without what surrounds it in a SubjectPublicKeyInfo.
        public: Vec<u8>,
        /// `None` on a member that only checks.
        private: Option<Arc<dyn SigningKey>>,
    },
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("method", &self.name).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl Jwt {
    pub(super) fn from_options(options: &[(&str, &str)]) -> Result<Self, AuthConfigError> {
        let option = |name: &str| {
            let found = options.iter().find(|(other, value)| *other == name && !value.is_empty());
            found.map(|(_, value)| *value)
        };
        for (name, _) in options {
            if !["sign-method", "pub-key", "priv-key", "ttl"].contains(name) {
                tracing::warn!(name, "unknown JWT option");
            }
        }
        let ttl = option("ttl").map_or(Some(TTL_DEFAULT), go_duration).ok_or(AuthConfigError::InvalidOptions)?;
        let wanted = option("sign-method").unwrap_or_default();
        let method = METHODS.iter().find(|(name, _)| *name == wanted).ok_or(AuthConfigError::InvalidMethod)?;
        let public = option("pub-key").map(read).transpose()?;
        let private = option("priv-key").map(read).transpose()?;
        Self::new(*method, ttl, public, private)
    }

    fn new(
        (name, method): (&'static str, Method),
        ttl: Duration,
        public: Option<(&str, Vec<u8>)>,
        private: Option<(&str, Vec<u8>)>,
    ) -> Result<Self, AuthConfigError> {
        let (scheme, algorithm, ecdsa_bytes) = match method {
            Method::Hmac(algorithm) => {
                let (_, secret) = private.filter(|(_, bytes)| !bytes.is_empty()).ok_or(AuthConfigError::MissingKey)?;
                return Ok(Self { name, ttl, keys: Keys::Hmac(hmac::Key::new(algorithm, &secret)) });
            }
            Method::Key(scheme, algorithm, ecdsa_bytes) => (scheme, algorithm, ecdsa_bytes),
        };
        let public = public.map(|(path, pem)| public_key(path, &pem)).transpose()?;
        let private = private.map(|(path, pem)| private_key(path, &pem, scheme)).transpose()?;
        let derived = match &private {
            Some((path, private)) => {
                let spki = private.public_key().ok_or_else(|| key_error(path, "has no public key"))?;
                Some(bare_key(path, &spki)?)
            }
            None => None,
        };
        if public.is_some() && derived.is_some() && public != derived {
            return Err(AuthConfigError::KeyMismatch);
        }
        let public = derived.or(public).ok_or(AuthConfigError::MissingKey)?;
        let private = private.map(|(_, private)| private);
        Ok(Self { name, ttl, keys: Keys::Pair { scheme, algorithm, ecdsa_bytes, public, private } })
    }

    /// A token for a user who proved who it is.
    pub(crate) fn issue(&self, identity: &Identity, now: Duration) -> Result<String, StoreError> {
        let header = serde_json::json!({ "alg": self.name, "typ": "JWT" });
        let expires = (now + self.ttl).as_secs();
        let claims = serde_json::json!({ "exp": expires, "revision": identity.revision, "username": identity.user });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whom a token names; `None` if it is not ours or not valid at `now`, the time since the epoch.
    pub(crate) fn check(&self, token: &str, now: Duration) -> Option<Identity> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let parse = |part: &str| -> Option<serde_json::Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        if parse(header)?.get("alg")? != self.name {
            return None;
        }
        self.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?)?;
        let claims = parse(claims)?;
        let now = now.as_secs_f64();
        let bound = |name: &str| match claims.get(name) {
            None => Some(None),
            Some(value) => value.as_f64().map(Some),
        };
        let is_expired = bound("exp")?.is_some_and(|exp| now >= exp);
        let is_early = bound("nbf")?.is_some_and(|nbf| now < nbf);
        if is_expired || is_early {
            return None;
        }
        let user = claims.get("username")?.as_str()?.to_owned();
        let revision = claims.get("revision")?;
        let revision = revision.as_u64().or_else(|| revision.as_f64().map(|revision| revision as u64))?;
        Some(Identity { user, revision })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, StoreError> {
        let failed = |what: &str| StoreError::Fatal(format!("signing a token: {what}"));
        match &self.keys {
            Keys::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            // etcd has a text of its own here, but no code for it; a client can do nothing else with it either.
            Keys::Pair { private: None, .. } => Err(AUTH_FAILED),
            Keys::Pair { private: Some(private), scheme, ecdsa_bytes, .. } => {
                let signer = private.choose_scheme(&[*scheme]).ok_or_else(|| failed("wrong kind of key"))?;
                let signature = signer.sign(message).map_err(|error| failed(&error.to_string()))?;
                match ecdsa_bytes {
                    None => Ok(signature),
                    Some(len) => two_numbers(&signature, *len).ok_or_else(|| failed("malformed signature")),
                }
            }
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        match &self.keys {
            Keys::Hmac(key) => hmac::verify(key, message, signature).ok(),
            Keys::Pair { algorithm, public, .. } => {
                signature::UnparsedPublicKey::new(*algorithm, public).verify(message, signature).ok()
            }
        }
    }
}

fn read(path: &str) -> Result<(&str, Vec<u8>), AuthConfigError> {
    let bytes = std::fs::read(path);
    bytes.map(|bytes| (path, bytes)).map_err(|source| AuthConfigError::Read { path: path.to_owned(), source })
}

fn key_error(path: &str, what: &str) -> AuthConfigError {
    AuthConfigError::Key { path: path.to_owned(), what: what.to_owned() }
}

fn private_key<'a>(
    path: &'a str,
    pem: &[u8],
    scheme: SignatureScheme,
) -> Result<(&'a str, Arc<dyn SigningKey>), AuthConfigError> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| key_error(path, &error.to_string()))?;
    let key = any_supported_type(&der).map_err(|error| key_error(path, &error.to_string()))?;
    if key.choose_scheme(&[scheme]).is_none() {
        return Err(key_error(path, "the key is not of the kind that the signing method needs"));
    }
    Ok((path, key))
}

/// A public key, bare or in a certificate.
fn public_key(path: &str, pem: &[u8]) -> Result<Vec<u8>, AuthConfigError> {
    if let Ok(spki) = SubjectPublicKeyInfoDer::from_pem_slice(pem) {
        return bare_key(path, &spki);
    }
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| key_error(path, &error.to_string()))?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| key_error(path, &error.to_string()))?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

fn bare_key(path: &str, spki: &[u8]) -> Result<Vec<u8>, AuthConfigError> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki).map_err(|error| key_error(path, &error.to_string()))?;
    Ok(spki.subject_public_key.data.to_vec())
}

/// A DER signature (`SEQUENCE { INTEGER r, INTEGER s }`) as r and s of `len` bytes each.
fn two_numbers(der: &[u8], len: usize) -> Option<Vec<u8>> {
    let (0x30, rest) = der.split_first().map(|(tag, rest)| (*tag, rest))? else { return None };
    let (_sequence_len, mut rest) = rest.split_first()?;
    let mut numbers = Vec::with_capacity(2 * len);
    for _ in 0..2 {
        let [0x02, n_bytes, after @ ..] = rest else { return None };
        let (number, after) = after.split_at_checked(usize::from(*n_bytes))?;
        rest = after;
        let significant = &number[number.iter().position(|byte| *byte != 0).unwrap_or(number.len())..];
        numbers.resize(numbers.len() + len.checked_sub(significant.len())?, 0);
        numbers.extend_from_slice(significant);
    }
    rest.is_empty().then_some(numbers)
}

/// Go's durations: `1h30m`, `10m`, `0.5s`.
fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: &[(&str, f64)] =
        &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_len = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn identity() -> Identity {
        Identity { user: "alice".into(), revision: 7 }
    }

    fn method(name: &str) -> (&'static str, Method) {
        *METHODS.iter().find(|(other, _)| *other == name).unwrap()
    }

    fn pair(name: &str) -> (Vec<u8>, Vec<u8>) {
        let algorithm = match name {
            "ES256" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "ES384" => &rcgen::PKCS_ECDSA_P384_SHA384,
            _ => &rcgen::PKCS_ED25519,
        };
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        (key.public_key_pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn jwt(name: &str) -> Jwt {
        if name.starts_with("HS") {
            return Jwt::new(method(name), TTL_DEFAULT, None, Some(("k", b"secret".to_vec()))).unwrap();
        }
        let (public, private) = pair(name);
        Jwt::new(method(name), TTL_DEFAULT, Some(("pub", public)), Some(("priv", private))).unwrap()
    }

    #[test]
    fn tokens_name_their_user_until_they_expire() {
        for name in ["HS256", "HS512", "ES256", "ES384", "EdDSA"] {
            let jwt = jwt(name);
            let token = jwt.issue(&identity(), NOW).unwrap();
            assert_eq!(jwt.check(&token, NOW), Some(identity()), "{name}");
            assert_eq!(jwt.check(&token, NOW + Duration::from_secs(299)), Some(identity()), "{name}");
            assert_eq!(jwt.check(&token, NOW + Duration::from_secs(300)), None, "{name}");
        }
    }

    #[test]
    fn tokens_of_other_keys_or_methods_or_with_changed_claims_are_refused() {
        let ours = jwt("ES256");
        let token = ours.issue(&identity(), NOW).unwrap();
        assert_eq!(jwt("ES256").check(&token, NOW), None);
        assert_eq!(jwt("HS256").check(&token, NOW), None);
        let parts: Vec<_> = token.split('.').collect();
        let root = URL_SAFE_NO_PAD.encode(r#"{"username":"root","revision":7,"exp":9999999999}"#);
        assert_eq!(ours.check(&format!("{}.{root}.{}", parts[0], parts[2]), NOW), None);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        assert_eq!(ours.check(&format!("{none}.{root}."), NOW), None);
        for wrong in ["", ".", "..", "a.b.c", "é.é.é"] {
            assert_eq!(ours.check(wrong, NOW), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_member_with_the_public_key_checks_and_does_not_issue() {
        let (public, private) = pair("ES256");
        let issuer = Jwt::new(method("ES256"), TTL_DEFAULT, None, Some(("priv", private))).unwrap();
        let checker = Jwt::new(method("ES256"), TTL_DEFAULT, Some(("pub", public)), None).unwrap();
        let token = issuer.issue(&identity(), NOW).unwrap();
        assert_eq!(checker.check(&token, NOW), Some(identity()));
        assert_eq!(checker.issue(&identity(), NOW), Err(AUTH_FAILED));
    }

    #[test]
    fn keys_that_do_not_belong_together_are_refused() {
        let ((public, _), (_, private)) = (pair("ES256"), pair("ES256"));
        let mixed =
            Jwt::new(method("ES256"), TTL_DEFAULT, Some(("pub", public.clone())), Some(("priv", private.clone())));
        assert!(matches!(mixed, Err(AuthConfigError::KeyMismatch)));
        let wrong_kind = Jwt::new(method("RS256"), TTL_DEFAULT, None, Some(("priv", private)));
        assert!(matches!(wrong_kind, Err(AuthConfigError::Key { .. })));
        assert!(matches!(Jwt::new(method("HS256"), TTL_DEFAULT, None, None), Err(AuthConfigError::MissingKey)));
    }

    #[test]
    fn gos_durations_are_understood() {
        let cases = [("10m", Some(600.0)), ("1h30m", Some(5400.0)), ("1.5s", Some(1.5)), ("100ms", Some(0.1))];
        let wrong = ["", "10", "m", "10x", "-5s"].map(|text| (text, None));
        for (text, seconds) in cases.into_iter().chain(wrong) {
            assert_eq!(go_duration(text), seconds.map(Duration::from_secs_f64), "{text}");
        }
    }
}
