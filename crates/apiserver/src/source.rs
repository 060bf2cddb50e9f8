//! Reading stored objects inside the API server: what authorization, admission and allocation need of the cache.

use std::sync::Arc;

use bytes::Bytes;
use store::Revision;

/// One version of an object as clients see it: JSON in storage version, with its resourceVersion inside.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub namespace: String,
    pub name: String,
    pub json: Bytes,
    pub mod_revision: Revision,
}

/// The cache, read-only and possibly a moment behind the store. Implementations are cheap to call from async code: no I/O.
pub trait ObjectSource: Send + Sync + 'static {
    /// Object of a resource (by group and plural name, e.g. `("", "pods")`); an empty namespace for cluster scope.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<StoredObject>>;

    /// All objects of a resource; of one namespace when it is not empty. Ordered by namespace and name.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<StoredObject>>;

    /// Revision of the last change to any object of the resource: the key for memoizing what is derived from `list`.
    fn last_change(&self, group: &str, resource: &str) -> Revision;

    /// [`StoredObject::parse`] of an object that others will ask for as well; implementations may remember what they gave.
    fn parsed(&self, object: &Arc<StoredObject>) -> Option<Arc<api::Value>> {
        object.parse().map(Arc::new)
    }

    /// The value of a label of an object; implementations may know it without the object.
    fn label(&self, group: &str, resource: &str, namespace: &str, name: &str, label: &str) -> Option<String> {
        let object = self.parsed(&self.get(group, resource, namespace, name)?)?;
        object.pointer("/metadata/labels")?.get(label)?.as_str().map(str::to_owned)
    }
}

impl StoredObject {
    /// The object, parsed. What is stored was encoded by this server; anything else is reported and reads as absent.
    pub fn parse(&self) -> Option<api::Value> {
        match api::Value::from_json(&self.json) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(namespace = self.namespace, name = self.name, %error, "unreadable object");
                None
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A small in-memory source for tests of pure code.

    use std::collections::{BTreeMap, HashMap};

    use parking_lot::RwLock;

    use super::*;

    #[derive(Clone, Debug, Default)]
    pub(crate) struct MemorySource(Arc<RwLock<State>>);

    type Objects = BTreeMap<(String, String), Arc<StoredObject>>;

    #[derive(Debug, Default)]
    struct State {
        revision: i64,
        objects: HashMap<(String, String), (Revision, Objects)>,
    }

    impl MemorySource {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn shared(self) -> Arc<dyn ObjectSource> {
            Arc::new(self)
        }

        pub(crate) fn put(&self, group: &str, resource: &str, object: api::Value) {
            let mut state = self.0.write();
            state.revision += 1;
            let revision = Revision(state.revision);
            let stored = StoredObject {
                namespace: api::meta::namespace(&object).to_owned(),
                name: api::meta::name(&object).to_owned(),
                json: object.to_string().into(),
                mod_revision: revision,
            };
            let entry = state.objects.entry((group.to_owned(), resource.to_owned())).or_default();
            entry.0 = revision;
            entry.1.insert((stored.namespace.clone(), stored.name.clone()), Arc::new(stored));
        }
    }

    impl ObjectSource for MemorySource {
        fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<StoredObject>> {
            let state = self.0.read();
            let (_, objects) = state.objects.get(&(group.to_owned(), resource.to_owned()))?;
            objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
        }

        fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<StoredObject>> {
            let state = self.0.read();
            let Some((_, objects)) = state.objects.get(&(group.to_owned(), resource.to_owned())) else {
                return Vec::new();
            };
            objects.values().filter(|o| namespace.is_empty() || o.namespace == namespace).cloned().collect()
        }

        fn last_change(&self, group: &str, resource: &str) -> Revision {
            let state = self.0.read();
            state.objects.get(&(group.to_owned(), resource.to_owned())).map_or(Revision(0), |(revision, _)| *revision)
        }
    }
}
