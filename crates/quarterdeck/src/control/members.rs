//! The members of the store: who they are, whether they answer, and removing them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use store::{Member, Store, StoreError};
use tokio::net::TcpStream;

use super::status::MemberSummary;

/// How long the removal of a member is tried while there is no leader: several elections.
const REMOVE_PATIENCE: Duration = Duration::from_secs(20);
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// etcd's words for a change whose leader died with it.
const LEADER_LOST: &str = "request timed out, possibly due to previous leader failure";
/// A member that does not take a connection in this time counts as unreachable.
const REACH_TIMEOUT: Duration = Duration::from_secs(1);

/// Every member, with whether it can be reached from here.
pub(super) async fn list(store: &Arc<dyn Store>) -> Result<Vec<MemberSummary>> {
    let status = store.status().await.context("the store")?;
    let members = store.members().await.context("the store's members")?;
    let described = members.into_iter().map(|member| async move {
        let is_reachable = member.id == status.member_id || is_reachable(&member).await;
        summary(member, status.leader_id, is_reachable)
    });
    Ok(join_all(described).await)
}

fn summary(member: Member, leader_id: u64, is_reachable: bool) -> MemberSummary {
    let state = match () {
        () if member.name.is_empty() => "unstarted",
        () if !is_reachable => "unreachable",
        () if member.is_learner => "learner",
        () => "started",
    };
    let role = match () {
        () if member.id == leader_id => "leader",
        () if member.is_learner => "learner",
        () if member.is_witness => "witness",
        () => "voter",
    };
    MemberSummary {
        id: format!("{:016x}", member.id),
        name: member.name,
        role: role.into(),
        state: state.into(),
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
    }
}

async fn is_reachable(member: &Member) -> bool {
    for url in &member.peer_urls {
        let Some((host, port)) = host_and_port(url) else { continue };
        let connected = tokio::time::timeout(REACH_TIMEOUT, TcpStream::connect((host.as_str(), port))).await;
        if matches!(connected, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, uri.port_u16()?))
}

/// Removes a member, named by its name or id; returns it and those that are left. When the one that is to go has just died, and led,
/// this waits for another leader.
pub(super) async fn remove(store: &Arc<dyn Store>, wanted: &str) -> Result<(Member, Vec<Member>)> {
    let members = store.members().await.context("the store's members")?;
    let named = |member: &&Member| member.name == wanted || format!("{:016x}", member.id) == wanted;
    let member = members.iter().find(named).with_context(|| format!("there is no member {wanted}"))?.clone();
    let deadline = Instant::now() + REMOVE_PATIENCE;
    let left = loop {
        let error = match store.member_remove(member.id).await {
            Ok(left) => break left,
            Err(error) => error,
        };
        // An attempt before may have been carried out without an answer.
        let members = store.members().await.context("the store's members")?;
        if members.iter().all(|left| left.id != member.id) {
            break members;
        }
        if !is_passing(&error) || Instant::now() >= deadline {
            return Err(error.into());
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    };
    tracing::info!(name = member.name, id = format!("{:016x}", member.id), "a member was removed");
    Ok((member, left))
}

/// There is no leader now, or there was none when the answer should have come.
fn is_passing(error: &StoreError) -> bool {
    match error {
        StoreError::NoLeader | StoreError::LeaderChanged | StoreError::Timeout => true,
        StoreError::Refused(reason) => *reason == LEADER_LOST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_state_is_what_an_operator_needs_first() {
        let member = |name: &str, is_learner| Member { id: 1, name: name.into(), is_learner, ..Member::default() };
        let shown = |member, leader, reachable| {
            let MemberSummary { role, state, .. } = summary(member, leader, reachable);
            format!("{role} {state}")
        };
        assert_eq!(shown(member("a", false), 1, true), "leader started");
        assert_eq!(shown(member("a", false), 2, false), "voter unreachable");
        assert_eq!(shown(member("a", true), 2, true), "learner learner");
        assert_eq!(shown(member("", true), 2, false), "learner unstarted");
    }

    #[test]
    fn peer_urls_are_taken_apart() {
        assert_eq!(host_and_port("https://[::1]:2380"), Some(("::1".into(), 2380)));
        assert_eq!(host_and_port("https://a"), None);
    }
}
