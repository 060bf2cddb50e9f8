//! A watch that outlives its connection. One gRPC stream carries one watch; when it breaks, the next one starts at the
//! revision after the last delivered, so the receiver sees neither a gap nor an event twice. Should a server ever send an
//! event at or below what was already declared complete, the watch ends with an error instead of delivering it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use super::endpoints::{Endpoints, Failure};
use super::fence::{Fence, FenceStep, needs_fence};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::status::from_text;
use crate::{ProgressRequester, Revision, SharedBatch, StoreError, WatchEvent, WatchRequest, WatchSink};

/// Requests on their way to the server: progress requests are dropped rather than queued.
const REQUESTS_QUEUED: usize = 8;
/// A server that is still catching up drops a progress request, so an unanswered one is repeated.
const PROGRESS_REPEAT: Duration = Duration::from_millis(100);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Rounds over all members before the first attempt is given up; later ones go on for as long as the receiver listens.
const START_ROUNDS: usize = 100;
/// The id a server gives to the only watch of a stream.
const OWN_ID: i64 = 0;

/// Returns once a server has created the watch.
pub(super) async fn start(
    endpoints: Arc<Endpoints>,
    request: WatchRequest,
    sink: WatchSink,
) -> Result<ProgressRequester, StoreError> {
    let next = request.start_revision;
    let mut follower = Follower { endpoints, request, next, progressed: Revision(0) };
    let stream = follower.open_repeatedly(START_ROUNDS).await?;
    let (requester, progress) = ProgressRequester::channel();
    tokio::spawn(follower.run(stream, sink, progress));
    Ok(requester)
}

/// Both directions of one stream.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    /// How to learn that everything has been delivered, on servers whose own answer cannot be trusted.
    fence: Option<Fence>,
}

struct Follower {
    endpoints: Arc<Endpoints>,
    request: WatchRequest,
    /// First revision not yet delivered; 0 until the first server has said where "now" is.
    next: Revision,
    /// The newest revision declared complete.
    progressed: Revision,
}

/// Why a stream was left.
enum Left {
    /// Another stream may go on.
    Broken(String),
    /// The watch is over.
    Failed(StoreError),
    ReceiverGone,
}

