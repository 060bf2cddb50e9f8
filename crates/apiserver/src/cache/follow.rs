//! Followers: readers of a resource's events at their own pace.
//!
//! A follower that cares for one object, or for one value of a field (a kubelet for the pods of its node), sleeps through the
//! events of all others: a cluster of a thousand nodes wakes one follower for each pod that changes, not a thousand.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;

use super::resource::{CacheEvent, CachedObject, ResourceCache, TooOld, WatchPosition};

/// The only events a follower cares for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Those of one object; no namespace for cluster scope.
    Object { namespace: Box<str>, name: Box<str> },
    /// Those of objects that have, or had just before, this value of a selectable field of the kind (by its position).
    Field { field: usize, value: Box<str> },
}

impl Interest {
    fn concerns(&self, object: &CachedObject) -> bool {
        match self {
            Self::Object { namespace, name } => object.stored.name == **name && object.stored.namespace == **namespace,
            Self::Field { field, value } => field_of(object, *field) == &**value,
        }
    }
}

fn field_of(object: &CachedObject, field: usize) -> &str {
    object.indexed.fields.get(field).map_or("", AsRef::as_ref)
}

/// What somebody is interested in.
#[derive(Debug)]
struct Topic {
    /// Sequence numbers of its events in the window, oldest first.
    events: VecDeque<u64>,
    /// Whoever is before this has missed some.
    complete_from: u64,
    head: watch::Sender<u64>,
    followers: usize,
}

/// All topics of a resource; nothing is looked up by what nobody is interested in.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// By namespace and name.
    objects: HashMap<Box<str>, HashMap<Box<str>, Topic>>,
    /// By field and value.
    fields: Vec<(usize, HashMap<Box<str>, Topic>)>,
}

impl Topics {
    fn get(&self, interest: &Interest) -> Option<&Topic> {
        match interest {
            Interest::Object { namespace, name } => self.objects.get(namespace)?.get(name),
            Interest::Field { field, value } => self.fields.iter().find(|(f, _)| f == field)?.1.get(value),
        }
    }

    /// The topics that `interest` is one of, and its name among them.
    fn place<'i>(&mut self, interest: &'i Interest) -> (&mut HashMap<Box<str>, Topic>, &'i str) {
        match interest {
            Interest::Object { namespace, name } => (self.objects.entry(namespace.clone()).or_default(), name),
            Interest::Field { field, value } => {
                let at = self.fields.iter().position(|(f, _)| f == field).unwrap_or_else(|| {
                    self.fields.push((*field, HashMap::new()));
                    self.fields.len() - 1
                });
                (&mut self.fields[at].1, value)
            }
        }
    }

    /// One follower more. `window` are the events now held, with the sequence number of the first.
    fn join(&mut self, interest: &Interest, first: u64, window: &VecDeque<Arc<CacheEvent>>) -> watch::Receiver<u64> {
        let (topics, name) = self.place(interest);
        let topic = topics.entry(name.into()).or_insert_with(|| {
            let concerns = |event: &CacheEvent| versions(event).any(|object| interest.concerns(object));
            let events = (first..).zip(window).filter(|(_, event)| concerns(event)).map(|(at, _)| at).collect();
            Topic { events, complete_from: first, head: watch::Sender::new(first), followers: 0 }
        });
        topic.followers += 1;
        topic.head.subscribe()
    }

    fn leave(&mut self, interest: &Interest) {
        let (topics, name) = self.place(interest);
        if let Some(topic) = topics.get_mut(name) {
            topic.followers -= 1;
            if topic.followers == 0 {
                topics.remove(name);
            }
        }
        self.objects.retain(|_, topics| !topics.is_empty());
        self.fields.retain(|(_, topics)| !topics.is_empty());
    }

    /// Calls `act` with every topic that an event belongs to, once.
    fn each_of(&mut self, event: &CacheEvent, mut act: impl FnMut(&mut Topic)) {
        let stored = &event.object.stored;
        let object = self.objects.get_mut(stored.namespace.as_str()).and_then(|of| of.get_mut(stored.name.as_str()));
        object.map(&mut act);
        for (field, topics) in &mut self.fields {
            let now = field_of(&event.object, *field);
            topics.get_mut(now).map(&mut act);
            let before = event.previous.as_deref().map(|object| field_of(object, *field));
            before.filter(|before| *before != now).and_then(|before| topics.get_mut(before)).map(&mut act);
        }
    }

    /// A new event; who is to be told of it is added to `touched`.
    pub(super) fn publish(&mut self, at: u64, event: &CacheEvent, touched: &mut Vec<watch::Sender<u64>>) {
        self.each_of(event, |topic| {
            topic.events.push_back(at);
            touched.push(topic.head.clone());
        });
    }

    /// An event that leaves the window.
    pub(super) fn forget(&mut self, at: u64, event: &CacheEvent) {
        self.each_of(event, |topic| {
            topic.events.pop_front_if(|oldest| *oldest == at);
            topic.complete_from = at + 1;
        });
    }

    /// The window starts anew: everybody has missed something.
    pub(super) fn reset(&mut self, first: u64) {
        let objects = self.objects.values_mut().flat_map(HashMap::values_mut);
        for topic in objects.chain(self.fields.iter_mut().flat_map(|(_, topics)| topics.values_mut())) {
            topic.events.clear();
            topic.complete_from = first;
            topic.head.send_replace(first);
        }
    }

    /// Wakes everybody.
    pub(super) fn wake(&self) {
        let objects = self.objects.values().flat_map(HashMap::values);
        objects
            .chain(self.fields.iter().flat_map(|(_, topics)| topics.values()))
            .for_each(|t| t.head.send_modify(|_| {}));
    }
}

