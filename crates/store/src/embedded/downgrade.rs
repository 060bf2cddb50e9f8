//! Preparing the cluster for members of the version before, with etcd's checks and texts. Nothing is rewritten: the state
//! leaves this store as a snapshot, and says in its `downgrade` row what it was prepared for.

use super::EmbeddedStore;
use crate::auth::Requester;
use crate::command::Command;
use crate::etcd::STORAGE_VERSION;
use crate::{Downgrade, StoreError};

const WRONG_FORMAT: StoreError = StoreError::InvalidArgument("wrong downgrade target version format");
const INVALID_TARGET: StoreError = StoreError::InvalidArgument("invalid downgrade target version");
const IN_PROCESS: StoreError = StoreError::Refused("cluster has a downgrade job in progress");

impl EmbeddedStore {
    /// Returns the cluster's version as `major.minor`.
    pub(super) async fn downgrade_for(&self, requester: &Requester, request: Downgrade) -> Result<String, StoreError> {
        let (ours, cluster) = parse(STORAGE_VERSION).ok_or(WRONG_FORMAT)?;
        let version = format!("{ours}.{cluster}");
        let target = match &request {
            Downgrade::Validate(target) | Downgrade::Enable(target) => parse(target).ok_or(WRONG_FORMAT)?,
            // Without a downgrade to take back, upstream answers the same.
            Downgrade::Cancel => {
                if self.machine.read().downgrade.is_some() {
                    self.propose(requester.command(Command::Downgrade(None))).await?;
                }
                return Ok(version);
            }
        };
        self.confirm_read().await?;
        if target != (ours, cluster - 1) {
            return Err(INVALID_TARGET);
        }
        if self.machine.read().downgrade.is_some() {
            return Err(IN_PROCESS);
        }
        if let Downgrade::Enable(_) = request {
            let target = format!("{}.{}.0", target.0, target.1);
            self.propose(requester.command(Command::Downgrade(Some(target)))).await?;
        }
        Ok(version)
    }
}

/// Major and minor of a version like `3.5` or `3.5.1`.
fn parse(version: &str) -> Option<(u64, u64)> {
    let numbers: Vec<u64> = version.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EmbeddedConfig, Store};

    #[tokio::test]
    async fn a_downgrade_goes_to_the_version_before_and_back() {
        let store = EmbeddedStore::open(EmbeddedConfig::default()).unwrap();
        let validate = |target: &str| store.downgrade(Downgrade::Validate(target.into()));
        assert_eq!(validate("3.5").await, Ok("3.6".to_owned()));
        assert_eq!(validate("3.5.9").await, Ok("3.6".to_owned()));
        for (target, error) in
            [("x", WRONG_FORMAT), ("3", WRONG_FORMAT), ("3.6", INVALID_TARGET), ("2.5", INVALID_TARGET)]
        {
            assert_eq!(validate(target).await, Err(error), "{target}");
        }
        assert_eq!(store.downgrade(Downgrade::Enable("3.5".into())).await, Ok("3.6".to_owned()));
        assert_eq!(store.status().await.unwrap().downgrade_target, Some("3.5.0".to_owned()));
        assert_eq!(store.downgrade(Downgrade::Enable("3.5".into())).await, Err(IN_PROCESS));
        assert_eq!(store.downgrade(Downgrade::Cancel).await, Ok("3.6".to_owned()));
        assert_eq!(store.downgrade(Downgrade::Cancel).await, Ok("3.6".to_owned()));
        assert_eq!(store.status().await.unwrap().downgrade_target, None);
    }
}
