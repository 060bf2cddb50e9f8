//! The JSON gateway, locks and elections, by hand over HTTP and gRPC.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::tests::Served;
use super::{Origins, ServerConfig};
use crate::proto::v3electionpb as epb;
use crate::proto::v3electionpb::election_client::ElectionClient;
use crate::proto::v3lockpb as lpb;
use crate::proto::v3lockpb::lock_client::LockClient;
use crate::{AuthConfig, EmbeddedConfig, EmbeddedStore, KeyRange, Op, Put, RangeRequest, Store, Txn};

async fn served() -> (Served, Arc<EmbeddedStore>) {
    let auth = AuthConfig::parse("simple", Duration::ZERO, 4).unwrap();
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig { auth, ..EmbeddedConfig::default() }).unwrap());
    let served = Served::over(store.clone(), ServerConfig::default(), Box::new(())).await;
    (served, store)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn open(served: &Served, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
    let len = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    socket
}

async fn send(served: &Served, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut socket = open(served, method, path, headers, body).await;
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn post(served: &Served, path: &str, body: Value) -> Answer {
    send(served, "POST", path, "", &body.to_string()).await
}

/// The lines of a stream as they come.
struct Lines {
    socket: TcpStream,
    text: String,
}

impl Lines {
    async fn open(served: &Served, path: &str, body: &str) -> Self {
        Self { socket: open(served, "POST", path, "", body).await, text: String::new() }
    }

    /// Skips what is not JSON: the head, and the sizes of chunks.
    async fn next(&mut self) -> Value {
        loop {
            while let Some((line, rest)) = self.text.split_once('\n') {
                let value = line.starts_with('{').then(|| serde_json::from_str(line).unwrap());
                self.text = rest.to_owned();
                if let Some(value) = value {
                    return value;
                }
            }
            let mut part = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(30), self.socket.read(&mut part)).await;
            let n_bytes = read.expect("no line in 30 s").unwrap();
            assert!(n_bytes > 0, "the stream ended: {}", self.text);
            self.text.push_str(std::str::from_utf8(&part[..n_bytes]).unwrap());
        }
    }
}

#[tokio::test]
async fn json_goes_in_and_out_as_upstream() {
    let (served, _store) = served().await;
    let put = post(&served, "/v3/kv/put", json!({"key": "Zm9v", "value": "YmFy"})).await;
    assert_eq!(put.status, 200);
    assert!(put.head.to_lowercase().contains("content-type: application/json"), "{}", put.head);
    assert_eq!(put.json()["header"]["revision"], "2");
    let range = post(&served, "/v3/kv/range", json!({"key": "Zm9v"})).await.json();
    let kv = json!({"key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"});
    assert_eq!((&range["kvs"], &range["count"]), (&json!([kv]), &json!("1")));
    let txn = json!({
        "compare": [{"key": "Zm9v", "target": "VALUE", "result": "EQUAL", "value": "YmFy"}],
        "success": [{"requestRange": {"key": "Zm9v"}}, {"request_put": {"key": "YQ==", "value": "MQ=="}}],
    });
    let txn = post(&served, "/v3beta/kv/txn", txn).await.json();
    assert_eq!((&txn["succeeded"], txn["responses"].as_array().unwrap().len()), (&json!(true), 2));
    let status = send(&served, "POST", "/v3/maintenance/status", "", "").await.json();
    assert_eq!((&status["version"], &status["storageVersion"]), (&json!("3.6.13"), &json!("3.6.0")));
    let snapshot = send(&served, "POST", "/v3/maintenance/snapshot", "", "{}").await;
    let lines: Vec<_> = snapshot.body.lines().filter(|line| line.starts_with("{\"result\":")).collect();
    assert!(lines.len() >= 2 && lines[0].contains("\"blob\":\""), "{} lines", lines.len());
}

