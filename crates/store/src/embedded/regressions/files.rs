//! What crashes did to etcd's files.

use std::path::Path;
use std::sync::Arc;

use ::raft::eraftpb::{Entry, HardState};
use parking_lot::{Condvar, Mutex};

use crate::backend::DiscardBackend;
use crate::embedded::open::start;
use crate::embedded::tests::{delete, get, next, put, watch_all};
use crate::raft::{Identity, LogError, LogStore, LoggedState, MemoryLog};
use crate::*;

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    let config = EmbeddedConfig { data_dir: Some(dir.to_owned()), ..EmbeddedConfig::default() };
    Arc::new(EmbeddedStore::open(config).unwrap())
}

async fn version(store: &EmbeddedStore, key: &'static str) -> i64 {
    let request = RangeRequest { range: KeyRange::key(key), ..RangeRequest::default() };
    store.range(request).await.unwrap().kvs.first().map_or(0, |kv| kv.version)
}

#[tokio::test]
async fn etcd_13766_every_entry_is_applied_once_however_often_the_store_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let mut n_puts = 0;
    for life in 0..8 {
        let store = open(dir.path());
        assert_eq!(version(&store, "counter").await, n_puts, "life {life}");
        assert_eq!(store.current_revision().await, Ok(Revision(1 + n_puts)), "life {life}");
        for n in 0..40 {
            store.txn(put("counter", "x")).await.unwrap();
            n_puts += 1;
            // The state file is somewhere between the beginning of this life and its end.
            if n == life * 5 {
                store.writer.flush().await.unwrap();
            }
        }
        store.crash();
    }
}

/// A log on a disk that can be made to wait.
#[derive(Clone, Default)]
struct StallingLog(Arc<(Mutex<Stall>, Condvar)>);

#[derive(Default)]
struct Stall {
    is_on: bool,
    n_waiting: usize,
}

impl StallingLog {
    fn stall(&self, is_on: bool) {
        self.0.0.lock().is_on = is_on;
        self.0.1.notify_all();
    }

    fn wait_until_somebody_waits(&self) {
        let mut stall = self.0.0.lock();
        while stall.n_waiting == 0 {
            self.0.1.wait(&mut stall);
        }
    }
}

impl LogStore for StallingLog {
    fn load(&mut self) -> Result<LoggedState, LogError> {
        MemoryLog.load()
    }

    fn set_identity(&mut self, _identity: Identity) -> Result<(), LogError> {
        Ok(())
    }

    fn reset(&mut self, _index: u64, _term: u64, _hard_state: &HardState) -> Result<(), LogError> {
        Ok(())
    }

    fn append(&mut self, _entries: &[Entry], _hard_state: Option<&HardState>, _sync: bool) -> Result<(), LogError> {
        let mut stall = self.0.0.lock();
        stall.n_waiting += 1;
        self.0.1.notify_all();
        while stall.is_on {
            self.0.1.wait(&mut stall);
        }
        stall.n_waiting -= 1;
        Ok(())
    }

    fn truncate(&mut self, _index: u64, _term: u64) -> Result<(), LogError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_14370_a_member_alone_acknowledges_and_shows_nothing_before_its_log_is_durable() {
    let log = StallingLog::default();
    let backend = Box::new(DiscardBackend::default());
    let store = Arc::new(start(EmbeddedConfig::default(), log.clone(), backend, Path::new(""), None).unwrap());
    store.txn(put("a", "durable")).await.unwrap();
    let mut watch = store.watch(watch_all(3)).await.unwrap();
    log.stall(true);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.txn(put("a", "not yet")).await }
    });
    let waiting = log.clone();
    tokio::task::spawn_blocking(move || waiting.wait_until_somebody_waits()).await.unwrap();
    let local = RangeRequest { range: KeyRange::key("a"), serializable: true, ..RangeRequest::default() };
    assert_eq!(store.range(local).await.unwrap().kvs[0].value, "durable");
    assert!(!writing.is_finished());
    assert!(futures::FutureExt::now_or_never(watch.next()).is_none(), "nor does a watch tell of it");
    log.stall(false);
    assert_eq!(writing.await.unwrap().unwrap().revision, Revision(3));
    assert_eq!(next(&mut watch).await.events[0].kv.value, "not yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_14685_a_crash_during_a_defragmentation_leaves_data_and_index_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut n_puts = 0;
    for life in 0..6 {
        let store = open(dir.path());
        assert_eq!(version(&store, "counter").await, n_puts, "life {life}");
        let value = "v".repeat(20_000);
        for n in 0..40 {
            store.txn(put(&format!("k{n}"), &value)).await.unwrap();
        }
        let newest = store.current_revision().await.unwrap();
        store.compact(newest, true).await.unwrap();
        let shrinking = tokio::spawn({
            let store = store.clone();
            async move { store.defragment().await }
        });
        // Earlier in each life, so that one of them hits the middle of it.
        for _ in 0..(50 - 10 * life.min(5)) {
            store.txn(put("counter", "x")).await.unwrap();
            n_puts += 1;
        }
        let crashing = store.clone();
        tokio::task::spawn_blocking(move || crashing.crash()).await.unwrap();
        let _done_or_cut_short = shrinking.await.unwrap();
        drop(store);
        assert_eq!(get(&open(dir.path()), "k39").await, Some(value), "life {life}");
    }
}

#[tokio::test]
async fn etcd_17780_a_crash_around_a_compaction_never_lowers_the_revision() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = Revision(1);
    for (life, (physical, flushes)) in
        [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
    {
        let store = open(dir.path());
        assert_eq!(store.current_revision().await, Ok(newest), "life {life}");
        for n in 0..20 {
            store.txn(put("a", &n.to_string())).await.unwrap();
        }
        // Nothing is left of the newest revision once it is compacted.
        newest = store.txn(delete(KeyRange::key("a"))).await.unwrap().revision;
        store.compact(newest, physical).await.unwrap();
        if flushes {
            store.writer.flush().await.unwrap();
        }
        store.crash();
    }
    let store = open(dir.path());
    assert_eq!(store.current_revision().await, Ok(newest));
    assert_eq!(store.txn(put("a", "again")).await.unwrap().revision, Revision(newest.0 + 1));
}
