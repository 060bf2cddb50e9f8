//! Whole clusters in one thread, from one seed: the real core and state machine, with a network that loses, delays, repeats and
//! cuts one way, disks that forget what was not synced, clocks that differ, and members that crash, pause, join and leave.
//! After the bad times come good ones, in which everything has to come to rest.
//!
//! Checked at each step: the core's invariants; one leader a term; every member applies the same entries, and holds the same when it
//! has applied as much. At the end: what the clients saw is linearizable, and all members hold the same.
//!
//! `STORE_SIM_SEEDS=1000..2000` runs other seeds than the usual ones; a seed that fails is printed.

mod disk;
mod history;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_map};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::disk::{Disk, Row, Rows, machine_of, rows_of};
use self::history::{Call, Op, Return, Value, is_linearizable};
use super::core::{Core, CoreConfig, Work};
use super::log::LoggedState;
use super::message::{decode_change, encode_change, from_wire, to_wire};
use super::proposals::Proposals;
use super::reads::Reads;
use crate::command::Command;
use crate::machine::{Machine, Outcome};
use crate::membership::{MemberChange, Membership};
use crate::{Compare, CompareResult, CompareTarget, KeyRange, Member, Put, Revision, Txn, TxnResponse};

const N_KEYS: usize = 3;
const N_CLIENTS: usize = 4;
/// Bad times, in virtual milliseconds; then as much time as is needed to come to rest, up to a limit.
const BAD_MS: u64 = 20_000;
const REST_MS_MAX: u64 = 60_000;
const TICK_MS: u64 = 100;
/// A client gives up on an answer.
const PATIENCE_MS: u64 = 3_000;
/// Operations in a history: what the checker takes per key, with room.
const OPS_MAX: usize = 240;

enum Event {
    Tick(u64),
    Deliver { message: Message, state: Option<Box<Machine>> },
    Sync { member: u64, life: u64, number: u64 },
    Client(usize),
    GiveUp(usize),
    Fault,
    Restart(u64),
    Chores(u64),
}

struct Node {
    /// Counts its starts: what was meant for an earlier life does not reach this one.
    life: u64,
    core: Option<Core>,
    machine: Machine,
    disk: Disk,
    reads: Reads<usize>,
    waiting: Proposals<usize>,
    arriving: Option<(u64, Box<Machine>)>,
    installing: Option<(u64, Box<Machine>)>,
    tick_ms: u64,
    n_ticks: u64,
    paused_until: u64,
}

struct World {
    chance: StdRng,
    now: u64,
    sequence: u64,
    events: BinaryHeap<(Reverse<u64>, Reverse<u64>, usize)>,
    payloads: HashMap<usize, Event>,
    nodes: BTreeMap<u64, Node>,
    cuts: BTreeSet<(u64, u64)>,
    is_bad: bool,
    /// Index to term and data of what was applied first.
    applied: BTreeMap<u64, (u64, Bytes)>,
    /// Index to what whoever brought it to its disk first held there.
    states: BTreeMap<u64, Rows>,
    leaders: BTreeMap<u64, u64>,
    history: Vec<Op>,
    /// The operation each client waits for.
    pending: [Option<usize>; N_CLIENTS],
    next_value: u64,
    next_id: u64,
    next_member: u64,
    n_snapshots: usize,
    n_changes: usize,
    n_repeated: usize,
    /// The member without a state, if there is one; such clusters keep their members.
    witness: Option<u64>,
    n_witness_terms: usize,
}

fn key(at: usize) -> Bytes {
    format!("k{at}").into()
}

fn value_bytes(value: u64) -> Bytes {
    value.to_string().into()
}

fn member(id: u64) -> Member {
    Member { id, name: format!("m{id}"), peer_urls: vec![format!("http://m{id}:1")], ..Member::default() }
}

fn propose(node: &mut Node, request: u64, payload: Bytes, op: usize) {
    let Some(core) = &mut node.core else { return };
    node.waiting.add(request, payload.clone(), op);
    node.waiting.give(core.term());
    core.propose(request, payload);
    if core.flush_proposals().is_some() {
        node.waiting.take(request);
    }
}

