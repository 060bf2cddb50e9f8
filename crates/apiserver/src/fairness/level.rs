//! A priority level: its seats, and the queues before them.
//!
//! Invariants: seats in use and requests waiting are counted in atomics, and change in an order that lets no one be overlooked:
//! whoever waits is counted before he looks for a seat again, and whoever leaves gives his seats back before he looks for those
//! who wait. Queues are only touched under their lock, which nobody takes while seats are free and nobody waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use api::Value;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::executing::{Executing, Executions};
use super::metrics::{Counts, Courses};
use super::seats::{Demand, Limits};
use super::shuffle::{deal, flow_hash};
use super::timing::Meter;
use crate::attributes::Action;

/// What one request is thought to take before it is known: upstream's 3 ms.
const SERVICE_SECONDS: f64 = 0.003;
/// Weight of the past in a level's demand, per lending; upstream's number for ten seconds.
const PAST_WEIGHT: f64 = 0.977;
/// Share of a level's seats that one request may take.
const WIDTH_SHARE: f64 = 0.15;

#[derive(Debug)]
pub(super) struct Level {
    pub name: String,
    exempt: AtomicBool,
    /// Seats there are now.
    seats: AtomicUsize,
    /// The widest that a request may be.
    width_max: AtomicUsize,
    in_use: AtomicUsize,
    executing: AtomicUsize,
    waiting: AtomicUsize,
    /// Seats in use and wanted by those who wait.
    demand: Meter,
    executions: Executions,
    courses: Courses,
    pub dispatched: AtomicU64,
    pub rejected: AtomicU64,
    pub timed_out: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    smoothed_demand: f64,
    queues: Vec<Queue>,
    hand: usize,
    length_max: usize,
    /// Seconds of service that a queue which always waited would have had.
    virtual_time: f64,
    next_ticket: u64,
}

/// Requests that wait in turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub requests: VecDeque<Request>,
    /// Virtual time at which the first of them is due.
    pub next_start: f64,
    pub executing: usize,
    pub seats_in_use: usize,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Request {
    ticket: u64,
    pub width: usize,
    turn: oneshot::Sender<usize>,
    pub about: About,
}

/// A request, as dumps show it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub arrived: jiff::Timestamp,
    pub schema: Arc<str>,
    pub distinguisher: Arc<str>,
    pub user: Arc<str>,
    pub action: Arc<Action>,
    pub counts: Counts,
}

/// Seats held by a request.
#[derive(Debug)]
pub(crate) struct Place(Option<Held>);

#[derive(Debug)]
struct Held {
    level: Arc<Level>,
    width: usize,
    /// The queue it came from.
    queue: Option<usize>,
    since: Instant,
    /// Among the level's executions.
    execution: usize,
}

impl Place {
    /// Of a request that takes no seat.
    pub(super) fn free() -> Self {
        Self(None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.level.leave(&held);
        }
    }
}

