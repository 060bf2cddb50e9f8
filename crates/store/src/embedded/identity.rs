//! Who a new member is: of a new cluster, by its configuration; of a cluster there is, by what the others say.

use std::thread;
use std::time::{Duration, Instant};

use super::config::{ClusterState, EmbeddedConfig, OpenError};
use crate::Member;
use crate::membership::{Membership, cluster_id, member_id};
use crate::peer::{PeerConfig, PeerError, inquire};
use crate::raft::Identity;

/// Others that start, or start again, have this long to say that they know the new member.
const PATIENCE: Duration = Duration::from_secs(15);
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// A member that has no data yet.
pub(crate) struct Newcomer {
    pub(crate) identity: Identity,
    /// The members as far as it knows: all there will be at first, or those it is going to hear from.
    pub(crate) membership: Membership,
}

impl Newcomer {
    pub(crate) fn of(config: &EmbeddedConfig) -> Result<Self, OpenError> {
        match config.cluster_state {
            ClusterState::New => Self::of_new_cluster(config),
            ClusterState::Existing => Self::of_existing_cluster(config),
        }
    }

    fn of_new_cluster(config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let first = config.first_members();
        let is_alone = first.len() == 1;
        let members = first.into_iter().map(|member| Member {
            id: member_id(&member.peer_urls, &config.cluster_token, None),
            name: member.name,
            // Each says this of itself once it has started; nobody has to be told by one that is alone.
            client_urls: if is_alone { config.client_urls.clone() } else { Vec::new() },
            peer_urls: member.peer_urls,
            is_learner: false,
            is_witness: false,
        });
        let members: Vec<_> = members.collect();
        let membership = Membership::of(members.iter().cloned());
        if membership.members.len() != members.len() {
            return Err(OpenError::Config("members of the initial cluster have the same peer URLs".into()));
        }
        let own = members.iter().find(|member| member.name == config.name);
        // The configuration was checked.
        let own = own.ok_or_else(|| OpenError::Config("the initial cluster is without this member".into()))?;
        let identity = Identity { member_id: own.id, cluster_id: cluster_id(membership.members.keys().copied()) };
        Ok(Self { identity, membership })
    }

    /// One that starts again knows its members of some moments ago until it has read its log, so nothing that is
    /// missing is taken as final at first.
    fn of_existing_cluster(config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::known_to_others(config) {
                Err(error) if Instant::now() < deadline => {
                    tracing::info!(%error, "not known to the cluster yet");
                    thread::sleep(RETRY_INTERVAL);
                }
                outcome => return outcome,
            }
        }
    }

    /// Asks the others of the initial cluster, one of which must answer, and finds itself by its peer URLs.
    fn known_to_others(config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let peer = config.peer.clone().unwrap_or_default();
        let others = config.initial_cluster.iter().filter(|member| member.name != config.name);
        let urls: Vec<_> = others.flat_map(|member| member.peer_urls.clone()).collect();
        let (cluster_id, members) = ask(urls, peer)?;
        if members.len() != config.initial_cluster.len() {
            return Err(OpenError::Config("error validating peerURLs: member count is unequal".into()));
        }
        let is_own = |member: &&Member| {
            member.peer_urls.len() == config.peer_urls.len()
                && member.peer_urls.iter().all(|url| config.peer_urls.contains(url))
        };
        let own = members.iter().find(is_own).ok_or_else(|| {
            let urls = config.peer_urls.join(",");
            OpenError::Config(format!("no member with peer URLs {urls} was added to the cluster"))
        })?;
        let identity = Identity { member_id: own.id, cluster_id };
        Ok(Self { identity, membership: Membership::of(members) })
    }
}

/// The first answer counts: all members of a cluster know the same.
fn ask(urls: Vec<String>, peer: PeerConfig) -> Result<(u64, Vec<Member>), OpenError> {
    let asking = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PeerError::Io)?;
        let mut outcome = Err(PeerError::Timeout);
        for url in &urls {
            let answer = runtime.block_on(inquire(url, &peer));
            match answer {
                Ok(answer) if answer.error.is_empty() && !answer.members.is_empty() => return Ok(answer),
                Ok(answer) if answer.error.is_empty() => outcome = Err(PeerError::Answer("it has no members".into())),
                Ok(answer) => outcome = Err(PeerError::Answer(answer.error)),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    };
    // A thread of its own, because this one may belong to a runtime.
    let answer = thread::spawn(asking).join().unwrap_or(Err(PeerError::Timeout));
    let answer = answer.map_err(|error| {
        OpenError::Config(format!("cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs: {error}"))
    })?;
    Ok((answer.cluster_id, answer.members.into_iter().map(Into::into).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InitialMember;

    #[test]
    fn ids_of_a_new_cluster_are_those_of_etcd() {
        let newcomer = Newcomer::of(&EmbeddedConfig::default()).unwrap();
        let expected = Identity { member_id: 0x8e9e_05c5_2164_694d, cluster_id: 0xcdf8_1819_4e3a_8c32 };
        assert_eq!(newcomer.identity, expected);
        assert_eq!(newcomer.membership.list()[0].client_urls, ["http://localhost:2379"]);
    }

    #[test]
    fn a_member_finds_itself_in_the_initial_cluster_by_name() {
        let member = |name: &str, port: u16| InitialMember {
            name: name.into(),
            peer_urls: vec![format!("http://127.0.0.1:{port}")],
        };
        let mut config = EmbeddedConfig {
            name: "b".into(),
            peer_urls: vec!["http://127.0.0.1:2".into()],
            initial_cluster: vec![member("a", 1), member("b", 2)],
            ..EmbeddedConfig::default()
        };
        config.check().unwrap();
        let newcomer = Newcomer::of(&config).unwrap();
        assert_eq!(newcomer.membership.members[&newcomer.identity.member_id].name, "b");
        config.name = "c".into();
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "couldn't find local name \"c\" in the initial cluster configuration");
        config.name = "a".into();
        let error = config.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "--initial-cluster has a=http://127.0.0.1:1 but --initial-advertise-peer-urls=http://127.0.0.1:2"
        );
    }
}