/// What a witness takes of a state.
fn members_of(machine: &Machine) -> Machine {
    Machine { membership: machine.membership.clone(), applied: machine.applied, ..Machine::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let n_members = [1, 3, 3, 3, 5][chance.random_range(0..5)];
        let mut world = Self {
            chance,
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            payloads: HashMap::new(),
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            is_bad: true,
            applied: BTreeMap::new(),
            states: BTreeMap::new(),
            leaders: BTreeMap::new(),
            history: Vec::new(),
            pending: [None; N_CLIENTS],
            next_value: 0,
            next_id: 1,
            next_member: n_members + 1,
            n_snapshots: 0,
            n_changes: 0,
            n_repeated: 0,
            witness: None,
            n_witness_terms: 0,
        };
        world.witness = (n_members == 3 && world.chance.random_bool(0.4)).then_some(3);
        let witness = world.witness;
        let described = |id| Member { is_witness: witness == Some(id), ..member(id) };
        let membership = Membership::of((1..=n_members).map(described));
        for id in 1..=n_members {
            let machine = Machine { membership: membership.clone(), applied: (1, 1), ..Machine::default() };
            let mut disk = Disk::default();
            disk.checkpoint(rows_of(&machine));
            let hard_state = HardState { term: 1, vote: 0, commit: 1, ..HardState::default() };
            let first = super::core::LogWrite { number: 0, reset: Some((1, 1)), entries: Vec::new(), hard_state };
            disk.write(first, None);
            disk.sync(0);
            world.add_node(id, disk);
        }
        for client in 0..N_CLIENTS {
            world.schedule(10, Event::Client(client));
        }
        world.schedule(500, Event::Fault);
        world
    }

    fn schedule(&mut self, in_ms: u64, event: Event) {
        self.sequence += 1;
        let slot = usize::try_from(self.sequence).unwrap();
        self.events.push((Reverse(self.now + in_ms), Reverse(self.sequence), slot));
        self.payloads.insert(slot, event);
    }

    fn add_node(&mut self, id: u64, disk: Disk) {
        // Clocks differ by up to a third.
        let tick_ms = self.chance.random_range(TICK_MS * 3 / 4..=TICK_MS * 4 / 3);
        let node = Node {
            life: 0,
            core: None,
            machine: Machine::default(),
            disk,
            reads: Reads::default(),
            waiting: Proposals::default(),
            arriving: None,
            installing: None,
            tick_ms,
            n_ticks: 0,
            paused_until: 0,
        };
        self.nodes.insert(id, node);
        self.schedule(1, Event::Restart(id));
        self.schedule(tick_ms, Event::Tick(id));
        self.schedule(700, Event::Chores(id));
    }

    fn start(&mut self, id: u64) {
        let seed = self.chance.random::<u64>();
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.core.is_none()) else { return };
        let (machine, logged): (Machine, LoggedState) = node.disk.open();
        let config = CoreConfig {
            member_id: id,
            conf_state: machine.membership.conf_state(),
            applied: machine.applied,
            election_ticks: 10,
            kept_entries_max: 8,
            is_witness: self.witness == Some(id),
            election_seed: Some(seed),
        };
        node.life += 1;
        node.machine = machine;
        node.core = Some(Core::new(config, logged).expect("a core starts from what a disk holds"));
        self.settle(id);
    }

    fn crash(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.core = None;
        node.disk.crash(&mut self.chance);
        node.reads = Reads::default();
        node.waiting = Proposals::default();
        (node.arriving, node.installing) = (None, None);
    }

    fn run(&mut self) {
        while self.now < BAD_MS {
            self.step();
        }
        self.calm();
        while !self.is_at_rest() {
            assert!(self.now < BAD_MS + REST_MS_MAX, "the cluster does not come to rest: {}", self.describe());
            self.step();
        }
        assert!(is_linearizable(&self.history), "what clients saw cannot have happened: {:#?}", self.history);
    }

    fn step(&mut self) {
        let Some((Reverse(at), _, slot)) = self.events.pop() else { panic!("nothing happens any more") };
        self.now = at;
        let event = self.payloads.remove(&slot).unwrap();
        match event {
            Event::Tick(id) => self.tick(id),
            Event::Deliver { message, state } => self.deliver(message, state),
            Event::Sync { member, life, number } => self.synced(member, life, number),
            Event::Client(client) => self.client(client),
            Event::GiveUp(op) => self.give_up(op),
            Event::Fault => self.fault(),
            Event::Restart(id) => self.start(id),
            Event::Chores(id) => self.chores(id),
        }
    }

    /// The end of the bad times.
    fn calm(&mut self) {
        self.is_bad = false;
        self.cuts.clear();
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for id in ids {
            self.nodes.get_mut(&id).unwrap().paused_until = 0;
            self.start(id);
        }
    }

    fn is_awake(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some() && node.paused_until <= self.now)
    }

    fn tick(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let tick_ms = node.tick_ms;
        if node.paused_until <= self.now
            && let Some(core) = &mut node.core
        {
            node.n_ticks += 1;
            core.tick();
            for old in node.reads.overdue(node.n_ticks.saturating_sub(5)) {
                self.next_id += 1;
                node.reads.ask_again(old, self.next_id, node.n_ticks);
                core.ask_read_index(self.next_id);
            }
            self.settle(id);
        }
        self.schedule(tick_ms, Event::Tick(id));
    }

    fn chores(&mut self, id: u64) {
        if self.is_awake(id) && self.chance.random_bool(0.7) {
            let node = self.nodes.get_mut(&id).unwrap();
            // The log and the state on disk must fit together also while a snapshot is being taken over.
            if node.installing.is_none() {
                let rows = rows_of(&node.machine);
                node.disk.checkpoint(rows.clone());
                let durable = node.machine.applied.0;
                if let Some((index, term)) = node.core.as_mut().unwrap().truncate(durable) {
                    node.disk.truncate(index, term);
                }
                if self.witness != Some(id) {
                    self.compare_state(durable, &rows);
                }
            }
        }
        self.schedule(700, Event::Chores(id));
    }

    fn settle(&mut self, id: u64) {
        loop {
            let node = self.nodes.get_mut(&id).unwrap();
            let Some(core) = &mut node.core else { return };
            if core.leads() {
                let leader = *self.leaders.entry(core.term()).or_insert(id);
                assert_eq!(leader, id, "two leaders in term {}", core.term());
                if self.witness == Some(id) && !core.is_handing_over() {
                    let witness = self.witness;
                    if let Some(successor) = core.best_successor(|id| Some(id) != witness) {
                        self.n_witness_terms += 1;
                        core.transfer_leader(successor);
                    }
                }
            }
            core.check_invariants();
            let Some(work) = core.next_work() else { break };
            self.work(id, work);
        }
        self.answer_reads(id);
    }

    fn work(&mut self, id: u64, work: Work) {
        let Work { role: _, messages, reads, write, committed } = work;
        self.send(id, messages);
        let node = self.nodes.get_mut(&id).unwrap();
        for (context, index) in reads {
            node.reads.confirm(context, index);
        }
        if let Some(write) = write {
            let (life, number) = (node.life, write.number);
            let install = write.reset.map(|(index, _)| {
                let (_, machine) = node.arriving.take().filter(|(of, _)| *of == index).expect("its state arrived");
                let rows = rows_of(&machine);
                node.installing = Some((number, machine));
                rows
            });
            self.n_snapshots += usize::from(install.is_some());
            node.disk.write(write, install);
            // Disks are quick, slow, or stall.
            let in_ms = match self.chance.random_range(0..100) {
                0..80 => 1,
                80..98 => 20,
                _ if self.is_bad => 2500,
                _ => 50,
            };
            self.schedule(in_ms, Event::Sync { member: id, life, number });
        }
        for entry in committed {
            self.apply(id, entry);
        }
    }

    fn synced(&mut self, id: u64, life: u64, number: u64) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        let Some(core) = &mut node.core else { return };
        node.disk.sync(number);
        if let Some((_, machine)) = node.installing.take_if(|(written, _)| *written <= number) {
            node.machine = *machine;
            node.waiting.install();
        }
        let messages = core.persisted(number);
        self.send(id, messages);
        self.settle(id);
    }

    fn apply(&mut self, id: u64, entry: Entry) {
        let (index, term) = (entry.index, entry.term);
        let first = self.applied.entry(index).or_insert_with(|| (term, entry.data.clone()));
        assert_eq!(*first, (term, entry.data.clone()), "members applied different entries at {index}");
        let node = self.nodes.get_mut(&id).unwrap();
        let core = node.core.as_mut().unwrap();
        assert_eq!(index, node.machine.applied.0 + 1, "entries are applied in order, once");
        let mut writes = Vec::new();
        if entry.get_entry_type() == EntryType::EntryConfChange {
            let (_, change, for_raft) = decode_change(entry.data).unwrap();
            if node.machine.membership.check(&change).is_ok() {
                let conf_state = core.apply_change(&for_raft).unwrap();
                node.machine.change_members(change, &mut writes);
                let mut voters = conf_state.voters.clone();
                voters.sort_unstable();
                assert_eq!(voters, node.machine.membership.conf_state().voters);
                self.n_changes += 1;
            }
        } else if !entry.data.is_empty() && self.witness != Some(id) {
            let (request, command) = Command::decode(entry.data).unwrap();
            let now = Duration::from_millis(self.now);
            let outcome = node.machine.apply(command, now, &mut writes);
            if let Some(op) = node.waiting.take(request) {
                let told = match outcome {
                    Ok(Outcome::Txn(TxnResponse { succeeded, .. })) => succeeded,
                    other => panic!("a transaction led to {other:?}"),
                };
                let told = match self.history[op].call {
                    Call::Swap(..) => Return::Swapped(told),
                    _ => Return::Done,
                };
                self.applied(id, index, term);
                return self.answer(op, told);
            }
        }
        self.applied(id, index, term);
    }

    fn applied(&mut self, id: u64, index: u64, term: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let core = node.core.as_mut().unwrap();
        node.machine.applied = (index, term);
        core.applied_to(index, term);
        for (request, payload, op) in node.waiting.applied_in(term).into_iter().flatten() {
            self.n_repeated += 1;
            propose(node, request, payload, op);
        }
    }

    fn answer_reads(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(core) = &node.core else { return };
        assert_eq!(core.applied(), node.machine.applied.0);
        let mut told = Vec::new();
        for op in node.reads.ready(core.applied()) {
            told.push((op, read(&node.machine, self.history[op].key)));
        }
        for (op, value) in told {
            self.answer(op, Return::Got(value));
        }
    }

    fn answer(&mut self, op: usize, told: Return) {
        if self.history[op].returned.is_none() && self.pending.contains(&Some(op)) {
            self.history[op].returned = Some((self.now, told));
            self.next_turn(op);
        }
    }

    fn next_turn(&mut self, op: usize) {
        if let Some(client) = self.pending.iter().position(|pending| *pending == Some(op)) {
            self.pending[client] = None;
            let pause = self.chance.random_range(1..300);
            self.schedule(pause, Event::Client(client));
        }
    }

    fn give_up(&mut self, op: usize) {
        if self.history[op].call == Call::Get {
            // A read that nobody answered says nothing.
            for node in self.nodes.values_mut() {
                let others: Vec<_> = node.reads.take_all().into_iter().filter(|reader| *reader != op).collect();
                others.into_iter().for_each(|reader| node.reads.add(reader));
            }
        }
        if self.pending.contains(&Some(op)) {
            self.next_turn(op);
        }
    }

    fn client(&mut self, client: usize) {
        if self.history.len() >= OPS_MAX || !self.is_bad {
            return;
        }
        // A witness serves no clients.
        let serves = |id: &u64| self.is_awake(*id) && self.witness != Some(*id);
        let ids: Vec<_> = self.nodes.keys().copied().filter(serves).collect();
        if ids.is_empty() {
            return self.schedule(100, Event::Client(client));
        }
        let id = ids[self.chance.random_range(0..ids.len())];
        let key_at = self.chance.random_range(0..N_KEYS);
        self.next_value += 1;
        let call = match self.chance.random_range(0..3) {
            0 => Call::Put(self.next_value),
            1 => Call::Get,
            _ => Call::Swap(read(&self.nodes[&id].machine, key_at), self.next_value),
        };
        let op = self.history.len();
        self.history.push(Op { key: key_at, call, called_at: self.now, returned: None });
        self.pending[client] = Some(op);
        self.schedule(PATIENCE_MS, Event::GiveUp(op));
        self.next_id += 1;
        let request = self.next_id;
        let node = self.nodes.get_mut(&id).unwrap();
        let core = node.core.as_mut().unwrap();
        let Some(command) = command_of(key_at, call) else {
            node.reads.add(op);
            if node.reads.wants_to_ask() {
                node.reads.ask(request, node.n_ticks);
                core.ask_read_index(request);
            }
            return self.settle(id);
        };
        propose(node, request, command.encode(request).into(), op);
        self.settle(id);
    }

    fn send(&mut self, from: u64, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let is_lost = self.cuts.contains(&(from, to)) || (self.is_bad && self.chance.random_bool(0.03));
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            if is_snapshot {
                // The sender's driver hears how it went.
                let core = self.nodes.get_mut(&from).and_then(|node| node.core.as_mut());
                if let Some(core) = core {
                    core.report_snapshot(to, !is_lost);
                }
            }
            if is_lost {
                continue;
            }
            let mut message = message;
            let mut state = None;
            if is_snapshot {
                let machine = machine_of(&rows_of(&self.nodes[&from].machine));
                let metadata = message.mut_snapshot().mut_metadata();
                (metadata.index, metadata.term) = machine.applied;
                metadata.set_conf_state(machine.membership.conf_state());
                state = Some(Box::new(machine));
            }
            // Connections do not repeat what they carry, but Raft may not mind; a proposal would happen twice.
            let may_repeat = state.is_none() && message.get_msg_type() != MessageType::MsgPropose;
            if may_repeat && self.is_bad && self.chance.random_bool(0.03) {
                let in_ms = self.chance.random_range(1..500);
                self.schedule(in_ms, Event::Deliver { message: message.clone(), state: None });
            }
            let in_ms = if self.is_bad && self.chance.random_bool(0.1) {
                self.chance.random_range(1..1000)
            } else {
                self.chance.random_range(1..5)
            };
            self.schedule(in_ms, Event::Deliver { message, state });
        }
    }

    fn deliver(&mut self, message: Message, state: Option<Box<Machine>>) {
        let id = message.to;
        if !self.is_awake(id) {
            return;
        }
        let node = self.nodes.get_mut(&id).unwrap();
        let message = from_wire(to_wire(message)).unwrap();
        if let Some(machine) = state {
            if node.installing.is_some() {
                return;
            }
            let machine = if self.witness == Some(id) { Box::new(members_of(&machine)) } else { machine };
            node.arriving = Some((machine.applied.0, machine));
        }
        node.core.as_mut().unwrap().step(message);
        self.settle(id);
    }

    fn fault(&mut self) {
        if !self.is_bad {
            return;
        }
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let id = ids[self.chance.random_range(0..ids.len())];
        let other = ids[self.chance.random_range(0..ids.len())];
        match self.chance.random_range(0..10) {
            0..3 => {
                self.crash(id);
                let in_ms = self.chance.random_range(1..4000);
                self.schedule(in_ms, Event::Restart(id));
            }
            3 => self.nodes.get_mut(&id).unwrap().paused_until = self.now + self.chance.random_range(100..4000),
            4 | 5 => {
                self.cuts.insert((id, other));
            }
            6 => self.cuts.clear(),
            7 if self.is_awake(id) && self.witness != Some(other) => {
                self.nodes.get_mut(&id).unwrap().core.as_mut().unwrap().transfer_leader(other);
                self.settle(id);
            }
            _ if self.witness.is_none() => self.change_members(id),
            _ => {}
        }
        let in_ms = self.chance.random_range(50..1500);
        self.schedule(in_ms, Event::Fault);
    }

    /// Asks a member to add another, promote a learner or remove one. Like the store, it does so only while most are up.
    fn change_members(&mut self, id: u64) {
        let n_awake = self.nodes.keys().filter(|id| self.is_awake(**id)).count();
        if !self.is_awake(id) || n_awake < self.nodes.len() {
            return;
        }
        let membership = self.nodes[&id].machine.membership.clone();
        let learner = membership.members.values().find(|member| member.is_learner).map(|member| member.id);
        let change = match learner {
            Some(learner) => MemberChange::Promote(learner),
            None if membership.members.len() > 3 => {
                let ids: Vec<_> = membership.members.keys().copied().collect();
                MemberChange::Remove(ids[self.chance.random_range(0..ids.len())])
            }
            None => {
                let new = self.next_member;
                self.next_member += 1;
                self.add_node(new, Disk::default());
                MemberChange::Add(Member { is_learner: self.chance.random_bool(0.5), ..member(new) })
            }
        };
        self.next_id += 1;
        let data = encode_change(self.next_id, change);
        let core = self.nodes.get_mut(&id).unwrap().core.as_mut().unwrap();
        let _no_leader = core.propose_change(data);
        self.settle(id);
    }

    /// All members of the newest table have applied everything, and hold the same.
    fn is_at_rest(&mut self) -> bool {
        let full = self.nodes.iter().filter(|(id, _)| self.witness != Some(**id)).map(|(_, node)| node);
        let newest = &full.max_by_key(|node| node.machine.applied.0).unwrap().machine;
        let members: Vec<_> = newest.membership.members.keys().copied().collect();
        let applied = newest.applied;
        let is_led = members.iter().any(|id| {
            let core = self.nodes.get(id).and_then(|node| node.core.as_ref());
            core.is_some_and(|core| core.is_established() && core.last_index() == applied.0)
        });
        if !is_led || members.iter().any(|id| self.nodes[id].machine.applied != applied) {
            return false;
        }
        let witness = self.witness;
        for id in members.into_iter().filter(|id| witness != Some(*id)) {
            let rows = rows_of(&self.nodes[&id].machine);
            self.compare_state(applied.0, &rows);
        }
        true
    }

    /// Whoever has applied as much holds the same.
    fn compare_state(&mut self, index: u64, rows: &Rows) {
        let held = contents(rows);
        match self.states.entry(index) {
            btree_map::Entry::Vacant(place) => {
                place.insert(held.cloned().collect());
            }
            btree_map::Entry::Occupied(first) => assert!(held.eq(first.get()), "two members differ at {index}"),
        }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            let core = node.core.as_ref().map(|core| (core.term(), core.leader(), core.last_index(), core.committed()));
            let table = node.machine.membership.conf_state();
            text.push_str(&format!(
                "\n{id}: {core:?} applied {:?} voters {:?} learners {:?}",
                node.machine.applied, table.voters, table.learners
            ));
        }
        text
    }
}