impl Follower {
    async fn run(mut self, mut stream: Stream, sink: WatchSink, mut progress: mpsc::Receiver<()>) {
        loop {
            let left = self.follow(&mut stream, &sink, &mut progress).await;
            let reopened = match left {
                Left::ReceiverGone => return,
                Left::Failed(error) => Err(error),
                Left::Broken(reason) => {
                    tracing::debug!(reason, next = self.next.0, "watch stream broke, going on with another");
                    tokio::select! {
                        () = sink.closed() => return,
                        reopened = self.open_repeatedly(usize::MAX) => reopened,
                    }
                }
            };
            match reopened {
                Ok(reopened) => stream = reopened,
                Err(error) => {
                    sink.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Tries one member after the other until one creates the watch or refuses it.
    async fn open_repeatedly(&mut self, rounds: usize) -> Result<Stream, StoreError> {
        let mut last = StoreError::NoLeader;
        for _ in 0..rounds {
            for _ in 0..self.endpoints.len() {
                match self.open().await {
                    Ok(stream) => return Ok(stream),
                    Err((Failure::Answer, error)) => return Err(error),
                    Err((_, error)) => last = error,
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(last)
    }

    async fn open(&mut self) -> Result<Stream, (Failure, StoreError)> {
        let (index, mut member) = self.endpoints.pick();
        let failed = |status: tonic::Status| {
            let failure = Failure::of(&status);
            if failure != Failure::Answer {
                self.endpoints.fail(index);
            }
            (failure, failure.error(&status))
        };
        let version = member.maintenance.status(pb::StatusRequest {}).await.map_err(failed)?.into_inner().version;

        let (requests, queued) = mpsc::channel(REQUESTS_QUEUED);
        let create = RequestUnion::CreateRequest(self.create_request());
        let _has_room = requests.try_send(pb::WatchRequest { request_union: Some(create) });
        let mut request = Request::new(ReceiverStream::new(queued));
        // Ends the stream when the member loses its leader, instead of leaving it silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut responses = member.watch.watch(request).await.map_err(failed)?.into_inner();
        let created = responses.message().await.map_err(failed)?.unwrap_or_default();
        if !created.created {
            self.endpoints.fail(index);
            return Err((Failure::Broken, StoreError::Timeout));
        }
        if created.canceled {
            return Err((Failure::Answer, cancelled(&created)));
        }
        let fresh = self.next == Revision(0);
        if fresh {
            self.next = Revision(created.header.unwrap_or_default().revision + 1);
        }
        let fence = needs_fence(&version).then(|| Fence::new(fresh));
        Ok(Stream { requests, responses, fence })
    }

    fn create_request(&self) -> pb::WatchCreateRequest {
        use pb::watch_create_request::FilterType;
        let mut filters = Vec::new();
        if self.request.no_put {
            filters.push(FilterType::Noput.into());
        }
        if self.request.no_delete {
            filters.push(FilterType::Nodelete.into());
        }
        pb::WatchCreateRequest {
            key: self.request.range.start.clone(),
            range_end: self.request.range.end.clone(),
            start_revision: self.next.0,
            filters,
            prev_kv: self.request.prev_kv,
            ..Default::default()
        }
    }

    /// Delivers what one stream brings, until it ends.
    async fn follow(&mut self, stream: &mut Stream, sink: &WatchSink, progress: &mut mpsc::Receiver<()>) -> Left {
        let mut repeat = tokio::time::interval(PROGRESS_REPEAT);
        repeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wanted = false;
        loop {
            let response = tokio::select! {
                response = stream.responses.message() => response,
                () = sink.closed() => return Left::ReceiverGone,
                asked = progress.recv(), if !wanted => {
                    if asked.is_none() {
                        return Left::ReceiverGone;
                    }
                    wanted = true;
                    repeat.reset_immediately();
                    continue;
                }
                _ = repeat.tick(), if wanted => {
                    if let Some(revision) = self.ask_progress(stream).await {
                        wanted = false;
                        if let Err(left) = self.deliver_progress(revision, sink).await {
                            return left;
                        }
                    }
                    continue;
                }
            };
            let response = match response {
                Ok(Some(response)) => response,
                Ok(None) => return Left::Broken("the server ended it".to_owned()),
                Err(status) if Failure::of(&status) == Failure::Answer => {
                    return Left::Failed(Failure::Answer.error(&status));
                }
                Err(status) => return Left::Broken(status.message().to_owned()),
            };
            let delivered = match stream.fence.as_mut().map(|fence| fence.see(&response)) {
                Some(FenceStep::Reached(revision)) => {
                    wanted = false;
                    self.deliver_progress(revision, sink).await
                }
                Some(FenceStep::Again) => {
                    repeat.reset_immediately();
                    Ok(())
                }
                Some(FenceStep::Mine) => Ok(()),
                Some(FenceStep::NotMine) | None => {
                    let is_progress = response.events.is_empty() && !response.canceled;
                    wanted = wanted && !is_progress;
                    self.deliver(response, sink).await
                }
            };
            if let Err(left) = delivered {
                return left;
            }
            if let Some(cancel) = stream.fence.as_mut().and_then(Fence::take_cancel) {
                let _stream_ended = stream.requests.send(cancel).await;
            }
        }
    }

    /// Sends what makes the server tell its progress; or returns it, where it is already known.
    async fn ask_progress(&self, stream: &mut Stream) -> Option<Revision> {
        let Some(fence) = &mut stream.fence else {
            let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            let _pending_serves_too = stream.requests.try_send(pb::WatchRequest { request_union: Some(progress) });
            return None;
        };
        if fence.is_waiting() {
            return None;
        }
        let nothing = pb::RangeRequest { key: "\0".into(), count_only: true, ..Default::default() };
        let (_, mut member) = self.endpoints.pick();
        let newest = member.kv.range(nothing).await.ok()?.into_inner().header?.revision;
        // Nothing ever happened, or it has been delivered already.
        if newest <= 1 || newest < self.next.0 {
            return Some(Revision(newest));
        }
        let _stream_ended = stream.requests.send(fence.raise(Revision(newest))).await;
        None
    }

    async fn deliver(&mut self, response: pb::WatchResponse, sink: &WatchSink) -> Result<(), Left> {
        if response.canceled {
            return Err(Left::Failed(cancelled(&response)));
        }
        let Some(last) = response.events.last().and_then(|event| event.kv.as_ref()) else {
            let revision = Revision(response.header.unwrap_or_default().revision);
            return self.deliver_progress(revision, sink).await;
        };
        // A header may be ahead of the events while the server catches up; only the events tell what is complete.
        let revision = Revision(last.mod_revision);
        let events: Vec<WatchEvent> = response.events.into_iter().map(WatchEvent::from).collect();
        if let Some(late) = events.iter().find(|event| event.kv.mod_revision <= self.progressed) {
            let text = format!(
                "the store sent an event of revision {} after it had declared revision {} complete",
                late.kv.mod_revision, self.progressed
            );
            return Err(Left::Failed(StoreError::Remote(text)));
        }
        self.next = Revision(revision.0 + 1);
        self.progressed = revision;
        send(sink, SharedBatch::new(revision, events)).await
    }

    async fn deliver_progress(&mut self, revision: Revision, sink: &WatchSink) -> Result<(), Left> {
        // A watch that starts in the future has nothing to tell before it starts.
        if revision < self.request.start_revision {
            return Ok(());
        }
        self.progressed = self.progressed.max(revision);
        self.next = self.next.max(Revision(revision.0 + 1));
        send(sink, SharedBatch::progress(self.progressed)).await
    }
}

async fn send(sink: &WatchSink, batch: SharedBatch) -> Result<(), Left> {
    if sink.send(Ok(batch)).await { Ok(()) } else { Err(Left::ReceiverGone) }
}

fn cancelled(response: &pb::WatchResponse) -> StoreError {
    if response.compact_revision > 0 {
        return StoreError::Compacted { compact_revision: Revision(response.compact_revision) };
    }
    match response.cancel_reason.as_str() {
        "" => StoreError::Remote(format!("the store cancelled watch {}", response.watch_id.max(OWN_ID))),
        reason => from_text(reason),
    }
}
