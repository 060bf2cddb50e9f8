//! Who belongs to the cluster: the table of members, the rules for changing it, and how ids are made. Pure.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::ConfState;
use sha1::{Digest, Sha1};

use crate::{Member, StoreError};

/// Learners at a time: etcd's `--max-learners`.
const LEARNERS_MAX: usize = 1;

const NOT_FOUND: StoreError = StoreError::Refused("member not found");
const EXISTS: StoreError = StoreError::Refused("member ID already exist");
const URL_EXISTS: StoreError = StoreError::Refused("Peer URLs already exists");
const NOT_LEARNER: StoreError = StoreError::Refused("can only promote a learner member");
const TOO_MANY_LEARNERS: StoreError = StoreError::Refused("too many learner members in cluster");
const NOT_ENOUGH_STARTED: StoreError = StoreError::Refused("re-configuration failed due to not enough started members");
const UNHEALTHY: StoreError = StoreError::Refused("unhealthy cluster");

/// The replicated table of members.
///
/// Invariants: ids of `members` and `removed` are disjoint; an id that was removed never comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) removed: BTreeSet<u64>,
}

/// A change of who votes or learns; one log entry each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberChange {
    /// As a voter, or as a learner if it says so.
    Add(Member),
    Promote(u64),
    Remove(u64),
}

impl MemberChange {
    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Add(member) => member.id,
            Self::Promote(id) | Self::Remove(id) => *id,
        }
    }
}

impl Membership {
    pub(crate) fn of(members: impl IntoIterator<Item = Member>) -> Self {
        Self { members: members.into_iter().map(|member| (member.id, member)).collect(), removed: BTreeSet::new() }
    }

