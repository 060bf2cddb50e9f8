//! The thread that owns the Raft state: read the inbox, propose, write, apply, answer, again.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType};
use raft::{RawNode, StateRole};
use tokio::sync::oneshot;

use super::handle::{Input, Raft, Reply, Shared};
use super::log::{LogError, LogStore, LoggedState};
use super::logger::logger;
use super::storage::RaftStorage;
use crate::StoreError;
use crate::command::Command;
use crate::machine::Outcome;

/// etcd's default heartbeat interval.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Ticks without a leader until an election: etcd's default of one second.
const ELECTION_TICKS: usize = 10;
pub(crate) const ELECTION_TIMEOUT: Duration = TICK.saturating_mul(10);
/// Proposals taken in one round; the rest stays queued and gets the next sync.
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_INPUTS_MAX: usize = 1024;
/// Entries not yet committed; more are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const INFLIGHT_MESSAGES_MAX: usize = 512;
/// Entries kept in memory for slow followers, in number and bytes, as etcd's catch-up entries.
const KEPT_ENTRIES_MAX: usize = 5_000;
const KEPT_BYTES_MAX: usize = 64 << 20;
/// How often leases are looked at.
const CHORE_TICKS: u32 = 5;
/// How long a full disk is left alone before it is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(500);

/// An entry that is durable and committed.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// Empty for the entry a leader begins its term with.
    pub(crate) payload: Bytes,
}

/// A committed command's id and what it led to.
pub(crate) type Applied = (u64, Result<Outcome, StoreError>);

/// The state machine behind the log.
pub(crate) trait Apply: Send + 'static {
    /// Applies entries in order. Called with each entry exactly once in the life of a process.
    fn apply(&mut self, entries: Vec<Committed>) -> Result<Vec<Applied>, StoreError>;

    /// This member began or ceased to lead.
    fn lead(&mut self, leads: bool);

    /// What a leader has to propose by itself, for example the end of leases. Called every half second.
    fn chores(&mut self) -> Vec<Command>;

    /// The log may forget entries up to this index: the state they led to is durable.
    fn durable_index(&self) -> u64;
}

#[derive(Clone, Debug)]
pub(crate) struct DriverConfig {
    pub(crate) member_id: u64,
    pub(crate) voters: Vec<u64>,
    /// Index of the last entry whose effects the state machine already has.
    pub(crate) applied: u64,
}

pub(crate) struct Driver<L, A> {
    config: DriverConfig,
    node: RawNode<RaftStorage>,
    log: L,
    apply: A,
    applied: u64,
    /// Who waits for which command.
    waiting: HashMap<u64, Reply>,
    /// Reads by the context they were given, and those whose index is known but not yet applied.
    reads: HashMap<u64, oneshot::Sender<Result<(), StoreError>>>,
    confirmed_reads: Vec<(u64, oneshot::Sender<Result<(), StoreError>>)>,
    next_read: u64,
    shared: std::sync::Arc<Shared>,
    inbox: Receiver<Input>,
}

/// Why a round ended early.
enum Trouble {
    Log(LogError),
    Apply(StoreError),
    Raft(String),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<raft::Error> for Trouble {
    fn from(error: raft::Error) -> Self {
        Self::Raft(error.to_string())
    }
}

impl<L: LogStore, A: Apply> Driver<L, A> {
    /// Takes over a log as loaded. The handle's requests queue up until [`Driver::run`].
    pub(crate) fn new(
        config: DriverConfig,
        log: L,
        mut logged: LoggedState,
        apply: A,
    ) -> Result<(Self, Raft), StoreError> {
        // Applied entries were committed; the log need not have heard of it.
        logged.hard_state.commit = logged.hard_state.commit.max(config.applied);
        let conf_state = ConfState { voters: config.voters.clone(), ..ConfState::default() };
        let storage = RaftStorage::new(logged, conf_state);
        let node = new_node(&config, storage, config.applied).map_err(|error| StoreError::Fatal(error.to_string()))?;
        let (raft, shared, inbox) = Raft::new(config.member_id, config.voters == [config.member_id]);
        let applied = config.applied;
        let driver = Self {
            config,
            node,
            log,
            apply,
            applied,
            waiting: HashMap::new(),
            reads: HashMap::new(),
            confirmed_reads: Vec::new(),
            next_read: 0,
            shared,
            inbox,
        };
        Ok((driver, raft))
    }

    /// Becomes leader of a cluster of one, which applies everything in the log.
    pub(crate) fn establish(&mut self) -> Result<(), StoreError> {
        self.campaign_alone().map_err(|trouble| trouble.to_store_error())
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        let mut n_ticks = 0_u32;
        loop {
            let outcome = self.round(&mut next_tick, &mut n_ticks);
            match outcome {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Log(LogError::NoSpace)) => {
                    if !self.wait_for_space() {
                        break;
                    }
                    next_tick = Instant::now() + TICK;
                }
                Err(trouble) => {
                    self.refuse_all(&trouble.to_store_error());
                    break;
                }
            }
        }
        self.shared.stop();
    }

