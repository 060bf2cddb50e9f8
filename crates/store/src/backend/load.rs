//! From the rows of a backend to the state they describe.

use bytes::Bytes;
use prost::Message;

use super::rows::{COMPACTION_FINISHED, COMPACTION_SCHEDULED, CONSISTENT_INDEX, TERM};
use super::{Backend, BackendError, Bucket};
use crate::command::alarm_kind_from_pb;
use crate::lease::StoredLease;
use crate::machine::Machine;
use crate::mvcc::{Record, RevisionKey};
use crate::proto::{etcdserverpb, leasepb, mvccpb};
use crate::{Alarm, LeaseId, Revision};

/// A state and the log position it is whole up to.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) machine: Machine,
    pub(crate) index: u64,
    pub(crate) term: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("bucket {bucket} has a damaged row {key:02x?}")]
    Damaged { bucket: &'static str, key: Vec<u8> },
}

/// Visits a bucket with a function that says whether a row made sense.
fn scan(
    backend: &dyn Backend,
    bucket: Bucket,
    mut visit: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), LoadError> {
    let mut damaged = None;
    backend.scan(bucket, &mut |key, value| {
        if damaged.is_none() && visit(key, value).is_none() {
            damaged = Some(key.to_vec());
        }
    })?;
    match damaged {
        None => Ok(()),
        Some(key) => Err(LoadError::Damaged { bucket: bucket.name(), key }),
    }
}

pub(crate) fn load(backend: &dyn Backend) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded::default();
    let machine = &mut loaded.machine;
    scan(backend, Bucket::Lease, |key, value| {
        let lease = leasepb::Lease::decode(value).ok()?;
        let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
        let (ttl_seconds, remaining_seconds) = (lease.ttl, lease.remaining_ttl);
        machine.lessor.restore(StoredLease { id, ttl_seconds, remaining_seconds });
        Some(())
    })?;
    scan(backend, Bucket::Alarm, |key, _| {
        let member = etcdserverpb::AlarmMember::decode(key).ok()?;
        machine.alarms.insert(Alarm { member_id: member.member_id, kind: alarm_kind_from_pb(member.alarm)? });
        Some(())
    })?;
    scan(backend, Bucket::Key, |key, value| {
        let revision = RevisionKey::decode(key)?;
        if value.is_empty() {
            // A restore that bumped the revision leaves a row that says nothing else.
            machine.keyspace.restore_revision(revision.main);
            return Some(());
        }
        machine.restore(decode_record(revision, value)?);
        Some(())
    })?;
    let mut compacted = Revision(-1);
    let (mut index, mut term) = (0, 0);
    scan(backend, Bucket::Meta, |key, value| {
        match key {
            CONSISTENT_INDEX => index = u64::from_be_bytes(value.try_into().ok()?),
            TERM => term = u64::from_be_bytes(value.try_into().ok()?),
            COMPACTION_SCHEDULED | COMPACTION_FINISHED => {
                compacted = compacted.max(RevisionKey::decode(value)?.main);
            }
            _ => {}
        }
        Some(())
    })?;
    machine.keyspace.restore_compacted(compacted);
    (loaded.index, loaded.term) = (index, term);
    Ok(loaded)
}

fn decode_record(revision: RevisionKey, value: &[u8]) -> Option<Record> {
    let kv = mvccpb::KeyValue::decode(Bytes::copy_from_slice(value)).ok()?;
    if revision.tombstone {
        return Some(Record::tombstone(kv.key, revision.main, revision.sub));
    }
    Some(Record {
        key: kv.key,
        value: kv.value,
        create: Revision(kv.create_revision),
        main: revision.main,
        sub: revision.sub,
        version: kv.version,
        lease: LeaseId(kv.lease),
    })
}