/// Rows without those that say how a member came to its state.
fn contents(rows: &Rows) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|(bucket, ..)| *bucket != crate::backend::Bucket::Meta)
}

fn read(machine: &Machine, key_at: usize) -> Value {
    let found = machine.keyspace.get(&key(key_at), machine.keyspace.revision())?;
    let value = found.hot().and_then(|record| record.value.here()).expect("all values are in memory");
    Some(std::str::from_utf8(value).unwrap().parse().unwrap())
}

/// `None` for a read, which needs no log.
fn command_of(key_at: usize, call: Call) -> Option<Command> {
    let put = |value| crate::Op::Put(Put { key: key(key_at), value: value_bytes(value), ..Put::default() });
    let range = KeyRange::key(key(key_at));
    match call {
        Call::Get => None,
        Call::Put(value) => Some(Command::Txn(Txn { success: vec![put(value)], ..Txn::default() })),
        Call::Swap(expected, value) => {
            let target = match expected {
                Some(expected) => CompareTarget::Value(value_bytes(expected)),
                None => CompareTarget::CreateRevision(Revision(0)),
            };
            let compare = vec![Compare { range, result: CompareResult::Equal, target }];
            Some(Command::Txn(Txn { compare, success: vec![put(value)], failure: Vec::new() }))
        }
    }
}