#[tokio::test]
async fn errors_are_json_with_grpcs_code() {
    let (served, _store) = served().await;
    let cases = [
        ("/v3/kv/put", "{}", 400, 3, "etcdserver: key is not provided"),
        ("/v3/lease/revoke", r#"{"ID":"9"}"#, 404, 5, "etcdserver: requested lease not found"),
        (
            "/v3/kv/range",
            r#"{"key":"YQ==","revision":99}"#,
            400,
            11,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        ("/v3/auth/authenticate", r#"{"name":"a"}"#, 400, 9, "etcdserver: authentication is not enabled"),
        ("/v3/no/such", "{}", 404, 5, "Not Found"),
    ];
    for (path, body, status, code, message) in cases {
        let answer = send(&served, "POST", path, "", body).await;
        assert_eq!((answer.status, answer.json()), (status, json!({"code": code, "message": message})), "{path}");
    }
    let malformed = send(&served, "POST", "/v3/kv/put", "", "{\"key\"").await;
    assert_eq!((malformed.status, &malformed.json()["code"]), (400, &json!(3)));
    let got = send(&served, "GET", "/v3/kv/put", "", "").await;
    assert_eq!((got.status, got.json()), (501, json!({"code": 12, "message": "Method Not Allowed"})));
    assert_eq!(send(&served, "POST", "/v4/kv/put", "", "{}").await.status, 404);
}

#[tokio::test]
async fn a_watch_is_lines_of_results_and_outlives_its_request() {
    let (served, _store) = served().await;
    let mut watch = Lines::open(&served, "/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#).await;
    let created = watch.next().await;
    assert_eq!(created["result"]["created"], true);
    for value in ["MQ==", "Mg=="] {
        post(&served, "/v3/kv/put", json!({"key": "Zm9v", "value": value})).await;
        let event = watch.next().await;
        assert_eq!(event["result"]["events"][0]["kv"]["value"], value, "{event}");
    }
    post(&served, "/v3/kv/deleterange", json!({"key": "Zm9v"})).await;
    assert_eq!(watch.next().await["result"]["events"][0]["type"], "DELETE");
    let mut broken = Lines::open(&served, "/v3/watch", r#"{"create_request":{"key":"Zm9v"}} nonsense"#).await;
    assert_eq!(broken.next().await["result"]["created"], true);
    assert_eq!(broken.next().await["error"]["code"], 3);
}

#[tokio::test]
async fn keep_alives_are_answered_one_by_one() {
    let (served, _store) = served().await;
    let granted = post(&served, "/v3/lease/grant", json!({"TTL": 60, "ID": 7})).await.json();
    assert_eq!((&granted["ID"], &granted["TTL"]), (&json!("7"), &json!("60")));
    let alive = send(&served, "POST", "/v3/lease/keepalive", "", r#"{"ID":7}{"ID":"8"}"#).await;
    let answers: Vec<Value> = alive
        .body
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2, "{}", alive.body);
    assert_eq!(answers[0]["result"]["TTL"], "60");
    assert_eq!((&answers[1]["result"]["ID"], answers[1]["result"].get("TTL")), (&json!("8"), None));
    let leases = send(&served, "POST", "/v3/kv/lease/leases", "", "").await.json();
    assert_eq!(leases["leases"], json!([{"ID": "7"}]));
}

#[tokio::test]
async fn a_token_in_the_authorization_header_counts() {
    let (served, _store) = served().await;
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "pw"})),
        ("role/add", json!({"name": "root"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("enable", json!({})),
    ] {
        let answer = post(&served, &format!("/v3/auth/{path}"), body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let refused = post(&served, "/v3/kv/range", json!({"key": "YQ=="})).await;
    assert_eq!((refused.status, &refused.json()["message"]), (400, &json!("etcdserver: user name is empty")));
    let login = post(&served, "/v3/auth/authenticate", json!({"name": "root", "password": "pw"})).await.json();
    let token = login["token"].as_str().unwrap();
    for header in ["Authorization: ", "Authorization: Bearer ", "Grpc-Metadata-Token: "] {
        let headers = format!("{header}{token}\r\n");
        let answer = send(&served, "POST", "/v3/kv/range", &headers, r#"{"key":"YQ=="}"#).await;
        assert_eq!(answer.status, 200, "{header}: {}", answer.body);
    }
    let wrong = send(&served, "POST", "/v3/kv/range", "Authorization: x\r\n", r#"{"key":"YQ=="}"#).await;
    assert_eq!((wrong.status, &wrong.json()["code"]), (401, &json!(16)));
    assert_eq!(served.get("/health").await.1, r#"{"health":"true","reason":""}"#, "probes need no user");
}

#[tokio::test]
async fn a_lock_has_one_owner_and_the_next_waits_its_turn() {
    let (served, store) = served().await;
    let mut locks = LockClient::new(served.channel().await);
    let mut leases = Vec::new();
    for id in [11, 12, 13] {
        leases.push(store.lease_grant(crate::LeaseId(id), 60).await.unwrap().0);
    }
    let lock = |lease: crate::LeaseId| lpb::LockRequest { name: "l".into(), lease: lease.0 };
    let first = locks.lock(lock(leases[0])).await.unwrap().into_inner();
    assert_eq!(&first.key[..], b"l/b");
    let again = locks.lock(lock(leases[0])).await.unwrap().into_inner();
    assert_eq!(again.key, first.key, "who has it has it");
    let mut others = [locks.clone(), locks.clone()];
    let [second, third] = &mut others;
    let mut second = Box::pin(second.lock(lock(leases[1])));
    assert!(tokio::time::timeout(Duration::from_millis(100), second.as_mut()).await.is_err(), "it waits");
    let mut third = Box::pin(third.lock(lock(leases[2])));
    assert!(tokio::time::timeout(Duration::from_millis(100), third.as_mut()).await.is_err(), "it waits");
    // A client that gives up leaves the queue.
    drop(second);
    let queued = || store.range(RangeRequest { range: KeyRange::prefix("l/"), ..Default::default() });
    let left = async {
        while queued().await.unwrap().count > 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left).await.unwrap();
    locks.unlock(lpb::UnlockRequest { key: first.key }).await.unwrap();
    let third = tokio::time::timeout(Duration::from_secs(30), third).await.unwrap().unwrap().into_inner();
    assert_eq!(&third.key[..], b"l/d");
    let made = locks.lock(lpb::LockRequest { name: "other".into(), lease: 0 }).await.unwrap().into_inner();
    assert!(made.key.starts_with(b"other/"), "a lease is made for who brings none");
    let unknown = locks.lock(lpb::LockRequest { name: "l".into(), lease: 99 }).await.unwrap_err();
    assert_eq!(unknown.message(), "etcdserver: requested lease not found");
}

#[tokio::test]
async fn leaders_follow_each_other_and_are_observed() {
    let (served, store) = served().await;
    let mut elections = ElectionClient::new(served.channel().await);
    for id in [1, 2] {
        store.lease_grant(crate::LeaseId(id), 60).await.unwrap();
    }
    let name = || bytes::Bytes::from("e");
    let leader = || epb::LeaderRequest { name: name() };
    let nobody = elections.leader(leader()).await.unwrap_err();
    assert_eq!((nobody.code(), nobody.message()), (tonic::Code::Unknown, "election: no leader"));
    let mut observed = elections.observe(leader()).await.unwrap().into_inner();
    let campaign = |lease, value: &'static str| epb::CampaignRequest { name: name(), lease, value: value.into() };
    let first = elections.campaign(campaign(1, "one")).await.unwrap().into_inner().leader.unwrap();
    assert_eq!((&first.key[..], first.lease), (&b"e/1"[..], 1));
    let mut other = elections.clone();
    let mut second = Box::pin(other.campaign(campaign(2, "two")));
    assert!(tokio::time::timeout(Duration::from_millis(100), second.as_mut()).await.is_err(), "it waits");
    let proclaim = epb::ProclaimRequest { leader: Some(first.clone()), value: "uno".into() };
    elections.proclaim(proclaim.clone()).await.unwrap();
    let current = elections.leader(leader()).await.unwrap().into_inner().kv.unwrap();
    assert_eq!(&current.value[..], b"uno");
    elections.resign(epb::ResignRequest { leader: Some(first) }).await.unwrap();
    let second = second.await.unwrap().into_inner().leader.unwrap();
    assert_eq!(&second.key[..], b"e/2");
    let refused = elections.proclaim(proclaim).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unknown, "election: not leader"));
    let missing = elections.resign(epb::ResignRequest { leader: None }).await.unwrap_err();
    assert_eq!(missing.message(), "\"leader\" field must be provided");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|value| value != b"two") {
        let next = tokio::time::timeout(Duration::from_secs(30), observed.message()).await.unwrap();
        seen.push(next.unwrap().unwrap().kv.unwrap().value.to_vec());
    }
    assert_eq!(seen, [&b"one"[..], b"uno", b"two"]);
}

#[tokio::test]
async fn pages_of_listed_origins_may_ask_and_strange_names_are_refused() {
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::default()).unwrap());
    let one = |name: &str| [name.to_owned()].into();
    let origins = Origins { cors: one("http://page.example:80"), hosts: one("x") };
    let served = Served::over(store, ServerConfig { origins, ..ServerConfig::default() }, Box::new(())).await;
    let origin = "Origin: http://page.example:80\r\n";
    let asked = send(&served, "OPTIONS", "/v3/kv/put", origin, "").await;
    assert_eq!((asked.status, &*asked.body), (200, ""));
    for line in [
        "access-control-allow-origin: http://page.example:80",
        "access-control-allow-methods: POST, GET, OPTIONS, PUT, DELETE",
        "access-control-allow-headers: accept, content-type, authorization",
    ] {
        assert!(asked.head.contains(line), "{}", asked.head);
    }
    let put = send(&served, "POST", "/v3/kv/put", origin, r#"{"key":"YQ=="}"#).await;
    assert!(put.status == 200 && put.head.contains("access-control-allow-origin"), "{}", put.head);
    let stranger = send(&served, "GET", "/version", "Origin: http://other.example\r\n", "").await;
    assert!(stranger.status == 200 && !stranger.head.contains("access-control"), "{}", stranger.head);

    let mut socket = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
    socket.write_all(b"GET /version HTTP/1.1\r\nHost: evil.example:2379\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 421") && text.contains("--host-whitelist \"evil.example\""), "{text}");
}

#[tokio::test]
async fn a_page_watches_over_a_web_socket() {
    let (served, store) = served().await;
    let socket = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
    let url = |path: &str| format!("{}{path}", served.url.replace("http://", "ws://"));
    let (mut socket, _) = tokio_tungstenite::client_async(url("/v3/watch"), socket).await.unwrap();
    let create = json!({ "create_request": { "key": "YQ==" } }).to_string();
    socket.send(Message::text(create)).await.unwrap();
    let mut next = async || -> Value {
        let message = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    };
    assert_eq!(next().await["result"]["created"], true);
    let put = Op::Put(Put { key: "a".into(), value: "1".into(), ..Put::default() });
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
    assert_eq!(next().await["result"]["events"][0]["kv"]["value"], "MQ==");

    let socket = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(url("/v3/kv/range"), socket).await.unwrap();
    socket.send(Message::text(r#"{"key":"YQ=="}"#)).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    let answer: Value = serde_json::from_str(answer.to_text().unwrap()).unwrap();
    assert_eq!(answer["kvs"][0]["value"], "MQ==");
    assert!(matches!(socket.next().await, None | Some(Ok(Message::Close(_)))), "there is nothing more to say");
}
