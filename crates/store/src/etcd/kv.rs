//! The KV service.

use std::sync::Arc;
use std::time::Instant;

use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::shared::Shared;
use crate::convert::{delete_response, put_response};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::{DeleteRange, Op, OpResponse, Put, RangeRequest, Revision, Store, StoreError, Txn, TxnResponse};

/// Keys in the first message of a streamed range; from there the number follows the size of what it brought.
const STREAM_FIRST_KEYS: usize = 10;

pub(super) struct KvService(pub(super) Arc<Shared>);

impl KvService {
    /// One change as a transaction of its own.
    async fn change(&self, store: Arc<dyn Store>, op: Op) -> Result<(Revision, OpResponse), StoreError> {
        let txn = Txn { success: vec![op], ..Txn::default() };
        let TxnResponse { revision, mut responses, .. } = store.txn(txn).await?;
        let response = responses.pop().ok_or_else(|| unexpected("nothing"))?;
        Ok((revision, response))
    }
}

fn unexpected(what: &str) -> StoreError {
    StoreError::Fatal(format!("the store answered a single operation with {what}"))
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = RangeRequest::try_from(request.into_inner())?;
        let began = Instant::now();
        let response = store.range(request).await;
        let success = if response.is_ok() { "true" } else { "false" };
        self.0.metrics.range_seconds.with_label_values(&[success]).observe(began.elapsed().as_secs_f64());
        let response = response?;
        let header = self.0.header(response.revision);
        Ok(Response::new(pb::RangeResponse { header, ..response.into() }))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.0.admit(&request)?;
        self.0.admit_size(request.get_ref())?;
        let store = self.0.store_for(&request);
        let put = Put::from(request.into_inner());
        let (revision, response) = self.change(store, Op::Put(put)).await?;
        let OpResponse::Put { prev_kv } = response else { return Err(unexpected("another kind").into()) };
        let header = self.0.header(revision);
        Ok(Response::new(pb::PutResponse { header, ..put_response(prev_kv, revision) }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.0.admit(&request)?;
        self.0.admit_size(request.get_ref())?;
        let store = self.0.store_for(&request);
        let delete = DeleteRange::from(request.into_inner());
        let (revision, response) = self.change(store, Op::Delete(delete)).await?;
        let OpResponse::Delete { deleted, prev_kvs } = response else { return Err(unexpected("another kind").into()) };
        let header = self.0.header(revision);
        Ok(Response::new(pb::DeleteRangeResponse { header, ..delete_response(deleted, prev_kvs, revision) }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.0.admit(&request)?;
        self.0.admit_size(request.get_ref())?;
        let store = self.0.store_for(&request);
        let txn = Txn::try_from(request.into_inner())?;
        let response = store.txn(txn).await?;
        let header = self.0.header(response.revision);
        Ok(Response::new(pb::TxnResponse { header, ..response.into() }))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = request.into_inner();
        store.compact(Revision(request.revision), request.physical).await?;
        Ok(Response::new(pb::CompactionResponse { header: self.0.header_now().await? }))
    }

    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    /// The range in pieces at one revision, so that neither side holds all of it.
    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.0.admit_stream(&request)?;
        let store = self.0.store_for(&request);
        let request = RangeRequest::try_from(request.into_inner())?;
        check_streamable(&request)?;
        let pieces = Pieces {
            shared: Arc::clone(&self.0),
            store,
            left: request.limit,
            request,
            size: STREAM_FIRST_KEYS,
            first: None,
        };
        let stream = futures::stream::try_unfold(Some(pieces), |pieces| async move {
            match pieces {
                Some(pieces) => pieces.next().await.map(Some),
                None => Ok(None),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A range can be streamed in the order in which it is stored.
fn check_streamable(request: &RangeRequest) -> Result<(), Status> {
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if request.sort.is_some() {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if bounds.iter().any(|bound| bound.0 != 0) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

/// A streamed range on its way.
struct Pieces {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    /// What has not been read yet; its revision is pinned by the first piece.
    request: RangeRequest,
    /// Keys the client still wants; meaningful when the request had a limit.
    left: usize,
    /// Keys in the next piece.
    size: usize,
    /// Newest revision and full count, as the first piece told them.
    first: Option<(Revision, usize)>,
}

impl Pieces {
    async fn next(mut self) -> Result<(pb::RangeStreamResponse, Option<Self>), Status> {
        let limited = self.request.limit > 0;
        let limit = if limited { self.size.min(self.left) } else { self.size };
        let piece =
            if self.request.count_only { self.request.clone() } else { RangeRequest { limit, ..self.request.clone() } };
        let mut response = self.store.range(piece).await?;
        let (revision, count) = *self.first.get_or_insert((response.revision, response.count));
        if self.request.revision.0 == 0 {
            self.request.revision = response.revision;
        }
        // Later pieces read the past, which needs no leader.
        self.request.serializable = true;

        self.left = self.left.saturating_sub(response.kvs.len());
        let ended = !response.more || (limited && self.left == 0);
        let more = response.more;
        let last_key = response.kvs.last().map(|kv| kv.key.clone());
        let bytes: usize = response.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        self.adapt(bytes);
        response.more = false;
        response.count = 0;
        let mut response = pb::RangeResponse { header: None, ..response.into() };
        let Some(last_key) = last_key.filter(|_| !ended) else {
            response.header = self.shared.header(revision);
            response.more = more;
            response.count = i64::try_from(count).unwrap_or(i64::MAX);
            return Ok((pb::RangeStreamResponse { range_response: Some(response) }, None));
        };
        self.request.range.start = [&last_key[..], b"\0"].concat().into();
        Ok((pb::RangeStreamResponse { range_response: Some(response) }, Some(self)))
    }

    /// Doubles or halves towards messages of half the request limit.
    fn adapt(&mut self, bytes: usize) {
        let wanted = self.shared.config.request_bytes_max / 2;
        if bytes * 2 <= wanted {
            self.size *= 2;
        } else if bytes > wanted {
            self.size = (self.size / 2).max(1);
        }
    }
}