    /// One round; false when told to stop.
    fn round(&mut self, next_tick: &mut Instant, n_ticks: &mut u32) -> Result<bool, Trouble> {
        let goes_on = self.take_inputs(*next_tick);
        if Instant::now() >= *next_tick {
            *next_tick = Instant::now() + TICK;
            *n_ticks = n_ticks.wrapping_add(1);
            self.node.tick();
            if n_ticks.is_multiple_of(CHORE_TICKS) {
                self.do_chores();
            }
        }
        self.settle()?;
        Ok(goes_on)
    }

    /// Waits for input and takes as much as one round should do.
    fn take_inputs(&mut self, until: Instant) -> bool {
        let mut next = match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        let (mut n_inputs, mut bytes) = (0, 0);
        while let Some(input) = next {
            match input {
                Input::Stop => return false,
                Input::Propose { id, payload, reply } => {
                    bytes += payload.len();
                    self.propose(id, payload, reply);
                }
                Input::ReadIndex { reply } => self.read_index(reply),
            }
            n_inputs += 1;
            let is_full = n_inputs >= BATCH_INPUTS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if is_full { None } else { self.inbox.try_recv().ok() };
        }
        true
    }

    fn propose(&mut self, id: u64, payload: Vec<u8>, reply: Reply) {
        let refusal = if self.node.raft.state != StateRole::Leader {
            Some(StoreError::NoLeader)
        } else {
            match self.node.propose(Vec::new(), payload) {
                Ok(()) => None,
                Err(raft::Error::ProposalDropped) => Some(StoreError::TooManyRequests),
                Err(error) => Some(StoreError::Fatal(error.to_string())),
            }
        };
        match refusal {
            None => {
                self.waiting.insert(id, reply);
            }
            Some(error) => reply.answer(Err(error)),
        }
    }

    fn read_index(&mut self, reply: oneshot::Sender<Result<(), StoreError>>) {
        if self.node.raft.state != StateRole::Leader {
            let _caller_gave_up = reply.send(Err(StoreError::NoLeader));
            return;
        }
        self.next_read += 1;
        self.reads.insert(self.next_read, reply);
        self.node.read_index(self.next_read.to_be_bytes().to_vec());
    }

    fn do_chores(&mut self) {
        if self.node.raft.state == StateRole::Leader {
            for command in self.apply.chores() {
                let id = self.shared.next_id();
                self.propose(id, command.encode(id), Reply::Nobody);
            }
        }
        self.truncate();
    }

    /// Drops entries whose effects are durable, and that nobody will ask for.
    fn truncate(&mut self) {
        let durable = self.apply.durable_index().min(self.applied);
        let storage = self.node.mut_store();
        let (n_kept, bytes_kept) = storage.kept();
        let n_durable = durable.saturating_sub(storage.first() - 1);
        // Twice as many before anything is done: truncation moves memory.
        if n_kept <= 2 * KEPT_ENTRIES_MAX && bytes_kept <= KEPT_BYTES_MAX {
            return;
        }
        let keep = if bytes_kept > KEPT_BYTES_MAX { KEPT_ENTRIES_MAX / 10 } else { KEPT_ENTRIES_MAX } as u64;
        if n_durable <= keep {
            return;
        }
        let index = storage.first() - 1 + n_durable - keep;
        let Some(term) = storage.truncate(index) else { return };
        if let Err(error) = self.log.truncate(index, term) {
            // The log keeps more than it needs; the next time may succeed.
            tracing::warn!(%error, index, "log not truncated");
        }
    }

    /// Writes, applies and answers until there is nothing to do.
    fn settle(&mut self) -> Result<(), Trouble> {
        while self.node.has_ready() {
            self.handle_ready()?;
        }
        self.publish_status();
        Ok(())
    }

