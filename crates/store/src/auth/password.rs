//! Passwords: bcrypt, in the form that etcd stores. Slow on purpose, so it runs on blocking threads, a few at a time.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;

use super::AUTH_FAILED;
use crate::StoreError;

/// bcrypt looks at no more bytes; Go's library, which etcd uses, refuses longer ones.
const BYTES_MAX: usize = 72;
/// Hashes computed at a time: logins may not take all processors from everything else.
const AT_A_TIME: usize = 2;

#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    cost: u32,
    slots: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new(cost: u32) -> Self {
        Self { cost, slots: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// The hash of a new password, in base64 as it goes into the log.
    pub(crate) async fn hash(&self, password: String) -> Result<String, StoreError> {
        if password.len() > BYTES_MAX {
            return Err(StoreError::Remote("bcrypt: password length exceeds 72 bytes".to_owned()));
        }
        let cost = self.cost;
        let hash = self.slowly(move || bcrypt::hash_with_result(password, cost)).await?;
        let hash = hash.map_err(|error| StoreError::Fatal(format!("bcrypt: {error}")))?;
        Ok(STANDARD.encode(hash.format_for_version(bcrypt::Version::TwoA)))
    }

    /// Whether a password is the one that was hashed. A hash that is none fits no password.
    pub(crate) async fn verify(&self, password: String, hash: Vec<u8>) -> Result<(), StoreError> {
        let Ok(hash) = String::from_utf8(hash) else { return Err(AUTH_FAILED) };
        if password.len() > BYTES_MAX {
            return Err(AUTH_FAILED);
        }
        match self.slowly(move || bcrypt::verify(password, &hash)).await? {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(AUTH_FAILED),
        }
    }

    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
        let _slot = self.slots.acquire().await.map_err(|_closed| StoreError::Stopped)?;
        tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Fatal(format!("bcrypt: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_hash_and_gos() {
        let passwords = Passwords::new(4);
        let hash = STANDARD.decode(passwords.hash("secret".into()).await.unwrap()).unwrap();
        assert!(hash.starts_with(b"$2a$04$"));
        assert_eq!(passwords.verify("secret".into(), hash.clone()).await, Ok(()));
        assert_eq!(passwords.verify("other".into(), hash).await, Err(AUTH_FAILED));
        assert_eq!(passwords.verify("secret".into(), b"\xff".to_vec()).await, Err(AUTH_FAILED));
        assert_eq!(passwords.verify("secret".into(), Vec::new()).await, Err(AUTH_FAILED));
        let long = passwords.hash("x".repeat(73)).await.unwrap_err();
        assert_eq!(long.to_string(), "bcrypt: password length exceeds 72 bytes");
    }
}
