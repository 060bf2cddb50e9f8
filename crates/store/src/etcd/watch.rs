//! The Watch service. One task serves one stream and all watchers on it, so what the stream's client sees is in the order in
//! which that task saw it: `created` before events, events before the progress that covers them. A slow client holds back
//! its own stream only.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::shared::{Shared, requires_leader};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb;
use crate::{KeyRange, ProgressRequester, Revision, Store, StoreError, WatchBatch, WatchRequest};

/// Responses that may wait for a slow client before its watchers are held back.
const RESPONSES_QUEUED: usize = 32;
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
        self.0.admit(&request)?;
        let leader_required = requires_leader(&request);
        let (responses, stream) = mpsc::channel(RESPONSES_QUEUED);
        let session = Session {
            shared: Arc::clone(&self.0),
            store: self.0.store_for(&request),
            responses,
            watchers: BTreeMap::new(),
            batches: SelectAll::new(),
            next_id: 0,
            next_token: 0,
            progress_wanted: false,
        };
        tokio::spawn(session.run(request.into_inner(), leader_required));
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

/// A batch and whose it is. The token tells a watcher from an earlier one with the same id.
type Delivery = (i64, u64, Option<Result<WatchBatch, StoreError>>);

struct Session {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    responses: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    watchers: BTreeMap<i64, Watcher>,
    batches: SelectAll<Abortable<BoxStream<'static, Delivery>>>,
    next_id: i64,
    next_token: u64,
    /// The client asked for the progress of the stream as a whole and has not been answered.
    progress_wanted: bool,
}

struct Watcher {
    token: u64,
    abort: AbortHandle,
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

/// Why a stream is over.
enum End {
    ClientGone,
    Failed(StoreError),
}

impl From<mpsc::error::SendError<Result<pb::WatchResponse, Status>>> for End {
    fn from(_: mpsc::error::SendError<Result<pb::WatchResponse, Status>>) -> Self {
        Self::ClientGone
    }
}

impl Session {
    async fn run(mut self, requests: Streaming<pb::WatchRequest>, leader_required: bool) {
        if let Err(End::Failed(error)) = self.serve(requests, leader_required).await {
            let _client_gone = self.responses.send(Err(error.into())).await;
        }
    }

    async fn serve(&mut self, mut requests: Streaming<pb::WatchRequest>, leader_required: bool) -> Result<(), End> {
        let mut states = self.shared.states();
        let mut notify = tokio::time::interval(self.shared.config.progress_interval);
        notify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let must_end = Shared::must_end(&mut states, leader_required);
        tokio::pin!(must_end);
        // A client that has said all it wants to say still listens.
        let mut has_more = true;
        loop {
            tokio::select! {
                request = requests.message(), if has_more => match request {
                    Ok(Some(request)) => self.handle(request).await?,
                    Ok(None) => has_more = false,
                    Err(_) => return Err(End::ClientGone),
                },
                Some(delivery) = self.batches.next(), if !self.batches.is_empty() => self.deliver(delivery).await?,
                _ = notify.tick() => self.ask_quiet_watchers(),
                error = &mut must_end => return Err(End::Failed(error)),
                () = self.responses.closed() => return Err(End::ClientGone),
            }
        }
    }

    async fn handle(&mut self, request: pb::WatchRequest) -> Result<(), End> {
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

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), End> {
        let now = self.revision().await?;
        let range = watched(create.key, create.range_end);
        let request = match self.check(create.start_revision, create.watch_id, &range) {
            Err(reason) => return self.refuse(now, reason).await,
            Ok(()) => WatchRequest {
                range,
                // "From now on" means after the revision in the answer, so that the client can go on from there.
                start_revision: Revision(if create.start_revision == 0 { now.0 + 1 } else { create.start_revision }),
                prev_kv: create.prev_kv,
                no_put: create.filters.contains(&FilterType::Noput.into()),
                no_delete: create.filters.contains(&FilterType::Nodelete.into()),
            },
        };
        let watch = match self.store.watch(request).await {
            Ok(watch) => Ok(watch),
            Err(StoreError::Compacted { compact_revision }) => Err(compact_revision),
            Err(error) if ends_stream(&error) => return Err(End::Failed(error)),
            Err(error) => return self.refuse(now, refusal(error)).await,
        };
        let watch_id = self.take_id(create.watch_id);
        self.respond(now, pb::WatchResponse { watch_id, created: true, ..Default::default() }).await?;
        let watch = match watch {
            Ok(watch) => watch,
            Err(compact_revision) => return self.end_compacted(watch_id, compact_revision).await,
        };

        let token = self.next_token;
        self.next_token += 1;
        let progress = watch.progress_requester();
        let batches = futures::stream::unfold(Some(watch), move |watch| async move {
            let mut watch = watch?;
            let batch = watch.next().await;
            let rest = matches!(batch, Some(Ok(_))).then_some(watch);
            Some(((watch_id, token, batch), rest))
        });
        let (batches, abort) = futures::stream::abortable(batches.boxed());
        self.batches.push(batches);
        let watcher = Watcher {
            token,
            abort,
            progress,
            fragment: create.fragment,
            notify: create.progress_notify,
            quiet: false,
            notify_pending: false,
            told: None,
        };
        if self.progress_wanted {
            watcher.progress.request();
        }
        self.watchers.insert(watch_id, watcher);
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
        if id != 0 && self.watchers.contains_key(&id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
        }
        Ok(())
    }

