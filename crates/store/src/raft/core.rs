//! One member's part in Raft without any I/O: what happened goes in, what has to be done comes out.
//!
//! The order of things is decided here. A leader's messages leave before its own log is durable; a follower's and a candidate's
//! only after. What is handed out to be applied is committed and durable here. Writes are done in the order they are handed
//! out, and reported by number; several may be under way.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfChange, ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole, Storage};

use super::log::LoggedState;
use super::logger::logger;
use super::storage::RaftStorage;

/// Entries not yet committed; more are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// As etcd.
const INFLIGHT_MESSAGES_MAX: usize = 512;
/// Entries kept in memory for slow followers, in number and bytes, as etcd's catch-up entries.
pub(crate) const KEPT_ENTRIES_MAX: u64 = 5_000;
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Kept for followers that are being sent a snapshot, so that they can go on from it.
const KEPT_FOR_SNAPSHOTS_BYTES_MAX: usize = 256 << 20;
/// A witness leaves the others so many election timeouts to elect one of them: two rounds of theirs.
const WITNESS_PATIENCE: usize = 4;
/// A learner is in sync when it has this much of the leader's log, in percent, as in etcd.
const LEARNER_READY_PERCENT: u64 = 90;

#[derive(Clone, Debug)]
pub(crate) struct CoreConfig {
    pub(crate) member_id: u64,
    pub(crate) conf_state: ConfState,
    /// Index and term of the last entry whose effects the state machine already has.
    pub(crate) applied: (u64, u64),
    /// Heartbeats without a leader until an election.
    pub(crate) election_ticks: usize,
    /// Entries kept for followers that are behind; those further behind get the state.
    pub(crate) kept_entries_max: u64,
    /// This member has no state. It leads only when nobody else can be elected, because it alone has the end of the log, and only to pass
    /// that on.
    pub(crate) is_witness: bool,
    /// Decides by itself how long to wait for an election if `None`; the simulator fixes it.
    pub(crate) election_seed: Option<u64>,
}

pub(crate) struct Core {
    config: CoreConfig,
    node: RawNode<RaftStorage>,
    applied: u64,
    /// Proposed in this round, by the ids of their requests.
    proposals: Vec<(u64, Entry)>,
    /// Handed out to be written, in this order.
    outstanding: VecDeque<Outstanding>,
    /// What a restart would find: the last entry, the vote.
    durable_last: u64,
    durable_hard_state: HardState,
}

/// A write that is under way, or what has to wait for one.
struct Outstanding {
    number: u64,
    is_write: bool,
    first: Option<u64>,
    last: Option<u64>,
    hard_state: HardState,
    /// The index of the snapshot that it starts the log over with.
    snapshot: Option<u64>,
    messages: Vec<Message>,
}

/// What has to be done now, in this order.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Another leads, or this member's role is another.
    pub(crate) role: Option<Role>,
    pub(crate) messages: Vec<Message>,
    /// Questions that the leader answered, with the index from which on the state is fresh enough.
    pub(crate) reads: Vec<(u64, u64)>,
    pub(crate) write: Option<LogWrite>,
    pub(crate) committed: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) leader: u64,
    pub(crate) leads: bool,
}

/// To be made durable; then [`Core::persisted`] wants to hear its number.
#[derive(Clone, Debug)]
pub(crate) struct LogWrite {
    pub(crate) number: u64,
    /// Start over behind this index and term before anything else: a snapshot takes the place of the log.
    pub(crate) reset: Option<(u64, u64)>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: HardState,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// There is no leader, or it is handing over.
    NoLeader,
    TooMuch,
}

impl Core {
    pub(crate) fn new(config: CoreConfig, mut logged: LoggedState) -> raft::Result<Self> {
        // Applied entries were committed; the log need not have heard of it.
        logged.hard_state.commit = logged.hard_state.commit.max(config.applied.0);
        let durable_hard_state = logged.hard_state.clone();
        let storage = RaftStorage::new(logged, config.conf_state.clone(), config.applied);
        let storage = storage.without_state(config.is_witness);
        let durable_last = storage.last();
        let applied = config.applied.0;
        let node = new_node(&config, storage, applied)?;
        Ok(Self {
            config,
            node,
            applied,
            proposals: Vec::new(),
            outstanding: VecDeque::new(),
            durable_last,
            durable_hard_state,
        })
    }