    pub(crate) fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    pub(crate) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    pub(crate) fn is_learner(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.is_learner)
    }

    pub(crate) fn is_witness(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.is_witness)
    }

    /// The members as Raft counts them.
    pub(crate) fn conf_state(&self) -> ConfState {
        let ids = |learners: bool| {
            self.members.values().filter(|m| m.is_learner == learners).map(|m| m.id).collect::<Vec<_>>()
        };
        ConfState { voters: ids(false), learners: ids(true), ..ConfState::default() }
    }

    /// Whether a change makes sense now; every member decides alike when it applies the change.
    pub(crate) fn check(&self, change: &MemberChange) -> Result<(), StoreError> {
        if self.removed.contains(&change.id()) {
            return Err(NOT_FOUND);
        }
        match change {
            MemberChange::Add(member) => {
                if member.id == 0 || self.members.contains_key(&member.id) {
                    return Err(EXISTS);
                }
                self.check_urls(member.id, &member.peer_urls)?;
                let n_learners = self.members.values().filter(|member| member.is_learner).count();
                if member.is_learner && n_learners >= LEARNERS_MAX { Err(TOO_MANY_LEARNERS) } else { Ok(()) }
            }
            MemberChange::Promote(id) => match self.members.get(id) {
                None => Err(NOT_FOUND),
                Some(member) if !member.is_learner => Err(NOT_LEARNER),
                Some(_) => Ok(()),
            },
            MemberChange::Remove(id) => {
                let member = self.members.get(id).ok_or(NOT_FOUND)?;
                // Nobody would be left to take the next entry, or to keep what it leads to.
                let mut others = self.voters().filter(|voter| voter.id != *id && !voter.is_witness);
                let is_last = !member.is_learner && others.next().is_none();
                if is_last { Err(NOT_ENOUGH_STARTED) } else { Ok(()) }
            }
        }
    }

    /// Makes a change that was checked.
    pub(crate) fn apply(&mut self, change: MemberChange) {
        match change {
            MemberChange::Add(member) => {
                self.members.insert(member.id, member);
            }
            MemberChange::Promote(id) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.is_learner = false;
                }
            }
            MemberChange::Remove(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
        }
    }

    /// Gives a member other peer URLs.
    pub(crate) fn update(&mut self, id: u64, peer_urls: Vec<String>) -> Result<&Member, StoreError> {
        self.check_update(id, &peer_urls)?;
        let member = self.members.get_mut(&id).ok_or(NOT_FOUND)?;
        member.peer_urls = peer_urls;
        Ok(member)
    }

    pub(crate) fn check_update(&self, id: u64, peer_urls: &[String]) -> Result<(), StoreError> {
        if !self.members.contains_key(&id) {
            return Err(NOT_FOUND);
        }
        self.check_urls(id, peer_urls)
    }

    /// What a member says of itself when it starts. Nothing comes of it if the member was removed meanwhile.
    pub(crate) fn set_attributes(&mut self, id: u64, name: String, client_urls: Vec<String>) -> Option<&Member> {
        let member = self.members.get_mut(&id)?;
        (member.name, member.client_urls) = (name, client_urls);
        Some(member)
    }

    fn check_urls(&self, id: u64, peer_urls: &[String]) -> Result<(), StoreError> {
        let others = self.members.values().filter(|member| member.id != id);
        let is_taken = others.flat_map(|member| &member.peer_urls).any(|url| peer_urls.contains(url));
        if is_taken { Err(URL_EXISTS) } else { Ok(()) }
    }

    /// Whether a voter may be added: with it, the members that have ever started must still be a quorum, and every voter must
    /// be in touch with this one. `active` are the voters in touch for a while, this one included.
    pub(crate) fn may_add(&self, is_learner: bool, active: &BTreeSet<u64>) -> Result<(), StoreError> {
        let (n_voters, n_started) = self.count(None);
        // A cluster of one may always become a cluster of two.
        let from_one = n_started == 1 && n_voters == 1;
        if !is_learner && !from_one && n_started < quorum(n_voters + 1) {
            return Err(NOT_ENOUGH_STARTED);
        }
        let all_active = self.voters().all(|voter| active.contains(&voter.id));
        if all_active { Ok(()) } else { Err(UNHEALTHY) }
    }

    /// Whether a member may be removed without costing the rest its quorum. `is_down`: it is not in touch at all.
    pub(crate) fn may_remove(&self, id: u64, is_down: bool, active: &BTreeSet<u64>) -> Result<(), StoreError> {
        if self.is_learner(id) {
            return Ok(());
        }
        let (n_voters, n_started) = self.count(Some(id));
        if n_started < quorum(n_voters) {
            return Err(NOT_ENOUGH_STARTED);
        }
        // One that is down is no part of the quorum at work.
        if is_down {
            return Ok(());
        }
        let n_active = self.voters().filter(|voter| active.contains(&voter.id)).count();
        if n_active.saturating_sub(1) < quorum(self.voters().count().saturating_sub(1)) {
            Err(UNHEALTHY)
        } else {
            Ok(())
        }
    }

    /// Whether a learner may become a voter, as far as the table goes.
    pub(crate) fn may_promote(&self) -> Result<(), StoreError> {
        let (n_voters, n_started) = self.count(None);
        if n_started + 1 < quorum(n_voters + 1) { Err(NOT_ENOUGH_STARTED) } else { Ok(()) }
    }

    /// Voters, and those of them that have started, leaving one out.
    fn count(&self, without: Option<u64>) -> (usize, usize) {
        let voters: Vec<_> = self.voters().filter(|voter| Some(voter.id) != without).collect();
        (voters.len(), voters.iter().filter(|voter| !voter.name.is_empty()).count())
    }
}

pub(crate) fn quorum(n_voters: usize) -> usize {
    n_voters / 2 + 1
}

/// etcd's id of a member: what its sorted peer URLs, its cluster's token and, if it joins later, the Unix time hash to.
pub(crate) fn member_id(peer_urls: &[String], token: &str, joined_at: Option<u64>) -> u64 {
    let mut urls: Vec<_> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let time = joined_at.map(|seconds| seconds.to_string()).unwrap_or_default();
    leading_u64(format!("{}{token}{time}", urls.concat()).as_bytes())
}

/// etcd's id of a cluster: what the ids of its first members hash to.
pub(crate) fn cluster_id(member_ids: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<_> = member_ids.into_iter().collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.into_iter().flat_map(u64::to_be_bytes).collect();
    leading_u64(&bytes)
}

