//! Leader election, as flags describe it.

use std::time::Duration;

use anyhow::{Result, ensure};
use client::{LeaderConfig, LeaseTimes, Metrics};
use tokio::sync::watch;

use crate::args::{ElectFlags, LeaderFlags};

/// A leader must stop well before others may start: upstream's factor for clocks that run at different speeds.
const JITTER_FACTOR: f64 = 1.2;

/// Between masters that share a store a dead one is replaced within two seconds: its lease ends while the store still elects.
const SHARED_TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(1),
    renew_deadline: Duration::from_millis(800),
    retry_period: Duration::from_millis(200),
};

/// The election for a component of its own process; `None` when it was switched off.
pub(super) fn election(flags: &ElectFlags, component: &str, metrics: &Metrics) -> Result<Option<LeaderConfig>> {
    let ElectFlags { leader_elect, resource_lock: _only_leases_exist, resource_name, lease } = flags;
    let name = resource_name.as_deref().unwrap_or(component);
    let config = || -> Result<LeaderConfig> {
        Ok(LeaderConfig {
            namespace: lease.resource_namespace.clone(),
            times: times(lease)?.fixed(),
            metrics: metrics.clone(),
            ..LeaderConfig::new(name)
        })
    };
    leader_elect.then(config).transpose()
}

/// Elections of the components in a server's process.
#[derive(Clone, Debug)]
pub(super) struct Elections {
    namespace: String,
    /// The same for a data directory's whole life, so that a server that was killed finds its own lease.
    identity: Option<String>,
    times: watch::Receiver<LeaseTimes>,
    metrics: Metrics,
}

/// Tells the elections how many masters there are.
#[derive(Debug)]
pub(super) struct Pace {
    alone: LeaseTimes,
    shared: LeaseTimes,
    sender: watch::Sender<LeaseTimes>,
}

impl Elections {
    pub(super) fn new(flags: &LeaderFlags, identity: Option<String>, metrics: Metrics) -> Result<(Self, Pace)> {
        let alone = times(flags)?;
        // Whoever sets a time means it for any number of masters.
        let shared = if alone == LeaseTimes::default() { SHARED_TIMES } else { alone };
        let (sender, receiver) = watch::channel(alone);
        let namespace = flags.resource_namespace.clone();
        Ok((Self { namespace, identity, times: receiver, metrics }, Pace { alone, shared, sender }))
    }

    /// For one component.
    pub(super) fn of(&self, component: &str) -> LeaderConfig {
        let config = LeaderConfig::new(component);
        let identity = self.identity.clone().unwrap_or(config.identity);
        let (namespace, times, metrics) = (self.namespace.clone(), self.times.clone(), self.metrics.clone());
        LeaderConfig { namespace, identity, times, metrics, ..config }
    }
}

impl Pace {
    /// There are so many members in the store.
    pub(super) fn follow(&self, n_members: usize) {
        let wanted = if n_members > 1 { self.shared } else { self.alone };
        self.sender.send_if_modified(|times| std::mem::replace(times, wanted) != wanted);
    }
}

pub(super) fn times(flags: &LeaderFlags) -> Result<LeaseTimes> {
    let LeaderFlags { lease_duration, renew_deadline, retry_period, resource_namespace: _ } = flags;
    let default = LeaseTimes::default();
    let times = LeaseTimes {
        duration: lease_duration.unwrap_or(default.duration),
        renew_deadline: renew_deadline.unwrap_or(default.renew_deadline),
        retry_period: retry_period.unwrap_or(default.retry_period),
    };
    ensure!(
        times.duration > times.renew_deadline,
        "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline"
    );
    ensure!(
        times.renew_deadline.as_secs_f64() > times.retry_period.as_secs_f64() * JITTER_FACTOR,
        "--leader-elect-renew-deadline must be greater than --leader-elect-retry-period*{JITTER_FACTOR}"
    );
    ensure!(times.duration.as_secs() > 0, "--leader-elect-lease-duration must be at least one second");
    ensure!(!times.retry_period.is_zero(), "--leader-elect-retry-period must be greater than zero");
    Ok(times)
}
