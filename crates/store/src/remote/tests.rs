//! Against a real etcd, where one is installed, and against our own server over the embedded store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::RemoteStore;
use crate::etcd::{Server, ServerConfig};
use crate::testing::Etcd;
use crate::{
    Compare, CompareResult, CompareTarget, DeleteRange, EmbeddedConfig, EmbeddedStore, EventKind, KeyRange, LeaseId,
    Op, OpResponse, Put, RangeRequest, Revision, Store, StoreError, Txn, Watch, WatchBatch, WatchRequest,
};

fn put(key: &str, value: &str) -> Txn {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    Txn { success: vec![Op::Put(put)], ..Default::default() }
}

fn connect(url: &str) -> RemoteStore {
    RemoteStore::connect(&[url.to_owned()], None).unwrap()
}

/// Runs a test against the URL of each kind of server.
async fn against_every_server<F: Future<Output = ()>>(test: impl Fn(String) -> F) {
    if let Some(etcd) = Etcd::start().await {
        test(etcd.endpoint()).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { data_dir: Some(dir.path().join("data")), ..EmbeddedConfig::default() };
    let store = Arc::new(EmbeddedStore::open(config).unwrap());
    let config = ServerConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..ServerConfig::default() };
    let server = Server::bind(store, config).await.unwrap();
    let url = format!("http://{}", server.addresses()[0]);
    let server = tokio::spawn(server.run(std::future::pending()));
    test(url).await;
    server.abort();
}

async fn next(watch: &mut Watch) -> WatchBatch {
    let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    batch.expect("no batch in 30 s").expect("the watch ended").expect("the watch failed")
}

/// Key and kind of every event, in order.
fn summary(batch: &WatchBatch) -> Vec<(String, EventKind)> {
    let key = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap();
    batch.events.iter().map(|event| (key(&event.kv.key), event.kind)).collect()
}

#[tokio::test]
async fn keys_are_written_read_compared_and_deleted() {
    against_every_server(|url| async move {
        let store = connect(&url);
        assert_eq!(store.current_revision().await.unwrap(), Revision(1));
        let first = store.txn(put("a", "1")).await.unwrap();
        assert_eq!((first.revision, first.succeeded), (Revision(2), true));

        let swap = |expected: i64| Txn {
            compare: vec![Compare {
                range: KeyRange::key("a"),
                result: CompareResult::Equal,
                target: CompareTarget::ModRevision(Revision(expected)),
            }],
            success: vec![Op::Put(Put { key: "a".into(), value: "2".into(), prev_kv: true, ..Default::default() })],
            failure: vec![Op::Range(RangeRequest { range: KeyRange::key("a"), ..Default::default() })],
        };
        let lost = store.txn(swap(1)).await.unwrap();
        assert!(!lost.succeeded);
        let [OpResponse::Range(current)] = &lost.responses[..] else { panic!("{lost:?}") };
        assert_eq!(current.kvs[0].mod_revision, Revision(2));
        let won = store.txn(swap(2)).await.unwrap();
        let [OpResponse::Put { prev_kv: Some(previous) }] = &won.responses[..] else { panic!("{won:?}") };
        assert_eq!((won.revision, &previous.value[..]), (Revision(3), &b"1"[..]));

        let old = RangeRequest { range: KeyRange::prefix("a"), revision: Revision(2), ..Default::default() };
        let old = store.range(old).await.unwrap();
        assert_eq!((old.revision, &old.kvs[0].value[..], old.count), (Revision(3), &b"1"[..], 1));

        let delete = DeleteRange { range: KeyRange::key("a"), prev_kv: true };
        let deleted = store.txn(Txn { success: vec![Op::Delete(delete)], ..Default::default() }).await.unwrap();
        let [OpResponse::Delete { deleted: 1, prev_kvs }] = &deleted.responses[..] else { panic!("{deleted:?}") };
        assert_eq!(prev_kvs[0].version, 2);
    })
    .await;
}

