//! Disks that are full or broken.

use std::path::Path;
use std::sync::Arc;

use ::raft::eraftpb::{Entry, HardState};
use parking_lot::Mutex;

use super::open::start;
use super::tests::{delete, get, next, put, watch_all};
use crate::backend::{Backend, BackendError, Bucket, DiscardBackend, Row, Sizes};
use crate::raft::{Identity, LogError, LogStore, LoggedState, MemoryLog};
use crate::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Fine,
    Full,
    Broken,
}

/// A disk whose state tests can set.
#[derive(Clone)]
struct Switch(Arc<Mutex<Disk>>);

impl Switch {
    fn fine() -> Self {
        Self(Arc::new(Mutex::new(Disk::Fine)))
    }

    fn set(&self, disk: Disk) {
        *self.0.lock() = disk;
    }

    fn get(&self) -> Disk {
        *self.0.lock()
    }
}

struct FaultyLog(Switch);

impl LogStore for FaultyLog {
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
        match self.0.get() {
            Disk::Fine => Ok(()),
            Disk::Full => Err(LogError::NoSpace),
            Disk::Broken => Err(LogError::Failed("input/output error".into())),
        }
    }

    fn truncate(&mut self, _index: u64, _term: u64) -> Result<(), LogError> {
        Ok(())
    }
}

struct FaultyBackend(Switch, DiscardBackend);

impl Backend for FaultyBackend {
    fn commit(&mut self, rows: &[Row]) -> Result<(), BackendError> {
        match self.0.get() {
            Disk::Fine => self.1.commit(rows),
            Disk::Full => Err(BackendError::NoSpace),
            Disk::Broken => Err(BackendError::Failed("input/output error".into())),
        }
    }

    fn replace(&mut self, rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<(), BackendError> {
        self.1.replace(rows)
    }

    fn scan(&self, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError> {
        self.1.scan(bucket, visit)
    }

    fn sizes(&self) -> Sizes {
        self.1.sizes()
    }

    fn rows(&self) -> Option<Arc<dyn crate::mvcc::Rows>> {
        None
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn open(log: &Switch, state: &Switch, quota_bytes: i64) -> EmbeddedStore {
    let config = EmbeddedConfig { quota_bytes, ..EmbeddedConfig::default() };
    let backend = Box::new(FaultyBackend(state.clone(), DiscardBackend::default()));
    start(config, FaultyLog(log.clone()), backend, Path::new(""), None).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_heals_without_a_restart() {
    let log = Switch::fine();
    let store = open(&log, &Switch::fine(), 0);
    store.txn(put("a", "before")).await.unwrap();
    let mut watch = store.watch(watch_all(2)).await.unwrap();
    log.set(Disk::Full);
    for _ in 0..3 {
        assert_eq!(store.txn(put("a", "refused")).await, Err(StoreError::NoSpace));
        assert_eq!(get(&store, "a").await.as_deref(), Some("before"));
        assert_eq!(store.current_revision().await, Ok(Revision(2)));
    }
    assert_eq!(store.status().await.unwrap().errors, [StoreError::NoSpace.to_string()]);
    log.set(Disk::Fine);
    let revision = loop {
        match store.txn(put("a", "after")).await {
            Ok(response) => break response.revision,
            Err(error) => assert_eq!(error, StoreError::NoSpace),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(revision, Revision(3), "what was refused did not happen");
    let mut values = Vec::new();
    while values.len() < 2 {
        values.extend(next(&mut watch).await.events.into_iter().map(|event| event.kv.value));
    }
    assert_eq!(values, ["before", "after"]);
}

#[tokio::test]
async fn a_log_that_failed_is_never_written_again() {
    let log = Switch::fine();
    let store = open(&log, &Switch::fine(), 0);
    store.txn(put("a", "before")).await.unwrap();
    log.set(Disk::Broken);
    let failed = StoreError::Fatal("log failed: input/output error".into());
    assert_eq!(store.txn(put("a", "lost")).await, Err(failed.clone()));
    log.set(Disk::Fine);
    assert_eq!(store.txn(put("a", "lost")).await, Err(failed));
    assert_eq!(get(&store, "a").await.as_deref(), Some("before"));
}

#[tokio::test]
async fn a_state_file_without_space_refuses_new_data_until_there_is_space() {
    let state = Switch::fine();
    let store = open(&Switch::fine(), &state, 0);
    state.set(Disk::Full);
    store.txn(put("a", "accepted")).await.unwrap();
    assert_eq!(store.writer.flush().await, Err(StoreError::NoSpace));
    assert_eq!(store.txn(put("a", "refused")).await, Err(StoreError::NoSpace));
    assert_eq!(store.lease_grant(LeaseId(1), 60).await, Err(StoreError::NoSpace));
    assert_eq!(get(&store, "a").await.as_deref(), Some("accepted"));
    store.txn(delete(KeyRange::key("a"))).await.unwrap();
    state.set(Disk::Fine);
    while store.txn(put("a", "again")).await == Err(StoreError::NoSpace) {
        tokio::task::yield_now().await;
    }
    store.writer.flush().await.unwrap();
}

#[tokio::test]
async fn a_reached_quota_raises_the_alarm_which_only_an_operator_lowers() {
    let store = open(&Switch::fine(), &Switch::fine(), 100_000);
    let big = "x".repeat(10_000);
    let mut n_accepted = 0;
    let refused = loop {
        store.writer.flush().await.unwrap();
        match store.txn(put("a", &big)).await {
            Ok(_) => n_accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((refused, n_accepted), (StoreError::NoSpace, 9));
    let alarm = Alarm { member_id: store.status().await.unwrap().member_id, kind: AlarmKind::NoSpace };
    assert_eq!(store.alarms().await, Ok(vec![alarm]));
    let errors = store.status().await.unwrap().errors;
    assert_eq!(errors, [format!("memberID:{} alarm:NOSPACE ", alarm.member_id)]);
    assert_eq!(store.txn(put("b", "small")).await, Err(StoreError::NoSpace));
    store.txn(delete(KeyRange::key("a"))).await.unwrap();
    assert_eq!(store.disarm(alarm).await, Ok(vec![alarm]));
    assert_eq!(store.disarm(alarm).await, Ok(vec![]));
    store.txn(put("b", "small")).await.unwrap();
}
