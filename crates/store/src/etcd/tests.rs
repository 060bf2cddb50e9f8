//! The server under etcd's own client and under ours, over each store there is. Where etcd or etcdctl is not installed, the
//! tests that need them say so and pass.

use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::tls::Acceptor;
use super::{Listen, Server, ServerConfig, ServerTls, Serves};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_client::HealthClient;
use crate::testing::Etcd;
use crate::{EmbeddedConfig, EmbeddedStore, Op, Put, RemoteStore, RemoteTls, Revision, Store, Txn};

/// A server on a free port, and what has to live as long.
pub(super) struct Served {
    pub(super) url: String,
    stop: Option<oneshot::Sender<()>>,
    stopped: tokio::task::JoinHandle<()>,
    _behind: Box<dyn std::any::Any + Send>,
}

impl Served {
    pub(super) async fn over(
        store: Arc<dyn Store>,
        config: ServerConfig,
        behind: Box<dyn std::any::Any + Send>,
    ) -> Self {
        let config = ServerConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..config };
        let server = Server::bind(store, config).await.unwrap();
        let url = format!("http://{}", server.addresses()[0]);
        let (stop, stopping) = oneshot::channel();
        let stopped = tokio::spawn(server.run(async move { drop(stopping.await) }));
        Self { url, stop: Some(stop), stopped, _behind: behind }
    }

    pub(super) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url.clone()).unwrap().connect().await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> (String, String) {
        let mut socket = tokio::net::TcpStream::connect(self.url.strip_prefix("http://").unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

/// Runs a test over every store, with short progress intervals.
pub(super) async fn over_every_store<F: Future<Output = ()>>(test: impl Fn(Served) -> F) {
    let config = || ServerConfig { progress_interval: Duration::from_millis(100), ..Default::default() };
    if let Some(etcd) = Etcd::start().await {
        let store = RemoteStore::connect(&[etcd.endpoint()], None).unwrap();
        test(Served::over(Arc::new(store), config(), Box::new(etcd)).await).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let embedded = EmbeddedConfig { data_dir: Some(dir.path().join("data")), ..EmbeddedConfig::default() };
    let store = EmbeddedStore::open(embedded).unwrap();
    test(Served::over(Arc::new(store), config(), Box::new(dir)).await).await;
}

/// `None`, with a message, where etcdctl is not installed.
pub(super) async fn etcdctl(served: &Served, args: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("etcdctl");
    // Without its scheme: etcdctl 3.4 puts some endpoints as they are into `:authority`, where a scheme is malformed.
    let endpoint = served.url.strip_prefix("http://").unwrap();
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoint}")).args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let Ok(output) = output else {
        eprintln!("skipped: etcdctl is not installed");
        return None;
    };
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let is_log = |line: &str| line.starts_with("{\"level\"");
    let lines: Vec<_> = text.lines().filter(|line| !is_log(line)).collect();
    Some((output.status.success(), lines.join("\n")))
}

/// Runs commands in turn and compares what they print.
pub(super) async fn session(served: &Served, commands: &[(&str, &str)]) {
    for (command, expected) in commands {
        let args: Vec<_> = command.split(' ').collect();
        let Some((_, printed)) = etcdctl(served, &args).await else { return };
        assert_eq!(printed.trim_end(), *expected, "etcdctl {command}");
    }
}

#[tokio::test]
async fn etcdctl_reads_and_writes() {
    over_every_store(|served| async move {
        session(
            &served,
            &[
                ("put a 1", "OK"),
                ("put ab 2", "OK"),
                ("put b 3", "OK"),
                ("get a", "a\n1"),
                ("get a --prefix", "a\n1\nab\n2"),
                ("get a b0", "a\n1\nab\n2\nb\n3"),
                ("get a --from-key --keys-only", "a\n\nab\n\nb"),
                ("get a --prefix --sort-by=VALUE --order=DESCEND", "ab\n2\na\n1"),
                ("get a --prefix --limit=1", "a\n1"),
                ("put a 4 --prev-kv", "OK\na\n1"),
                ("get a --rev=2", "a\n1"),
                ("put nothing --ignore-value", "Error: etcdserver: key not found"),
                ("put a x --lease=999", "Error: etcdserver: requested lease not found"),
                ("del a --prefix --prev-kv", "2\na\n4\nab\n2"),
                ("get a --prefix", ""),
                ("get a --rev=99", "Error: etcdserver: mvcc: required revision is a future revision"),
                ("compact 4", "compacted revision 4"),
                ("compact 3", "Error: etcdserver: mvcc: required revision has been compacted"),
                ("get a --rev=2", "Error: etcdserver: mvcc: required revision has been compacted"),
                ("compact 6", "compacted revision 6"),
                ("lock name echo held", "held"),
            ],
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn etcdctl_grants_and_revokes_leases() {
    over_every_store(|served| async move {
        let Some((_, granted)) = etcdctl(&served, &["lease", "grant", "100"]).await else { return };
        let id = granted.split(' ').nth(1).unwrap();
        assert_eq!(granted.trim_end(), format!("lease {id} granted with TTL(100s)"));
        let commands = [
            (format!("put a 1 --lease={id}"), "OK".to_owned()),
            (format!("lease keep-alive --once {id}"), format!("lease {id} keepalived with TTL(100)")),
            ("lease list".to_owned(), format!("found 1 leases\n{id}")),
            (format!("lease revoke {id}"), format!("lease {id} revoked")),
            ("get a".to_owned(), String::new()),
            (format!("lease timetolive {id}"), format!("lease {id} already expired")),
            (
                format!("lease revoke {id}"),
                "Error: failed to revoke lease (etcdserver: requested lease not found)".to_owned(),
            ),
        ];
        for (command, expected) in &commands {
            session(&served, &[(command, expected)]).await;
        }
        let keys = ["lease", "timetolive", id, "--keys"];
        let (_, gone) = etcdctl(&served, &keys).await.unwrap();
        assert_eq!(gone.trim_end(), format!("lease {id} already expired"));
    })
    .await;
}

#[tokio::test]
async fn etcdctl_sees_status_members_health_and_alarms() {
    over_every_store(|served| async move {
        session(&served, &[("put a 1", "OK"), ("alarm list", ""), ("alarm disarm", "")]).await;
        let Some((_, status)) = etcdctl(&served, &["endpoint", "status", "-w", "fields"]).await else { return };
        for line in ["\"Revision\" : 2", "\"Version\" : \"3.6.13\"", "\"IsLearner\" : false", "\"Errors\" : []"] {
            assert!(status.contains(line), "{line} in {status}");
        }
        let (healthy, text) = etcdctl(&served, &["endpoint", "health"]).await.unwrap();
        assert!(healthy && text.contains("is healthy: successfully committed proposal"), "{text}");
        let (_, members) = etcdctl(&served, &["member", "list"]).await.unwrap();
        assert_eq!(members.trim_end().lines().count(), 1, "{members}");
        assert!(members.contains("started"), "{members}");
        let wrong = ["member", "update", "1", "--peer-urls=http://127.0.0.1:1"];
        let (updated, text) = etcdctl(&served, &wrong).await.unwrap();
        assert!(!updated && text.contains("etcdserver: member not found"), "{text}");
        let (hashed, text) = etcdctl(&served, &["endpoint", "hashkv"]).await.unwrap();
        assert!(hashed, "{text}");
        let (defragmented, text) = etcdctl(&served, &["defrag"]).await.unwrap();
        assert!(defragmented, "{text}");
    })
    .await;
}

#[tokio::test]
async fn etcdctl_saves_a_snapshot_that_etcd_restores() {
    over_every_store(|served| async move {
        for n in 0..300 {
            let request = pb::PutRequest {
                key: format!("k{n:04}").into(),
                value: "v".repeat(1 + n * 40).into(),
                ..Default::default()
            };
            KvClient::new(served.channel().await).put(request).await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let Some((saved, text)) = etcdctl(&served, &["snapshot", "save", &path("db")]).await else { return };
        assert!(saved, "{text}");
        let (_, status) = etcdctl(&served, &["snapshot", "status", &path("db")]).await.unwrap();
        assert_eq!(status.split(", ").nth(1), Some("301"), "{status}");
        let data = path("data");
        let (restored, text) =
            etcdctl(&served, &["snapshot", "restore", &path("db"), "--data-dir", &data]).await.unwrap();
        assert!(restored, "{text}");
        let Some(etcd) = Etcd::start_in(Path::new(&data)).await else { return };
        let restored = RemoteStore::connect(&[etcd.endpoint()], None).unwrap();
        let original = RemoteStore::connect(std::slice::from_ref(&served.url), None).unwrap();
        let everything = || crate::RangeRequest { range: crate::KeyRange::prefix("k"), ..Default::default() };
        assert_eq!(restored.range(everything()).await.unwrap(), original.range(everything()).await.unwrap());
        let newest = Revision(301);
        assert_eq!(restored.hash_kv(newest).await.unwrap(), original.hash_kv(newest).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn transactions_are_checked_and_answered_as_etcd_does() {
    over_every_store(|served| async move {
        let mut kv = KvClient::new(served.channel().await);
        let op = |request| pb::RequestOp { request: Some(request) };
        let put = |key: &str| {
            op(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: key.to_owned().into(),
                value: "v".into(),
                ..Default::default()
            }))
        };
        let range = |key: &str| {
            op(pb::request_op::Request::RequestRange(pb::RangeRequest {
                key: key.to_owned().into(),
                ..Default::default()
            }))
        };
        let nested = pb::TxnRequest { success: vec![put("b"), range("a")], ..Default::default() };
        let absent = pb::Compare {
            key: "a".into(),
            target: pb::compare::CompareTarget::Version.into(),
            target_union: Some(pb::compare::TargetUnion::Version(0)),
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![absent],
            success: vec![put("a"), op(pb::request_op::Request::RequestTxn(nested))],
            failure: vec![range("a")],
        };
        let response = kv.txn(txn).await.unwrap().into_inner();
        let header = response.header.unwrap();
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
        assert_eq!((header.revision, response.succeeded, response.responses.len()), (2, true, 2));
        let Some(pb::response_op::Response::ResponseTxn(inner)) = &response.responses[1].response else {
            panic!("{response:?}")
        };
        let Some(pb::response_op::Response::ResponseRange(read)) = &inner.responses[1].response else {
            panic!("{response:?}")
        };
        assert_eq!((&read.kvs[0].key[..], read.kvs[0].mod_revision, read.count), (&b"a"[..], 2, 1));

        let mut refused = async |success: Vec<pb::RequestOp>| {
            let txn = pb::TxnRequest { success, ..Default::default() };
            let status = kv.txn(txn).await.unwrap_err();
            (status.code(), status.message().to_owned())
        };
        let invalid = |text: &str| (Code::InvalidArgument, format!("etcdserver: {text}"));
        assert_eq!(refused(vec![put("a"), put("a")]).await, invalid("duplicate key given in txn request"));
        assert_eq!(refused(vec![range("a"); 129]).await, invalid("too many operations in txn request"));
        assert_eq!(refused(vec![put("")]).await, invalid("key is not provided"));
        assert_eq!(refused(vec![pb::RequestOp { request: None }]).await, invalid("key not found"));
        let large = pb::PutRequest { key: "a".into(), value: vec![0; 1_572_864].into(), ..Default::default() };
        let status = kv.put(large).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
        let sorted = pb::RangeRequest { key: "a".into(), sort_order: 9, ..Default::default() };
        assert_eq!(kv.range(sorted).await.unwrap_err().message(), "etcdserver: invalid sort option");
    })
    .await;
}

#[tokio::test]
async fn a_streamed_range_brings_the_same_as_a_range() {
    over_every_store(|served| async move {
        let mut kv = KvClient::new(served.channel().await);
        for n in 0..100 {
            let value = vec![b'x'; 60_000].into();
            kv.put(pb::PutRequest { key: format!("k{n:03}").into(), value, ..Default::default() }).await.unwrap();
        }
        for limit in [0, 1, 37, 100, 200] {
            let request = pb::RangeRequest { key: "k".into(), range_end: "l".into(), limit, ..Default::default() };
            let mut pieces = kv.range_stream(request.clone()).await.unwrap().into_inner();
            let mut streamed = pb::RangeResponse::default();
            while let Some(piece) = pieces.message().await.unwrap() {
                let piece = piece.range_response.unwrap();
                streamed.kvs.extend(piece.kvs);
                (streamed.header, streamed.more, streamed.count) = (piece.header, piece.more, piece.count);
            }
            let mut whole = KvClient::new(served.channel().await).max_decoding_message_size(usize::MAX);
            assert_eq!(streamed, whole.range(request).await.unwrap().into_inner(), "limit {limit}");
        }
    })
    .await;
}

/// A watch stream by hand.
struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(served: &Served) -> Self {
        let (requests, queued) = mpsc::channel(8);
        let mut client = WatchClient::new(served.channel().await);
        // The server answers a stream's opening with its first response, so the opening must not be waited for alone.
        let responses = client.watch(ReceiverStream::new(queued)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, request: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let response = tokio::time::timeout(Duration::from_secs(30), self.responses.message()).await;
        response.expect("no response in 30 s").unwrap().expect("the stream ended")
    }
}

fn watch_of(key: &str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), start_revision, ..Default::default() }
}

#[tokio::test]
async fn watchers_are_numbered_refused_and_cancelled_as_etcd_does() {
    over_every_store(|served| async move {
        let mut watching = Watching::open(&served).await;
        let created = watching.create(watch_of("a", 0)).await;
        assert_eq!((created.watch_id, created.created, created.canceled), (0, true, false));
        assert_eq!(created.header.unwrap().revision, 1);
        assert_eq!(watching.create(pb::WatchCreateRequest { watch_id: 1, ..watch_of("a", 0) }).await.watch_id, 1);
        assert_eq!(watching.create(watch_of("a", 0)).await.watch_id, 2);

        let refused = |response: pb::WatchResponse| {
            assert!(response.created && response.canceled && response.watch_id == -1, "{response:?}");
            response.cancel_reason
        };
        let duplicate = watching.create(pb::WatchCreateRequest { watch_id: 1, ..watch_of("a", 0) }).await;
        assert_eq!(refused(duplicate), "mvcc: duplicate watch ID provided on the WatchStream");
        let empty = pb::WatchCreateRequest { range_end: "a".into(), ..watch_of("b", 0) };
        assert_eq!(refused(watching.create(empty).await), "mvcc: watcher range is empty");
        let negative = watching.create(watch_of("a", -1)).await;
        assert_eq!(refused(negative), "etcdserver: mvcc: required revision has been compacted");

        watching.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 1 })).await;
        let cancelled = watching.next().await;
        assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.cancel_reason), (1, true, String::new()));

        let mut kv = KvClient::new(served.channel().await);
        for _ in 0..3 {
            kv.put(pb::PutRequest { key: "b".into(), ..Default::default() }).await.unwrap();
        }
        kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();
        let created = watching.create(watch_of("b", 2)).await;
        assert_eq!((created.watch_id, created.created, created.canceled), (3, true, false));
        let compacted = watching.next().await;
        assert_eq!((compacted.watch_id, compacted.canceled, compacted.compact_revision), (3, true, 3));
    })
    .await;
}

#[tokio::test]
async fn events_come_once_in_order_and_before_the_progress_that_covers_them() {
    over_every_store(|served| async move {
        let mut kv = KvClient::new(served.channel().await);
        let mut put = async |key: &str, value: &str| {
            let request =
                pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
            kv.put(request).await.unwrap().into_inner().header.unwrap().revision
        };
        put("a", "1").await;
        let mut watching = Watching::open(&served).await;
        let create = pb::WatchCreateRequest { prev_kv: true, progress_notify: true, ..watch_of("a", 2) };
        assert!(watching.create(create).await.created);
        for n in 0..20 {
            put("b", "x").await;
            put("a", &n.to_string()).await;
        }
        let newest = put("b", "last").await;
        watching.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        let mut revisions = Vec::new();
        let progress = loop {
            let response = watching.next().await;
            let revision = response.header.unwrap().revision;
            if response.watch_id == -1 {
                break revision;
            }
            for event in response.events {
                let kv = event.kv.unwrap();
                assert_eq!(event.prev_kv.is_some(), kv.version > 1);
                revisions.push(kv.mod_revision);
                assert!(revision >= kv.mod_revision);
            }
        };
        let expected: Vec<i64> = [2].into_iter().chain((0..20).map(|n| 4 + 2 * n)).collect();
        assert_eq!(revisions, expected);
        assert!(progress <= newest);

        // And unasked, from time to time.
        let notified = loop {
            let response = watching.next().await;
            if response.watch_id == 0 && response.events.is_empty() {
                break response.header.unwrap().revision;
            }
        };
        assert_eq!(notified, newest);
    })
    .await;
}

#[tokio::test]
async fn one_transaction_is_one_response_unless_fragments_are_asked_for() {
    over_every_store(|served| async move {
        let mut watching = Watching::open(&served).await;
        let all = pb::WatchCreateRequest { range_end: "\0".into(), ..watch_of("\0", 0) };
        assert!(watching.create(all).await.created);
        let ops = (0..100).map(|n| {
            let put = pb::PutRequest { key: format!("k{n:03}").into(), ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        });
        let txn = pb::TxnRequest { success: ops.collect(), ..Default::default() };
        KvClient::new(served.channel().await).txn(txn).await.unwrap();
        let response = watching.next().await;
        assert_eq!((response.events.len(), response.fragment), (100, false));

        let only_deletes = pb::WatchCreateRequest {
            range_end: "\0".into(),
            filters: vec![pb::watch_create_request::FilterType::Noput.into()],
            ..watch_of("\0", 2)
        };
        let mut deletes = Watching::open(&served).await;
        assert!(deletes.create(only_deletes).await.created);
        let delete = pb::DeleteRangeRequest { key: "k001".into(), ..Default::default() };
        KvClient::new(served.channel().await).delete_range(delete).await.unwrap();
        let event = deletes.next().await.events.remove(0);
        let kv = event.kv.clone().unwrap();
        assert_eq!((event.r#type, &kv.key[..], kv.mod_revision, kv.version), (1, &b"k001"[..], 3, 0));
    })
    .await;
}

#[tokio::test]
async fn pages_tell_health_and_version() {
    over_every_store(|served| async move {
        let ok = |body: &str| ("HTTP/1.1 200 OK".to_owned(), body.to_owned());
        assert_eq!(served.get("/health").await, ok(r#"{"health":"true","reason":""}"#));
        assert_eq!(served.get("/health?serializable=true&exclude=NOSPACE").await.0, "HTTP/1.1 200 OK");
        let version = r#"{"etcdserver":"3.6.13","etcdcluster":"3.6.0","storage":"3.6.0"}"#;
        assert_eq!(served.get("/version").await, ok(version));
        assert_eq!(served.get("/livez").await, ok("ok\n"));
        let verbose = "[+]data_corruption ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
        assert_eq!(served.get("/readyz?verbose&exclude=serializable_read").await, ok(verbose));
        assert_eq!(served.get("/readyz/non_learner").await, ok("ok\n"));
        assert_eq!(served.get("/readyz/nonsense").await.0, "HTTP/1.1 404 Not Found");
        let (status, metrics) = served.get("/metrics").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        let expected = [
            "etcd_server_has_leader 1",
            "etcd_server_health_success 2",
            r#"etcd_server_version{server_version="3.6.13"} 1"#,
            r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 0"#,
        ];
        for line in expected {
            assert!(metrics.lines().any(|found| found == line), "{line}");
        }
        assert_eq!(served.get("/").await.0, "HTTP/1.1 404 Not Found");

        let mut health = HealthClient::new(served.channel().await);
        let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status;
        assert_eq!(status, 1);
        let unknown = HealthCheckRequest { service: "x".to_owned() };
        assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    })
    .await;
}

#[tokio::test]
async fn stopping_ends_watches_with_a_reason() {
    over_every_store(|mut served| async move {
        let mut watching = Watching::open(&served).await;
        assert!(watching.create(watch_of("a", 0)).await.created);
        drop(served.stop.take());
        let status = watching.responses.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
        served.stopped.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_full_store_refuses_writes_until_its_alarm_is_lowered() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        EmbeddedConfig { data_dir: Some(dir.path().join("data")), quota_bytes: 16 << 20, ..EmbeddedConfig::default() };
    let store = Arc::new(EmbeddedStore::open(config).unwrap());
    let served = Served::over(store, ServerConfig::default(), Box::new(dir)).await;
    let mut kv = KvClient::new(served.channel().await);
    let value = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let mut revision = 1;
    let refused = loop {
        let request = pb::PutRequest { key: "a".into(), value: value.clone(), ..Default::default() };
        match kv.put(request).await {
            Ok(response) => revision = response.into_inner().header.unwrap().revision,
            Err(status) => break status,
        }
        assert!(revision < 200, "the quota is never reached");
    };
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
    let Some((_, alarms)) = etcdctl(&served, &["alarm", "list"]).await else { return };
    assert!(alarms.trim_end().ends_with("alarm:NOSPACE"), "{alarms}");
    let unhealthy = (
        "HTTP/1.1 503 Service Unavailable".to_owned(),
        "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n".to_owned(),
    );
    assert_eq!(served.get("/health").await, unhealthy);
    assert_eq!(served.get("/health?exclude=NOSPACE").await.0, "HTTP/1.1 200 OK");
    session(
        &served,
        &[
            ("del a", "1"),
            (&format!("compact {} --physical", revision + 1), &format!("compacted revision {}", revision + 1)),
        ],
    )
    .await;
    let (defragmented, text) = etcdctl(&served, &["defrag"]).await.unwrap();
    assert!(defragmented, "{text}");
    let (_, disarmed) = etcdctl(&served, &["alarm", "disarm"]).await.unwrap();
    assert!(disarmed.trim_end().ends_with("alarm:NOSPACE"), "{disarmed}");
    session(&served, &[("put a again", "OK"), ("alarm list", "")]).await;
}

/// A certificate authority and what it has signed, in PEM.
pub(super) struct Authority {
    pub(super) pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Certificate and key.
    pub(super) fn sign(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

#[tokio::test]
async fn over_tls_only_clients_of_the_authority_are_served() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let ca = authority.pem.clone().into_bytes();
    let tls = ServerTls::new(certificate, key, Some(ca.clone().into()));
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap());
    let served = Served::over(store, ServerConfig { tls: Some(tls), ..Default::default() }, Box::new(())).await;
    let url = served.url.replace("http://127.0.0.1", "https://localhost");

    let connect = |identity: Option<(Vec<u8>, Vec<u8>)>| {
        let identity = identity.map(|(certificate, key)| (certificate.into(), key.into()));
        let tls = RemoteTls { ca: ca.clone().into(), identity, server_name: None };
        RemoteStore::connect(std::slice::from_ref(&url), Some(tls)).unwrap()
    };
    let known = connect(Some(authority.sign("client")));
    assert_eq!(known.current_revision().await.unwrap(), Revision(1));
    let put = Put { key: "a".into(), value: "1".into(), ..Default::default() };
    let put = Txn { success: vec![Op::Put(put)], ..Default::default() };
    assert_eq!(known.txn(put.clone()).await.unwrap().revision, Revision(2));

    for identity in [None, Some(Authority::new().sign("client"))] {
        // A write, so that it is not repeated once the connection has been made and broken.
        let refused = tokio::time::timeout(Duration::from_secs(60), connect(identity).txn(put.clone())).await.unwrap();
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(known.current_revision().await.unwrap(), Revision(2));
}

#[test]
fn unusable_certificates_are_told() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let refused = |tls: ServerTls| Acceptor::new(&tls).err().map(|error| error.to_string()).unwrap_or_default();
    let no_certificate = ServerTls::new(b"nothing".to_vec(), key.clone(), None);
    assert_eq!(refused(no_certificate), "tls: server certificate: no certificate in the PEM text");
    let other_key = ServerTls::new(certificate, authority.sign("x").1, None);
    assert!(refused(other_key).starts_with("tls: server certificate and key: "));
    let missing = |name: &str| std::path::PathBuf::from(format!("/nonexistent/{name}"));
    let missing = refused(ServerTls::new(missing("cert"), missing("key"), None));
    assert!(missing.starts_with("tls: reading /nonexistent/cert: "), "{missing}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_the_next_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let install = |authority: &Authority| {
        let (certificate, key) = authority.sign("localhost");
        for (name, text) in [("cert.pem", certificate), ("key.pem", key)] {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), dir.path().join(name)).unwrap();
        }
    };
    install(&old);
    let tls = ServerTls::new(dir.path().join("cert.pem"), dir.path().join("key.pem"), None);
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap());
    let served = Served::over(store, ServerConfig { tls: Some(tls), ..Default::default() }, Box::new(())).await;
    let url = served.url.replace("http://127.0.0.1", "https://localhost");
    let trusting = |authority: &Authority| {
        let tls = RemoteTls { ca: authority.pem.clone().into_bytes().into(), identity: None, server_name: None };
        RemoteStore::connect(std::slice::from_ref(&url), Some(tls)).unwrap()
    };
    assert_eq!(trusting(&old).current_revision().await, Ok(Revision(1)));
    install(&new);
    assert_eq!(trusting(&new).current_revision().await, Ok(Revision(1)));
}

#[tokio::test]
async fn a_client_shows_the_certificate_that_its_files_hold_now() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let install = |by: &Authority| {
        let (certificate, key) = by.sign("client");
        for (name, text) in
            [("ca.pem", authority.pem.clone().into_bytes()), ("cert.pem", certificate), ("key.pem", key)]
        {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), dir.path().join(name)).unwrap();
        }
    };
    install(&authority);
    let (certificate, key) = authority.sign("localhost");
    let tls = ServerTls::new(certificate, key, Some(authority.pem.clone().into_bytes().into()));
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap());
    let served = Served::over(store, ServerConfig { tls: Some(tls), ..Default::default() }, Box::new(())).await;
    let url = served.url.replace("http://127.0.0.1", "https://localhost");
    let file = |name: &str| crate::Pem::from(dir.path().join(name));
    let tls = RemoteTls { ca: file("ca.pem"), identity: Some((file("cert.pem"), file("key.pem"))), server_name: None };
    let store = RemoteStore::connect(&[url], Some(tls)).unwrap();
    let put = Put { key: "a".into(), value: "1".into(), ..Default::default() };
    let put = Txn { success: vec![Op::Put(put)], ..Default::default() };
    assert_eq!(store.txn(put.clone()).await.unwrap().revision, Revision(2));
    install(&stranger);
    assert!(store.txn(put.clone()).await.is_err(), "the server does not know who signed this one");
    install(&authority);
    assert_eq!(store.txn(put).await.unwrap().revision, Revision(3));
    std::fs::write(dir.path().join("key.pem"), "half a ke").unwrap();
    assert_eq!(store.current_revision().await.unwrap(), Revision(3), "what cannot be used is not");
}

#[tokio::test]
async fn an_address_for_metrics_offers_nothing_else() {
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap());
    let any: Listen = "127.0.0.1:0".parse().unwrap();
    let listen = vec![Listen { serves: Serves::Metrics, ..any }, Listen { serves: Serves::Grpc, ..any }];
    let server = Server::bind(store, ServerConfig { listen, ..Default::default() }).await.unwrap();
    let [metrics, grpc] = *server.addresses() else { panic!("two addresses") };
    let serving = tokio::spawn(server.run(std::future::pending()));
    let get = |address: std::net::SocketAddr, path: &'static str| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(get(metrics, "/health").await, "200");
    assert_eq!(get(metrics, "/readyz/serializable_read").await, "200");
    assert_eq!(get(metrics, "/version").await, "404");
    assert_eq!(get(grpc, "/health").await, "404");
    serving.abort();
}
