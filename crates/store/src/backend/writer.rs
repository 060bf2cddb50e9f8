//! The thread that brings applied changes to the backend, and sweeps what compaction left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Notify, oneshot};

use super::rows::{Row, StateRows, progress_rows, push_rows_of};
use super::{Backend, BackendError, Sizes, Staged};
use crate::machine::{Machine, Write};
use crate::mvcc::CHUNK_KEYS_MAX;
use crate::pins::Pins;
use crate::watch::Hub;
use crate::{Revision, StoreError};

/// A commit is due after this long, or this much. Each takes two syncs, which the log's own wait for, and rewrites the way from
/// the root to every row; what is not committed is in the log, and in memory.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
const COMMIT_BYTES: usize = 8 << 20;
/// Changes waiting for the backend; beyond, writes are refused until it catches up.
const BACKLOG_BYTES_MAX: usize = 512 << 20;
/// Between two steps of sweeping.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);
/// Values let go of under one hold of the keyspace's lock, some 100 microseconds; and the pause between two such steps.
const EVICT_VALUES: usize = 256;
const EVICT_PAUSE: Duration = Duration::from_micros(100);
/// How long a full disk is left alone before it is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(500);

/// The way to the writer. Pushing never waits for the disk.
#[derive(Clone, Debug)]
pub(crate) struct WriterHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    /// The backend holds everything up to this log index.
    durable_index: AtomicU64,
    /// The backend holds everything up to this push.
    durable_push: AtomicU64,
    file_bytes: AtomicU64,
    in_use_bytes: AtomicU64,
    backlog_bytes: AtomicU64,
    is_full: AtomicBool,
    failure: Mutex<Option<StoreError>>,
    /// Something above changed.
    progress: Notify,
}

/// A state that came whole, in rows or in a file.
#[derive(Debug)]
pub(crate) enum Replacement {
    Rows(StateRows),
    /// With the newest revision, and the index and term of the last entry.
    File {
        staged: Staged,
        revision: Revision,
        applied: (u64, u64),
    },
}

