//! The task of one watch: feeds it from the history while it is behind, then waits for something to happen to it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::batch::WatchSink;
use super::hub::{CatchUp, Hub};
use crate::{Revision, StoreError, WatchRequest};

pub(super) async fn feed(
    hub: Arc<Hub>,
    request: Arc<WatchRequest>,
    mut next: Revision,
    sink: WatchSink,
    mut progress: mpsc::Receiver<()>,
) {
    // A notification asked for may get lost with the place in the hub; one too many does no harm.
    let mut owes_progress = false;
    loop {
        let Some(caught_up) = catch_up(&hub, &request, next, &sink, &progress).await else { return };
        next = caught_up;
        let Some((id, mut behind)) = hub.join(&request, next, &sink) else { continue };
        if owes_progress {
            hub.request_progress(id);
        }
        loop {
            tokio::select! {
                resume = &mut behind => match resume {
                    Ok(resume) => {
                        next = resume;
                        break;
                    }
                    Err(_hub_stopped_or_watch_dropped) => {
                        let _nobody_listens = sink.try_send(Err(StoreError::Stopped));
                        return;
                    }
                },
                asked = progress.recv() => match asked {
                    Some(()) => {
                        owes_progress = true;
                        hub.request_progress(id);
                    }
                    None => return hub.leave(id),
                },
                () = sink.closed() => return hub.leave(id),
            }
        }
    }
}

/// Sends history until there is no more; returns the revision to go on from, or `None` when the watch is over.
async fn catch_up(
    hub: &Arc<Hub>,
    request: &Arc<WatchRequest>,
    mut next: Revision,
    sink: &WatchSink,
    progress: &mpsc::Receiver<()>,
) -> Option<Revision> {
    loop {
        let part = match part(hub, request, next).await {
            Ok(part) => part,
            Err(error) => {
                sink.send(Err(error)).await;
                return None;
            }
        };
        next = part.next;
        let is_over = progress.is_closed() || (!part.batch.is_empty() && !sink.send(Ok(part.batch)).await);
        if is_over {
            return None;
        }
        if part.is_current {
            return Some(next);
        }
        tokio::task::yield_now().await;
    }
}

async fn part(hub: &Arc<Hub>, request: &Arc<WatchRequest>, next: Revision) -> Result<CatchUp, StoreError> {
    if !hub.is_on_disk(next) {
        return hub.catch_up(request, next);
    }
    let (hub, request) = (hub.clone(), request.clone());
    let read = tokio::task::spawn_blocking(move || hub.catch_up(&request, next)).await;
    read.map_err(|error| StoreError::Fatal(format!("watch: {error}")))?
}
