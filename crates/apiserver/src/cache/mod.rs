//! The watch cache: every object of every served resource as bytes, at one revision, with a window of recent events.
//!
//! One watch on the whole registry feeds all resources, so one number, [`Cache::revision`], says how fresh everything is: all
//! changes up to it are visible. Objects are kept as the bytes that clients get, plus labels and selectable fields; never as
//! trees. Readers take a read lock for as long as it takes to clone pointers; only the feeding task writes.

mod extract;
mod feed;
mod follow;
mod parsed;
mod resource;

use std::sync::Arc;
use std::time::Duration;

use api::Kind;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use store::{ProgressRequester, Revision, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

pub use extract::Indexed;
pub use follow::{Follower, Interest};
pub(crate) use resource::watch_frame;
pub use resource::{CacheEvent, CachedObject, EventKind, ResourceCache, WatchPosition};

use crate::source::{ObjectSource, StoredObject};

/// How often a waiting reader asks a store that does not volunteer its progress.
const PROGRESS_RETRY: Duration = Duration::from_millis(100);
/// A reader waits this long for the cache to reach its revision, then is told to try again.
const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);

/// All resources.
#[derive(Debug)]
pub struct Cache {
    store: Arc<dyn Store>,
    /// By storage prefix (`pods`, `services/specs`).
    by_prefix: RwLock<HashMap<String, Arc<ResourceCache>>>,
    /// By group, then plural name, so that neither is copied to look one up; several versions of a resource share an entry.
    by_resource: RwLock<HashMap<String, HashMap<String, Arc<ResourceCache>>>>,
    revision: watch::Sender<Revision>,
    progress: RwLock<Option<ProgressRequester>>,
    /// What the feed is asked to do, and the end that it takes.
    commands: (mpsc::Sender<Command>, Mutex<Option<mpsc::Receiver<Command>>>),
    parsed: parsed::Parsed,
}

/// A change of what is cached; only the feed makes it, between two batches of the watch.
#[derive(Debug)]
enum Command {
    /// A resource, in the place of the one with its prefix.
    Add(Arc<Kind>, oneshot::Sender<()>),
    /// The resource with a storage prefix.
    Remove(String, oneshot::Sender<()>),
}

/// Commands that wait; more make the one who asks wait.
const COMMANDS_MAX: usize = 64;

/// The cache did not reach a revision in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFresh {
    pub wanted: Revision,
    pub current: Revision,
}

impl Cache {
    /// An empty cache for the given kinds (those that are stored); [`Cache::run`] fills it.
    pub fn new(store: Arc<dyn Store>, kinds: impl Iterator<Item = Arc<Kind>>) -> Arc<Self> {
        let (revision, _) = watch::channel(Revision(0));
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let cache = Self {
            store,
            by_prefix: RwLock::default(),
            by_resource: RwLock::default(),
            revision,
            progress: RwLock::default(),
            commands: (sender, Mutex::new(Some(receiver))),
            parsed: parsed::Parsed::default(),
        };
        for kind in kinds {
            cache.register(&kind);
        }
        Arc::new(cache)
    }

    fn register(&self, kind: &Arc<Kind>) {
        if kind.storage_prefix.is_empty() {
            return;
        }
        let resource = Arc::clone(
            self.by_prefix
                .write()
                .entry(kind.storage_prefix.to_string())
                .or_insert_with(|| Arc::new(ResourceCache::new(Arc::clone(kind)))),
        );
        let mut groups = self.by_resource.write();
        groups.entry(kind.group.to_string()).or_default().insert(kind.resource.to_string(), resource);
    }

    /// Keeps a resource that came at run time, or one whose objects look different from now on. Returns when its objects are
    /// there, at the revision of everything else. Watches of the former are over.
    pub(crate) async fn add(&self, kind: Arc<Kind>) {
        self.ask(|done| Command::Add(kind, done)).await;
    }

    /// Lets go of a resource; its watches are over.
    pub(crate) async fn remove(&self, storage_prefix: String) {
        self.ask(|done| Command::Remove(storage_prefix, done)).await;
    }

