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
}
