use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::duration;

/// Backups that a server makes by itself.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BackupFlags {
    /// Where backups go: a folder, or s3://BUCKET/PREFIX (credentials from the AWS_* variables).
    #[arg(long, value_name = "URL")]
    pub backup_target: Option<String>,
    /// Address of the S3 service; AWS's own if not given.
    #[arg(long, value_name = "URL")]
    pub backup_s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long)]
    pub backup_s3_region: Option<String>,
    /// CA of the S3 service's certificate.
    #[arg(long)]
    pub backup_s3_ca_file: Option<PathBuf>,
    /// File with the key that seals backups: 32 bytes as base64 or hexadecimal. Keep a copy elsewhere.
    #[arg(long)]
    pub backup_key_file: Option<PathBuf>,
    /// Time between two snapshots.
    #[arg(long, default_value = "1h0m0s", value_parser = duration::parse)]
    pub backup_interval: Duration,
    /// Snapshots that are kept; older ones, and the changes only they need, are removed.
    #[arg(long, default_value_t = 24)]
    pub backup_retention: usize,
    /// How long a change may wait until it is in the backup as well; 0 for snapshots only.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub backup_log_interval: Duration,
    /// Bytes per second that a snapshot may take; 0 for as fast as it goes.
    #[arg(long, default_value_t = 256 << 20)]
    pub backup_bandwidth: u64,
    /// YAML file whose members (target, s3Endpoint, s3Region, s3CaFile, keyFile, interval, retention, logInterval, bandwidth) win
    /// over these flags; read again when it changes.
    #[arg(long)]
    pub backup_config: Option<PathBuf>,
}
