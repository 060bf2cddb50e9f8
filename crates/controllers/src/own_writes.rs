//! Which of a key's own writes its caches have not shown yet.
//!
//! A controller that decides on a cache older than its last writes creates a Pod twice. Upstream counts expected events; here the
//! written resourceVersion (or the deleted uid) is remembered per key and compared with what the informer has seen. A write never
//! seen, such as one of an object that vanished at once, is forgotten after five minutes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use client::{Informer, Object, ObjectKey};
use kube::Resource;
use parking_lot::Mutex;

use crate::reconcile::Requeue;

const FORGET_AFTER: Duration = Duration::from_secs(300);
/// How soon to look again when nothing wakes the key: the event of the write usually does.
pub(crate) const LOOK_AGAIN: Requeue = Requeue::After(Duration::from_millis(200));

type Seen = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
pub(crate) struct OwnWrites {
    waiting: Mutex<HashMap<ObjectKey, (Instant, Vec<Seen>)>>,
}

impl OwnWrites {
    /// The informer must reach the version the server gave `written`.
    pub(crate) fn wrote<K: Object, W: Resource>(&self, key: &ObjectKey, informer: &Informer<K>, written: &W) {
        let meta = written.meta();
        let (informer, object) = (informer.clone(), ObjectKey::from_meta(meta));
        // The last finalizer went, and the object with it: the version of its removal is not told.
        let is_gone = meta.deletion_timestamp.is_some()
            && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
            && meta.finalizers.as_ref().is_none_or(Vec::is_empty);
        if is_gone {
            let uid = meta.uid.clone();
            let seen = move || informer.get(&object).is_none_or(|cached| cached.meta().uid != uid);
            return self.wait(key, Box::new(seen));
        }
        let version = meta.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok());
        let Some(version) = version else { return };
        self.wait(key, Box::new(move || informer.revision() >= version));
    }

    /// The informer must show the object of this uid as gone or going.
    pub(crate) fn deleted<K: Object>(&self, key: &ObjectKey, informer: &Informer<K>, object: &K) {
        let (informer, deleted, uid) = (informer.clone(), ObjectKey::of(object), object.meta().uid.clone());
        let seen = move || {
            let cached = informer.get(&deleted);
            cached.is_none_or(|cached| cached.meta().uid != uid || cached.meta().deletion_timestamp.is_some())
        };
        self.wait(key, Box::new(seen));
    }

    fn wait(&self, key: &ObjectKey, seen: Seen) {
        if seen() {
            return;
        }
        let mut waiting = self.waiting.lock();
        let entry = waiting.entry(key.clone()).or_insert_with(|| (Instant::now(), Vec::new()));
        entry.0 = Instant::now();
        entry.1.push(seen);
    }

    /// Whether the caches show all the key's writes.
    pub(crate) fn settled(&self, key: &ObjectKey) -> bool {
        let mut waiting = self.waiting.lock();
        let Some((since, writes)) = waiting.get_mut(key) else { return true };
        writes.retain(|seen| !seen());
        let settled = writes.is_empty() || since.elapsed() > FORGET_AFTER;
        if settled {
            waiting.remove(key);
        }
        settled
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.waiting.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn config_map(name: &str, version: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            uid: Some(name.into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn a_key_settles_when_the_cache_has_its_writes() {
        let (writes, informer, key) = (OwnWrites::default(), Informer::detached(), ObjectKey::cluster("owner"));
        informer.replace(vec![config_map("old", 1)], Some("5"));
        writes.wrote(&key, &informer, &config_map("a", 4));
        assert!(writes.settled(&key), "the cache was ahead already");
        writes.wrote(&key, &informer, &config_map("a", 7));
        writes.deleted(&key, &informer, &config_map("old", 1));
        assert!(!writes.settled(&key));
        informer.apply(config_map("a", 7));
        assert!(!writes.settled(&key));
        informer.remove(config_map("old", 8));
        assert!(writes.settled(&key));
    }
}
