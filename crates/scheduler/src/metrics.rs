//! What the scheduler counts, by upstream's names. Source: `pkg/scheduler/metrics`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::engine::{Failure, REASON_UNSCHEDULABLE};
use crate::queue::{Pending, QueuedPod};

/// Attempts from here on share a label.
const ATTEMPTS_TOLD_MAX: u32 = 15;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InQueue {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tries {
    attempts: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDriver {
    profile: String,
    driver: String,
    status: &'static str,
}

/// How a binding that waited for devices ended.
pub(crate) struct Waited<'a> {
    pub profile: &'a str,
    pub status: &'static str,
    pub seconds: f64,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    durations: Histograms<Attempt>,
    pending: Family<InQueue, Gauge>,
    tries: Histogram,
    waited: Histograms<Tries>,
    preemptions: Counter,
    victims: Histogram,
    device_allocations: Family<ByDriver, Counter>,
    device_waits: Histograms<ByDriver>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let device_waits: fn() -> Histogram = || Histogram::new(exponential_buckets(0.1, 2.0, 14));
        let waits: fn() -> Histogram = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
        Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(seconds),
            pending: Family::default(),
            tries: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            waited: Family::new_with_constructor(waits),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            device_allocations: Family::default(),
            device_waits: Family::new_with_constructor(device_waits),
        }
    }
}

impl Metrics {
    /// Counts anew what has labels, and preemptions, as upstream does. What is pending stays.
    pub fn reset(&self) {
        let Self { attempts, durations, pending: _, tries: _, waited, preemptions, victims: _, .. } = self;
        attempts.clear();
        durations.clear();
        waited.clear();
        preemptions.inner().store(0, Ordering::Relaxed);
        self.device_allocations.clear();
        self.device_waits.clear();
    }

    /// Shows them in a registry, whose counters get their `_total` from the encoder.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "scheduler_schedule_attempts",
            "Number of attempts to schedule pods, by the result",
            self.attempts.clone(),
        );
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
            self.durations.clone(),
        );
        registry.register("scheduler_pending_pods", "Number of pending pods, by the queue type", self.pending.clone());
        registry.register(
            "scheduler_pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod",
            self.tries.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Seconds from the first attempt at a pod until it is bound, by the number of attempts",
            self.waited.clone(),
        );
        registry.register(
            "scheduler_preemption_attempts",
            "Total preemption attempts in the cluster till now",
            self.preemptions.clone(),
        );
        registry.register(
            "scheduler_preemption_victims",
            "Number of selected preemption victims",
            self.victims.clone(),
        );
        registry.register(
            "scheduler_dra_bindingconditions_allocations",
            "Number of allocations using devices with BindingConditions, counted per driver per scheduling attempt",
            self.device_allocations.clone(),
        );
        registry.register(
            "scheduler_dra_bindingconditions_wait_duration_seconds",
            "Time in seconds spent waiting for BindingConditions to be satisfied during PreBind",
            self.device_waits.clone(),
        );
    }

    /// A binding waited for devices: of these drivers, and of these with conditions.
    pub(crate) fn waited_for_devices<'a>(
        &self,
        waited: &Waited<'_>,
        drivers: impl Iterator<Item = &'a str>,
        conditional: impl Iterator<Item = &'a str>,
    ) {
        let labels = |driver: &str| ByDriver {
            profile: waited.profile.to_owned(),
            driver: driver.to_owned(),
            status: waited.status,
        };
        drivers.for_each(|driver| self.device_waits.get_or_create(&labels(driver)).observe(waited.seconds));
        for driver in conditional {
            self.device_allocations.get_or_create(&labels(driver)).inc();
        }
    }

    pub(crate) fn pending(&self, pending: &Pending) {
        let Pending { active, backoff, unschedulable, gated } = *pending;
        for (queue, n) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)]
        {
            self.pending.get_or_create(&InQueue { queue }).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    /// A pod was bound at `now`, by an attempt that took so long.
    pub(crate) fn scheduled(&self, queued: &QueuedPod, took: Duration, now: Duration) {
        self.attempted(queued.pod.scheduler_name(), "scheduled", took);
        self.tries.observe(f64::from(queued.attempts));
        let waited = now.saturating_sub(queued.first_attempt.unwrap_or(now));
        let attempts = match queued.attempts {
            ATTEMPTS_TOLD_MAX.. => format!("{ATTEMPTS_TOLD_MAX}+"),
            attempts => attempts.to_string(),
        };
        self.waited.get_or_create(&Tries { attempts }).observe(waited.as_secs_f64());
    }

    /// An attempt found no node, or broke.
    pub(crate) fn failed(&self, failure: &Failure, took: Duration) {
        let is_unschedulable = failure.reason == REASON_UNSCHEDULABLE;
        let result = if is_unschedulable { "unschedulable" } else { "error" };
        self.attempted(failure.pod.scheduler_name(), result, took);
        if is_unschedulable {
            self.preemptions.inc();
        }
        if !failure.victims.is_empty() {
            self.victims.observe(failure.victims.len() as f64);
        }
    }

    fn attempted(&self, profile: &str, result: &'static str, took: Duration) {
        let attempt = Attempt { profile: profile.to_owned(), result };
        self.attempts.get_or_create(&attempt).inc();
        self.durations.get_or_create(&attempt).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_counted_anew() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let attempts = "scheduler_schedule_attempts_total{profile=\"p\",result=\"scheduled\"} 1\n";
        for _time in 0..2 {
            metrics.attempted("p", "scheduled", Duration::from_secs(1));
            metrics.preemptions.inc();
            assert!(text().contains(attempts) && text().contains("scheduler_preemption_attempts_total 1\n"));
            metrics.reset();
            assert!(!text().contains("profile=") && text().contains("scheduler_preemption_attempts_total 0\n"));
        }
    }
}