/// The versions of an object that an event is about.
fn versions(event: &CacheEvent) -> impl Iterator<Item = &CachedObject> {
    event.previous.as_deref().into_iter().chain([&*event.object])
}

/// A reader's place in the events of a resource.
#[derive(Debug)]
pub struct Follower {
    resource: Arc<ResourceCache>,
    interest: Option<Interest>,
    position: WatchPosition,
    head: watch::Receiver<u64>,
}

impl Follower {
    /// Follows from `position` on what is of interest (`None`: everything).
    pub(crate) fn new(resource: Arc<ResourceCache>, position: WatchPosition, interest: Option<Interest>) -> Self {
        let head = match &interest {
            None => resource.head(),
            Some(interest) => {
                let state = &mut *resource.state.write();
                state.topics.join(interest, state.first, &state.events)
            }
        };
        Self { resource, interest, position, head }
    }

    /// Up to `max` events that were not read yet, oldest first.
    pub(crate) fn take(&mut self, max: usize) -> Result<Vec<Arc<CacheEvent>>, TooOld> {
        self.head.mark_unchanged();
        let (events, next) = self.peek(max)?;
        self.position = next;
        Ok(events)
    }

    /// Whether there is nothing to be read now.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.peek(1).is_ok_and(|(events, _)| events.is_empty())
    }

    fn peek(&self, max: usize) -> Result<(Vec<Arc<CacheEvent>>, WatchPosition), TooOld> {
        let state = self.resource.state.read();
        let topic = self.interest.as_ref().and_then(|interest| state.topics.get(interest));
        let Some(topic) = topic else {
            drop(state);
            return self.resource.events_from(self.position, max);
        };
        if self.position.0 < topic.complete_from {
            return Err(TooOld { oldest: state.complete_after });
        }
        let unread = topic.events.partition_point(|at| *at < self.position.0);
        let found: Vec<u64> = topic.events.range(unread..).take(max).copied().collect();
        let next = match found.last() {
            Some(last) if unread + found.len() < topic.events.len() => last + 1,
            _ => state.first + state.events.len() as u64,
        };
        let events = found.into_iter().filter_map(|at| state.events.get((at - state.first) as usize).cloned());
        Ok((events.collect(), WatchPosition(next)))
    }

    /// Ends when there may be events to be read. False when there will be no more.
    pub(crate) async fn changed(&mut self) -> bool {
        self.head.changed().await.is_ok() && !self.resource.is_closed()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.resource.is_closed()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(interest) = &self.interest {
            self.resource.state.write().topics.leave(interest);
        }
    }
}

