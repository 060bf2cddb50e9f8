//! An issuer's keys, as a JWK set publishes them, and signatures checked with them.

use api::Value;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::super::signed_token::SignedToken;

/// Keys of one set.
const KEYS_MAX: usize = 256;

/// Algorithms that can be checked. ES512 is upstream's only other one; its curve is not in the crypto library.
pub(super) const ALGORITHMS: [&str; 8] = ["ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    material: Material,
}

/// A key set.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWK set; keys of other sorts are left out.
    pub(super) fn parse(document: &Value) -> Self {
        let keys = document["keys"].as_array().into_iter().flatten().take(KEYS_MAX);
        Self(keys.filter_map(Key::parse).collect())
    }

    /// Did one of the keys sign this? Those that the token names are tried first.
    pub(super) fn verify(&self, token: &SignedToken<'_>) -> bool {
        let named = |key: &&Key| token.key_id.is_none() || key.id == token.key_id;
        self.0.iter().filter(named).any(|key| key.verifies(token))
    }
}

impl Key {
    fn parse(key: &Value) -> Option<Self> {
        if key["use"].as_str().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |field: &str| BASE64_URL_SAFE_NO_PAD.decode(key[field].as_str()?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let mut point = vec![4];
            for coordinate in [x, y] {
                point.extend(std::iter::repeat_n(0, size.checked_sub(coordinate.len())?));
                point.extend(coordinate);
            }
            Some(point)
        };
        let material = match (key["kty"].as_str()?, key["crv"].as_str()) {
            ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Self { id: key["kid"].as_str().map(str::to_owned), material })
    }

    fn verifies(&self, token: &SignedToken<'_>) -> bool {
        let ec = |algorithm: &'static dyn VerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(algorithm, point).verify(token.input, &token.signature).is_ok()
        };
        match (&self.material, token.algorithm.as_str()) {
            (Material::P256(point), "ES256") => ec(&ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), "ES384") => ec(&ECDSA_P384_SHA384_FIXED, point),
            (Material::Rsa { n, e }, algorithm) => rsa(algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }.verify(parameters, token.input, &token.signature).is_ok()
            }),
            _ => false,
        }
    }
}
