//! The Election service: one leader of a name at a time, which proclaims a value that others observe.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::claim::{Claim, Waiting, if_unchanged, oldest, prefix};
use super::shared::Shared;
use crate::proto::v3electionpb as pb;
use crate::proto::v3electionpb::election_server::Election;
use crate::{DeleteRange, EventKind, KeyRange, KeyValue, LeaseId, Op, Put, Revision, Store, StoreError, WatchRequest};

const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const NO_LEADER_FIELD: &str = "\"leader\" field must be provided";
/// Proclamations that may wait for a slow observer.
const OBSERVED_QUEUED: usize = 16;

pub(super) struct ElectionService(pub(super) Arc<Shared>);

fn leader_of(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown(NO_LEADER_FIELD))
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = request.into_inner();
        let made = Claim::make(store, &request.name, LeaseId(request.lease), request.value.clone()).await?;
        let claim = made.claim;
        let waiting = Waiting::new(claim.clone());
        if made.earlier.is_some_and(|earlier| earlier.value != request.value)
            && claim.set_value(request.value).await?.is_none()
        {
            return Err(Status::unknown(NOT_LEADER));
        }
        claim.wait_for_turn().await?;
        waiting.keep();
        let leader = pb::LeaderKey { name: request.name, key: claim.key, rev: claim.created.0, lease: claim.lease.0 };
        let header = self.0.header(claim.revision);
        Ok(Response::new(pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let pb::ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader_of(leader)?;
        let put = Put { key: leader.key.clone(), value, lease: LeaseId(leader.lease), ..Put::default() };
        let changed = if_unchanged(store.as_ref(), &leader.key, Revision(leader.rev), Op::Put(put)).await?;
        let revision = changed.ok_or_else(|| Status::unknown(NOT_LEADER))?;
        Ok(Response::new(pb::ProclaimResponse { header: self.0.header(revision) }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let found = store.range(oldest(&prefix(&request.into_inner().name))).await?;
        let kv = found.kvs.into_iter().next().ok_or_else(|| Status::unknown(NO_LEADER))?;
        Ok(Response::new(pb::LeaderResponse { header: self.0.header(found.revision), kv: Some(kv.into()) }))
    }

    type ObserveStream = BoxStream<'static, Result<pb::LeaderResponse, Status>>;

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.0.admit(&request)?;
        let observer = Observer { store: self.0.store_for(&request), shared: Arc::clone(&self.0) };
        let prefix = prefix(&request.into_inner().name);
        let (leaders, stream) = mpsc::channel(OBSERVED_QUEUED);
        tokio::spawn(async move {
            let mut states = observer.shared.states();
            tokio::select! {
                // A client sees its stream end, and asks again.
                _over = observer.observe(&prefix, &leaders) => {}
                error = Shared::must_end(&mut states, false) => {
                    let _client_gone = leaders.try_send(Err(error.into()));
                }
                () = leaders.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let leader = leader_of(request.into_inner().leader)?;
        let delete = DeleteRange { range: KeyRange::key(leader.key.clone()), prev_kv: false };
        let resigned = if_unchanged(store.as_ref(), &leader.key, Revision(leader.rev), Op::Delete(delete)).await?;
        // Who does not lead has nothing to resign from, and that is no error.
        let header = match resigned {
            Some(revision) => self.0.header(revision),
            None => self.0.header_now().await?,
        };
        Ok(Response::new(pb::ResignResponse { header }))
    }
}

struct Observer {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

type Leaders = mpsc::Sender<Result<pb::LeaderResponse, Status>>;

/// The observer left, or the store ended a watch.
struct Over;

impl From<StoreError> for Over {
    fn from(_: StoreError) -> Self {
        Self
    }
}

impl Observer {
    /// Tells each leader, and each value that it proclaims. Not all that come and go in between are seen, but always the last.
    async fn observe(&self, prefix: &Bytes, leaders: &Leaders) -> Result<(), Over> {
        loop {
            let found = self.store.range(oldest(prefix)).await?;
            let (leader, revision) = match found.kvs.into_iter().next() {
                Some(leader) => (leader, found.revision),
                None => self.first_put(prefix, found.revision).await?,
            };
            let key = leader.key.clone();
            self.tell(leaders, leader, revision).await?;
            self.follow(leaders, key, Revision(revision.0 + 1)).await?;
        }
    }

    /// Waits for the first candidate.
    async fn first_put(&self, prefix: &Bytes, since: Revision) -> Result<(KeyValue, Revision), Over> {
        let range = KeyRange::prefix(prefix.clone());
        let request = WatchRequest { range, start_revision: since, no_delete: true, ..WatchRequest::default() };
        let mut watch = self.store.watch(request).await?;
        loop {
            let batch = watch.next().await.ok_or(Over)??;
            if let Some(put) = batch.events.into_iter().find(|event| event.kind == EventKind::Put) {
                let revision = put.kv.mod_revision;
                return Ok((put.kv, revision));
            }
        }
    }

    /// Tells what a leader proclaims until its key is gone.
    async fn follow(&self, leaders: &Leaders, key: Bytes, from: Revision) -> Result<(), Over> {
        let request = WatchRequest { range: KeyRange::key(key), start_revision: from, ..WatchRequest::default() };
        let mut watch = self.store.watch(request).await?;
        loop {
            let batch = watch.next().await.ok_or(Over)??;
            for event in batch.events {
                match event.kind {
                    EventKind::Delete => return Ok(()),
                    EventKind::Put => self.tell(leaders, event.kv, batch.revision).await?,
                }
            }
        }
    }

    async fn tell(&self, leaders: &Leaders, leader: KeyValue, revision: Revision) -> Result<(), Over> {
        let header = self.shared.header(revision);
        leaders.send(Ok(pb::LeaderResponse { header, kv: Some(leader.into()) })).await.map_err(|_left| Over)
    }
}
