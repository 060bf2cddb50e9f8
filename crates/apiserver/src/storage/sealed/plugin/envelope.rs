//! What lies in the store under a plugin's prefix: the value, sealed, and what the plugin needs to say by which key.
//!
//! A protobuf `EncryptedObject`: the sealed value, the id of the plugin's key, the source of the data's key sealed with that,
//! annotations of the plugin, and what the source is. Limits are upstream's (`kmsv2/envelope.go`).

use std::collections::BTreeMap;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use api::Path;
use api::field::ErrorList;
use api::validate::names::{dns1123_label, dns1123_subdomain};
use rand::Rng as _;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use sha2::{Digest as _, Sha256};

use super::proto::{EncryptedDekSourceType, EncryptedObject};
use crate::storage::sealed::cipher::{Cipher, NotOurs};

const ANNOTATIONS_BYTES_MAX: usize = 32 * 1024;
const KEY_ID_BYTES_MAX: usize = 1024;
const SOURCE_BYTES_MAX: usize = 1024;
/// Random bytes before each sealed value, by which its key is derived from the seed.
const INFO_BYTES: usize = 32;
const DERIVED_KEY_BYTES: usize = 32;
const SEED_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// The source of keys for data, in the clear.
pub(super) enum Dek {
    /// Each value has a key of its own: HKDF's expansion of the seed by 32 random bytes, which stand before the value.
    Seed(Prk),
    /// One key for all values; upstream's servers before v1.29 wrote so.
    Key(Cipher),
}

impl std::fmt::Debug for Dek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dek")
    }
}

/// A derived key's length, for ring.
struct DerivedKey;

impl KeyType for DerivedKey {
    fn len(&self) -> usize {
        DERIVED_KEY_BYTES
    }
}

impl Dek {
    /// A new seed, and its bytes.
    pub(super) fn generate() -> (Self, [u8; SEED_BYTES]) {
        let seed: [u8; SEED_BYTES] = rand::rng().random();
        (Self::Seed(Prk::new_less_safe(HKDF_SHA256, &seed)), seed)
    }

    /// From what the plugin decrypted.
    pub(super) fn from_source(kind: EncryptedDekSourceType, source: &[u8]) -> Result<Self, String> {
        match kind {
            EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed if source.len() < SEED_BYTES => {
                Err(format!("invalid seed length {} used for key generation", source.len()))
            }
            EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed => {
                Ok(Self::Seed(Prk::new_less_safe(HKDF_SHA256, source)))
            }
            EncryptedDekSourceType::AesGcmKey => {
                let cipher = Cipher::gcm(source);
                cipher.map(Self::Key).ok_or_else(|| format!("crypto/aes: invalid key size {}", source.len()))
            }
        }
    }

    /// A value under a key of its own, bound to the store's key.
    pub(super) fn seal(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(INFO_BYTES + NONCE_BYTES + value.len() + 16);
        match self {
            Self::Seed(seed) => {
                let info: [u8; INFO_BYTES] = rand::rng().random();
                let nonce: [u8; NONCE_BYTES] = rand::rng().random();
                out.extend_from_slice(&info);
                out.extend_from_slice(&nonce);
                let sealed = derived(seed, &info).encrypt(&nonce.into(), Payload { msg: value, aad: key });
                out.extend_from_slice(&sealed.expect("the limit of a message is far above that of a request"));
            }
            Self::Key(cipher) => cipher.seal(key, value, &mut out),
        }
        out
    }

    pub(super) fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |_: NotOurs| "cipher: message authentication failed".to_owned();
        match self {
            Self::Key(cipher) => cipher.open(key, sealed).map_err(failed),
            Self::Seed(seed) => {
                let (info, sealed) =
                    sealed.split_at_checked(INFO_BYTES).ok_or("the stored data was shorter than the required size")?;
                let (nonce, sealed) =
                    sealed.split_at_checked(NONCE_BYTES).ok_or("the stored data was shorter than the required size")?;
                let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("it was split there");
                let opened = derived(seed, info).decrypt(&nonce.into(), Payload { msg: sealed, aad: key });
                opened.map_err(|_| failed(NotOurs))
            }
        }
    }
}

