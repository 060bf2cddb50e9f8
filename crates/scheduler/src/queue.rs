//! The scheduling queue: pods ready to be tried (active), pods that wait a moment after a failure (backoff), and pods that wait
//! for the cluster to change (unschedulable; gated pods among them).
//!
//! Deterministic: time is an argument, counted from any fixed start. Invariants: a pod is in exactly one place; a pod handed out
//! by `pop` is in flight until it is put back or `done`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::framework::{ClusterEvent, EventObject, EventResource, Hint, pod_change};
use crate::model::PodInfo;
use crate::profile::Profile;

/// How long pods wait after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// When a pod may be tried again.
    fn ends(self, queued: &QueuedPod) -> Duration {
        let failures =
            if queued.consecutive_errors > 0 { queued.consecutive_errors } else { queued.unschedulable_count };
        queued.timestamp + self.after(failures)
    }

    /// The wait after so many failures; by default 1 s, 2 s, 4 s ... 10 s.
    fn after(self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            more => self.initial.saturating_mul(1 << (more - 1).min(16)).min(self.max),
        }
    }
}

/// After this long without a helpful event a pod is tried again anyway.
pub const MAX_TIME_UNSCHEDULABLE: Duration = Duration::from_secs(5 * 60);
/// Backoffs end at multiples of this, so that pods of one moment are still ordered by priority.
const BACKOFF_WINDOW: Duration = Duration::from_secs(1);

/// A pod in the queue, with its history.
#[derive(Debug, Clone)]
pub struct QueuedPod {
    pub pod: Arc<PodInfo>,
    /// When it was last put into the queue.
    pub timestamp: Duration,
    /// When it was first handed out.
    pub first_attempt: Option<Duration>,
    pub attempts: u32,
    pub unschedulable_count: u32,
    pub consecutive_errors: u32,
    /// Plugins that refused it last time; only their events bring it back.
    pub rejectors: BTreeSet<&'static str>,
    /// The PreEnqueue plugin that keeps it out.
    pub gated_by: Option<&'static str>,
}

/// Order within a queue: by the sort plugin, then by arrival.
type SortKey = (i64, u128, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active(SortKey),
    Backoff(u64, SortKey),
    ErrorBackoff(u64, SortKey),
    Unschedulable,
}

struct Entry {
    queued: QueuedPod,
    place: Place,
}

/// How many pods wait where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// See the module.
pub struct Queue {
    profiles: Arc<HashMap<String, Arc<Profile>>>,
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<SortKey, Arc<str>>,
    backoff: BTreeMap<(u64, SortKey), Arc<str>>,
    error_backoff: BTreeMap<(u64, SortKey), Arc<str>>,
    unschedulable: BTreeSet<Arc<str>>,
    /// Newest version of the pods that were handed out.
    in_flight: HashMap<Arc<str>, Arc<PodInfo>>,
    arrivals: u64,
    waits: Backoff,
}

impl Queue {
    pub fn new(profiles: Arc<HashMap<String, Arc<Profile>>>, waits: Backoff) -> Queue {
        Queue {
            profiles,
            waits,
            entries: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            error_backoff: BTreeMap::new(),
            unschedulable: BTreeSet::new(),
            in_flight: HashMap::new(),
            arrivals: 0,
        }
    }

    pub fn pending(&self) -> Pending {
        let gated = |uid: &&Arc<str>| self.entries.get(*uid).is_some_and(|entry| entry.queued.gated_by.is_some());
        let gated = self.unschedulable.iter().filter(gated).count();
        Pending {
            active: self.active.len(),
            backoff: self.backoff.len() + self.error_backoff.len(),
            unschedulable: self.unschedulable.len() - gated,
            gated,
        }
    }

    /// Takes in a pod: a new one, or a new version of one that is already here.
    pub fn upsert(&mut self, pod: Arc<PodInfo>, now: Duration) {
        if let Some(latest) = self.in_flight.get_mut(&pod.uid) {
            *latest = pod;
            return;
        }
        let Some(mut queued) = self.take(&pod.uid) else {
            let queued = QueuedPod {
                pod,
                timestamp: now,
                first_attempt: None,
                attempts: 0,
                unschedulable_count: 0,
                consecutive_errors: 0,
                rejectors: BTreeSet::new(),
                gated_by: None,
            };
            return self.activate(queued, now);
        };
        let (was, place) = (std::mem::replace(&mut queued.queued.pod, pod), queued.place);
        let queued = queued.queued;
        match place {
            Place::Active(_) => self.activate(queued, now),
            Place::Backoff(..) | Place::ErrorBackoff(..) => self.back_off(queued),
            Place::Unschedulable => {
                let event = ClusterEvent::new(EventResource::TargetPod, pod_change(&was, &queued.pod));
                let new = queued.pod.clone();
                let change = EventObject::Pod { old: Some(&was), new: Some(&new) };
                if self.is_helpful(&queued, event, change) {
                    self.wake(queued, now);
                } else {
                    self.shelve(queued);
                }
            }
        }
    }

