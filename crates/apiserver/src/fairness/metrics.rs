//! Counts of priority and fairness, by upstream's names.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::seats::Limits;
use super::timing::{Course, TimingRatio};
use crate::attributes::Action;

const SEAT_RATIOS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const REQUEST_RATIOS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
const KIND_RATIOS: &[f64] = &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const DEMAND_RATIOS: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
const SEATS_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Execution {
    priority_level: String,
    flow_schema: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseOfKind {
    phase: &'static str,
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bound {
    priority_level: String,
    bound: &'static str,
}

type Floats<L> = Family<L, Gauge<f64, AtomicU64>>;
type Ratios<L> = Family<L, TimingRatio, fn() -> TimingRatio>;

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
    in_queue_seats: Family<OfSchema, Gauge>,
    executions: Family<Execution, Histogram, fn() -> Histogram>,
    widths: Family<OfSchema, Histogram, fn() -> Histogram>,
    no_accommodation: Family<OfSchema, Counter>,
    seat_ratios: Ratios<Phase>,
    request_ratios: Ratios<Phase>,
    kind_ratios: Ratios<PhaseOfKind>,
    demand_ratios: Ratios<OfLevel>,
    demand_high: Floats<OfLevel>,
    demand_average: Floats<OfLevel>,
    demand_deviation: Floats<OfLevel>,
    demand_smoothed: Floats<OfLevel>,
    targets: Floats<OfLevel>,
    fair_fraction: Gauge<f64, AtomicU64>,
    current_r: Floats<OfLevel>,
    dispatch_r: Floats<OfLevel>,
    latest_s: Floats<OfLevel>,
    next_s: Floats<Bound>,
    next_discounted_s: Floats<Bound>,
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
            in_queue_seats: Family::default(),
            executions: Family::new_with_constructor(waits),
            widths: Family::new_with_constructor(|| Histogram::new(SEATS_BUCKETS)),
            no_accommodation: Family::default(),
            seat_ratios: Family::new_with_constructor(|| TimingRatio::new(SEAT_RATIOS)),
            request_ratios: Family::new_with_constructor(|| TimingRatio::new(REQUEST_RATIOS)),
            kind_ratios: Family::new_with_constructor(|| TimingRatio::new(KIND_RATIOS)),
            demand_ratios: Family::new_with_constructor(|| TimingRatio::new(DEMAND_RATIOS)),
            demand_high: Family::default(),
            demand_average: Family::default(),
            demand_deviation: Family::default(),
            demand_smoothed: Family::default(),
            targets: Family::default(),
            fair_fraction: Gauge::default(),
            current_r: Family::default(),
            dispatch_r: Family::default(),
            latest_s: Family::default(),
            next_s: Family::default(),
            next_discounted_s: Family::default(),
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
        let text = "Number of seats currently pending in queues";
        registry.register("current_inqueue_seats", text, self.in_queue_seats.clone());
        let text = "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution";
        registry.register("request_execution_seconds", text, self.executions.clone());
        let text = "Number of estimated seats (maximum of initial and final seats) associated with requests";
        registry.register("work_estimated_seats", text, self.widths.clone());
        let text = "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats";
        registry.register("request_dispatch_no_accommodation", text, self.no_accommodation.clone());
        self.register_courses(registry);
    }

    /// Counts anew; whoever holds the counts of a schema has to ask for them again. What there is now, and the course of it, stays.
    pub(super) fn reset(&self) {
        let Self { rejected, dispatched, queue_length, waits, executions, widths, no_accommodation, .. } = self;
        rejected.clear();
        dispatched.clear();
        queue_length.clear();
        waits.clear();
        executions.clear();
        widths.clear();
        no_accommodation.clear();
    }

    fn register_courses(&self, registry: &mut Registry) {
        let text = "Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only \
                    initial stage for WATCHes)";
        registry.register("priority_level_seat_utilization", text, self.seat_ratios.clone());
        let text = "Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) \
                    waiting or in any stage of execution (but only initial stage for WATCHes)";
        registry.register("priority_level_request_utilization", text, self.request_ratios.clone());
        let text = "Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant \
                    limit) waiting or in regular stage of execution";
        registry.register("read_vs_write_current_requests", text, self.kind_ratios.clone());
        let text = "Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / \
                    (nominal number of seats for that level)";
        registry.register("demand_seats", text, self.demand_ratios.clone());
        let text = "High watermark, over last adjustment period, of demand_seats";
        registry.register("demand_seats_high_watermark", text, self.demand_high.clone());
        let text = "Time-weighted average, over last adjustment period, of demand_seats";
        registry.register("demand_seats_average", text, self.demand_average.clone());
        let text = "Time-weighted standard deviation, over last adjustment period, of demand_seats";
        registry.register("demand_seats_stdev", text, self.demand_deviation.clone());
        registry.register("demand_seats_smoothed", "Smoothed seat demands", self.demand_smoothed.clone());
        registry.register("target_seats", "Seat allocation targets", self.targets.clone());
        let text = "Fair fraction of server's concurrency to allocate to each priority level that can use it";
        registry.register("seat_fair_frac", text, self.fair_fraction.clone());
        registry.register("current_r", "R(time of last change)", self.current_r.clone());
        registry.register("dispatch_r", "R(time of last dispatch)", self.dispatch_r.clone());
        registry.register("latest_s", "S(most recently dispatched request)", self.latest_s.clone());
        let text = "min and max, over queues, of S(oldest waiting request in queue)";
        registry.register("next_s_bounds", text, self.next_s.clone());
        let text = "min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress";
        registry.register("next_discounted_s_bounds", text, self.next_discounted_s.clone());
    }

    /// What was found out about a level's demand, and what it aims at.
    pub(super) fn lent(&self, level: &str, course: &Course, smoothed: f64, target: f64) {
        let of = OfLevel { priority_level: level.to_owned() };
        for (gauges, value) in [
            (&self.demand_high, course.max),
            (&self.demand_average, course.average),
            (&self.demand_deviation, course.deviation),
            (&self.demand_smoothed, smoothed),
            (&self.targets, target),
        ] {
            gauges.get_or_create(&of).set(value);
        }
    }

    pub(super) fn fair_fraction(&self, fraction: f64) {
        self.fair_fraction.set(fraction);
    }

    /// How many requests of all levels there may be, waiting and executing.
    pub(super) fn bounds(&self, waiting: usize, executing: usize) {
        let now = Instant::now();
        for request_kind in KINDS {
            let of = |phase| self.kind_ratios.get_or_create(&PhaseOfKind { phase, request_kind }).clone();
            of(WAITING).of(waiting.max(1) as f64, now);
            of(EXECUTING).of(executing.max(1) as f64, now);
        }
    }

    /// The courses of one level.
    pub(super) fn courses(&self, level: &str) -> Courses {
        let priority_level = || level.to_owned();
        let phase = |phase| Phase { phase, priority_level: priority_level() };
        let of = OfLevel { priority_level: priority_level() };
        let bound = |bound| Bound { priority_level: priority_level(), bound };
        // One at a time: a family is locked as long as what it gave is looked at.
        let request = |of| self.request_ratios.get_or_create(&phase(of)).clone();
        let kind = |phase| {
            KINDS.map(|request_kind| self.kind_ratios.get_or_create(&PhaseOfKind { phase, request_kind }).clone())
        };
        let bounds = |of: &Floats<Bound>| ["min", "max"].map(|name| of.get_or_create(&bound(name)).clone());
        Courses {
            seats: self.seat_ratios.get_or_create(&phase(EXECUTING)).clone(),
            waiting: request(WAITING),
            executing: request(EXECUTING),
            demand: self.demand_ratios.get_or_create(&of).clone(),
            waiting_kinds: kind(WAITING),
            executing_kinds: kind(EXECUTING),
            current_r: self.current_r.get_or_create(&of).clone(),
            dispatch_r: self.dispatch_r.get_or_create(&of).clone(),
            latest_s: self.latest_s.get_or_create(&of).clone(),
            next_s: bounds(&self.next_s),
            next_discounted_s: bounds(&self.next_discounted_s),
        }
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
        // One at a time, as well.
        let execution = |r#type| {
            let of = Execution { priority_level: level.to_owned(), flow_schema: schema.to_owned(), r#type };
            self.executions.get_or_create(&of).clone()
        };
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
            in_queue_seats: self.in_queue_seats.get_or_create(&of).clone(),
            executions: ["regular", "watch"].map(execution),
            widths: self.widths.get_or_create(&of).clone(),
            no_accommodation: self.no_accommodation.get_or_create(&of).clone(),
        }
    }
}

