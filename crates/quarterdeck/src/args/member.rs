use std::time::Duration;

use clap::Subcommand;

use super::AccessFlags;
use crate::duration;

/// `quarterdeck member`.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List the members of the store, one in each master.
    Ls {
        #[command(flatten)]
        access: AccessFlags,
    },
    /// Remove a member, by name or id. Its master stops.
    Rm {
        member: String,
        #[command(flatten)]
        access: AccessFlags,
    },
    /// Remove a member that is gone for good and print how its replacement joins.
    Replace {
        member: String,
        /// How long the printed token can be used.
        #[arg(long, default_value = "1h0m0s", value_parser = duration::parse)]
        ttl: Duration,
        #[command(flatten)]
        access: AccessFlags,
    },
}
