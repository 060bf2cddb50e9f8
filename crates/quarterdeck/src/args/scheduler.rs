use std::path::PathBuf;

use clap::Args;

/// `quarterdeck scheduler`.
#[derive(Debug, Args)]
pub(crate) struct SchedulerArgs {
    /// Kubeconfig for the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Elect a leader before running, so that several can be started.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
}
