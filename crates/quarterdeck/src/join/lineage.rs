//! Of which clusters this one is the continuation: a restore makes a cluster of its own, and members of the one before have to be told.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::pki::write_file;

/// In the data directory of every master of a cluster that came from a backup.
const FILE: &str = "restored.json";

/// Ids of the clusters whose backups this one came from, the oldest first. Empty for one that was never restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lineage {
    pub cluster_ids: Vec<String>,
}

impl Lineage {
    pub(crate) fn read(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file, or nothing when there is nothing to say.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<()> {
        if self.cluster_ids.is_empty() {
            return Ok(());
        }
        write_file(&data_dir.join(FILE), &serde_json::to_vec_pretty(self)?, 0o600)
    }

    /// The lineage of what a backup of `cluster_id` becomes.
    pub(crate) fn continued(mut self, cluster_id: &str) -> Self {
        self.cluster_ids.push(cluster_id.to_owned());
        self
    }

    pub(crate) fn has(&self, cluster_id: &str) -> bool {
        self.cluster_ids.iter().any(|known| known == cluster_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_cluster_remembers_all_it_came_from() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lineage::read(dir.path()).unwrap(), Lineage::default());
        let twice = Lineage::default().continued("a").continued("b");
        twice.write(dir.path()).unwrap();
        let read = Lineage::read(dir.path()).unwrap();
        assert!(read.has("a") && read.has("b") && !read.has("c"));
    }
}