#[tokio::test]
async fn refusals_are_told_by_variant() {
    against_every_server(|url| async move {
        let store = connect(&url);
        for n in 0..5 {
            store.txn(put("a", &n.to_string())).await.unwrap();
        }
        let at =
            |revision| RangeRequest { range: KeyRange::key("a"), revision: Revision(revision), ..Default::default() };
        store.compact(Revision(4), false).await.unwrap();
        assert_eq!(store.range(at(3)).await.unwrap_err(), StoreError::Compacted { compact_revision: Revision(0) });
        assert_eq!(store.range(at(99)).await.unwrap_err(), StoreError::FutureRevision);
        assert_eq!(store.txn(put("", "x")).await.unwrap_err(), StoreError::InvalidArgument("key is not provided"));
        assert_eq!(store.lease_revoke(LeaseId(9)).await.unwrap_err(), StoreError::LeaseNotFound);
        let leased = Put { key: "b".into(), lease: LeaseId(9), ..Default::default() };
        let leased = Txn { success: vec![Op::Put(leased)], ..Default::default() };
        assert_eq!(store.txn(leased).await.unwrap_err(), StoreError::LeaseNotFound);
        let watch = WatchRequest { range: KeyRange::key("a"), start_revision: Revision(2), ..Default::default() };
        let mut watch = store.watch(watch).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap_err(), StoreError::Compacted { compact_revision: Revision(4) });
    })
    .await;
}

#[tokio::test]
async fn leases_are_granted_renewed_listed_and_revoked() {
    against_every_server(|url| async move {
        let store = connect(&url);
        let (id, ttl) = store.lease_grant(LeaseId(0), 100).await.unwrap();
        assert_eq!(ttl, 100);
        let leased = Put { key: "leased".into(), lease: id, ..Default::default() };
        store.txn(Txn { success: vec![Op::Put(leased)], ..Default::default() }).await.unwrap();
        assert_eq!(store.lease_keep_alive(id).await.unwrap(), 100);
        let status = store.lease_time_to_live(id, true).await.unwrap();
        assert_eq!((status.granted_ttl_seconds, status.keys), (100, vec![Bytes::from("leased")]));
        assert_eq!(store.lease_list().await.unwrap(), vec![id]);
        assert_eq!(store.lease_grant(id, 100).await.unwrap_err(), StoreError::LeaseExists);
        store.lease_revoke(id).await.unwrap();
        assert_eq!(store.lease_keep_alive(id).await.unwrap_err(), StoreError::LeaseNotFound);
        assert_eq!(store.lease_time_to_live(id, false).await.unwrap().ttl_seconds, -1);
        let gone = RangeRequest { range: KeyRange::key("leased"), ..Default::default() };
        assert_eq!(store.range(gone).await.unwrap().count, 0);
    })
    .await;
}

#[tokio::test]
async fn progress_is_told_after_everything_before_it() {
    against_every_server(|url| async move {
        let store = connect(&url);
        store.txn(put("a/1", "x")).await.unwrap();
        let request = WatchRequest { range: KeyRange::prefix("a/"), start_revision: Revision(2), ..Default::default() };
        let mut watch = store.watch(request).await.unwrap();
        store.txn(put("b", "x")).await.unwrap();
        store.txn(put("a/2", "x")).await.unwrap();
        store.txn(put("b", "y")).await.unwrap();
        let newest = store.current_revision().await.unwrap();
        watch.progress_requester().request();
        let mut seen = Vec::new();
        let progress = loop {
            let batch = next(&mut watch).await;
            if batch.events.is_empty() {
                break batch.revision;
            }
            seen.extend(summary(&batch));
        };
        assert_eq!(seen, [("a/1".to_owned(), EventKind::Put), ("a/2".to_owned(), EventKind::Put)]);
        assert!(progress >= newest, "{progress} is older than {newest}");
        watch.progress_requester().request();
        let again = next(&mut watch).await;
        assert_eq!((again.events.len(), again.revision), (0, newest));
    })
    .await;
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_server() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let store = connect(&etcd.endpoint());
    let request = WatchRequest { range: KeyRange::prefix("k"), prev_kv: true, ..Default::default() };
    let mut watch = store.watch(request).await.unwrap();
    let mut revisions = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            store.txn(put("k", &format!("{round} {n}"))).await.unwrap();
        }
        etcd.kill();
        assert!(etcd.run().await);
    }
    let last = store.current_revision().await.unwrap();
    while revisions.last() != Some(&last.0) {
        let batch = next(&mut watch).await;
        revisions.extend(batch.events.iter().map(|event| event.kv.mod_revision.0));
        for event in &batch.events {
            assert_eq!(event.prev_kv.is_some(), event.kv.version > 1);
        }
    }
    assert_eq!(revisions, (2..=61).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dead_member_is_passed_over() {
    let Some(etcd) = Etcd::start().await else { return };
    let dead = "http://127.0.0.1:1".to_owned();
    let store = RemoteStore::connect(&[dead.clone(), etcd.endpoint()], None).unwrap();
    store.txn(put("a", "1")).await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), Revision(2));

    let nobody = RemoteStore::connect(&[dead], None).unwrap();
    let error = tokio::time::timeout(Duration::from_secs(60), nobody.txn(put("a", "1"))).await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("cannot reach the store: "), "{error}");
}

