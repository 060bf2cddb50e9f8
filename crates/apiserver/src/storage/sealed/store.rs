//! A store whose values are sealed, seen as one whose values are not.

use std::sync::Arc;

use api::field::go_quote;
use async_trait::async_trait;
use store::{
    Alarm, AuthRequest, AuthResponse, Credentials, Downgrade, Hash, HashKv, KeyValue, LeaseId, LeaseStatus, Member, Op,
    OpResponse, ProgressRequester, RangeRequest, RangeResponse, Revision, Snapshot, Store, StoreError, StoreStatus,
    Txn, TxnResponse, WatchBatch, WatchRequest, WatchSink,
};

use super::{Opened, Patience, Sealing};

/// Why a watch ends when a plugin has come back.
const READABLE: &str = "values that were sealed have become readable";

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
        let Some(kv) = self.inner.range(request).await?.kvs.pop() else { return Ok(None) };
        self.sealing.primed().await;
        let opened = self.sealing.open(&kv.key, kv.value.clone(), Patience::Ask).await;
        let Opened { value, is_stale } = opened.map_err(|fault| StoreError::Remote(fault.text))?;
        Ok(Some((KeyValue { value, ..kv }, is_stale)))
    }

    fn seal_all(&self, ops: &mut [Op]) -> Result<(), StoreError> {
        for op in ops {
            match op {
                Op::Put(put) if !put.ignore_value => {
                    let sealed = self.sealing.seal(&put.key, std::mem::take(&mut put.value));
                    put.value = sealed.map_err(|fault| StoreError::Remote(fault.text))?;
                }
                Op::Txn(txn) => self.seal_txn(txn)?,
                Op::Put(_) | Op::Range(_) | Op::Delete(_) => {}
            }
        }
        Ok(())
    }

    fn seal_txn(&self, txn: &mut Txn) -> Result<(), StoreError> {
        self.seal_all(&mut txn.success)?;
        self.seal_all(&mut txn.failure)
    }

    async fn open_response(&self, response: &mut OpResponse) {
        match response {
            OpResponse::Range(range) => self.sealing.open_each(&mut range.kvs).await,
            OpResponse::Put { prev_kv } => self.sealing.open_each(prev_kv.as_mut_slice()).await,
            OpResponse::Delete { prev_kvs, .. } => self.sealing.open_each(prev_kvs).await,
            OpResponse::Txn(txn) => {
                for response in &mut txn.responses {
                    Box::pin(self.open_response(response)).await;
                }
            }
        }
    }
}

impl Sealing {
    /// What cannot be opened stays as it is.
    async fn open_each(&self, kvs: &mut [KeyValue]) {
        for kv in kvs.iter_mut().filter(|kv| !kv.value.is_empty()) {
            if let Ok(opened) = self.open(&kv.key, kv.value.clone(), Patience::Moment).await {
                kv.value = opened.value;
            }
        }
    }

    /// An error when a plugin is away: who reads all of something is to ask again, rather than to know a part of it.
    async fn open_all(&self, kvs: &mut [KeyValue]) -> Result<(), StoreError> {
        for kv in kvs.iter_mut().filter(|kv| !kv.value.is_empty()) {
            match self.open(&kv.key, kv.value.clone(), Patience::Moment).await {
                Ok(opened) => kv.value = opened.value,
                Err(fault) if fault.is_absence() => {
                    let key = go_quote(&String::from_utf8_lossy(&kv.key));
                    return Err(StoreError::Remote(format!("unable to transform key {key}: {}", fault.text)));
                }
                Err(_stays_sealed) => {}
            }
        }
        Ok(())
    }

    async fn open_batch(&self, batch: &mut WatchBatch) {
        for event in &mut batch.events {
            self.open_each(std::slice::from_mut(&mut event.kv)).await;
            self.open_each(event.prev_kv.as_mut_slice()).await;
        }
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut response = self.inner.range(request).await?;
        self.sealing.open_all(&mut response.kvs).await?;
        Ok(response)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResponse, StoreError> {
        self.sealing.primed().await;
        self.seal_txn(&mut txn)?;
        let mut response = self.inner.txn(txn).await?;
        for response in &mut response.responses {
            self.open_response(response).await;
        }
        Ok(response)
    }

    async fn watch_into(&self, request: WatchRequest, sink: WatchSink) -> Result<ProgressRequester, StoreError> {
        let mut readable = self.sealing.readable();
        let mut inner = self.inner.watch(request).await?;
        let (requester, mut wanted) = ProgressRequester::channel();
        let (sealing, progress) = (Arc::clone(&self.sealing), inner.progress_requester());
        // Ends with either side: the store's watch, or the one who watches.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    batch = inner.next() => {
                        let opened = match batch.unwrap_or(Err(StoreError::Stopped)) {
                            Ok(mut batch) => {
                                sealing.open_batch(&mut batch).await;
                                Ok(batch.into())
                            }
                            Err(error) => Err(error),
                        };
                        let is_over = opened.is_err();
                        if !sink.send(opened).await || is_over {
                            return;
                        }
                    }
                    asked = wanted.recv() => match asked {
                        Some(()) => progress.request(),
                        None => return,
                    },
                    // Values went by sealed that would not now: whoever watches has to read again.
                    Ok(()) = readable.changed() => {
                        let _nobody_watches = sink.send(Err(StoreError::Remote(READABLE.to_owned()))).await;
                        return;
                    }
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
