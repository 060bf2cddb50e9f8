use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ApiServerFlags, BackupFlags, ComponentFlags, ControllerFlags, EtcdFlags, LeaderFlags};

/// `quarterdeck server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Everything that survives a restart: store, certificates, kubeconfigs.
    #[arg(long, default_value = "./quarterdeck-data")]
    pub data_dir: PathBuf,
    /// Keep everything in memory and listen on free loopback ports; prints the kubeconfig's path.
    #[arg(long, conflicts_with_all = ["data_dir", "etcd_servers", "secure_port", "bind_address"])]
    pub ephemeral: bool,
    /// Further names and addresses for the server's certificate.
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Certificate of the HTTPS server (PEM, with intermediates), followed when it changes; one of the cluster's CA if not given.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the HTTPS server's certificate.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CAs, besides the cluster's own, whose client certificates identify users (PEM), followed when they change.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// How long certificates that this master issues for itself are valid; each is renewed when a quarter of that is left.
    #[arg(long, default_value = "8760h", value_parser = super::super::duration::parse)]
    pub certificate_validity_period: Duration,
    #[command(flatten)]
    pub api_server: ApiServerFlags,
    #[command(flatten)]
    pub etcd: EtcdFlags,
    /// Name of this master, different from all others; the host's name if not given.
    #[arg(long)]
    pub name: Option<String>,
    /// Join the cluster of the master at this URL, as one of its masters; once joined, it is not looked at again.
    #[arg(long, value_name = "https://HOST:PORT", requires = "token", conflicts_with_all = ["ephemeral", "etcd_servers"])]
    pub join: Option<String>,
    /// Join as a witness, with --join and --token: votes and keeps the log; serves no API and keeps no state. Two masters and a witness survive
    /// the loss of one of them.
    #[arg(long, conflicts_with_all = ["ephemeral", "etcd_servers"])]
    pub witness: bool,
    /// Token that lets this master join (`quarterdeck token create` on the other one).
    #[arg(long, env = "QUARTERDECK_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The other masters are lost for good: save a snapshot of this one's state and go on alone. Leave it out of later starts.
    #[arg(long, conflicts_with_all = ["join", "witness", "ephemeral", "etcd_servers"])]
    pub force_new_cluster: bool,
    /// Address for the stores of other masters (TLS, certificates of the store's own CA required).
    #[arg(long, default_value = "0.0.0.0:2380", conflicts_with = "etcd_servers")]
    pub store_peer_address: SocketAddr,
    /// Flags that were given and must be the same for all masters. Filled in after parsing.
    #[arg(skip)]
    pub given: Vec<&'static str>,
    /// Address of the embedded store's etcd API (TLS, client certificates required).
    #[arg(long, default_value = "127.0.0.1:2379", conflicts_with = "etcd_servers")]
    pub store_client_address: SocketAddr,
    #[command(flatten)]
    pub backup: BackupFlags,
    #[command(flatten)]
    pub controllers: ControllerFlags,
    #[command(flatten)]
    pub component: ComponentFlags,
    #[command(flatten)]
    pub lease: LeaderFlags,
}
