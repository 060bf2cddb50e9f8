//! The thread that gives new changes to the watchers that are up to date.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::batch::{Delivery, SharedBatch, WatchSink};
use super::feed;
use super::interest::{GroupId, Interest};
use crate::machine::Machine;
use crate::mvcc::{Change, Found, Rows, decode_record, with_previous};
use crate::{EventKind, KeyRange, ProgressRequester, Revision, StoreError, WatchEvent, WatchRequest};

/// Revisions in one batch, as etcd.
const BATCH_REVISIONS_MAX: i64 = 1000;
/// Changes looked at under one hold of the lock, when catching up.
const CATCH_UP_CHANGES_MAX: usize = 1000;

#[derive(Debug)]
pub(crate) struct Hub {
    machine: Arc<RwLock<Machine>>,
    /// Older history than memory has.
    rows: Option<Arc<dyn Rows>>,
    state: Mutex<State>,
    /// Everything up to here has been handed out.
    published: AtomicI64,
    /// Watches that are running, up to date or not.
    n_watches: AtomicUsize,
    has_news: AtomicBool,
    is_stopped: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// The watchers that are up to date. Those that want the same events form a group, which gets each batch once: made once,
/// encoded once if at all.
#[derive(Debug, Default)]
struct State {
    groups: HashMap<GroupId, Group>,
    by_wish: HashMap<Wish, GroupId>,
    interest: Interest,
    next_id: u64,
    /// Who asked for a progress notification.
    progress: Vec<WatcherId>,
}

#[derive(Debug)]
struct Group {
    wish: Wish,
    watchers: BTreeMap<u64, Synced>,
}

/// The part of a watch's request that says which events it gets, and in which form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wish {
    range: KeyRange,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatcherId {
    group: GroupId,
    number: u64,
}

/// A watcher that has everything published so far.
#[derive(Debug)]
struct Synced {
    request: Arc<WatchRequest>,
    /// It already has, or does not want, everything before.
    next: Revision,
    sink: WatchSink,
    /// Tells its task from which revision on to feed it.
    behind: oneshot::Sender<Revision>,
}

/// Part of the history, filtered for one watcher.
pub(super) struct CatchUp {
    pub(super) batch: SharedBatch,
    /// First revision not looked at.
    pub(super) next: Revision,
    /// There was nothing more at the time.
    pub(super) is_current: bool,
}

impl Hub {
    pub(crate) fn start(machine: Arc<RwLock<Machine>>) -> std::io::Result<(Arc<Self>, JoinHandle<()>)> {
        let (published, rows) = {
            let keyspace = &machine.read().keyspace;
            (keyspace.revision(), keyspace.cache().rows().cloned())
        };
        let hub = Arc::new(Self {
            machine,
            rows,
            state: Mutex::default(),
            published: AtomicI64::new(published.0),
            n_watches: AtomicUsize::new(0),
            has_news: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let runner = hub.clone();
        let thread = std::thread::Builder::new().name("watch-hub".into()).spawn(move || runner.run())?;
        *hub.thread.lock() = Some(thread.thread().clone());
        // News from before the thread was known.
        thread.thread().unpark();
        Ok((hub, thread))
    }

    /// There are new changes. Never waits.
    pub(crate) fn notify(&self) {
        if self.publish_to_nobody() {
            return;
        }
        if !self.has_news.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.lock().as_ref()
        {
            thread.unpark();
        }
    }

    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.notify();
    }

    /// Replaces the state by a newer one. Watchers go on from its history, or learn that it does not reach back to them.
    pub(crate) fn replace(&self, mut new: Machine) {
        let mut state = self.state.lock();
        // Nothing is published in between: the histories need not fit together.
        {
            let mut machine = self.machine.write();
            new.keyspace.take_over_cache(&mut machine.keyspace);
            *machine = new;
        }
        let next = Revision(self.published().0 + 1);
        for watcher in state.remove_all() {
            let resume = next.max(watcher.next);
            let _watch_was_dropped = watcher.behind.send(resume);
        }
        let revision = self.machine.read().keyspace.revision();
        self.published.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Everything up to this revision has been handed to the watchers that are up to date.
    pub(crate) fn published(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    /// Starts a watch; its task lives until the watch is dropped or ends.
    pub(crate) fn watch(
        self: &Arc<Self>,
        request: WatchRequest,
        sink: WatchSink,
    ) -> Result<ProgressRequester, StoreError> {
        let next = {
            let machine = self.machine.read();
            let compact_revision = machine.keyspace.compacted();
            match request.start_revision {
                Revision(..=0) => Revision(machine.keyspace.revision().0 + 1),
                start if start < compact_revision => return Err(StoreError::Compacted { compact_revision }),
                start => start,
            }
        };
        if self.is_stopped.load(Ordering::Acquire) {
            return Err(StoreError::Stopped);
        }
        let (requester, progress) = ProgressRequester::channel();
        let hub = Arc::clone(self);
        hub.n_watches.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            feed::feed(Arc::clone(&hub), Arc::new(request), next, sink, progress).await;
            hub.n_watches.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(requester)
    }

    /// Number of watches, and of those that are up to date.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.n_watches.load(Ordering::Relaxed), self.n_synced())
    }

    /// Number of watchers that are up to date.
    pub(crate) fn n_synced(&self) -> usize {
        self.state.lock().groups.values().map(|group| group.watchers.len()).sum()
    }

    fn run(&self) {
        loop {
            while !self.has_news.swap(false, Ordering::AcqRel) {
                std::thread::park();
            }
            if self.is_stopped.load(Ordering::Acquire) {
                // Their tasks and receivers see the channels close.
                *self.state.lock() = State::default();
                return;
            }
            while self.publish() {}
            self.send_progress();
        }
    }

    /// Where nobody waits for changes, whoever made them can see to it that they count as published, and no thread is woken.
    fn publish_to_nobody(&self) -> bool {
        let Some(state) = self.state.try_lock() else { return false };
        let is_awaited = !state.groups.is_empty() || !state.progress.is_empty();
        if is_awaited || self.is_stopped.load(Ordering::Acquire) {
            return false;
        }
        let revision = self.machine.read().keyspace.revision();
        self.published.fetch_max(revision.0, Ordering::AcqRel);
        true
    }

    /// Hands out the next changes; false when there were none.
    fn publish(&self) -> bool {
        let mut state = self.state.lock();
        let first = Revision(self.published().0 + 1);
        let (mut changes, last) = {
            let machine = self.machine.read();
            let last = machine.keyspace.revision().min(Revision(self.published().0 + BATCH_REVISIONS_MAX));
            let new = machine.keyspace.changes_since(first).take_while(|change| change.record.main <= last);
            (new.cloned().collect::<Vec<_>>(), last)
        };
        if last < first {
            return false;
        }
        let wants_previous = state.groups.values().any(|group| group.wish.prev_kv);
        let read = if wants_previous { with_previous(self.rows.as_ref(), &mut changes) } else { Ok(()) };
        if let Err(error) = read {
            tracing::error!(%error, "the version before a change cannot be read: all watches end");
            *state = State::default();
        }
        state.deliver(&changes, last);
        self.published.store(last.0, Ordering::Release);
        true
    }

    fn send_progress(&self) {
        let mut state = self.state.lock();
        let revision = self.published();
        for id in std::mem::take(&mut state.progress) {
            // Before the first revision it asked for, a watcher hears nothing.
            let is_due = state.watcher(id).is_some_and(|watcher| watcher.request.start_revision <= revision);
            if is_due {
                state.send(id, SharedBatch::progress(revision), Revision(revision.0 + 1));
            }
        }
    }

    /// Asks for an empty batch after everything so far.
    pub(super) fn request_progress(&self, id: WatcherId) {
        self.state.lock().progress.push(id);
        self.notify();
    }

    /// Takes up a watcher that has everything before `next`, unless more was published meanwhile.
    pub(super) fn join(
        &self,
        request: &Arc<WatchRequest>,
        next: Revision,
        sink: &WatchSink,
    ) -> Option<(WatcherId, oneshot::Receiver<Revision>)> {
        let mut state = self.state.lock();
        if next <= self.published() {
            return None;
        }
        let (behind, behind_rx) = oneshot::channel();
        if self.is_stopped.load(Ordering::Acquire) {
            // The receiver sees at once that there is no hub.
            return Some((WatcherId { group: 0, number: 0 }, behind_rx));
        }
        let watcher = Synced { request: request.clone(), next, sink: sink.clone(), behind };
        Some((state.add(watcher), behind_rx))
    }

    pub(super) fn leave(&self, id: WatcherId) {
        self.state.lock().remove(id);
    }

    /// Whether the history from a revision on has to be read from disk.
    pub(super) fn is_on_disk(&self, next: Revision) -> bool {
        next <= self.machine.read().keyspace.cache().forgotten()
    }

    /// The next part of the history for a watcher that is behind.
    pub(super) fn catch_up(&self, request: &WatchRequest, next: Revision) -> Result<CatchUp, StoreError> {
        let mut part = loop {
            let forgotten = {
                let keyspace = &self.machine.read().keyspace;
                let compact_revision = keyspace.compacted();
                if next < compact_revision {
                    return Err(StoreError::Compacted { compact_revision });
                }
                keyspace.cache().forgotten()
            };
            if next <= forgotten {
                break self.read_history(request, next, forgotten)?;
            }
            // It may have left memory just now.
            if let Some(part) = self.recall_history(request, next) {
                break part;
            }
        };
        if request.prev_kv {
            with_previous(self.rows.as_ref(), &mut part.changes)?;
        }
        let wish = Wish::of(request);
        let events = part.changes.iter().filter_map(|change| wish.event_for(change)).collect();
        let batch = SharedBatch::new(part.last, events);
        Ok(CatchUp { batch, next: Revision(part.last.0 + 1), is_current: part.is_current })
    }

    /// From memory, where the history from `next` on must be.
    fn recall_history(&self, request: &WatchRequest, next: Revision) -> Option<Part> {
        let machine = self.machine.read();
        let keyspace = &machine.keyspace;
        if next <= keyspace.cache().forgotten() {
            return None;
        }
        let current = keyspace.revision();
        if next > current {
            return Some(Part { changes: Vec::new(), last: Revision(next.0 - 1), is_current: true });
        }
        // The history has gaps where compaction was; a chunk is bounded by changes, and ends with a whole revision.
        let mut last = current;
        let mut last_seen = next;
        let mut changes = Vec::new();
        for (n_seen, change) in keyspace.changes_since(next).enumerate() {
            if n_seen >= CATCH_UP_CHANGES_MAX && change.record.main > last_seen {
                last = last_seen;
                break;
            }
            last_seen = change.record.main;
            if request.range.contains(&change.record.key) {
                changes.push(change.clone());
            }
        }
        Some(Part { changes, last, is_current: last == current })
    }

    /// From disk, where the history up to `forgotten` is.
    fn read_history(&self, request: &WatchRequest, next: Revision, forgotten: Revision) -> Result<Part, StoreError> {
        let rows = self.rows.as_ref().ok_or_else(|| StoreError::Fatal("the history has a gap".to_owned()))?;
        let rows = rows.scan(next, forgotten, CATCH_UP_CHANGES_MAX)?;
        let is_cut = rows.len() >= CATCH_UP_CHANGES_MAX;
        let last = rows.last().filter(|_| is_cut).map_or(forgotten, |(at, _)| at.main);
        let machine = self.machine.read();
        let keyspace = &machine.keyspace;
        let compact_revision = keyspace.compacted();
        // Had it been compacted while being read, rows could be missing.
        if next < compact_revision {
            return Err(StoreError::Compacted { compact_revision });
        }
        let mut changes = Vec::new();
        for (at, row) in rows.into_iter().filter(|(_, row)| !row.is_empty()) {
            let record = decode_record(at, row);
            let record =
                record.ok_or_else(|| StoreError::Fatal(format!("the row of revision {} is damaged", at.main)))?;
            if !request.range.contains(&record.key) {
                continue;
            }
            let before = Revision(at.main.0 - 1);
            let prev = keyspace.get(&record.key, before).filter(|_| before >= compact_revision);
            changes.push(Change { prev: prev.map(Found::to_record), record: Arc::new(record) });
        }
        Ok(Part { changes, last, is_current: false })
    }
}

/// Part of the history, filtered by key.
struct Part {
    changes: Vec<Change>,
    /// The last revision looked at.
    last: Revision,
    is_current: bool,
}

impl Wish {
    fn of(request: &WatchRequest) -> Self {
        let WatchRequest { ref range, start_revision: _, prev_kv, no_put, no_delete } = *request;
        Self { range: range.clone(), prev_kv, no_put, no_delete }
    }

    /// The event for a change of a key of the range.
    fn event_for(&self, change: &Change) -> Option<WatchEvent> {
        let is_unwanted = match change.kind() {
            EventKind::Put => self.no_put,
            EventKind::Delete => self.no_delete,
        };
        (!is_unwanted).then(|| change.to_event(self.prev_kv))
    }
}

impl State {
    fn add(&mut self, watcher: Synced) -> WatcherId {
        self.next_id += 1;
        let number = self.next_id;
        let wish = Wish::of(&watcher.request);
        let group = match self.by_wish.get(&wish) {
            Some(group) => *group,
            None => {
                self.interest.add(&wish.range, number);
                self.by_wish.insert(wish.clone(), number);
                self.groups.insert(number, Group { wish, watchers: BTreeMap::new() });
                number
            }
        };
        if let Some(group) = self.groups.get_mut(&group) {
            group.watchers.insert(number, watcher);
        }
        WatcherId { group, number }
    }

    fn watcher(&self, id: WatcherId) -> Option<&Synced> {
        self.groups.get(&id.group)?.watchers.get(&id.number)
    }

    fn remove(&mut self, id: WatcherId) -> Option<Synced> {
        let group = self.groups.get_mut(&id.group)?;
        let watcher = group.watchers.remove(&id.number)?;
        if group.watchers.is_empty()
            && let Some(group) = self.groups.remove(&id.group)
        {
            self.interest.remove(&group.wish.range, id.group);
            self.by_wish.remove(&group.wish);
        }
        Some(watcher)
    }

    fn remove_all(&mut self) -> Vec<Synced> {
        let next_id = self.next_id;
        let old = std::mem::replace(self, Self { next_id, ..Self::default() });
        old.groups.into_values().flat_map(|group| group.watchers.into_values()).collect()
    }

    /// Gives every watcher its part of the changes.
    fn deliver(&mut self, changes: &[Change], last: Revision) {
        let mut parts: HashMap<GroupId, Vec<WatchEvent>> = HashMap::new();
        for change in changes {
            self.interest.matching(&change.record.key, |id| {
                let event = self.groups.get(&id).and_then(|group| group.wish.event_for(change));
                if let Some(event) = event {
                    parts.entry(id).or_default().push(event);
                }
            });
        }
        for (id, events) in parts {
            self.deliver_to(id, &SharedBatch::new(last, events));
        }
    }

    fn deliver_to(&mut self, id: GroupId, batch: &SharedBatch) {
        let Some(group) = self.groups.get(&id) else { return };
        let mut lost = Vec::new();
        for (&number, watcher) in &group.watchers {
            let Some(own) = batch.since(watcher.next) else { continue };
            let resume = own.first().unwrap_or(watcher.next);
            if let Err(error) = watcher.sink.try_send(Ok(own)) {
                lost.push((WatcherId { group: id, number }, error, resume));
            }
        }
        for (id, error, resume) in lost {
            self.lose(id, error, resume);
        }
    }

    /// Sends to one watcher without waiting.
    fn send(&mut self, id: WatcherId, batch: SharedBatch, resume: Revision) {
        if let Some(watcher) = self.watcher(id)
            && let Err(error) = watcher.sink.try_send(Ok(batch))
        {
            self.lose(id, error, resume);
        }
    }

    /// A watcher with a full channel is left to its task, which goes on at `resume`.
    fn lose(&mut self, id: WatcherId, why: TrySendError<Delivery>, resume: Revision) {
        let Some(watcher) = self.remove(id) else { return };
        if matches!(why, TrySendError::Full(_)) {
            let _watch_was_dropped = watcher.behind.send(resume.max(watcher.next));
        }
    }
}
