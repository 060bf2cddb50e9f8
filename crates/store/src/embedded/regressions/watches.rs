//! What watchers of etcd's missed, got twice or too early.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::embedded::tests::{delete, next, put, watch_all};
use crate::etcd::{Server, ServerConfig};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::*;

fn memory() -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap())
}

/// One stream of watches at a server of the store.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    async fn open(store: &Arc<EmbeddedStore>) -> Self {
        let config = ServerConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            progress_interval: std::time::Duration::from_millis(50),
            ..ServerConfig::default()
        };
        let server = Server::bind(store.clone() as Arc<dyn Store>, config).await.unwrap();
        let url = format!("http://{}", server.addresses()[0]);
        tokio::spawn(server.run(std::future::pending()));
        let (requests, queued) = mpsc::channel(256);
        let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
        let responses = WatchClient::new(channel).watch(ReceiverStream::new(queued)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn create(&self, start_revision: i64) {
        let (key, range_end) = ("\0".into(), "\0".into());
        let create =
            pb::WatchCreateRequest { key, range_end, start_revision, progress_notify: true, ..Default::default() };
        self.ask(RequestUnion::CreateRequest(create)).await;
    }

    async fn ask_for_progress(&self) {
        self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let message = tokio::time::timeout(std::time::Duration::from_secs(30), self.responses.message());
        message.await.expect("a response").unwrap().unwrap()
    }
}

fn revisions(response: &pb::WatchResponse) -> Vec<i64> {
    response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).collect()
}

