use std::time::Duration;

use clap::Args;

use crate::duration;

/// How the lease is held that decides which of several controller managers or schedulers acts.
#[derive(Clone, Debug, Args)]
pub(crate) struct LeaderFlags {
    /// How long others wait after the last renewal they saw before they take the lease; 15s, or 1s between masters that share a
    /// store.
    #[arg(long = "leader-elect-lease-duration", value_parser = duration::parse)]
    pub lease_duration: Option<Duration>,
    /// How long a leader tries to renew before it stops acting. Shorter than the lease's duration; 10s, or 800ms between masters
    /// that share a store.
    #[arg(long = "leader-elect-renew-deadline", value_parser = duration::parse)]
    pub renew_deadline: Option<Duration>,
    /// Time between two tries to take or renew the lease; 2s, or 200ms between masters that share a store.
    #[arg(long = "leader-elect-retry-period", value_parser = duration::parse)]
    pub retry_period: Option<Duration>,
    /// Namespace of the lease.
    #[arg(long = "leader-elect-resource-namespace", default_value = "kube-system")]
    pub resource_namespace: String,
}

/// Flags of a component that runs as a process of its own.
#[derive(Clone, Debug, Args)]
pub(crate) struct ElectFlags {
    /// Elect a leader before running, so that several can be started.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: bool,
    /// Kind of object that is the lock.
    #[arg(long = "leader-elect-resource-lock", default_value = "leases", value_parser = ["leases"])]
    pub resource_lock: String,
    /// Name of the lease; the component's name if not given.
    #[arg(long = "leader-elect-resource-name")]
    pub resource_name: Option<String>,
    #[command(flatten)]
    pub lease: LeaderFlags,
}
