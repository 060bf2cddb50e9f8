//! What an embedded store is opened with, and why opening may fail.

use std::path::PathBuf;
use std::time::Duration;

use crate::AuthConfig;
use crate::mvcc::check::TXN_OPS_MAX;
use crate::peer::{PeerConfig, REQUEST_BYTES_LIMIT, SNAPSHOT_BYTES_PER_SECOND, SNAPSHOT_BYTES_PER_SECOND_MIN};
use crate::raft::KEPT_ENTRIES_MAX;

/// How to open an [`EmbeddedStore`](super::EmbeddedStore).
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Where the store lives; `None` keeps it in memory until it is dropped.
    pub data_dir: Option<PathBuf>,
    /// The member's name.
    pub name: String,
    /// Where other members reach this one: etcd's `--initial-advertise-peer-urls`. Part of the member's identity.
    pub peer_urls: Vec<String>,
    /// Where clients reach this member; only reported.
    pub client_urls: Vec<String>,
    /// Part of the cluster's identity: etcd's `--initial-cluster-token`.
    pub cluster_token: String,
    /// Size of the state file in bytes at which writes are refused and the NOSPACE alarm is raised; 0 is no quota.
    pub quota_bytes: i64,
    /// Operations in a transaction; more are refused.
    pub txn_ops_max: usize,
    /// Bytes of a request, in the form in which the log keeps it; larger ones are refused.
    pub request_bytes_max: usize,
    /// Bytes of the newest values to keep in memory; the others are read from the state file. Without a data directory, all are
    /// kept.
    pub value_cache_bytes: usize,
    /// Acknowledge writes before they are on disk: for tests, whose data nobody misses.
    pub unsafe_no_sync: bool,
    /// How users prove who they are, once authentication is enabled.
    pub auth: AuthConfig,
    /// The first members of the cluster, this one among them; none means this one alone. Looked at only when the store is new.
    pub initial_cluster: Vec<InitialMember>,
    /// Whether a new store begins a cluster or joins one.
    pub cluster_state: ClusterState,
    /// The others are lost for good: a store that has data goes on as the only member of its cluster.
    pub force_new_cluster: bool,
    /// Votes and keeps the log, and has no state: for a member that joins a cluster as its witness.
    pub is_witness: bool,
    /// How to listen for other members; without it there cannot be any.
    pub peer: Option<PeerConfig>,
    /// Bytes a second at which whole states are sent to members that are new or far behind, so that everybody else's writes do not wait for
    /// that; 0 is no limit.
    pub snapshot_bytes_per_second: u64,
    /// Log entries that are kept for members that are behind; one that is further behind gets a whole state.
    pub catchup_entries: u64,
    /// Time between a leader's signs of life.
    pub heartbeat_interval: Duration,
    /// Time without a leader until another is elected; the real one is between one and two times this.
    pub election_timeout: Duration,
}

/// A member of a cluster that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub name: String,
    pub peer_urls: Vec<String>,
}

impl InitialMember {
    /// Reads `a=http://x:1,b=http://y:1`; a name may come several times, with a URL each.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut members: Vec<Self> = Vec::new();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let parts = member.split_once('=').filter(|(name, url)| !name.is_empty() && !url.is_empty());
            let (name, url) =
                parts.ok_or_else(|| format!("--initial-cluster: {member:?} does not have the form NAME=URL"))?;
            match members.iter_mut().find(|member| member.name == name) {
                Some(member) => member.peer_urls.push(url.to_owned()),
                None => members.push(Self { name: name.to_owned(), peer_urls: vec![url.to_owned()] }),
            }
        }
        Ok(members)
    }
}

/// What a store without data becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterState {
    /// One of the first members of a new cluster.
    #[default]
    New,
    /// A member that was added to a cluster, and gets its data from there.
    Existing,
}

/// Elections take at least this many heartbeats, as in etcd.
const ELECTION_HEARTBEATS_MIN: u32 = 5;
/// etcd's upper limit of the election timeout.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);

