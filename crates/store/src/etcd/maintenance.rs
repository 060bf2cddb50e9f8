//! The Maintenance service: state, alarms, checksums and snapshots of this member.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::shared::Shared;
use super::{STORAGE_VERSION, VERSION};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::{Alarm, AlarmKind, Downgrade, Revision, Snapshot, StoreError};

/// Bytes of one message of a snapshot.
const BLOB_BYTES: usize = 32 * 1024;
/// The SHA-256 that ends a snapshot, in a message of its own.
const TRAILER_BYTES: u64 = 32;

pub(super) struct MaintenanceService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.0.store_for(&request).status().await?;
        let mut errors = status.errors;
        let no_leader = StoreError::NoLeader.to_string();
        if status.leader_id == 0 && !errors.contains(&no_leader) {
            errors.push(no_leader);
        }
        Ok(Response::new(pb::StatusResponse {
            header: self.0.header(status.revision),
            version: VERSION.to_owned(),
            db_size: status.db_size_bytes,
            leader: status.leader_id,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            errors,
            db_size_in_use: status.db_size_in_use_bytes,
            is_learner: status.is_learner,
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: status.db_size_quota_bytes,
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: status.downgrade_target.is_some(),
                target_version: status.downgrade_target.unwrap_or_default(),
            }),
        }))
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let request = request.into_inner();
        let action = AlarmAction::try_from(request.action);
        let kind = match request.alarm() {
            pb::AlarmType::None => None,
            pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
            pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
        };
        let alarms = match (action, kind) {
            (Ok(AlarmAction::Get), kind) => {
                let alarms = store.alarms().await?;
                alarms.into_iter().filter(|alarm| kind.is_none_or(|kind| kind == alarm.kind)).collect()
            }
            (Ok(AlarmAction::Activate), Some(kind)) => store.arm(Alarm { member_id: request.member_id, kind }).await?,
            (Ok(AlarmAction::Deactivate), Some(kind)) => {
                store.disarm(Alarm { member_id: request.member_id, kind }).await?
            }
            (Ok(AlarmAction::Activate | AlarmAction::Deactivate), None) => Vec::new(),
            (Err(_unknown), _) => return Err(Status::invalid_argument("unknown alarm action")),
        };
        let member = |alarm: Alarm| pb::AlarmMember {
            member_id: alarm.member_id,
            alarm: pb::AlarmType::from(alarm.kind).into(),
        };
        let header = self.0.header_now().await?;
        Ok(Response::new(pb::AlarmResponse { header, alarms: alarms.into_iter().map(member).collect() }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.0.store_for(&request).defragment().await?;
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let hash = self.0.store_for(&request).hash().await?;
        Ok(Response::new(pb::HashResponse { header: self.0.header(hash.revision), hash: hash.hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let store = self.0.store_for(&request);
        let hash = store.hash_kv(Revision(request.into_inner().revision)).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.0.header_now().await?,
            hash: hash.hash,
            compact_revision: hash.compact_revision.0,
            hash_revision: hash.hash_revision.0,
        }))
    }

    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let header = self.0.header_now().await?;
        let snapshot = self.0.store_for(&request).snapshot().await?;
        let blobs = Blobs::new(snapshot, header);
        let stream = futures::stream::try_unfold(blobs, |mut blobs| async move {
            let next = blobs.next().await?;
            Ok(next.map(|response| (response, blobs)))
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.0.store_for(&request).move_leader(request.into_inner().target_id).await?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.0.admit(&request)?;
        let store = self.0.store_for(&request);
        let pb::DowngradeRequest { action, version } = request.into_inner();
        let request = match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Validate) => Downgrade::Validate(version),
            Ok(DowngradeAction::Enable) => Downgrade::Enable(version),
            Ok(DowngradeAction::Cancel) => Downgrade::Cancel,
            Err(_unknown) => return Err(Status::unknown("etcdserver: unknown method")),
        };
        let version = store.downgrade(request).await?;
        Ok(Response::new(pb::DowngradeResponse { header: self.0.header_now().await?, version }))
    }
}

/// A snapshot cut into messages: full blobs, the rest of the file, then the trailer alone.
struct Blobs {
    snapshot: Snapshot,
    header: Option<pb::ResponseHeader>,
    /// Received and not sent.
    pending: BytesMut,
    /// Bytes of the file, and then of the trailer, still to be sent.
    file_left: u64,
    trailer_left: u64,
}

impl Blobs {
    fn new(snapshot: Snapshot, header: Option<pb::ResponseHeader>) -> Self {
        let file_left = snapshot.size_bytes.saturating_sub(TRAILER_BYTES);
        Self { snapshot, header, pending: BytesMut::new(), file_left, trailer_left: TRAILER_BYTES }
    }

    async fn next(&mut self) -> Result<Option<pb::SnapshotResponse>, Status> {
        let left = if self.file_left > 0 { self.file_left } else { self.trailer_left };
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(BLOB_BYTES);
        while self.pending.len() < want {
            let chunk = self.snapshot.chunks.next().await;
            let chunk: Bytes = chunk.ok_or_else(|| Status::data_loss("the snapshot ended early"))??;
            self.pending.extend_from_slice(&chunk);
        }
        let blob = self.pending.split_to(want).freeze();
        if self.file_left > 0 {
            self.file_left -= want as u64;
        } else {
            self.trailer_left -= want as u64;
        }
        let version = STORAGE_VERSION.to_owned();
        Ok(Some(pb::SnapshotResponse { header: self.header, remaining_bytes: self.file_left, blob, version }))
    }
}
