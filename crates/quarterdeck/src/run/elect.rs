//! Leader election, as flags describe it.

use anyhow::{Result, ensure};
use client::LeaderConfig;

use crate::args::{ElectFlags, LeaderFlags};

/// A leader must stop well before others may start: upstream's factor for clocks that run at different speeds.
const JITTER_FACTOR: f64 = 1.2;

/// The election for a component of its own process; `None` when it was switched off.
pub(super) fn election(flags: &ElectFlags, component: &str) -> Result<Option<LeaderConfig>> {
    let ElectFlags { leader_elect, resource_lock: _only_leases_exist, resource_name, lease } = flags;
    let name = resource_name.as_deref().unwrap_or(component);
    leader_elect.then(|| lease_config(lease, name)).transpose()
}

/// The lease that the flags describe, under a name.
pub(super) fn lease_config(flags: &LeaderFlags, name: &str) -> Result<LeaderConfig> {
    let LeaderFlags { lease_duration, renew_deadline, retry_period, resource_namespace } = flags;
    ensure!(
        lease_duration > renew_deadline,
        "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline"
    );
    ensure!(
        renew_deadline.as_secs_f64() > retry_period.as_secs_f64() * JITTER_FACTOR,
        "--leader-elect-renew-deadline must be greater than --leader-elect-retry-period*{JITTER_FACTOR}"
    );
    ensure!(lease_duration.as_secs() > 0, "--leader-elect-lease-duration must be at least one second");
    ensure!(!retry_period.is_zero(), "--leader-elect-retry-period must be greater than zero");
    Ok(LeaderConfig {
        namespace: resource_namespace.clone(),
        lease_duration: *lease_duration,
        renew_deadline: *renew_deadline,
        retry_period: *retry_period,
        ..LeaderConfig::new(name, &host_name())
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
