//! The Lease service.

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::shared::{Shared, requires_leader};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::{LeaseId, Store, StoreError};

/// Answers that may wait for a slow client.
const ANSWERS_QUEUED: usize = 16;

pub(super) struct LeaseService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = request.into_inner();
        let (id, ttl) = store.lease_grant(LeaseId(request.id), request.ttl).await?;
        let header = self.0.header_now().await?;
        Ok(Response::new(pb::LeaseGrantResponse { header, id: id.0, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.0.admit(&request)?;
        self.0.store_for(&request).lease_revoke(LeaseId(request.into_inner().id)).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.0.header_now().await? }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.admit_stream(&request)?;
        let leader_required = requires_leader(&request);
        let (answers, stream) = mpsc::channel(ANSWERS_QUEUED);
        let keeper = Keeper { shared: Arc::clone(&self.0), store: self.0.store_for(&request), leader_required };
        tokio::spawn(keeper.run(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = request.into_inner();
        let status = match store.lease_time_to_live(LeaseId(request.id), request.keys).await {
            Err(StoreError::LeaseNotFound) => crate::LeaseStatus { ttl_seconds: -1, ..Default::default() },
            status => status?,
        };
        let header = self.0.header_now().await?;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: status.ttl_seconds,
            granted_ttl: status.granted_ttl_seconds,
            keys: status.keys,
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.0.admit(&request)?;
        let leases = self.0.store_for(&request).lease_list().await?;
        let header = self.0.header_now().await?;
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

/// Answers one client's renewals.
struct Keeper {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    leader_required: bool,
}

impl Keeper {
    /// Until the client leaves, the store fails or the server stops.
    async fn run(
        self,
        mut requests: Streaming<pb::LeaseKeepAliveRequest>,
        answers: mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
    ) {
        let mut states = self.shared.states();
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                error = Shared::must_end(&mut states, self.leader_required) => {
                    let _client_gone = answers.try_send(Err(error.into()));
                    return;
                }
            };
            let Ok(Some(request)) = request else { return };
            let answer = self.renew(LeaseId(request.id)).await.map_err(Status::from);
            let failed = answer.is_err();
            if answers.send(answer).await.is_err() || failed {
                return;
            }
        }
    }

    async fn renew(&self, id: LeaseId) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        // Taken before: a client may conclude that the lease was alive at this revision.
        let header = self.shared.header_now().await?;
        let ttl = match self.store.lease_keep_alive(id).await {
            // An unknown lease is an answer, not an error.
            Err(StoreError::LeaseNotFound) => 0,
            ttl => ttl?,
        };
        Ok(pb::LeaseKeepAliveResponse { header, id: id.0, ttl })
    }
}
