//! What the two sides say to each other, as JSON.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::lineage::Lineage;
use crate::args::ServerArgs;

/// Everything all masters of a cluster must have in common. The first one's flags say it; the others learn it when they join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterSettings {
    pub service_cluster_ip_range: Vec<String>,
    pub service_node_port_range: String,
    pub service_account_issuer: Vec<String>,
    pub cluster_cidr: Vec<String>,
}

impl ClusterSettings {
    pub(crate) fn of(args: &ServerArgs) -> Self {
        Self {
            service_cluster_ip_range: args.api_server.service_cluster_ip_range.clone(),
            service_node_port_range: args.api_server.service_node_port_range.clone(),
            service_account_issuer: args.api_server.service_account_issuer.clone(),
            cluster_cidr: args.controllers.cluster_cidr.clone(),
        }
    }

    /// Makes the flags of a master that has joined those of its cluster. A flag that was given and says something else is refused.
    pub(crate) fn adopt(&self, args: &mut ServerArgs) -> Result<()> {
        let own = Self::of(args);
        let differing = [
            ("service_cluster_ip_range", own.service_cluster_ip_range != self.service_cluster_ip_range),
            ("service_node_port_range", own.service_node_port_range != self.service_node_port_range),
            ("service_account_issuer", own.service_account_issuer != self.service_account_issuer),
            ("cluster_cidr", own.cluster_cidr != self.cluster_cidr),
        ];
        for (flag, differs) in differing {
            let shown = flag.replace('_', "-");
            ensure!(!differs || !args.given.contains(&flag), "--{shown} is not what the cluster has: leave it out");
        }
        let Self { service_cluster_ip_range, service_node_port_range, service_account_issuer, cluster_cidr } =
            self.clone();
        args.api_server.service_cluster_ip_range = service_cluster_ip_range;
        args.api_server.service_node_port_range = service_node_port_range;
        args.api_server.service_account_issuer = service_account_issuer;
        args.controllers.cluster_cidr = cluster_cidr;
        Ok(())
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JoinRequest {
    pub token_id: String,
    pub token_secret: String,
    /// Name of the new member; no other may have it.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub version: String,
    /// To be a member without a state.
    #[serde(default)]
    pub witness: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JoinResponse {
    /// Files of the PKI that all masters have, by name.
    pub pki: BTreeMap<String, String>,
    pub member_id: String,
    /// Name and peer URLs of every member, the new one among them.
    pub members: Vec<JoinMember>,
    pub settings: ClusterSettings,
    #[serde(default, rename = "restoredFrom")]
    pub lineage: Lineage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JoinMember {
    pub name: String,
    pub peer_urls: Vec<String>,
}
