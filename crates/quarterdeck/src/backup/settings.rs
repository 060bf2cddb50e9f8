//! What the backup of a server is to be: from flags, and from a file that may change while the server runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::archive::BackupKey;
use super::target::{S3Options, Target};
use crate::args::BackupFlags;

/// A backup as configured, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub target: Target,
    pub key: Option<BackupKey>,
    /// Time between two snapshots.
    pub interval: Duration,
    /// Snapshots of this cluster that are kept.
    pub n_snapshots: usize,
    /// How long a change may wait until it is in a log; none without logs between snapshots.
    pub log_interval: Option<Duration>,
    /// Bytes per second of a snapshot; none for as fast as it goes.
    pub bandwidth: Option<u64>,
}

/// `--backup-config`: each member stands for the flag of its name, and wins over it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    target: Option<String>,
    s3_endpoint: Option<String>,
    s3_region: Option<String>,
    s3_ca_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    interval: Option<String>,
    retention: Option<usize>,
    log_interval: Option<String>,
    bandwidth: Option<u64>,
}

/// The settings that flags and file give; none when no target is named.
pub(crate) fn settle(flags: &BackupFlags) -> Result<Option<Settings>> {
    let file = match &flags.backup_config {
        None => File::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_saphyr::from_str(&text).with_context(|| format!("--backup-config {}", path.display()))?
        }
    };
    let File { target, s3_endpoint, s3_region, s3_ca_file, key_file, interval, retention, log_interval, bandwidth } =
        file;
    let duration = |text: Option<String>, or: Duration| match text {
        None => Ok(or),
        Some(text) => {
            crate::duration::parse(&text).map_err(|error| anyhow::anyhow!("--backup-config: {text:?}: {error}"))
        }
    };
    let Some(url) = target.or_else(|| flags.backup_target.clone()) else { return Ok(None) };
    let ca_file = s3_ca_file.or_else(|| flags.backup_s3_ca_file.clone());
    let s3 = S3Options {
        endpoint: s3_endpoint.or_else(|| flags.backup_s3_endpoint.clone()),
        region: s3_region.or_else(|| flags.backup_s3_region.clone()),
        ca_pem: ca_file.map(|path| std::fs::read(&path).with_context(|| path.display().to_string())).transpose()?,
    };
    let key = key_file.or_else(|| flags.backup_key_file.clone()).map(|path| read_key(&path)).transpose()?;
    let interval = duration(interval, flags.backup_interval)?;
    if interval.is_zero() {
        bail!("--backup-interval must be greater than zero");
    }
    let log_interval = duration(log_interval, flags.backup_log_interval)?;
    let bandwidth = bandwidth.unwrap_or(flags.backup_bandwidth);
    Ok(Some(Settings {
        target: Target::open(&url, &s3)?,
        key,
        interval,
        n_snapshots: retention.unwrap_or(flags.backup_retention).max(1),
        log_interval: (!log_interval.is_zero()).then_some(log_interval),
        bandwidth: (bandwidth > 0).then_some(bandwidth),
    }))
}

/// The key in a file.
pub(crate) fn read_key(path: &Path) -> Result<BackupKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let shown = path.display();
    BackupKey::parse(&text).with_context(|| {
        format!("{shown}: a key is 32 bytes as base64 or hexadecimal; `openssl rand -base64 32 > {shown}` makes one")
    })
}
