use clap::{Args, ValueEnum};

use super::{OptionalPath, go_bool, optional_path};

/// How the member finds the others, and talks to them.
#[derive(Debug, Args)]
pub(crate) struct ClusterFlags {
    /// URLs to listen on for other members.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub listen_peer_urls: Vec<String>,
    /// URLs that other members are told to use.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: Vec<String>,
    /// The first members, as NAME=URL,...; this one alone if not given.
    #[arg(long)]
    pub initial_cluster: Option<String>,
    /// Whether a member without data begins a cluster or joins one that it was added to.
    #[arg(long, value_enum, default_value = "new")]
    pub initial_cluster_state: InitialClusterState,
    /// The other members are lost for good: go on as the only one, with what this member has. Leave it out of later starts.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub force_new_cluster: bool,
    /// Part of a new cluster's identity.
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Certificate for connections between members, in both directions.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub peer_cert_file: OptionalPath,
    /// Key of the certificate for connections between members.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub peer_key_file: OptionalPath,
    /// CA that other members' certificates must come from.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub peer_trusted_ca_file: OptionalPath,
    /// Require certificates of members that connect.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub peer_client_cert_auth: bool,
    /// Bytes a second at which whole states go to members that are new or far behind, so that others' writes do not wait; 0 is no limit.
    #[arg(long, default_value_t = store::SNAPSHOT_BYTES_PER_SECOND)]
    pub snapshot_bytes_per_second: u64,
    /// Log entries kept for members that are behind; one further behind gets a whole state.
    #[arg(long, alias = "experimental-snapshot-catchup-entries", default_value_t = 5000)]
    pub snapshot_catchup_entries: u64,
    /// Milliseconds between a leader's signs of life.
    #[arg(long, default_value_t = 100)]
    pub heartbeat_interval: u64,
    /// Milliseconds without a leader until another is elected.
    #[arg(long, default_value_t = 1000)]
    pub election_timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InitialClusterState {
    New,
    Existing,
}
