use std::path::PathBuf;

use clap::Args;

use super::{ComponentFlags, ElectFlags, MasterFlags, ServingFlags};

/// `quarterdeck scheduler`.
#[derive(Debug, Args)]
pub(crate) struct SchedulerArgs {
    /// Kubeconfig for the API server; --config can name it instead.
    #[arg(long, required_unless_present = "config")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub master: MasterFlags,
    /// KubeSchedulerConfiguration file; what it says about leader election wins over the flags.
    #[arg(long)]
    pub config: Option<PathBuf>,
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
