//! The driver's inbox and what can be seen of it from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::StoreError;
use crate::command::Command;
use crate::machine::Outcome;

/// Requests waiting for the driver; more are refused.
const INBOX_INPUTS_MAX: usize = 8192;
/// Five seconds and two election timeouts, as etcd.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// Everything that can happen to the driver, besides time.
pub(super) enum Input {
    Propose { id: u64, payload: Vec<u8>, reply: Reply },
    ReadIndex { reply: oneshot::Sender<Result<(), StoreError>> },
    Stop,
}

/// Who wants to know the outcome.
pub(super) enum Reply {
    To(oneshot::Sender<Result<Outcome, StoreError>>),
    Nobody,
}

impl Reply {
    pub(super) fn answer(self, outcome: Result<Outcome, StoreError>) {
        if let Self::To(sender) = self {
            let _caller_gave_up = sender.send(outcome);
        }
    }
}

/// A way to the driver.
#[derive(Clone, Debug)]
pub(crate) struct Raft {
    inbox: SyncSender<Input>,
    shared: Arc<Shared>,
}

/// What the driver shows.
#[derive(Debug)]
pub(super) struct Shared {
    /// Nobody else votes, so leadership needs no confirmation.
    is_alone: bool,
    term: AtomicU64,
    leader: AtomicU64,
    last_index: AtomicU64,
    applied: AtomicU64,
    is_full: AtomicBool,
    is_stopped: AtomicBool,
    failure: Mutex<Option<StoreError>>,
    next_id: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RaftStatus {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) last_index: u64,
    pub(crate) applied: u64,
}

impl Raft {
    pub(super) fn new(member_id: u64, is_alone: bool) -> (Self, Arc<Shared>, Receiver<Input>) {
        let (sender, inbox) = sync_channel(INBOX_INPUTS_MAX);
        // Ids of different members and of different lives of a member must not meet: they are waited for by number.
        let salt = rand::random::<u32>();
        let first_id = (member_id << 48) | (u64::from(salt) << 16);
        let shared = Arc::new(Shared {
            is_alone,
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            failure: Mutex::new(None),
            next_id: AtomicU64::new(first_id),
        });
        (Self { inbox: sender, shared: shared.clone() }, shared, inbox)
    }

    /// Replicates a command; returns what it led to once it is durable and applied.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, StoreError> {
        let id = self.shared.next_id();
        let payload = command.encode(id);
        if payload.len() > REQUEST_BYTES_MAX {
            return Err(StoreError::RequestTooLarge);
        }
        let (sender, outcome) = oneshot::channel();
        self.send(Input::Propose { id, payload, reply: Reply::To(sender) })?;
        match tokio::time::timeout(REQUEST_TIMEOUT, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_driver_is_gone)) => Err(self.shared.why_gone()),
            Err(_elapsed) => Err(StoreError::Timeout),
        }
    }

    /// Returns once this member has applied everything that was committed when it was called.
    pub(crate) async fn read_index(&self) -> Result<(), StoreError> {
        if self.shared.is_alone {
            // Whatever was acknowledged was applied here first. A failed log takes nothing away from what is known.
            let is_stopped = self.shared.is_stopped.load(Ordering::Acquire);
            let has_failed = is_stopped && self.shared.failure.lock().is_some();
            return if is_stopped && !has_failed { Err(StoreError::Stopped) } else { Ok(()) };
        }
        let (sender, outcome) = oneshot::channel();
        self.send(Input::ReadIndex { reply: sender })?;
        match tokio::time::timeout(REQUEST_TIMEOUT, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_driver_is_gone)) => Err(self.shared.why_gone()),
            Err(_elapsed) => Err(StoreError::Timeout),
        }
    }

    pub(crate) fn status(&self) -> RaftStatus {
        RaftStatus {
            term: self.shared.term.load(Ordering::Acquire),
            leader: self.shared.leader.load(Ordering::Acquire),
            last_index: self.shared.last_index.load(Ordering::Acquire),
            applied: self.shared.applied.load(Ordering::Acquire),
        }
    }

    /// Why the log takes nothing at the moment, or any more.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        let is_full = self.shared.is_full.load(Ordering::Acquire);
        self.shared.failure.lock().clone().or(is_full.then_some(StoreError::NoSpace))
    }

    /// Asks the driver to stop. What is queued before is still done.
    pub(crate) fn stop(&self) {
        let _already_gone = self.inbox.send(Input::Stop);
    }

    /// Notes that the driver died.
    pub(crate) fn fail(&self, error: StoreError) {
        self.shared.fail(error);
        self.shared.stop();
    }

    fn send(&self, input: Input) -> Result<(), StoreError> {
        self.inbox.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::TooManyRequests,
            TrySendError::Disconnected(_) => self.shared.why_gone(),
        })
    }
}

/// etcd's `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 1_572_864;

impl Shared {
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn publish(&self, term: u64, leader: u64, last_index: u64, applied: u64) {
        self.term.store(term, Ordering::Release);
        self.leader.store(leader, Ordering::Release);
        self.last_index.store(last_index, Ordering::Release);
        self.applied.store(applied, Ordering::Release);
    }

    pub(super) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Release);
    }

    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
    }

    pub(super) fn fail(&self, error: StoreError) {
        *self.failure.lock() = Some(error);
    }

    fn why_gone(&self) -> StoreError {
        self.failure.lock().clone().unwrap_or(StoreError::Stopped)
    }
}
