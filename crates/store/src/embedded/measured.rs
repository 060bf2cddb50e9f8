//! Log and state file with a clock beside them.

use std::sync::Arc;
use std::time::Instant;

use raft::eraftpb::{Entry, HardState};

use crate::StoreError;
use crate::backend::{Backend, BackendError, Bucket, Row, Sizes, Staged};
use crate::metrics::Metrics;
use crate::mvcc::Rows;
use crate::raft::{Identity, LogError, LogStore, LoggedState};

pub(super) struct MeasuredLog<L> {
    pub(super) log: L,
    pub(super) metrics: Arc<Metrics>,
}

impl<L: LogStore> LogStore for MeasuredLog<L> {
    fn load(&mut self) -> Result<LoggedState, LogError> {
        self.log.load()
    }

    fn set_identity(&mut self, identity: Identity) -> Result<(), LogError> {
        self.log.set_identity(identity)
    }

    fn reset(&mut self, index: u64, term: u64, hard_state: &HardState) -> Result<(), LogError> {
        self.log.reset(index, term, hard_state)
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>, sync: bool) -> Result<(), LogError> {
        let began = Instant::now();
        self.log.append(entries, hard_state, sync)?;
        let duration = if sync { &self.metrics.wal_fsync } else { &self.metrics.wal_write };
        duration.observe(began.elapsed().as_secs_f64());
        let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
        self.metrics.wal_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    fn truncate(&mut self, index: u64, term: u64) -> Result<(), LogError> {
        self.log.truncate(index, term)
    }
}

pub(super) struct MeasuredBackend {
    pub(super) backend: Box<dyn Backend>,
    pub(super) metrics: Arc<Metrics>,
}

impl Backend for MeasuredBackend {
    fn commit(&mut self, rows: &[Row]) -> Result<(), BackendError> {
        let _observed_when_dropped = self.metrics.backend_commit.start_timer();
        self.backend.commit(rows)
    }

    fn replace(&mut self, rows: &mut dyn Iterator<Item = Result<Row, StoreError>>) -> Result<(), BackendError> {
        self.backend.replace(rows)
    }

    fn adopt(&mut self, staged: Staged) -> Result<(), BackendError> {
        self.backend.adopt(staged)
    }

    fn scan(&self, bucket: Bucket, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BackendError> {
        self.backend.scan(bucket, visit)
    }

    fn rows(&self) -> Option<Arc<dyn Rows>> {
        self.backend.rows()
    }

    fn sizes(&self) -> Sizes {
        self.backend.sizes()
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        let _observed_when_dropped = self.metrics.defragment.start_timer();
        self.metrics.defragments_running.set(1);
        let outcome = self.backend.defragment();
        self.metrics.defragments_running.set(0);
        outcome
    }
}
