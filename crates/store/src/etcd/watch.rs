//! The Watch service. One stream of responses serves all watchers of a stream of requests, so what the client sees is in the
//! order in which it happened: `created` before events, events before the progress that covers them. The response stream is
//! asked for the next response by whoever writes to the connection, so a slow client holds back its own stream only, and an event
//! passes no task between the store's hub and the connection. A task beside it listens to the client and the clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tonic::{Code, Request, Response, Status, Streaming};

use super::shared::{Shared, requires_leader};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::{Delivery, KeyRange, ProgressRequester, Revision, SharedBatch, Store, StoreError, WatchRequest, WatchSink};

/// Requests that may wait until the client has taken the responses before.
const REQUESTS_QUEUED: usize = 32;
/// Batches that may wait for a slow client, for all watchers of a stream together; with more, the watchers that are due are fed
/// from the history later. The batches are shared with other streams, so this bounds places, not events.
const DELIVERIES_QUEUED: usize = 16_384;
/// Deliveries looked at before the first of them is sent.
const DELIVERIES_AT_ONCE: usize = 128;
/// A watcher that lags gets what is waiting for it in one response, up to about this size.
const MERGED_BYTES_MAX: usize = 64 * 1024;
/// The id of a response that belongs to no watcher.
const NO_WATCHER: i64 = -1;

pub(super) struct WatchService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::watch_server::Watch for WatchService {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.admit_stream(&request)?;
        let leader_required = requires_leader(&request);
        let (news, heard) = mpsc::channel(REQUESTS_QUEUED);
        let (sink, deliveries) = WatchSink::channel(DELIVERIES_QUEUED);
        let session = Session {
            shared: Arc::clone(&self.0),
            store: self.0.store_for(&request),
            heard,
            sink,
            deliveries,
            ready: VecDeque::new(),
            failure: None,
            watchers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_id: 0,
            next_token: 0,
            progress_wanted: false,
        };
        let streams = self.0.metrics.watch_streams.clone();
        let listening = listen(Arc::clone(&self.0), request.into_inner(), leader_required, news);
        tokio::spawn(async move {
            streams.inc();
            listening.await;
            streams.dec();
        });
        Ok(Response::new(futures::stream::unfold(session, Session::next).boxed()))
    }
}

/// What a stream hears besides deliveries.
enum News {
    Request(pb::WatchRequest),
    /// Watchers that want it are to be told progress, if they had no events since the last time.
    NotifyDue,
    /// The server ends the stream.
    End(StoreError),
}

/// Listens until the client is gone or the stream has to end.
async fn listen(
    shared: Arc<Shared>,
    mut requests: Streaming<pb::WatchRequest>,
    leader_required: bool,
    news: mpsc::Sender<News>,
) {
    let mut states = shared.states();
    let mut notify = tokio::time::interval(shared.config.progress_interval);
    notify.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let must_end = Shared::must_end(&mut states, leader_required);
    tokio::pin!(must_end);
    // A client that has said all it wants to say still listens.
    let mut has_more = true;
    loop {
        let heard = tokio::select! {
            request = requests.message(), if has_more => match request {
                Ok(Some(request)) => News::Request(request),
                Ok(None) => {
                    has_more = false;
                    continue;
                }
                Err(_client_gone) => return,
            },
            _ = notify.tick() => News::NotifyDue,
            error = &mut must_end => News::End(error),
            () = news.closed() => return,
        };
        let is_last = matches!(heard, News::End(_));
        if news.send(heard).await.is_err() || is_last {
            return;
        }
    }
}

struct Session {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    heard: mpsc::Receiver<News>,
    /// Where all watchers of this stream deliver to, each with a token as its tag.
    sink: WatchSink,
    deliveries: mpsc::Receiver<Delivery>,
    /// Responses to be sent next.
    ready: VecDeque<pb::WatchResponse>,
    /// What ends the stream, once everything ready is sent.
    failure: Option<StoreError>,
    /// By token, which tells a watcher from an earlier one with the same id.
    watchers: BTreeMap<u64, Watcher>,
    /// The token of each id in use.
    tokens: BTreeMap<i64, u64>,
    next_id: i64,
    next_token: u64,
    /// The client asked for the progress of the stream as a whole and has not been answered.
    progress_wanted: bool,
}

struct Watcher {
    id: i64,
    /// Dropped with the watcher, which ends the watch.
    progress: ProgressRequester,
    fragment: bool,
    /// The client wants to be told progress from time to time.
    notify: bool,
    /// No events since the last time progress was due.
    quiet: bool,
    notify_pending: bool,
    /// How far this watcher has come, once it has said so in answer to the stream's progress request.
    told: Option<Revision>,
}