const WAITING: &str = "waiting";
const EXECUTING: &str = "executing";
const KINDS: [&str; 2] = ["readOnly", "mutating"];

/// The place of a request's kind among [`KINDS`].
fn kind(action: &Action) -> usize {
    let (Action::Resource { verb, .. } | Action::NonResource { verb, .. }) = action;
    usize::from(!matches!(verb.as_str(), "get" | "list" | "watch" | "head" | "options"))
}

/// What changes over time in one level.
#[derive(Clone, Debug)]
pub(super) struct Courses {
    seats: TimingRatio,
    waiting: TimingRatio,
    executing: TimingRatio,
    demand: TimingRatio,
    /// Of all levels, by kind of request.
    waiting_kinds: [TimingRatio; 2],
    executing_kinds: [TimingRatio; 2],
    current_r: Gauge<f64, AtomicU64>,
    dispatch_r: Gauge<f64, AtomicU64>,
    latest_s: Gauge<f64, AtomicU64>,
    next_s: [Gauge<f64, AtomicU64>; 2],
    next_discounted_s: [Gauge<f64, AtomicU64>; 2],
}

impl Courses {
    /// A request is worked on from now on, or no longer (`-1.0`).
    pub(super) fn executes(&self, action: &Action, width: usize, sign: f64, now: Instant) {
        self.executing.add(sign, now);
        self.executing_kinds[kind(action)].add(sign, now);
        self.seats.add(sign * width as f64, now);
    }

