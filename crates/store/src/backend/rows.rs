//! etcd's logical schema: which row of which bucket holds what.

use std::sync::Arc;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::auth::AuthWrite;
use crate::command::alarm_kind_to_pb;
use crate::lease::StoredLease;
use crate::machine::{Machine, Write};
use crate::membership::Membership;
use crate::mvcc::{CHUNK_KEYS_MAX, Kept, Record, RevisionKey, Rows};
use crate::proto::{etcdserverpb, leasepb, mvccpb};
use crate::{Alarm, LeaseId, Member, Revision, StoreError};

/// The buckets in use, under etcd's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bucket {
    Alarm,
    Auth,
    AuthRoles,
    AuthUsers,
    Cluster,
    Key,
    Lease,
    Members,
    MembersRemoved,
    Meta,
}

impl Bucket {
    pub(crate) const ALL: [Self; 10] = [
        Self::Alarm,
        Self::Auth,
        Self::AuthRoles,
        Self::AuthUsers,
        Self::Cluster,
        Self::Key,
        Self::Lease,
        Self::Members,
        Self::MembersRemoved,
        Self::Meta,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Auth => "auth",
            Self::AuthRoles => "authRoles",
            Self::AuthUsers => "authUsers",
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Lease => "lease",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
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
/// Not etcd's: the index of the last snapshot that was installed, see [`installed_row`].
pub(crate) const INSTALLED: &[u8] = b"installedSnapshot";
pub(crate) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(crate) const AUTH_REVISION: &[u8] = b"authRevision";
pub(crate) const DOWNGRADE: &[u8] = b"downgrade";
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
        Write::Member(member) => member_row(member),
        Write::MemberRemoved(id) => Row::delete(Bucket::Members, member_key(*id)),
        Write::ConfState { voters, learners } => conf_state_row(voters, learners),
        Write::Auth(write) => auth_row(write),
        Write::Downgrade(target) => downgrade_row(target.as_deref()),
    }
}

/// The rows a change becomes: one, but for a removal, which is also remembered.
pub(crate) fn push_rows_of(write: &Write, rows: &mut Vec<Row>) {
    rows.push(rows_of(write));
    if let Write::MemberRemoved(id) = write {
        rows.push(removed_row(*id));
    }
}

/// Rows that say up to where the others are whole.
pub(crate) fn progress_rows(index: u64, term: u64) -> [Row; 2] {
    [Row::put(Bucket::Meta, CONSISTENT_INDEX, index.to_be_bytes()), Row::put(Bucket::Meta, TERM, term.to_be_bytes())]
}

/// Rows that are there from the beginning.
pub(crate) fn initial_rows(membership: &Membership) -> Vec<Row> {
    let mut rows = vec![
        Row::put(Bucket::Meta, STORAGE_VERSION, STORAGE_VERSION_NOW),
        Row::put(Bucket::Cluster, CLUSTER_VERSION, STORAGE_VERSION_NOW),
    ];
    rows.extend(membership_rows(membership));
    rows
}

fn membership_rows(membership: &Membership) -> Vec<Row> {
    let conf_state = membership.conf_state();
    let mut rows = vec![conf_state_row(&conf_state.voters, &conf_state.learners)];
    rows.extend(membership.members.values().map(member_row));
    rows.extend(membership.removed.iter().map(|id| removed_row(*id)));
    rows
}

/// Says that the state was not made by the log before `index` but came whole: a log that ends before it is out of date, not
/// damaged.
pub(crate) fn installed_row(index: u64) -> Row {
    Row::put(Bucket::Meta, INSTALLED, index.to_be_bytes())
}

fn member_row(member: &Member) -> Row {
    let stored = StoredMember::from(member);
    // A struct of numbers and texts always has a form in JSON.
    Row::put(Bucket::Members, member_key(member.id), serde_json::to_vec(&stored).unwrap_or_default())
}

fn removed_row(id: u64) -> Row {
    Row::put(Bucket::MembersRemoved, member_key(id), "removed")
}

fn member_key(id: u64) -> String {
    format!("{id:x}")
}

/// A member as etcd writes it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMember {
    id: u64,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    /// Not etcd's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_witness: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    client_urls: Vec<String>,
}

impl From<&Member> for StoredMember {
    fn from(member: &Member) -> Self {
        let Member { id, name, peer_urls, client_urls, is_learner, is_witness } = member.clone();
        Self { id, peer_urls, is_learner, is_witness, name, client_urls }
    }
}