fn derived(seed: &Prk, info: &[u8]) -> Aes256Gcm {
    let mut key = [0; DERIVED_KEY_BYTES];
    let info = [info];
    let expanded = seed.expand(&info, DerivedKey).expect("32 bytes are one block of SHA-256");
    expanded.fill(&mut key).expect("the length is that of the key type");
    Aes256Gcm::new_from_slice(&key).expect("32 bytes are a key")
}

/// Is this an object that could have been written? In upstream's words.
pub(super) fn validate(object: &EncryptedObject) -> Result<EncryptedDekSourceType, String> {
    let kind = EncryptedDekSourceType::try_from(object.encrypted_dek_source_type)
        .map_err(|_| format!("unknown encryptedDEKSourceType: {}", object.encrypted_dek_source_type))?;
    if object.encrypted_data.is_empty() {
        return Err("encrypted data is empty".to_owned());
    }
    validate_source(&object.encrypted_dek_source)?;
    validate_key_id(&object.key_id).map_err(|(_, error)| format!("failed to validate key id: {error}"))?;
    validate_annotations(&object.annotations).map_err(|error| format!("failed to validate annotations: {error}"))?;
    Ok(kind)
}

fn validate_source(source: &[u8]) -> Result<(), String> {
    let fault = match source.len() {
        0 => "encrypted DEK source is empty".to_owned(),
        bytes if bytes > SOURCE_BYTES_MAX => {
            format!("encrypted DEK source is {bytes} bytes, which exceeds the max size of {SOURCE_BYTES_MAX}")
        }
        _ => return Ok(()),
    };
    Err(format!("failed to validate encrypted DEK source: {fault}"))
}

/// What is wrong with a key's id, as a metric's label and as a sentence.
pub(super) fn validate_key_id(id: &str) -> Result<(), (&'static str, String)> {
    match id.len() {
        0 => Err(("empty", "keyID is empty".to_owned())),
        bytes if bytes > KEY_ID_BYTES_MAX => {
            Err(("too_long", format!("keyID is {bytes} bytes, which exceeds the max size of {KEY_ID_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}

fn validate_annotations(annotations: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let mut faults: Vec<String> = annotations.keys().filter_map(|key| domain_fault(key)).collect();
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        faults.push(format!(
            "total size of annotations is {bytes}, which exceeds the max size of {ANNOTATIONS_BYTES_MAX}"
        ));
    }
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn domain_fault(name: &str) -> Option<String> {
    let (mut errors, path) = (ErrorList::new(), Path::new("annotations"));
    let domain = name.strip_suffix('.').unwrap_or(name);
    let faults = dns1123_subdomain(domain);
    if name.is_empty() {
        errors.required(path, "");
    } else if !faults.is_empty() {
        errors.invalid(path, domain, faults.join(","));
    } else if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    } else if let Some(label) = domain.split('.').find(|label| !dns1123_label(label).is_empty()) {
        errors.invalid(path, label, dns1123_label(label).join(","));
    }
    (!errors.is_empty()).then(|| errors.aggregate_message())
}

/// Names a data key among all that were decrypted: everything that was said about it, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DekId([u8; 32]);

impl DekId {
    pub(super) fn of(object: &EncryptedObject) -> Self {
        let mut hash = Sha256::new();
        hash.update(object.encrypted_dek_source_type.to_be_bytes());
        let annotations = object.annotations.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_slice()]);
        for part in [object.encrypted_dek_source.as_slice(), object.key_id.as_bytes()].into_iter().chain(annotations) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// How ids are shown: `sha256:…`, and nothing of what is empty.
pub(in crate::storage::sealed) fn shown_hash(id: &str) -> String {
    if id.is_empty() {
        return String::new();
    }
    let digest = Sha256::digest(id.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
