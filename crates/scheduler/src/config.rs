//! Configuration of the running scheduler.

use client::LeaderConfig;

use crate::metrics::Metrics;
use crate::profile::ProfileConfig;
use crate::queue::Backoff;
use crate::resources::PodResources;

/// How the scheduler runs. The default is upstream's default configuration without leader election.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// One profile per scheduler name; at least one.
    pub profiles: Vec<ProfileConfig>,
    /// How long pods wait after failures.
    pub backoff: Backoff,
    /// Campaign for this lease before scheduling; `None` when the assembler sees to it.
    pub leader_election: Option<LeaderConfig>,
    /// Requests to the API server in flight at the same time, bindings and status patches together.
    pub concurrent_requests_max: usize,
    /// The informers are shared with others of this process, who hold finished pods as well: take theirs. Otherwise the
    /// scheduler asks for unfinished pods only.
    pub shares_informers: bool,
    /// Where attempts are counted.
    pub metrics: Metrics,
    /// Where the pods are shown while this scheduler leads.
    pub pod_resources: PodResources,
    /// Seed of the tie-breaking dice; `None` takes one from the system.
    pub seed: Option<u64>,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            profiles: vec![ProfileConfig::default()],
            backoff: Backoff::default(),
            leader_election: None,
            concurrent_requests_max: 64,
            shares_informers: false,
            metrics: Metrics::default(),
            pod_resources: PodResources::default(),
            seed: None,
        }
    }
}
