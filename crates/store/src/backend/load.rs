//! From the rows of a backend to the state they describe.

use bytes::Bytes;
use prost::Message;

use super::rows::{
    AUTH_ENABLED, AUTH_REVISION, COMPACTION_FINISHED, COMPACTION_SCHEDULED, CONSISTENT_INDEX, DOWNGRADE, INSTALLED,
    TERM, decode_member,
};
use super::{Backend, BackendError, Bucket};
use crate::auth::AuthWrite;
use crate::command::alarm_kind_from_pb;
use crate::lease::StoredLease;
use crate::machine::Machine;
use crate::mvcc::{Cache, Keyspace, RevisionKey, decode_head, decode_record};
use crate::proto::{authpb, etcdserverpb, leasepb};
use crate::{Alarm, LeaseId, Revision};

/// A state, with the log position it is whole up to.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) machine: Machine,
    /// The state is just as a snapshot brought it.
    pub(crate) is_installed: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("bucket {bucket} has a damaged row {key:02x?}")]
    Damaged { bucket: &'static str, key: Vec<u8> },
}

/// Buckets in the order in which their rows are read: leases before the keys that hang on them, roles before who has them.
const ORDER: [Bucket; 10] = [
    Bucket::Lease,
    Bucket::Alarm,
    Bucket::AuthRoles,
    Bucket::AuthUsers,
    Bucket::Auth,
    Bucket::Cluster,
    Bucket::Members,
    Bucket::MembersRemoved,
    Bucket::Key,
    Bucket::Meta,
];

/// Keeps the newest values, up to `value_cache_bytes` of them, in memory if the backend can be asked for the others.
pub(crate) fn load(backend: &dyn Backend, value_cache_bytes: usize) -> Result<Loaded, LoadError> {
    let mut loader = Loader::default();
    if let Some(rows) = backend.rows() {
        // A row costs more memory than it has bytes, so the values of all rows but the last so many bytes have no room anyway.
        loader.cold_bytes =
            usize::try_from(backend.sizes().in_use_bytes).unwrap_or(0).saturating_sub(value_cache_bytes);
        loader.machine.keyspace = Keyspace::with_cache(Cache::backed_by(rows, value_cache_bytes));
    }
    for bucket in ORDER {
        let mut damaged = None;
        backend.scan(bucket, &mut |key, value| {
            if damaged.is_none() && loader.row(bucket, key, value).is_none() {
                damaged = Some(key.to_vec());
            }
        })?;
        if let Some(key) = damaged {
            return Err(LoadError::Damaged { bucket: bucket.name(), key });
        }
    }
    Ok(loader.finish())
}

/// Builds a state row by row; leases come before records, records in order of revision.
#[derive(Debug)]
pub(crate) struct Loader {
    machine: Machine,
    compacted: Revision,
    index: u64,
    term: u64,
    installed: u64,
    /// Place of the last record.
    last: (Revision, i64),
    /// The values of the first rows, of about this many bytes, stay where they are.
    cold_bytes: usize,
    is_cold: bool,
    /// A witness wants to know who is in the cluster, and how far the state is.
    only_members: bool,
}

impl Default for Loader {
    fn default() -> Self {
        Self {
            machine: Machine::default(),
            compacted: Revision(-1),
            index: 0,
            term: 0,
            installed: 0,
            last: (Revision(0), -1),
            cold_bytes: 0,
            is_cold: false,
            only_members: false,
        }
    }
}

impl Loader {
    /// Into a keyspace that says where values are which it does not keep in memory.
    pub(super) fn into_keyspace(keyspace: Keyspace) -> Self {
        Self { machine: Machine { keyspace, ..Machine::default() }, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> usize {
        self.machine.keyspace.cache().bytes()
    }

    /// For a witness.
    pub(crate) fn of_members() -> Self {
        Self { only_members: true, ..Self::default() }
    }

    /// `None` if the row makes no sense.
    pub(crate) fn row(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) -> Option<()> {
        if self.only_members && !matches!(bucket, Bucket::Members | Bucket::MembersRemoved | Bucket::Meta) {
            return Some(());
        }
        let machine = &mut self.machine;
        match bucket {
            Bucket::Lease => {
                let lease = leasepb::Lease::decode(value).ok()?;
                let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
                let (ttl_seconds, remaining_seconds) = (lease.ttl, lease.remaining_ttl);
                machine.lessor.restore(StoredLease { id, ttl_seconds, remaining_seconds });
            }
            Bucket::Alarm => {
                let member = etcdserverpb::AlarmMember::decode(key).ok()?;
                machine.alarms.insert(Alarm { member_id: member.member_id, kind: alarm_kind_from_pb(member.alarm)? });
            }
            Bucket::Cluster if key == DOWNGRADE => {
                let info: serde_json::Value = serde_json::from_slice(value).ok()?;
                let target = info.get("target-version")?.as_str()?;
                machine.downgrade = info.get("enabled")?.as_bool()?.then(|| target.to_owned());
            }
            Bucket::Cluster => {}
            Bucket::AuthRoles => machine.auth.restore(AuthWrite::Role(authpb::Role::decode(value).ok()?))?,
            Bucket::AuthUsers => machine.auth.restore(AuthWrite::User(authpb::User::decode(value).ok()?))?,
            Bucket::Auth => machine.auth.restore(match key {
                AUTH_ENABLED => AuthWrite::Enabled(value == [1]),
                AUTH_REVISION => AuthWrite::Revision(u64::from_be_bytes(value.try_into().ok()?)),
                _ => return Some(()),
            })?,
            Bucket::Members => {
                let member = decode_member(value)?;
                machine.membership.members.insert(member.id, member);
            }
            Bucket::MembersRemoved => {
                let id = u64::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok()?;
                machine.membership.removed.insert(id);
            }
            Bucket::Key => {
                let revision = RevisionKey::decode(key)?;
                if value.is_empty() {
                    // A restore that bumped the revision leaves a row that says nothing else.
                    machine.keyspace.restore_revision(revision.main);
                    return Some(());
                }
                let place = (revision.main, revision.sub);
                let last = std::mem::replace(&mut self.last, place);
                if place <= last {
                    return None;
                }
                if last.0 != place.0 {
                    // A revision is in memory as a whole or not at all.
                    self.is_cold = self.cold_bytes > 0;
                }
                self.cold_bytes = self.cold_bytes.saturating_sub(key.len() + value.len());
                if self.is_cold {
                    if let Some(head) = decode_head(value) {
                        return machine.restore_cold(revision, &head);
                    }
                    let record = decode_record(revision, Bytes::copy_from_slice(value))?;
                    return machine.restore_cold(revision, &record.head());
                }
                machine.restore(decode_record(revision, Bytes::copy_from_slice(value))?);
            }
            Bucket::Meta => match key {
                CONSISTENT_INDEX => self.index = u64::from_be_bytes(value.try_into().ok()?),
                TERM => self.term = u64::from_be_bytes(value.try_into().ok()?),
                INSTALLED => self.installed = u64::from_be_bytes(value.try_into().ok()?),
                COMPACTION_SCHEDULED | COMPACTION_FINISHED => {
                    self.compacted = self.compacted.max(RevisionKey::decode(value)?.main);
                }
                _ => {}
            },
        }
        Some(())
    }

    pub(crate) fn finish(self) -> Loaded {
        let Self { mut machine, compacted, index, term, installed, last: _, cold_bytes: _, is_cold: _, only_members } =
            self;
        if !only_members {
            machine.keyspace.restore_compacted(compacted);
        }
        machine.applied = (index, term);
        Loaded { machine, is_installed: installed == index && index > 0 }
    }
}
