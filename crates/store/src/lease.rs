//! Leases: who holds which keys, and when they end.
//!
//! Existence, TTL and attached keys are replicated state. Time is not: only the leader counts, from the moment it leads, with
//! the clock's reading passed in; nobody else's leases expire. Invariant: `by_expiry` holds exactly the leases that have an
//! expiry, under it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::{LeaseId, StoreError};

/// One and a half election timeouts: a shorter lease could not survive a change of leader.
pub(crate) const LEASE_TTL_SECONDS_MIN: i64 = 2;
/// etcd's bound, some 285 years.
const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// A revocation that was proposed but did not happen is proposed again after this long.
const REVOKE_RETRY: Duration = Duration::from_secs(3);

/// Time since some fixed moment of the process.
pub(crate) type Now = Duration;

#[derive(Debug, Default)]
pub(crate) struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    by_expiry: BTreeSet<(Now, LeaseId)>,
    is_counting: bool,
}

#[derive(Debug)]
struct Lease {
    ttl_seconds: i64,
    /// What was left at the last checkpoint; 0 is "never checkpointed".
    remaining_seconds: i64,
    /// Due at; `None` unless counting.
    expiry: Option<Now>,
    /// When to propose its end: the expiry, later if that was tried already.
    due: Option<Now>,
    keys: BTreeSet<Bytes>,
}

/// A lease as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredLease {
    pub(crate) id: LeaseId,
    pub(crate) ttl_seconds: i64,
    pub(crate) remaining_seconds: i64,
}

/// The TTL that a grant of `ttl_seconds` gets.
pub(crate) fn granted_ttl(ttl_seconds: i64) -> Result<i64, StoreError> {
    if ttl_seconds > LEASE_TTL_SECONDS_MAX {
        return Err(StoreError::LeaseTtlTooLarge);
    }
    Ok(ttl_seconds.max(LEASE_TTL_SECONDS_MIN))
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.max(0).unsigned_abs())
}

