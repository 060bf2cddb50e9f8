//! Counts of priority and fairness, by upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::seats::Limits;

const QUEUE_BUCKETS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const WAIT_BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSchema {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Wait {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    rejected: Family<Rejection, Counter>,
    dispatched: Family<OfSchema, Counter>,
    executing: Family<OfSchema, Gauge>,
    executing_seats: Family<OfSchema, Gauge>,
    in_queue: Family<OfSchema, Gauge>,
    queue_length: Family<OfSchema, Histogram, fn() -> Histogram>,
    waits: Family<Wait, Histogram, fn() -> Histogram>,
    nominal: Family<OfLevel, Gauge>,
    lower: Family<OfLevel, Gauge>,
    upper: Family<OfLevel, Gauge>,
    current: Family<OfLevel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let lengths: fn() -> Histogram = || Histogram::new(QUEUE_BUCKETS);
        let waits: fn() -> Histogram = || Histogram::new(WAIT_BUCKETS);
        Self {
            rejected: Family::default(),
            dispatched: Family::default(),
            executing: Family::default(),
            executing_seats: Family::default(),
            in_queue: Family::default(),
            queue_length: Family::new_with_constructor(lengths),
            waits: Family::new_with_constructor(waits),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("apiserver_flowcontrol");
        let text = "Number of requests rejected by API Priority and Fairness subsystem";
        registry.register("rejected_requests", text, self.rejected.clone());
        let text = "Number of requests executed by API Priority and Fairness subsystem";
        registry.register("dispatched_requests", text, self.dispatched.clone());
        let text = "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage";
        registry.register("current_executing_requests", text, self.executing.clone());
        let text = "Concurrency (number of seats) occupied by the currently executing requests";
        registry.register("current_executing_seats", text, self.executing_seats.clone());
        let text = "Number of requests currently pending in queues";
        registry.register("current_inqueue_requests", text, self.in_queue.clone());
        let text = "Length of queue, as seen by each request after it is enqueued";
        registry.register("request_queue_length_after_enqueue", text, self.queue_length.clone());
        let text = "Length of time a request spent waiting in its queue";
        registry.register("request_wait_duration_seconds", text, self.waits.clone());
        let text = "Nominal number of execution seats configured for each priority level";
        registry.register("nominal_limit_seats", text, self.nominal.clone());
        let text = "Configured lower bound on number of execution seats available to each priority level";
        registry.register("lower_limit_seats", text, self.lower.clone());
        let text = "Configured upper bound on number of execution seats available to each priority level";
        registry.register("upper_limit_seats", text, self.upper.clone());
        let text = "current derived number of execution seats available to each priority level";
        registry.register("current_limit_seats", text, self.current.clone());
    }

    pub(super) fn rejected(&self, level: &str, schema: &str, reason: &'static str) {
        let of = Rejection { priority_level: level.to_owned(), flow_schema: schema.to_owned(), reason };
        self.rejected.get_or_create(&of).inc();
    }

    pub(super) fn limits(&self, level: &str, (limits, seats): &(Limits, usize)) {
        let of = OfLevel { priority_level: level.to_owned() };
        let set = |gauges: &Family<OfLevel, Gauge>, value: usize| {
            gauges.get_or_create(&of).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.nominal, limits.nominal);
        set(&self.lower, limits.lower);
        set(&self.upper, limits.upper);
        set(&self.current, *seats);
    }

    /// The counts of one schema, found once: a request only adds to them.
    pub(super) fn counts(&self, level: &str, schema: &str) -> Counts {
        let of = OfSchema { priority_level: level.to_owned(), flow_schema: schema.to_owned() };
        // One at a time: a family is locked as long as what it gave is looked at.
        let wait = |execute| {
            let of = Wait { priority_level: level.to_owned(), flow_schema: schema.to_owned(), execute };
            self.waits.get_or_create(&of).clone()
        };
        Counts {
            dispatched: self.dispatched.get_or_create(&of).clone(),
            executing: self.executing.get_or_create(&of).clone(),
            executing_seats: self.executing_seats.get_or_create(&of).clone(),
            in_queue: self.in_queue.get_or_create(&of).clone(),
            queue_length: self.queue_length.get_or_create(&of).clone(),
            waits: ["false", "true"].map(wait),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Counts {
    dispatched: Counter,
    executing: Gauge,
    executing_seats: Gauge,
    in_queue: Gauge,
    queue_length: Histogram,
    waits: [Histogram; 2],
}

impl Counts {
    pub(super) fn begun(&self, width: usize) {
        self.dispatched.inc();
        self.executing.inc();
        self.executing_seats.inc_by(i64::try_from(width).unwrap_or(0));
    }

    pub(super) fn ended(&self, width: usize) {
        self.executing.dec();
        self.executing_seats.dec_by(i64::try_from(width).unwrap_or(0));
    }

    pub(super) fn queued(&self, length: usize) {
        self.in_queue.inc();
        self.queue_length.observe(length as f64);
    }

    pub(super) fn waited(&self, time: Duration, executes: bool) {
        self.in_queue.dec();
        self.waits[usize::from(executes)].observe(time.as_secs_f64());
    }
}
