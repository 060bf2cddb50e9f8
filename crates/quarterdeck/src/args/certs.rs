use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::snapshot::OutputFlags;

/// `quarterdeck certs`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Show when the certificates of a master expire; fails when one has, or is about to.
    Check {
        /// Data directory of the master.
        #[arg(long, default_value = "./quarterdeck-data")]
        data_dir: PathBuf,
        /// What is left must be at least this much.
        #[arg(long, default_value = "720h", value_parser = super::super::duration::parse)]
        within: Duration,
        #[command(flatten)]
        output: OutputFlags,
    },
}

/// `quarterdeck kubeconfig`.
#[derive(Debug, Args)]
pub(crate) struct KubeconfigArgs {
    /// URL at which clients reach the masters: a virtual IP's, a DNS name's, or one master's.
    #[arg(long, value_name = "https://HOST:PORT")]
    pub server: String,
    /// Data directory of a master.
    #[arg(long, default_value = "./quarterdeck-data")]
    pub data_dir: PathBuf,
    /// User that the certificate names.
    #[arg(long, default_value = "kubernetes-admin")]
    pub client_name: String,
    /// Groups that the certificate names, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "system:masters")]
    pub org: Vec<String>,
    /// How long the certificate is valid.
    #[arg(long, default_value = "8760h", value_parser = super::super::duration::parse)]
    pub validity_period: Duration,
}
