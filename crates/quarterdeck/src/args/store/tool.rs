//! `quarterdeck store snapshot|defrag|hashkv|verify|migrate`: etcdutl's commands and options on the files of this store, and etcdctl's
//! `snapshot save`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreTool {
    /// Save a running member's data to a file, look at such a file, or make a data directory from it.
    #[command(subcommand)]
    Snapshot(SnapshotTool),
    /// Give back the free space of a data directory's state file, while no store is running on it.
    Defrag(DataDirArgs),
    /// Print the hash of the key-value history in a snapshot file or a data directory.
    #[command(name = "hashkv")]
    HashKv(HashKvArgs),
    /// Check everything in a snapshot file or a data directory.
    Verify(VerifyArgs),
    /// Change the version of the data in a data directory.
    Migrate(MigrateArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotTool {
    /// Store a member's data in a file.
    Save(SaveArgs),
    /// Print hash, revision, number of keys and size of a snapshot file.
    Status(StatusArgs),
    /// Make a data directory from a snapshot file.
    Restore(RestoreArgs),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Fields,
    Json,
    #[default]
    Simple,
    Table,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The file to write. It appears when it is complete.
    pub filename: PathBuf,
    /// The member to ask: one URL.
    #[arg(long, env = "ETCDCTL_ENDPOINTS", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// CA of the member's certificate.
    #[arg(long, env = "ETCDCTL_CACERT")]
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    #[arg(long, env = "ETCDCTL_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate.
    #[arg(long, env = "ETCDCTL_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Give up after this long; without it, never.
    #[arg(long, env = "ETCDCTL_COMMAND_TIMEOUT", value_parser = duration::parse)]
    pub command_timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    pub filename: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    pub write_out: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    pub filename: PathBuf,
    /// The directory to make; NAME.etcd if not given. It must not exist, or be empty.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Human-readable name of this member.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Members of the new cluster, as NAME=PEER-URL, comma separated.
    #[arg(long, default_value = "default=http://localhost:2380")]
    pub initial_cluster: String,
    /// Token of the new cluster.
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// This member's peer URLs.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: Vec<String>,
    /// Take a file without or with a wrong SHA-256 at its end, such as etcd's `member/snap/db`.
    #[arg(long)]
    pub skip_hash_check: bool,
    /// Start this many revisions later, so that clients never see a revision again.
    #[arg(long, default_value_t = 0)]
    pub bump_revision: u64,
    /// Let watches that know the time before start over; goes with --bump-revision.
    #[arg(long)]
    pub mark_compacted: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DataDirArgs {
    /// The data directory.
    #[arg(long)]
    pub data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct HashKvArgs {
    /// A snapshot file, etcd's `member/snap/db`, or a data directory.
    pub filename: PathBuf,
    /// Newest revision to hash; 0 is the latest.
    #[arg(long, default_value_t = 0)]
    pub rev: i64,
    #[arg(short, long, value_enum, default_value_t)]
    pub write_out: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A snapshot file, or a data directory on which no store is running.
    pub filename: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The data directory.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The version of etcd whose data this is to be, as X.Y.
    #[arg(long)]
    pub target_version: String,
    /// Set the version even if the data do not fit it.
    #[arg(long)]
    pub force: bool,
}