impl Level {
    pub(super) fn new(name: &str, courses: Courses) -> Self {
        Self {
            name: name.to_owned(),
            exempt: AtomicBool::new(false),
            seats: AtomicUsize::new(0),
            width_max: AtomicUsize::new(1),
            in_use: AtomicUsize::new(0),
            executing: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            demand: Meter::default(),
            executions: Executions::default(),
            courses,
            dispatched: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Takes over what the object says. Queues that have requests stay until these are gone.
    pub(super) fn configure(self: &Arc<Self>, object: &Value, limits: Limits) {
        let is_exempt = object["spec"]["type"] == "Exempt";
        self.exempt.store(is_exempt, SeqCst);
        let response = &object["spec"]["limited"]["limitResponse"];
        let queuing = &response["queuing"];
        let number = |field: &str, default: u64| queuing[field].as_u64().unwrap_or(default) as usize;
        let wanted = if is_exempt || response["type"] == "Reject" { 0 } else { number("queues", 64) };
        let mut state = self.state.lock();
        if state.limits != limits {
            state.limits = limits;
            self.seats.store(limits.nominal, SeqCst);
            self.width_max.store(((limits.nominal as f64 * WIDTH_SHARE).ceil() as usize).max(1), SeqCst);
        }
        state.hand = number("handSize", 8).max(1);
        state.length_max = number("queueLengthLimit", 50);
        while state.queues.len() > wanted && state.queues.last().is_some_and(|queue| queue.requests.is_empty()) {
            state.queues.pop();
        }
        if state.queues.len() < wanted {
            state.queues.resize_with(wanted, Queue::default);
        }
        let places = wanted.max(1) * state.length_max.max(1);
        self.courses.bounds(places, self.seats.load(SeqCst), Instant::now());
        self.dispatch(&mut state);
    }

    /// Requests that may wait here, as far as there are queues.
    pub(super) fn places(&self) -> usize {
        let state = self.state.lock();
        state.queues.len() * state.length_max
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt.load(SeqCst)
    }

    /// The widest that a request may be here.
    pub(super) fn width_max(&self) -> usize {
        self.width_max.load(SeqCst)
    }

    /// Limits, and the seats there are now.
    pub(super) fn limits(&self) -> (Limits, usize) {
        (self.state.lock().limits, self.seats.load(SeqCst))
    }

    /// Other seats; `denominator` is what takes their place in ratios when there are none.
    pub(super) fn set_seats(self: &Arc<Self>, seats: usize, denominator: usize) {
        self.seats.store(seats, SeqCst);
        let places = self.places().max(1);
        self.courses.bounds(places, if seats == 0 { denominator } else { seats }, Instant::now());
        if self.waiting.load(SeqCst) > 0 {
            self.dispatch(&mut self.state.lock());
        }
    }

    /// What was wanted since this was last asked.
    pub(super) fn demand(&self) -> Demand {
        let course = self.demand.take(Instant::now());
        let mut state = self.state.lock();
        if course.seconds > 0.0 {
            let envelope = course.average + course.deviation;
            let past = PAST_WEIGHT * state.smoothed_demand + (1.0 - PAST_WEIGHT) * envelope;
            state.smoothed_demand = envelope.max(past);
        }
        Demand { is_exempt: self.is_exempt(), limits: state.limits, course, smoothed: state.smoothed_demand }
    }

    fn demands(&self, seats: f64, now: Instant) {
        self.demand.add(seats, now);
        self.courses.demands(seats, now);
    }

    /// Seats for a request, if there are some and nobody waits for them.
    pub(super) fn take(self: &Arc<Self>, width: usize, about: &About) -> Option<Place> {
        if self.is_exempt() {
            self.in_use.fetch_add(width, SeqCst);
        } else if self.waiting.load(SeqCst) > 0 || !self.try_seats(width) {
            return None;
        }
        let now = Instant::now();
        self.demands(width as f64, now);
        Some(self.begin(width, None, about.clone(), now))
    }

    /// A request wider than the level has the level for itself.
    fn try_seats(&self, width: usize) -> bool {
        let seats = self.seats.load(SeqCst);
        let fits = |in_use: usize| (in_use + width <= seats || (in_use == 0 && seats > 0)).then_some(in_use + width);
        self.in_use.fetch_update(SeqCst, SeqCst, fits).is_ok()
    }

    fn begin(self: &Arc<Self>, width: usize, queue: Option<usize>, about: About, since: Instant) -> Place {
        self.executing.fetch_add(1, SeqCst);
        self.dispatched.fetch_add(1, SeqCst);
        about.counts.begun(width);
        self.courses.executes(&about.action, width, 1.0, since);
        let execution = self.executions.begin(Executing { about, width, queue, started: jiff::Timestamp::now() });
        Place(Some(Held { level: Arc::clone(self), width, queue, since, execution }))
    }

    fn leave(self: &Arc<Self>, held: &Held) {
        let (now, width) = (Instant::now(), held.width);
        let took = now.saturating_duration_since(held.since);
        if let Some(executing) = self.executions.end(held.execution) {
            executing.about.counts.ended(&executing.about.action, width, took);
            self.courses.executes(&executing.about.action, width, -1.0, now);
        }
        self.demands(-(width as f64), now);
        self.executing.fetch_sub(1, SeqCst);
        self.in_use.fetch_sub(width, SeqCst);
        if held.queue.is_none() && self.waiting.load(SeqCst) == 0 {
            return;
        }
        let mut state = self.state.lock();
        if let Some(queue) = held.queue.and_then(|at| state.queues.get_mut(at)) {
            queue.executing = queue.executing.saturating_sub(1);
            queue.seats_in_use = queue.seats_in_use.saturating_sub(width);
            // It was charged for what it was thought to take.
            queue.next_start += (took.as_secs_f64() - SERVICE_SECONDS) * width as f64;
        }
        self.dispatch(&mut state);
    }

    /// Waits for seats. The error is why there are none, in upstream's words.
    pub(super) async fn wait(
        self: &Arc<Self>,
        width: usize,
        about: About,
        patience: Duration,
    ) -> Result<Place, &'static str> {
        let started = Instant::now();
        let (turn, mut called) = oneshot::channel();
        let counts = &about.counts;
        let (at, ticket) = {
            let mut state = self.state.lock();
            let Some(at) = state.shortest(flow_hash(&about.schema, &about.distinguisher)) else {
                self.rejected.fetch_add(1, SeqCst);
                return Err("concurrency-limit");
            };
            let length_max = state.length_max;
            let virtual_time = state.virtual_time;
            state.next_ticket += 1;
            let ticket = state.next_ticket;
            let queue = &mut state.queues[at];
            if queue.requests.len() >= length_max {
                self.rejected.fetch_add(1, SeqCst);
                return Err("queue-full");
            }
            if queue.requests.is_empty() && queue.executing == 0 {
                queue.next_start = queue.next_start.max(virtual_time);
            }
            queue.requests.push_back(Request { ticket, width, turn, about: about.clone() });
            counts.queued(queue.requests.len(), width);
            self.waiting.fetch_add(1, SeqCst);
            self.courses.waits(&about.action, 1.0, started);
            self.demands(width as f64, started);
            self.dispatch(&mut state);
            (at, ticket)
        };
        let outcome = match tokio::time::timeout(patience, &mut called).await {
            Ok(Ok(queue)) => Ok(queue),
            Ok(Err(_)) => Err("cancelled"),
            // The turn may have come just now.
            Err(_) if self.give_up(at, ticket) => Err("time-out"),
            Err(_) => called.try_recv().map_err(|_| "time-out"),
        };
        let now = Instant::now();
        counts.waited(now.saturating_duration_since(started), width, outcome.is_ok());
        self.courses.waits(&about.action, -1.0, now);
        match outcome {
            Ok(queue) => Ok(self.begin(width, Some(queue), about, now)),
            Err(reason) => {
                self.demands(-(width as f64), now);
                self.timed_out.fetch_add(1, SeqCst);
                Err(reason)
            }
        }
    }

    /// False: it does not wait any more.
    fn give_up(&self, at: usize, ticket: u64) -> bool {
        let mut state = self.state.lock();
        let Some(queue) = state.queues.get_mut(at) else { return false };
        let Some(place) = queue.requests.iter().position(|request| request.ticket == ticket) else { return false };
        queue.requests.remove(place);
        self.waiting.fetch_sub(1, SeqCst);
        true
    }

    /// Calls those who are next, as far as there are seats.
    fn dispatch(&self, state: &mut State) {
        while let Some(at) = state.next() {
            let Some(first) = state.queues[at].requests.front() else { return };
            let width = first.width;
            if !self.try_seats(width) {
                return first.about.counts.not_accommodated();
            }
            let (next, discounted) = state.bounds();
            let queue = &mut state.queues[at];
            let Some(request) = queue.requests.pop_front() else { return };
            state.virtual_time = state.virtual_time.max(queue.next_start);
            self.courses.moved(state.virtual_time);
            self.courses.called(state.virtual_time, queue.next_start, next, discounted);
            queue.next_start += SERVICE_SECONDS * width as f64;
            queue.executing += 1;
            queue.seats_in_use += width;
            self.waiting.fetch_sub(1, SeqCst);
            if request.turn.send(at).is_err() {
                // Nobody is there any more.
                self.in_use.fetch_sub(width, SeqCst);
                queue.executing -= 1;
                queue.seats_in_use -= width;
            }
        }
    }

    /// Requests waiting and executing.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.waiting.load(SeqCst), self.executing.load(SeqCst))
    }