#[tokio::test]
async fn the_member_tells_about_itself() {
    against_every_server(|url| async move {
        let store = connect(&url);
        store.txn(put("a", "1")).await.unwrap();
        let status = store.status().await.unwrap();
        assert_eq!((status.revision, status.leader_id), (Revision(2), status.member_id));
        assert_ne!(status.db_size_bytes, 0);
        let members = store.members().await.unwrap();
        assert_eq!((members.len(), members[0].id, &members[0].name[..]), (1, status.member_id, "default"));
        assert_eq!(store.alarms().await.unwrap(), vec![]);
        assert_eq!(store.hash_kv(Revision(0)).await.unwrap().hash_revision, Revision(2));
        store.defragment().await.unwrap();

        let mut snapshot = store.snapshot().await.unwrap();
        let mut len = 0;
        while let Some(chunk) = futures::StreamExt::next(&mut snapshot.chunks).await {
            len += chunk.unwrap().len() as u64;
        }
        assert_eq!(len, snapshot.size_bytes);
    })
    .await;
}

/// Reads a watch of everything up to revision `last`, asking for progress all the time; returns the revisions seen.
async fn collect(mut watch: Watch, last: Revision) -> Vec<i64> {
    let progress = watch.progress_requester();
    let mut revisions: Vec<i64> = Vec::new();
    let mut complete = Revision(0);
    while complete < last {
        progress.request();
        let batch = next(&mut watch).await;
        assert!(batch.revision >= complete, "progress went back from {complete} to {}", batch.revision);
        for event in &batch.events {
            assert!(event.kv.mod_revision > complete, "an event of {} after {complete}", event.kv.mod_revision);
            revisions.push(event.kv.mod_revision.0);
        }
        complete = batch.revision;
    }
    revisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_revision_once_while_many_write_and_progress_is_asked() {
    against_every_server(|url| async move {
        const WRITERS: usize = 8;
        const WRITES: usize = 150;
        let last = Revision(1 + (WRITERS * WRITES) as i64);
        let store = connect(&url);
        let all = |start| WatchRequest {
            range: KeyRange { start: "\0".into(), end: "\0".into() },
            start_revision: Revision(start),
            ..Default::default()
        };
        let mut watchers = Vec::new();
        for _ in 0..3 {
            watchers.push(tokio::spawn(collect(store.watch(all(0)).await.unwrap(), last)));
        }
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..WRITES {
                    store.txn(put(&format!("{writer}/{}", n % 5), &n.to_string())).await.unwrap();
                }
            })
        });
        for writer in futures::future::join_all(writers).await {
            writer.unwrap();
        }
        // One that starts in the past, with more to catch up than one round brings.
        watchers.push(tokio::spawn(collect(store.watch(all(2)).await.unwrap(), last)));
        let expected: Vec<i64> = (2..=last.0).collect();
        for watcher in watchers {
            assert_eq!(watcher.await.unwrap(), expected);
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_our_server_too() {
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap());
    let mut address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut watched: Option<(RemoteStore, Watch)> = None;
    let mut revisions = Vec::new();
    for round in 0..3 {
        let config = ServerConfig { listen: vec![address.into()], ..ServerConfig::default() };
        let server = Server::bind(Arc::clone(&store) as Arc<dyn Store>, config).await.unwrap();
        address = server.addresses()[0];
        let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async move { drop(stopping.await) }));
        if watched.is_none() {
            let remote = connect(&format!("http://{address}"));
            let request = WatchRequest { range: KeyRange::prefix("k"), ..Default::default() };
            let watch = remote.watch(request).await.unwrap();
            watched = Some((remote, watch));
        }
        let (remote, watch) = watched.as_mut().unwrap();
        remote.txn(put("k", &round.to_string())).await.unwrap();
        revisions.extend(next(watch).await.events.iter().map(|event| event.kv.mod_revision.0));
        drop(stop);
        server.await.unwrap();
        // Written while nobody serves: the watch learns of it after the restart, together with or before the next one.
        store.txn(put("k", "in between")).await.unwrap();
    }
    assert_eq!(revisions, (2..2 + revisions.len() as i64).collect::<Vec<_>>());
    assert!(revisions.len() >= 3, "{revisions:?}");
}
