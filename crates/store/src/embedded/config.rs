//! What an embedded store is opened with, and why opening may fail.

use std::path::PathBuf;

use crate::mvcc::check::TXN_OPS_MAX;

/// How to open an [`EmbeddedStore`](super::EmbeddedStore).
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Where the store lives; `None` keeps it in memory until it is dropped.
    pub data_dir: Option<PathBuf>,
    /// The member's name.
    pub name: String,
    /// Where other members reach this one. Part of the member's identity, as in etcd.
    pub peer_urls: Vec<String>,
    /// Where clients reach this member; only reported.
    pub client_urls: Vec<String>,
    /// Part of the cluster's identity: etcd's `--initial-cluster-token`.
    pub cluster_token: String,
    /// Size of the state file in bytes at which writes are refused and the NOSPACE alarm is raised; 0 is no quota.
    pub quota_bytes: i64,
    /// Operations in a transaction; more are refused.
    pub txn_ops_max: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            data_dir: None,
            name: "default".into(),
            peer_urls: vec!["http://localhost:2380".into()],
            client_urls: vec!["http://localhost:2379".into()],
            cluster_token: "etcd-cluster".into(),
            quota_bytes: 0,
            txn_ops_max: TXN_OPS_MAX,
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this process, has it open.
    #[error("data directory {} is in use by another store", .0.display())]
    InUse(PathBuf),
    #[error("data directory {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Written by a newer version of this program.
    #[error("data directory {} has format {found}, this version reads up to {supported}", path.display())]
    TooNew { path: PathBuf, found: String, supported: u32 },
    #[error("no space left in data directory {}", .0.display())]
    NoSpace(PathBuf),
    /// The files contradict each other or themselves; restore a snapshot.
    #[error("data directory {} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("store could not be started: {0}")]
    Start(String),
}