    pub(crate) fn tick(&mut self) {
        if !self.is_taking_over() {
            self.node.tick();
        }
    }

    /// A state is on its way to the disk, and the log before it is gone: raft-rs would look there for changes of the members
    /// if it began an election now.
    fn is_taking_over(&self) -> bool {
        self.outstanding.iter().any(|write| write.snapshot.is_some())
    }

    /// Shortens the wait for the first election: whoever starts has waited long enough.
    pub(crate) fn advance_election(&mut self) {
        for _ in 1..self.config.election_ticks {
            self.node.tick();
        }
    }

    pub(crate) fn campaign(&mut self) -> raft::Result<()> {
        self.node.campaign()
    }

    /// Takes a message of another member. Messages that make no sense any more are ignored.
    pub(crate) fn step(&mut self, message: Message) {
        let begins_election = message.get_msg_type() == MessageType::MsgTimeoutNow;
        let is_untimely = begins_election && (self.is_taking_over() || self.config.is_witness);
        if message.to != self.config.member_id
            || is_untimely
            || self.is_unanswerable(&message)
            || self.is_for_another_leader(&message)
            || !are_consecutive(&message)
        {
            return;
        }
        if let Err(error) = self.node.step(message) {
            tracing::trace!(%error, "message ignored");
        }
    }

    /// A follower's acknowledgement of entries that this leader does not have would stop it: such a follower has another log.
    fn is_unanswerable(&self, message: &Message) -> bool {
        let acknowledges = message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject;
        acknowledges
            && message.term == self.node.raft.term
            && self.node.raft.state == StateRole::Leader
            && message.index > self.node.raft.raft_log.last_index()
    }

    /// A proposal is for the leader of the term in which it was made, and for no other: whoever made it has to know that it is lost when
    /// that term is over. raft-rs does not look at the log term of proposals; here it carries that term.
    fn is_for_another_leader(&self, message: &Message) -> bool {
        message.get_msg_type() == MessageType::MsgPropose && !(self.leads() && message.log_term == self.term())
    }

    /// Queues a proposal for [`Core::flush_proposals`].
    pub(crate) fn propose(&mut self, id: u64, payload: Bytes) {
        self.proposals.push((id, Entry { data: payload, ..Entry::default() }));
    }

    /// Proposes what is queued as one message. Returns what was not taken.
    pub(crate) fn flush_proposals(&mut self) -> Option<(Dropped, Vec<(u64, Bytes)>)> {
        if self.proposals.is_empty() {
            return None;
        }
        let proposals = std::mem::take(&mut self.proposals);
        let entries: Vec<_> = proposals.iter().map(|(_, entry)| entry.clone()).collect();
        let dropped = self.propose_entries(entries).err()?;
        Some((dropped, proposals.into_iter().map(|(id, entry)| (id, entry.data)).collect()))
    }

