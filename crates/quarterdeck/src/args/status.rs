use clap::Args;

use super::AccessFlags;

/// `quarterdeck status`.
#[derive(Debug, Args)]
pub(crate) struct MasterStatusArgs {
    #[command(flatten)]
    pub access: AccessFlags,
    /// Show it again every two seconds.
    #[arg(long, short = 'w')]
    pub watch: bool,
}