    /// A feed that stopped does nothing any more, and nobody needs it to.
    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, finished) = oneshot::channel();
        if self.commands.0.send(command(done)).await.is_ok() {
            let _stopped = finished.await;
        }
    }

    fn replace(&self, kind: &Kind, resource: Option<Arc<ResourceCache>>) {
        let former = match resource {
            Some(resource) => {
                let mut groups = self.by_resource.write();
                let group = groups.entry(kind.group.to_string()).or_default();
                group.insert(kind.resource.to_string(), Arc::clone(&resource));
                self.by_prefix.write().insert(kind.storage_prefix.to_string(), resource)
            }
            None => {
                let mut groups = self.by_resource.write();
                if let Some(group) = groups.get_mut(kind.group.as_ref()) {
                    group.remove(kind.resource.as_ref());
                    if group.is_empty() {
                        groups.remove(kind.group.as_ref());
                    }
                }
                self.by_prefix.write().remove(kind.storage_prefix.as_ref())
            }
        };
        if let Some(former) = former {
            former.close();
        }
    }

    fn forget(&self, storage_prefix: &str) {
        let known = self.by_prefix.read().get(storage_prefix).cloned();
        if let Some(resource) = known {
            self.replace(&resource.kind, None);
        }
    }

    /// The cache of a kind; `None` for kinds that are not stored.
    pub fn resource(&self, kind: &Kind) -> Option<Arc<ResourceCache>> {
        self.by_prefix.read().get(kind.storage_prefix.as_ref()).cloned()
    }

    /// Everything up to and including this revision is visible.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Wakes whenever anything changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Has the first complete copy arrived?
    pub fn is_ready(&self) -> bool {
        self.revision() > Revision(0)
    }

    /// Waits until the first complete copy has arrived.
    pub async fn ready(&self) {
        let mut revision = self.revision.subscribe();
        let _sender_lives_in_self = revision.wait_for(|r| *r > Revision(0)).await;
    }

    /// The store's newest revision, once the cache has reached it: the condition of a consistent list.
    pub async fn catch_up(&self) -> Result<Result<Revision, NotFresh>, StoreError> {
        let wanted = self.store.current_revision().await?;
        Ok(self.wait_for(wanted).await.map(|()| wanted))
    }

    /// Waits until the cache has reached `wanted`, asking the store for its progress meanwhile.
    pub async fn wait_for(&self, wanted: Revision) -> Result<(), NotFresh> {
        if self.revision() >= wanted {
            return Ok(());
        }
        let mut revision = self.revision.subscribe();
        let arrival = async {
            loop {
                self.request_progress();
                let reached = tokio::time::timeout(PROGRESS_RETRY, revision.wait_for(|r| *r >= wanted)).await;
                if let Ok(Ok(_)) = reached {
                    return;
                }
            }
        };
        tokio::time::timeout(FRESHNESS_TIMEOUT, arrival)
            .await
            .map_err(|_elapsed| NotFresh { wanted, current: self.revision() })
    }

    fn request_progress(&self) {
        if let Some(progress) = self.progress.read().as_ref() {
            progress.request();
        }
    }
}

impl ObjectSource for Cache {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<StoredObject>> {
        let cache = self.source(group, resource)?;
        cache.get(namespace, name).map(|object| Arc::clone(&object.stored))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<StoredObject>> {
        let Some(cache) = self.source(group, resource) else { return Vec::new() };
        cache.list(namespace).iter().map(|object| Arc::clone(&object.stored)).collect()
    }

    fn last_change(&self, group: &str, resource: &str) -> Revision {
        self.source(group, resource).map_or(Revision(0), |cache| cache.last_change())
    }

    fn parsed(&self, object: &Arc<StoredObject>) -> Option<Arc<api::Value>> {
        self.parsed.get(object)
    }

    fn label(&self, group: &str, resource: &str, namespace: &str, name: &str, label: &str) -> Option<String> {
        self.source(group, resource)?.get(namespace, name)?.indexed.label(label).map(str::to_owned)
    }
}

impl Cache {
    fn source(&self, group: &str, resource: &str) -> Option<Arc<ResourceCache>> {
        self.by_resource.read().get(group)?.get(resource).cloned()
    }
}
