//! A disk that keeps what was synced, and of the rest what it likes.

use rand::Rng;
use rand::rngs::StdRng;

use super::super::core::LogWrite;
use super::super::log::LoggedState;
use crate::backend::{Bucket, Loader, StateRows};
use crate::machine::Machine;

pub(super) type Row = (Bucket, Vec<u8>, Vec<u8>);

/// Rows of a state, with everything that a backend would hold.
pub(super) type Rows = Vec<Row>;

#[derive(Debug, Default)]
pub(super) struct Disk {
    log: LoggedState,
    state: Rows,
    /// Written and not synced, in order; some start the log over with a state.
    unsynced: Vec<(LogWrite, Option<Rows>)>,
}

pub(super) fn rows_of(machine: &Machine) -> Rows {
    let rows = StateRows::of(machine).into_rows().map(|row| row.expect("all values are in memory"));
    rows.map(|row| (row.bucket, row.key, row.value.unwrap_or_default())).collect()
}

pub(super) fn machine_of(rows: &Rows) -> Machine {
    load(rows).0
}

fn load(rows: &Rows) -> (Machine, bool) {
    let mut loader = Loader::default();
    for (bucket, key, value) in rows {
        loader.row(*bucket, key, value).expect("a row that was written can be read");
    }
    let loaded = loader.finish();
    (loaded.machine, loaded.is_installed)
}

impl Disk {
    pub(super) fn write(&mut self, write: LogWrite, install: Option<Rows>) {
        self.unsynced.push((write, install));
    }

    /// Makes writes up to this number durable.
    pub(super) fn sync(&mut self, number: u64) {
        while self.unsynced.first().is_some_and(|(write, _)| write.number <= number) {
            let (write, install) = self.unsynced.remove(0);
            self.commit(write, install);
        }
    }

    fn commit(&mut self, write: LogWrite, install: Option<Rows>) {
        if let Some(rows) = install {
            self.state = rows;
        }
        if let Some(place) = write.reset {
            self.log.entries.clear();
            self.log.truncated = place;
        }
        if let Some(first) = write.entries.first() {
            self.log.entries.retain(|entry| entry.index < first.index);
        }
        self.log.entries.extend(write.entries);
        self.log.hard_state = write.hard_state;
    }

    /// The state up to what is applied reaches the disk, as the background writer brings it.
    pub(super) fn checkpoint(&mut self, rows: Rows) {
        self.state = rows;
    }

    pub(super) fn truncate(&mut self, index: u64, term: u64) {
        // A snapshot that is not synced yet may be beyond.
        if index > self.log.truncated.0 {
            self.log.entries.retain(|entry| entry.index > index);
            self.log.truncated = (index, term);
        }
    }

    /// Power fails: some of what was not synced is there all the same, in order; of a state that was to start the log over
    /// perhaps only the first half.
    pub(super) fn crash(&mut self, chance: &mut StdRng) {
        let n_survivors = chance.random_range(0..=self.unsynced.len());
        let mut rest = std::mem::take(&mut self.unsynced);
        let lost = rest.split_off(n_survivors);
        for (write, install) in rest {
            self.commit(write, install);
        }
        if let Some((_, Some(rows))) = lost.into_iter().next()
            && chance.random_bool(0.5)
        {
            self.state = rows;
        }
    }

    /// What a restart finds, after the repair that opening does.
    pub(super) fn open(&mut self) -> (Machine, LoggedState) {
        let (machine, is_installed) = load(&self.state);
        let last = self.log.truncated.0 + self.log.entries.len() as u64;
        if machine.applied.0 > last {
            assert!(is_installed, "a state ahead of its log came whole");
            self.log.entries.clear();
            self.log.truncated = machine.applied;
            self.log.hard_state.commit = machine.applied.0;
            self.log.hard_state.term = self.log.hard_state.term.max(machine.applied.1);
        }
        assert!(machine.applied.0 >= self.log.truncated.0, "no gap between state and log");
        (machine, self.log.clone())
    }
}
