//! The Lock service: one owner of a name at a time, for as long as its lease lives.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::claim::{Claim, Waiting};
use super::shared::Shared;
use crate::proto::v3lockpb as pb;
use crate::proto::v3lockpb::lock_server::Lock;
use crate::{DeleteRange, KeyRange, LeaseId, Op, Txn};

/// The lease ran out while its owner waited.
const SESSION_EXPIRED: &str = "mutex: session is expired";

pub(super) struct LockService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = request.into_inner();
        let made = Claim::make(store, &request.name, LeaseId(request.lease), Bytes::new()).await?;
        let claim = made.claim;
        let is_owner = made.first.is_none_or(|first| first.create_revision == claim.created);
        if is_owner {
            let header = self.0.header(claim.revision);
            return Ok(Response::new(pb::LockResponse { header, key: claim.key }));
        }
        let waiting = Waiting::new(claim.clone());
        claim.wait_for_turn().await?;
        let (key, revision) = claim.current().await?;
        waiting.keep();
        if key.is_none() {
            return Err(Status::unknown(SESSION_EXPIRED));
        }
        Ok(Response::new(pb::LockResponse { header: self.0.header(revision), key: claim.key }))
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Response<pb::UnlockResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let delete = DeleteRange { range: KeyRange::key(request.into_inner().key), prev_kv: false };
        let response = store.txn(Txn { success: vec![Op::Delete(delete)], ..Txn::default() }).await?;
        Ok(Response::new(pb::UnlockResponse { header: self.0.header(response.revision) }))
    }
}
