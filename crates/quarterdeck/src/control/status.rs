//! What a master knows of itself and its cluster, in one document.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::Store;

use crate::backup::BackupStatus;
use crate::pki;

/// Where the parts come from.
#[derive(Clone, Debug)]
pub(crate) struct StatusSource {
    pub store: Arc<dyn Store>,
    pub pki_dir: Option<PathBuf>,
    pub started: Timestamp,
    /// The store is a cluster of its own, outside of this process.
    pub is_external: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MasterStatus {
    pub version: String,
    pub kubernetes_version: String,
    pub started: String,
    pub store: StoreSummary,
    pub members: Vec<MemberSummary>,
    pub alarms: Vec<String>,
    pub certificates: Vec<CertificateSummary>,
    pub backup: BackupSummary,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoreSummary {
    /// `embedded` or `external`.
    pub topology: String,
    pub cluster_id: String,
    pub member_id: String,
    pub leader_id: String,
    pub term: u64,
    pub revision: i64,
    pub raft_index: u64,
    pub raft_applied_index: u64,
    pub size_bytes: i64,
    pub size_in_use_bytes: i64,
    pub quota_bytes: i64,
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberSummary {
    pub id: String,
    pub name: String,
    /// `leader`, `voter`, `learner` or `witness`.
    pub role: String,
    /// `started`, `learner`, `unreachable` or `unstarted`.
    pub state: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateSummary {
    pub name: String,
    pub expires: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackupSummary {
    pub target: Option<String>,
    pub encrypted: bool,
    pub last_success: Option<String>,
    pub last_failure: Option<String>,
    pub failures: u64,
    pub recoverable_from: Option<String>,
    pub recoverable_until: Option<String>,
    pub reached_revision: i64,
}

impl StatusSource {
    /// Asks every part. A store without a leader still answers for itself.
    pub(crate) async fn collect(&self, backup: &BackupStatus) -> Result<MasterStatus> {
        let status = self.store.status().await.context("the store")?;
        let members = super::members::list(&self.store).await?;
        let alarms =
            self.store.alarms().await.map(|alarms| {
                alarms.iter().map(|alarm| format!("{:016x} {:?}", alarm.member_id, alarm.kind)).collect()
            });
        let certificates = self.pki_dir.as_deref().map(pki::certificates_in).transpose()?.unwrap_or_default();
        Ok(MasterStatus {
            version: format!("v{}", env!("CARGO_PKG_VERSION")),
            kubernetes_version: crate::KUBERNETES_VERSION.into(),
            started: self.started.to_string(),
            store: StoreSummary {
                topology: if self.is_external { "external" } else { "embedded" }.into(),
                cluster_id: format!("{:016x}", status.cluster_id),
                member_id: format!("{:016x}", status.member_id),
                leader_id: format!("{:016x}", status.leader_id),
                term: status.raft_term,
                revision: status.revision.0,
                raft_index: status.raft_index,
                raft_applied_index: status.raft_applied_index,
                size_bytes: status.db_size_bytes,
                size_in_use_bytes: status.db_size_in_use_bytes,
                quota_bytes: status.db_size_quota_bytes,
                errors: status.errors,
            },
            members,
            // Without a quorum nobody knows the alarms.
            alarms: alarms.unwrap_or_default(),
            certificates: certificates
                .into_iter()
                .map(|found| CertificateSummary { name: found.name, expires: found.expires.to_string() })
                .collect(),
            backup: BackupSummary {
                target: backup.target.clone(),
                encrypted: backup.is_encrypted,
                last_success: backup.last_success.map(|time| time.to_string()),
                last_failure: backup.last_failure.as_ref().map(|(time, reason)| format!("{time}: {reason}")),
                failures: backup.n_failures,
                recoverable_from: backup.window.map(|(from, _)| from.to_string()),
                recoverable_until: backup.window.map(|(_, until)| until.to_string()),
                reached_revision: backup.reached_revision,
            },
        })
    }
}
