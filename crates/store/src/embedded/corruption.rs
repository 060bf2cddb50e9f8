//! Whether the members hold the same data. The leader asks the others for their checksums at its own revision, from time to
//! time, and raises the alarm of one that differs; a member that starts may look before it serves. The rules are etcd's.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::EmbeddedStore;
use crate::proto::peer as pb;
use crate::{Alarm, AlarmKind, HashKv, Revision, StoreError};

/// How long another member may take to read everything it has.
const HASH_PATIENCE: Duration = Duration::from_secs(60);

/// A member's checksum, and the newest revision that it had when it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    member_id: u64,
    hash: HashKv,
    newest: Revision,
}

impl EmbeddedStore {
    /// Compares the members' data every so often while this one leads, and raises the CORRUPT alarm of one that differs. Ends
    /// only by being dropped.
    pub async fn watch_for_corruption(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if !self.raft.leads() {
                continue;
            }
            if let Err(error) = self.compare_members().await {
                tracing::warn!(%error, "failed to compare the data of the members");
            }
        }
    }

    /// Fails if another member holds something else at this one's revision. Members that cannot tell are not counted.
    pub async fn check_for_corruption(&self) -> Result<(), StoreError> {
        let own = self.hash_at(Revision(0)).await?;
        let others = self.hashes_of_others(own.hash_revision).await;
        let is_different =
            |other: &&Seen| other.hash.compact_revision == own.compact_revision && other.hash.hash != own.hash;
        let different: Vec<_> = others.iter().filter(is_different).map(|other| other.member_id).collect();
        if different.is_empty() {
            return Ok(());
        }
        for id in different {
            tracing::warn!(member = format!("{id:x}"), "found different hash values from remote peer");
        }
        Err(StoreError::Fatal(format!("{:x} found data inconsistency with peers", self.identity.member_id)))
    }

    /// One comparison, which raises at most one alarm.
    pub(super) async fn compare_members(&self) -> Result<(), StoreError> {
        let before = self.seen(Revision(0)).await?;
        let others = self.hashes_of_others(before.hash.hash_revision).await;
        self.raft.read_index().await?;
        let after = self.seen(Revision(0)).await?;
        let Some((member_id, what)) = differing(&before, &after, &others) else { return Ok(()) };
        tracing::error!(member = format!("{member_id:x}"), what, "the data of the members differ");
        self.arm_for(&crate::auth::Requester::Owner, Alarm { member_id, kind: AlarmKind::Corrupt }).await.map(drop)
    }

    async fn seen(&self, revision: Revision) -> Result<Seen, StoreError> {
        let hash = self.hash_at(revision).await?;
        Ok(Seen { member_id: self.identity.member_id, hash, newest: self.machine.read().keyspace.revision() })
    }

    async fn hashes_of_others(&self, revision: Revision) -> Vec<Seen> {
        let Some(peers) = &self.peers else { return Vec::new() };
        let own = self.identity.member_id;
        // A witness has no data to differ.
        let others: Vec<_> = self.membership(|membership| {
            membership.members.values().filter(|member| !member.is_witness).map(|member| member.id).collect()
        });
        let ask = |id: u64| async move {
            let question = pb::call::Request::HashQuery(pb::HashQuery { revision: revision.0 });
            let answer = tokio::time::timeout(HASH_PATIENCE, peers.call(id, question)).await.ok().flatten();
            match answer {
                Some(answer) if answer.error.is_empty() => Some(Seen::of(id, &answer)),
                Some(answer) => {
                    tracing::debug!(member = format!("{id:x}"), error = answer.error, "a member cannot tell its hash");
                    None
                }
                None => None,
            }
        };
        let answers = join_all(others.into_iter().filter(|id| *id != own).map(ask)).await;
        answers.into_iter().flatten().collect()
    }
}

impl Seen {
    fn of(member_id: u64, answer: &pb::Answer) -> Self {
        let hash = HashKv {
            hash: answer.hash,
            compact_revision: Revision(answer.compact_revision),
            hash_revision: Revision(answer.hash_revision),
        };
        Self { member_id, hash, newest: Revision(answer.revision) }
    }
}

/// The first member whose data are wrong, and why. `before` and `after` are what the leader saw of itself before and after it
/// asked the others, at the revision of the first.
fn differing(before: &Seen, after: &Seen, others: &[Seen]) -> Option<(u64, &'static str)> {
    let is_same_place = before.hash.hash_revision == after.hash.hash_revision
        && before.hash.compact_revision == after.hash.compact_revision;
    if is_same_place && before.hash.hash != after.hash.hash {
        return Some((before.member_id, "its own hash changed without a change"));
    }
    others.iter().find_map(|other| {
        let what = if other.newest > after.newest {
            "its revision is newer than the leader's"
        } else if other.hash.compact_revision > after.hash.compact_revision {
            "its compacted revision is newer than the leader's"
        } else if other.hash.compact_revision == before.hash.compact_revision && other.hash.hash != before.hash.hash {
            "its hash is not the leader's"
        } else {
            return None;
        };
        Some((other.member_id, what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(member_id: u64, hash: u32, compact: i64, newest: i64) -> Seen {
        let hash = HashKv { hash, compact_revision: Revision(compact), hash_revision: Revision(9) };
        Seen { member_id, hash, newest: Revision(newest) }
    }

    #[test]
    fn a_member_differs_when_it_is_ahead_or_has_another_hash_at_the_same_place() {
        let leader = seen(1, 7, 3, 10);
        let who = |others: &[Seen]| differing(&leader, &leader, others).map(|(id, _)| id);
        assert_eq!(who(&[seen(2, 7, 3, 10), seen(3, 7, 3, 9)]), None, "a follower may be behind");
        assert_eq!(who(&[seen(2, 8, 2, 9)]), None, "before a compaction other rows count");
        assert_eq!(who(&[seen(2, 7, 3, 10), seen(3, 8, 3, 10)]), Some(3));
        assert_eq!(who(&[seen(2, 7, 3, 11)]), Some(2));
        assert_eq!(who(&[seen(2, 7, 4, 10)]), Some(2));
        let compacted = seen(1, 6, 5, 12);
        let later = |others: &[Seen]| differing(&leader, &compacted, others).map(|(id, _)| id);
        assert_eq!(later(&[seen(2, 6, 5, 12)]), None, "the compaction reached the other in between");
        assert_eq!(later(&[seen(2, 8, 3, 10)]), Some(2));
        assert_eq!(differing(&leader, &seen(1, 8, 3, 12), &[]).map(|(id, _)| id), Some(1));
    }
}
