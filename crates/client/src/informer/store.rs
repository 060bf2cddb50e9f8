//! The informer's store: objects by key, indexes by name, and the handlers told of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube::Resource;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{IndexFn, Object};
use crate::{ObjectKey, Shutdown};

/// One change of the store. A relist after a gap may skip states in between, as any level-triggered reader must expect.
#[derive(Clone, Debug)]
pub enum Event<K> {
    Added(Arc<K>),
    Updated {
        old: Arc<K>,
        new: Arc<K>,
    },
    /// The last state known.
    Deleted(Arc<K>),
}

impl<K> Event<K> {
    /// The newest state this event knows of.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Event::Added(object) | Event::Deleted(object) | Event::Updated { new: object, .. } => object,
        }
    }

    /// Every state it mentions, older first: an owner that lost an object must hear of it too.
    pub fn states(&self) -> impl Iterator<Item = &Arc<K>> {
        let (first, second) = match self {
            Event::Added(object) | Event::Deleted(object) => (object, None),
            Event::Updated { old, new } => (old, Some(new)),
        };
        std::iter::once(first).chain(second)
    }
}

type Handle<K> = Box<dyn Fn(&Event<K>) + Send + Sync>;

struct Handler<K> {
    /// Whoever added it is gone when this is cancelled.
    term: Shutdown,
    handle: Handle<K>,
}

/// A kind's store, kept up to date by one list and watch. Cheap to clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    /// How long the handlers added through this clone are called.
    term: Shutdown,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), term: self.term.clone() }
    }
}

/// Invariant: `indexes` hold exactly `objects`, under the values their functions give. Writers hold `handlers` first, then
/// `content`, and call handlers with `content` released: what a handler reads is at least as new as what it is told.
struct Shared<K> {
    content: RwLock<Content<K>>,
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    revision: watch::Sender<u64>,
}

