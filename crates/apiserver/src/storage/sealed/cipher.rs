//! The providers: what a value looks like under each of them.
//!
//! | provider | prefix | behind it |
//! |---|---|---|
//! | aesgcm | `k8s:enc:aesgcm:v1:KEY:` | nonce of 12 bytes, ciphertext, tag of 16; the store's key is authenticated with it |
//! | aescbc | `k8s:enc:aescbc:v1:KEY:` | initialisation vector of 16 bytes, ciphertext padded as PKCS #7 |
//! | secretbox | `k8s:enc:secretbox:v1:KEY:` | nonce of 24 bytes, tag of 16, ciphertext |
//! | identity | none | the value |
//! | kms | `k8s:enc:kms:v2:PLUGIN:` | a protobuf object ([`super::plugin`]) |

use std::sync::Arc;

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::consts::U12;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use crypto_secretbox::XSalsa20Poly1305;
use rand::Rng as _;

use super::plugin::Plugin;

const GCM_NONCE_BYTES: usize = 12;
const CBC_IV_BYTES: usize = 16;
const SECRETBOX_NONCE_BYTES: usize = 24;

/// One key of a provider, or a plugin, or the identity.
#[derive(Clone, Debug)]
pub(super) struct Provider {
    /// `k8s:enc:aesgcm:v1:key1:`; empty for the identity.
    pub prefix: Vec<u8>,
    pub sealer: Sealer,
}

#[derive(Clone, Debug)]
pub(super) enum Sealer {
    /// Values are left as they are.
    Identity,
    Key(Cipher),
    Plugin(Arc<Plugin>),
}

#[derive(Clone)]
pub(super) enum Cipher {
    Gcm128(Box<Aes128Gcm>),
    Gcm192(Box<AesGcm<Aes192, U12>>),
    Gcm256(Box<Aes256Gcm>),
    /// The key: a block cipher is made for each value.
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

/// The value is not what this key made.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotOurs;

impl Cipher {
    /// AES-GCM of 16, 24 or 32 bytes.
    pub(super) fn gcm(secret: &[u8]) -> Option<Self> {
        Some(match secret.len() {
            16 => Self::Gcm128(Box::new(Aes128Gcm::new_from_slice(secret).ok()?)),
            24 => Self::Gcm192(Box::new(AesGcm::new_from_slice(secret).ok()?)),
            32 => Self::Gcm256(Box::new(Aes256Gcm::new_from_slice(secret).ok()?)),
            _ => return None,
        })
    }

    /// AES-CBC of 16, 24 or 32 bytes.
    pub(super) fn cbc(secret: &[u8]) -> Option<Self> {
        matches!(secret.len(), 16 | 24 | 32).then(|| Self::Cbc(secret.to_vec()))
    }

    /// XSalsa20 and Poly1305, 32 bytes.
    pub(super) fn secretbox(secret: &[u8]) -> Option<Self> {
        Some(Self::Secretbox(Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?)))
    }

    /// Appends a value as it is stored, behind the prefix.
    pub(super) fn seal(&self, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Gcm128(gcm) => seal_gcm(gcm.as_ref(), key, value, out),
            Self::Gcm192(gcm) => seal_gcm(gcm.as_ref(), key, value, out),
            Self::Gcm256(gcm) => seal_gcm(gcm.as_ref(), key, value, out),
            Self::Cbc(secret) => {
                let iv: [u8; CBC_IV_BYTES] = rand::rng().random();
                out.extend_from_slice(&iv);
                let sealed = match secret.len() {
                    16 => encryptor::<Aes128>(secret, &iv, value),
                    24 => encryptor::<Aes192>(secret, &iv, value),
                    _ => encryptor::<Aes256>(secret, &iv, value),
                };
                out.extend_from_slice(&sealed);
            }
            Self::Secretbox(secretbox) => {
                let nonce: [u8; SECRETBOX_NONCE_BYTES] = rand::rng().random();
                out.extend_from_slice(&nonce);
                let sealed = secretbox.encrypt(&nonce.into(), value);
                out.extend_from_slice(&sealed.expect("the limit of a message is far above that of a request"));
            }
        }
    }

    pub(super) fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotOurs> {
        match self {
            Self::Gcm128(gcm) => open_gcm(gcm.as_ref(), key, sealed),
            Self::Gcm192(gcm) => open_gcm(gcm.as_ref(), key, sealed),
            Self::Gcm256(gcm) => open_gcm(gcm.as_ref(), key, sealed),
            Self::Cbc(secret) => {
                let (iv, sealed) = sealed.split_at_checked(CBC_IV_BYTES).ok_or(NotOurs)?;
                match secret.len() {
                    16 => decryptor::<Aes128>(secret, iv, sealed),
                    24 => decryptor::<Aes192>(secret, iv, sealed),
                    _ => decryptor::<Aes256>(secret, iv, sealed),
                }
            }
            Self::Secretbox(secretbox) => {
                let (nonce, sealed) = sealed.split_at_checked(SECRETBOX_NONCE_BYTES).ok_or(NotOurs)?;
                let nonce: [u8; SECRETBOX_NONCE_BYTES] = nonce.try_into().map_err(|_| NotOurs)?;
                secretbox.decrypt(&nonce.into(), sealed).map_err(|_| NotOurs)
            }
        }
    }
}

fn seal_gcm<C: Aead<NonceSize = U12>>(gcm: &C, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let nonce: [u8; GCM_NONCE_BYTES] = rand::rng().random();
    out.extend_from_slice(&nonce);
    let sealed = gcm.encrypt(&nonce.into(), Payload { msg: value, aad: key });
    out.extend_from_slice(&sealed.expect("the limit of a message is far above that of a request"));
}

fn open_gcm<C: Aead<NonceSize = U12>>(gcm: &C, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotOurs> {
    let (nonce, sealed) = sealed.split_at_checked(GCM_NONCE_BYTES).ok_or(NotOurs)?;
    let nonce: [u8; GCM_NONCE_BYTES] = nonce.try_into().map_err(|_| NotOurs)?;
    gcm.decrypt(&nonce.into(), Payload { msg: sealed, aad: key }).map_err(|_| NotOurs)
}

fn encryptor<C>(secret: &[u8], iv: &[u8], value: &[u8]) -> Vec<u8>
where
    C: cbc::cipher::BlockEncryptMut + cbc::cipher::BlockCipher + KeyInit,
    cbc::Encryptor<C>: KeyIvInit,
{
    let cbc = cbc::Encryptor::<C>::new_from_slices(secret, iv).expect("lengths were checked when the key was read");
    cbc.encrypt_padded_vec_mut::<Pkcs7>(value)
}

fn decryptor<C>(secret: &[u8], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotOurs>
where
    C: cbc::cipher::BlockDecryptMut + cbc::cipher::BlockCipher + KeyInit,
    cbc::Decryptor<C>: KeyIvInit,
{
    let cbc = cbc::Decryptor::<C>::new_from_slices(secret, iv).map_err(|_| NotOurs)?;
    cbc.decrypt_padded_vec_mut::<Pkcs7>(sealed).map_err(|_| NotOurs)
}
