//! The embedded store through its door.

use std::time::Duration;

use crate::*;

fn memory() -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig::default()).unwrap()
}

pub(super) fn put(key: &str, value: &str) -> Txn {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
    Txn { success: vec![Op::Put(put)], ..Txn::default() }
}

pub(super) fn delete(range: KeyRange) -> Txn {
    Txn { success: vec![Op::Delete(DeleteRange { range, prev_kv: false })], ..Txn::default() }
}

pub(super) async fn get(store: &EmbeddedStore, key: &str) -> Option<String> {
    let request = RangeRequest { range: KeyRange::key(key.to_owned()), ..RangeRequest::default() };
    let kv = store.range(request).await.unwrap().kvs.pop()?;
    Some(String::from_utf8(kv.value.to_vec()).unwrap())
}

pub(super) async fn next(watch: &mut Watch) -> WatchBatch {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("a batch").expect("a live watch").unwrap()
}

fn keys(batch: &WatchBatch) -> Vec<(i64, &str)> {
    let describe = |event: &WatchEvent| (event.kv.mod_revision.0, str_of(&event.kv.key).len());
    assert!(batch.events.iter().map(describe).is_sorted_by_key(|(revision, _)| revision));
    batch.events.iter().map(|event| (event.kv.mod_revision.0, str_of(&event.kv.key))).collect()
}

