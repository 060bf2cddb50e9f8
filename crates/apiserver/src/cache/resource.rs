//! The objects and recent events of one resource.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::bytes::Bytes;
use api::Kind;
use parking_lot::RwLock;
use store::Revision;
use tokio::sync::watch;

use super::Indexed;
use super::follow::Topics;
use crate::source::StoredObject;
use crate::storage::ObjectBytes;

/// Events are kept at least this long, so that a client that reconnects finds its place, unless the window is full.
const WINDOW: Duration = Duration::from_secs(75);
/// Events kept at most, per resource.
pub(super) const WINDOW_EVENTS_MAX: usize = 16_384;
/// Bytes of objects held by the window at most, per resource; at least [`WINDOW_EVENTS_MIN`] stay whatever their size.
const WINDOW_BYTES_MAX: usize = 16 << 20;
const WINDOW_EVENTS_MIN: usize = 256;

/// One version of an object: what clients get, and what selectors read.
#[derive(Debug)]
pub struct CachedObject {
    pub stored: Arc<StoredObject>,
    pub bytes: ObjectBytes,
    pub indexed: Indexed,
    /// The line of a watch stream that tells of this version as it came to be, and of which `bytes` are a part. Versions read in
    /// a list have none.
    pub frame: Option<(EventKind, Bytes)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// How a line of a watch stream ends.
pub(super) const FRAME_TAIL: &[u8] = b"}\n";

impl EventKind {
    /// How a line of a watch stream begins.
    pub(super) fn frame_head(self) -> &'static [u8] {
        match self {
            Self::Added => br#"{"type":"ADDED","object":"#,
            Self::Modified => br#"{"type":"MODIFIED","object":"#,
            Self::Deleted => br#"{"type":"DELETED","object":"#,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change, shared by all watchers.
#[derive(Debug)]
pub struct CacheEvent {
    pub kind: EventKind,
    pub revision: Revision,
    /// The new version; for a delete the last one, carrying the revision of the delete.
    pub object: Arc<CachedObject>,
    /// The version before, unless the object is new: a selector may have matched it.
    pub previous: Option<Arc<CachedObject>>,
    at: Instant,
}

impl CacheEvent {
    /// The same change of objects in another form.
    pub(crate) fn with_objects(&self, object: Arc<CachedObject>, previous: Option<Arc<CachedObject>>) -> Self {
        Self { kind: self.kind, revision: self.revision, object, previous, at: self.at }
    }

    /// The event as a line of a watch stream, shared by all who send it.
    pub fn frame(&self) -> Bytes {
        match &self.object.frame {
            Some((kind, frame)) if *kind == self.kind => frame.clone(),
            _ => watch_frame(self.kind, &self.object.bytes.json),
        }
    }
}

/// `{"type":"ADDED","object":…}` and a newline.
pub(crate) fn watch_frame(kind: EventKind, json: &[u8]) -> Bytes {
    [kind.frame_head(), json, FRAME_TAIL].concat().into()
}

/// A watcher's place: the sequence number of the next event it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchPosition(pub(super) u64);

/// The window no longer holds (or never held) what follows a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision from which a watch could start.
    pub oldest: Revision,
}

type Unreadable = BTreeMap<(Box<str>, Box<str>), String>;
type ObjectMap = BTreeMap<(Box<str>, Box<str>), Arc<CachedObject>>;

/// One resource. Several API versions of it share this.
#[derive(Debug)]
pub struct ResourceCache {
    /// The kind that describes storage (selectable fields, scope).
    pub kind: Arc<Kind>,
    pub(super) state: RwLock<State>,
    /// Sequence number after the newest event; watchers sleep on it.
    head: watch::Sender<u64>,
    /// Nobody feeds it any more.
    is_closed: AtomicBool,
    /// Why stored values cannot be read, by namespace and name: a list without them would be a lie.
    unreadable: RwLock<Unreadable>,
}

#[derive(Debug)]
pub(super) struct State {
    /// By namespace (empty for cluster scope) and name.
    objects: ObjectMap,
    pub(super) events: VecDeque<Arc<CacheEvent>>,
    /// Sequence number of `events[0]`.
    pub(super) first: u64,
    pub(super) topics: Topics,
    event_bytes: usize,
    /// Events with a revision above this are in the window, or have not happened.
    pub(super) complete_after: Revision,
    last_change: Revision,
}

impl ResourceCache {
    pub(super) fn new(kind: Arc<Kind>) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            events: VecDeque::new(),
            first: 0,
            topics: Topics::default(),
            event_bytes: 0,
            complete_after: Revision(0),
            last_change: Revision(0),
        };
        Self {
            kind,
            state: RwLock::new(state),
            head: watch::Sender::new(0),
            is_closed: AtomicBool::new(false),
            unreadable: RwLock::default(),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        self.state.read().objects.get(&(namespace.into(), name.into())).cloned()
    }

