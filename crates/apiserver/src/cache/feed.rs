//! Keeps the cache in step with the store: one list, then one watch on the whole registry; again after a gap.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use store::{
    EventKind as StoreEventKind, KeyRange, KeyValue, RangeRequest, Revision, StoreError, WatchEvent, WatchRequest,
};
use tokio::sync::mpsc;

use super::resource::{Change, FRAME_TAIL, ResourceCache};
use super::{Cache, CachedObject, Command, EventKind, Indexed};
use crate::source::StoredObject;
use crate::storage::{self, REGISTRY_PREFIX, ReadError};

/// Keys per page of the initial list.
const PAGE: usize = 5_000;
/// Revisions before the newest that the first copy is taken at. What came since is fed as events, so that clients can watch on
/// from where they were before this server started.
const HISTORY: i64 = 2_000;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

impl Cache {
    /// Feeds the cache until the store is shut down. Never gives up on errors: it logs, waits and lists again.
    pub async fn run(self: Arc<Self>) {
        let Some(mut commands) = self.commands.1.lock().take() else { return };
        let mut retry = RETRY_MIN;
        loop {
            match self.feed_until_gap(&mut commands).await {
                Ok(()) => return,
                Err(StoreError::Stopped) => return,
                Err(error) => tracing::warn!(%error, "watch cache lost the store, listing again"),
            }
            if self.is_ready() {
                retry = RETRY_MIN;
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
        }
    }

    /// `Ok` when the watch ended because the store is shutting down.
    async fn feed_until_gap(&self, commands: &mut mpsc::Receiver<Command>) -> Result<(), StoreError> {
        let newest = self.store.current_revision().await?;
        let revision = self.load_with_history(newest).await?;
        let request = WatchRequest {
            range: KeyRange::prefix(REGISTRY_PREFIX),
            start_revision: Revision(revision.0 + 1),
            prev_kv: true,
            ..WatchRequest::default()
        };
        let mut watch = self.store.watch(request).await?;
        *self.progress.write() = Some(watch.progress_requester());
        if revision < newest {
            self.request_progress();
        } else {
            self.advance(revision);
        }
        loop {
            tokio::select! {
                batch = watch.next() => match batch {
                    Some(batch) => {
                        let batch = batch?;
                        self.apply(batch.events);
                        // Nobody sees the past.
                        if batch.revision >= newest {
                            self.advance(batch.revision);
                        }
                    }
                    None => return Ok(()),
                },
                // The cache itself holds the other end.
                Some(command) = commands.recv() => self.obey(command).await?,
            }
        }
    }

    /// Between two batches resources come and go.
    async fn obey(&self, command: Command) -> Result<(), StoreError> {
        match command {
            Command::Add(kind, done) => {
                let resource = Arc::new(ResourceCache::new(Arc::clone(&kind)));
                // What the feed has seen, to the revision: the next batch continues it.
                let loaded = self.load_resource(&resource, self.revision()).await;
                self.replace(&kind, Some(resource));
                // After a failure everything is listed again, this one included.
                loaded?;
                let _nobody_waits = done.send(());
            }
            Command::Remove(prefix, done) => {
                self.forget(&prefix);
                let _nobody_waits = done.send(());
            }
        }
        Ok(())
    }

    async fn load_resource(&self, resource: &ResourceCache, revision: Revision) -> Result<(), StoreError> {
        let prefix = format!("{REGISTRY_PREFIX}{}/", resource.kind.storage_prefix);
        let mut range = KeyRange::prefix(prefix.clone());
        let mut objects = Vec::new();
        loop {
            let request = RangeRequest { range: range.clone(), limit: PAGE, revision, ..RangeRequest::default() };
            let page = self.store.range(request).await?;
            for kv in &page.kvs {
                let rest = std::str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(prefix.as_str()));
                if let Some(location) = rest.and_then(|rest| Location::parse(rest, resource.kind.namespaced)) {
                    objects.extend(read(resource, &location, kv, None));
                }
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            range.start = Bytes::from([last.key.as_ref(), b"\0"].concat());
        }
        resource.reset(objects, revision);
        Ok(())
    }

    /// The first copy is a little older than the newest revision, as far as the store remembers; later ones are not, because
    /// what was seen already would be gone again.
    async fn load_with_history(&self, newest: Revision) -> Result<Revision, StoreError> {
        let past = Revision((newest.0 - HISTORY).max(1).min(newest.0));
        if self.is_ready() {
            return self.load(newest).await;
        }
        match self.load(past).await {
            Err(StoreError::Compacted { .. }) => self.load(Revision(0)).await,
            other => other,
        }
    }

    /// Lists everything at one revision (0: now) and replaces what was there.
    async fn load(&self, mut revision: Revision) -> Result<Revision, StoreError> {
        let mut objects: HashMap<String, Vec<Arc<CachedObject>>> = HashMap::new();
        self.by_prefix.read().values().for_each(|resource| resource.unmark_all());
        let mut range = KeyRange::prefix(REGISTRY_PREFIX);
        loop {
            let request = RangeRequest { range: range.clone(), limit: PAGE, revision, ..RangeRequest::default() };
            let page = self.store.range(request).await?;
            if revision == Revision(0) {
                revision = page.revision;
            }
            for kv in &page.kvs {
                if let Some((resource, location)) = self.locate(&kv.key)
                    && let Some(object) = read(&resource, &location, kv, None)
                {
                    objects.entry(resource.kind.storage_prefix.to_string()).or_default().push(object);
                }
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            range.start = Bytes::from([last.key.as_ref(), b"\0"].concat());
        }
        let resources: Vec<_> = self.by_prefix.read().values().cloned().collect();
        for resource in resources {
            let list = objects.remove(resource.kind.storage_prefix.as_ref()).unwrap_or_default();
            resource.reset(list, revision);
        }
        Ok(revision)
    }

    /// Splits a batch by resource; within a resource the order of revisions stays.
    fn apply(&self, events: Vec<WatchEvent>) {
        let mut by_resource: Vec<(Arc<ResourceCache>, Vec<Change>)> = Vec::new();
        for event in events {
            let Some((resource, location)) = self.locate(&event.kv.key) else { continue };
            let Some(change) = change(&resource, &location, &event) else { continue };
            match by_resource.iter_mut().find(|(r, _)| Arc::ptr_eq(r, &resource)) {
                Some((_, changes)) => changes.push(change),
                None => by_resource.push((resource, vec![change])),
            }
        }
        for (resource, changes) in by_resource {
            resource.apply(changes);
        }
    }

    fn advance(&self, revision: Revision) {
        self.revision.send_if_modified(|current| {
            let newer = revision > *current;
            if newer {
                *current = revision;
            }
            newer
        });
    }

    /// The resource a key belongs to, and the object's place in it. Prefixes have one or two segments, or three.
    fn locate(&self, key: &[u8]) -> Option<(Arc<ResourceCache>, Location)> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(REGISTRY_PREFIX)?;
        let resources = self.by_prefix.read();
        let cuts = path.match_indices('/').map(|(at, _)| at);
        for cut in cuts.take(3) {
            if let Some(resource) = resources.get(&path[..cut])
                && let Some(location) = Location::parse(&path[cut + 1..], resource.kind.namespaced)
            {
                return Some((Arc::clone(resource), location));
            }
        }
        None
    }
}

/// Namespace (empty for cluster scope) and name.
struct Location {
    namespace: Box<str>,
    name: Box<str>,
}

impl Location {
    fn parse(rest: &str, namespaced: bool) -> Option<Self> {
        let (namespace, name) = if namespaced { rest.split_once('/')? } else { ("", rest) };
        let is_leaf = !name.is_empty() && !name.contains('/');
        is_leaf.then(|| Self { namespace: namespace.into(), name: name.into() })
    }
}

fn change(resource: &ResourceCache, location: &Location, event: &WatchEvent) -> Option<Change> {
    match event.kind {
        StoreEventKind::Put => {
            let is_new = event.kv.create_revision == event.kv.mod_revision;
            let kind = if is_new { EventKind::Added } else { EventKind::Modified };
            read(resource, location, &event.kv, Some(kind)).map(Change::Put)
        }
        StoreEventKind::Delete => {
            let revision = event.kv.mod_revision;
            let last = event.prev_kv.as_ref().and_then(|previous| {
                let deleted = KeyValue { mod_revision: revision, ..previous.clone() };
                read(resource, location, &deleted, Some(EventKind::Deleted))
            });
            resource.unmark_unreadable(&location.namespace, &location.name);
            Some(Change::Delete { namespace: location.namespace.clone(), name: location.name.clone(), revision, last })
        }
    }
}

/// An object that cannot be read is logged and left out; lists that would have it are refused until it is readable or gone.
fn read(
    resource: &ResourceCache,
    location: &Location,
    kv: &KeyValue,
    event: Option<EventKind>,
) -> Option<Arc<CachedObject>> {
    match try_read(resource, location, kv, event) {
        Ok(object) => {
            resource.unmark_unreadable(&location.namespace, &location.name);
            Some(object)
        }
        Err(error) => {
            tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "stored object is unreadable");
            resource.mark_unreadable(&location.namespace, &location.name, error.at(&kv.key));
            None
        }
    }
}

fn try_read(
    resource: &ResourceCache,
    location: &Location,
    kv: &KeyValue,
    event: Option<EventKind>,
) -> Result<Arc<CachedObject>, ReadError> {
    let (before, after) = event.map_or((&b""[..], &b""[..]), |event| (event.frame_head(), FRAME_TAIL));
    let (bytes, text) = storage::read_framed(&resource.kind, &kv.value, kv.mod_revision, before, after)?;
    let (indexed, metadata_end) = Indexed::extract(&bytes.json, &resource.kind.selectable_fields)?;
    let bytes = bytes.with_metadata_end(metadata_end);
    let stored = StoredObject {
        namespace: location.namespace.to_string(),
        name: location.name.to_string(),
        json: bytes.json.clone(),
        mod_revision: kv.mod_revision,
    };
    Ok(Arc::new(CachedObject { stored: Arc::new(stored), bytes, indexed, frame: event.map(|event| (event, text)) }))
}
