use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ApiServerFlags, ControllerFlags, EtcdFlags, LeaderFlags};

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
    #[command(flatten)]
    pub api_server: ApiServerFlags,
    #[command(flatten)]
    pub etcd: EtcdFlags,
    /// Address of the embedded store's etcd API (TLS, client certificates required).
    #[arg(long, default_value = "127.0.0.1:2379", conflicts_with = "etcd_servers")]
    pub store_client_address: SocketAddr,
    #[command(flatten)]
    pub controllers: ControllerFlags,
    #[command(flatten)]
    pub lease: LeaderFlags,
}
