use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ComponentFlags, ElectFlags, MasterFlags, ServingFlags};
use crate::duration;

/// `quarterdeck controller-manager`.
#[derive(Debug, Args)]
pub(crate) struct ControllerManagerArgs {
    /// Kubeconfig for the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    #[command(flatten)]
    pub master: MasterFlags,
    /// CA certificate published to every namespace as kube-root-ca.crt; the kubeconfig's CA if not given.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Key that signs the tokens in service account token Secrets; none is filled without it.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Certificate of the CA that signs CertificateSigningRequests; none is signed without it.
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Key of the CA that signs CertificateSigningRequests.
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub flags: ControllerFlags,
    /// Act as a service account of its own for each controller; nothing else is done.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = ["true"])]
    pub use_service_account_credentials: String,
    /// Name of the cluster for cloud providers, of which there are none.
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    #[command(flatten)]
    pub elect: ElectFlags,
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub component: ComponentFlags,
    /// Names and values of all flags.
    #[arg(skip)]
    pub all: Vec<(String, String)>,
}

/// Flags of the controllers that `server` takes as well.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerFlags {
    /// Controllers to run: '*' for all that are on by default, 'name' to add one, '-name' to leave one out.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Give every node a piece of --cluster-cidr for its pods; on when --cluster-cidr is given.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allocate_node_cidrs: Option<bool>,
    /// Ranges for pod addresses, at most one per family, comma separated.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
    /// Prefix length of a node's piece when there is one range; 24 for IPv4 and 64 for IPv6 if 0.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["node_cidr_mask_size_ipv4", "node_cidr_mask_size_ipv6"])]
    pub node_cidr_mask_size: u8,
    /// Prefix length of a node's IPv4 piece; 24 if 0.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 piece; 64 if 0.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv6: u8,
    /// Time between two looks at the nodes' heartbeats.
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    pub node_monitor_period: Duration,
    /// How long a node may be silent before it counts as unreachable.
    #[arg(long, default_value = "50s", value_parser = duration::parse)]
    pub node_monitor_grace_period: Duration,
    /// How long a new node may take until its first heartbeat.
    #[arg(long, default_value = "1m0s", value_parser = duration::parse)]
    pub node_startup_grace_period: Duration,
    /// Finished pods that are kept before the oldest are deleted; 0 or less keeps all.
    #[arg(long, default_value_t = 12_500, allow_negative_numbers = true)]
    pub terminated_pod_gc_threshold: i32,
    /// Longest lifetime of signed certificates; a request may ask for less.
    #[arg(long, default_value = "8760h0m0s", value_parser = duration::parse)]
    pub cluster_signing_duration: Duration,
    /// How long an automatically made service account token Secret must be unused before it is deleted.
    #[arg(long, default_value = "8760h0m0s", value_parser = duration::parse)]
    pub legacy_service_account_token_clean_up_period: Duration,
}
