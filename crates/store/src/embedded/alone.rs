//! A member that goes on alone because the others are lost for good: etcd's `--force-new-cluster`.
//!
//! Everything in its log counts, as if it had been elected: an acknowledged write that this member heard of is kept, whether or not it heard
//! that the write was committed. The others are removed in the same commit of the state file that brings the state up to the end of
//! the log, so that a crash leaves either a member of the old cluster or one that is alone.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use ::raft::eraftpb::EntryType;

use super::OpenError;
use super::open::{backend_error, damaged};
use crate::Member;
use crate::backend::{Backend, Row, progress_rows, push_rows_of};
use crate::command::Command;
use crate::machine::{Machine, Write};
use crate::membership::{MemberChange, quorum};
use crate::peer::PeerUrl;
use crate::raft::{Identity, LoggedState, decode_change};

/// Another member that takes a connection in this time is alive.
const REACH_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes the member the only one of its cluster. Says so in the log, and refuses when enough of the others are there to go on with.
pub(super) fn go_on_alone(
    dir: &Path,
    identity: Identity,
    machine: &mut Machine,
    logged: &LoggedState,
    backend: &mut dyn Backend,
) -> Result<(), OpenError> {
    let own = identity.member_id;
    let mut writes = Vec::new();
    catch_up(machine, logged, &mut writes).map_err(|detail| damaged(dir, detail))?;
    let membership = &machine.membership;
    let Some(member) = membership.members.get(&own) else {
        return Err(OpenError::Config(
            "--force-new-cluster: this member was removed from its cluster, so its data may be old; restore a snapshot"
                .into(),
        ));
    };
    if member.is_witness {
        return Err(OpenError::Config("--force-new-cluster: a witness has no data to go on with".into()));
    }
    let mut member = member.clone();
    let others: Vec<Member> = membership.members.values().filter(|other| other.id != own).cloned().collect();
    if others.is_empty() && !member.is_learner {
        tracing::warn!("--force-new-cluster: the member is alone already; leave the flag out from now on");
        return Ok(());
    }
    let n_voters = membership.voters().count();
    let living: Vec<&str> =
        others.iter().filter(|other| !other.is_learner && is_reachable(other)).map(|other| &*other.name).collect();
    let n_living = living.len() + usize::from(!member.is_learner);
    if n_living >= quorum(n_voters) {
        return Err(OpenError::Config(format!(
            "--force-new-cluster: {n_living} of {n_voters} voting members are there ({} can be reached), which is enough to go on with: start without the flag",
            living.join(", ")
        )));
    }
    for other in &others {
        tracing::warn!(
            name = other.name,
            id = format!("{:x}", other.id),
            urls = other.peer_urls.join(","),
            "--force-new-cluster: member is removed for good; never start it again with its data"
        );
        machine.membership.apply(MemberChange::Remove(other.id));
        writes.push(Write::MemberRemoved(other.id));
    }
    member.is_learner = false;
    machine.membership.members.insert(own, member.clone());
    writes.push(Write::Member(member));
    let conf_state = machine.membership.conf_state();
    writes.push(Write::ConfState { voters: conf_state.voters, learners: conf_state.learners });
    let mut rows: Vec<Row> = Vec::with_capacity(writes.len() + 2);
    writes.iter().for_each(|write| push_rows_of(write, &mut rows));
    rows.extend(progress_rows(machine.applied.0, machine.applied.1));
    backend.commit(&rows).map_err(|error| backend_error(dir, &error))?;
    tracing::warn!(
        "--force-new-cluster: this member goes on alone; what others acknowledged and it never heard of is lost; leave the flag out from now on"
    );
    Ok(())
}

/// Applies what the log has and the state has not. An error says what makes no sense.
pub(crate) fn catch_up(machine: &mut Machine, logged: &LoggedState, writes: &mut Vec<Write>) -> Result<(), String> {
    for entry in logged.entries.iter().filter(|entry| entry.index > machine.applied.0).cloned().collect::<Vec<_>>() {
        let (index, term) = (entry.index, entry.term);
        let wrong = |error: &dyn std::fmt::Display| format!("log entry {index}: {error}");
        if entry.get_entry_type() != EntryType::EntryNormal {
            let (_, change, _) = decode_change(entry.data).map_err(|error| wrong(&error))?;
            if machine.membership.check(&change).is_ok() {
                machine.change_members(change, writes);
            }
        } else if !entry.data.is_empty() {
            let (_, command) = Command::decode(entry.data).map_err(|error| wrong(&error))?;
            // Leases start over when a leader counts them.
            if let Err(crate::StoreError::Fatal(error)) = machine.apply(command, Duration::ZERO, writes) {
                return Err(wrong(&error));
            }
        }
        machine.applied = (index, term);
    }
    Ok(())
}

fn is_reachable(member: &Member) -> bool {
    let reaches = |url: &PeerUrl| {
        let addresses = (url.host.as_str(), url.port).to_socket_addrs();
        addresses.is_ok_and(|mut found| found.any(|at| TcpStream::connect_timeout(&at, REACH_TIMEOUT).is_ok()))
    };
    member.peer_urls.iter().filter_map(|url| PeerUrl::parse(url).ok()).any(|url| reaches(&url))
}
