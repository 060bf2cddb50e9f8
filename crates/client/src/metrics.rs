//! What the components of a process count about themselves, by upstream's names: work queues as client-go's `util/workqueue`,
//! leases as `tools/leaderelection`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upstream's buckets for waiting and working, in seconds.
const QUEUE_BUCKETS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: String,
}

impl Named {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

type Histograms = Family<Named, Histogram, fn() -> Histogram>;

/// Queues and leases of one process. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    depth: Family<Named, Gauge>,
    adds: Family<Named, Counter>,
    retries: Family<Named, Counter>,
    waited: Histograms,
    worked: Histograms,
    leads: Family<Named, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let make: fn() -> Histogram = || Histogram::new(QUEUE_BUCKETS);
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(make),
            worked: Family::new_with_constructor(make),
            leads: Family::default(),
        }
    }
}

impl Metrics {
    /// Shows them in a registry, whose counters get their `_total` from the encoder.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("workqueue_depth", "Current depth of workqueue", self.depth.clone());
        registry.register("workqueue_adds", "Total number of adds handled by workqueue", self.adds.clone());
        registry.register("workqueue_retries", "Total number of retries handled by workqueue", self.retries.clone());
        registry.register(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested",
            self.waited.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes",
            self.worked.clone(),
        );
        registry.register(
            "leader_election_master_status",
            "Whether this process holds the lease: 1 for the leader, 0 for a candidate",
            self.leads.clone(),
        );
    }

    /// The counters of one queue.
    pub fn queue(&self, name: &str) -> QueueMetrics {
        let name = Named::new(name);
        QueueMetrics {
            depth: self.depth.get_or_create(&name).clone(),
            adds: self.adds.get_or_create(&name).clone(),
            retries: self.retries.get_or_create(&name).clone(),
            waited: self.waited.get_or_create(&name).clone(),
            worked: self.worked.get_or_create(&name).clone(),
        }
    }

    /// This process holds the lease, or is a candidate for it.
    pub(crate) fn leads(&self, lease: &str, leads: bool) {
        self.leads.get_or_create(&Named::new(lease)).set(i64::from(leads));
    }
}

/// What one work queue counts.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
}