impl Session {
    /// The next response; `None` when the stream is over.
    async fn next(mut self) -> Option<(Result<pb::WatchResponse, Status>, Self)> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some((Ok(response), self));
            }
            if let Some(error) = self.failure.take() {
                self.heard.close();
                self.watchers.clear();
                return Some((Err(error.into()), self));
            }
            let done = tokio::select! {
                Some(delivery) = self.deliveries.recv() => self.deliver_waiting(delivery).await,
                news = self.heard.recv() => match news? {
                    News::Request(request) => self.handle(request).await,
                    News::NotifyDue => {
                        self.ask_quiet_watchers();
                        Ok(())
                    }
                    News::End(error) => Err(error),
                },
            };
            self.failure = done.err();
        }
    }

    async fn deliver_waiting(&mut self, first: Delivery) -> Result<(), StoreError> {
        self.deliver(first).await?;
        for _ in 1..DELIVERIES_AT_ONCE {
            let Ok(next) = self.deliveries.try_recv() else { break };
            self.deliver(next).await?;
        }
        Ok(())
    }

    async fn handle(&mut self, request: pb::WatchRequest) -> Result<(), StoreError> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => {
                self.begin_progress();
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), StoreError> {
        let now = self.revision().await?;
        let range = watched(create.key, create.range_end);
        let request = match self.check(create.start_revision, create.watch_id, &range) {
            Err(reason) => {
                self.refuse(now, reason);
                return Ok(());
            }
            Ok(()) => WatchRequest {
                range,
                // "From now on" means after the revision in the answer, so that the client can go on from there.
                start_revision: Revision(if create.start_revision == 0 { now.0 + 1 } else { create.start_revision }),
                prev_kv: create.prev_kv,
                no_put: create.filters.contains(&FilterType::Noput.into()),
                no_delete: create.filters.contains(&FilterType::Nodelete.into()),
            },
        };
        let token = self.next_token;
        self.next_token += 1;
        let progress = match self.store.watch_into(request, self.sink.tagged(token)).await {
            Ok(progress) => Ok(progress),
            Err(StoreError::Compacted { compact_revision }) => Err(compact_revision),
            Err(error) if ends_stream(&error) => return Err(error),
            Err(error) => {
                self.refuse(now, refusal(error));
                return Ok(());
            }
        };
        let id = self.take_id(create.watch_id);
        self.respond(now, pb::WatchResponse { watch_id: id, created: true, ..Default::default() });
        let progress = match progress {
            Ok(progress) => progress,
            Err(compact_revision) => return self.end_compacted(id, compact_revision).await,
        };
        if self.progress_wanted {
            progress.request();
        }
        self.tokens.insert(id, token);
        let watcher = Watcher {
            id,
            progress,
            fragment: create.fragment,
            notify: create.progress_notify,
            quiet: false,
            notify_pending: false,
            told: None,
        };
        self.watchers.insert(token, watcher);
        Ok(())
    }

    /// Why a watcher cannot be made, in etcd's words.
    fn check(&self, start_revision: i64, id: i64, range: &KeyRange) -> Result<(), String> {
        if start_revision < 0 {
            return Err(StoreError::Compacted { compact_revision: Revision(0) }.to_string());
        }
        if !range.end.is_empty() && range.end != b"\0"[..] && range.start >= range.end {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        if id != 0 && self.tokens.contains_key(&id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
        }
        Ok(())
    }

    fn take_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.tokens.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn refuse(&mut self, now: Revision, cancel_reason: String) {
        let refused = pb::WatchResponse {
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        };
        self.respond(now, refused);
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), StoreError> {
        let Some(token) = self.tokens.remove(&watch_id) else { return Ok(()) };
        self.watchers.remove(&token);
        let now = self.revision().await?;
        self.respond(now, pb::WatchResponse { watch_id, canceled: true, ..Default::default() });
        self.answer_progress();
        Ok(())
    }

    async fn deliver(&mut self, Delivery { tag: token, outcome }: Delivery) -> Result<(), StoreError> {
        let Some(watcher) = self.watchers.get_mut(&token) else { return Ok(()) };
        let batch = match outcome {
            Ok(batch) => batch,
            Err(error) => return self.end_watcher(token, error).await,
        };
        let watch_id = watcher.id;
        if batch.is_empty() {
            watcher.told = Some(batch.revision);
            if std::mem::take(&mut watcher.notify_pending) {
                self.respond(batch.revision, pb::WatchResponse { watch_id, ..Default::default() });
            }
            self.answer_progress();
            return Ok(());
        }
        watcher.quiet = false;
        self.shared.metrics.events.inc_by(batch.n_events() as u64);
        if watcher.fragment {
            self.respond_in_fragments(watch_id, &batch);
        } else {
            self.respond_events(watch_id, &batch);
        }
        Ok(())
    }

    /// Events in as many responses as the request limit asks for.
    fn respond_in_fragments(&mut self, watch_id: i64, batch: &SharedBatch) {
        let mut pieces = batch.encoded().pieces(self.shared.config.request_bytes_max).into_iter().peekable();
        while let Some(piece) = pieces.next() {
            let fragment = pieces.peek().is_some();
            let encoded_events = vec![piece];
            self.respond(
                batch.revision,
                pb::WatchResponse { watch_id, fragment, encoded_events, ..Default::default() },
            );
        }
    }

    /// Events in one response, together with those that already wait for the same watcher.
    fn respond_events(&mut self, watch_id: i64, batch: &SharedBatch) {
        let events = batch.encoded().whole();
        let header = self.shared.header(batch.revision);
        let last = self.ready.back_mut().filter(|last| last.watch_id == watch_id && !last.encoded_events.is_empty());
        if let Some(last) = last {
            let n_bytes: usize = last.encoded_events.iter().map(Bytes::len).sum();
            if n_bytes + events.len() <= MERGED_BYTES_MAX {
                last.header = header;
                last.encoded_events.push(events);
                return;
            }
        }
        let encoded_events = vec![events];
        self.respond(batch.revision, pb::WatchResponse { watch_id, encoded_events, ..Default::default() });
    }

    async fn end_watcher(&mut self, token: u64, error: StoreError) -> Result<(), StoreError> {
        if ends_stream(&error) {
            return Err(error);
        }
        let Some(Watcher { id: watch_id, .. }) = self.watchers.remove(&token) else { return Ok(()) };
        self.tokens.remove(&watch_id);
        if let StoreError::Compacted { compact_revision } = error {
            return self.end_compacted(watch_id, compact_revision).await;
        }
        let now = self.revision().await?;
        let cancel_reason = error.to_string();
        self.respond(now, pb::WatchResponse { watch_id, canceled: true, cancel_reason, ..Default::default() });
        self.answer_progress();
        Ok(())
    }

    async fn end_compacted(&mut self, watch_id: i64, compact_revision: Revision) -> Result<(), StoreError> {
        let now = self.revision().await?;
        let compact_revision = compact_revision.0;
        self.respond(now, pb::WatchResponse { watch_id, canceled: true, compact_revision, ..Default::default() });
        self.answer_progress();
        Ok(())
    }

    /// Asks every watcher how far it has come; the stream is answered when all have said so.
    fn begin_progress(&mut self) {
        if !self.progress_wanted {
            self.progress_wanted = !self.watchers.is_empty();
            self.watchers.values_mut().for_each(|watcher| watcher.told = None);
        }
        let silent = self.watchers.values().filter(|watcher| watcher.told.is_none());
        silent.for_each(|watcher| watcher.progress.request());
    }

    fn answer_progress(&mut self) {
        if !self.progress_wanted {
            return;
        }
        // The least of them: no watcher has anything older to come.
        let told = self.watchers.values().map(|watcher| watcher.told);
        let Some(least) = told.min().flatten() else {
            self.progress_wanted = !self.watchers.is_empty();
            return;
        };
        self.progress_wanted = false;
        self.respond(least, pb::WatchResponse { watch_id: NO_WATCHER, ..Default::default() });
    }

    fn ask_quiet_watchers(&mut self) {
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.notify) {
            if std::mem::replace(&mut watcher.quiet, true) {
                watcher.notify_pending = true;
                watcher.progress.request();
            }
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.store.status().await?.revision)
    }

    fn respond(&mut self, revision: Revision, response: pb::WatchResponse) {
        let header = self.shared.header(revision);
        self.ready.push_back(pb::WatchResponse { header, ..response });
    }
}

/// An empty key is the first possible one.
fn watched(key: Bytes, range_end: Bytes) -> KeyRange {
    let start = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
    KeyRange { start, end: range_end }
}

/// A member that cannot serve ends the stream, and the client goes on with another; any other error ends the watcher.
fn ends_stream(error: &StoreError) -> bool {
    Status::from(error.clone()).code() == Code::Unavailable
}

/// Why a client may not watch. Here upstream shows an error as its own gRPC library prints it.
fn refusal(error: StoreError) -> String {
    let status = Status::from(error);
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