struct Content<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    values: IndexFn<K>,
    /// The objects by value, so that a reader of thousands looks each up in nothing else.
    objects: HashMap<String, BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K: Object> Informer<K> {
    /// An informer nothing feeds: for the reflector, and for tests that put objects in by hand.
    pub fn detached() -> Self {
        let content = Content { objects: BTreeMap::new(), indexes: HashMap::new() };
        Self {
            shared: Arc::new(Shared {
                content: RwLock::new(content),
                handlers: Mutex::new(Vec::new()),
                synced: watch::Sender::new(false),
                revision: watch::Sender::new(0),
            }),
            term: Shutdown::new(),
        }
    }

    /// The same informer; handlers added through this clone are forgotten when `term` ends.
    pub(super) fn for_term(&self, term: Shutdown) -> Self {
        Self { shared: self.shared.clone(), term }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.content.read().objects.get(key).cloned()
    }

    /// All objects, by namespace, then name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.content.read().objects.values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.shared.content.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of one namespace, by name.
    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let content = self.shared.content.read();
        let first = ObjectKey::new(namespace, "");
        let in_namespace = content.objects.range(first..).take_while(|(key, _)| key.namespace == namespace);
        in_namespace.map(|(_, object)| object.clone()).collect()
    }

    /// Adds an index; a second one of the same name is ignored, so every user may ask for the indexes it needs.
    pub fn add_index(&self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let mut content = self.shared.content.write();
        if content.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values: Arc::new(values), objects: HashMap::new() };
        for (key, object) in &content.objects {
            index.insert(key, object);
        }
        content.indexes.insert(name, index);
    }

    /// The objects an index files under `value`, by key. An index that was never added files nothing.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let content = self.shared.content.read();
        let objects = content.indexes.get(name).and_then(|index| index.objects.get(value));
        objects.into_iter().flat_map(|objects| objects.values().cloned()).collect()
    }

    /// Adds the index `owner`: objects by the uid of their controller.
    pub fn index_by_controller(&self) {
        self.add_index("owner", |object| {
            let owners = object.meta().owner_references.iter().flatten();
            owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).collect()
        });
    }

    /// The objects controlled by the owner with this uid. Needs [`Self::index_by_controller`].
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index("owner", uid)
    }

    /// Calls `handler` with every object now in the store (as added), then with every change, until the term ends that this
    /// informer was asked for in. It runs on the informer's task and must neither block nor add handlers to this informer.
    pub fn on_event(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        handlers.push(Handler { term: self.term.clone(), handle: Box::new(handler) });
    }

    /// Whether the first list is in the store.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Returns when the first list is in the store, and all handlers have been told of it.
    pub async fn has_synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `self`: the wait cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// The store holds every change of the kind up to this resourceVersion (0 before the first list, and where the server's
    /// versions are not numbers). A controller that wrote at a later one knows that its cache is behind.
    pub fn revision(&self) -> u64 {
        *self.shared.revision.borrow()
    }

    /// Returns when [`Self::revision`] has reached `revision`.
    pub async fn reached(&self, revision: u64) {
        let mut revisions = self.shared.revision.subscribe();
        let _ = revisions.wait_for(|reached| *reached >= revision).await;
    }

    /// Puts one object in, new or changed, and tells the handlers.
    pub fn apply(&self, object: K) {
        let version = object.meta().resource_version.clone();
        let mut handlers = self.shared.handlers.lock();
        let key = ObjectKey::of(&object);
        let new = Arc::new(object);
        let old = self.shared.content.write().insert(key, new.clone());
        self.advance(version.as_deref());
        let event = match old {
            Some(old) => Event::Updated { old, new },
            None => Event::Added(new),
        };
        tell(&mut handlers, &event);
    }

    /// Takes one object out and tells the handlers its last state. An object that is not there was already reported.
    pub fn remove(&self, object: K) {
        let version = object.meta().resource_version.clone();
        let mut handlers = self.shared.handlers.lock();
        let old = self.shared.content.write().remove(&ObjectKey::of(&object));
        self.advance(version.as_deref());
        if old.is_some() {
            tell(&mut handlers, &Event::Deleted(Arc::new(object)));
        }
    }

    /// Makes the store hold exactly `objects`, telling the handlers the difference, and marks it synced at `version`.
    pub fn replace(&self, objects: Vec<K>, version: Option<&str>) {
        let mut handlers = self.shared.handlers.lock();
        let events = self.shared.content.write().replace(objects);
        self.advance(version);
        for event in &events {
            tell(&mut handlers, event);
        }
        self.shared.synced.send_replace(true);
    }

    /// Notes that all changes up to `version` have been seen.
    pub(super) fn advance(&self, version: Option<&str>) {
        let Some(version) = version.and_then(|version| version.parse::<u64>().ok()) else { return };
        self.shared.revision.send_if_modified(|reached| {
            let newer = version > *reached;
            *reached = version.max(*reached);
            newer
        });
    }

    /// Whether anybody but the reflector still holds this informer.
    pub(super) fn is_used(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }
}

fn tell<K>(handlers: &mut Vec<Handler<K>>, event: &Event<K>) {
    handlers.retain(|handler| !handler.term.is_cancelled());
    handlers.iter().for_each(|handler| (handler.handle)(event));
}