pub(crate) fn decode_member(value: &[u8]) -> Option<Member> {
    let StoredMember { id, peer_urls, is_learner, is_witness, name, client_urls } =
        serde_json::from_slice(value).ok()?;
    Some(Member { id, name, peer_urls, client_urls, is_learner, is_witness })
}

/// Voters and learners as etcd writes them.
fn conf_state_row(voters: &[u64], learners: &[u64]) -> Row {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let learners = if learners.is_empty() { String::new() } else { format!("\"learners\":[{}],", list(learners)) };
    let json = format!("{{\"voters\":[{}],{learners}\"auto_leave\":false}}", list(voters));
    Row::put(Bucket::Meta, CONF_STATE, json)
}

pub(crate) fn record_row(record: &Record) -> Row {
    Row::put(Bucket::Key, record.revision_key().encode(), stored_key_value(record).encode_to_vec())
}

/// A tombstone's value is the key alone. The record's own value must be in memory.
pub(crate) fn stored_key_value(record: &Record) -> mvccpb::KeyValue {
    debug_assert!(record.value.here().is_some(), "a version is stored once, with its value");
    if record.is_tombstone() {
        return mvccpb::KeyValue { key: record.key.clone(), ..Default::default() };
    }
    mvccpb::KeyValue {
        key: record.key.clone(),
        create_revision: record.create.0,
        mod_revision: record.main.0,
        version: record.version,
        value: record.value.here().cloned().unwrap_or_default(),
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

pub(crate) fn auth_row(write: &AuthWrite) -> Row {
    match write {
        AuthWrite::Enabled(enabled) => Row::put(Bucket::Auth, AUTH_ENABLED, [u8::from(*enabled)]),
        AuthWrite::Revision(revision) => Row::put(Bucket::Auth, AUTH_REVISION, revision.to_be_bytes()),
        AuthWrite::User(user) => Row::put(Bucket::AuthUsers, user.name.to_vec(), user.encode_to_vec()),
        AuthWrite::UserGone(name) => Row::delete(Bucket::AuthUsers, name.as_bytes()),
        AuthWrite::Role(role) => Row::put(Bucket::AuthRoles, role.name.to_vec(), role.encode_to_vec()),
        AuthWrite::RoleGone(name) => Row::delete(Bucket::AuthRoles, name.as_bytes()),
    }
}

/// A downgrade as etcd writes it.
pub(crate) fn downgrade_row(target: Option<&str>) -> Row {
    let version = serde_json::Value::from(target.unwrap_or_default());
    let json = format!("{{\"target-version\":{version},\"enabled\":{}}}", target.is_some());
    Row::put(Bucket::Cluster, DOWNGRADE, json)
}

/// The rows of versions, read from disk where they are not in memory.
pub(crate) fn encode_versions(
    versions: &[Kept],
    stored: Option<&Arc<dyn Rows>>,
) -> Result<Vec<bytes::Bytes>, StoreError> {
    each_row(versions, stored, |here| here.encode_to_vec().into(), |rows, wanted| rows.get(wanted))
}

/// Lengths of the same rows, without a copy of them.
pub(crate) fn row_lengths(versions: &[Kept], stored: Option<&Arc<dyn Rows>>) -> Result<Vec<usize>, StoreError> {
    each_row(versions, stored, mvccpb::KeyValue::encoded_len, |rows, wanted| rows.lengths(wanted))
}

/// What `hot` makes of versions in memory, and `cold` of those that are only on disk.
fn each_row<T>(
    versions: &[Kept],
    stored: Option<&Arc<dyn Rows>>,
    hot: impl Fn(&mvccpb::KeyValue) -> T,
    cold: impl FnOnce(&dyn Rows, &[RevisionKey]) -> Result<Vec<Option<T>>, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let wanted: Vec<_> = versions.iter().filter(|version| version.hot.is_none()).map(|version| version.at).collect();
    let mut found = match stored {
        Some(rows) if !wanted.is_empty() => cold(rows.as_ref(), &wanted)?.into_iter(),
        _ => Vec::new().into_iter(),
    };
    let missing = |version: &Kept| StoreError::Fatal(format!("the row of revision {} is missing", version.at.main));
    let row = |version: &Kept| match &version.hot {
        Some(record) => Ok(hot(&stored_key_value(record))),
        None => found.next().flatten().ok_or_else(|| missing(version)),
    };
    versions.iter().map(row).collect()
}

/// Versions read from disk at a time.
const BATCH_VERSIONS: usize = 32;

/// Everything a state consists of, taken at one moment. Values stay where they are until they are asked for.
#[derive(Debug)]
pub(crate) struct StateRows {
    /// All rows but those of records, in the order in which they are read back.
    small: Vec<Row>,
    versions: Vec<Kept>,
    /// Where the versions are that are not in memory.
    stored: Option<Arc<dyn Rows>>,
    meta: Vec<Row>,
    /// The newest one.
    pub(crate) revision: Revision,
    /// Index and term of the log entry that led to the state.
    pub(crate) applied: (u64, u64),
    pub(crate) membership: Membership,
}

impl StateRows {
    /// To be called under the machine's lock; takes some 100 ns a version.
    pub(crate) fn of(machine: &Machine) -> Self {
        let mut small: Vec<Row> = machine.lessor.stored().map(lease_row).collect();
        small.extend(machine.alarms.iter().copied().map(alarm_row));
        small.extend(machine.auth.stored().iter().map(auth_row));
        small.extend(machine.downgrade.as_deref().map(|target| downgrade_row(Some(target))));
        let membership = machine.membership.clone();
        small.extend(initial_rows(&membership));
        let (revision, compacted) = (machine.keyspace.revision(), machine.keyspace.compacted());
        let mut versions = Vec::new();
        let mut next = Some(bytes::Bytes::new());
        while let Some(start) = next {
            next = machine.keyspace.collect_kept(&start, CHUNK_KEYS_MAX, revision, compacted, &mut versions);
        }
        versions.sort_unstable_by_key(|version| (version.at.main, version.at.sub));
        let stored = machine.keyspace.cache().rows().cloned();
        let applied = machine.applied;
        let mut meta: Vec<Row> = progress_rows(applied.0, applied.1).into();
        meta.push(installed_row(applied.0));
        if compacted > Revision(0) {
            meta.push(rows_of(&Write::CompactionScheduled(compacted)));
            meta.push(rows_of(&Write::CompactionFinished(compacted)));
        }
        // The newest change may have been a deletion that compaction took.
        let newest = versions.last().map_or(Revision(0), |version| version.at.main);
        if newest < revision && compacted < revision {
            meta.push(Row::put(Bucket::Key, RevisionKey::of_revision(revision).encode(), Vec::new()));
        }
        Self { small, versions, stored, meta, revision, applied, membership }
    }

    /// All rows, read as they are asked for. An error means that a version was swept meanwhile, or cannot be read.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = Result<Row, StoreError>> {
        let Self { small, versions, stored, meta, .. } = self;
        let n_batches = versions.len().div_ceil(BATCH_VERSIONS);
        let versions = (0..n_batches).flat_map(move |batch| {
            let from = batch * BATCH_VERSIONS;
            let batch = &versions[from..versions.len().min(from + BATCH_VERSIONS)];
            match encode_versions(batch, stored.as_ref()) {
                Ok(rows) => {
                    let row = |(version, row): (&Kept, bytes::Bytes)| Row::put(Bucket::Key, version.at.encode(), row);
                    batch.iter().zip(rows).map(row).map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            }
        });
        small.into_iter().map(Ok).chain(versions).chain(meta.into_iter().map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_etcd_writes_them() {
        let member = Member {
            id: 10_501_334_649_042_878_790,
            name: "a".into(),
            peer_urls: vec!["http://localhost:2380".into()],
            client_urls: vec!["http://localhost:2379".into()],
            ..Member::default()
        };
        let json = |member: &Member| String::from_utf8(member_row(member).value.unwrap()).unwrap();
        assert_eq!(
            json(&member),
            r#"{"id":10501334649042878790,"peerURLs":["http://localhost:2380"],"name":"a","clientURLs":["http://localhost:2379"]}"#
        );
        let learner = Member { id: 2, is_learner: true, peer_urls: member.peer_urls.clone(), ..Member::default() };
        assert_eq!(json(&learner), r#"{"id":2,"peerURLs":["http://localhost:2380"],"isLearner":true}"#);
        for member in [member, learner] {
            assert_eq!(decode_member(json(&member).as_bytes()), Some(member));
        }
        assert_eq!(
            String::from_utf8(conf_state_row(&[1, 2], &[3]).value.unwrap()).unwrap(),
            r#"{"voters":[1,2],"learners":[3],"auto_leave":false}"#
        );
    }
}