    fn handle_ready(&mut self) -> Result<(), Trouble> {
        let mut ready = self.node.ready();
        if let Some(soft_state) = ready.ss() {
            self.apply.lead(soft_state.raft_state == StateRole::Leader);
        }
        for read in ready.take_read_states() {
            self.confirm_read(&read.request_ctx, read.index);
        }
        self.apply_committed(ready.take_committed_entries())?;
        let entries = ready.take_entries();
        self.persist(&entries, ready.hs().cloned(), ready.must_sync())?;
        let storage = self.node.mut_store();
        storage.append(entries);
        let mut light = self.node.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().set_commit(commit);
        }
        self.apply_committed(light.take_committed_entries())?;
        self.node.advance_apply_to(self.applied);
        Ok(())
    }

    /// Makes entries and vote durable. A commit index alone is not worth a write: it goes along with the next entries.
    fn persist(
        &mut self,
        entries: &[Entry],
        hard_state: Option<raft::eraftpb::HardState>,
        must_sync: bool,
    ) -> Result<(), Trouble> {
        let current = hard_state.unwrap_or_else(|| self.node.store().hard_state().clone());
        let stored = self.node.store().hard_state();
        let has_voted = (current.term, current.vote) != (stored.term, stored.vote);
        if !entries.is_empty() || has_voted {
            self.log.append(entries, Some(&current), must_sync || has_voted)?;
        }
        self.node.mut_store().set_hard_state(current);
        Ok(())
    }

    fn apply_committed(&mut self, entries: Vec<Entry>) -> Result<(), Trouble> {
        let Some(last) = entries.last() else { return Ok(()) };
        let last = last.index;
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.index, self.applied + 1 + committed.len() as u64, "entries are applied in order, once");
            if entry.get_entry_type() != EntryType::EntryNormal {
                return Err(Trouble::Raft(format!("log entry {} changes the members", entry.index)));
            }
            committed.push(Committed { index: entry.index, term: entry.term, payload: entry.data });
        }
        let answers = self.apply.apply(committed).map_err(Trouble::Apply)?;
        self.applied = last;
        for (id, outcome) in answers {
            if let Some(reply) = self.waiting.remove(&id) {
                reply.answer(outcome);
            }
        }
        let applied = self.applied;
        for (_, reply) in self.confirmed_reads.extract_if(.., |(index, _)| *index <= applied) {
            let _caller_gave_up = reply.send(Ok(()));
        }
        Ok(())
    }

    fn confirm_read(&mut self, context: &[u8], index: u64) {
        let Ok(context) = context.try_into() else { return };
        let Some(reply) = self.reads.remove(&u64::from_be_bytes(context)) else { return };
        if index <= self.applied {
            let _caller_gave_up = reply.send(Ok(()));
        } else {
            self.confirmed_reads.push((index, reply));
        }
    }

    fn publish_status(&self) {
        let raft = &self.node.raft;
        self.shared.publish(raft.term, raft.leader_id, raft.raft_log.last_index(), self.applied);
    }

    fn campaign_alone(&mut self) -> Result<(), Trouble> {
        self.node.campaign()?;
        self.settle()
    }

    /// The disk is full. What was proposed is not durable, so for a single member it never happened: Raft starts over from what
    /// is durable, as after a crash. Reads go on meanwhile; writes are refused until an election can be written down.
    /// False when told to stop.
    fn wait_for_space(&mut self) -> bool {
        tracing::error!("no space left for the log: writes are refused until there is");
        self.shared.set_full(true);
        self.apply.lead(false);
        self.answer_all(&StoreError::NoSpace);
        loop {
            let until = Instant::now() + FULL_DISK_RETRY;
            while let Ok(input) = self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                match input {
                    Input::Stop => return false,
                    Input::Propose { reply, .. } => reply.answer(Err(StoreError::NoSpace)),
                    Input::ReadIndex { reply } => {
                        let _caller_gave_up = reply.send(Err(StoreError::NoLeader));
                    }
                }
            }
            let recovered = self.restart_core().and_then(|()| self.campaign_alone());
            match recovered {
                Ok(()) => break,
                Err(Trouble::Log(LogError::NoSpace)) => {}
                Err(trouble) => {
                    self.refuse_all(&trouble.to_store_error());
                    return false;
                }
            }
        }
        tracing::info!("the log has space again");
        self.shared.set_full(false);
        true
    }

    fn restart_core(&mut self) -> Result<(), Trouble> {
        let storage = self.node.store();
        let mut logged = storage.to_logged_state();
        logged.hard_state.commit = logged.hard_state.commit.max(self.applied);
        let again = RaftStorage::new(logged, storage.conf_state().clone());
        self.node = new_node(&self.config, again, self.applied)?;
        Ok(())
    }

    fn answer_all(&mut self, error: &StoreError) {
        for (_, reply) in self.waiting.drain() {
            reply.answer(Err(error.clone()));
        }
        let reads = self.reads.drain().map(|(_, reply)| reply);
        for reply in reads.chain(self.confirmed_reads.drain(..).map(|(_, reply)| reply)) {
            let _caller_gave_up = reply.send(Err(StoreError::NoLeader));
        }
    }

    /// Storage failed for good: every write is refused from now on.
    fn refuse_all(&mut self, error: &StoreError) {
        tracing::error!(%error, "the log failed: this member acknowledges nothing any more");
        self.shared.fail(error.clone());
        self.apply.lead(false);
        self.answer_all(error);
        while let Ok(input) = self.inbox.recv() {
            match input {
                Input::Stop => return,
                Input::Propose { reply, .. } => reply.answer(Err(error.clone())),
                Input::ReadIndex { reply } => {
                    let _caller_gave_up = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

impl Trouble {
    fn to_store_error(&self) -> StoreError {
        match self {
            Self::Log(LogError::NoSpace) => StoreError::NoSpace,
            Self::Log(error @ LogError::Failed(_)) => StoreError::Fatal(error.to_string()),
            Self::Apply(error) => error.clone(),
            Self::Raft(message) => StoreError::Fatal(message.clone()),
        }
    }
}

fn new_node(config: &DriverConfig, storage: RaftStorage, applied: u64) -> raft::Result<RawNode<RaftStorage>> {
    let raft_config = raft::Config {
        id: config.member_id,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: 1,
        applied,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        check_quorum: true,
        pre_vote: true,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        ..raft::Config::default()
    };
    RawNode::new(&raft_config, storage, &logger())
}