    /// Proposes a change of the members, see [`super::message::encode_change`].
    pub(crate) fn propose_change(&mut self, data: Vec<u8>) -> Result<(), Dropped> {
        let mut entry = Entry { data: data.into(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        self.propose_entries(vec![entry])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), Dropped> {
        if !self.can_propose() {
            return Err(Dropped::NoLeader);
        }
        let (from, log_term) = (self.config.member_id, self.term());
        let mut message = Message { from, log_term, entries: entries.into(), ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.node.raft.step(message).map_err(|_dropped| Dropped::TooMuch)
    }

    /// There is a leader to take proposals.
    pub(crate) fn can_propose(&self) -> bool {
        let raft = &self.node.raft;
        raft.leader_id != 0 && raft.lead_transferee.is_none()
    }

    /// A change of the members is under way here.
    pub(crate) fn has_pending_change(&self) -> bool {
        self.leads() && self.node.raft.has_pending_conf()
    }

    /// Asks the leader from which index on the state is fresh enough; `context` is in the answer, if one comes.
    pub(crate) fn ask_read_index(&mut self, context: u64) {
        self.node.read_index(context.to_be_bytes().to_vec());
    }

    pub(crate) fn transfer_leader(&mut self, to: u64) {
        self.node.transfer_leader(to);
    }

    pub(crate) fn report_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    pub(crate) fn report_snapshot(&mut self, id: u64, sent: bool) {
        self.node.report_snapshot(id, if sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// What is to be done, until there is nothing.
    pub(crate) fn next_work(&mut self) -> Option<Work> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let mut work = Work::default();
        if let Some(state) = ready.ss() {
            work.role = Some(Role { leader: state.leader_id, leads: state.raft_state == StateRole::Leader });
        }
        let context = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let states = ready.take_read_states();
        work.reads = states.iter().filter_map(|state| Some((context(&state.request_ctx)?, state.index))).collect();
        work.messages = ready.take_messages();
        work.committed = ready.take_committed_entries();
        let after = ready.take_persisted_messages();

        let storage = self.node.mut_store();
        let stored = storage.hard_state().clone();
        let mut hard_state = ready.hs().cloned().unwrap_or(stored.clone());
        let has_voted = (hard_state.term, hard_state.vote) != (stored.term, stored.vote);
        let reset = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().clone());
        if let Some(metadata) = &reset {
            storage.restore(metadata);
            hard_state.commit = hard_state.commit.max(metadata.index);
        }
        let entries = ready.take_entries();
        storage.append(entries.clone());
        storage.set_hard_state(hard_state.clone());
        let number = ready.number();
        self.node.advance_append_async(ready);

        let is_write = reset.is_some() || has_voted || !entries.is_empty();
        if !is_write && self.outstanding.is_empty() {
            work.messages.extend(after);
            self.node.on_persist_ready(number);
            return Some(work);
        }
        self.outstanding.push_back(Outstanding {
            number,
            is_write,
            first: entries.first().map(|entry| entry.index),
            last: entries.last().map(|entry| entry.index),
            hard_state: hard_state.clone(),
            snapshot: reset.as_ref().map(|metadata| metadata.index),
            messages: after,
        });
        // A commit index alone is not worth a write: it goes along with the next entries.
        if is_write {
            let reset = reset.map(|metadata| (metadata.index, metadata.term));
            work.write = Some(LogWrite { number, reset, entries, hard_state });
        }
        Some(work)
    }

    /// Everything up to this write is durable, and if it was a snapshot's, the state is that of the snapshot now. Returns the messages that waited for it.
    pub(crate) fn persisted(&mut self, number: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut last_number = None;
        let mut snapshot = None;
        while let Some(done) = self.outstanding.pop_front_if(|next| next.number <= number || !next.is_write) {
            if done.is_write {
                if let Some(index) = done.snapshot {
                    self.durable_last = index;
                    snapshot = Some(index);
                }
                self.durable_last = done.last.unwrap_or(self.durable_last);
                self.durable_hard_state = done.hard_state;
            }
            messages.extend(done.messages);
            last_number = Some(done.number);
        }
        if let Some(number) = last_number {
            self.node.on_persist_ready(number);
        }
        if let Some(index) = snapshot {
            self.applied = index;
            self.node.advance_apply_to(index);
        }
        messages
    }

    /// Applied up to here; the entries were handed out before.
    pub(crate) fn applied_to(&mut self, index: u64, term: u64) {
        assert!(index >= self.applied, "entries are applied in order, once");
        self.applied = index;
        self.node.mut_store().set_applied(index, term);
        self.node.advance_apply_to(index);
    }

    /// Counts votes as a change of the members says, when its entry is applied.
    pub(crate) fn apply_change(&mut self, change: &ConfChange) -> raft::Result<ConfState> {
        let conf_state = self.node.apply_conf_change(change)?;
        self.node.mut_store().set_conf_state(conf_state.clone());
        // raft-rs lets a leader that was removed go on, and panics when it next counts itself.
        if self.leads() && self.node.raft.prs().get(self.config.member_id).is_none() {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        Ok(conf_state)
    }

    /// The writes under way failed and left nothing behind: starts over from what is durable, as after a crash.
    pub(crate) fn start_over(&mut self) -> raft::Result<()> {
        let first_lost = self.outstanding.iter().filter_map(|write| write.first).min();
        let last = first_lost.map_or(self.durable_last, |first| self.durable_last.min(first - 1));
        assert!(last >= self.applied, "applied entries are durable");
        assert!(self.outstanding.iter().all(|write| write.snapshot.is_none()), "a snapshot is not given back");
        self.outstanding.clear();
        self.proposals.clear();
        let storage = self.node.mut_store();
        storage.cut(last);
        self.durable_last = last;
        let mut hard_state = self.durable_hard_state.clone();
        hard_state.commit = hard_state.commit.min(last).max(self.applied);
        storage.set_hard_state(hard_state);
        let storage = self.node.store();
        let applied = (self.applied, storage.term(self.applied).unwrap_or(0));
        let again = RaftStorage::new(storage.to_logged_state(), storage.conf_state().clone(), applied);
        let again = again.without_state(self.config.is_witness);
        self.node = new_node(&self.config, again, self.applied)?;
        Ok(())
    }

    /// Forgets entries whose effects are durable, and that nobody will ask for. Returns index and term of the last of them.
    pub(crate) fn truncate(&mut self, durable: u64) -> Option<(u64, u64)> {
        let durable = durable.min(self.applied);
        let (n_kept, bytes_kept) = self.node.store().kept();
        let first = self.node.store().first();
        // Twice as many before anything is done: truncation moves memory.
        let kept_max = self.config.kept_entries_max;
        if n_kept as u64 <= 2 * kept_max && bytes_kept <= KEPT_BYTES_MAX {
            return None;
        }
        let keep = if bytes_kept > KEPT_BYTES_MAX { kept_max / 10 } else { kept_max };
        let mut index = durable.checked_sub(keep)?;
        if bytes_kept <= KEPT_FOR_SNAPSHOTS_BYTES_MAX {
            let on_their_way = self.node.raft.prs().iter();
            let on_their_way = on_their_way.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
            index = on_their_way.fold(index, |index, (_, progress)| index.min(progress.pending_snapshot));
        }
        if index < first {
            return None;
        }
        self.node.mut_store().truncate(index).map(|term| (index, term))
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.durable_hard_state
    }

    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(crate) fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    pub(crate) fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.node.store().first()
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    pub(crate) fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// This member alone decides: nobody else votes.
    pub(crate) fn is_alone(&self) -> bool {
        self.node.raft.promotable() && self.node.raft.prs().is_singleton()
    }

    /// As leader, this member has applied something of its own term: it knows all that was ever committed.
    pub(crate) fn is_established(&self) -> bool {
        self.leads() && self.node.raft.commit_to_current_term()
    }

    /// Whether a learner has caught up; `None` if this member does not lead or has no such learner.
    pub(crate) fn is_in_sync(&self, learner: u64) -> Option<bool> {
        if !self.leads() {
            return None;
        }
        let prs = self.node.raft.prs();
        let matched = prs.get(learner)?.matched;
        let own = prs.get(self.config.member_id)?.matched;
        Some(matched * 100 >= own * LEARNER_READY_PERCENT)
    }

    pub(crate) fn is_voter(&self, id: u64) -> bool {
        self.node.raft.prs().conf().voters().contains(id)
    }

    /// Leadership is on its way to another member.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// The other voter that is in touch and has the most of the log, among those that may lead.
    pub(crate) fn best_successor(&self, may_lead: impl Fn(u64) -> bool) -> Option<u64> {
        let prs = self.node.raft.prs();
        let others = prs.iter().filter(|(id, progress)| {
            **id != self.config.member_id && progress.recent_active && self.is_voter(**id) && may_lead(**id)
        });
        others.max_by_key(|(id, progress)| (progress.matched, **id)).map(|(id, _)| *id)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let raft = &self.node.raft;
        assert!(self.applied <= raft.raft_log.committed);
        assert!(raft.raft_log.committed <= raft.raft_log.last_index());
        assert!(self.applied <= self.durable_last, "only what is durable here is applied");
        assert!(self.outstanding.iter().map(|write| write.number).is_sorted());
    }
}

/// Entries follow the one that a message says they follow. raft-rs takes that for granted, and panics.
fn are_consecutive(message: &Message) -> bool {
    let appends = message.get_msg_type() == MessageType::MsgAppend;
    !appends || message.entries.iter().zip(1..).all(|(entry, at)| entry.index == message.index.saturating_add(at))
}

fn new_node(config: &CoreConfig, storage: RaftStorage, applied: u64) -> raft::Result<RawNode<RaftStorage>> {
    let mut raft_config = raft::Config {
        id: config.member_id,
        election_tick: config.election_ticks,
        heartbeat_tick: 1,
        applied,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        check_quorum: true,
        pre_vote: true,
        // raft-rs would add entries to a message that has none yet and begins elsewhere. Proposals come many at a time anyway.
        batch_append: false,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        ..raft::Config::default()
    };
    if config.is_witness {
        let ticks = WITNESS_PATIENCE * config.election_ticks;
        (raft_config.min_election_tick, raft_config.max_election_tick) = (ticks, ticks + config.election_ticks);
    } else if let Some(seed) = config.election_seed {
        let ticks = config.election_ticks + usize::try_from(seed % config.election_ticks as u64).unwrap_or(0);
        (raft_config.min_election_tick, raft_config.max_election_tick) = (ticks, ticks + 1);
    }
    RawNode::new(&raft_config, storage, &logger())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(id: u64, n_members: u64) -> Core {
        let conf_state = ConfState { voters: (1..=n_members).collect(), ..ConfState::default() };
        let config = CoreConfig {
            member_id: id,
            conf_state,
            applied: (1, 1),
            election_ticks: 10,
            kept_entries_max: KEPT_ENTRIES_MAX,
            is_witness: false,
            election_seed: Some(id),
        };
        let hard_state = HardState { term: 1, vote: 0, commit: 1, ..HardState::default() };
        Core::new(config, LoggedState { hard_state, truncated: (1, 1), ..LoggedState::default() }).unwrap()
    }

    /// Does all there is to do, and writes at once.
    fn work_off(core: &mut Core) -> (Vec<Message>, Vec<Entry>) {
        let (mut messages, mut committed) = (Vec::new(), Vec::new());
        while let Some(work) = core.next_work() {
            messages.extend(work.messages);
            if let Some(write) = work.write {
                messages.extend(core.persisted(write.number));
            }
            apply(core, &work.committed);
            committed.extend(work.committed);
            core.check_invariants();
        }
        (messages, committed)
    }

    fn apply(core: &mut Core, committed: &[Entry]) {
        if let Some(last) = committed.last() {
            core.applied_to(last.index, last.term);
        }
    }

    /// Three members, of which the first leads.
    fn led() -> Vec<Core> {
        let mut cores: Vec<_> = (1..=3).map(|id| core(id, 3)).collect();
        cores[0].campaign().unwrap();
        exchange(&mut cores);
        assert!(cores[0].is_established());
        cores
    }

    fn exchange(cores: &mut [Core]) {
        loop {
            let messages: Vec<_> = cores.iter_mut().flat_map(|core| work_off(core).0).collect();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let to = usize::try_from(message.to).unwrap() - 1;
                cores[to].step(message);
            }
        }
    }

    fn kinds(messages: &[Message]) -> Vec<(MessageType, u64)> {
        messages.iter().map(|message| (message.get_msg_type(), message.to)).collect()
    }

    #[test]
    fn a_leader_sends_before_its_log_is_durable_and_a_follower_answers_after() {
        let mut cores = led();
        cores[0].propose(1, Bytes::from("x"));
        assert_eq!(cores[0].flush_proposals(), None);
        let work = cores[0].next_work().unwrap();
        assert_eq!(kinds(&work.messages), [(MessageType::MsgAppend, 2), (MessageType::MsgAppend, 3)]);
        let own = work.write.unwrap();
        for message in work.messages {
            let to = usize::try_from(message.to).unwrap() - 1;
            cores[to].step(message);
        }
        let mut answers = Vec::new();
        for follower in &mut cores[1..] {
            let work = follower.next_work().unwrap();
            assert_eq!(kinds(&work.messages), []);
            let messages = follower.persisted(work.write.unwrap().number);
            assert_eq!(kinds(&messages), [(MessageType::MsgAppendResponse, 1)]);
            answers.extend(messages);
        }
        for answer in answers {
            cores[0].step(answer);
        }
        while let Some(work) = cores[0].next_work() {
            assert_eq!(work.committed, [], "a quorum has it, but it is not durable here");
        }
        cores[0].persisted(own.number);
        let (_, committed) = work_off(&mut cores[0]);
        assert_eq!(committed.iter().map(|entry| &entry.data[..]).collect::<Vec<_>>(), [b"x"]);
    }

    #[test]
    fn proposals_of_a_round_are_one_message_and_a_follower_passes_them_on() {
        let mut cores = led();
        for id in 0..3 {
            cores[1].propose(id, Bytes::from("y"));
        }
        assert_eq!(cores[1].flush_proposals(), None);
        let (messages, _) = work_off(&mut cores[1]);
        assert_eq!(kinds(&messages), [(MessageType::MsgPropose, 1)]);
        assert_eq!(messages[0].entries.len(), 3);
    }

    #[test]
    fn without_a_leader_proposals_come_back() {
        let mut alone = core(2, 3);
        alone.propose(7, Bytes::from("z"));
        assert_eq!(alone.flush_proposals(), Some((Dropped::NoLeader, vec![(7, Bytes::from("z"))])));
    }

    #[test]
    fn entries_that_do_not_follow_what_they_should_are_ignored() {
        let mut cores = led();
        let last = cores[1].last_index();
        let term = cores[0].term();
        let entry = |index| Entry { term, index, ..Entry::default() };
        let mut append = Message { to: 2, from: 1, term, log_term: term, ..Message::default() };
        append.set_msg_type(MessageType::MsgAppend);
        append.index = last;
        append.entries = vec![entry(last), entry(last + 1)].into();
        cores[1].step(append.clone());
        append.entries = vec![entry(last + 1), entry(last + 3)].into();
        cores[1].step(append.clone());
        assert_eq!(cores[1].last_index(), last);
        append.entries = vec![entry(last + 1), entry(last + 2)].into();
        cores[1].step(append);
        assert_eq!(cores[1].last_index(), last + 2);
    }

    #[test]
    fn a_failed_write_leaves_what_was_durable_before() {
        let mut cores = led();
        cores[0].propose(1, Bytes::from("x"));
        cores[0].flush_proposals();
        let last = cores[0].last_index();
        while cores[0].next_work().is_some() {}
        assert_eq!(cores[0].last_index(), last);
        let term = cores[0].term();
        cores[0].start_over().unwrap();
        assert_eq!((cores[0].last_index(), cores[0].term()), (last - 1, term));
        assert!(!cores[0].leads());
        cores[0].check_invariants();
    }

    #[test]
    fn a_new_member_can_only_begin_with_a_state() {
        let mut cores = led();
        let mut change = ConfChange { node_id: 4, ..ConfChange::default() };
        change.set_change_type(raft::eraftpb::ConfChangeType::AddNode);
        let conf_state = cores[0].apply_change(&change).unwrap();
        assert_eq!(conf_state.voters.len(), 4);
        let mut newcomer = core(4, 0);
        newcomer =
            Core::new(CoreConfig { applied: (0, 0), ..newcomer.config.clone() }, LoggedState::default()).unwrap();
        let mut sent_state = false;
        for _ in 0..10 {
            cores[0].tick();
            let (messages, _) = work_off(&mut cores[0]);
            for message in messages.into_iter().filter(|message| message.to == 4) {
                sent_state |= message.get_msg_type() == MessageType::MsgSnapshot;
                if !sent_state {
                    newcomer.step(message);
                }
            }
            for answer in work_off(&mut newcomer).0 {
                cores[0].step(answer);
            }
        }
        assert!(sent_state, "the entry before the first is nowhere");
    }
}
