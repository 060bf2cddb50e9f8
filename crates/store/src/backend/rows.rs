//! etcd's logical schema: which row of which bucket holds what.

use prost::Message;

use crate::command::alarm_kind_to_pb;
use crate::lease::StoredLease;
use crate::machine::Write;
use crate::mvcc::{Record, RevisionKey};
use crate::proto::{etcdserverpb, leasepb, mvccpb};
use crate::{Alarm, LeaseId, Member};

/// The buckets in use, under etcd's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bucket {
    Alarm,
    Cluster,
    Key,
    Lease,
    Members,
    Meta,
}

impl Bucket {
    pub(crate) const ALL: [Self; 6] = [Self::Alarm, Self::Cluster, Self::Key, Self::Lease, Self::Members, Self::Meta];

    /// Buckets of etcd's that are empty here.
    pub(crate) const EMPTY: [&'static str; 4] = ["auth", "authRoles", "authUsers", "members_removed"];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Lease => "lease",
            Self::Members => "members",
            Self::Meta => "meta",
        }
    }
}

pub(crate) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(crate) const TERM: &[u8] = b"term";
pub(crate) const CONF_STATE: &[u8] = b"confState";
pub(crate) const STORAGE_VERSION: &[u8] = b"storageVersion";
pub(crate) const COMPACTION_SCHEDULED: &[u8] = b"scheduledCompactRev";
pub(crate) const COMPACTION_FINISHED: &[u8] = b"finishedCompactRev";
const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// The schema written here is that of etcd 3.6.
pub(crate) const STORAGE_VERSION_NOW: &[u8] = b"3.6.0";

/// A row to set, or to delete if it has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) bucket: Bucket,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Row {
    pub(crate) fn put(bucket: Bucket, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { bucket, key: key.into(), value: Some(value.into()) }
    }

    pub(crate) fn delete(bucket: Bucket, key: impl Into<Vec<u8>>) -> Self {
        Self { bucket, key: key.into(), value: None }
    }
}

/// The row a change of the state becomes.
pub(crate) fn rows_of(write: &Write) -> Row {
    match write {
        Write::Record(record) => record_row(record),
        Write::Forget(revision) => Row::delete(Bucket::Key, revision.encode()),
        Write::Lease(lease) => lease_row(*lease),
        Write::LeaseGone(id) => Row::delete(Bucket::Lease, lease_key(*id)),
        Write::CompactionScheduled(revision) => {
            Row::put(Bucket::Meta, COMPACTION_SCHEDULED, RevisionKey::of_revision(*revision).encode())
        }
        Write::CompactionFinished(revision) => {
            Row::put(Bucket::Meta, COMPACTION_FINISHED, RevisionKey::of_revision(*revision).encode())
        }
        Write::AlarmRaised(alarm) => alarm_row(*alarm),
        Write::AlarmLowered(alarm) => Row::delete(Bucket::Alarm, alarm_row(*alarm).key),
    }
}

/// Rows that say up to where the others are whole.
pub(crate) fn progress_rows(index: u64, term: u64) -> [Row; 2] {
    [Row::put(Bucket::Meta, CONSISTENT_INDEX, index.to_be_bytes()), Row::put(Bucket::Meta, TERM, term.to_be_bytes())]
}

/// Rows that are there from the beginning, and follow the configuration.
pub(crate) fn initial_rows(member: &Member) -> Vec<Row> {
    let id = format!("{:x}", member.id);
    vec![
        Row::put(Bucket::Meta, STORAGE_VERSION, STORAGE_VERSION_NOW),
        conf_state_row(&[member.id]),
        Row::put(Bucket::Cluster, CLUSTER_VERSION, STORAGE_VERSION_NOW),
        Row::put(Bucket::Members, id, member_json(member)),
    ]
}

/// A member as etcd writes it.
fn member_json(member: &Member) -> String {
    let list = |urls: &[String]| urls.iter().map(|url| json_string(url)).collect::<Vec<_>>().join(",");
    let (id, peers, name, clients) =
        (member.id, list(&member.peer_urls), json_string(&member.name), list(&member.client_urls));
    format!("{{\"id\":{id},\"peerURLs\":[{peers}],\"name\":{name},\"clientURLs\":[{clients}]}}")
}

fn json_string(text: &str) -> String {
    let mut json = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            char if char.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => json.push(char),
        }
    }
    json.push('"');
    json
}

/// The voters as etcd writes them.
fn conf_state_row(voters: &[u64]) -> Row {
    let voters: Vec<_> = voters.iter().map(u64::to_string).collect();
    let json = format!("{{\"voters\":[{}],\"auto_leave\":false}}", voters.join(","));
    Row::put(Bucket::Meta, CONF_STATE, json)
}

pub(crate) fn record_row(record: &Record) -> Row {
    Row::put(Bucket::Key, record.revision_key().encode(), stored_key_value(record).encode_to_vec())
}

/// A tombstone's value is the key alone.
pub(crate) fn stored_key_value(record: &Record) -> mvccpb::KeyValue {
    if record.is_tombstone() {
        return mvccpb::KeyValue { key: record.key.clone(), ..Default::default() };
    }
    mvccpb::KeyValue {
        key: record.key.clone(),
        create_revision: record.create.0,
        mod_revision: record.main.0,
        version: record.version,
        value: record.value.clone(),
        lease: record.lease.0,
    }
}

pub(crate) fn lease_row(lease: StoredLease) -> Row {
    let StoredLease { id, ttl_seconds, remaining_seconds } = lease;
    let value = leasepb::Lease { id: id.0, ttl: ttl_seconds, remaining_ttl: remaining_seconds };
    Row::put(Bucket::Lease, lease_key(id), value.encode_to_vec())
}

fn lease_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

pub(crate) fn alarm_row(alarm: Alarm) -> Row {
    let kind = alarm_kind_to_pb(alarm.kind);
    let member = etcdserverpb::AlarmMember { member_id: alarm.member_id, alarm: kind.into() };
    Row::put(Bucket::Alarm, member.encode_to_vec(), Vec::new())
}
