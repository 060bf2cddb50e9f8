//! WATCH: a place in the cache's window of events, followed at the reader's own pace. A reader that falls out of the window
//! is told 410 and lists again; nobody else notices.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::{Kind, Status};
use futures::Stream;
use rand::Rng as _;
use store::Revision;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::present::Presenter;
use super::{Content, Reply, Request};
use crate::cache::{Cache, CacheEvent, CachedObject, EventKind, Follower};
use crate::custom::conversion;
use crate::error::from_not_fresh;
use crate::gateway::Gateway;
use crate::http::body;
use crate::select::Selection;
use crate::serve::stopped;

/// Bookmarks come about this often.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Events taken from the window at a time.
const EVENTS_MAX: usize = 128;
/// Bytes of lines that go out together: larger buffers come from untouched memory, which costs more than it saves.
const CHUNK_MAX: usize = 64 << 10;

pub(crate) async fn watch(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let options = request.list_options()?;
    options.validate_watch()?;
    let resource = gateway.cache.resource(&request.kind).ok_or_else(Status::unknown_endpoint)?;
    let indexed = conversion::indexed_kind(&request.kind, &resource.kind);
    let selection = Selection::new(&request.kind, indexed, &request.namespace, &request.name, &options)?;
    let revision = options.watch_revision()?;
    request.accept.check_stream()?;
    let presenter = Presenter::new(request.kind.clone(), request.accept, request.query.text("includeObject"))?;
    let wants_initial = options.send_initial_events;
    let unnamed = || gateway.timeouts.watch_min.mul_f64(1.0 + rand::rng().random::<f64>());
    let timeout = options.timeout_seconds.map_or_else(unnamed, Duration::from_secs);

    let lists_first = wants_initial.unwrap_or(options.resource_version.is_empty() || options.resource_version == "0");
    let unset = options.resource_version.is_empty();
    let mut pending = VecDeque::new();
    let (position, start) = if lists_first {
        let fresh = match (unset, wants_initial) {
            // Upstream serves "any" for the legacy form; the newest state is a valid and kinder choice of that.
            (true, _) => gateway.catch_up(&request.kind, "watch").await?,
            (false, _) => {
                gateway.cache.wait_for(revision).await.map_err(from_not_fresh)?;
                gateway.cache.revision()
            }
        };
        let (objects, position) = resource.list_and_watch(&request.namespace);
        let objects = conversion::localize_all(gateway, &request.kind, objects).await?;
        let mut columns = true;
        for object in objects.iter().filter(|object| selection.matches(object)) {
            pending.push_back(presenter.event(EventKind::Added, &object.bytes, columns)?);
            columns = false;
        }
        if wants_initial == Some(true) && options.allow_watch_bookmarks {
            pending.push_back(presenter.bookmark(fresh.0, true, columns));
        }
        (Ok(position), fresh)
    } else if unset {
        let fresh = gateway.catch_up(&request.kind, "watch").await?;
        (resource.position_after(fresh), fresh)
    } else {
        (resource.position_after(revision), revision)
    };
    let position = match position {
        Ok(position) => position,
        Err(too_old) => return Ok(too_old_stream(&presenter, revision, too_old.oldest)),
    };
    let watcher = Watcher {
        cache: gateway.cache.clone(),
        follower: Follower::new(resource, position, selection.interest()),
        columns_sent: !pending.is_empty(),
        presenter: presenter.clone(),
        selection,
        pending,
        start,
        bookmarks: options.allow_watch_bookmarks,
        next_bookmark: Instant::now() + BOOKMARK_INTERVAL,
        deadline: Instant::now() + timeout,
        shutdown: gateway.shutdown.clone(),
        kind: Arc::clone(&request.kind),
        converter: gateway.me.upgrade().filter(|_| conversion::is_needed(&request.kind)),
        over: false,
    };
    Ok(Reply::new(200, Content::Body(presenter.watch_content_type(), body::stream(watcher.into_stream()))))
}

/// Upstream answers a watch that starts too early with a stream of one ERROR event.
fn too_old_stream(presenter: &Presenter, asked: Revision, oldest: Revision) -> Reply {
    let status = too_old(asked, oldest);
    Reply::new(200, Content::Body(presenter.watch_content_type(), body::full(presenter.error_event(&status))))
}

fn too_old(asked: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {asked} ({oldest})"))
}

