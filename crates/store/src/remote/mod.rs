//! The store's door on a stand-alone etcd cluster: every method is one call over gRPC, sent to another member when one does
//! not answer. A read is repeated until it succeeds or time is up; a write is repeated only when it certainly never left, and
//! otherwise a broken connection is [`StoreError::Timeout`], because its outcome is unknown. Start with [`RemoteStore::connect`].

mod auth;
mod endpoints;
mod fence;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tonic::{Request, Status};

pub use endpoints::RemoteTls;
use endpoints::{Endpoints, Repeat};

use crate::convert::header_revision;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::status::from_status;
use crate::{
    Alarm, AlarmKind, AuthRequest, AuthResponse, Credentials, Downgrade, Hash, HashKv, KeyRange, LeaseId, LeaseStatus,
    Member, ProgressRequester, RangeRequest, RangeResponse, Revision, Snapshot, Store, StoreError, StoreStatus, Txn,
    TxnResponse, WatchRequest, WatchSink,
};

/// Length of the SHA-256 at the end of a snapshot, which `remaining_bytes` does not count.
const SNAPSHOT_TRAILER_BYTES: u64 = 32;

/// A client of a stand-alone etcd cluster.
#[derive(Clone, Debug)]
pub struct RemoteStore {
    endpoints: Arc<Endpoints>,
}

impl RemoteStore {
    /// Endpoints are URLs of members (`https://10.0.0.1:2379`). Connects when first used.
    pub fn connect(endpoints: &[String], tls: Option<RemoteTls>) -> Result<Self, StoreError> {
        Ok(Self { endpoints: Arc::new(Endpoints::new(endpoints, tls)?) })
    }
}

