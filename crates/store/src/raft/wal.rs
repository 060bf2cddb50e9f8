//! The thread that makes the log durable while the driver goes on: everything that is waiting goes out with one sync.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::core::LogWrite;
use super::handle::Input;
use super::log::{LogError, LogStore};
use crate::StoreError;

/// Writes taken together at most; each is bounded by what a driver's round takes.
const GROUP_WRITES_MAX: usize = 64;

/// Makes the state that came with a snapshot durable.
pub(crate) type Install = Box<dyn FnOnce() -> Result<(), StoreError> + Send>;

pub(super) enum Job {
    Write {
        /// Counts the driver's fresh starts: after a failure, what it had queued before is not written.
        epoch: u64,
        write: LogWrite,
        /// With a write that starts the log over.
        install: Option<Install>,
    },
    Truncate {
        index: u64,
        term: u64,
    },
}

pub(super) struct Wal {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Wal {
    /// Outcomes go to the driver's inbox.
    pub(super) fn start<L: LogStore>(log: Arc<Mutex<L>>, inbox: SyncSender<Input>) -> std::io::Result<Self> {
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new().name("wal".into()).spawn(move || run(&log, &receiver, &inbox))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Never waits; what is under way is bounded by what Raft leaves uncommitted.
    pub(super) fn submit(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread only ends when told to.
            let _thread_is_gone = jobs.send(job);
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the log had panicked");
        }
    }
}

fn run<L: LogStore>(log: &Mutex<L>, jobs: &Receiver<Job>, inbox: &SyncSender<Input>) {
    let mut failed_epoch = None;
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_WRITES_MAX
            && let Ok(next) = jobs.try_recv()
        {
            group.push(next);
        }
        let mut log = log.lock();
        let mut pending: Option<LogWrite> = None;
        let mut current = None;
        let mut went_well = true;
        for job in group {
            if let Job::Write { epoch, .. } = &job {
                if failed_epoch == Some(*epoch) {
                    continue;
                }
                current = Some(*epoch);
            }
            match job {
                Job::Truncate { index, term } => {
                    went_well = flush(&mut *log, &mut pending, inbox);
                    truncate(&mut *log, index, term);
                }
                Job::Write { write, install, .. } if write.reset.is_some() => {
                    went_well = flush(&mut *log, &mut pending, inbox);
                    if went_well {
                        let outcome = start_over(&mut *log, &write, install);
                        went_well = outcome.is_ok();
                        let _driver_is_gone = inbox.send(Input::Persisted { number: write.number, outcome });
                    }
                }
                Job::Write { write, .. } => match &mut pending {
                    Some(before) if follows(before, &write) => {
                        before.entries.extend(write.entries);
                        (before.number, before.hard_state) = (write.number, write.hard_state);
                    }
                    _ => {
                        went_well = flush(&mut *log, &mut pending, inbox);
                        pending = went_well.then_some(write);
                    }
                },
            }
            if !went_well {
                break;
            }
        }
        went_well &= flush(&mut *log, &mut pending, inbox);
        if !went_well {
            failed_epoch = current;
        }
    }
}

/// True if both can be one write.
fn follows(before: &LogWrite, write: &LogWrite) -> bool {
    match (before.entries.last(), write.entries.first()) {
        (Some(last), Some(first)) => first.index == last.index + 1,
        _ => true,
    }
}

/// False when nothing more may be written: the driver hears why.
fn flush<L: LogStore>(log: &mut L, pending: &mut Option<LogWrite>, inbox: &SyncSender<Input>) -> bool {
    let Some(write) = pending.take() else { return true };
    let outcome = log.append(&write.entries, Some(&write.hard_state), true);
    let went_well = outcome.is_ok();
    let _driver_is_gone = inbox.send(Input::Persisted { number: write.number, outcome });
    went_well
}

/// First the state, then the log: a restart in between finds a state that says it came whole, and starts the log over.
fn start_over<L: LogStore>(log: &mut L, write: &LogWrite, install: Option<Install>) -> Result<(), LogError> {
    if let Some(install) = install {
        install().map_err(|error| LogError::Failed(error.to_string()))?;
    }
    if let Some((index, term)) = write.reset {
        log.reset(index, term, &write.hard_state)?;
    }
    if write.entries.is_empty() { Ok(()) } else { log.append(&write.entries, Some(&write.hard_state), true) }
}

pub(super) fn truncate<L: LogStore>(log: &mut L, index: u64, term: u64) {
    if let Err(error) = log.truncate(index, term) {
        // The log keeps more than it needs; the next time may succeed.
        tracing::warn!(%error, index, "log not truncated");
    }
}
