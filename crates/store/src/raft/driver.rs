//! The thread around the core: read the inbox, propose, send, have written, apply, answer, again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, EntryType, Message};
use tokio::sync::oneshot;

use super::core::{Core, CoreConfig, Dropped, LogWrite, Role, Work};
use super::handle::{Input, Raft, RaftStatus, Reply, Shared};
use super::log::{LogError, LogStore, LoggedState};
use super::message::{decode_change, encode_change};
use super::proposals::Proposals;
use super::reads::Reads;
use super::wal::{Install, Job, Wal, truncate};
use crate::StoreError;
use crate::backend::{Incoming, Staged};
use crate::command::Command;
use crate::machine::{Machine, Outcome};
use crate::membership::MemberChange;

/// Inputs taken in one round; the rest stays queued and gets the next sync.
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_INPUTS_MAX: usize = 1024;
/// Proposals that wait for a leader; more are refused.
const HELD_MAX: usize = 1024;
/// How often leases are looked at, and questions to the leader asked again.
const CHORE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a full disk is left alone before it is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(500);

pub(crate) const REMOVED: &str = "the member has been permanently removed from the cluster";

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

    /// Whether a change of the members makes sense now.
    fn check_change(&self, change: &MemberChange) -> Result<(), StoreError>;

    /// Tells whoever follows the changes that there are new ones. Called when those who waited for theirs have been answered.
    fn announce(&mut self);

    /// Makes a checked change, or only takes note of the entry if there is none to make.
    fn change_members(&mut self, index: u64, term: u64, change: Option<MemberChange>) -> Outcome;

    /// Who votes and who learns.
    fn conf_state(&self) -> ConfState;

    /// A member without a state, which must not lead.
    fn is_witness(&self, id: u64) -> bool;

    /// What makes a state that came whole durable; [`Apply::install`] follows when that is done.
    fn prepare_install(&self, machine: &Machine, staged: Option<Staged>) -> Install;

    fn install(&mut self, machine: Machine);

    /// This member began or ceased to lead.
    fn lead(&mut self, leads: bool);

    /// What a leader has to propose by itself, for example the end of leases. Called every half second.
    fn chores(&mut self) -> Vec<Command>;

    /// The log may forget entries up to this index: the state they led to is durable.
    fn durable_index(&self) -> u64;
}

/// The way to the other members. Never waits; messages may get lost.
pub(crate) trait Outbox: Send + 'static {
    fn send(&self, messages: Vec<Message>);
}

#[derive(Clone, Debug)]
pub(crate) struct DriverConfig {
    pub(crate) core: CoreConfig,
    /// Time between heartbeats.
    pub(crate) tick: Duration,
    /// Larger commands are refused.
    pub(crate) request_bytes_max: usize,
}

impl DriverConfig {
    fn election_timeout(&self) -> Duration {
        self.tick.saturating_mul(u32::try_from(self.core.election_ticks).unwrap_or(u32::MAX))
    }
}

pub(crate) struct Driver<L, A> {
    config: DriverConfig,
    core: Core,
    log: Arc<Mutex<L>>,
    apply: A,
    outbox: Box<dyn Outbox>,
    role: Role,
    /// Who waits for which command.
    waiting: Proposals<Reply>,
    /// What waits for a leader.
    held: VecDeque<(u64, Bytes, Reply)>,
    held_changes: VecDeque<(u64, MemberChange, Reply)>,
    reads: Reads<oneshot::Sender<Result<(), StoreError>>>,
    was_established: bool,
    /// A state that came whole and is not the state yet, with the index it is of.
    arriving: Option<(u64, Box<Incoming>)>,
    /// The write that makes it durable.
    installing: Option<(u64, Box<Machine>)>,
    /// Writes that the WAL thread has not reported, by number, and when they were handed over.
    writing: VecDeque<(u64, Instant)>,
    epoch: u64,
    n_ticks: u64,
    /// When this member ends, having been removed.
    ends_at_tick: Option<u64>,
    shared: Arc<Shared>,
    raft: Raft,
    // Dropped before the thread that may wait to write to it.
    inbox: Receiver<Input>,
    wal: Option<Wal>,
}

