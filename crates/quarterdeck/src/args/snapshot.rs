use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `quarterdeck snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save a backup of a running cluster: to PATH, or, without one, to the server's own backup target.
    Save {
        /// File to write; must not exist.
        path: Option<PathBuf>,
        #[command(flatten)]
        access: AccessFlags,
        /// Seal the file with the key in this file.
        #[arg(long, requires = "path")]
        key_file: Option<PathBuf>,
    },
    /// List the backups of a target, by default that of the server.
    Ls {
        #[command(flatten)]
        access: AccessFlags,
        #[command(flatten)]
        target: TargetFlags,
    },
    /// Check that a backup can be restored: read all of it, and with --drill restore it into a scratch directory and open it.
    Verify {
        /// A file, or the name of a backup in --target; the newest one if not given.
        backup: Option<String>,
        #[command(flatten)]
        target: TargetFlags,
        /// Restore into a scratch directory, open the store, and compare objects, revision and hash.
        #[arg(long)]
        drill: bool,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Make a data directory from a backup, or from an etcd snapshot.
    Restore {
        /// A file, or the name of a backup in --target; the newest fitting one if not given.
        backup: Option<String>,
        #[command(flatten)]
        target: TargetFlags,
        /// The data directory to make; must not exist or be empty.
        #[arg(long, required_unless_present = "dry_run")]
        data_dir: Option<PathBuf>,
        /// A revision, or a time (RFC 3339) to restore to; the newest there is if not given.
        #[arg(long, value_name = "TIME|REVISION")]
        to: Option<String>,
        /// Only say what would be different from the running cluster (--kubeconfig).
        #[arg(long)]
        dry_run: bool,
        /// Kubeconfig of the running cluster, for --dry-run.
        #[arg(long, env = "KUBECONFIG")]
        kubeconfig: Option<PathBuf>,
        /// Revisions that the restored store jumps ahead, so that no client takes its history for the old one's.
        #[arg(long, default_value_t = 1_000_000_000)]
        bump_revision: u64,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Remove all but the newest backups of each cluster in a target.
    Prune {
        #[command(flatten)]
        target: TargetFlags,
        /// Snapshots to keep.
        #[arg(long, default_value_t = 24)]
        keep: usize,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: OutputFlags,
    },
}

/// A place with backups.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TargetFlags {
    /// A folder, or s3://BUCKET/PREFIX (credentials from the AWS_* variables).
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Address of the S3 service; AWS's own if not given.
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long)]
    pub s3_region: Option<String>,
    /// CA of the S3 service's certificate.
    #[arg(long)]
    pub s3_ca_file: Option<PathBuf>,
    /// File with the key of the backups.
    #[arg(long)]
    pub key_file: Option<PathBuf>,
}

/// Where the running cluster is, and how to show what it says.
#[derive(Clone, Debug, Args)]
pub(crate) struct AccessFlags {
    /// Kubeconfig of the cluster.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputFlags,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputFlags {
    /// How to print the result.
    #[arg(long, short = 'o', value_enum, default_value_t = PrintFormat::Table)]
    pub output: PrintFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrintFormat {
    Table,
    Json,
}
