use std::path::PathBuf;

use clap::Args;

/// `quarterdeck controller-manager`.
#[derive(Debug, Args)]
pub(crate) struct ControllerManagerArgs {
    /// Kubeconfig for the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// CA certificate published to every namespace as kube-root-ca.crt; the kubeconfig's CA if not given.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub flags: ControllerFlags,
    /// Elect a leader before running, so that several can be started.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
}

/// Flags of the controllers that `server` takes as well.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerFlags {
    /// Controllers to run: '*' for all that are on by default, 'name' to add one, '-name' to leave one out.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Ranges for pod addresses, comma separated.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
}