    /// Takes in a new version of a pod that was handed out; any other pod is left alone.
    pub fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(latest) = self.in_flight.get_mut(&pod.uid) {
            *latest = pod;
        }
    }

    /// Forgets a pod wherever it is.
    pub fn remove(&mut self, uid: &str) {
        self.in_flight.remove(uid);
        self.take(uid);
    }

    /// Hands out the next pod. When none is ready the next one in (non-error) backoff is taken early.
    pub fn pop(&mut self, now: Duration) -> Option<QueuedPod> {
        let uid = match self.active.first_key_value() {
            Some((_, uid)) => uid.clone(),
            None => self.backoff.first_key_value()?.1.clone(),
        };
        let mut queued = self.take(&uid)?.queued;
        queued.attempts += 1;
        queued.first_attempt.get_or_insert(now);
        queued.rejectors.clear();
        self.in_flight.insert(uid, queued.pod.clone());
        Some(queued)
    }

    /// The pod handed out needs the queue no longer.
    pub fn done(&mut self, uid: &str) {
        self.in_flight.remove(uid);
    }

    /// Takes back a pod no node could run. Without rejectors (no plugin to wait for) it is tried again after a backoff.
    pub fn put_back_unschedulable(&mut self, queued: QueuedPod, rejectors: BTreeSet<&'static str>, now: Duration) {
        let Some(mut queued) = self.land(queued, now) else { return };
        if rejectors.is_empty() {
            queued.consecutive_errors += 1;
            return self.back_off(queued);
        }
        queued.unschedulable_count += 1;
        queued.consecutive_errors = 0;
        queued.rejectors = rejectors;
        self.shelve(queued);
    }

    /// Takes back a pod that failed for a reason that is not the cluster's.
    pub fn put_back_error(&mut self, queued: QueuedPod, now: Duration) {
        let Some(mut queued) = self.land(queued, now) else { return };
        queued.consecutive_errors += 1;
        self.back_off(queued);
    }

    /// Wakes the waiting pods an event may help.
    pub fn on_event(&mut self, event: ClusterEvent, object: EventObject<'_>, now: Duration) {
        if self.unschedulable.is_empty() || !self.is_awaited(event) {
            return;
        }
        let helped: Vec<Arc<str>> = self
            .unschedulable
            .iter()
            .filter(|uid| self.entries.get(*uid).is_some_and(|entry| self.is_helpful(&entry.queued, event, object)))
            .cloned()
            .collect();
        for uid in helped {
            if let Some(entry) = self.take(&uid) {
                self.wake(entry.queued, now);
            }
        }
    }

    /// Ends the backoffs that are over and wakes pods that have waited too long. To be called every second.
    pub fn flush(&mut self, now: Duration) {
        let window = window_of(now);
        for late in [&self.backoff, &self.error_backoff]
            .into_iter()
            .flat_map(|queue| queue.range(..(window + 1, (i64::MIN, 0, 0))).map(|(_, uid)| uid.clone()))
            .collect::<Vec<_>>()
        {
            if let Some(entry) = self.take(&late) {
                self.activate(entry.queued, now);
            }
        }
        let stale = |uid: &&Arc<str>| {
            self.entries.get(*uid).is_some_and(|entry| {
                entry.queued.gated_by.is_none() && now.saturating_sub(entry.queued.timestamp) > MAX_TIME_UNSCHEDULABLE
            })
        };
        for uid in self.unschedulable.iter().filter(stale).cloned().collect::<Vec<_>>() {
            if let Some(entry) = self.take(&uid) {
                self.wake(entry.queued, now);
            }
        }
    }

    /// Ends the flight of a pod; `None` when it was removed meanwhile.
    fn land(&mut self, mut queued: QueuedPod, now: Duration) -> Option<QueuedPod> {
        queued.pod = self.in_flight.remove(&queued.pod.uid)?;
        queued.timestamp = now;
        Some(queued)
    }

    fn take(&mut self, uid: &str) -> Option<Entry> {
        let (uid, entry) = self.entries.remove_entry(uid)?;
        match entry.place {
            Place::Active(key) => drop(self.active.remove(&key)),
            Place::Backoff(window, key) => drop(self.backoff.remove(&(window, key))),
            Place::ErrorBackoff(window, key) => drop(self.error_backoff.remove(&(window, key))),
            Place::Unschedulable => drop(self.unschedulable.remove(&uid)),
        }
        Some(entry)
    }

    fn insert(&mut self, queued: QueuedPod, place: Place) {
        let uid = queued.pod.uid.clone();
        match place {
            Place::Active(key) => drop(self.active.insert(key, uid.clone())),
            Place::Backoff(window, key) => drop(self.backoff.insert((window, key), uid.clone())),
            Place::ErrorBackoff(window, key) => drop(self.error_backoff.insert((window, key), uid.clone())),
            Place::Unschedulable => drop(self.unschedulable.insert(uid.clone())),
        }
        self.entries.insert(uid, Entry { queued, place });
    }

    /// To the active queue, unless a PreEnqueue plugin objects.
    fn activate(&mut self, mut queued: QueuedPod, now: Duration) {
        queued.gated_by = self.gate(&queued.pod);
        if let Some(plugin) = queued.gated_by {
            queued.rejectors.insert(plugin);
            return self.shelve(queued);
        }
        if queued.attempts == 0 {
            queued.timestamp = queued.timestamp.max(Duration::ZERO).min(now);
        }
        let key = self.sort_key(&queued);
        self.insert(queued, Place::Active(key));
    }

    fn shelve(&mut self, queued: QueuedPod) {
        self.insert(queued, Place::Unschedulable);
    }

    fn back_off(&mut self, mut queued: QueuedPod) {
        queued.gated_by = self.gate(&queued.pod);
        if let Some(plugin) = queued.gated_by {
            queued.rejectors.insert(plugin);
            return self.shelve(queued);
        }
        let window = window_of(self.waits.ends(&queued));
        let key = self.sort_key(&queued);
        let place =
            if queued.consecutive_errors > 0 { Place::ErrorBackoff(window, key) } else { Place::Backoff(window, key) };
        self.insert(queued, place);
    }

    /// From unschedulable to where it belongs now.
    fn wake(&mut self, queued: QueuedPod, now: Duration) {
        if window_of(self.waits.ends(&queued)) > window_of(now) {
            self.back_off(queued);
        } else {
            self.activate(queued, now);
        }
    }

    fn gate(&self, pod: &PodInfo) -> Option<&'static str> {
        let profile = self.profiles.get(pod.scheduler_name())?;
        profile
            .points
            .pre_enqueue
            .iter()
            .find_map(|slot| slot.plugin.pre_enqueue(pod).err())
            .map(|status| status.plugin)
    }

    fn sort_key(&mut self, queued: &QueuedPod) -> SortKey {
        self.arrivals += 1;
        let sort = self.profiles.get(queued.pod.scheduler_name()).and_then(|p| p.points.queue_sort.first());
        let (first, second) = sort.map_or((0, 0), |slot| slot.plugin.key(queued));
        (first, second, self.arrivals)
    }

    fn is_awaited(&self, event: ClusterEvent) -> bool {
        event.resource == EventResource::WildCard
            || self
                .profiles
                .values()
                .flat_map(|profile| &profile.points.hints)
                .any(|(_, hints)| hints.iter().any(|hint| hint.event.covers(event)))
    }

    fn is_helpful(&self, queued: &QueuedPod, event: ClusterEvent, object: EventObject<'_>) -> bool {
        if event.resource == EventResource::WildCard {
            return true;
        }
        let Some(profile) = self.profiles.get(queued.pod.scheduler_name()) else { return false };
        let awaited = |plugin: &'static str| queued.gated_by.is_none_or(|gate| gate == plugin);
        profile
            .points
            .hints
            .iter()
            .filter(|(plugin, _)| queued.rejectors.contains(plugin) && awaited(plugin))
            .flat_map(|(_, hints)| hints)
            .filter(|hint| hint.event.covers(event))
            .any(|hint| hint.judge.is_none_or(|judge| judge(&queued.pod, object) == Hint::Queue))
    }
}