fn leading_u64(bytes: &[u8]) -> u64 {
    Sha1::digest(bytes)[..8].iter().fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member { id, name: format!("m{id}"), peer_urls: vec![format!("http://m{id}:2380")], ..Member::default() }
    }

    fn learner(id: u64) -> Member {
        Member { name: String::new(), is_learner: true, ..member(id) }
    }

    fn three() -> Membership {
        Membership::of([1, 2, 3].map(member))
    }

    #[test]
    fn ids_are_those_of_a_default_etcd() {
        // What `etcd` without flags reports for itself.
        let id = member_id(&["http://localhost:2380".into()], "etcd-cluster", None);
        assert_eq!(id, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id([id]), 0xcdf8_1819_4e3a_8c32);
        assert_ne!(member_id(&["http://localhost:2380".into()], "etcd-cluster", Some(7)), id);
    }

    #[test]
    fn a_removed_id_never_comes_back() {
        let mut membership = three();
        membership.apply(MemberChange::Remove(3));
        assert_eq!(membership.check(&MemberChange::Add(member(3))), Err(NOT_FOUND));
        assert_eq!(membership.check(&MemberChange::Remove(3)), Err(NOT_FOUND));
        assert_eq!(membership.conf_state().voters, [1, 2]);
    }

    #[test]
    fn changes_are_refused_with_etcds_words() {
        let mut membership = three();
        assert_eq!(membership.check(&MemberChange::Add(member(2))), Err(EXISTS));
        let same_url = Member { id: 9, ..member(2) };
        assert_eq!(membership.check(&MemberChange::Add(same_url)), Err(URL_EXISTS));
        assert_eq!(membership.check(&MemberChange::Promote(2)), Err(NOT_LEARNER));
        assert_eq!(membership.check(&MemberChange::Promote(8)), Err(NOT_FOUND));
        assert_eq!(membership.check_update(1, &["http://m2:2380".into()]), Err(URL_EXISTS));
        assert_eq!(membership.check_update(1, &["http://m1:2380".into()]), Ok(()));
        assert_eq!(membership.check_update(7, &[]), Err(NOT_FOUND));
        assert_eq!(membership.check(&MemberChange::Add(learner(4))), Ok(()));
        membership.apply(MemberChange::Add(learner(4)));
        assert_eq!(membership.check(&MemberChange::Add(learner(5))), Err(TOO_MANY_LEARNERS));
        assert_eq!((membership.conf_state().voters, membership.conf_state().learners), (vec![1, 2, 3], vec![4]));
        membership.apply(MemberChange::Promote(4));
        assert_eq!(membership.conf_state().voters, [1, 2, 3, 4]);
    }

    #[test]
    fn the_last_voter_stays() {
        let membership = Membership::of([member(1), learner(2)]);
        assert_eq!(membership.check(&MemberChange::Remove(1)), Err(NOT_ENOUGH_STARTED));
        assert_eq!(membership.check(&MemberChange::Remove(2)), Ok(()));
    }

    #[test]
    fn a_witness_is_no_replacement_for_the_last_member_with_a_state() {
        let witness = Member { is_witness: true, ..member(3) };
        let mut membership = Membership::of([member(1), member(2), witness]);
        assert_eq!(membership.check(&MemberChange::Remove(2)), Ok(()));
        membership.apply(MemberChange::Remove(2));
        assert_eq!(membership.check(&MemberChange::Remove(1)), Err(NOT_ENOUGH_STARTED));
        assert_eq!(membership.check(&MemberChange::Remove(3)), Ok(()));
    }

    #[test]
    fn a_voter_is_added_only_to_a_healthy_cluster() {
        let active = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(Membership::of([member(1)]).may_add(false, &active(&[1])), Ok(()));
        assert_eq!(three().may_add(false, &active(&[1, 2, 3])), Ok(()));
        assert_eq!(three().may_add(false, &active(&[1, 2])), Err(UNHEALTHY));
        assert_eq!(three().may_add(true, &active(&[1, 2])), Err(UNHEALTHY));
        let mut two = Membership::of([1, 2].map(member));
        two.members.get_mut(&2).unwrap().name.clear();
        assert_eq!(two.may_add(false, &active(&[1, 2])), Err(NOT_ENOUGH_STARTED));
        assert_eq!(two.may_add(true, &active(&[1, 2])), Ok(()));
    }

    #[test]
    fn a_member_is_removed_only_if_the_rest_can_go_on() {
        let active = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(three().may_remove(3, false, &active(&[1, 2, 3])), Ok(()));
        assert_eq!(three().may_remove(3, true, &active(&[1, 2])), Ok(()));
        assert_eq!(three().may_remove(2, false, &active(&[1, 2])), Err(UNHEALTHY));
        assert_eq!(Membership::of([member(1)]).may_remove(1, false, &active(&[1])), Err(NOT_ENOUGH_STARTED));
        let with_learner = Membership::of([member(1), learner(2)]);
        assert_eq!(with_learner.may_remove(2, true, &active(&[1])), Ok(()));
    }
}