/// Why a round ended early.
enum Trouble {
    Log(LogError),
    Apply(StoreError),
    Raft(String),
    Removed,
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
        logged: LoggedState,
        apply: A,
        outbox: Box<dyn Outbox>,
    ) -> Result<(Self, Raft), StoreError> {
        let core = Core::new(config.core.clone(), logged).map_err(|error| StoreError::Fatal(error.to_string()))?;
        let (raft, shared, inbox) =
            Raft::new(config.core.member_id, config.election_timeout(), config.request_bytes_max);
        let driver = Self {
            config,
            core,
            log: Arc::new(Mutex::new(log)),
            apply,
            outbox,
            role: Role { leader: 0, leads: false },
            waiting: Proposals::default(),
            held: VecDeque::new(),
            held_changes: VecDeque::new(),
            reads: Reads::default(),
            was_established: false,
            arriving: None,
            installing: None,
            writing: VecDeque::new(),
            epoch: 0,
            n_ticks: 0,
            ends_at_tick: None,
            shared,
            raft: raft.clone(),
            inbox,
            wal: None,
        };
        Ok((driver, raft))
    }

    /// A member that is alone becomes leader, which applies everything in its log, and then `first` if there is anything to
    /// say first. Others apply what they know to be committed.
    pub(crate) fn establish(&mut self, first: Option<Command>) -> Result<(), StoreError> {
        let outcome = if self.core.is_alone() { self.campaign_alone() } else { self.settle() };
        outcome.map_err(|trouble| trouble.to_store_error())?;
        if let Some(command) = first.filter(|_| self.core.is_alone()) {
            let id = self.shared.next_id();
            self.core.propose(id, command.encode(id).into());
            self.settle().map_err(|trouble| trouble.to_store_error())?;
        }
        Ok(())
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        if !self.core.is_alone() {
            self.core.advance_election();
        }
        let mut next_tick = Instant::now() + self.config.tick;
        let mut next_chores = Instant::now() + CHORE_INTERVAL;
        loop {
            let outcome = self.round(&mut next_tick, &mut next_chores);
            match outcome {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Log(LogError::NoSpace)) => {
                    if !self.wait_for_space() {
                        break;
                    }
                    next_tick = Instant::now() + self.config.tick;
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
    fn round(&mut self, next_tick: &mut Instant, next_chores: &mut Instant) -> Result<bool, Trouble> {
        let goes_on = self.take_inputs(*next_tick)?;
        let now = Instant::now();
        if now >= *next_tick {
            *next_tick = now + self.config.tick;
            self.n_ticks += 1;
            self.core.tick();
            self.pass_leadership_on();
        }
        if now >= *next_chores {
            *next_chores = now + CHORE_INTERVAL;
            self.do_chores();
        }
        if self.ends_at_tick.is_some_and(|tick| self.n_ticks >= tick) {
            return Err(Trouble::Removed);
        }
        self.propose_held();
        self.flush_proposals();
        self.ask();
        self.settle()?;
        Ok(goes_on)
    }

    /// Waits for input and takes as much as one round should do.
    fn take_inputs(&mut self, until: Instant) -> Result<bool, Trouble> {
        let mut next = match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        };
        let (mut n_inputs, mut bytes) = (0, 0);
        while let Some(input) = next {
            match input {
                Input::Stop => return Ok(false),
                Input::Propose { id, payload, reply } => {
                    bytes += payload.len();
                    self.propose(id, payload.into(), reply);
                }
                Input::Change { id, change, reply } => self.hold_change(id, change, reply),
                Input::ReadIndex { reply } => self.reads.add(reply),
                Input::Step(message) => self.core.step(message),
                Input::Install { message, state } => self.receive_snapshot(message, state),
                Input::Unreachable(id) => self.core.report_unreachable(id),
                Input::SnapshotSent { to, sent } => self.core.report_snapshot(to, sent),
                Input::Persisted { number, outcome } => self.persisted(number, outcome)?,
                Input::Transfer { to, reply } => {
                    let _caller_gave_up = reply.send(self.transfer(to));
                }
                Input::InSync { learner, reply } => {
                    let in_sync = self.core.is_in_sync(learner).ok_or(StoreError::Refused("not leader"));
                    let _caller_gave_up = reply.send(in_sync);
                }
                Input::Removed => return Err(Trouble::Removed),
            }
            n_inputs += 1;
            let is_full = n_inputs >= BATCH_INPUTS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if is_full { None } else { self.inbox.try_recv().ok() };
        }
        Ok(true)
    }

    fn propose(&mut self, id: u64, payload: Bytes, reply: Reply) {
        match reply {
            // What a leader does of its own accord, the next one does anyway.
            Reply::Nobody => {}
            Reply::To(_) => self.waiting.add(id, payload.clone(), reply),
        }
        self.core.propose(id, payload);
    }

    fn flush_proposals(&mut self) {
        self.waiting.give(self.core.term());
        let Some((why, dropped)) = self.core.flush_proposals() else { return };
        for (id, payload) in dropped {
            let Some(reply) = self.waiting.take(id) else { continue };
            let has_room = self.held.len() < HELD_MAX;
            if why == Dropped::NoLeader && has_room {
                self.held.push_back((id, payload, reply));
            } else {
                reply.answer(Err(self.why_dropped()));
            }
        }
    }

    fn why_dropped(&self) -> StoreError {
        let is_removed = self.ends_at_tick.is_some();
        if is_removed { StoreError::Fatal(REMOVED.into()) } else { StoreError::TooManyRequests }
    }

    fn hold_change(&mut self, id: u64, change: MemberChange, reply: Reply) {
        if self.held_changes.len() < HELD_MAX {
            self.held_changes.push_back((id, change, reply));
        } else {
            reply.answer(Err(StoreError::TooManyRequests));
        }
    }

    /// Proposes what waited for a leader, and changes of the members one by one.
    fn propose_held(&mut self) {
        if !self.core.can_propose() {
            return;
        }
        while let Some((id, payload, reply)) = self.held.pop_front() {
            if !reply.is_void() {
                self.propose(id, payload, reply);
            }
        }
        while !self.core.has_pending_change()
            && let Some((id, change, reply)) = self.held_changes.pop_front()
        {
            if reply.is_void() {
                continue;
            }
            match self.core.propose_change(encode_change(id, change)) {
                Ok(()) => {
                    self.waiting.add_once(id, reply);
                }
                Err(_dropped) => reply.answer(Err(self.why_dropped())),
            }
        }
    }

    /// Asks the leader for whoever wants to read.
    fn ask(&mut self) {
        while self.reads.wants_to_ask() {
            let context = self.shared.next_id();
            self.reads.ask(context, self.n_ticks);
            self.core.ask_read_index(context);
        }
    }

    fn ask_again(&mut self, before_tick: u64) {
        for old in self.reads.overdue(before_tick) {
            let context = self.shared.next_id();
            self.reads.ask_again(old, context, self.n_ticks);
            self.core.ask_read_index(context);
        }
    }

    fn transfer(&mut self, to: u64) -> Result<(), StoreError> {
        if !self.core.leads() {
            return Err(StoreError::Refused("not leader"));
        }
        if !self.core.is_voter(to) || self.apply.is_witness(to) {
            return Err(StoreError::Refused("bad leader transferee"));
        }
        self.core.transfer_leader(to);
        Ok(())
    }

    fn do_chores(&mut self) {
        if self.core.leads() {
            for command in self.apply.chores() {
                let id = self.shared.next_id();
                self.propose(id, command.encode(id).into(), Reply::Nobody);
            }
        }
        self.waiting.retain(|reply| !reply.is_void());
        self.held.retain(|(_, _, reply)| !reply.is_void());
        self.held_changes.retain(|(_, _, reply)| !reply.is_void());
        let ticks = CHORE_INTERVAL.as_millis() / self.config.tick.as_millis().max(1);
        self.ask_again(self.n_ticks.saturating_sub(u64::try_from(ticks).unwrap_or(u64::MAX)));
        self.yield_leadership_if_stalled();
        if let Some((index, term)) = self.core.truncate(self.apply.durable_index()) {
            match &self.wal {
                Some(wal) => wal.submit(Job::Truncate { index, term }),
                None => truncate(&mut *self.log.lock(), index, term),
            }
        }
    }

    /// A witness that was elected has what another member needs: that one gets it, and leads.
    fn pass_leadership_on(&mut self) {
        if self.config.core.is_witness
            && self.core.leads()
            && !self.core.is_handing_over()
            && let Some(successor) = self.core.best_successor(|id| !self.apply.is_witness(id))
        {
            tracing::info!(to = format!("{successor:x}"), "the witness passes leadership on");
            self.core.transfer_leader(successor);
        }
    }

    /// A leader whose disk does not answer acknowledges nothing; another can.
    fn yield_leadership_if_stalled(&mut self) {
        let timeout = self.config.election_timeout();
        let is_stalled = self.writing.front().is_some_and(|(_, since)| since.elapsed() > timeout);
        if is_stalled
            && self.core.leads()
            && let Some(successor) = self.core.best_successor(|id| !self.apply.is_witness(id))
        {
            tracing::warn!(?timeout, to = format!("{successor:x}"), "the log's disk stalls: leadership is handed over");
            self.core.transfer_leader(successor);
        }
    }

    /// Does what the core wants until it wants nothing.
    fn settle(&mut self) -> Result<(), Trouble> {
        loop {
            while let Some(work) = self.core.next_work() {
                self.work(work)?;
            }
            self.answer_reads();
            self.publish_status();
            let is_established = self.core.is_established();
            if is_established == self.was_established {
                return Ok(());
            }
            self.was_established = is_established;
            // A new leader ignores questions until now.
            self.ask_again(self.n_ticks);
        }
    }

    fn work(&mut self, work: Work) -> Result<(), Trouble> {
        let Work { role, messages, reads, write, committed } = work;
        if let Some(role) = role {
            self.change_role(role);
        }
        if !messages.is_empty() {
            self.outbox.send(messages);
        }
        for (context, index) in reads {
            self.reads.confirm(context, index);
        }
        if let Some(write) = write {
            self.write(write)?;
        }
        self.apply_committed(committed)?;
        self.answer_reads();
        Ok(())
    }

    fn change_role(&mut self, role: Role) {
        let before = std::mem::replace(&mut self.role, role);
        if before.leads != role.leads {
            self.apply.lead(role.leads);
        }
        if before.leader != role.leader && role.leader != 0 {
            let (id, term) = (format!("{:x}", role.leader), self.core.term());
            tracing::info!(leader = id, term, "the cluster has a leader");
            self.ask_again(self.n_ticks);
        } else if before.leader != role.leader && !self.core.is_alone() {
            tracing::warn!(term = self.core.term(), "the cluster has no leader");
        }
    }

    /// A member that is alone waits for its own disk: nothing else could go on meanwhile, and a thread less is in the way.
    fn write(&mut self, write: LogWrite) -> Result<(), Trouble> {
        if self.core.is_alone() && self.writing.is_empty() && write.reset.is_none() {
            self.log.lock().append(&write.entries, Some(&write.hard_state), true)?;
            let messages = self.core.persisted(write.number);
            if !messages.is_empty() {
                self.outbox.send(messages);
            }
            return Ok(());
        }
        let install = match write.reset {
            None => None,
            Some((index, _)) => {
                let arrived = self.arriving.take().filter(|(of, _)| *of == index);
                let (_, state) =
                    arrived.ok_or_else(|| Trouble::Raft(format!("the state of snapshot {index} did not arrive")))?;
                let Incoming { machine, staged } = *state;
                let install = self.apply.prepare_install(&machine, staged);
                self.installing = Some((write.number, Box::new(machine)));
                Some(install)
            }
        };
        self.writing.push_back((write.number, Instant::now()));
        let epoch = self.epoch;
        self.wal()?.submit(Job::Write { epoch, write, install });
        Ok(())
    }

    fn wal(&mut self) -> Result<&Wal, Trouble> {
        let wal = match self.wal.take() {
            Some(wal) => wal,
            None => Wal::start(self.log.clone(), self.raft.inbox())
                .map_err(|error| Trouble::Raft(format!("no thread for the log: {error}")))?,
        };
        Ok(self.wal.insert(wal))
    }

    fn persisted(&mut self, number: u64, outcome: Result<(), LogError>) -> Result<(), Trouble> {
        outcome?;
        while self.writing.pop_front_if(|(written, _)| *written <= number).is_some() {}
        if let Some((_, machine)) = self.installing.take_if(|(written, _)| *written <= number) {
            tracing::info!(index = machine.applied.0, "took over the state that the leader sent");
            self.apply.install(*machine);
            self.waiting.install();
        }
        let messages = self.core.persisted(number);
        if !messages.is_empty() {
            self.outbox.send(messages);
        }
        Ok(())
    }

    fn receive_snapshot(&mut self, message: Message, state: Box<Incoming>) {
        if self.installing.is_some() {
            return;
        }
        self.arriving = Some((state.machine.applied.0, state));
        self.core.step(message);
    }

    fn apply_committed(&mut self, entries: Vec<Entry>) -> Result<(), Trouble> {
        let mut normal = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryNormal {
                normal.push(entry);
            } else {
                self.apply_normal(std::mem::take(&mut normal))?;
                self.apply_change(entry)?;
            }
        }
        self.apply_normal(normal)
    }

    fn apply_normal(&mut self, entries: Vec<Entry>) -> Result<(), Trouble> {
        let Some(last) = entries.last() else { return Ok(()) };
        let (index, term) = (last.index, last.term);
        assert_eq!(entries[0].index, self.core.applied() + 1, "entries are applied in order, once");
        let committed =
            entries.into_iter().map(|entry| Committed { index: entry.index, term: entry.term, payload: entry.data });
        let answers = self.apply.apply(committed.collect()).map_err(Trouble::Apply)?;
        self.core.applied_to(index, term);
        for (id, outcome) in answers {
            if let Some(reply) = self.waiting.take(id) {
                reply.answer(outcome);
            }
        }
        self.applied_in(term);
        self.apply.announce();
        Ok(())
    }

    /// An entry of this term is applied, and so is everything before it.
    fn applied_in(&mut self, term: u64) {
        let Some(lost) = self.waiting.applied_in(term) else { return };
        for (id, payload, reply) in lost {
            if !reply.is_void() {
                self.propose(id, payload, reply);
            }
        }
        self.flush_proposals();
        // A leader that is new leaves questions unanswered until now.
        self.ask_again(self.n_ticks);
    }

    fn apply_change(&mut self, entry: Entry) -> Result<(), Trouble> {
        let (index, term) = (entry.index, entry.term);
        // Going on without it would make this member count votes differently from the others.
        let decoded = decode_change(entry.data);
        let (id, change, for_raft) = decoded.map_err(|error| Trouble::Raft(format!("log entry {index}: {error}")))?;
        let checked = self.apply.check_change(&change);
        let outcome = match checked {
            Ok(()) => {
                let conf_state = self.core.apply_change(&for_raft)?;
                let removes_self = change == MemberChange::Remove(self.config.core.member_id);
                tracing::info!(?change, "the members change");
                let outcome = self.apply.change_members(index, term, Some(change));
                assert!(same_conf(&conf_state, &self.apply.conf_state()), "the table of members is what Raft counts");
                if removes_self {
                    // Time for the others to hear of it.
                    self.ends_at_tick = Some(self.n_ticks + self.config.core.election_ticks as u64);
                }
                Ok(outcome)
            }
            Err(error) => {
                self.apply.change_members(index, term, None);
                Err(error)
            }
        };
        self.core.applied_to(index, term);
        self.publish_status();
        if let Some(reply) = self.waiting.take(id) {
            reply.answer(outcome);
        }
        self.applied_in(term);
        Ok(())
    }

    fn answer_reads(&mut self) {
        for reply in self.reads.ready(self.core.applied()) {
            let _caller_gave_up = reply.send(Ok(()));
        }
    }

    fn publish_status(&self) {
        let core = &self.core;
        // Once established, nobody but this member can change that, by adding another.
        let is_alone = core.is_alone() && (core.is_established() || self.shared.is_alone());
        let status = RaftStatus {
            term: core.term(),
            leader: core.leader(),
            first_index: core.first_index(),
            last_index: core.last_index(),
            committed: core.committed(),
            applied: core.applied(),
        };
        self.shared.publish(status, is_alone);
    }

    fn campaign_alone(&mut self) -> Result<(), Trouble> {
        self.core.campaign()?;
        self.settle()
    }

    /// The disk is full. What was to be written is not durable, so for this member it never happened: it starts over from what
    /// is durable, as after a crash. Meanwhile it takes part in nothing; a member that is alone goes on reading.
    /// False when told to stop.
    fn wait_for_space(&mut self) -> bool {
        tracing::error!("no space left for the log: writes are refused until there is");
        self.shared.set_full(true);
        self.apply.lead(false);
        self.role.leads = false;
        self.answer_all(&StoreError::NoSpace);
        if self.installing.is_some() {
            self.refuse_all(&StoreError::Fatal("no space left for the state that the leader sent".into()));
            return false;
        }
        self.epoch += 1;
        self.writing.clear();
        loop {
            let until = Instant::now() + FULL_DISK_RETRY;
            while let Ok(input) = self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                match input {
                    Input::Stop => return false,
                    other => refuse(other, &StoreError::NoSpace, &StoreError::NoLeader),
                }
            }
            let recovered = self.core.start_over().map_err(Trouble::from).and_then(|()| {
                if self.core.is_alone() {
                    return self.campaign_alone();
                }
                let hard_state = self.core.hard_state().clone();
                Ok(self.log.lock().append(&[], Some(&hard_state), true)?)
            });
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

    fn answer_all(&mut self, error: &StoreError) {
        for reply in self.waiting.take_all() {
            reply.answer(Err(error.clone()));
        }
        for (_, _, reply) in self.held.drain(..) {
            reply.answer(Err(error.clone()));
        }
        for (_, _, reply) in self.held_changes.drain(..) {
            reply.answer(Err(error.clone()));
        }
        for reply in self.reads.take_all() {
            let _caller_gave_up = reply.send(Err(StoreError::NoLeader));
        }
    }

    /// Nothing can be written any more, or may be: everything is refused from now on, and no other member hears anything.
    fn refuse_all(&mut self, error: &StoreError) {
        tracing::error!(%error, "this member acknowledges nothing any more");
        self.shared.fail(error.clone());
        self.apply.lead(false);
        self.answer_all(error);
        while let Ok(input) = self.inbox.recv() {
            match input {
                Input::Stop => return,
                other => refuse(other, error, error),
            }
        }
    }
}

fn refuse(input: Input, error: &StoreError, read_error: &StoreError) {
    match input {
        Input::Propose { reply, .. } | Input::Change { reply, .. } => reply.answer(Err(error.clone())),
        Input::ReadIndex { reply } | Input::Transfer { reply, .. } => {
            let _caller_gave_up = reply.send(Err(read_error.clone()));
        }
        Input::InSync { reply, .. } => {
            let _caller_gave_up = reply.send(Err(read_error.clone()));
        }
        Input::Step(_)
        | Input::Install { .. }
        | Input::Unreachable(_)
        | Input::SnapshotSent { .. }
        | Input::Persisted { .. }
        | Input::Removed
        | Input::Stop => {}
    }
}

fn same_conf(a: &ConfState, b: &ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&a.voters) == sorted(&b.voters) && sorted(&a.learners) == sorted(&b.learners)
}

impl Trouble {
    fn to_store_error(&self) -> StoreError {
        match self {
            Self::Log(LogError::NoSpace) => StoreError::NoSpace,
            Self::Log(error @ LogError::Failed(_)) => StoreError::Fatal(error.to_string()),
            Self::Apply(error) => error.clone(),
            Self::Raft(message) => StoreError::Fatal(message.clone()),
            Self::Removed => StoreError::Fatal(REMOVED.into()),
        }
    }
}
