//! The store's door, as the embedded store keeps it.

use std::sync::Arc;

use async_trait::async_trait;

use super::EmbeddedStore;
use super::client::ClientView;
use super::leases::at_leader;
use crate::auth::Requester;
use crate::command::Command;
use crate::machine::{Outcome, cost_bytes, has_put};
use crate::mvcc::check::{check_range, check_txn};
use crate::mvcc::{CHUNK_KEYS_MAX, RangeCursor, Rows, is_read_only, is_serializable};
use crate::proto::peer as pb;
use crate::{
    Alarm, AlarmKind, AuthRequest, AuthResponse, Credentials, Downgrade, Hash, HashKv, LeaseId, LeaseStatus, Member,
    ProgressRequester, RangeRequest, RangeResponse, Revision, Snapshot, Store, StoreError, StoreStatus, Txn,
    TxnResponse, WatchRequest, WatchSink,
};

/// What a lease takes, as etcd estimates it.
const LEASE_BYTES: usize = 64;

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        check_range(&request)?;
        self.metrics.ranges.inc();
        if !request.serializable {
            self.refuse_learner()?;
            self.confirm_read().await?;
        }
        let (mut cursor, rows, pin) = {
            let machine = self.machine.read();
            let mut cursor = RangeCursor::new(&machine.keyspace, request)?;
            cursor.step(&machine.keyspace, CHUNK_KEYS_MAX);
            if cursor.is_done() {
                return Ok(cursor.finish());
            }
            let rows = machine.keyspace.cache().rows().cloned();
            let pin = self.pins.pin(cursor.revision());
            (cursor, rows, pin)
        };
        loop {
            cursor = fill_in(cursor, rows.clone()).await?;
            if cursor.is_done() {
                break;
            }
            // Writers get their turn between chunks, and so do other tasks of this thread.
            tokio::task::yield_now().await;
            cursor.step(&self.machine.read().keyspace, CHUNK_KEYS_MAX);
        }
        drop(pin);
        Ok(cursor.finish())
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        check_txn(&txn, self.txn_ops_max)?;
        self.refuse_learner()?;
        if is_read_only(&txn) {
            if !is_serializable(&txn) {
                self.confirm_read().await?;
            }
            let response = self.machine.read().keyspace.read_only_txn(&txn)?;
            self.metrics.ran(&response);
            return Ok(response);
        }
        self.write(&Requester::Owner, txn).await
    }

    async fn watch_into(&self, request: WatchRequest, sink: WatchSink) -> Result<ProgressRequester, StoreError> {
        self.refuse_learner()?;
        self.hub.watch(request, sink)
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.refuse_learner()?;
        self.confirm_read().await?;
        Ok(self.machine.read().keyspace.revision())
    }

    async fn compact(&self, revision: Revision, physical: bool) -> Result<(), StoreError> {
        self.compact_for(&Requester::Owner, revision, physical).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), StoreError> {
        self.grant(&Requester::Owner, id, ttl_seconds).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.refuse_learner()?;
        self.propose(Command::LeaseRevoke { id }).await.map(drop)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        self.refuse_learner()?;
        let there = pb::call::Request::LeaseRenew(id.0);
        let renewed =
            at_leader(&self.raft, self.peers.as_ref(), there, || self.leases.keep_alive(id), |answer| answer.ttl);
        let ttl_seconds = renewed.await?;
        self.metrics.leases_renewed.inc();
        Ok(ttl_seconds)
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        self.refuse_learner()?;
        let there = pb::call::Request::LeaseQuery(pb::LeaseQuery { id: id.0, keys });
        let decode = |answer: pb::Answer| LeaseStatus {
            id,
            ttl_seconds: answer.ttl,
            granted_ttl_seconds: answer.granted_ttl,
            keys: answer.keys,
        };
        at_leader(&self.raft, self.peers.as_ref(), there, || self.leases.time_to_live(id, keys), decode).await
    }

    async fn lease_list(&self) -> Result<Vec<LeaseId>, StoreError> {
        self.refuse_learner()?;
        self.confirm_read().await?;
        Ok(self.machine.read().lessor.ids())
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let raft = self.raft.status();
        let sizes = self.writer.sizes();
        let machine = self.machine.read();
        let mut errors = Vec::new();
        if raft.leader == 0 {
            errors.push(StoreError::NoLeader.to_string());
        }
        let failure = self.raft.failure().or_else(|| self.writer.refusal());
        errors.extend(failure.map(|error| error.to_string()));
        errors.extend(machine.alarms.iter().map(alarm_text));
        Ok(StoreStatus {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            leader_id: raft.leader,
            raft_term: raft.term,
            raft_index: raft.last_index,
            raft_applied_index: raft.applied,
            revision: machine.keyspace.revision(),
            db_size_bytes: i64::try_from(sizes.file_bytes).unwrap_or(i64::MAX),
            db_size_in_use_bytes: i64::try_from(sizes.in_use_bytes).unwrap_or(i64::MAX),
            db_size_quota_bytes: self.quota_bytes,
            is_learner: machine.membership.is_learner(self.identity.member_id),
            downgrade_target: machine.downgrade.clone(),
            errors,
        })
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        self.refuse_learner()?;
        Ok(self.membership(|membership| membership.list()))
    }

    async fn member_add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<(Member, Vec<Member>), StoreError> {
        self.refuse_learner()?;
        self.add_member(peer_urls, is_learner).await
    }

    async fn member_remove(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.refuse_learner()?;
        self.remove_member(id).await
    }

    async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, StoreError> {
        self.refuse_learner()?;
        self.update_member(id, peer_urls).await
    }

    async fn member_promote(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.refuse_learner()?;
        self.promote_member(id).await
    }

    async fn move_leader(&self, id: u64) -> Result<(), StoreError> {
        self.refuse_learner()?;
        self.transfer_leader(id).await
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        self.refuse_learner()?;
        self.confirm_read().await?;
        Ok(self.machine.read().alarms.iter().copied().collect())
    }

    async fn arm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.arm_for(&Requester::Owner, alarm).await
    }

    async fn disarm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.disarm_for(&Requester::Owner, alarm).await
    }

    async fn hash(&self) -> Result<Hash, StoreError> {
        self.hash_all().await
    }

    async fn hash_kv(&self, revision: Revision) -> Result<HashKv, StoreError> {
        self.hash_at(revision).await
    }

    async fn defragment(&self) -> Result<(), StoreError> {
        self.writer.defragment().await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.take_snapshot().await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<String, StoreError> {
        self.downgrade_for(&Requester::Owner, request).await
    }

    fn metrics(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.gather_metrics()
    }

    async fn auth(&self, request: AuthRequest) -> Result<AuthResponse, StoreError> {
        self.auth_for(&Requester::Owner, request).await
    }

    fn on_behalf_of(self: Arc<Self>, credentials: Credentials) -> Arc<dyn Store> {
        Arc::new(ClientView::new(self, credentials))
    }
}

