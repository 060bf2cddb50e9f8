//! The replicated state and how a command changes it: keyspace, leases, alarms, users. Pure: the clock's reading is passed in and only
//! reaches what is not replicated (when a lease ends).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::{Auth, AuthWrite};
use crate::command::Command;
use crate::lease::{Lessor, Now, StoredLease};
use crate::membership::{MemberChange, Membership};
use crate::mvcc::{Keyspace, Record, RevisionKey, RowHead};
use crate::{Alarm, AlarmKind, LeaseId, Member, Op, Revision, StoreError, Txn, TxnResponse};

const CORRUPT: StoreError = StoreError::Refused("corrupt cluster");

#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) keyspace: Keyspace,
    pub(crate) lessor: Lessor,
    pub(crate) alarms: BTreeSet<Alarm>,
    pub(crate) membership: Membership,
    /// Index and term of the log entry that led to this state.
    pub(crate) applied: (u64, u64),
    pub(crate) auth: Auth,
    /// The version that the cluster is prepared for.
    pub(crate) downgrade: Option<String>,
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Txn(TxnResponse),
    Granted { id: LeaseId, ttl_seconds: i64 },
    Lowered(Option<Alarm>),
    Members(Vec<Member>),
    Done,
}

/// A change of what is stored, in the order of application.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Record(Arc<Record>),
    /// A version that nobody can read any more.
    Forget(RevisionKey),
    Lease(StoredLease),
    LeaseGone(LeaseId),
    CompactionScheduled(Revision),
    CompactionFinished(Revision),
    AlarmRaised(Alarm),
    AlarmLowered(Alarm),
    Member(Member),
    MemberRemoved(u64),
    /// Who votes and who learns, after a change.
    ConfState {
        voters: Vec<u64>,
        learners: Vec<u64>,
    },
    Auth(AuthWrite),
    Downgrade(Option<String>),
}

impl Machine {
    /// Applies a command. `writes` gets what the backend has to store, also in case of an error (then nothing).
    pub(crate) fn apply(&mut self, command: Command, now: Now, writes: &mut Vec<Write>) -> Result<Outcome, StoreError> {
        self.refuse_under_alarm(&command)?;
        match command {
            Command::As { who, command } => {
                self.auth.permit(who.as_ref(), &command, &self.lessor)?;
                self.apply(*command, now, writes)
            }
            Command::Txn(txn) => {
                let (response, changes) = self.keyspace.txn(&mut self.lessor, &txn)?;
                writes.extend(changes.into_iter().map(Write::Record));
                Ok(Outcome::Txn(response))
            }
            Command::Compact { revision, physical: _ } => {
                self.keyspace.compact(revision)?;
                writes.push(Write::CompactionScheduled(revision));
                Ok(Outcome::Done)
            }
            Command::LeaseGrant { id, ttl_seconds } => {
                let lease = self.lessor.grant(id, ttl_seconds, now)?;
                writes.push(Write::Lease(lease));
                Ok(Outcome::Granted { id, ttl_seconds: lease.ttl_seconds })
            }
            Command::LeaseRevoke { id } => {
                let keys = self.lessor.revoke(id)?;
                let mut write = self.keyspace.begin(&mut self.lessor);
                for key in keys {
                    write.delete_range(&crate::KeyRange::key(key));
                }
                writes.extend(write.finish().into_iter().map(Write::Record));
                writes.push(Write::LeaseGone(id));
                Ok(Outcome::Done)
            }
            Command::LeaseCheckpoint { remaining_seconds } => {
                for (id, remaining) in remaining_seconds {
                    // A lease revoked meanwhile needs no checkpoint.
                    if let Ok(lease) = self.lessor.checkpoint(id, remaining) {
                        writes.push(Write::Lease(lease));
                    }
                }
                Ok(Outcome::Done)
            }
            Command::AlarmRaise(alarm) => {
                if self.alarms.insert(alarm) {
                    writes.push(Write::AlarmRaised(alarm));
                }
                Ok(Outcome::Done)
            }
            Command::AlarmLower(alarm) => {
                let lowered = self.alarms.remove(&alarm).then_some(alarm);
                writes.extend(lowered.map(Write::AlarmLowered));
                Ok(Outcome::Lowered(lowered))
            }
            Command::MemberAttributes { id, name, client_urls } => {
                let changed = self.membership.set_attributes(id, name, client_urls);
                writes.extend(changed.cloned().map(Write::Member));
                Ok(Outcome::Members(self.membership.list()))
            }
            Command::MemberUpdate { id, peer_urls } => {
                let changed = self.membership.update(id, peer_urls)?;
                writes.push(Write::Member(changed.clone()));
                Ok(Outcome::Members(self.membership.list()))
            }
            Command::Auth(change) => {
                let mut changed = Vec::new();
                self.auth.apply(change, &mut changed)?;
                writes.extend(changed.into_iter().map(Write::Auth));
                Ok(Outcome::Done)
            }
            Command::Authenticate { user, token } => {
                self.auth.assign_token(&user, token, now)?;
                Ok(Outcome::Done)
            }
            Command::Downgrade(target) => {
                self.downgrade.clone_from(&target);
                writes.push(Write::Downgrade(target));
                Ok(Outcome::Done)
            }
        }
    }

