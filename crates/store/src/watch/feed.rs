//! The task of one watch: feeds it from the history while it is behind, then waits for something to happen to it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::hub::{BatchSender, CatchUp, Hub};
use crate::{Revision, StoreError, WatchRequest};

pub(super) async fn feed(
    hub: Arc<Hub>,
    request: Arc<WatchRequest>,
    mut next: Revision,
    batches: BatchSender,
    mut progress: mpsc::Receiver<()>,
) {
    // A notification asked for may get lost with the place in the hub; one too many does no harm.
    let mut owes_progress = false;
    loop {
        let Some(caught_up) = catch_up(&hub, &request, next, &batches).await else { return };
        next = caught_up;
        let Some((id, mut behind)) = hub.join(&request, next, &batches) else { continue };
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
                    Err(_hub_stopped_or_watch_dropped) => return,
                },
                asked = progress.recv() => match asked {
                    Some(()) => {
                        owes_progress = true;
                        hub.request_progress(id);
                    }
                    None => return hub.leave(id),
                },
                () = batches.closed() => return hub.leave(id),
            }
        }
    }
}

/// Sends history until there is no more; returns the revision to go on from, or `None` when the watch is over.
async fn catch_up(
    hub: &Arc<Hub>,
    request: &Arc<WatchRequest>,
    mut next: Revision,
    batches: &BatchSender,
) -> Option<Revision> {
    loop {
        let part = match part(hub, request, next).await {
            Ok(part) => part,
            Err(error) => {
                let _watch_was_dropped = batches.send(Err(error)).await;
                return None;
            }
        };
        next = part.next;
        if !part.batch.events.is_empty() {
            batches.send(Ok(part.batch)).await.ok()?;
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