    /// Objects of a namespace, or of all when it is empty, ordered as their keys are.
    pub fn list(&self, namespace: &str) -> Vec<Arc<CachedObject>> {
        let state = self.state.read();
        in_namespace(&state.objects, namespace).cloned().collect()
    }

    /// The list and the place from which a watch continues it, taken together.
    pub fn list_and_watch(&self, namespace: &str) -> (Vec<Arc<CachedObject>>, WatchPosition) {
        let state = self.state.read();
        let objects = in_namespace(&state.objects, namespace).cloned().collect();
        (objects, WatchPosition(state.first + state.events.len() as u64))
    }

    /// Why a namespace (all when empty) cannot be listed: the first stored value that cannot be read.
    pub fn defect(&self, namespace: &str) -> Option<String> {
        let unreadable = self.unreadable.read();
        let is_asked = |(of, _): &&(Box<str>, Box<str>)| namespace.is_empty() || **of == *namespace;
        unreadable.keys().find(is_asked).and_then(|key| unreadable.get(key).cloned())
    }

    pub(super) fn mark_unreadable(&self, namespace: &str, name: &str, why: String) {
        self.unreadable.write().insert((namespace.into(), name.into()), why);
    }

    /// The value is readable again, or gone.
    pub(super) fn unmark_unreadable(&self, namespace: &str, name: &str) {
        if !self.unreadable.read().is_empty() {
            self.unreadable.write().remove(&(namespace.into(), name.into()));
        }
    }

    /// Before everything is read anew.
    pub(super) fn unmark_all(&self) {
        self.unreadable.write().clear();
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Revision of the last change to any object, 0 when there was none since start and there are no objects.
    pub fn last_change(&self) -> Revision {
        self.state.read().last_change
    }

    /// The place after all events up to and including `revision`.
    pub fn position_after(&self, revision: Revision) -> Result<WatchPosition, TooOld> {
        let state = self.state.read();
        if revision < state.complete_after {
            return Err(TooOld { oldest: state.complete_after });
        }
        let seen = state.events.partition_point(|event| event.revision <= revision);
        Ok(WatchPosition(state.first + seen as u64))
    }

    /// Up to `max` events from `position` on, and the place after them.
    pub fn events_from(
        &self,
        position: WatchPosition,
        max: usize,
    ) -> Result<(Vec<Arc<CacheEvent>>, WatchPosition), TooOld> {
        let state = self.state.read();
        if position.0 < state.first {
            return Err(TooOld { oldest: state.complete_after });
        }
        let skip = (position.0 - state.first) as usize;
        let events: Vec<_> = state.events.iter().skip(skip).take(max).cloned().collect();
        let next = WatchPosition(position.0 + events.len() as u64);
        Ok((events, next))
    }

    /// Wakes when there may be events at or after a position.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The resource is not served any more, or by a successor: watches end.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.head.send_modify(|_| {});
        self.state.read().topics.wake();
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Puts the first (or, after a gap in the feed, a new) complete copy in place. Watchers of the old one are told 410.
    pub(super) fn reset(&self, objects: Vec<Arc<CachedObject>>, revision: Revision) {
        let mut state = self.state.write();
        state.last_change =
            objects.iter().map(|o| o.stored.mod_revision).max().unwrap_or_default().max(state.last_change);
        if state.complete_after > Revision(0) {
            // Deletions during the gap changed the list without leaving an object behind.
            state.last_change = revision;
        }
        state.objects = objects.into_iter().map(|o| (object_key(&o.stored), o)).collect();
        // One sequence number is skipped, so that every old position is before the window.
        state.first += state.events.len() as u64 + 1;
        state.events.clear();
        state.event_bytes = 0;
        state.complete_after = revision;
        let head = state.first;
        state.topics.reset(head);
        drop(state);
        self.head.send_replace(head);
    }

    /// Applies the changes of one batch, in revision order.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state.write();
        let mut touched = Vec::new();
        for change in changes {
            state.apply(change, &mut touched);
        }
        state.trim();
        let head = state.first + state.events.len() as u64;
        drop(state);
        self.head.send_replace(head);
        for topic in touched {
            topic.send_replace(head);
        }
    }
}

/// A change as the feed delivers it.
#[derive(Debug)]
pub(super) enum Change {
    Put(Arc<CachedObject>),
    Delete {
        namespace: Box<str>,
        name: Box<str>,
        revision: Revision,
        /// The deleted version with the revision of the delete, when the feed could build it.
        last: Option<Arc<CachedObject>>,
    },
}

impl State {
    fn apply(&mut self, change: Change, touched: &mut Vec<watch::Sender<u64>>) {
        let (kind, revision, object, previous) = match change {
            Change::Put(object) => {
                let revision = object.stored.mod_revision;
                let previous = self.objects.insert(object_key(&object.stored), Arc::clone(&object));
                let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                (kind, revision, object, previous)
            }
            Change::Delete { namespace, name, revision, last } => {
                // A delete of something we never had (unreadable bytes) concerns nobody.
                let Some(previous) = self.objects.remove(&(namespace, name)) else { return };
                let object = last.unwrap_or_else(|| Arc::clone(&previous));
                (EventKind::Deleted, revision, object, Some(previous))
            }
        };
        debug_assert!(revision > self.complete_after);
        self.last_change = revision;
        self.event_bytes += object.bytes.json.len();
        let event = CacheEvent { kind, revision, object, previous, at: Instant::now() };
        self.topics.publish(self.first + self.events.len() as u64, &event, touched);
        self.events.push_back(Arc::new(event));
    }