fn window_of(time: Duration) -> u64 {
    time.as_secs() / BACKOFF_WINDOW.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::ActionType;
    use crate::profile::ProfileConfig;
    use crate::testing::pod;
    use serde_json::{Value, json};

    fn queue() -> Queue {
        let profile = Arc::new(Profile::new(&ProfileConfig::default()).unwrap());
        Queue::new(Arc::new([("default-scheduler".to_owned(), profile)].into()), Backoff::default())
    }

    fn waiting(name: &str, spec: Value) -> Arc<PodInfo> {
        let mut object = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": []}});
        let target = object["spec"].as_object_mut().unwrap();
        for (key, value) in spec.as_object().unwrap() {
            target.insert(key.clone(), value.clone());
        }
        pod(object)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn popped(queue: &mut Queue, now: Duration) -> Option<String> {
        queue.pop(now).map(|queued| queued.pod.name.to_string())
    }

    #[test]
    fn higher_priority_comes_first_then_the_longer_wait() {
        let mut queue = queue();
        queue.upsert(waiting("late", json!({})), at(2));
        queue.upsert(waiting("early", json!({})), at(1));
        queue.upsert(waiting("vip", json!({"priority": 5})), at(3));
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue, at(4))).collect();
        assert_eq!(order, ["vip", "early", "late"]);
    }

    #[test]
    fn backoff_doubles_from_one_second_to_ten() {
        let waits: Vec<u64> = (0..7).map(|failures| Backoff::default().after(failures).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn refused_pod_waits_for_an_event_of_the_plugin_that_refused_it() {
        let mut queue = queue();
        queue.upsert(waiting("p", json!({})), at(0));
        let queued = queue.pop(at(0)).unwrap();
        queue.put_back_unschedulable(queued, ["NodeResourcesFit"].into(), at(0));
        queue.on_event(ClusterEvent::new(EventResource::Node, ActionType::UPDATE_NODE_TAINT), EventObject::None, at(5));
        assert_eq!(queue.pending(), Pending { unschedulable: 1, ..Pending::default() });
        queue.on_event(ClusterEvent::new(EventResource::AssignedPod, ActionType::DELETE), EventObject::None, at(5));
        assert_eq!(queue.pending(), Pending { active: 1, ..Pending::default() });
    }

    #[test]
    fn woken_pod_finishes_its_backoff_unless_nothing_else_is_ready() {
        let mut queue = queue();
        queue.upsert(waiting("p", json!({})), at(0));
        let queued = queue.pop(at(0)).unwrap();
        queue.put_back_unschedulable(queued, ["NodeResourcesFit"].into(), at(0));
        queue.on_event(ClusterEvent::new(EventResource::AssignedPod, ActionType::DELETE), EventObject::None, at(0));
        assert_eq!(queue.pending(), Pending { backoff: 1, ..Pending::default() });
        assert_eq!(popped(&mut queue, at(0)), Some("p".into()));
    }

    #[test]
    fn errors_wait_out_their_backoff() {
        let mut queue = queue();
        queue.upsert(waiting("p", json!({})), at(0));
        let queued = queue.pop(at(0)).unwrap();
        queue.put_back_error(queued, at(0));
        assert_eq!(popped(&mut queue, at(0)), None);
        queue.flush(at(1));
        assert_eq!(popped(&mut queue, at(1)), Some("p".into()));
    }

    #[test]
    fn forgotten_pod_is_tried_again_after_five_minutes() {
        let mut queue = queue();
        queue.upsert(waiting("p", json!({})), at(0));
        let queued = queue.pop(at(0)).unwrap();
        queue.put_back_unschedulable(queued, ["NodeName"].into(), at(0));
        queue.flush(at(300));
        assert_eq!(queue.pending().unschedulable, 1);
        queue.flush(at(301));
        assert_eq!(queue.pending().active, 1);
    }

    #[test]
    fn gated_pod_enters_when_its_gates_are_gone() {
        let mut queue = queue();
        queue.upsert(waiting("p", json!({"schedulingGates": [{"name": "g"}]})), at(0));
        assert_eq!(queue.pending(), Pending { gated: 1, ..Pending::default() });
        queue.flush(at(1000));
        assert_eq!(queue.pending().gated, 1);
        queue.upsert(waiting("p", json!({})), at(1001));
        assert_eq!(popped(&mut queue, at(1001)), Some("p".into()));
    }

    #[test]
    fn pod_removed_in_flight_does_not_come_back() {
        let mut queue = queue();
        queue.upsert(waiting("p", json!({})), at(0));
        let queued = queue.pop(at(0)).unwrap();
        queue.remove("p");
        queue.put_back_error(queued, at(0));
        assert_eq!(queue.pending(), Pending::default());
    }
}
