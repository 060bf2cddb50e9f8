//! Hands out the process's informers, one per kind.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use kube::api::Api;
use kube::core::{ApiResource, Resource};
use parking_lot::Mutex;

use super::reflector::{self, Scope};
use super::{Informer, Metadata, Object};
use crate::{Connection, Shutdown};

/// All informers of one identity. Clones share them; they end with `shutdown`.
#[derive(Clone)]
pub struct InformerFactory {
    set: Arc<Set>,
    term: Shutdown,
}

struct Set {
    connection: Connection,
    shutdown: Shutdown,
    typed: Mutex<Typed>,
    metadata: Mutex<HashMap<ApiResource, Monitored>>,
}

/// `Informer<K>` by the type of `K`.
type Typed = HashMap<(TypeId, Scope), Box<dyn Any + Send + Sync>>;
/// A metadata informer, and what ends it.
type Monitored = (Informer<Metadata>, Shutdown);

impl InformerFactory {
    /// Nothing is listed until a kind is asked for. Must be used inside a tokio runtime.
    pub fn new(connection: Connection, shutdown: Shutdown) -> Self {
        let term = shutdown.clone();
        let set = Set { connection, shutdown, typed: Mutex::default(), metadata: Mutex::default() };
        Self { set: Arc::new(set), term }
    }

    /// The same informers for somebody who stops earlier: what he added as handlers is forgotten when `term` ends.
    pub fn for_term(&self, term: Shutdown) -> Self {
        Self { set: Arc::clone(&self.set), term }
    }

    /// The informer of a kind, started on first use.
    pub fn informer<K: Object + Resource<DynamicType = ()>>(&self) -> Informer<K> {
        self.scoped(Scope::default())
    }

    /// The informer of those objects of a kind that a field selector takes; another than [`Self::informer`]'s.
    pub fn informer_of_fields<K: Object + Resource<DynamicType = ()>>(&self, fields: &str) -> Informer<K> {
        self.scoped(Scope { fields: Some(fields.to_owned()) })
    }

    fn scoped<K: Object + Resource<DynamicType = ()>>(&self, scope: Scope) -> Informer<K> {
        let mut typed = self.set.typed.lock();
        let known = typed.get(&(TypeId::of::<K>(), scope.clone())).and_then(|any| any.downcast_ref::<Informer<K>>());
        if let Some(informer) = known {
            return informer.for_term(self.term.clone());
        }
        let informer = Informer::<K>::detached();
        typed.insert((TypeId::of::<K>(), scope.clone()), Box::new(informer.clone()));
        let api = Api::<K>::all(self.set.connection.client());
        tokio::spawn(reflector::run(api, scope, informer.clone(), self.set.shutdown.clone()));
        informer.for_term(self.term.clone())
    }

    /// The informer of only the metadata of a kind found by discovery.
    pub fn metadata(&self, resource: &ApiResource) -> Informer<Metadata> {
        let mut metadata = self.set.metadata.lock();
        if let Some((informer, _)) = metadata.get(resource) {
            return informer.for_term(self.term.clone());
        }
        let informer = Informer::<Metadata>::detached();
        let stop = self.set.shutdown.child_token();
        metadata.insert(resource.clone(), (informer.clone(), stop.clone()));
        let api = Api::<Metadata>::all_with(self.set.connection.client(), resource);
        tokio::spawn(reflector::run(api, Scope::default(), informer.clone(), stop));
        informer.for_term(self.term.clone())
    }

    /// Ends the metadata informer of a kind the server no longer serves.
    pub fn forget_metadata(&self, resource: &ApiResource) {
        if let Some((_, stop)) = self.set.metadata.lock().remove(resource) {
            stop.cancel();
        }
    }
}
