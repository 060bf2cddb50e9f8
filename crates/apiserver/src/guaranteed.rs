//! Changing one object against other writers, as upstream's GuaranteedUpdate: look, try, and try again on what is there when
//! somebody else was faster. Every change of a stored object that is not a plain create goes through here.

use ::bytes::Bytes;
use api::{Kind, Status, Value};
use futures::FutureExt;
use futures::future::BoxFuture;
use store::Revision;

use crate::custom::conversion;
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::storage::{Current, ObjectKey, WriteOutcome};

/// Races with other writers before the client is told to try again itself. Upstream goes on for as long as the request lives; a
/// writer that loses this often in a row meets a stampede, to which it should not add.
const RACES_MAX: usize = 32;

/// The object to be changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub kind: &'a Kind,
    pub key: &'a ObjectKey,
    pub name: &'a str,
    /// The verb as upstream's errors name it.
    pub operation: &'a str,
}

/// An object as it is stored now.
#[derive(Debug)]
pub(crate) struct Live {
    pub stored: Bytes,
    pub revision: Revision,
    /// In the version of the kind, with its resourceVersion.
    pub object: Value,
    /// Sealed otherwise than it would be now: written even if nothing else changes.
    pub is_stale: bool,
}

impl Live {
    pub(crate) async fn decode(gateway: &Gateway, kind: &Kind, current: Current) -> Result<Self, Status> {
        let object = conversion::decode_stored(gateway, kind, &current.value, current.mod_revision).await?;
        Ok(Self { stored: current.value, revision: current.mod_revision, object, is_stale: current.is_stale })
    }
}

/// How one try ended.
pub(crate) enum Tried<T> {
    Done(T),
    /// Somebody else wrote in between: what is there now, if anything.
    LostRace(Option<Current>),
}

impl Gateway {
    /// Gives `attempt` what is stored (`None`: nothing), until it is done.
    pub(crate) async fn guaranteed_update<'a, T>(
        &self,
        target: Target<'_>,
        mut attempt: impl FnMut(Option<Current>) -> BoxFuture<'a, Result<Tried<T>, Status>>,
    ) -> Result<T, Status> {
        let current = self.objects.get(target.key).await;
        let mut current = current.map_err(|error| from_store(target.kind, target.operation, error))?;
        for _ in 0..RACES_MAX {
            match attempt(current).await? {
                Tried::Done(outcome) => return Ok(outcome),
                Tried::LostRace(newer) => current = newer,
            }
        }
        Err(Status::modified(target.kind.into(), target.name))
    }

    /// Lets `change` edit the object and writes it. `None` of `change` leaves it as it is; an object that is not there is
    /// `missing`. The revision that was written, if any.
    pub(crate) async fn change_stored(
        &self,
        target: Target<'_>,
        missing: impl Fn() -> Result<(), Status> + Send + Sync,
        change: impl Fn(&mut Value) -> Result<Option<()>, Status> + Send + Sync,
    ) -> Result<Option<Revision>, Status> {
        let (missing, change) = (&missing, &change);
        let attempt = |current| {
            let attempt = async move {
                let Some(current) = current else { return missing().map(|()| Tried::Done(None)) };
                let Live { revision, mut object, .. } = Live::decode(self, target.kind, current).await?;
                if change(&mut object)?.is_none() {
                    return Ok(Tried::Done(None));
                }
                let stored = conversion::encode_for_store(self, target.kind, object).await?;
                Ok(match self.put_over(target, revision, stored).await? {
                    Tried::Done(revision) => Tried::Done(Some(revision)),
                    Tried::LostRace(current) => Tried::LostRace(current),
                })
            };
            attempt.boxed()
        };
        self.guaranteed_update(target, attempt).await
    }

    /// One try to put `stored` in the place of the version last seen.
    pub(crate) async fn put_over(
        &self,
        target: Target<'_>,
        seen: Revision,
        stored: Bytes,
    ) -> Result<Tried<Revision>, Status> {
        let outcome = self.objects.update(target.key, stored, seen, self.expires(target.kind)).await;
        Ok(match outcome.map_err(|error| from_store(target.kind, target.operation, error))? {
            WriteOutcome::Written(revision) => Tried::Done(revision),
            WriteOutcome::Conflict(current) => Tried::LostRace(current),
        })
    }
}