fn str_of(bytes: &bytes::Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub(super) fn watch_all(start_revision: i64) -> WatchRequest {
    let range = KeyRange { start: "\0".into(), end: "\0".into() };
    WatchRequest { range, start_revision: Revision(start_revision), ..WatchRequest::default() }
}

#[tokio::test]
async fn a_new_store_is_empty_at_revision_one_and_writes_start_at_two() {
    let store = memory();
    assert_eq!(store.current_revision().await, Ok(Revision(1)));
    assert_eq!(store.txn(put("a", "1")).await.unwrap().revision, Revision(2));
    assert_eq!(get(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(
        store.txn(delete(KeyRange::key("b"))).await.unwrap().revision,
        Revision(2),
        "deleting nothing changes nothing"
    );
    let status = store.status().await.unwrap();
    assert_eq!((status.member_id, status.leader_id), (0x8e9e_05c5_2164_694d, 0x8e9e_05c5_2164_694d));
    assert_eq!(status.revision, Revision(2));
}

#[tokio::test]
async fn a_watch_gets_history_then_news_without_a_seam() {
    let store = memory();
    store.txn(put("a", "1")).await.unwrap();
    store.txn(put("b", "1")).await.unwrap();
    let mut watch = store.watch(watch_all(2)).await.unwrap();
    assert_eq!(keys(&next(&mut watch).await), [(2, "a"), (3, "b")]);
    store.txn(put("a", "2")).await.unwrap();
    store.txn(delete(KeyRange::prefix("a"))).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(next(&mut watch).await.events.into_iter().map(|event| (event.kind, event.kv.mod_revision)));
    }
    assert_eq!(seen, [(EventKind::Put, Revision(4)), (EventKind::Delete, Revision(5))]);
}

#[tokio::test]
async fn a_progress_notification_follows_everything_before_it() {
    let store = memory();
    let mut watch = store.watch(WatchRequest { range: KeyRange::key("a"), ..WatchRequest::default() }).await.unwrap();
    // The second request shows that the first one did not start a race: whatever was written before it comes first.
    for round in 0..50 {
        store.txn(put("a", "x")).await.unwrap();
        let revision = store.txn(put("b", "x")).await.unwrap().revision;
        watch.progress_requester().request();
        let mut n_events = 0;
        loop {
            let batch = next(&mut watch).await;
            n_events += batch.events.len();
            if batch.events.is_empty() && batch.revision >= revision {
                break;
            }
        }
        assert_eq!(n_events, 1, "round {round}");
    }
}

/// etcd-io/etcd#20221; over gRPC in `regressions::watches`.
#[tokio::test]
async fn a_watch_in_the_future_hears_nothing_before_it() {
    let store = memory();
    let mut watch = store.watch(watch_all(4)).await.unwrap();
    watch.progress_requester().request();
    for value in ["1", "2", "3"] {
        store.txn(put("a", value)).await.unwrap();
    }
    assert_eq!(keys(&next(&mut watch).await), [(4, "a")]);
}

#[tokio::test]
async fn a_slow_watcher_holds_nobody_up_and_misses_nothing() {
    let store = memory();
    let mut slow = store.watch(watch_all(2)).await.unwrap();
    let n_writes = 1000;
    for n in 0..n_writes {
        store.txn(put("a", &n.to_string())).await.unwrap();
    }
    let mut revisions = Vec::new();
    while revisions.len() < n_writes {
        revisions.extend(next(&mut slow).await.events.into_iter().map(|event| event.kv.mod_revision.0));
    }
    assert_eq!(revisions, (2..2 + n_writes as i64).collect::<Vec<_>>());
    slow.progress_requester().request();
    let progress = next(&mut slow).await;
    assert_eq!((progress.revision.0, progress.events.len()), (1 + n_writes as i64, 0));
}

#[tokio::test]
async fn all_events_of_a_revision_come_together() {
    let store = memory();
    let mut watch = store.watch(watch_all(0)).await.unwrap();
    let ops = ["a", "b", "c"].map(|key| Op::Put(Put { key: key.into(), ..Put::default() }));
    store.txn(Txn { success: ops.to_vec(), ..Txn::default() }).await.unwrap();
    store.txn(delete(KeyRange::prefix("b"))).await.unwrap();
    let first = next(&mut watch).await;
    assert_eq!(keys(&first)[..3], [(2, "a"), (2, "b"), (2, "c")]);
}

#[tokio::test]
async fn watching_what_was_compacted_is_refused_but_the_compacted_revision_itself_is_not() {
    let store = memory();
    for value in ["1", "2", "3"] {
        store.txn(put("a", value)).await.unwrap();
    }
    store.txn(delete(KeyRange::key("a"))).await.unwrap();
    store.compact(Revision(5), true).await.unwrap();
    let refused = store.watch(watch_all(4)).await.map(|_watch| ());
    assert_eq!(refused, Err(StoreError::Compacted { compact_revision: Revision(5) }));
    let mut watch = store.watch(watch_all(5)).await.unwrap();
    let batch = next(&mut watch).await;
    assert_eq!((batch.events[0].kind, batch.events[0].kv.mod_revision), (EventKind::Delete, Revision(5)));
    let old = RangeRequest { range: KeyRange::key("a"), revision: Revision(4), ..RangeRequest::default() };
    assert_eq!(store.range(old).await, Err(StoreError::Compacted { compact_revision: Revision(5) }));
    assert_eq!(store.compact(Revision(5), false).await, Err(StoreError::Compacted { compact_revision: Revision(5) }));
    assert_eq!(store.compact(Revision(6), false).await, Err(StoreError::FutureRevision));
}

#[tokio::test]
async fn dropping_a_watch_frees_it() {
    let store = memory();
    let watch = store.watch(watch_all(0)).await.unwrap();
    while store.hub.n_synced() == 0 {
        tokio::task::yield_now().await;
    }
    drop(watch);
    while store.hub.n_synced() != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lease_takes_its_keys_with_it_in_one_revision() {
    let store = memory();
    let (lease, ttl) = store.lease_grant(LeaseId(0), 1).await.unwrap();
    assert_eq!(ttl, 2);
    for key in ["b", "a"] {
        let put = Put { key: key.into(), lease, ..Put::default() };
        store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
    }
    let mut watch = store.watch(watch_all(0)).await.unwrap();
    let status = store.lease_time_to_live(lease, true).await.unwrap();
    assert_eq!((status.granted_ttl_seconds, status.keys), (2, vec!["a".into(), "b".into()]));
    assert_eq!(store.lease_list().await, Ok(vec![lease]));
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(keys(&next(&mut watch).await), [(4, "a"), (4, "b")]);
    assert_eq!(store.lease_revoke(lease).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.lease_keep_alive(lease).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.lease_time_to_live(lease, false).await.unwrap().ttl_seconds, -1);
    let orphan = Put { key: "c".into(), lease, ..Put::default() };
    let refused = store.txn(Txn { success: vec![Op::Put(orphan)], ..Txn::default() }).await;
    assert_eq!(refused, Err(StoreError::LeaseNotFound));
}

#[tokio::test]
async fn a_stopped_store_says_so_and_ends_its_watches() {
    let store = memory();
    let mut watch = store.watch(watch_all(0)).await.unwrap();
    store.shutdown();
    assert_eq!(store.txn(put("a", "1")).await, Err(StoreError::Stopped));
    assert_eq!(store.current_revision().await, Err(StoreError::Stopped));
    assert!(watch.next().await.is_none());
}

fn with_cache(dir: &std::path::Path, value_cache_bytes: usize) -> EmbeddedStore {
    let data_dir = Some(dir.to_owned());
    EmbeddedStore::open(EmbeddedConfig { data_dir, value_cache_bytes, ..EmbeddedConfig::default() }).unwrap()
}

/// Everything a client can see, of a store in which 200 revisions were made and the first 50 compacted.
async fn seen(store: &EmbeddedStore) -> (RangeResponse, RangeResponse, Vec<(i64, WatchEvent)>, HashKv, Vec<u8>) {
    let range = |revision| {
        let range = KeyRange { start: "\0".into(), end: "\0".into() };
        store.range(RangeRequest { range, revision: Revision(revision), ..RangeRequest::default() })
    };
    let mut watch = store.watch(WatchRequest { prev_kv: true, ..watch_all(60) }).await.unwrap();
    let newest = store.current_revision().await.unwrap();
    let mut events = Vec::new();
    loop {
        let batch = next(&mut watch).await;
        events.extend(batch.events.into_iter().map(|event| (event.kv.mod_revision.0, event)));
        if batch.revision >= newest {
            break;
        }
    }
    let mut snapshot = store.snapshot().await.unwrap();
    let mut file = Vec::new();
    while let Some(chunk) = futures::StreamExt::next(&mut snapshot.chunks).await {
        file.extend_from_slice(&chunk.unwrap());
    }
    let hash = store.hash_kv(Revision(0)).await.unwrap();
    assert_eq!(snapshot.hash_kv.unwrap().await.unwrap(), hash);
    (range(0).await.unwrap(), range(70).await.unwrap(), events, hash, file)
}

#[tokio::test]
async fn what_is_seen_does_not_depend_on_what_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_cache(dir.path(), usize::MAX);
    for n in 0..200 {
        store.txn(put(&format!("k{:02}", n % 60), &format!("{n}").repeat(n))).await.unwrap();
        if n % 20 == 19 {
            store.txn(delete(KeyRange::key(format!("k{:02}", n % 60)))).await.unwrap();
        }
    }
    store.compact(Revision(50), true).await.unwrap();
    let expected = seen(&store).await;
    assert_eq!(expected.0.kvs.len(), 57);
    store.shutdown();
    drop(store);
    for budget in [0, 20_000, usize::MAX] {
        let store = with_cache(dir.path(), budget);
        let found = seen(&store).await;
        assert_eq!(found.0, expected.0);
        assert_eq!(found.1, expected.1);
        assert_eq!(found.2, expected.2);
        assert_eq!(found.3, expected.3);
        // The log has grown by what opening adds; the rows are the same.
        assert_eq!(found.4.len(), expected.4.len());
    }
}

#[tokio::test]
async fn values_that_left_memory_are_read_compared_and_returned_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_cache(dir.path(), 0);
    store.txn(put("a", "old")).await.unwrap();
    store.compact(Revision(1), true).await.unwrap();
    store.forget_values().await;
    assert_eq!(get(&store, "a").await.as_deref(), Some("old"));
    let compare =
        Compare { range: KeyRange::key("a"), result: CompareResult::Equal, target: CompareTarget::Value("old".into()) };
    let new = Put { key: "a".into(), value: "new".into(), prev_kv: true, ..Put::default() };
    let mut watch = store.watch(WatchRequest { prev_kv: true, ..watch_all(0) }).await.unwrap();
    let txn = Txn { compare: vec![compare], success: vec![Op::Put(new)], ..Txn::default() };
    let response = store.txn(txn).await.unwrap();
    assert!(response.succeeded);
    let OpResponse::Put { prev_kv: Some(before) } = &response.responses[0] else { panic!("{response:?}") };
    assert_eq!(before.value, "old");
    let event = next(&mut watch).await.events.remove(0);
    assert_eq!(event.prev_kv.as_ref(), Some(before));
    store.forget_values().await;
    let kept = Put { key: "a".into(), ignore_value: true, ..Put::default() };
    store.txn(Txn { success: vec![Op::Put(kept)], ..Txn::default() }).await.unwrap();
    assert_eq!(get(&store, "a").await.as_deref(), Some("new"));
    let deleted = Op::Delete(DeleteRange { range: KeyRange::key("a"), prev_kv: true });
    store.forget_values().await;
    let response = store.txn(Txn { success: vec![deleted], ..Txn::default() }).await.unwrap();
    let OpResponse::Delete { prev_kvs, .. } = &response.responses[0] else { panic!("{response:?}") };
    assert_eq!(prev_kvs[0].value, "new");
}

#[tokio::test]
async fn reads_and_writes_go_on_while_the_state_file_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(with_cache(dir.path(), 0));
    let value = "v".repeat(10_000);
    for n in 0..300 {
        store.txn(put(&format!("k{:03}", n % 100), &value)).await.unwrap();
    }
    store.compact(Revision(301), true).await.unwrap();
    let before = store.status().await.unwrap().db_size_bytes;
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..50 {
                store.txn(put(&format!("k{n:03}"), "small")).await.unwrap();
                assert!(get(&store, "k099").await.is_some());
            }
        }
    });
    store.defragment().await.unwrap();
    writing.await.unwrap();
    let after = store.status().await.unwrap().db_size_bytes;
    assert!(after < before / 2, "{before} -> {after}");
    store.shutdown();
    drop(store);
    let store = with_cache(dir.path(), 0);
    assert_eq!(get(&store, "k010").await.as_deref(), Some("small"));
    assert_eq!(get(&store, "k099").await, Some(value));
}
