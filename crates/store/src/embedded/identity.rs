//! Member and cluster ids, computed as etcd computes them from the initial configuration.

use sha1::{Digest, Sha1};

use super::EmbeddedConfig;
use crate::raft::Identity;

impl Identity {
    /// A member is what its peer URLs and its cluster's token hash to, a cluster what its members' ids hash to.
    pub(crate) fn of_new_cluster(config: &EmbeddedConfig) -> Self {
        let mut urls = config.peer_urls.clone();
        urls.sort_unstable();
        let member_id = leading_u64(format!("{}{}", urls.concat(), config.cluster_token).as_bytes());
        Self { member_id, cluster_id: leading_u64(&member_id.to_be_bytes()) }
    }
}

fn leading_u64(bytes: &[u8]) -> u64 {
    Sha1::digest(bytes)[..8].iter().fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_a_default_etcd() {
        // What `etcd` without flags reports for itself.
        let identity = Identity::of_new_cluster(&EmbeddedConfig::default());
        assert_eq!(identity, Identity { member_id: 0x8e9e_05c5_2164_694d, cluster_id: 0xcdf8_1819_4e3a_8c32 });
    }
}