impl<K: Resource> Content<K> {
    fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }

    fn replace(&mut self, objects: Vec<K>) -> Vec<Event<K>> {
        let mut events = Vec::new();
        let mut gone: BTreeSet<ObjectKey> = self.objects.keys().cloned().collect();
        for object in objects {
            let key = ObjectKey::of(&object);
            gone.remove(&key);
            let same = |old: &Arc<K>| old.meta().resource_version == object.meta().resource_version;
            if object.meta().resource_version.is_some() && self.objects.get(&key).is_some_and(same) {
                continue;
            }
            let new = Arc::new(object);
            match self.insert(key, new.clone()) {
                // Deleted and made again while nobody watched: two objects, so two events.
                Some(old) if old.meta().uid != new.meta().uid => {
                    events.push(Event::Deleted(old));
                    events.push(Event::Added(new));
                }
                Some(old) => events.push(Event::Updated { old, new }),
                None => events.push(Event::Added(new)),
            }
        }
        events.extend(gone.iter().filter_map(|key| self.remove(key)).map(Event::Deleted));
        events
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.objects.entry(value).or_default().insert(key.clone(), Arc::clone(object));
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            if let Some(objects) = self.objects.get_mut(&value) {
                objects.remove(key);
                if objects.is_empty() {
                    self.objects.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(namespace: &str, name: &str, node: &str, version: u64) -> Pod {
        let metadata = ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(format!("{namespace}-{name}")),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        let spec = PodSpec { node_name: Some(node.into()), ..PodSpec::default() };
        Pod { metadata, spec: Some(spec), status: None }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
    }

    fn by_node(pod: &Pod) -> Vec<String> {
        pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()
    }

    fn logged(informer: &Informer<Pod>) -> Arc<Mutex<Vec<String>>> {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = log.clone();
        informer.on_event(move |event| {
            let what = match event {
                Event::Added(_) => "added",
                Event::Updated { .. } => "updated",
                Event::Deleted(_) => "deleted",
            };
            let name = event.object().metadata.name.clone().unwrap_or_default();
            sink.lock().push(format!("{what} {name}"));
        });
        log
    }

    #[test]
    fn an_index_follows_its_objects_from_value_to_value() {
        let informer = Informer::detached();
        informer.apply(pod("a", "x", "n1", 1));
        informer.add_index("node", by_node);
        informer.apply(pod("a", "y", "n1", 2));
        assert_eq!(names(&informer.by_index("node", "n1")), ["x", "y"]);
        informer.apply(pod("a", "x", "n2", 3));
        assert_eq!(names(&informer.by_index("node", "n1")), ["y"]);
        informer.remove(pod("a", "y", "n1", 4));
        assert_eq!(names(&informer.by_index("node", "n1")), Vec::<&str>::new());
        assert_eq!(names(&informer.by_index("node", "n2")), ["x"]);
    }

    #[test]
    fn a_relist_reports_only_what_changed() {
        let informer = Informer::detached();
        informer
            .replace(vec![pod("a", "kept", "n", 1), pod("a", "gone", "n", 2), pod("b", "moved", "n", 3)], Some("3"));
        let log = logged(&informer);
        let mut again = pod("b", "again", "n", 7);
        again.metadata.uid = Some("second".into());
        informer.apply(pod("b", "again", "n", 4));
        log.lock().clear();
        informer.replace(
            vec![pod("a", "kept", "n", 1), pod("b", "moved", "n", 5), again, pod("c", "new", "n", 6)],
            Some("9"),
        );
        let log = log.lock().clone();
        assert_eq!(log, ["updated moved", "deleted again", "added again", "added new", "deleted gone"]);
        assert_eq!(informer.revision(), 9);
    }

    #[test]
    fn a_late_handler_is_told_of_what_is_there() {
        let informer = Informer::detached();
        informer.apply(pod("a", "x", "n", 1));
        let log = logged(&informer);
        informer.apply(pod("a", "x", "n", 2));
        informer.remove(pod("a", "x", "n", 3));
        assert_eq!(*log.lock(), ["added x", "updated x", "deleted x"]);
    }

    #[test]
    fn a_handler_is_called_no_longer_than_its_term() {
        let informer = Informer::detached();
        let term = Shutdown::new();
        let (short, long) = (logged(&informer.for_term(term.clone())), logged(&informer));
        informer.apply(pod("a", "x", "n", 1));
        term.cancel();
        informer.apply(pod("a", "x", "n", 2));
        assert_eq!(*short.lock(), ["added x"]);
        assert_eq!(*long.lock(), ["added x", "updated x"]);
        assert_eq!(informer.shared.handlers.lock().len(), 1);
    }

    #[test]
    fn a_namespace_lists_only_its_own() {
        let informer = Informer::detached();
        for (namespace, name) in [("a", "x"), ("ab", "y"), ("a", "z"), ("b", "w")] {
            informer.apply(pod(namespace, name, "n", 1));
        }
        assert_eq!(names(&informer.by_namespace("a")), ["x", "z"]);
        assert_eq!(names(&informer.by_namespace("ab")), ["y"]);
        assert_eq!(names(&informer.by_namespace("c")), Vec::<&str>::new());
    }
}