    /// Makes a change of the members that [`Membership::check`] allowed.
    pub(crate) fn change_members(&mut self, change: MemberChange, writes: &mut Vec<Write>) -> Outcome {
        let id = change.id();
        self.membership.apply(change);
        writes.push(match self.membership.members.get(&id) {
            Some(member) => Write::Member(member.clone()),
            None => Write::MemberRemoved(id),
        });
        let conf_state = self.membership.conf_state();
        writes.push(Write::ConfState { voters: conf_state.voters, learners: conf_state.learners });
        Outcome::Members(self.membership.list())
    }

    fn refuse_under_alarm(&self, command: &Command) -> Result<(), StoreError> {
        let is_raised = |kind| self.alarms.iter().any(|alarm| alarm.kind == kind);
        let changes_data = matches!(
            command.bare(),
            Command::Txn(_) | Command::Compact { .. } | Command::LeaseGrant { .. } | Command::LeaseRevoke { .. }
        );
        if changes_data && is_raised(AlarmKind::Corrupt) {
            return Err(CORRUPT);
        }
        let adds_data = match command {
            Command::Txn(txn) => has_put(txn),
            Command::LeaseGrant { .. } => true,
            // A client's command comes by here again, once it is known that the client may give it.
            _ => false,
        };
        if adds_data && is_raised(AlarmKind::NoSpace) { Err(StoreError::NoSpace) } else { Ok(()) }
    }

    /// Puts a stored record back, with its lease. Records come in revision order, after the leases.
    pub(crate) fn restore(&mut self, record: Record) {
        let before = self.keyspace.get(&record.key, record.main).map_or(LeaseId(0), |before| before.lease());
        self.lessor.move_key(&record.key, before, record.lease);
        self.keyspace.restore(record);
    }

    /// As [`Machine::restore`], with a value that stays on disk; `None` if that cannot be done.
    pub(crate) fn restore_cold(&mut self, at: RevisionKey, head: &RowHead<'_>) -> Option<()> {
        let before = self.keyspace.restore_cold(at, head)?;
        if before != head.lease {
            self.lessor.move_key(&Bytes::copy_from_slice(head.key), before, head.lease);
        }
        Some(())
    }
}

/// What a transaction may add, as etcd estimates it: the bytes of its larger branch, and a flat rate for every put.
pub(crate) fn cost_bytes(txn: &Txn) -> usize {
    const PUT_BYTES: usize = 256;
    let branch = |ops: &[Op]| -> usize {
        let costs = ops.iter().map(|op| match op {
            Op::Put(put) => PUT_BYTES + put.key.len() + put.value.len(),
            Op::Txn(nested) => cost_bytes(nested),
            Op::Range(_) | Op::Delete(_) => 0,
        });
        costs.sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// True when some branch of a transaction can add data.
pub(crate) fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => has_put(nested),
        Op::Range(_) | Op::Delete(_) => false,
    })
}
