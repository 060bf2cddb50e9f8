use std::path::PathBuf;

use clap::Args;

use super::ElectFlags;

/// `quarterdeck scheduler`.
#[derive(Debug, Args)]
pub(crate) struct SchedulerArgs {
    /// Kubeconfig for the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    #[command(flatten)]
    pub elect: ElectFlags,
}
