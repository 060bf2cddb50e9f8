//! What locks and elections have in common: a queue of keys under a prefix, each tied to its owner's lease. Who created the
//! oldest key owns the prefix; everybody else waits for the keys before their own to go. The recipe is that of etcd's
//! `concurrency` package, so that its clients can take part in the same queue.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Compare, CompareResult, CompareTarget, DeleteRange, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResponse, Put,
    RangeRequest, RangeResponse, Revision, Sort, SortTarget, Store, StoreError, Txn, TxnResponse, WatchRequest,
};

/// TTL of a lease made for a client that brings none, in seconds.
const LEASE_SECONDS: i64 = 60;

/// A place in the queue of a prefix.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    store: Arc<dyn Store>,
    prefix: Bytes,
    pub(super) key: Bytes,
    /// When the key was created: its place.
    pub(super) created: Revision,
    pub(super) lease: LeaseId,
    /// Of the transaction that made the claim, or found it.
    pub(super) revision: Revision,
}

/// How a key was found that was there before.
pub(super) struct Made {
    pub(super) claim: Claim,
    /// The owner's earlier claim, if it had one.
    pub(super) earlier: Option<KeyValue>,
    /// The oldest key of the prefix at the time.
    pub(super) first: Option<KeyValue>,
}

/// Keys that start with the prefix of a name.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

impl Claim {
    /// Puts a key for the lease (0: for a new one) at the end of the queue, unless it stands there already.
    pub(super) async fn make(
        store: Arc<dyn Store>,
        name: &[u8],
        lease: LeaseId,
        value: Bytes,
    ) -> Result<Made, StoreError> {
        let lease = match lease {
            LeaseId(0) => store.lease_grant(LeaseId(0), LEASE_SECONDS).await?.0,
            lease => lease,
        };
        let prefix = prefix(name);
        // Go prints a negative number's sign before its digits.
        let sign = if lease.0 < 0 { "-" } else { "" };
        let key = [&prefix[..], format!("{sign}{:x}", lease.0.unsigned_abs()).as_bytes()].concat();
        let key = Bytes::from(key);
        let get = Op::Range(RangeRequest { range: KeyRange::key(key.clone()), ..RangeRequest::default() });
        let first = Op::Range(oldest(&prefix));
        let put = Op::Put(Put { key: key.clone(), value, lease, ..Put::default() });
        let txn = Txn {
            compare: vec![created_at(&key, Revision(0))],
            success: vec![put, first.clone()],
            failure: vec![get, first],
        };
        let TxnResponse { revision, succeeded, responses } = store.txn(txn).await?;
        let mut ranges = responses.into_iter().map(|response| match response {
            OpResponse::Range(RangeResponse { mut kvs, .. }) if !kvs.is_empty() => Some(kvs.remove(0)),
            _ => None,
        });
        let earlier = ranges.next().flatten();
        let first = ranges.next().flatten();
        let created = match &earlier {
            Some(earlier) => earlier.create_revision,
            None if succeeded => revision,
            None => return Err(StoreError::Fatal(format!("key {key:?} was there and was not"))),
        };
        Ok(Made { claim: Self { store, prefix, key, created, lease, revision }, earlier, first })
    }

    /// Waits until no older key is left.
    pub(super) async fn wait_for_turn(&self) -> Result<(), StoreError> {
        let older = RangeRequest {
            max_create_revision: Revision(self.created.0 - 1),
            sort: Some(Sort { target: SortTarget::CreateRevision, descending: true }),
            limit: 1,
            range: KeyRange::prefix(self.prefix.clone()),
            ..RangeRequest::default()
        };
        loop {
            let found = self.store.range(older.clone()).await?;
            let Some(before) = found.kvs.into_iter().next() else { return Ok(()) };
            wait_for_delete(self.store.as_ref(), before.key, found.revision).await?;
        }
    }

    /// The key as it is now, and the newest revision.
    pub(super) async fn current(&self) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let get = RangeRequest { range: KeyRange::key(self.key.clone()), ..RangeRequest::default() };
        let found = self.store.range(get).await?;
        Ok((found.kvs.into_iter().next(), found.revision))
    }

    /// Gives the key another value, if it is still the one that was claimed.
    pub(super) async fn set_value(&self, value: Bytes) -> Result<Option<Revision>, StoreError> {
        let put = Put { key: self.key.clone(), value, lease: self.lease, ..Put::default() };
        if_unchanged(self.store.as_ref(), &self.key, self.created, Op::Put(put)).await
    }

    /// Leaves the queue.
    pub(super) async fn give_up(&self) -> Result<Option<Revision>, StoreError> {
        let delete = DeleteRange { range: KeyRange::key(self.key.clone()), prev_kv: false };
        if_unchanged(self.store.as_ref(), &self.key, self.created, Op::Delete(delete)).await
    }
}

/// A claim whose owner may go away while it waits; then it leaves the queue, unless it was kept.
pub(super) struct Waiting(Option<Claim>);

impl Waiting {
    pub(super) fn new(claim: Claim) -> Self {
        Self(Some(claim))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(claim) = self.0.take() else { return };
        tokio::spawn(async move {
            if let Err(error) = claim.give_up().await {
                tracing::debug!(%error, "an abandoned claim is left to its lease");
            }
        });
    }
}

/// Does `op` if the key is still the one created at a revision; the new revision, or `None`.
pub(super) async fn if_unchanged(
    store: &dyn Store,
    key: &Bytes,
    created: Revision,
    op: Op,
) -> Result<Option<Revision>, StoreError> {
    let txn = Txn { compare: vec![created_at(key, created)], success: vec![op], ..Txn::default() };
    let response = store.txn(txn).await?;
    Ok(response.succeeded.then_some(response.revision))
}

fn created_at(key: &Bytes, revision: Revision) -> Compare {
    let target = CompareTarget::CreateRevision(revision);
    Compare { range: KeyRange::key(key.clone()), result: CompareResult::Equal, target }
}

/// A request for the oldest key of a prefix.
pub(super) fn oldest(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        range: KeyRange::prefix(prefix.clone()),
        sort: Some(Sort { target: SortTarget::CreateRevision, descending: false }),
        limit: 1,
        ..RangeRequest::default()
    }
}

async fn wait_for_delete(store: &dyn Store, key: Bytes, since: Revision) -> Result<(), StoreError> {
    let request = WatchRequest { range: KeyRange::key(key), start_revision: since, ..WatchRequest::default() };
    let mut watch = store.watch(request).await?;
    loop {
        let batch = watch.next().await.ok_or(StoreError::Stopped)??;
        if batch.events.iter().any(|event| event.kind == EventKind::Delete) {
            return Ok(());
        }
    }
}
