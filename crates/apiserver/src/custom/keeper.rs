//! Follows the definitions: serves what they define, and says so in their status.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::custom::Definition;
use api::kinds::customresourcedefinition::conditions;
use api::{Status, Value};
use futures::StreamExt as _;
use http::Method;
use parking_lot::Mutex;
use store::Revision;
use tokio::sync::watch;

use super::cleanup;
use crate::cache::CachedObject;
use crate::gateway::Gateway;
use crate::serve::stopped;
use crate::startup::write;

pub(super) const GROUP: &str = "apiextensions.k8s.io";
pub(super) const RESOURCE: &str = "customresourcedefinitions";
/// Status writes under way at once; as many share a sync of the log.
const WRITES_AT_ONCE: usize = 64;
/// After a failure, and now and then in any case, everything is looked at again.
const RETRY: Duration = Duration::from_secs(1);
const RESYNC: Duration = Duration::from_secs(300);

/// What is known of the definitions.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// By name.
    known: HashMap<String, Known>,
    /// Uids of the definitions whose objects are being removed.
    cleaning: Arc<Mutex<HashSet<String>>>,
}

#[derive(Debug)]
struct Known {
    revision: Revision,
    definition: Arc<Definition>,
    /// Its objects are in the cache.
    is_cached: bool,
    /// Its status is as it should be, as long as nothing changes in its group.
    is_settled: bool,
}

impl Keeper {
    /// Until the stop.
    pub(crate) async fn run(mut self, gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
        let Some(mut head) = definitions(&gateway).map(|resource| resource.head()) else { return };
        loop {
            head.borrow_and_update();
            let wait = match self.sync(&gateway).await {
                Ok(()) => RESYNC,
                Err(status) => {
                    tracing::warn!(%status, "cannot keep the status of custom resource definitions");
                    RETRY
                }
            };
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut shutdown) => return,
            }
        }
    }

    /// Brings what is served into step with the definitions in the cache, and their status with what is served.
    pub(crate) async fn sync(&mut self, gateway: &Arc<Gateway>) -> Result<(), Status> {
        let Some(resource) = definitions(gateway) else { return Ok(()) };
        let objects = resource.list("");
        self.serve(gateway, &objects).await;
        for object in &objects {
            self.clean_up(gateway, object);
        }
        self.settle(gateway, &objects).await
    }

    /// Makes room in the cache for new resources, publishes the kinds, and then lets go of what is not served any more.
    async fn serve(&mut self, gateway: &Gateway, objects: &[Arc<CachedObject>]) {
        let mut touched: BTreeSet<String> = BTreeSet::new();
        let mut unserved: Vec<String> = Vec::new();
        for object in objects {
            let name = object.stored.name.as_str();
            let revision = object.stored.mod_revision;
            if self.known.get(name).is_some_and(|known| known.revision == revision) {
                continue;
            }
            let Some(definition) = Definition::parse(object.stored.json.clone()) else {
                tracing::error!(name, "stored definition is unreadable");
                continue;
            };
            let before = self.known.remove(name);
            let had_cache = before.as_ref().is_some_and(|known| known.is_cached);
            let is_same = before.as_ref().is_some_and(|known| is_stored_alike(&known.definition, &definition));
            let is_cached = definition.is_served();
            // A definition that changed is read anew: its objects may look different now.
            if is_cached && !(had_cache && is_same) {
                gateway.cache.add(definition.storage_kind()).await;
            } else if had_cache && !is_cached {
                unserved.push(definition.storage_prefix());
            }
            touched.insert(definition.group.clone());
            self.known.insert(name.to_owned(), Known { revision, definition, is_cached, is_settled: false });
        }
        let present: HashSet<&str> = objects.iter().map(|object| object.stored.name.as_str()).collect();
        let gone: Vec<String> = self.known.keys().filter(|name| !present.contains(name.as_str())).cloned().collect();
        for known in gone.iter().filter_map(|name| self.known.remove(name)) {
            touched.insert(known.definition.group.clone());
            unserved.push(known.definition.storage_prefix());
        }
        if touched.is_empty() {
            return;
        }
        let mut by_group: HashMap<&str, Vec<Arc<Definition>>> =
            touched.iter().map(|group| (group.as_str(), Vec::new())).collect();
        for known in self.known.values_mut() {
            if let Some(list) = by_group.get_mut(known.definition.group.as_str()) {
                list.push(Arc::clone(&known.definition));
                // A name it waits for may be free now.
                known.is_settled &= known.definition.names_are_accepted;
            }
        }
        gateway.catalog.publish(by_group);
        for prefix in unserved {
            gateway.cache.remove(prefix).await;
        }
    }

    /// Starts the removal of a deleted definition's objects, once.
    fn clean_up(&self, gateway: &Arc<Gateway>, object: &CachedObject) {
        let Some(known) = self.known.get(&object.stored.name) else { return };
        let uid = known.definition.uid.clone();
        if !known.definition.awaits_cleanup {
            return;
        }
        let Some(value) = object.stored.parse().filter(conditions::awaits_cleanup) else { return };
        if !self.cleaning.lock().insert(uid.clone()) {
            return;
        }
        let (gateway, cleaning) = (Arc::clone(gateway), Arc::clone(&self.cleaning));
        let definition = Arc::clone(&known.definition);
        let is_served = known.is_cached;
        tokio::spawn(async move {
            cleanup::run(&gateway, &definition, value, is_served).await;
            cleaning.lock().remove(&uid);
        });
    }

    /// Writes the status that definitions should have. Names are given one after another, so that nobody gets what another
    /// one has just been given.
    async fn settle(&mut self, gateway: &Arc<Gateway>, objects: &[Arc<CachedObject>]) -> Result<(), Status> {
        let now = crate::write::rfc3339(jiff::Timestamp::now());
        let unsettled: Vec<&Arc<CachedObject>> = objects
            .iter()
            .filter(|object| self.known.get(&object.stored.name).is_some_and(|known| !known.is_settled))
            .collect();
        if unsettled.is_empty() {
            return Ok(());
        }
        let mut claims = Claims::of(self.known.values().map(|known| known.definition.as_ref()));
        let mut changes: Vec<Value> = Vec::new();
        for object in unsettled {
            let Some(known) = self.known.get_mut(&object.stored.name) else { continue };
            let definition = &known.definition;
            let Some(value) = object.stored.parse().filter(|value| !api::meta::is_being_deleted(value)) else {
                known.is_settled = true;
                continue;
            };
            let is_taken = |name: &str, is_kind: bool| claims.is_taken(definition, name, is_kind);
            let change = match conditions::settle(&value, &is_taken, &now) {
                Some(new) => {
                    claims.give(definition, &new);
                    Some(new)
                }
                None if known.is_cached => conditions::establish(&value, &now),
                None => None,
            };
            known.is_settled = change.is_none();
            changes.extend(change);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let mut results = futures::stream::iter(changes)
            .map(|change| async move { write(gateway, Method::PUT, GROUP, RESOURCE, "status", &change).await })
            .buffer_unordered(WRITES_AT_ONCE);
        let mut failure = None;
        while let Some(result) = results.next().await {
            // Changed or deleted in between: the cache will tell.
            let failed = result.err().filter(|status| status.code != 409 && status.code != 404);
            failure = failure.or(failed);
        }
        // The next look must see what was written here.
        let fresh = gateway.cache.catch_up().await.map_err(Status::internal)?;
        fresh.map_err(crate::error::from_not_fresh)?;
        failure.map_or(Ok(()), Err)
    }
}

