//! The values that cross the store's door: etcd's data model with types for the numbers that must not mix.

use std::fmt;

use bytes::Bytes;

/// A point in the history of the keyspace. Starts at 1 (empty); every changing transaction adds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease; 0 is never a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One version of a key, as `mvccpb.KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision of the last creation of the key.
    pub create_revision: Revision,
    /// Revision of the last change.
    pub mod_revision: Revision,
    /// Changes since creation, 1 for a new key; 0 only in a tombstone.
    pub version: i64,
    /// Attached lease, or `LeaseId(0)`.
    pub lease: LeaseId,
}

/// Keys `[start, end)`. An empty `end` is the single key `start`; `end == "\0"` is every key from `start` on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Bytes,
}

impl KeyRange {
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: Bytes::new() }
    }

    /// Every key that starts with `prefix` (non-empty).
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Self { start, end: end.into() };
            }
        }
        Self { start, end: Bytes::from_static(b"\0") }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end.as_ref() {
            b"" => key == self.start.as_ref(),
            b"\0" => key >= self.start.as_ref(),
            end => key >= self.start.as_ref() && key < end,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// Maximum number of keys; 0 is no limit.
    pub limit: usize,
    /// Read at this revision; 0 is the newest.
    pub revision: Revision,
    /// Answer from local state without confirming leadership.
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub sort: Option<Sort>,
    /// Inclusive bounds on revisions; 0 is no bound.
    pub min_mod_revision: Revision,
    pub max_mod_revision: Revision,
    pub min_create_revision: Revision,
    pub max_create_revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub target: SortTarget,
    pub descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    Key,
    Version,
    CreateRevision,
    ModRevision,
    Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's current revision, also for reads of older ones.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// There are keys beyond `limit`.
    pub more: bool,
    /// Keys in the range, ignoring `limit` and the revision bounds.
    pub count: usize,
}

/// All of `compare` decide between `success` and `failure`; everything happens at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    CreateRevision(Revision),
    ModRevision(Revision),
    Value(Bytes),
    Lease(LeaseId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Range(RangeRequest),
    Put(Put),
    Delete(DeleteRange),
    Txn(Txn),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange {
    pub range: KeyRange,
    pub prev_kv: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    pub revision: Revision,
    /// The compares held and `success` ran.
    pub succeeded: bool,
    pub responses: Vec<OpResponse>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    Range(RangeResponse),
    Put { prev_kv: Option<KeyValue> },
    Delete { deleted: usize, prev_kvs: Vec<KeyValue> },
    Txn(TxnResponse),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    pub range: KeyRange,
    /// First revision to deliver; 0 is "from now on".
    pub start_revision: Revision,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

/// Changes in revision order. A revision is never split over two batches.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// Everything up to and including this revision has been delivered. An empty batch is a progress notification.
    pub revision: Revision,
    pub events: Vec<WatchEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    pub kind: EventKind,
    /// For a delete: only key and mod_revision.
    pub kv: KeyValue,
    /// The version before, when asked for and not compacted; never for a create.
    pub prev_kv: Option<KeyValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    pub id: LeaseId,
    /// Remaining seconds; -1 when the lease is unknown or expired.
    pub ttl_seconds: i64,
    pub granted_ttl_seconds: i64,
    pub keys: Vec<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    pub cluster_id: u64,
    pub member_id: u64,
    pub leader_id: u64,
    pub raft_term: u64,
    pub raft_index: u64,
    pub raft_applied_index: u64,
    pub revision: Revision,
    pub db_size_bytes: i64,
    pub db_size_in_use_bytes: i64,
    /// Quota of the state file; 0 when there is none.
    pub db_size_quota_bytes: i64,
    pub is_learner: bool,
    /// The version that the cluster is prepared for, while a downgrade is enabled.
    pub downgrade_target: Option<String>,
    /// What is wrong with this member, in etcd's words; empty when healthy.
    pub errors: Vec<String>,
}

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until the member has started once.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has started once.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
    /// Votes and keeps the log; has no state and serves no clients.
    pub is_witness: bool,
}

/// An alarm of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub member_id: u64,
    pub kind: AlarmKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The state file has reached its quota: writes are refused until it is lowered.
    NoSpace,
    /// The member's data differ from the others': everything is refused.
    Corrupt,
}

/// A step towards an older version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downgrade {
    /// Whether a downgrade to this version could be enabled.
    Validate(String),
    Enable(String),
    Cancel,
}

/// CRC-32C over everything stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash {
    pub hash: u32,
    /// The newest revision at the time.
    pub revision: Revision,
}

/// CRC-32C over the kept versions, as etcd's HashKV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: Revision,
    /// The revision up to which was hashed.
    pub hash_revision: Revision,
}
