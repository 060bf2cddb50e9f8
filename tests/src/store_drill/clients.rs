//! Clients of a cluster under a drill: they write, read and watch, and remember everything they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use rand::Rng as _;
use store::proto::etcdserverpb as pb;
use store::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use store::proto::etcdserverpb::kv_client::KvClient;
use store::proto::etcdserverpb::request_op::Request;
use store::proto::etcdserverpb::watch_client::WatchClient;
use store::proto::etcdserverpb::watch_request::RequestUnion;
use store::proto::mvccpb;
use tonic::transport::{Channel, Endpoint};

use super::history::{Answer, Ask, Call, Change, Found, NUMBER_KEY, Revisions};

const N_KEYS: usize = 6;
/// Between two calls of a client: the drill shares its machine with the members.
const PAUSE: Duration = Duration::from_millis(2);
/// After this, the outcome of a call is unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection that says nothing is given up, so that watches notice that their member is cut off.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What all clients share.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) start: Instant,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) clients_end: AtomicBool,
    pub(super) watches_end: AtomicBool,
    next_number: AtomicU64,
}

impl Book {
    pub(super) fn new() -> Self {
        let (clients_end, watches_end) = (false.into(), false.into());
        Self { start: Instant::now(), calls: Mutex::default(), clients_end, watches_end, next_number: 1.into() }
    }
}

pub(super) fn channel(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

/// One client: a call after the other, to the next member when one did not answer.
pub(super) async fn work(book: Arc<Book>, members: Vec<Channel>, first: usize) {
    let mut at = first;
    // The newest revision of each key that this client has heard of.
    let mut heard: BTreeMap<String, i64> = BTreeMap::new();
    while !book.clients_end.load(Ordering::Relaxed) {
        let ask = next_ask(&book, &heard);
        let invoked = book.start.elapsed();
        let member = KvClient::new(members[at % members.len()].clone());
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, call(member, &ask)).await;
        let returned = book.start.elapsed();
        let answer = match answered {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                at += 1;
                None
            }
        };
        if let (Ask::Read { key, .. }, Some(answer)) = (&ask, &answer) {
            heard.insert(key.clone(), answer.found.as_ref().map_or(0, |found| found.mod_revision));
        }
        let returned = answer.is_some().then_some(returned);
        book.calls.lock().push(Call { invoked, returned, ask, answer });
        tokio::time::sleep(PAUSE).await;
    }
}

fn next_ask(book: &Book, heard: &BTreeMap<String, i64>) -> Ask {
    let mut chance = rand::rng();
    let mut key = || format!("k{}", chance.random_range(0..N_KEYS));
    let (first, second) = (key(), key());
    let kind = chance.random_range(0..10);
    if kind < 3 {
        return Ask::Read { key: first, serializable: kind == 0 };
    }
    let number = book.next_number.fetch_add(1, Ordering::Relaxed);
    let value = Some(number.to_string());
    let mut changes = BTreeMap::from([(first.clone(), if kind == 3 { None } else { value.clone() })]);
    if kind == 4 {
        changes.insert(second, value);
    }
    let only_if = (kind >= 7).then(|| (first.clone(), heard.get(&first).copied().unwrap_or(0)));
    Ask::Write { number, changes, only_if }
}

async fn call(mut member: KvClient<Channel>, ask: &Ask) -> Result<Answer> {
    match ask {
        Ask::Read { key, serializable } => {
            let request =
                pb::RangeRequest { key: key.clone().into(), serializable: *serializable, ..Default::default() };
            let response = member.range(request).await?.into_inner();
            let revision = response.header.context("a header")?.revision;
            Ok(Answer { revision, found: response.kvs.first().map(found), done: false })
        }
        Ask::Write { number, changes, only_if } => {
            let response = member.txn(txn(*number, changes, only_if.as_ref())).await?.into_inner();
            let revision = response.header.context("a header")?.revision;
            Ok(Answer { revision, found: None, done: response.succeeded })
        }
    }
}

fn found(kv: &mvccpb::KeyValue) -> Found {
    let value = String::from_utf8_lossy(&kv.value).into_owned();
    Found { value, mod_revision: kv.mod_revision, version: kv.version }
}