    /// A request waits from now on, or no longer (`-1.0`).
    pub(super) fn waits(&self, action: &Action, sign: f64, now: Instant) {
        self.waiting.add(sign, now);
        self.waiting_kinds[kind(action)].add(sign, now);
    }

    /// Seats are wanted, or no longer.
    pub(super) fn demands(&self, seats: f64, now: Instant) {
        self.demand.add(seats, now);
    }

    /// What the numbers are fractions of: places in queues, and seats.
    pub(super) fn bounds(&self, places: usize, seats: usize, now: Instant) {
        self.waiting.of(places.max(1) as f64, now);
        for ratio in [&self.executing, &self.seats, &self.demand] {
            ratio.of(seats.max(1) as f64, now);
        }
    }

    pub(super) fn moved(&self, virtual_time: f64) {
        self.current_r.set(virtual_time);
    }

    /// A request was called: at which virtual time it was due, and when those are that are next, with and without what is under way.
    pub(super) fn called(&self, virtual_time: f64, start: f64, next: [f64; 2], discounted: [f64; 2]) {
        self.dispatch_r.set(virtual_time);
        self.latest_s.set(start);
        for (gauges, values) in [(&self.next_s, next), (&self.next_discounted_s, discounted)] {
            for (gauge, value) in gauges.iter().zip(values) {
                gauge.set(value);
            }
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
    in_queue_seats: Gauge,
    executions: [Histogram; 2],
    widths: Histogram,
    no_accommodation: Counter,
}

impl Counts {
    /// A request of this width has come.
    pub(super) fn came(&self, width: usize) {
        self.widths.observe(width as f64);
    }

    /// There were no seats for the next one.
    pub(super) fn not_accommodated(&self) {
        self.no_accommodation.inc();
    }

    pub(super) fn begun(&self, width: usize) {
        self.dispatched.inc();
        self.executing.inc();
        self.executing_seats.inc_by(i64::try_from(width).unwrap_or(0));
    }

    pub(super) fn ended(&self, action: &Action, width: usize, took: Duration) {
        let (Action::Resource { verb, .. } | Action::NonResource { verb, .. }) = action;
        self.executions[usize::from(verb == "watch")].observe(took.as_secs_f64());
        self.executing.dec();
        self.executing_seats.dec_by(i64::try_from(width).unwrap_or(0));
    }

    pub(super) fn queued(&self, length: usize, width: usize) {
        self.in_queue.inc();
        self.in_queue_seats.inc_by(i64::try_from(width).unwrap_or(0));
        self.queue_length.observe(length as f64);
    }

    pub(super) fn waited(&self, time: Duration, width: usize, executes: bool) {
        self.in_queue.dec();
        self.in_queue_seats.dec_by(i64::try_from(width).unwrap_or(0));
        self.waits[usize::from(executes)].observe(time.as_secs_f64());
    }
}