/// Bounds on what a usual run does, so that a simulator that simulates nothing is noticed.
#[derive(Debug, Default)]
struct Totals {
    n_answered: usize,
    n_snapshots: usize,
    n_changes: usize,
    n_terms: usize,
    n_repeated: usize,
    n_witness_terms: usize,
}

fn simulate(seeds: std::ops::Range<u64>) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            world
        });
        let world = outcome.unwrap_or_else(|cause| {
            eprintln!("seed {seed} fails; again with STORE_SIM_SEEDS={seed}..{}", seed + 1);
            std::panic::resume_unwind(cause)
        });
        totals.n_answered += world.history.iter().filter(|op| op.returned.is_some()).count();
        totals.n_snapshots += world.n_snapshots;
        totals.n_changes += world.n_changes;
        totals.n_terms += world.leaders.len();
        totals.n_repeated += world.n_repeated;
        totals.n_witness_terms += world.n_witness_terms;
    }
    totals
}

#[test]
fn clusters_keep_their_word_in_bad_times_and_come_to_rest_in_good_ones() {
    let range = std::env::var("STORE_SIM_SEEDS").unwrap_or_else(|_| "0..200".into());
    let (first, end) = range.split_once("..").expect("STORE_SIM_SEEDS is FIRST..END");
    let seeds = first.parse().unwrap()..end.parse().unwrap();
    let n_seeds = usize::try_from(seeds.end - seeds.start).unwrap();
    let totals = simulate(seeds);
    eprintln!("{n_seeds} seeds: {totals:?}");
    if n_seeds >= 100 {
        assert!(totals.n_answered > 50 * n_seeds, "{totals:?}");
        assert!(totals.n_snapshots > n_seeds, "{totals:?}");
        assert!(totals.n_changes > n_seeds, "{totals:?}");
        assert!(totals.n_terms > 3 * n_seeds, "{totals:?}");
        assert!(totals.n_repeated > n_seeds / 10, "{totals:?}");
        assert!(totals.n_witness_terms > 0, "{totals:?}");
    }
}
