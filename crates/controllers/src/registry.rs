//! The list of controllers. A new one is a file and a line here.

use crate::certificates::{approve, clean, sign};
use crate::spec::ControllerSpec;
use crate::{
    attach_detach, bootstrap, cluster_role_aggregation, cron_job, daemon_set, deployment, device_taint_eviction,
    disruption, endpoint_slice, endpoint_slice_mirroring, endpoints, ephemeral_volume, garbage_collector,
    horizontal_pod_autoscaler, job, legacy_token_cleaner, namespace, node_ipam, node_lifecycle, pod_gc, pv_protection,
    pvc_protection, replica_set, resource_claim, resource_quota, root_ca, service_account, service_account_token,
    service_cidr, stateful_set, taint_eviction, ttl, ttl_after_finished, vac_protection,
    validating_admission_policy_status, volume_binder, volume_expander,
};

/// In upstream's order of start.
pub const CONTROLLERS: &[ControllerSpec] = &[
    service_account_token::CONTROLLER,
    endpoints::CONTROLLER,
    endpoint_slice::CONTROLLER,
    endpoint_slice_mirroring::CONTROLLER,
    replica_set::REPLICATION_CONTROLLER,
    pod_gc::CONTROLLER,
    resource_quota::CONTROLLER,
    namespace::CONTROLLER,
    service_account::CONTROLLER,
    garbage_collector::CONTROLLER,
    daemon_set::CONTROLLER,
    job::CONTROLLER,
    deployment::CONTROLLER,
    replica_set::REPLICA_SET,
    horizontal_pod_autoscaler::CONTROLLER,
    disruption::CONTROLLER,
    stateful_set::CONTROLLER,
    cron_job::CONTROLLER,
    sign::CONTROLLER,
    approve::CONTROLLER,
    clean::CONTROLLER,
    ttl::CONTROLLER,
    bootstrap::sign::CONTROLLER,
    bootstrap::clean::CONTROLLER,
    node_ipam::CONTROLLER,
    node_lifecycle::CONTROLLER,
    taint_eviction::CONTROLLER,
    device_taint_eviction::CONTROLLER,
    cluster_role_aggregation::CONTROLLER,
    volume_binder::CONTROLLER,
    attach_detach::CONTROLLER,
    volume_expander::CONTROLLER,
    pvc_protection::CONTROLLER,
    pv_protection::CONTROLLER,
    vac_protection::CONTROLLER,
    ttl_after_finished::CONTROLLER,
    root_ca::CONTROLLER,
    ephemeral_volume::CONTROLLER,
    resource_claim::CONTROLLER,
    legacy_token_cleaner::CONTROLLER,
    validating_admission_policy_status::CONTROLLER,
    service_cidr::CONTROLLER,
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_and_accounts_are_upstreams() {
        let facts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/facts/controllers.tsv");
        let Ok(facts) = std::fs::read_to_string(&facts) else {
            eprintln!("skipped: {} is not there", facts.display());
            return;
        };
        let rows: Vec<Vec<&str>> = facts.lines().map(|line| line.split('\t').collect()).collect();
        for controller in CONTROLLERS {
            let row = rows.iter().find(|row| row[0] == controller.name);
            let row = row.unwrap_or_else(|| panic!("{} is not a controller of upstream", controller.name));
            assert_eq!(row[1], controller.alias, "{}", controller.name);
            assert!(
                row[4].split(" / ").any(|account| account == controller.account)
                    || (controller.account.is_empty() && row[4] == "(root client)"),
                "{} acts as {}",
                controller.name,
                row[4]
            );
        }
    }
}
