//! Conditional reads and writes of single objects and pages of objects.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::Kind;
use store::{
    Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, KeyValue, LeaseId, Op, OpResponse, Put, RangeRequest,
    RangeResponse, Revision, Store, StoreError, Txn,
};

use super::{EventLeases, REGISTRY_PREFIX, SealedStore};

/// The key of an object in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectKey(Bytes);

impl ObjectKey {
    /// `/registry/pods/default/web-0`; an empty namespace for cluster scope.
    pub fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
        let prefix = &kind.storage_prefix;
        Self(Bytes::from(match namespace.is_empty() {
            true => format!("{REGISTRY_PREFIX}{prefix}/{name}"),
            false => format!("{REGISTRY_PREFIX}{prefix}/{namespace}/{name}"),
        }))
    }

    /// The prefix of all objects of a kind, or of those in one namespace. Ends with a slash.
    pub fn prefix(kind: &Kind, namespace: &str) -> Bytes {
        let prefix = &kind.storage_prefix;
        Bytes::from(match namespace.is_empty() {
            true => format!("{REGISTRY_PREFIX}{prefix}/"),
            false => format!("{REGISTRY_PREFIX}{prefix}/{namespace}/"),
        })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Why a name cannot be a part of a key or a path, in upstream's words.
    pub fn name_fault(name: &str) -> Option<&'static str> {
        match name {
            "." => Some("may not be '.'"),
            ".." => Some("may not be '..'"),
            name if name.contains('/') => Some("may not contain '/'"),
            name if name.contains('%') => Some("may not contain '%'"),
            _ => None,
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// What is stored under a key now.
#[derive(Clone, Debug)]
pub struct Current {
    pub value: Bytes,
    pub mod_revision: Revision,
    pub lease: LeaseId,
    /// Sealed otherwise than it would be now: an update writes it even if nothing else changes.
    pub is_stale: bool,
}

impl From<KeyValue> for Current {
    fn from(kv: KeyValue) -> Self {
        Self { value: kv.value, mod_revision: kv.mod_revision, lease: kv.lease, is_stale: false }
    }
}

/// How a conditional write ended.
#[derive(Debug)]
pub enum WriteOutcome {
    Written(Revision),
    /// Somebody was faster; this is there now (`None`: nothing).
    Conflict(Option<Current>),
}

/// Object access over a [`Store`].
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn Store>,
    /// The same store when its values are sealed.
    sealed: Option<SealedStore>,
    event_leases: Arc<EventLeases>,
}

impl Objects {
    pub fn new(store: Arc<dyn Store>, event_ttl: Duration) -> Self {
        Self { store, sealed: None, event_leases: Arc::new(EventLeases::new(event_ttl)) }
    }

    /// Objects whose values are sealed.
    pub(crate) fn sealed(store: SealedStore, event_ttl: Duration) -> Self {
        Self { sealed: Some(store.clone()), ..Self::new(Arc::new(store), event_ttl) }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The newest version, linearizable.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Current>, StoreError> {
        let request = RangeRequest { range: KeyRange::key(key.0.clone()), limit: 1, ..RangeRequest::default() };
        match &self.sealed {
            None => Ok(self.store.range(request).await?.kvs.pop().map(Current::from)),
            Some(sealed) => {
                let found = sealed.get(request).await?;
                Ok(found.map(|(kv, is_stale)| Current { is_stale, ..Current::from(kv) }))
            }
        }
    }

    /// A page of `prefix` from `start` on (the prefix itself for the first page), at `revision` (0: the newest).
    pub async fn page(
        &self,
        prefix: &Bytes,
        start: Bytes,
        revision: Revision,
        limit: usize,
    ) -> Result<RangeResponse, StoreError> {
        let range = KeyRange { start, end: KeyRange::prefix(prefix.clone()).end };
        self.store.range(RangeRequest { range, limit, revision, ..RangeRequest::default() }).await
    }

    /// Writes a key that must not exist.
    pub async fn create(&self, key: &ObjectKey, value: Bytes, expires: bool) -> Result<WriteOutcome, StoreError> {
        self.put_if(key, value, CompareTarget::ModRevision(Revision(0)), expires).await
    }

    /// Replaces the version last seen.
    pub async fn update(
        &self,
        key: &ObjectKey,
        value: Bytes,
        seen: Revision,
        expires: bool,
    ) -> Result<WriteOutcome, StoreError> {
        self.put_if(key, value, CompareTarget::ModRevision(seen), expires).await
    }

    /// Deletes the version last seen.
    pub async fn delete(&self, key: &ObjectKey, seen: Revision) -> Result<WriteOutcome, StoreError> {
        let delete = Op::Delete(DeleteRange { range: KeyRange::key(key.0.clone()), prev_kv: false });
        self.write_if(key, CompareTarget::ModRevision(seen), delete).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        value: Bytes,
        condition: CompareTarget,
        expires: bool,
    ) -> Result<WriteOutcome, StoreError> {
        let lease = if expires { self.event_leases.lease(self.store.as_ref()).await? } else { LeaseId(0) };
        let put = Put { key: key.0.clone(), value, lease, ..Put::default() };
        self.write_if(key, condition, Op::Put(put)).await
    }

    async fn write_if(&self, key: &ObjectKey, condition: CompareTarget, op: Op) -> Result<WriteOutcome, StoreError> {
        let range = KeyRange::key(key.0.clone());
        let txn = Txn {
            compare: vec![Compare { range: range.clone(), result: CompareResult::Equal, target: condition }],
            success: vec![op],
            failure: vec![Op::Range(RangeRequest { range, limit: 1, ..RangeRequest::default() })],
        };
        let mut response = self.store.txn(txn).await?;
        if response.succeeded {
            return Ok(WriteOutcome::Written(response.revision));
        }
        let current = match response.responses.pop() {
            Some(OpResponse::Range(mut range)) => range.kvs.pop().map(Current::from),
            _ => None,
        };
        Ok(WriteOutcome::Conflict(current))
    }
}
