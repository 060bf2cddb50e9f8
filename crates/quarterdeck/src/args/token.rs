use std::time::Duration;

use clap::Subcommand;

use super::AccessFlags;
use crate::duration;

/// `quarterdeck token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which another master can join; it is the last line printed.
    Create {
        #[command(flatten)]
        access: AccessFlags,
        /// How long it can be used.
        #[arg(long, default_value = "24h0m0s", value_parser = duration::parse)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List the tokens there are. Their secrets are known to nobody any more.
    Ls {
        #[command(flatten)]
        access: AccessFlags,
    },
    /// Take a token back: its id, or the whole token.
    Rm {
        token: String,
        #[command(flatten)]
        access: AccessFlags,
    },
}
