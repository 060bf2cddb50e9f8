use std::path::PathBuf;

use clap::Args;

/// `quarterdeck store`: etcd's flag names and environment variables.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Human-readable name of this member.
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    pub name: String,
    /// Path of the data directory; NAME.etcd if not given.
    #[arg(long, env = "ETCD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// URLs to listen on for clients.
    #[arg(long, env = "ETCD_LISTEN_CLIENT_URLS", value_delimiter = ',', default_value = "http://localhost:2379")]
    pub listen_client_urls: Vec<String>,
    /// URLs that clients are told to use.
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',', default_value = "http://localhost:2379")]
    pub advertise_client_urls: Vec<String>,
    /// Certificate for client connections.
    #[arg(long, env = "ETCD_CERT_FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Key of the certificate for client connections.
    #[arg(long, env = "ETCD_KEY_FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// CA that clients' certificates must come from.
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Require client certificates.
    #[arg(long, env = "ETCD_CLIENT_CERT_AUTH", requires = "trusted_ca_file")]
    pub client_cert_auth: bool,
}
