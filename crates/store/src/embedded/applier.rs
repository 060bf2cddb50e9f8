//! What a committed log entry does: change the state, queue its rows, tell the watchers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::raft::eraftpb::ConfState;
use parking_lot::RwLock;

use super::Clock;
use crate::StoreError;
use crate::backend::{Replacement, Staged, StateRows, WriterHandle};
use crate::command::Command;
use crate::machine::{Machine, Outcome};
use crate::membership::MemberChange;
use crate::metrics::Metrics;
use crate::peer::PeerNet;
use crate::raft::{Applied, Apply, Committed, Install};
use crate::watch::Hub;

/// Entries applied under one hold of the lock: readers wait for no more than that.
const CHUNK_ENTRIES_MAX: usize = 128;
/// Leases ended at a time, as etcd.
const EXPIRED_LEASES_MAX: usize = 500;

pub(super) struct Applier {
    pub(super) machine: Arc<RwLock<Machine>>,
    pub(super) writer: WriterHandle,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Clock,
    pub(super) peers: Option<PeerNet>,
    /// What a lease gets on top when another leader begins to count.
    pub(super) election_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
    /// Of commands, only those about members mean anything to a witness.
    pub(super) is_witness: bool,
}

impl Applier {
    fn update_peers(&self) {
        if let Some(peers) = &self.peers {
            let membership = self.machine.read().membership.clone();
            peers.update(&membership);
        }
    }
}

impl Apply for Applier {
    fn apply(&mut self, entries: Vec<Committed>) -> Result<Vec<Applied>, StoreError> {
        let mut commands = Vec::with_capacity(entries.len());
        for entry in entries {
            let Committed { index, term, payload } = entry;
            if payload.is_empty() {
                commands.push((index, term, None));
                continue;
            }
            let command = Command::decode(payload);
            // Going on without it would make this member differ from the others for good.
            let command = command.map_err(|error| StoreError::Fatal(format!("log entry {index}: {error}")))?;
            let is_of_members = matches!(command.1, Command::MemberAttributes { .. } | Command::MemberUpdate { .. });
            commands.push((index, term, Some(command).filter(|_| is_of_members || !self.is_witness)));
        }
        let mut answers = Vec::with_capacity(commands.len());
        let moves_members =
            commands.iter().any(|(_, _, command)| matches!(command, Some((_, Command::MemberUpdate { .. }))));
        let now = self.clock.now();
        let mut writes = Vec::new();
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let mut applied = (0, 0);
            let mut machine = self.machine.write();
            for (index, term, command) in commands.by_ref().take(CHUNK_ENTRIES_MAX) {
                applied = (index, term);
                if let Some((id, command)) = command {
                    let (op, began) = (command.name(), Instant::now());
                    let outcome = machine.apply(command, now, &mut writes);
                    self.metrics.applied(op, began, &outcome);
                    // A value could not be read: other members did what this one could not.
                    if let Err(StoreError::Fatal(error)) = outcome {
                        return Err(StoreError::Fatal(format!("log entry {index}: {error}")));
                    }
                    answers.push((id, outcome));
                }
            }
            machine.applied = applied;
            self.writer.push(&mut writes, applied);
        }
        if moves_members {
            self.update_peers();
        }
        Ok(answers)
    }

    fn announce(&mut self) {
        self.hub.notify();
    }

    fn check_change(&self, change: &MemberChange) -> Result<(), StoreError> {
        self.machine.read().membership.check(change)
    }

    fn change_members(&mut self, index: u64, term: u64, change: Option<MemberChange>) -> Outcome {
        let mut writes = Vec::new();
        let outcome = {
            let mut machine = self.machine.write();
            let outcome = match change {
                Some(change) => machine.change_members(change, &mut writes),
                None => Outcome::Done,
            };
            machine.applied = (index, term);
            self.writer.push(&mut writes, (index, term));
            outcome
        };
        self.update_peers();
        outcome
    }

    fn conf_state(&self) -> ConfState {
        self.machine.read().membership.conf_state()
    }

    fn is_witness(&self, id: u64) -> bool {
        self.machine.read().membership.is_witness(id)
    }

    fn prepare_install(&self, machine: &Machine, staged: Option<Staged>) -> Install {
        let (revision, applied) = (machine.keyspace.revision(), machine.applied);
        let state = match staged {
            Some(staged) => Replacement::File { staged, revision, applied },
            None => Replacement::Rows(StateRows::of(machine)),
        };
        let writer = self.writer.clone();
        Box::new(move || writer.replace(state))
    }

    fn install(&mut self, machine: Machine) {
        // Tokens are handed out by the log, and so are not in the state; those of the log so far are known here.
        std::mem::swap(&mut *machine.auth.tokens().lock(), &mut *self.machine.read().auth.tokens().lock());
        self.hub.replace(machine);
        self.hub.notify();
        self.update_peers();
    }

    fn lead(&mut self, leads: bool) {
        let lessor = &mut self.machine.write().lessor;
        if leads {
            lessor.promote(self.clock.now(), self.election_timeout);
        } else {
            lessor.demote();
        }
    }

    fn chores(&mut self) -> Vec<Command> {
        let expired = self.machine.write().lessor.expired(self.clock.now(), EXPIRED_LEASES_MAX);
        self.metrics.leases_expired.inc_by(expired.len() as u64);
        expired.into_iter().map(|id| Command::LeaseRevoke { id }).collect()
    }

    fn durable_index(&self) -> u64 {
        self.writer.durable_index()
    }
}