    fn trim(&mut self) {
        let now = Instant::now();
        while let Some(oldest) = self.events.front() {
            let n = self.events.len();
            let expendable = n > WINDOW_EVENTS_MIN && now.duration_since(oldest.at) > WINDOW;
            let too_much = n > WINDOW_EVENTS_MAX || (n > WINDOW_EVENTS_MIN && self.event_bytes > WINDOW_BYTES_MAX);
            if !expendable && !too_much {
                return;
            }
            self.event_bytes -= oldest.object.bytes.json.len();
            self.complete_after = oldest.revision;
            let Some(oldest) = self.events.pop_front() else { return };
            self.topics.forget(self.first, &oldest);
            self.first += 1;
        }
    }
}

fn object_key(object: &StoredObject) -> (Box<str>, Box<str>) {
    (object.namespace.as_str().into(), object.name.as_str().into())
}

fn in_namespace<'m>(objects: &'m ObjectMap, namespace: &str) -> Box<dyn Iterator<Item = &'m Arc<CachedObject>> + 'm> {
    if namespace.is_empty() {
        return Box::new(objects.values());
    }
    let namespace: Box<str> = namespace.into();
    let from = (namespace.clone(), Box::<str>::default());
    Box::new(objects.range(from..).take_while(move |((ns, _), _)| *ns == namespace).map(|(_, object)| object))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cache) fn kind() -> Arc<Kind> {
        Arc::clone(api::kinds::builtin().by_resource("", "v1", "configmaps").unwrap())
    }

    fn object(namespace: &str, name: &str, revision: i64) -> Arc<CachedObject> {
        object_with(namespace, name, revision, &[])
    }

    /// With values of selectable fields.
    pub(in crate::cache) fn object_with(
        namespace: &str,
        name: &str,
        revision: i64,
        fields: &[&str],
    ) -> Arc<CachedObject> {
        let stored = format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}"}}}}"#
        );
        let bytes = ObjectBytes::from_stored(&stored.into(), Revision(revision)).unwrap();
        Arc::new(CachedObject {
            stored: Arc::new(StoredObject {
                namespace: namespace.into(),
                name: name.into(),
                json: bytes.json.clone(),
                mod_revision: Revision(revision),
            }),
            bytes,
            indexed: Indexed { fields: fields.iter().map(|value| (*value).into()).collect(), ..Indexed::default() },
            frame: None,
        })
    }

    fn kinds_and_revisions(events: &[Arc<CacheEvent>]) -> Vec<(EventKind, i64)> {
        events.iter().map(|e| (e.kind, e.revision.0)).collect()
    }

    #[test]
    fn events_follow_the_revision_a_watch_starts_at() {
        let cache = ResourceCache::new(kind());
        cache.reset(vec![object("a", "x", 5)], Revision(6));
        let delete = Change::Delete { namespace: "a".into(), name: "x".into(), revision: Revision(9), last: None };
        cache.apply(vec![Change::Put(object("a", "y", 7)), Change::Put(object("a", "x", 8)), delete]);

        let position = cache.position_after(Revision(6)).unwrap();
        let (events, next) = cache.events_from(position, 2).unwrap();
        assert_eq!(kinds_and_revisions(&events), [(EventKind::Added, 7), (EventKind::Modified, 8)]);
        let (events, _) = cache.events_from(next, 10).unwrap();
        assert_eq!(kinds_and_revisions(&events), [(EventKind::Deleted, 9)]);
        assert_eq!(cache.position_after(Revision(5)).unwrap_err(), TooOld { oldest: Revision(6) });
        assert_eq!(cache.list("a").len(), 1);
    }

    #[test]
    fn a_reset_ends_every_older_watch() {
        let cache = ResourceCache::new(kind());
        cache.reset(vec![], Revision(1));
        let position = cache.position_after(Revision(1)).unwrap();
        cache.reset(vec![], Revision(4));
        assert!(cache.events_from(position, 1).is_err());
        assert!(cache.events_from(cache.position_after(Revision(4)).unwrap(), 1).is_ok());
    }

    #[test]
    fn a_namespace_lists_only_its_own_objects() {
        let cache = ResourceCache::new(kind());
        cache.reset(vec![object("a", "x", 2), object("ab", "y", 3), object("b", "z", 4)], Revision(4));
        let names: Vec<_> = cache.list("a").iter().map(|o| o.stored.name.clone()).collect();
        assert_eq!(names, ["x"]);
        assert_eq!(cache.list("").len(), 3);
    }
}
