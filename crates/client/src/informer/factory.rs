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
    connection: Connection,
    shutdown: Shutdown,
    typed: Arc<Mutex<Typed>>,
    metadata: Arc<Mutex<HashMap<ApiResource, Monitored>>>,
}

/// `Informer<K>` by the type of `K`.
type Typed = HashMap<(TypeId, Scope), Box<dyn Any + Send + Sync>>;
/// A metadata informer, and what ends it.
type Monitored = (Informer<Metadata>, Shutdown);

impl InformerFactory {
    /// Nothing is listed until a kind is asked for. Must be used inside a tokio runtime.
    pub fn new(connection: Connection, shutdown: Shutdown) -> Self {
        Self { connection, shutdown, typed: Arc::default(), metadata: Arc::default() }
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
        let mut typed = self.typed.lock();
        let known = typed.get(&(TypeId::of::<K>(), scope.clone())).and_then(|any| any.downcast_ref::<Informer<K>>());
        if let Some(informer) = known {
            return informer.clone();
        }
        let informer = Informer::<K>::detached();
        typed.insert((TypeId::of::<K>(), scope.clone()), Box::new(informer.clone()));
        let api = Api::<K>::all(self.connection.client());
        tokio::spawn(reflector::run(api, scope, informer.clone(), self.shutdown.clone()));
        informer
    }

    /// The informer of only the metadata of a kind found by discovery.
    pub fn metadata(&self, resource: &ApiResource) -> Informer<Metadata> {
        let mut metadata = self.metadata.lock();
        if let Some((informer, _)) = metadata.get(resource) {
            return informer.clone();
        }
        let informer = Informer::<Metadata>::detached();
        let stop = self.shutdown.child_token();
        metadata.insert(resource.clone(), (informer.clone(), stop.clone()));
        let api = Api::<Metadata>::all_with(self.connection.client(), resource);
        tokio::spawn(reflector::run(api, Scope::default(), informer.clone(), stop));
        informer
    }

    /// Ends the metadata informer of a kind the server no longer serves.
    pub fn forget_metadata(&self, resource: &ApiResource) {
        if let Some((_, stop)) = self.metadata.lock().remove(resource) {
            stop.cancel();
        }
    }
}