    /// Requests that are worked on.
    pub(super) fn executions(&self) -> Vec<Executing> {
        self.executions.all()
    }

    /// Looks at the queues.
    pub(super) fn with_queues<T>(&self, look: impl FnOnce(&[Queue]) -> T) -> T {
        look(&self.state.lock().queues)
    }
}

impl State {
    /// Of a flow's hand, the queue with the least to do.
    fn shortest(&self, hash: u64) -> Option<usize> {
        let load = |at: &usize| {
            let queue = &self.queues[*at];
            queue.requests.iter().map(|request| request.width).sum::<usize>() + queue.seats_in_use
        };
        deal(hash, self.queues.len(), self.hand).into_iter().min_by_key(load)
    }

    /// Least and most, over the queues where somebody waits, of the virtual time at which the first of them is due; and the same less
    /// the work that is under way.
    fn bounds(&self) -> ([f64; 2], [f64; 2]) {
        let (mut next, mut discounted) = ([f64::INFINITY, f64::NEG_INFINITY], [f64::INFINITY, f64::NEG_INFINITY]);
        for queue in self.queues.iter().filter(|queue| !queue.requests.is_empty()) {
            let under_way = SERVICE_SECONDS * queue.seats_in_use as f64;
            for (bounds, start) in [(&mut next, queue.next_start), (&mut discounted, queue.next_start - under_way)] {
                *bounds = [bounds[0].min(start), bounds[1].max(start)];
            }
        }
        (next, discounted)
    }

    /// The queue whose turn it is.
    fn next(&self) -> Option<usize> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.requests.is_empty());
        waiting.min_by(|(_, a), (_, b)| a.next_start.total_cmp(&b.next_start)).map(|(at, _)| at)
    }
}