    fn take_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn refuse(&mut self, now: Revision, cancel_reason: String) -> Result<(), End> {
        let refused = pb::WatchResponse {
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        };
        self.respond(now, refused).await
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), End> {
        if !self.remove(watch_id) {
            return Ok(());
        }
        let now = self.revision().await?;
        self.respond(now, pb::WatchResponse { watch_id, canceled: true, ..Default::default() }).await?;
        self.answer_progress().await
    }

    fn remove(&mut self, watch_id: i64) -> bool {
        let removed = self.watchers.remove(&watch_id);
        removed.inspect(|watcher| watcher.abort.abort()).is_some()
    }

    async fn deliver(&mut self, (watch_id, token, batch): Delivery) -> Result<(), End> {
        let Some(watcher) = self.watchers.get_mut(&watch_id).filter(|watcher| watcher.token == token) else {
            return Ok(());
        };
        let batch = match batch {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return self.end_watcher(watch_id, error).await,
            None => return Err(End::Failed(StoreError::Stopped)),
        };
        if batch.events.is_empty() {
            watcher.told = Some(batch.revision);
            if std::mem::take(&mut watcher.notify_pending) {
                self.respond(batch.revision, pb::WatchResponse { watch_id, ..Default::default() }).await?;
            }
            return self.answer_progress().await;
        }
        watcher.quiet = false;
        let fragment = watcher.fragment;
        let events: Vec<mvccpb::Event> = batch.events.into_iter().map(Into::into).collect();
        let bytes_max = if fragment { self.shared.config.request_bytes_max } else { usize::MAX };
        let mut pieces = split(events, bytes_max).into_iter().peekable();
        while let Some(events) = pieces.next() {
            let fragment = pieces.peek().is_some();
            self.respond(batch.revision, pb::WatchResponse { watch_id, fragment, events, ..Default::default() })
                .await?;
        }
        Ok(())
    }

    async fn end_watcher(&mut self, watch_id: i64, error: StoreError) -> Result<(), End> {
        if ends_stream(&error) {
            return Err(End::Failed(error));
        }
        self.remove(watch_id);
        if let StoreError::Compacted { compact_revision } = error {
            return self.end_compacted(watch_id, compact_revision).await;
        }
        let now = self.revision().await?;
        let cancel_reason = error.to_string();
        let ended = pb::WatchResponse { watch_id, canceled: true, cancel_reason, ..Default::default() };
        self.respond(now, ended).await?;
        self.answer_progress().await
    }

    async fn end_compacted(&mut self, watch_id: i64, compact_revision: Revision) -> Result<(), End> {
        let now = self.revision().await?;
        let compact_revision = compact_revision.0;
        let ended = pb::WatchResponse { watch_id, canceled: true, compact_revision, ..Default::default() };
        self.respond(now, ended).await?;
        self.answer_progress().await
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

    async fn answer_progress(&mut self) -> Result<(), End> {
        if !self.progress_wanted {
            return Ok(());
        }
        // The least of them: no watcher has anything older to come.
        let told = self.watchers.values().map(|watcher| watcher.told);
        let Some(least) = told.min().flatten() else {
            self.progress_wanted = !self.watchers.is_empty();
            return Ok(());
        };
        self.progress_wanted = false;
        self.respond(least, pb::WatchResponse { watch_id: NO_WATCHER, ..Default::default() }).await
    }

    fn ask_quiet_watchers(&mut self) {
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.notify) {
            if std::mem::replace(&mut watcher.quiet, true) {
                watcher.notify_pending = true;
                watcher.progress.request();
            }
        }
    }

    async fn revision(&mut self) -> Result<Revision, End> {
        let status = self.shared.store.status().await.map_err(End::Failed)?;
        Ok(status.revision)
    }

    async fn respond(&mut self, revision: Revision, response: pb::WatchResponse) -> Result<(), End> {
        let header = self.shared.header(revision);
        self.responses.send(Ok(pb::WatchResponse { header, ..response })).await?;
        Ok(())
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

/// Pieces of about `bytes_max` encoded bytes, at least one event each.
fn split(events: Vec<mvccpb::Event>, bytes_max: usize) -> Vec<Vec<mvccpb::Event>> {
    let mut pieces = vec![Vec::new()];
    if bytes_max == usize::MAX {
        pieces[0] = events;
        return pieces;
    }
    let mut bytes = 0;
    for event in events {
        let len = event.encoded_len();
        if let Some(piece) = pieces.last_mut().filter(|piece| piece.is_empty() || bytes + len <= bytes_max) {
            bytes += len;
            piece.push(event);
        } else {
            bytes = len;
            pieces.push(vec![event]);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_revision_is_split_between_events() {
        let event = |len: usize| mvccpb::Event {
            kv: Some(mvccpb::KeyValue { value: vec![b'x'; len].into(), ..Default::default() }),
            ..Default::default()
        };
        let events = vec![event(40), event(40), event(40), event(500), event(10)];
        let sizes = |bytes_max| split(events.clone(), bytes_max).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(100), [2, 1, 1, 1]);
        assert_eq!(sizes(1), [1, 1, 1, 1, 1]);
        assert_eq!(sizes(usize::MAX), [5]);
    }
}