// What the store does for its owner, or for a client whose permission is checked when the command is applied.
impl EmbeddedStore {
    /// A transaction that changes something.
    pub(super) async fn write(&self, requester: &Requester, txn: Txn) -> Result<TxnResponse, StoreError> {
        self.refuse_learner()?;
        if has_put(&txn) {
            self.refuse_more_data(cost_bytes(&txn)).await?;
        }
        match self.propose(requester.command(Command::Txn(txn))).await? {
            Outcome::Txn(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn compact_for(
        &self,
        requester: &Requester,
        revision: Revision,
        physical: bool,
    ) -> Result<(), StoreError> {
        self.refuse_learner()?;
        self.propose(requester.command(Command::Compact { revision, physical })).await?;
        if physical { self.writer.flush().await } else { Ok(()) }
    }

    pub(super) async fn grant(
        &self,
        requester: &Requester,
        id: LeaseId,
        ttl_seconds: i64,
    ) -> Result<(LeaseId, i64), StoreError> {
        crate::lease::granted_ttl(ttl_seconds)?;
        self.refuse_learner()?;
        self.refuse_more_data(LEASE_BYTES).await?;
        let id = if id.0 == 0 { self.new_lease_id() } else { id };
        match self.propose(requester.command(Command::LeaseGrant { id, ttl_seconds })).await? {
            Outcome::Granted { id, ttl_seconds } => Ok((id, ttl_seconds)),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn arm_for(&self, requester: &Requester, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.refuse_learner()?;
        self.propose(requester.command(Command::AlarmRaise(alarm))).await?;
        Ok(vec![alarm])
    }

    pub(super) async fn disarm_for(&self, requester: &Requester, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.refuse_learner()?;
        match self.propose(requester.command(Command::AlarmLower(alarm))).await? {
            Outcome::Lowered(lowered) => Ok(lowered.into_iter().collect()),
            other => Err(unexpected(&other)),
        }
    }

    /// Refuses `n_bytes` more if they do not fit: on the disk, or under the quota, which then raises the alarm.
    async fn refuse_more_data(&self, n_bytes: usize) -> Result<(), StoreError> {
        if let Some(error) = self.writer.refusal() {
            return Err(error);
        }
        if self.machine.read().alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace) {
            return Err(StoreError::NoSpace);
        }
        let size = i64::try_from(self.writer.sizes().file_bytes.saturating_add(n_bytes as u64)).unwrap_or(i64::MAX);
        if self.quota_bytes <= 0 || size <= self.quota_bytes {
            return Ok(());
        }
        let alarm = Alarm { member_id: self.identity.member_id, kind: AlarmKind::NoSpace };
        tracing::warn!(size, quota_bytes = self.quota_bytes, "the state file has reached its quota");
        self.propose(Command::AlarmRaise(alarm)).await?;
        Err(StoreError::NoSpace)
    }

    fn new_lease_id(&self) -> LeaseId {
        let machine = self.machine.read();
        loop {
            let id = LeaseId(i64::from(rand::random::<u32>()) << 31 | i64::from(rand::random::<u32>() >> 1));
            if id.0 != 0 && !machine.lessor.contains(id) {
                return id;
            }
        }
    }
}

/// Values read from disk without leaving the async thread: some microseconds each when the system has them cached.
const VALUES_READ_AT_ONCE: usize = 16;

/// Reads the values that a range lacks.
async fn fill_in(mut cursor: RangeCursor, rows: Option<Arc<dyn Rows>>) -> Result<RangeCursor, StoreError> {
    if cursor.n_missing() <= VALUES_READ_AT_ONCE {
        cursor.fill_in(rows.as_ref())?;
        return Ok(cursor);
    }
    let filled = tokio::task::spawn_blocking(move || cursor.fill_in(rows.as_ref()).map(|()| cursor)).await;
    filled.map_err(|error| StoreError::Fatal(format!("range: {error}")))?
}

/// Another command's outcome came back, which the ids rule out.
fn unexpected(outcome: &Outcome) -> StoreError {
    StoreError::Fatal(format!("a request got the outcome of another: {outcome:?}"))
}

/// An alarm as etcd's status shows it.
fn alarm_text(alarm: &Alarm) -> String {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    };
    format!("memberID:{} alarm:{kind} ", alarm.member_id)
}