impl Replacement {
    fn place(&self) -> (Revision, (u64, u64)) {
        match self {
            Self::Rows(rows) => (rows.revision, rows.applied),
            Self::File { revision, applied, .. } => (*revision, *applied),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    writes: Vec<Write>,
    bytes: usize,
    /// Counts what was ever pushed.
    n_pushes: u64,
    /// Index and term of the last applied entry among `writes`.
    applied: (u64, u64),
    is_commit_due: bool,
    must_sweep: bool,
    defragment: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// A state to store instead of everything before, and who waits for it.
    replace: Option<(Replacement, SyncSender<Result<(), StoreError>>)>,
    is_stopped: bool,
}

pub(crate) struct Writer {
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    machine: Arc<RwLock<Machine>>,
    pins: Arc<Pins>,
    hub: Arc<Hub>,
    /// Rows of a commit that did not fit on the disk, and the index they lead to.
    stuck: Vec<Row>,
    /// Bytes of the backlog that were taken but are not committed, and the newest revision among them.
    taken_bytes: usize,
    taken_revision: Revision,
    /// The backend holds all versions up to this revision.
    durable_revision: Revision,
    retry_at: Option<Instant>,
}

impl Writer {
    /// `durable` is index and term of the log entry that the backend is whole up to.
    pub(crate) fn new(
        backend: Box<dyn Backend>,
        durable: (u64, u64),
        machine: Arc<RwLock<Machine>>,
        pins: Arc<Pins>,
        hub: Arc<Hub>,
    ) -> (Self, WriterHandle) {
        let shared = Arc::new(Shared::default());
        shared.durable_index.store(durable.0, Ordering::Release);
        shared.queue.lock().applied = durable;
        // An earlier life may have left garbage.
        shared.queue.lock().must_sweep = true;
        let durable_revision = machine.read().keyspace.revision();
        let writer = Self {
            backend,
            shared: shared.clone(),
            machine,
            pins,
            hub,
            stuck: Vec::new(),
            taken_bytes: 0,
            taken_revision: durable_revision,
            durable_revision,
            retry_at: None,
        };
        writer.publish_sizes();
        (writer, WriterHandle { shared })
    }

    /// Works until told to stop; then commits what is left.
    pub(crate) fn run(mut self) {
        loop {
            let is_stopped = self.wait();
            self.replace();
            while self.sweep_step() {
                if self.is_commit_due() {
                    self.commit();
                }
                std::thread::sleep(SWEEP_PAUSE);
            }
            self.commit();
            self.evict();
            self.defragment();
            if is_stopped {
                return;
            }
        }
    }

    /// Waits for something to do; true when told to stop.
    fn wait(&self) -> bool {
        let mut queue = self.shared.queue.lock();
        let is_idle =
            |queue: &Queue| queue.writes.is_empty() && !queue.must_sweep && queue.applied.0 == self.durable_index();
        if is_idle(&queue) && self.stuck.is_empty() && !queue.has_orders() {
            self.shared.news.wait_while(&mut queue, |queue| is_idle(queue) && !queue.has_orders());
        }
        let until = self.retry_at.unwrap_or_else(|| Instant::now() + COMMIT_INTERVAL);
        while !queue.has_orders() && queue.bytes < COMMIT_BYTES {
            if self.shared.news.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        queue.is_commit_due = false;
        queue.is_stopped
    }

    fn durable_index(&self) -> u64 {
        self.shared.durable_index.load(Ordering::Acquire)
    }

    fn is_commit_due(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.is_commit_due || queue.bytes >= COMMIT_BYTES
    }

    fn commit(&mut self) {
        if self.shared.failure.lock().is_some() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let (writes, applied, n_pushes) = {
            let mut queue = self.shared.queue.lock();
            self.taken_bytes += std::mem::take(&mut queue.bytes);
            (std::mem::take(&mut queue.writes), queue.applied, queue.n_pushes)
        };
        if writes.is_empty() && self.stuck.is_empty() && applied.0 == self.durable_index() {
            // A sweep that found nothing counts too, and somebody may wait for it.
            self.shared.durable_push.store(n_pushes, Ordering::Release);
            self.shared.progress.notify_waiters();
            return;
        }
        let revisions = writes.iter().map(|write| match write {
            Write::Record(record) => record.main,
            _ => Revision(0),
        });
        self.taken_revision = revisions.max().unwrap_or_default().max(self.taken_revision);
        let mut rows = std::mem::take(&mut self.stuck);
        for write in &writes {
            push_rows_of(write, &mut rows);
        }
        rows.extend(progress_rows(applied.0, applied.1));
        drop(writes);
        match self.backend.commit(&rows) {
            Ok(()) => {
                self.retry_at = None;
                self.durable_revision = self.taken_revision;
                self.shared.backlog_bytes.fetch_sub(std::mem::take(&mut self.taken_bytes) as u64, Ordering::AcqRel);
                self.shared.is_full.store(false, Ordering::Release);
                self.shared.durable_index.store(applied.0, Ordering::Release);
                self.shared.durable_push.store(n_pushes, Ordering::Release);
            }
            Err(BackendError::NoSpace) => {
                if !self.shared.is_full.swap(true, Ordering::AcqRel) {
                    tracing::error!("no space left for the state file: writes are refused until there is");
                }
                self.stuck = rows;
                self.retry_at = Some(Instant::now() + FULL_DISK_RETRY);
            }
            Err(error @ BackendError::Failed(_)) => self.fail(&error),
        }
        self.publish_sizes();
        self.shared.progress.notify_waiters();
    }

    /// Stores a state that came whole. What was still to be written led to the state before it.
    fn replace(&mut self) {
        let (state, done) = {
            let mut queue = self.shared.queue.lock();
            let Some(order) = queue.replace.take() else { return };
            queue.writes.clear();
            self.taken_bytes += std::mem::take(&mut queue.bytes);
            queue.n_pushes += 1;
            queue.applied = order.0.place().1;
            queue.must_sweep = true;
            order
        };
        self.stuck.clear();
        let (revision, applied) = state.place();
        let replaced = match state {
            Replacement::Rows(rows) => self.backend.replace(&mut rows.into_rows()),
            Replacement::File { staged, .. } => self.backend.adopt(staged),
        };
        self.shared.backlog_bytes.fetch_sub(std::mem::take(&mut self.taken_bytes) as u64, Ordering::AcqRel);
        if replaced.is_ok() {
            self.retry_at = None;
            (self.taken_revision, self.durable_revision) = (revision, revision);
            self.shared.is_full.store(false, Ordering::Release);
            self.shared.durable_index.store(applied.0, Ordering::Release);
            self.shared.durable_push.store(self.shared.queue.lock().n_pushes, Ordering::Release);
        }
        self.publish_sizes();
        let _caller_is_gone = done.send(replaced.map_err(BackendError::into_store_error));
        self.shared.progress.notify_waiters();
    }

    fn fail(&mut self, error: &BackendError) {
        tracing::error!(%error, "the state file failed: this member acknowledges nothing any more");
        *self.shared.failure.lock() = Some(StoreError::Fatal(error.to_string()));
    }

    /// Sweeps a little; false when there is nothing to sweep, or nothing that may be swept yet.
    fn sweep_step(&mut self) -> bool {
        if !self.shared.queue.lock().must_sweep {
            return false;
        }
        let mut machine = self.machine.write();
        // Readers pin what they read; the hub still has to hand out what it has not published.
        let pinned = self.pins.oldest().min(Revision(self.hub.published().0 + 1));
        let swept = machine.keyspace.sweep(pinned, CHUNK_KEYS_MAX);
        let has_more = !swept.finished && swept.advanced;
        let compacted = machine.keyspace.compacted();
        let mut queue = self.shared.queue.lock();
        // Still under the machine's lock: a row must not be deleted before it is written.
        let bytes = swept.rows.len() * ROW_BYTES;
        queue.bytes += bytes;
        self.shared.backlog_bytes.fetch_add(bytes as u64, Ordering::AcqRel);
        queue.writes.extend(swept.rows.into_iter().map(Write::Forget));
        queue.n_pushes += 1;
        if swept.finished {
            queue.must_sweep = false;
            if compacted > Revision(0) {
                queue.writes.push(Write::CompactionFinished(compacted));
            }
        }
        has_more
    }

    /// Lets go of values that are on disk and more than memory should hold.
    fn evict(&self) {
        // The hub hands out what it has not published from memory.
        while self.machine.write().keyspace.evict(self.durable_revision.min(self.hub.published()), EVICT_VALUES) {
            std::thread::sleep(EVICT_PAUSE);
        }
    }

    fn defragment(&mut self) {
        let waiting = std::mem::take(&mut self.shared.queue.lock().defragment);
        if waiting.is_empty() {
            return;
        }
        let outcome = self.backend.defragment().map_err(|error| error.into_store_error());
        self.publish_sizes();
        for sender in waiting {
            let _caller_gave_up = sender.send(outcome.clone());
        }
    }

    fn publish_sizes(&self) {
        let Sizes { file_bytes, in_use_bytes } = self.backend.sizes();
        self.shared.file_bytes.store(file_bytes, Ordering::Release);
        self.shared.in_use_bytes.store(in_use_bytes, Ordering::Release);
    }
}

impl Queue {
    fn has_orders(&self) -> bool {
        self.is_commit_due || self.is_stopped || !self.defragment.is_empty() || self.replace.is_some()
    }
}

impl BackendError {
    pub(crate) fn into_store_error(self) -> StoreError {
        match self {
            Self::NoSpace => StoreError::NoSpace,
            Self::Failed(_) => StoreError::Fatal(self.to_string()),
        }
    }
}

impl WriterHandle {
    /// Takes over what applying the log up to `applied` changed. To be called under the machine's lock, so that the order of
    /// rows is the order of changes.
    pub(crate) fn push(&self, writes: &mut Vec<Write>, applied: (u64, u64)) {
        let bytes: usize = writes.iter().map(write_bytes).sum();
        self.shared.backlog_bytes.fetch_add(bytes as u64, Ordering::AcqRel);
        let mut queue = self.shared.queue.lock();
        let was_idle = queue.writes.is_empty();
        queue.bytes += bytes;
        queue.n_pushes += 1;
        queue.must_sweep |= writes.iter().any(|write| matches!(write, Write::CompactionScheduled(_)));
        queue.writes.append(writes);
        queue.applied = applied;
        if was_idle || queue.bytes >= COMMIT_BYTES {
            self.shared.news.notify_one();
        }
    }

    /// Stores a state instead of all there is; returns when it is durable. Nothing may be pushed meanwhile.
    pub(crate) fn replace(&self, state: Replacement) -> Result<(), StoreError> {
        let (done, outcome) = sync_channel(1);
        {
            let mut queue = self.shared.queue.lock();
            if queue.is_stopped {
                return Err(StoreError::Stopped);
            }
            queue.replace = Some((state, done));
            self.shared.news.notify_one();
        }
        outcome.recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// Log index up to which the backend is whole.
    pub(crate) fn durable_index(&self) -> u64 {
        self.shared.durable_index.load(Ordering::Acquire)
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            file_bytes: self.shared.file_bytes.load(Ordering::Acquire),
            in_use_bytes: self.shared.in_use_bytes.load(Ordering::Acquire),
        }
    }

    /// Why more data cannot be taken now, if so.
    pub(crate) fn refusal(&self) -> Option<StoreError> {
        if self.shared.is_full.load(Ordering::Acquire) {
            return Some(StoreError::NoSpace);
        }
        if self.shared.backlog_bytes.load(Ordering::Acquire) > BACKLOG_BYTES_MAX as u64 {
            return Some(StoreError::TooManyRequests);
        }
        self.shared.failure.lock().clone()
    }

    /// Returns when everything applied so far, and the sweep of every compaction so far, is in the backend.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let mut target = None;
        loop {
            let progress = self.shared.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if let Some(error) = self.refusal() {
                return Err(error);
            }
            {
                let mut queue = self.shared.queue.lock();
                if !queue.must_sweep {
                    target.get_or_insert(queue.n_pushes);
                }
                if target.is_some_and(|push| self.shared.durable_push.load(Ordering::Acquire) >= push) {
                    return Ok(());
                }
                if queue.is_stopped {
                    return Err(StoreError::Stopped);
                }
                queue.is_commit_due = true;
                self.shared.news.notify_one();
            }
            progress.await;
        }
    }

    pub(crate) async fn defragment(&self) -> Result<(), StoreError> {
        let (sender, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.is_stopped {
                return Err(StoreError::Stopped);
            }
            queue.defragment.push(sender);
            self.shared.news.notify_one();
        }
        outcome.await.unwrap_or(Err(StoreError::Stopped))
    }

    #[cfg(test)]
    pub(crate) fn crash(&self) {
        *self.shared.failure.lock() = Some(StoreError::Fatal("crashed".into()));
    }

    pub(crate) fn stop(&self) {
        self.shared.queue.lock().is_stopped = true;
        self.shared.news.notify_one();
        self.shared.progress.notify_waiters();
    }
}

/// What a row takes besides key and value.
const ROW_BYTES: usize = 64;

/// About what a row takes.
fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Record(record) => ROW_BYTES + record.key.len() + record.value.here().map_or(0, |value| value.len()),
        _ => ROW_BYTES,
    }
}