#[async_trait]
impl Store for RemoteStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let request = pb::RangeRequest::from(request);
        let call = |mut member: endpoints::Member| {
            let request = request.clone();
            async move { member.kv.range(request).await }
        };
        let response = self.endpoints.call(Repeat::Always, call).await?;
        Ok(response.into())
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let request = pb::TxnRequest::from(txn);
        let call = |mut member: endpoints::Member| {
            let request = request.clone();
            async move { member.kv.txn(request).await }
        };
        self.endpoints.call(Repeat::UnlessSent, call).await?.try_into()
    }

    async fn watch_into(&self, request: WatchRequest, sink: WatchSink) -> Result<ProgressRequester, StoreError> {
        watch::start(Arc::clone(&self.endpoints), request, sink).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        let nothing = RangeRequest {
            range: KeyRange::key(Bytes::from_static(b"\0")),
            count_only: true,
            ..RangeRequest::default()
        };
        Ok(self.range(nothing).await?.revision)
    }

    async fn compact(&self, revision: Revision, physical: bool) -> Result<(), StoreError> {
        let request = pb::CompactionRequest { revision: revision.0, physical };
        let call = |mut member: endpoints::Member| async move { member.kv.compact(request).await };
        self.endpoints.call(Repeat::UnlessSent, call).await?;
        Ok(())
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), StoreError> {
        let request = pb::LeaseGrantRequest { ttl: ttl_seconds, id: id.0 };
        let call = |mut member: endpoints::Member| async move { member.lease.lease_grant(request).await };
        let granted = self.endpoints.call(Repeat::UnlessSent, call).await?;
        if granted.error.is_empty() {
            Ok((LeaseId(granted.id), granted.ttl))
        } else {
            Err(StoreError::Remote(granted.error))
        }
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        let request = pb::LeaseRevokeRequest { id: id.0 };
        let call = |mut member: endpoints::Member| async move { member.lease.lease_revoke(request).await };
        self.endpoints.call(Repeat::UnlessSent, call).await?;
        Ok(())
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        // Renewing twice is renewing once, so this may be repeated as a read.
        let call = |mut member: endpoints::Member| async move {
            let once = futures::stream::iter([pb::LeaseKeepAliveRequest { id: id.0 }]);
            let mut renewed = member.lease.lease_keep_alive(once).await?.into_inner();
            let first = renewed.message().await?;
            first
                .map(tonic::Response::new)
                .ok_or_else(|| Status::unavailable("lease keep-alive ended without an answer"))
        };
        let renewed = self.endpoints.call(Repeat::Always, call).await?;
        if renewed.ttl > 0 { Ok(renewed.ttl) } else { Err(StoreError::LeaseNotFound) }
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        let request = pb::LeaseTimeToLiveRequest { id: id.0, keys };
        let call = |mut member: endpoints::Member| async move { member.lease.lease_time_to_live(request).await };
        let status = self.endpoints.call(Repeat::Always, call).await?;
        Ok(LeaseStatus {
            id: LeaseId(status.id),
            ttl_seconds: status.ttl,
            granted_ttl_seconds: status.granted_ttl,
            keys: status.keys,
        })
    }

    async fn lease_list(&self) -> Result<Vec<LeaseId>, StoreError> {
        let call =
            |mut member: endpoints::Member| async move { member.lease.lease_leases(pb::LeaseLeasesRequest {}).await };
        let leases = self.endpoints.call(Repeat::Always, call).await?.leases;
        Ok(leases.into_iter().map(|lease| LeaseId(lease.id)).collect())
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let call = |mut member: endpoints::Member| async move { member.maintenance.status(pb::StatusRequest {}).await };
        let status = self.endpoints.call(Repeat::Always, call).await?;
        let header = status.header.unwrap_or_default();
        Ok(StoreStatus {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            leader_id: status.leader,
            raft_term: status.raft_term,
            raft_index: status.raft_index,
            raft_applied_index: status.raft_applied_index,
            revision: Revision(header.revision),
            db_size_bytes: status.db_size,
            db_size_in_use_bytes: status.db_size_in_use,
            db_size_quota_bytes: status.db_size_quota,
            is_learner: status.is_learner,
            downgrade_target: status.downgrade_info.filter(|info| info.enabled).map(|info| info.target_version),
            errors: status.errors,
        })
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        let request = pb::MemberListRequest { linearizable: true };
        let call = |mut member: endpoints::Member| async move { member.cluster.member_list(request).await };
        Ok(members_of(self.endpoints.call(Repeat::Always, call).await?.members))
    }

    async fn member_add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<(Member, Vec<Member>), StoreError> {
        let request = pb::MemberAddRequest { peer_ur_ls: peer_urls, is_learner };
        let call = |mut member: endpoints::Member| {
            let request = request.clone();
            async move { member.cluster.member_add(request).await }
        };
        let added = self.endpoints.call(Repeat::UnlessSent, call).await?;
        Ok((added.member.unwrap_or_default().into(), members_of(added.members)))
    }

    async fn member_remove(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        let request = pb::MemberRemoveRequest { id };
        let call = |mut member: endpoints::Member| async move { member.cluster.member_remove(request).await };
        Ok(members_of(self.endpoints.call(Repeat::UnlessSent, call).await?.members))
    }

    async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, StoreError> {
        let request = pb::MemberUpdateRequest { id, peer_ur_ls: peer_urls };
        let call = |mut member: endpoints::Member| {
            let request = request.clone();
            async move { member.cluster.member_update(request).await }
        };
        Ok(members_of(self.endpoints.call(Repeat::UnlessSent, call).await?.members))
    }

    async fn member_promote(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        let request = pb::MemberPromoteRequest { id };
        let call = |mut member: endpoints::Member| async move { member.cluster.member_promote(request).await };
        Ok(members_of(self.endpoints.call(Repeat::UnlessSent, call).await?.members))
    }

    async fn move_leader(&self, id: u64) -> Result<(), StoreError> {
        let request = pb::MoveLeaderRequest { target_id: id };
        let call = |mut member: endpoints::Member| async move { member.maintenance.move_leader(request).await };
        self.endpoints.call(Repeat::UnlessSent, call).await?;
        Ok(())
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        self.alarm(pb::AlarmRequest::default(), Repeat::Always).await
    }

    async fn arm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.set_alarm(alarm, AlarmAction::Activate).await
    }

    async fn disarm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.set_alarm(alarm, AlarmAction::Deactivate).await
    }

    async fn hash_kv(&self, revision: Revision) -> Result<HashKv, StoreError> {
        let request = pb::HashKvRequest { revision: revision.0 };
        let call = |mut member: endpoints::Member| async move { member.maintenance.hash_kv(request).await };
        let hash = self.endpoints.call(Repeat::Always, call).await?;
        // Before 3.6 the hashed revision is not told; it is the one asked for, or the newest.
        let newest = if revision.0 > 0 { revision } else { header_revision(hash.header.as_ref()) };
        let hash_revision = if hash.hash_revision > 0 { Revision(hash.hash_revision) } else { newest };
        Ok(HashKv { hash: hash.hash, compact_revision: Revision(hash.compact_revision), hash_revision })
    }

    async fn hash(&self) -> Result<Hash, StoreError> {
        let call = |mut member: endpoints::Member| async move { member.maintenance.hash(pb::HashRequest {}).await };
        let hash = self.endpoints.call(Repeat::Always, call).await?;
        Ok(Hash { hash: hash.hash, revision: header_revision(hash.header.as_ref()) })
    }

    async fn defragment(&self) -> Result<(), StoreError> {
        let call = |mut member: endpoints::Member| async move {
            member.maintenance.defragment(pb::DefragmentRequest {}).await
        };
        self.endpoints.call(Repeat::UnlessSent, call).await?;
        Ok(())
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let call =
            |mut member: endpoints::Member| async move { member.maintenance.snapshot(pb::SnapshotRequest {}).await };
        let mut stream = self.endpoints.call(Repeat::Always, call).await?;
        let first = stream.message().await.map_err(|status| from_status(&status))?;
        let first = first.ok_or_else(|| StoreError::Remote("the snapshot stream ended before it began".to_owned()))?;
        let size_bytes = first.remaining_bytes + first.blob.len() as u64 + SNAPSHOT_TRAILER_BYTES;
        let rest = stream.map(|message| message.map(|message| message.blob).map_err(|status| from_status(&status)));
        let chunks = futures::stream::iter([Ok(first.blob)]).chain(rest).boxed();
        Ok(Snapshot { size_bytes, chunks, hash_kv: None })
    }

    async fn downgrade(&self, request: Downgrade) -> Result<String, StoreError> {
        let (action, version) = match request {
            Downgrade::Validate(version) => (DowngradeAction::Validate, version),
            Downgrade::Enable(version) => (DowngradeAction::Enable, version),
            Downgrade::Cancel => (DowngradeAction::Cancel, String::new()),
        };
        let request = pb::DowngradeRequest { action: action.into(), version };
        let call = |mut member: endpoints::Member| {
            let request = request.clone();
            async move { member.maintenance.downgrade(request).await }
        };
        Ok(self.endpoints.call(Repeat::UnlessSent, call).await?.version)
    }

    async fn auth(&self, request: AuthRequest) -> Result<AuthResponse, StoreError> {
        self.auth_call(request).await
    }

    /// The token is the other server's to judge; a certificate cannot be passed on.
    fn on_behalf_of(self: Arc<Self>, credentials: Credentials) -> Arc<dyn Store> {
        let endpoints = self.endpoints.with_token(credentials.token.as_deref());
        Arc::new(Self { endpoints: Arc::new(endpoints) })
    }
}

fn members_of(members: Vec<pb::Member>) -> Vec<Member> {
    members.into_iter().map(Into::into).collect()
}

impl RemoteStore {
    async fn set_alarm(&self, alarm: Alarm, action: AlarmAction) -> Result<Vec<Alarm>, StoreError> {
        let request = pb::AlarmRequest {
            action: action.into(),
            member_id: alarm.member_id,
            alarm: pb::AlarmType::from(alarm.kind).into(),
        };
        self.alarm(request, Repeat::UnlessSent).await
    }

    async fn alarm(&self, request: pb::AlarmRequest, repeat: Repeat) -> Result<Vec<Alarm>, StoreError> {
        let call = |mut member: endpoints::Member| async move { member.maintenance.alarm(Request::new(request)).await };
        let alarms = self.endpoints.call(repeat, call).await?.alarms;
        let known = |alarm: &pb::AlarmMember| {
            let kind = match alarm.alarm() {
                pb::AlarmType::None => return None,
                pb::AlarmType::Nospace => AlarmKind::NoSpace,
                pb::AlarmType::Corrupt => AlarmKind::Corrupt,
            };
            Some(Alarm { member_id: alarm.member_id, kind })
        };
        Ok(alarms.iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests;
