//! A store whose values are sealed, seen as one whose values are not.

use std::sync::Arc;

use async_trait::async_trait;
use store::{
    Alarm, AuthRequest, AuthResponse, Credentials, Downgrade, Hash, HashKv, KeyValue, LeaseId, LeaseStatus, Member, Op,
    OpResponse, ProgressRequester, RangeRequest, RangeResponse, Revision, Snapshot, Store, StoreError, StoreStatus,
    Txn, TxnResponse, WatchBatch, WatchRequest, WatchSink,
};

use super::{Opened, Sealing};

/// Seals values before they reach the store behind it, and opens what comes back. Nothing may compare values.
#[derive(Clone, Debug)]
pub(crate) struct SealedStore {
    inner: Arc<dyn Store>,
    sealing: Arc<Sealing>,
}

impl SealedStore {
    pub(crate) fn new(inner: Arc<dyn Store>, sealing: Arc<Sealing>) -> Self {
        Self { inner, sealing }
    }

    /// One key's newest version, and whether it should be sealed anew.
    pub(crate) async fn get(&self, request: RangeRequest) -> Result<Option<(KeyValue, bool)>, StoreError> {
        let kv = self.inner.range(request).await?.kvs.pop();
        Ok(kv.map(|kv| {
            let Opened { value, is_stale } = self.sealing.open(&kv.key, kv.value.clone());
            (KeyValue { value, ..kv }, is_stale)
        }))
    }

    fn seal_all(&self, ops: &mut [Op]) {
        for op in ops {
            match op {
                Op::Put(put) if !put.ignore_value => {
                    put.value = self.sealing.seal(&put.key, std::mem::take(&mut put.value));
                }
                Op::Txn(txn) => self.seal_txn(txn),
                Op::Put(_) | Op::Range(_) | Op::Delete(_) => {}
            }
        }
    }

    fn seal_txn(&self, txn: &mut Txn) {
        self.seal_all(&mut txn.success);
        self.seal_all(&mut txn.failure);
    }

    fn open_response(&self, response: &mut OpResponse) {
        match response {
            OpResponse::Range(range) => self.sealing.open_each(&mut range.kvs),
            OpResponse::Put { prev_kv } => self.sealing.open_each(prev_kv.as_mut_slice()),
            OpResponse::Delete { prev_kvs, .. } => self.sealing.open_each(prev_kvs),
            OpResponse::Txn(txn) => txn.responses.iter_mut().for_each(|response| self.open_response(response)),
        }
    }
}

impl Sealing {
    fn open_each(&self, kvs: &mut [KeyValue]) {
        for kv in kvs.iter_mut().filter(|kv| !kv.value.is_empty()) {
            kv.value = self.open(&kv.key, std::mem::take(&mut kv.value)).value;
        }
    }

    fn open_batch(&self, batch: &mut WatchBatch) {
        for event in &mut batch.events {
            self.open_each(std::slice::from_mut(&mut event.kv));
            self.open_each(event.prev_kv.as_mut_slice());
        }
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut response = self.inner.range(request).await?;
        self.sealing.open_each(&mut response.kvs);
        Ok(response)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResponse, StoreError> {
        self.seal_txn(&mut txn);
        let mut response = self.inner.txn(txn).await?;
        response.responses.iter_mut().for_each(|response| self.open_response(response));
        Ok(response)
    }

    async fn watch_into(&self, request: WatchRequest, sink: WatchSink) -> Result<ProgressRequester, StoreError> {
        let mut inner = self.inner.watch(request).await?;
        let (requester, mut wanted) = ProgressRequester::channel();
        let (sealing, progress) = (Arc::clone(&self.sealing), inner.progress_requester());
        // Ends with either side: the store's watch, or the one who watches.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    batch = inner.next() => {
                        let opened = batch.unwrap_or(Err(StoreError::Stopped)).map(|mut batch| {
                            sealing.open_batch(&mut batch);
                            batch.into()
                        });
                        let is_over = opened.is_err();
                        if !sink.send(opened).await || is_over {
                            return;
                        }
                    }
                    asked = wanted.recv() => match asked {
                        Some(()) => progress.request(),
                        None => return,
                    },
                    () = sink.closed() => return,
                }
            }
        });
        Ok(requester)
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn compact(&self, revision: Revision, physical: bool) -> Result<(), StoreError> {
        self.inner.compact(revision, physical).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), StoreError> {
        self.inner.lease_grant(id, ttl_seconds).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        self.inner.lease_time_to_live(id, keys).await
    }

    async fn lease_list(&self) -> Result<Vec<LeaseId>, StoreError> {
        self.inner.lease_list().await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.inner.status().await
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        self.inner.members().await
    }

    async fn member_add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<(Member, Vec<Member>), StoreError> {
        self.inner.member_add(peer_urls, is_learner).await
    }

    async fn member_remove(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.inner.member_remove(id).await
    }

    async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, StoreError> {
        self.inner.member_update(id, peer_urls).await
    }

    async fn member_promote(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.inner.member_promote(id).await
    }

    async fn move_leader(&self, id: u64) -> Result<(), StoreError> {
        self.inner.move_leader(id).await
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        self.inner.alarms().await
    }

    async fn arm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.inner.arm(alarm).await
    }

    async fn disarm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.inner.disarm(alarm).await
    }

    async fn hash_kv(&self, revision: Revision) -> Result<HashKv, StoreError> {
        self.inner.hash_kv(revision).await
    }

    async fn hash(&self) -> Result<Hash, StoreError> {
        self.inner.hash().await
    }

    async fn defragment(&self) -> Result<(), StoreError> {
        self.inner.defragment().await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.inner.snapshot().await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<String, StoreError> {
        self.inner.downgrade(request).await
    }

    async fn auth(&self, request: AuthRequest) -> Result<AuthResponse, StoreError> {
        self.inner.auth(request).await
    }

    fn on_behalf_of(self: Arc<Self>, credentials: Credentials) -> Arc<dyn Store> {
        let inner = Arc::clone(&self.inner).on_behalf_of(credentials);
        Arc::new(Self { inner, sealing: Arc::clone(&self.sealing) })
    }
}