/// One client's watch.
struct Watcher {
    cache: Arc<Cache>,
    follower: Follower,
    presenter: Presenter,
    selection: Selection,
    /// Lines ready to be sent.
    pending: VecDeque<Bytes>,
    /// Events up to here are old news to this client, also when they come late.
    start: Revision,
    columns_sent: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    shutdown: Receiver<bool>,
    kind: Arc<Kind>,
    /// Who converts objects into the client's version, when that takes a webhook.
    converter: Option<Arc<Gateway>>,
    over: bool,
}

impl Watcher {
    fn into_stream(self) -> impl Stream<Item = Bytes> + Send + 'static {
        futures::stream::unfold(self, |mut watcher| async move {
            let chunk = watcher.next_chunk().await?;
            Some((chunk, watcher))
        })
    }

    /// The next bytes for the client: all lines that are ready. `None` at the end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.take_pending() {
                return Some(chunk);
            }
            if self.over {
                return None;
            }
            match self.follower.take(EVENTS_MAX) {
                Err(too_old_error) => {
                    self.over = true;
                    let status = too_old(self.start, too_old_error.oldest);
                    self.pending.push_back(self.presenter.error_event(&status));
                    continue;
                }
                Ok(events) if !events.is_empty() => {
                    for event in &events {
                        self.take_localized(event).await;
                    }
                    continue;
                }
                Ok(_) if self.follower.is_over() => {
                    self.over = true;
                    continue;
                }
                Ok(_) => {}
            }
            // Nothing to tell: wait for an event, the time of a bookmark, or the end.
            let mut bookmark_due = false;
            tokio::select! {
                goes_on = self.follower.changed() => self.over |= !goes_on,
                () = tokio::time::sleep_until(self.deadline) => self.over = true,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => bookmark_due = true,
                () = stopped(&mut self.shutdown) => self.over = true,
            }
            if bookmark_due {
                self.send_bookmark();
            }
        }
    }

    fn take_pending(&mut self) -> Option<Bytes> {
        let first = self.pending.pop_front()?;
        let mut bytes = first.len();
        let fits = |line: &&Bytes| {
            bytes + line.len() <= CHUNK_MAX && {
                bytes += line.len();
                true
            }
        };
        let more = self.pending.iter().take_while(fits).count();
        if more == 0 {
            return Some(first);
        }
        let mut chunk = Vec::with_capacity(bytes);
        chunk.extend_from_slice(&first);
        self.pending.drain(..more).for_each(|line| chunk.extend_from_slice(&line));
        Some(chunk.into())
    }

    fn send_bookmark(&mut self) {
        // The revision is read before the window is looked at: with nothing in the window, everything up to it was sent.
        let revision = self.cache.revision();
        self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
        if self.follower.is_up_to_date() && revision >= self.start {
            let with_columns = !std::mem::replace(&mut self.columns_sent, true);
            self.pending.push_back(self.presenter.bookmark(revision.0, false, with_columns));
        }
    }

    async fn take_localized(&mut self, event: &CacheEvent) {
        let Some(gateway) = &self.converter else { return self.take(event) };
        match conversion::localize_event(gateway, &self.kind, event).await {
            Ok(localized) => self.take(&localized),
            Err(status) => self.fail(&status),
        }
    }

    fn fail(&mut self, status: &Status) {
        self.pending.push_back(self.presenter.error_event(status));
        self.over = true;
    }

    /// Turns a change into what it means to this client: objects come and go as selectors begin and cease to match.
    fn take(&mut self, event: &CacheEvent) {
        if event.revision <= self.start {
            return;
        }
        let matched_before = event.previous.as_ref().is_some_and(|object| self.selection.matches(object));
        let matches_now = event.kind != EventKind::Deleted && self.selection.matches(&event.object);
        let kind = match (matched_before, matches_now) {
            (false, false) => return,
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
        };
        let line = if kind == event.kind && self.presenter.is_verbatim() {
            Ok(event.frame())
        } else {
            self.render(kind, event)
        };
        match line {
            Ok(line) => self.pending.push_back(line),
            Err(status) => self.fail(&status),
        }
    }

    fn render(&mut self, kind: EventKind, event: &CacheEvent) -> Result<Bytes, Status> {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let leaves_selection = kind == EventKind::Deleted && event.kind != EventKind::Deleted;
        let last_match: Option<&Arc<CachedObject>> = event.previous.as_ref().filter(|_| leaves_selection);
        match last_match {
            // The client gets the version it knew, at the revision of the change that took it away.
            Some(previous) => {
                let object = previous.bytes.at_revision(event.revision);
                self.presenter.event(kind, &object, columns)
            }
            None => self.presenter.event(kind, &event.object.bytes, columns),
        }
    }
}
