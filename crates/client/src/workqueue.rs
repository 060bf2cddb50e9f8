//! The work queue of a controller: which key to look at next.
//!
//! Invariants (client-go's): a key waiting twice is handed out once; a key is never with two workers; a key added while a worker
//! has it is handed out again after [`WorkQueue::done`]. Failures come back after an exponential delay per key, and all retries
//! together pass one token bucket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::QueueMetrics;

/// How retries are spaced. The default is upstream's: 5 ms doubling to 1000 s per key, 10 a second with a burst of 100 over all.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimits {
    pub first: Duration,
    pub max: Duration,
    pub per_second: f64,
    pub burst: f64,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), max: Duration::from_secs(1000), per_second: 10.0, burst: 100.0 }
    }
}

/// Shared by the informers' handlers that fill it and the workers that empty it. Cheap to clone.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    metrics: OnceLock<QueueMetrics>,
}

/// Invariant: `ready` holds exactly the keys of `dirty` that are not in `active`, once each.
struct State<T> {
    /// With the time since when they wait.
    ready: VecDeque<(T, Instant)>,
    dirty: HashSet<T>,
    /// With the time since when a worker has them.
    active: HashMap<T, Instant>,
    delayed: BinaryHeap<Reverse<Delayed<T>>>,
    /// The earliest time a delayed key is due; later entries of it in `delayed` are stale.
    due: HashMap<T, Instant>,
    n_failures: HashMap<T, u32>,
    bucket: TokenBucket,
    limits: RetryLimits,
    n_delayed: u64,
    n_added: u64,
    closed: bool,
}

fn depth(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Ordered by time, then by the order of adding.
struct Delayed<T> {
    at: Instant,
    sequence: u64,
    key: T,
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::with_limits(RetryLimits::default())
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    pub fn with_limits(limits: RetryLimits) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            active: HashMap::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            n_failures: HashMap::new(),
            bucket: TokenBucket { tokens: limits.burst, at: None },
            limits,
            n_delayed: 0,
            n_added: 0,
            closed: false,
        };
        let shared = Shared { state: Mutex::new(state), changed: Notify::new(), metrics: OnceLock::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Counts from now on. A queue is measured once: later calls do nothing.
    pub fn measure(&self, metrics: QueueMetrics) {
        metrics.depth.set(depth(self.len()));
        // Measured already: the first name stays.
        let _already = self.shared.metrics.set(metrics).is_err();
    }

    /// Hands the key out as soon as a worker is free.
    pub fn add(&self, key: T) {
        let mut state = self.shared.state.lock();
        let n_before = state.n_added;
        state.add(key, Instant::now());
        self.count(&state, n_before);
        drop(state);
        self.shared.changed.notify_one();
    }

    fn count(&self, state: &State<T>, n_before: u64) {
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.adds.inc_by(state.n_added - n_before);
            metrics.depth.set(depth(state.ready.len()));
        }
    }

    /// Adds the key when `delay` has passed. Of several waits the shortest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.shared.state.lock().add_at(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// Adds the key after the delay its failures so far ask for.
    pub fn add_rate_limited(&self, key: T) {
        let delay = self.shared.state.lock().next_retry(&key, Instant::now());
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.retries.inc();
        }
        self.add_after(key, delay);
    }

    /// The key succeeded: its next failure starts from the first delay again.
    pub fn forget(&self, key: &T) {
        self.shared.state.lock().n_failures.remove(key);
    }

    pub fn n_failures(&self, key: &T) -> u32 {
        self.shared.state.lock().n_failures.get(key).copied().unwrap_or(0)
    }

    /// The next key; [`Self::done`] must be called with it. None once the queue is shut down.
    pub async fn get(&self) -> Option<T> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no add can fall between looking and waiting.
            changed.as_mut().enable();
            let next_due = {
                let mut state = self.shared.state.lock();
                if state.closed {
                    self.shared.changed.notify_one();
                    return None;
                }
                let now = Instant::now();
                let n_before = state.n_added;
                state.release_due(now);
                let taken = state.take(now);
                self.count(&state, n_before);
                if let Some((key, since)) = taken {
                    if let Some(metrics) = self.shared.metrics.get() {
                        metrics.waited.observe(now.saturating_duration_since(since).as_secs_f64());
                    }
                    // Somebody else must take what is left, or wait for what is due.
                    self.shared.changed.notify_one();
                    return Some(key);
                }
                state.delayed.peek().map(|Reverse(next)| next.at)
            };
            match next_due {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The worker is through with the key, however it went.
    pub fn done(&self, key: &T) {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let since = state.done(key, now);
        let n_added = state.n_added;
        self.count(&state, n_added);
        drop(state);
        if let (Some(metrics), Some(since)) = (self.shared.metrics.get(), since) {
            metrics.worked.observe(now.saturating_duration_since(since).as_secs_f64());
        }
        self.shared.changed.notify_one();
    }

    /// Workers get None from now on; keys still waiting are dropped.
    pub fn shut_down(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_waiters();
        self.shared.changed.notify_one();
    }

    /// Keys ready to be handed out.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T, now: Instant) {
        if self.closed || !self.dirty.insert(key.clone()) {
            return;
        }
        self.n_added += 1;
        if !self.active.contains_key(&key) {
            self.ready.push_back((key, now));
        }
    }

    fn add_at(&mut self, key: T, at: Instant) {
        if self.closed || self.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        self.due.insert(key.clone(), at);
        self.n_delayed += 1;
        self.delayed.push(Reverse(Delayed { at, sequence: self.n_delayed, key }));
    }

    fn release_due(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|Reverse(next)| next.at <= now) {
            let Some(Reverse(next)) = self.delayed.pop() else { return };
            if self.due.get(&next.key) == Some(&next.at) {
                self.due.remove(&next.key);
                self.add(next.key, now);
            }
        }
    }

    /// The next key, and since when it waited.
    fn take(&mut self, now: Instant) -> Option<(T, Instant)> {
        let (key, since) = self.ready.pop_front()?;
        self.dirty.remove(&key);
        let other = self.active.insert(key.clone(), now);
        debug_assert!(other.is_none(), "a key is never with two workers");
        Some((key, since))
    }

    /// Since when the key was with its worker.
    fn done(&mut self, key: &T, now: Instant) -> Option<Instant> {
        let since = self.active.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back((key.clone(), now));
        }
        since
    }

    fn next_retry(&mut self, key: &T, now: Instant) -> Duration {
        let failures = self.n_failures.entry(key.clone()).or_insert(0);
        let per_key = self.limits.first.saturating_mul(1 << (*failures).min(30)).min(self.limits.max);
        *failures = failures.saturating_add(1);
        per_key.max(self.bucket.reserve(now, &self.limits))
    }
}