fn header_revision(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_15220_and_17507_progress_never_overtakes_events() {
    const N_WRITES: i64 = 400;
    let store = memory();
    let mut stream = Stream::open(&store).await;
    stream.create(0).await;
    assert!(stream.next().await.created);
    // The second one has a past to catch up with while progress is asked for.
    stream.create(2).await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..N_WRITES {
                store.txn(put("a", &n.to_string())).await.unwrap();
            }
        }
    });
    let mut delivered = [1, 1];
    let mut n_told = 0;
    while delivered != [1 + N_WRITES; 2] || n_told == 0 {
        stream.ask_for_progress().await;
        let response = stream.next().await;
        let header = header_revision(&response);
        let seen = revisions(&response);
        match usize::try_from(response.watch_id) {
            // Progress of all watches of the stream.
            Err(_) => {
                assert!(
                    delivered.iter().all(|delivered| *delivered >= header),
                    "{header} is told, {delivered:?} are there"
                );
                n_told += 1;
            }
            Ok(_) if response.created => {}
            Ok(watch) if seen.is_empty() => {
                assert!(delivered[watch] >= header, "watch {watch} at {delivered:?}: {header}")
            }
            Ok(watch) => {
                for revision in seen {
                    assert_eq!(revision, delivered[watch] + 1, "watch {watch}");
                    delivered[watch] = revision;
                }
            }
        }
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn etcd_17247_every_event_is_one_whether_read_from_memory_or_from_the_state_file() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        EmbeddedConfig { data_dir: Some(dir.path().to_owned()), value_cache_bytes: 0, ..EmbeddedConfig::default() };
    let store = EmbeddedStore::open(config).unwrap();
    let mut expected = Vec::new();
    for n in 0..60_i64 {
        // A key that comes and goes, and another one beside it.
        let mut txn = super::two_puts("a", "b", &n.to_string());
        let is_removal = n % 3 == 2;
        if is_removal {
            txn.success[0] = Op::Delete(DeleteRange { range: KeyRange::key("a"), prev_kv: false });
        }
        store.txn(txn).await.unwrap();
        let kind = if is_removal { EventKind::Delete } else { EventKind::Put };
        expected.extend([(2 + n, "a", kind), (2 + n, "b", EventKind::Put)]);
        if n % 7 == 0 {
            store.writer.flush().await.unwrap();
        }
    }
    for forgets in [false, true] {
        if forgets {
            store.forget_values().await;
        }
        let mut watch = store.watch(watch_all(2)).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let batch = next(&mut watch).await;
            seen.extend(batch.events.into_iter().map(|event| (event.kv.mod_revision.0, event.kv.key, event.kind)));
        }
        let seen: Vec<_> = seen.iter().map(|(at, key, kind)| (*at, std::str::from_utf8(key).unwrap(), *kind)).collect();
        assert_eq!(seen, expected, "forgets: {forgets}");
        let all = KeyRange { start: "\0".into(), end: "\0".into() };
        let kvs = store.range(RangeRequest { range: all, ..RangeRequest::default() }).await.unwrap().kvs;
        assert_eq!(kvs.len(), 1, "forgets: {forgets}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_17529_watches_on_a_stream_that_is_not_read_miss_nothing() {
    const N_WATCHES: usize = 50;
    const N_WRITES: i64 = 300;
    let store = memory();
    let mut stream = Stream::open(&store).await;
    for _ in 0..N_WATCHES {
        stream.create(2).await;
    }
    let mut n_created = 0;
    while n_created < N_WATCHES {
        n_created += usize::from(stream.next().await.created);
    }
    // Far more than the connection's windows hold: 50 times 300 times 2 KB.
    let value = "v".repeat(2000);
    for _ in 0..N_WRITES {
        store.txn(put("a", &value)).await.unwrap();
    }
    let mut delivered = [1; N_WATCHES];
    while delivered != [1 + N_WRITES; N_WATCHES] {
        let response = stream.next().await;
        let Ok(watch) = usize::try_from(response.watch_id) else { continue };
        assert!(!response.canceled, "{response:?}");
        for revision in revisions(&response) {
            assert_eq!(revision, delivered[watch] + 1, "watch {watch}");
            delivered[watch] = revision;
        }
    }
}

/// A key is put at 2 and deleted at 3; another one follows.
async fn put_and_deleted(store: &EmbeddedStore) {
    store.txn(put("a", "1")).await.unwrap();
    store.txn(delete(KeyRange::key("a"))).await.unwrap();
    store.txn(put("b", "1")).await.unwrap();
}

async fn first_event(store: &EmbeddedStore, start_revision: i64) -> (EventKind, i64) {
    let mut watch = store.watch(watch_all(start_revision)).await.unwrap();
    let event = next(&mut watch).await.events.remove(0);
    (event.kind, event.kv.mod_revision.0)
}

#[tokio::test]
async fn etcd_18089_a_deletion_survives_the_compaction_at_its_revision() {
    for physical in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let config = || EmbeddedConfig {
            data_dir: Some(dir.path().to_owned()),
            value_cache_bytes: 0,
            ..EmbeddedConfig::default()
        };
        let store = EmbeddedStore::open(config()).unwrap();
        put_and_deleted(&store).await;
        store.compact(Revision(3), physical).await.unwrap();
        assert_eq!(first_event(&store, 3).await, (EventKind::Delete, 3));
        store.crash();
        let store = EmbeddedStore::open(config()).unwrap();
        assert_eq!(first_event(&store, 3).await, (EventKind::Delete, 3), "after a crash too");
        store.forget_values().await;
        assert_eq!(first_event(&store, 3).await, (EventKind::Delete, 3), "out of the state file too");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_19179_a_watch_opened_while_its_revision_is_compacted_gets_the_deletion_there() {
    for _round in 0..20 {
        let store = memory();
        put_and_deleted(&store).await;
        let (first, compacted) = tokio::join!(first_event(&store, 3), store.compact(Revision(3), true));
        compacted.unwrap();
        assert_eq!(first, (EventKind::Delete, 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_20221_a_watch_in_the_future_hears_neither_events_nor_progress_before_it() {
    const START: i64 = 40;
    let store = memory();
    let mut stream = Stream::open(&store).await;
    stream.create(START).await;
    assert!(stream.next().await.created);
    for n in 2..=START {
        stream.ask_for_progress().await;
        store.txn(put("a", &n.to_string())).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.is_empty() {
        let response = stream.next().await;
        assert!(header_revision(&response) >= START, "{response:?}");
        seen.extend(revisions(&response));
    }
    assert_eq!(seen, BTreeSet::from([START]));
}
