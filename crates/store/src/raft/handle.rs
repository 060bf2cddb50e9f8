//! The driver's inbox and what can be seen of it from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};

use super::log::LogError;
use crate::StoreError;
use crate::backend::Incoming;
use crate::command::Command;
use crate::machine::Outcome;
use crate::membership::MemberChange;

/// Requests waiting for the driver; more are refused.
const INBOX_INPUTS_MAX: usize = 8192;
/// Applied entries may be this far behind committed ones, as in etcd; beyond, writes are refused.
const APPLY_LAG_MAX: u64 = 5_000;

/// Everything that can happen to the driver, besides time.
pub(crate) enum Input {
    Propose {
        id: u64,
        payload: Vec<u8>,
        reply: Reply,
    },
    Change {
        id: u64,
        change: MemberChange,
        reply: Reply,
    },
    ReadIndex {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// A message of another member.
    Step(Message),
    /// A whole state, with the message that it answers.
    Install {
        message: Message,
        state: Box<Incoming>,
    },
    Unreachable(u64),
    SnapshotSent {
        to: u64,
        sent: bool,
    },
    Persisted {
        number: u64,
        outcome: Result<(), LogError>,
    },
    Transfer {
        to: u64,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Whether a learner has caught up, as the leader sees it.
    InSync {
        learner: u64,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
    /// The others say that this member was removed for good.
    Removed,
    Stop,
}

/// Who wants to know the outcome.
pub(crate) enum Reply {
    To(oneshot::Sender<Result<Outcome, StoreError>>),
    Nobody,
}

impl Reply {
    pub(super) fn answer(self, outcome: Result<Outcome, StoreError>) {
        if let Self::To(sender) = self {
            let _caller_gave_up = sender.send(outcome);
        }
    }

    /// Nobody waits any more.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Self::To(sender) => sender.is_closed(),
            Self::Nobody => false,
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
    member_id: u64,
    /// Five seconds and two election timeouts, as etcd.
    request_timeout: Duration,
    request_bytes_max: usize,
    /// Nobody else votes, so leadership needs no confirmation.
    is_alone: AtomicBool,
    term: AtomicU64,
    leader: watch::Sender<u64>,
    /// When the leader was last another.
    leader_since: Mutex<Instant>,
    first_index: AtomicU64,
    last_index: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    is_full: AtomicBool,
    is_stopped: AtomicBool,
    failure: Mutex<Option<StoreError>>,
    next_id: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RaftStatus {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    /// Of the entries that are kept for members that are behind.
    pub(crate) first_index: u64,
    pub(crate) last_index: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
}

impl Raft {
    pub(super) fn new(
        member_id: u64,
        election_timeout: Duration,
        request_bytes_max: usize,
    ) -> (Self, Arc<Shared>, Receiver<Input>) {
        let (sender, inbox) = sync_channel(INBOX_INPUTS_MAX);
        // Ids of different members and of different lives of a member must not meet: they are waited for by number.
        let salt = rand::random::<u32>();
        let first_id = (member_id << 48) | (u64::from(salt) << 16);
        let shared = Arc::new(Shared {
            member_id,
            request_timeout: Duration::from_secs(5) + 2 * election_timeout,
            request_bytes_max,
            is_alone: AtomicBool::new(false),
            term: AtomicU64::new(0),
            leader: watch::Sender::new(0),
            leader_since: Mutex::new(Instant::now()),
            first_index: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            committed: AtomicU64::new(0),
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
        if payload.len() > self.shared.request_bytes_max {
            return Err(StoreError::RequestTooLarge);
        }
        let status = self.status();
        if status.committed > status.applied + APPLY_LAG_MAX {
            return Err(StoreError::TooManyRequests);
        }
        let (sender, outcome) = oneshot::channel();
        self.send(Input::Propose { id, payload, reply: Reply::To(sender) })?;
        self.outcome(outcome).await
    }

    /// Replicates a change of the members.
    pub(crate) async fn change_members(&self, change: MemberChange) -> Result<Outcome, StoreError> {
        let (sender, outcome) = oneshot::channel();
        self.send(Input::Change { id: self.shared.next_id(), change, reply: Reply::To(sender) })?;
        self.outcome(outcome).await
    }

    /// Returns once this member has applied everything that was committed when it was called.
    pub(crate) async fn read_index(&self) -> Result<(), StoreError> {
        if self.shared.is_alone.load(Ordering::Acquire) {
            // Whatever was acknowledged was applied here first. A failed log takes nothing away from what is known.
            let is_stopped = self.shared.is_stopped.load(Ordering::Acquire);
            let has_failed = is_stopped && self.shared.failure.lock().is_some();
            return if is_stopped && !has_failed { Err(StoreError::Stopped) } else { Ok(()) };
        }
        let (sender, outcome) = oneshot::channel();
        self.send(Input::ReadIndex { reply: sender })?;
        self.outcome(outcome).await
    }

    /// Hands leadership over. Returns when another leads.
    pub(crate) async fn transfer_leader(&self, to: u64) -> Result<(), StoreError> {
        let (sender, outcome) = oneshot::channel();
        let mut leaders = self.leaders();
        self.send(Input::Transfer { to, reply: sender })?;
        self.outcome(outcome).await?;
        let moved = leaders.wait_for(|leader| *leader == to);
        match tokio::time::timeout(self.shared.request_timeout, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_driver_is_gone)) => Err(self.shared.why_gone()),
            Err(_elapsed) => Err(TIMED_OUT_BY_LEADER_FAILURE),
        }
    }

    /// Whether a learner has caught up. Only the leader knows.
    pub(crate) async fn is_in_sync(&self, learner: u64) -> Result<bool, StoreError> {
        let (sender, outcome) = oneshot::channel();
        self.send(Input::InSync { learner, reply: sender })?;
        self.outcome(outcome).await
    }

    async fn outcome<T>(&self, outcome: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
        let started = Instant::now();
        match tokio::time::timeout(self.shared.request_timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_driver_is_gone)) => Err(self.shared.why_gone()),
            Err(_elapsed) if *self.shared.leader_since.lock() > started => Err(TIMED_OUT_BY_LEADER_FAILURE),
            Err(_elapsed) => Err(StoreError::Timeout),
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    /// Follows who leads; 0 while nobody does.
    pub(crate) fn leaders(&self) -> watch::Receiver<u64> {
        self.shared.leader.subscribe()
    }

    pub(crate) fn leads(&self) -> bool {
        *self.shared.leader.borrow() == self.shared.member_id
    }

    /// Gives the driver a message of another member. Dropping it is legal, and done when the driver is behind.
    pub(crate) fn step(&self, message: Message) {
        let _dropped = self.inbox.try_send(Input::Step(message));
    }

    pub(crate) fn install(&self, message: Message, state: Box<Incoming>) {
        let _dropped = self.inbox.try_send(Input::Install { message, state });
    }

    pub(crate) fn report_unreachable(&self, id: u64) {
        let _dropped = self.inbox.try_send(Input::Unreachable(id));
    }

    /// Says whether a snapshot arrived. Until it hears, Raft sends that member nothing.
    pub(crate) fn report_snapshot(&self, to: u64, sent: bool) {
        let _driver_is_gone = self.inbox.send(Input::SnapshotSent { to, sent });
    }

    pub(crate) fn report_removed(&self) {
        let _dropped = self.inbox.try_send(Input::Removed);
    }

    pub(crate) fn status(&self) -> RaftStatus {
        RaftStatus {
            term: self.shared.term.load(Ordering::Acquire),
            leader: *self.shared.leader.borrow(),
            first_index: self.shared.first_index.load(Ordering::Acquire),
            last_index: self.shared.last_index.load(Ordering::Acquire),
            committed: self.shared.committed.load(Ordering::Acquire),
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

    pub(super) fn inbox(&self) -> SyncSender<Input> {
        self.inbox.clone()
    }

    fn send(&self, input: Input) -> Result<(), StoreError> {
        self.inbox.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::TooManyRequests,
            TrySendError::Disconnected(_) => self.shared.why_gone(),
        })
    }
}

const TIMED_OUT_BY_LEADER_FAILURE: StoreError =
    StoreError::Refused("request timed out, possibly due to previous leader failure");

impl Shared {
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn publish(&self, status: RaftStatus, is_alone: bool) {
        let RaftStatus { term, leader, first_index, last_index, committed, applied } = status;
        self.is_alone.store(is_alone, Ordering::Release);
        self.term.store(term, Ordering::Release);
        self.first_index.store(first_index, Ordering::Release);
        self.last_index.store(last_index, Ordering::Release);
        self.committed.store(committed, Ordering::Release);
        self.applied.store(applied, Ordering::Release);
        if *self.leader.borrow() != leader {
            if leader != 0 {
                *self.leader_since.lock() = Instant::now();
            }
            self.leader.send_replace(leader);
        }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Acquire)
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