/// Reserves tokens ahead of time: the level may go below zero, and the debt is the wait.
struct TokenBucket {
    tokens: f64,
    at: Option<Instant>,
}

impl TokenBucket {
    fn reserve(&mut self, now: Instant, limits: &RetryLimits) -> Duration {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * limits.per_second).min(limits.burst) - 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / limits.per_second) }
    }
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl<T> Eq for Delayed<T> {}

impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Delayed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handed_out_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(queue.get().await, Some("b"));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_waits_for_done() {
        let queue = WorkQueue::default();
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_delays_the_shorter_counts() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("b", Duration::from_secs(5));
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("b"));
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"b");
        let late = tokio::time::timeout(Duration::from_secs(20), queue.get()).await;
        assert!(late.is_err(), "the longer delay was replaced, not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_until_forgotten() {
        let queue = WorkQueue::default();
        let mut delays = Vec::new();
        for attempt in 0..4 {
            if attempt == 3 {
                queue.forget(&"a");
            }
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.get().await;
            queue.done(&"a");
            delays.push(start.elapsed().as_millis());
        }
        assert_eq!(delays, [5, 10, 20, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_of_all_keys_pass_one_bucket() {
        let queue = WorkQueue::with_limits(RetryLimits { burst: 2.0, ..RetryLimits::default() });
        let start = Instant::now();
        for key in 0..4 {
            queue.add_rate_limited(key);
        }
        for _ in 0..4 {
            queue.get().await;
        }
        assert_eq!(start.elapsed().as_millis(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_down_wakes_every_worker() {
        let queue: WorkQueue<u8> = WorkQueue::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.shut_down();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}
