//! The embedded store as a client of its API sees it. Reads are checked here, before and after; changes are checked where
//! they are applied.

use std::sync::Arc;

use async_trait::async_trait;

use super::EmbeddedStore;
use crate::auth::{Access, Identity, OLD_REVISION, Requester};
use crate::command::Command;
use crate::machine::Machine;
use crate::mvcc::check::{check_range, check_txn};
use crate::mvcc::{is_read_only, is_serializable};
use crate::{
    Alarm, AuthRequest, AuthResponse, Credentials, Downgrade, Hash, HashKv, LeaseId, LeaseStatus, Member, Op,
    ProgressRequester, RangeRequest, RangeResponse, Revision, Snapshot, Store, StoreError, StoreStatus, Txn,
    TxnResponse, WatchRequest, WatchSink,
};

#[derive(Debug)]
pub(super) struct ClientView {
    store: Arc<EmbeddedStore>,
    credentials: Credentials,
}

impl ClientView {
    pub(super) fn new(store: Arc<EmbeddedStore>, credentials: Credentials) -> Self {
        Self { store, credentials }
    }

    async fn identify(&self) -> Result<Option<Identity>, StoreError> {
        self.store.identify(&self.credentials).await
    }

    async fn requester(&self) -> Result<Requester, StoreError> {
        self.identify().await.map(Requester::Client)
    }

    /// Who the client is, if `permitted` agrees.
    async fn permitted(
        &self,
        permitted: impl FnOnce(&Machine, Option<&Identity>) -> Result<(), StoreError>,
    ) -> Result<Option<Identity>, StoreError> {
        let who = self.identify().await?;
        permitted(&self.store.machine.read(), who.as_ref())?;
        Ok(who)
    }

    async fn user(&self) -> Result<Requester, StoreError> {
        self.permitted(|machine, who| machine.auth.permit_user(who)).await.map(Requester::Client)
    }

    async fn admin(&self) -> Result<Requester, StoreError> {
        self.permitted(|machine, who| machine.auth.permit_admin(who)).await.map(Requester::Client)
    }

    /// Rules that changed during a read may have forbidden it.
    fn still_permitted(&self, who: Option<&Identity>) -> Result<(), StoreError> {
        let revision = self.store.machine.read().auth.revision();
        let is_old = who.is_some_and(|who| who.revision != 0 && who.revision != revision);
        if is_old { Err(OLD_REVISION) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for ClientView {
    async fn range(&self, mut request: RangeRequest) -> Result<RangeResponse, StoreError> {
        check_range(&request)?;
        if !request.serializable {
            self.store.refuse_learner()?;
            self.store.confirm_read().await?;
            request.serializable = true;
        }
        let range = request.range.clone();
        let who = self.permitted(|machine, who| machine.auth.permit_keys(who, Access::Read, &range)).await?;
        let response = self.store.range(request).await?;
        self.still_permitted(who.as_ref())?;
        Ok(response)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResponse, StoreError> {
        check_txn(&txn, self.store.txn_ops_max)?;
        if !is_read_only(&txn) {
            return self.store.write(&self.requester().await?, txn).await;
        }
        if !is_serializable(&txn) {
            self.store.confirm_read().await?;
            for op in txn.success.iter_mut().chain(&mut txn.failure) {
                if let Op::Range(range) = op {
                    range.serializable = true;
                }
            }
        }
        let who = self.permitted(|machine, who| machine.auth.permit_txn(who, &txn, &machine.lessor)).await?;
        let response = self.store.txn(txn).await?;
        self.still_permitted(who.as_ref())?;
        Ok(response)
    }

    async fn watch_into(&self, request: WatchRequest, sink: WatchSink) -> Result<ProgressRequester, StoreError> {
        self.permitted(|machine, who| machine.auth.permit_keys(who, Access::Read, &request.range)).await?;
        self.store.watch_into(request, sink).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.store.current_revision().await
    }

    async fn compact(&self, revision: Revision, physical: bool) -> Result<(), StoreError> {
        self.store.compact_for(&self.admin().await?, revision, physical).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), StoreError> {
        self.store.grant(&self.user().await?, id, ttl_seconds).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        let requester = self.user().await?;
        self.store.refuse_learner()?;
        self.store.propose(requester.command(Command::LeaseRevoke { id })).await.map(drop)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        let permitted = |machine: &Machine, who: Option<&Identity>| {
            machine.auth.permit_user(who)?;
            machine.auth.permit_lease_write(who, id, &machine.lessor)
        };
        self.permitted(permitted).await?;
        self.store.lease_keep_alive(id).await
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        let permitted = |machine: &Machine, who: Option<&Identity>| {
            machine.auth.permit_user(who)?;
            if keys { machine.auth.permit_lease_read(who, id, &machine.lessor) } else { Ok(()) }
        };
        let who = self.permitted(permitted).await?;
        let status = self.store.lease_time_to_live(id, keys).await?;
        if keys {
            self.still_permitted(who.as_ref())?;
        }
        Ok(status)
    }

    async fn lease_list(&self) -> Result<Vec<LeaseId>, StoreError> {
        let permitted = |machine: &Machine, who: Option<&Identity>| {
            machine.auth.permit_user(who)?;
            let mut ids = machine.lessor.ids().into_iter();
            ids.try_for_each(|id| machine.auth.permit_lease_read(who, id, &machine.lessor))
        };
        self.permitted(permitted).await?;
        self.store.lease_list().await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.user().await?;
        self.store.status().await
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        self.user().await?;
        self.store.members().await
    }

    async fn member_add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<(Member, Vec<Member>), StoreError> {
        self.admin().await?;
        self.store.member_add(peer_urls, is_learner).await
    }

    async fn member_remove(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.admin().await?;
        self.store.member_remove(id).await
    }

    async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, StoreError> {
        self.admin().await?;
        self.store.member_update(id, peer_urls).await
    }

    async fn member_promote(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.admin().await?;
        self.store.member_promote(id).await
    }

    async fn move_leader(&self, id: u64) -> Result<(), StoreError> {
        self.admin().await?;
        self.store.move_leader(id).await
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        self.user().await?;
        self.store.alarms().await
    }

    async fn arm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.store.arm_for(&self.admin().await?, alarm).await
    }

    async fn disarm(&self, alarm: Alarm) -> Result<Vec<Alarm>, StoreError> {
        self.store.disarm_for(&self.admin().await?, alarm).await
    }

    async fn hash_kv(&self, revision: Revision) -> Result<HashKv, StoreError> {
        self.admin().await?;
        self.store.hash_kv(revision).await
    }

    async fn hash(&self) -> Result<Hash, StoreError> {
        self.admin().await?;
        self.store.hash().await
    }

    async fn defragment(&self) -> Result<(), StoreError> {
        self.admin().await?;
        self.store.defragment().await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.admin().await?;
        self.store.snapshot().await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<String, StoreError> {
        self.store.downgrade_for(&self.admin().await?, request).await
    }

    async fn auth(&self, request: AuthRequest) -> Result<AuthResponse, StoreError> {
        let requester = match request {
            // Who logs in may come with a token that is no longer good.
            AuthRequest::Authenticate { .. } | AuthRequest::Status => Requester::Client(None),
            _ => self.requester().await?,
        };
        self.store.auth_for(&requester, request).await
    }

    fn on_behalf_of(self: Arc<Self>, credentials: Credentials) -> Arc<dyn Store> {
        Arc::new(Self { store: Arc::clone(&self.store), credentials })
    }
}