impl Lessor {
    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl_seconds: i64, now: Now) -> Result<StoredLease, StoreError> {
        if id.0 == 0 {
            return Err(StoreError::LeaseNotFound);
        }
        let ttl_seconds = granted_ttl(ttl_seconds)?;
        if self.contains(id) {
            return Err(StoreError::LeaseExists);
        }
        let stored = StoredLease { id, ttl_seconds, remaining_seconds: 0 };
        self.restore(stored);
        if self.is_counting {
            self.schedule(id, now + seconds(ttl_seconds));
        }
        Ok(stored)
    }

    /// Puts a stored lease back; its keys come with [`Lessor::move_key`].
    pub(crate) fn restore(&mut self, stored: StoredLease) {
        let StoredLease { id, ttl_seconds, remaining_seconds } = stored;
        let lease = Lease { ttl_seconds, remaining_seconds, expiry: None, due: None, keys: BTreeSet::new() };
        self.leases.insert(id, lease);
    }

    /// Forgets a lease and returns its keys in order; they are the caller's to delete.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<Vec<Bytes>, StoreError> {
        let lease = self.leases.remove(&id).ok_or(StoreError::LeaseNotFound)?;
        if let Some(due) = lease.due {
            self.by_expiry.remove(&(due, id));
        }
        Ok(lease.keys.into_iter().collect())
    }

    /// Restarts a lease's clock. A lease that ran out is gone for its holder even if it is still to be revoked.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Now) -> Result<i64, StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseNotFound)?;
        if lease.expiry.is_some_and(|expiry| expiry <= now) {
            return Err(StoreError::LeaseNotFound);
        }
        lease.remaining_seconds = 0;
        let ttl_seconds = lease.ttl_seconds;
        if self.is_counting {
            self.schedule(id, now + seconds(ttl_seconds));
        }
        Ok(ttl_seconds)
    }

    /// Sets what is left of a lease, for a leader to come.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining_seconds: i64) -> Result<StoredLease, StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseNotFound)?;
        lease.remaining_seconds = remaining_seconds;
        Ok(StoredLease { id, ttl_seconds: lease.ttl_seconds, remaining_seconds })
    }

    /// Granted and remaining seconds; `None` when unknown or expired.
    pub(crate) fn time_to_live(&self, id: LeaseId, now: Now) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        let Some(expiry) = lease.expiry else { return Some((lease.ttl_seconds, lease.ttl_seconds)) };
        if expiry <= now {
            return None;
        }
        let remaining = expiry.saturating_sub(now).as_secs();
        Some((lease.ttl_seconds, i64::try_from(remaining).unwrap_or(i64::MAX)))
    }

    pub(crate) fn keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.leases.get(&id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// Moves a key from one lease to another; `LeaseId(0)` is none.
    pub(crate) fn move_key(&mut self, key: &Bytes, from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            // Its own copy: a slice would keep a whole request alive.
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }

    /// Starts counting, as the new leader: every lease gets what it had left, or all of it, and the time an election may have
    /// cost.
    pub(crate) fn promote(&mut self, now: Now, extend: Duration) {
        self.is_counting = true;
        let spans: Vec<_> = self.leases.iter().map(|(id, lease)| (*id, lease.span())).collect();
        for (id, span) in spans {
            self.schedule(id, now + span + extend);
        }
    }

    /// Stops counting: another leads.
    pub(crate) fn demote(&mut self) {
        self.is_counting = false;
        self.by_expiry.clear();
        for lease in self.leases.values_mut() {
            (lease.expiry, lease.due) = (None, None);
        }
    }

    /// Up to `n_max` leases whose end is due. Each is reported again only after a while, should its revocation get lost.
    pub(crate) fn expired(&mut self, now: Now, n_max: usize) -> Vec<LeaseId> {
        let due: Vec<_> = self.by_expiry.iter().take_while(|(due, _)| *due <= now).take(n_max).copied().collect();
        for (due, id) in &due {
            self.by_expiry.remove(&(*due, *id));
            let again = now + REVOKE_RETRY;
            self.by_expiry.insert((again, *id));
            if let Some(lease) = self.leases.get_mut(id) {
                lease.due = Some(again);
            }
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Every lease as it is stored, by id.
    pub(crate) fn stored(&self) -> impl Iterator<Item = StoredLease> {
        self.leases.iter().map(|(id, lease)| StoredLease {
            id: *id,
            ttl_seconds: lease.ttl_seconds,
            remaining_seconds: lease.remaining_seconds,
        })
    }

    /// Leases by expiry, soonest first; by id while nothing counts.
    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.leases.iter().map(|(id, lease)| (lease.expiry, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn schedule(&mut self, id: LeaseId, expiry: Now) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(due) = lease.due {
            self.by_expiry.remove(&(due, id));
        }
        (lease.expiry, lease.due) = (Some(expiry), Some(expiry));
        self.by_expiry.insert((expiry, id));
    }
}

impl Lease {
    fn span(&self) -> Duration {
        seconds(if self.remaining_seconds > 0 { self.remaining_seconds } else { self.ttl_seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counting() -> Lessor {
        let mut lessor = Lessor::default();
        lessor.promote(Now::ZERO, Duration::ZERO);
        lessor
    }

    #[test]
    fn short_ttls_are_raised_and_endless_ones_refused() {
        let mut lessor = counting();
        assert_eq!(lessor.grant(LeaseId(1), 1, Now::ZERO).map(|lease| lease.ttl_seconds), Ok(2));
        assert_eq!(lessor.grant(LeaseId(2), 9_000_000_001, Now::ZERO), Err(StoreError::LeaseTtlTooLarge));
        assert_eq!(lessor.grant(LeaseId(1), 5, Now::ZERO), Err(StoreError::LeaseExists));
    }

    #[test]
    fn a_lease_ends_when_its_time_is_up_and_not_before() {
        let mut lessor = counting();
        lessor.grant(LeaseId(7), 10, Now::ZERO).unwrap();
        assert_eq!(lessor.expired(9 * SECOND, 500), []);
        assert_eq!(lessor.keep_alive(LeaseId(7), 9 * SECOND), Ok(10));
        assert_eq!(lessor.expired(18 * SECOND, 500), []);
        assert_eq!(lessor.time_to_live(LeaseId(7), 17 * SECOND), Some((10, 2)));
        assert_eq!(lessor.expired(19 * SECOND, 500), [LeaseId(7)]);
        assert_eq!(lessor.expired(20 * SECOND, 500), [], "its revocation is on the way");
        assert_eq!(lessor.expired(22 * SECOND, 500), [LeaseId(7)], "its revocation got lost");
        assert_eq!(lessor.keep_alive(LeaseId(7), 22 * SECOND), Err(StoreError::LeaseNotFound));
        assert_eq!(lessor.revoke(LeaseId(7)), Ok(vec![]));
        assert_eq!(lessor.expired(40 * SECOND, 500), []);
    }

    #[test]
    fn a_new_leader_gives_every_lease_its_time_again() {
        let mut lessor = Lessor::default();
        lessor.restore(StoredLease { id: LeaseId(1), ttl_seconds: 10, remaining_seconds: 0 });
        lessor.restore(StoredLease { id: LeaseId(2), ttl_seconds: 10, remaining_seconds: 4 });
        assert_eq!(lessor.time_to_live(LeaseId(1), 99 * SECOND), Some((10, 10)), "nobody counts");
        lessor.promote(100 * SECOND, SECOND);
        assert_eq!(lessor.expired(105 * SECOND, 500), [LeaseId(2)]);
        assert_eq!(lessor.expired(111 * SECOND, 1), [LeaseId(2)]);
        assert_eq!(lessor.expired(111 * SECOND, 1), [LeaseId(1)]);
        lessor.demote();
        assert_eq!(lessor.expired(999 * SECOND, 500), []);
    }

    #[test]
    fn a_key_belongs_to_the_last_lease_it_was_put_with() {
        let mut lessor = counting();
        lessor.grant(LeaseId(1), 10, Now::ZERO).unwrap();
        lessor.grant(LeaseId(2), 10, Now::ZERO).unwrap();
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        lessor.move_key(&b, LeaseId(0), LeaseId(1));
        lessor.move_key(&a, LeaseId(0), LeaseId(1));
        assert_eq!(lessor.keys(LeaseId(1)), [a.clone(), b.clone()]);
        lessor.move_key(&b, LeaseId(1), LeaseId(2));
        assert_eq!(lessor.revoke(LeaseId(1)), Ok(vec![a]));
        assert_eq!(lessor.keys(LeaseId(2)), [b]);
    }
}