#[cfg(test)]
mod tests {
    use store::Revision;

    use super::super::resource::tests::{kind, object_with};
    use super::super::resource::{Change, WINDOW_EVENTS_MAX};
    use super::*;

    fn resource() -> Arc<ResourceCache> {
        let resource = Arc::new(ResourceCache::new(kind()));
        resource.reset(vec![], Revision(1));
        resource
    }

    fn put(resource: &ResourceCache, name: &str, revision: i64, node: &str) {
        resource.apply(vec![Change::Put(object_with("default", name, revision, &[node]))]);
    }

    fn of_node(resource: &Arc<ResourceCache>, node: &str) -> Follower {
        let position = resource.position_after(Revision(1)).unwrap();
        Follower::new(Arc::clone(resource), position, Some(Interest::Field { field: 0, value: node.into() }))
    }

    fn revisions(follower: &mut Follower) -> Vec<i64> {
        follower.take(usize::MAX).unwrap().iter().map(|event| event.revision.0).collect()
    }

    #[test]
    fn a_value_is_followed_as_objects_come_to_it_and_leave_it() {
        let resource = resource();
        let mut follower = of_node(&resource, "n1");
        put(&resource, "a", 2, "");
        put(&resource, "b", 3, "n2");
        assert!(!follower.head.has_changed().unwrap());
        assert!(follower.is_up_to_date());
        put(&resource, "a", 4, "n1");
        put(&resource, "a", 5, "n2");
        put(&resource, "a", 6, "n2");
        assert!(follower.head.has_changed().unwrap());
        assert_eq!(revisions(&mut follower), [4, 5]);
        assert!(follower.is_up_to_date());
        // One that comes later finds what is in the window.
        assert_eq!(revisions(&mut of_node(&resource, "n1")), [4, 5]);
    }

    #[test]
    fn one_object_is_followed() {
        let resource = resource();
        let position = resource.position_after(Revision(1)).unwrap();
        let interest = Interest::Object { namespace: "default".into(), name: "a".into() };
        let mut follower = Follower::new(Arc::clone(&resource), position, Some(interest));
        put(&resource, "b", 2, "");
        put(&resource, "a", 3, "");
        let last = Some(object_with("default", "a", 4, &[""]));
        let delete = Change::Delete { namespace: "default".into(), name: "a".into(), revision: Revision(4), last };
        resource.apply(vec![delete]);
        assert_eq!(revisions(&mut follower), [3, 4]);
    }

    #[test]
    fn events_of_others_leave_the_window_unnoticed() {
        let resource = resource();
        let mut follower = of_node(&resource, "n1");
        put(&resource, "a", 2, "n1");
        let mut behind = of_node(&resource, "n1");
        assert_eq!(revisions(&mut follower), [2]);
        let others = (0..WINDOW_EVENTS_MAX as i64).map(|n| Change::Put(object_with("default", "b", 3 + n, &["n2"])));
        resource.apply(others.collect());
        assert!(follower.is_up_to_date());
        assert!(behind.take(1).is_err());
        put(&resource, "a", 1_000_000, "n1");
        assert_eq!(revisions(&mut follower), [1_000_000]);
    }

    #[test]
    fn a_new_window_is_too_new_for_everybody() {
        let resource = resource();
        let mut follower = of_node(&resource, "n1");
        resource.reset(vec![], Revision(9));
        assert!(follower.head.has_changed().unwrap());
        assert!(follower.take(1).is_err());
    }

    #[test]
    fn a_topic_ends_with_its_last_follower() {
        let resource = resource();
        let (one, other) = (of_node(&resource, "n1"), of_node(&resource, "n1"));
        drop(one);
        assert_eq!(resource.state.read().topics.fields.len(), 1);
        drop(other);
        assert!(resource.state.read().topics.fields.is_empty());
    }
}
