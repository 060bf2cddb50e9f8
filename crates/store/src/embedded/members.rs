//! Changes of the members, and what this member answers to the others.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use super::EmbeddedStore;
use super::export::hash_at;
use super::leases::{LeaseDesk, at_leader};
use crate::command::Command;
use crate::machine::Outcome;
use crate::membership::{MemberChange, Membership, member_id};
use crate::peer::{Desk, PeerNet, PeerUrl};
use crate::pins::Pins;
use crate::proto::peer as pb;
use crate::raft::Raft;
use crate::{LeaseId, Member, Revision, StoreError};

const NOT_IN_SYNC: StoreError = StoreError::Refused("can only promote a learner member which is in sync with leader");

impl EmbeddedStore {
    pub(super) async fn add_member(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<(Member, Vec<Member>), StoreError> {
        self.add(peer_urls, Member { is_learner, ..Member::default() }).await
    }

    /// Adds a witness, as a learner: a member without a state, which votes when it has caught up with the log.
    pub async fn add_witness(&self, peer_urls: Vec<String>) -> Result<(Member, Vec<Member>), StoreError> {
        self.refuse_learner()?;
        self.add(peer_urls, Member { is_learner: true, is_witness: true, ..Member::default() }).await
    }

    async fn add(&self, peer_urls: Vec<String>, kind: Member) -> Result<(Member, Vec<Member>), StoreError> {
        check_urls(&peer_urls)?;
        let peers = self.peers()?;
        let is_learner = kind.is_learner;
        self.membership(|membership| membership.may_add(is_learner, &peers.healthy()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let id = member_id(&peer_urls, "", Some(now));
        let member = Member { id, peer_urls, ..kind };
        let members = members_of(self.raft.change_members(MemberChange::Add(member.clone())).await?)?;
        Ok((member, members))
    }

    pub(super) async fn remove_member(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        let own = self.identity.member_id;
        let peers = self.peers()?;
        let is_down = id != own && !peers.is_connected(id);
        self.check(|machine| machine.membership.check(&MemberChange::Remove(id))).await?;
        self.membership(|membership| membership.may_remove(id, is_down, &peers.healthy()))?;
        if id == own && self.raft.leads() {
            self.hand_over(peers).await?;
        }
        members_of(self.raft.change_members(MemberChange::Remove(id)).await?)
    }

    /// Lets another voter lead before this member leaves.
    pub(super) async fn hand_over(&self, peers: &PeerNet) -> Result<(), StoreError> {
        let own = self.identity.member_id;
        let successor = self.membership(|membership| {
            let mut others = membership.voters().filter(|voter| voter.id != own && !voter.is_witness);
            others.find(|voter| peers.is_connected(voter.id)).map(|voter| voter.id)
        });
        match successor {
            Some(successor) => self.raft.transfer_leader(successor).await,
            None => Ok(()),
        }
    }

    pub(super) async fn update_member(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, StoreError> {
        check_urls(&peer_urls)?;
        self.check(|machine| machine.membership.check_update(id, &peer_urls)).await?;
        members_of(self.raft.propose(Command::MemberUpdate { id, peer_urls }).await?)
    }

    pub(super) async fn promote_member(&self, id: u64) -> Result<Vec<Member>, StoreError> {
        self.check(|machine| machine.membership.check(&MemberChange::Promote(id))).await?;
        let here = || promote(&self.raft, &self.leases, id);
        let members = |answer: pb::Answer| answer.members.into_iter().map(Into::into).collect();
        at_leader(&self.raft, self.peers.as_ref(), pb::call::Request::Promote(id), here, members).await
    }

    pub(super) async fn transfer_leader(&self, id: u64) -> Result<(), StoreError> {
        self.raft.transfer_leader(id).await
    }

    fn peers(&self) -> Result<&PeerNet, StoreError> {
        self.peers.as_ref().ok_or(StoreError::Refused("re-configuration failed: the store does not listen for peers"))
    }

    pub(super) fn membership<T>(&self, look: impl FnOnce(&Membership) -> T) -> T {
        look(&self.machine.read().membership)
    }

    /// A learner is there to catch up, and serves next to nothing.
    pub(super) fn refuse_learner(&self) -> Result<(), StoreError> {
        let is_learner = self.membership(|membership| membership.is_learner(self.identity.member_id));
        if is_learner { Err(StoreError::Refused("rpc not supported for learner")) } else { Ok(()) }
    }
}

/// Promotes a learner that has caught up; for the leader.
async fn promote(raft: &Raft, leases: &LeaseDesk, id: u64) -> Result<Vec<Member>, StoreError> {
    {
        let machine = leases.machine.read();
        machine.membership.check(&MemberChange::Promote(id))?;
        machine.membership.may_promote()?;
    }
    match raft.is_in_sync(id).await {
        Ok(true) => {}
        Ok(false) => return Err(NOT_IN_SYNC),
        Err(StoreError::Refused(_no_leader_any_more)) => return Err(StoreError::LeaderChanged),
        Err(error) => return Err(error),
    }
    members_of(raft.change_members(MemberChange::Promote(id)).await?)
}

fn members_of(outcome: Outcome) -> Result<Vec<Member>, StoreError> {
    match outcome {
        Outcome::Members(members) => Ok(members),
        other => Err(StoreError::Fatal(format!("a request got the outcome of another: {other:?}"))),
    }
}

fn check_urls(peer_urls: &[String]) -> Result<(), StoreError> {
    let are_urls = !peer_urls.is_empty() && peer_urls.iter().all(|url| PeerUrl::parse(url).is_ok());
    if are_urls { Ok(()) } else { Err(StoreError::InvalidArgument("given member URLs are invalid")) }
}

/// What this member answers to others.
pub(super) struct MemberDesk {
    pub(super) raft: Raft,
    pub(super) leases: LeaseDesk,
    pub(super) pins: Arc<Pins>,
}

#[async_trait]
impl Desk for MemberDesk {
    async fn answer(&self, request: pb::call::Request) -> Result<pb::Answer, StoreError> {
        let mut answer = pb::Answer::default();
        match request {
            pb::call::Request::LeaseRenew(id) => answer.ttl = self.leases.keep_alive(LeaseId(id)).await?,
            pb::call::Request::LeaseQuery(query) => {
                let status = self.leases.time_to_live(LeaseId(query.id), query.keys).await?;
                answer.ttl = status.ttl_seconds;
                answer.granted_ttl = status.granted_ttl_seconds;
                answer.keys = status.keys;
            }
            pb::call::Request::Promote(id) => {
                let members = promote(&self.raft, &self.leases, id).await?;
                answer.members = members.into_iter().map(Into::into).collect();
            }
            pb::call::Request::HashQuery(query) => {
                let machine = &self.leases.machine;
                let found = hash_at(machine, &self.pins, Revision(query.revision)).await?;
                answer.hash = found.hash;
                answer.compact_revision = found.compact_revision.0;
                answer.hash_revision = found.hash_revision.0;
                answer.revision = machine.read().keyspace.revision().0;
            }
            pb::call::Request::Members(_) => {
                let members = self.leases.machine.read().membership.list();
                answer.members = members.into_iter().map(Into::into).collect();
            }
        }
        Ok(answer)
    }
}