impl EmbeddedConfig {
    /// The members of a new cluster; this one alone if none are given.
    pub(super) fn first_members(&self) -> Vec<InitialMember> {
        if self.initial_cluster.is_empty() {
            let (name, peer_urls) = (self.name.clone(), self.peer_urls.clone());
            return vec![InitialMember { name, peer_urls }];
        }
        self.initial_cluster.clone()
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |text: String| Err(OpenError::Config(text));
        if self.heartbeat_interval.is_zero() {
            return refuse("the heartbeat interval must be greater than zero".into());
        }
        if self.election_timeout < self.heartbeat_interval * ELECTION_HEARTBEATS_MIN {
            return refuse(format!(
                "--election-timeout[{:?}] should be at least as 5 times as --heartbeat-interval[{:?}]",
                self.election_timeout, self.heartbeat_interval
            ));
        }
        if self.election_timeout > ELECTION_TIMEOUT_MAX {
            return refuse(format!(
                "--election-timeout[{:?}] is too long, and should be set less than {ELECTION_TIMEOUT_MAX:?}",
                self.election_timeout
            ));
        }
        if self.request_bytes_max > REQUEST_BYTES_LIMIT {
            return refuse(format!(
                "--max-request-bytes[{}] is more than members can send to each other, which is {REQUEST_BYTES_LIMIT}",
                self.request_bytes_max
            ));
        }
        if (1..SNAPSHOT_BYTES_PER_SECOND_MIN).contains(&self.snapshot_bytes_per_second) {
            return refuse(format!(
                "--snapshot-bytes-per-second[{}] must be 0, which is no limit, or at least {SNAPSHOT_BYTES_PER_SECOND_MIN}",
                self.snapshot_bytes_per_second
            ));
        }
        let mut names: Vec<_> = self.initial_cluster.iter().map(|member| &member.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("the initial cluster names a member twice".into());
        }
        if self.initial_cluster.is_empty() {
            return Ok(());
        }
        let Some(own) = self.initial_cluster.iter().find(|member| member.name == self.name) else {
            return refuse(format!("couldn't find local name {:?} in the initial cluster configuration", self.name));
        };
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort_unstable();
            urls
        };
        if sorted(&own.peer_urls) != sorted(&self.peer_urls) {
            return refuse(format!(
                "--initial-cluster has {}={} but --initial-advertise-peer-urls={}",
                self.name,
                own.peer_urls.join(","),
                self.peer_urls.join(",")
            ));
        }
        Ok(())
    }
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            data_dir: None,
            name: "default".into(),
            peer_urls: vec!["http://localhost:2380".into()],
            client_urls: vec!["http://localhost:2379".into()],
            cluster_token: "etcd-cluster".into(),
            quota_bytes: 0,
            txn_ops_max: TXN_OPS_MAX,
            request_bytes_max: 1_572_864,
            value_cache_bytes: 128 << 20,
            unsafe_no_sync: false,
            auth: AuthConfig::default(),
            initial_cluster: Vec::new(),
            cluster_state: ClusterState::New,
            force_new_cluster: false,
            is_witness: false,
            peer: None,
            snapshot_bytes_per_second: SNAPSHOT_BYTES_PER_SECOND,
            catchup_entries: KEPT_ENTRIES_MAX,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this process, has it open.
    #[error("data directory {} is in use by another store", .0.display())]
    InUse(PathBuf),
    #[error("data directory {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Written by a newer version of this program.
    #[error("data directory {} has format {found}, this version reads up to {supported}", path.display())]
    TooNew { path: PathBuf, found: String, supported: u32 },
    #[error("no space left in data directory {}", .0.display())]
    NoSpace(PathBuf),
    /// The files contradict each other or themselves; restore a snapshot.
    #[error("data directory {} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    /// The configuration contradicts itself or what is stored.
    #[error("{0}")]
    Config(String),
    #[error("store could not be started: {0}")]
    Start(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initial_cluster_is_names_and_urls() {
        let member = |name: &str, urls: &[&str]| InitialMember {
            name: name.into(),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        };
        assert_eq!(
            InitialMember::parse_list("a=http://x:1,b=http://y:1,a=http://z:1").unwrap(),
            [member("a", &["http://x:1", "http://z:1"]), member("b", &["http://y:1"])]
        );
        for wrong in ["a=http://x:1,b", "=http://x:1", "a="] {
            let error = InitialMember::parse_list(wrong).unwrap_err();
            assert!(error.ends_with("does not have the form NAME=URL"), "{error}");
        }
    }
}