fn txn(number: u64, changes: &BTreeMap<String, Option<String>>, only_if: Option<&(String, i64)>) -> pb::TxnRequest {
    let put = |key: &str, value: &str| {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        Request::RequestPut(pb::PutRequest { key, value, ..Default::default() })
    };
    let mut ops = vec![put(NUMBER_KEY, &number.to_string())];
    ops.extend(changes.iter().map(|(key, value)| match value {
        Some(value) => put(key, value),
        None => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone().into(), ..Default::default() }),
    }));
    let compare = only_if.map(|(key, revision)| pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone().into(),
        target_union: Some(TargetUnion::ModRevision(*revision)),
        ..Default::default()
    });
    let success = ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect();
    pb::TxnRequest { compare: compare.into_iter().collect(), success, ..Default::default() }
}

/// What one member's watch has told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) revisions: Revisions,
    pub(super) wrong: Vec<String>,
    /// Connections it took.
    pub(super) n_streams: usize,
}

impl Told {
    /// Takes a response's events. No revision is left out, told twice, or split over two responses.
    fn take(&mut self, events: &[mvccpb::Event]) {
        let mut newest = self.revisions.newest();
        for event in events {
            let Some(kv) = &event.kv else { continue };
            let is_put = event.r#type() == mvccpb::event::EventType::Put;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let change: Change = (text(&kv.key), is_put.then(|| text(&kv.value)));
            let is_first = kv.mod_revision == self.revisions.newest() + 1;
            if is_first {
                self.revisions.0.push(vec![change]);
            } else if kv.mod_revision == self.revisions.newest() && newest < kv.mod_revision {
                self.revisions.0.last_mut().into_iter().for_each(|changes| changes.push(change.clone()));
            } else {
                self.wrong.push(format!("revision {} is told after {}", kv.mod_revision, self.revisions.newest()));
                newest = newest.max(kv.mod_revision);
            }
        }
    }
}

/// Watches everything through one member, again from where it was whenever the connection breaks.
pub(super) async fn watch(book: Arc<Book>, member: Channel, told: Arc<Mutex<Told>>) {
    while !book.watches_end.load(Ordering::Relaxed) {
        told.lock().n_streams += 1;
        let _broken = watch_once(&book, member.clone(), &told).await;
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn watch_once(book: &Book, member: Channel, told: &Mutex<Told>) -> Result<()> {
    let start_revision = told.lock().revisions.newest() + 1;
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision,
        prev_kv: true,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open.
    let requests = futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let mut responses = WatchClient::new(member).watch(requests).await?.into_inner();
    while !book.watches_end.load(Ordering::Relaxed) {
        let Ok(response) = tokio::time::timeout(ANSWER_TIMEOUT, responses.message()).await else { continue };
        let response = response?.context("the stream ended")?;
        let mut told = told.lock();
        if response.canceled && response.compact_revision > start_revision {
            told.wrong.push(format!("{start_revision} is compacted before everybody has seen it: {response:?}"));
            return Ok(());
        }
        told.take(&response.events);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_leaves_out_repeats_or_splits_a_revision_is_found() {
        let events = |revisions: &[i64]| -> Vec<mvccpb::Event> {
            let event = |revision: &i64| {
                let kv = mvccpb::KeyValue { key: "a".into(), mod_revision: *revision, ..Default::default() };
                mvccpb::Event { kv: Some(kv), ..Default::default() }
            };
            revisions.iter().map(event).collect()
        };
        let told = |responses: &[&[i64]]| {
            let mut told = Told::default();
            responses.iter().for_each(|response| told.take(&events(response)));
            (told.revisions.0.len(), told.wrong.len())
        };
        assert_eq!(told(&[&[2, 2, 3], &[4, 5, 5]]), (4, 0));
        assert_eq!(told(&[&[2, 4]]), (1, 1), "left out");
        assert_eq!(told(&[&[2, 3], &[3]]), (2, 1), "split or repeated");
        assert_eq!(told(&[&[2, 3], &[2]]), (2, 1), "back in time");
    }
}