fn definitions(gateway: &Gateway) -> Option<Arc<crate::cache::ResourceCache>> {
    let kind = gateway.catalog.kind(GROUP, "v1", RESOURCE)?;
    gateway.cache.resource(&kind)
}

/// Objects are kept and shown the same way.
fn is_stored_alike(a: &Definition, b: &Definition) -> bool {
    (&a.uid, a.generation, &a.kind, &a.list_kind) == (&b.uid, b.generation, &b.kind, &b.list_kind)
}

/// Which names of which group have been given to which definition.
#[derive(Default)]
struct Claims {
    /// By group, whether it is a kind, and name.
    owners: HashMap<(String, bool, String), String>,
}

impl Claims {
    fn of<'d>(definitions: impl Iterator<Item = &'d Definition>) -> Self {
        let mut claims = Self::default();
        for definition in definitions {
            let names = definition.claimed_resources.iter().map(|name| (false, name));
            for (is_kind, name) in names.chain(definition.claimed_kinds.iter().map(|name| (true, name))) {
                claims.claim(definition, is_kind, name);
            }
        }
        claims
    }

    fn claim(&mut self, definition: &Definition, is_kind: bool, name: &str) {
        let key = (definition.group.clone(), is_kind, name.to_owned());
        self.owners.entry(key).or_insert_with(|| definition.name.clone());
    }

    fn is_taken(&self, definition: &Definition, name: &str, is_kind: bool) -> bool {
        let key = (definition.group.clone(), is_kind, name.to_owned());
        self.owners.get(&key).is_some_and(|owner| *owner != definition.name)
    }

    /// What `settled` was given.
    fn give(&mut self, definition: &Definition, settled: &Value) {
        let names = settled.pointer("/status/acceptedNames").cloned().unwrap_or_default();
        for (field, is_kind) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
            if let Some(name) = names[field].as_str().filter(|name| !name.is_empty()) {
                self.claim(definition, is_kind, name);
            }
        }
        for name in names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.claim(definition, false, name);
        }
    }
}
