//! `quarterdeck store`: the server with etcd's flags, and the tools that work on its files.
//!
//! As with etcd, a flag can also be given as an `ETCD_*` variable, and a configuration file replaces both (`sources`). Flags of etcd's
//! that have nothing to act on here are rows of a table (`foreign`); all others are fields below.

mod cluster;
mod foreign;
mod gates;
mod sources;
mod tool;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub(crate) use cluster::{ClusterFlags, InitialClusterState};
pub(crate) use foreign::ForeignFlags;
pub(crate) use gates::FeatureGates;
pub(crate) use sources::complete;
pub(crate) use tool::{
    DataDirArgs, HashKvArgs, MigrateArgs, OutputFormat, RestoreArgs, SaveArgs, SnapshotTool, StatusArgs, StoreTool,
    VerifyArgs,
};

use crate::duration;

/// `quarterdeck store`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub tool: Option<StoreTool>,
    #[command(flatten)]
    pub flags: StoreFlags,
}

impl StoreArgs {
    /// Whether this starts a server; everything else ends by itself.
    pub(crate) fn is_server(&self) -> bool {
        self.tool.is_none() && !self.flags.version
    }
}

/// etcd's flags.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct StoreFlags {
    /// Print the version in etcd's form and exit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub version: bool,
    /// Configuration file (YAML or JSON, as etcd's); other flags and ETCD_* variables are ignored then.
    #[arg(long)]
    pub config_file: Option<PathBuf>,
    /// Human-readable name of this member.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Path of the data directory; NAME.etcd if not given.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub data_dir: OptionalPath,
    /// URLs to listen on for clients.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2379")]
    pub listen_client_urls: Vec<String>,
    /// URLs to listen on for HTTP clients only; the other client URLs then serve gRPC only.
    #[arg(long, value_delimiter = ',')]
    pub listen_client_http_urls: Vec<String>,
    /// URLs to listen on for /metrics and health checks.
    #[arg(long, value_delimiter = ',')]
    pub listen_metrics_urls: Vec<String>,
    /// Which metrics to serve: basic, or extensive with how long calls take.
    #[arg(long, value_parser = ["basic", "extensive"], default_value = "basic")]
    pub metrics: String,
    /// Origins of web pages that may ask over HTTP; * or none is all.
    #[arg(long, value_delimiter = ',', value_parser = origin, default_value = "*")]
    pub cors: Vec<String>,
    /// Names that HTTP clients without TLS may call this member by; * or none is all.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub host_whitelist: Vec<String>,
    /// How users prove who they are: simple, or jwt,sign-method=…,pub-key=…,priv-key=…,ttl=….
    #[arg(long, default_value = "simple")]
    pub auth_token: String,
    /// Seconds that a simple token lives after its last use.
    #[arg(long, default_value_t = 300)]
    pub auth_token_ttl: u32,
    /// Strength of the hashes of passwords.
    #[arg(long, default_value_t = 10)]
    pub bcrypt_cost: u32,
    /// URLs that clients are told to use.
    #[arg(long, value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,

    /// Size of the state file in bytes at which writes are refused; 0 is 2 GiB, a negative number no limit.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub quota_backend_bytes: i64,
    /// Bytes of current values kept in memory; the others are read from the state file.
    #[arg(long, default_value_t = 128 << 20)]
    pub value_cache_bytes: u64,
    /// Largest number of operations in a transaction.
    #[arg(long, default_value_t = 128)]
    pub max_txn_ops: u32,
    /// Largest request in bytes.
    #[arg(long, default_value_t = 1_572_864)]
    pub max_request_bytes: u32,
    /// Streams that one client connection may have open.
    #[arg(long, default_value_t = u32::MAX, hide_default_value = true)]
    pub max_concurrent_streams: u32,
    /// Acknowledge writes before they are on disk. For tests only: a crash of the machine loses data.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub unsafe_no_fsync: bool,
    /// How long a silent client connection is left alone before it is asked whether it is there; 0 is forever.
    #[arg(long, default_value = "2h", value_parser = duration::parse)]
    pub grpc_keepalive_interval: Duration,
    /// How long such a client has to answer.
    #[arg(long, default_value = "20s", value_parser = duration::parse)]
    pub grpc_keepalive_timeout: Duration,
    /// How often a watch that asked for it is told how far it has come.
    #[arg(long, alias = "experimental-watch-progress-notify-interval", default_value = "10m", value_parser = duration::parse)]
    pub watch_progress_notify_interval: Duration,
    /// How auto-compaction-retention is read: periodic (a duration, hours without a unit) or revision (a number of revisions).
    #[arg(long, default_value = "periodic")]
    pub auto_compaction_mode: String,
    /// What automatic compaction leaves; 0 is no automatic compaction.
    #[arg(long, default_value = "0")]
    pub auto_compaction_retention: String,
    /// Give back free space of the state file when starting, if it is at least this many megabytes; 0 is never.
    #[arg(long, alias = "experimental-bootstrap-defrag-threshold-megabytes", default_value_t = 0)]
    pub bootstrap_defrag_threshold_megabytes: u64,
    /// How often the leader compares the data of the members, to raise the CORRUPT alarm of one that differs; 0 is never.
    #[arg(long, alias = "experimental-corrupt-check-time", default_value = "0s", value_parser = duration::parse)]
    pub corrupt_check_time: Duration,
    /// Compare the data with the other members' before serving, as with the feature gate InitialCorruptCheck.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub experimental_initial_corrupt_check: bool,
    /// Features to switch, as NAME=true or NAME=false.
    #[arg(long, value_parser = gates::parse, default_value = "", hide_default_value = true)]
    pub feature_gates: FeatureGates,

    /// Certificate for client connections.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub cert_file: OptionalPath,
    /// Key of the certificate for client connections.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub key_file: OptionalPath,
    /// CA that clients' certificates must come from. Clients without a certificate are refused.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub trusted_ca_file: OptionalPath,
    /// Require client certificates.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub client_cert_auth: bool,
    /// Revoked client certificates.
    #[arg(long, value_parser = optional_path, default_value = "", hide_default_value = true)]
    pub client_crl_file: OptionalPath,
    /// Names of which a client's certificate must have one.
    #[arg(long, value_delimiter = ',')]
    pub client_cert_allowed_hostname: Vec<String>,
    /// Serve clients with a certificate made when first needed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub auto_tls: bool,
    /// Years for which such a certificate is valid.
    #[arg(long, default_value_t = 1)]
    pub self_signed_cert_validity: u32,
    /// TLS 1.2 cipher suites to offer, by their IANA names.
    #[arg(long, value_delimiter = ',')]
    pub cipher_suites: Vec<String>,
    /// Oldest TLS version: TLS1.2 or TLS1.3.
    #[arg(long, default_value = "TLS1.2")]
    pub tls_min_version: String,
    /// Newest TLS version: TLS1.2 or TLS1.3.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub tls_max_version: String,

    /// Only zap, which is etcd's form of log lines.
    #[arg(long, default_value = "zap")]
    pub logger: String,
    /// Where to log: default, stderr, stdout, or files.
    #[arg(long, value_delimiter = ',', default_value = "default")]
    pub log_outputs: Vec<String>,
    /// Least severe lines to log: debug, info, warn, error, panic or fatal.
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// Form of log lines: json or console.
    #[arg(long, default_value = "json")]
    pub log_format: String,

    #[command(flatten)]
    pub cluster: ClusterFlags,
    #[command(flatten)]
    pub foreign: ForeignFlags,
}

/// A path that may be left empty, as in etcd's configuration files.
pub(crate) type OptionalPath = EmptyOr<PathBuf>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EmptyOr<T>(pub Option<T>);

impl<T> EmptyOr<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

/// An origin of web pages as browsers name it.
fn origin(text: &str) -> Result<String, String> {
    let is_url =
        ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if is_url || matches!(text, "" | "*") {
        return Ok(text.to_owned());
    }
    Err(format!("URL scheme must be http, https, unix, or unixs: {text}"))
}

#[allow(clippy::unnecessary_wraps)] // The form clap wants.
fn optional_path(text: &str) -> Result<OptionalPath, String> {
    Ok(EmptyOr((!text.is_empty()).then(|| PathBuf::from(text))))
}

/// What Go reads as a boolean.
pub(crate) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("parse error".to_owned()),
    }
}
