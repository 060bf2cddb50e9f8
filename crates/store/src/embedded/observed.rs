//! The two ways to the log, watched; and what the state says of itself when somebody asks.

use std::time::Instant;

use bytes::Bytes;

use super::EmbeddedStore;
use crate::command::Command;
use crate::machine::{Machine, Outcome};
use crate::{AlarmKind, KeyRange, RangeRequest, StoreError};

/// A read whose confirmation takes longer is slow, as in etcd.
const SLOW_READ_INDEX_SECONDS: f64 = 1.0;

impl EmbeddedStore {
    /// Replicates a command; returns what it led to once it is durable and applied.
    pub(super) async fn propose(&self, command: Command) -> Result<Outcome, StoreError> {
        let _until_answered = Pending::new(&self.metrics.proposals_pending);
        let outcome = self.raft.propose(command).await;
        let is_unanswered = matches!(
            outcome,
            Err(StoreError::Timeout | StoreError::NoLeader | StoreError::Stopped | StoreError::TooManyRequests)
        );
        if is_unanswered {
            self.metrics.proposals_failed.inc();
        }
        outcome
    }

    /// Returns once this member has everything that was committed when it was asked.
    pub(super) async fn confirm_read(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        let confirmed = self.raft.read_index().await;
        if confirmed.is_err() {
            self.metrics.read_indexes_failed.inc();
        } else if began.elapsed().as_secs_f64() > SLOW_READ_INDEX_SECONDS {
            self.metrics.slow_read_indexes.inc();
        }
        confirmed
    }

    /// Asks the state whether something may be. It is never refused for what this member has not heard of yet.
    pub(super) async fn check(
        &self,
        permits: impl Fn(&Machine) -> Result<(), StoreError> + Send + Sync,
    ) -> Result<(), StoreError> {
        let look = || permits(&self.machine.read());
        if look().is_ok() {
            return Ok(());
        }
        self.confirm_read().await?;
        look()
    }

    pub(super) fn gather_metrics(&self) -> Vec<prometheus::proto::MetricFamily> {
        let metrics = &self.metrics;
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let index = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let all = KeyRange { start: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") };
        let count = RangeRequest { range: all, count_only: true, ..RangeRequest::default() };
        {
            let machine = self.machine.read();
            metrics.keys.set(machine.keyspace.range(&count).map_or(0, |counted| number(counted.count)));
            metrics.current_revision.set(machine.keyspace.revision().0);
            metrics.compact_revision.set(machine.keyspace.compacted().0);
            metrics.auth_revision.set(index(machine.auth.revision()));
            metrics.alarms.reset();
            for alarm in &machine.alarms {
                let kind = match alarm.kind {
                    AlarmKind::NoSpace => "NOSPACE",
                    AlarmKind::Corrupt => "CORRUPT",
                };
                metrics.alarms.with_label_values(&[&format!("{:x}", alarm.member_id), kind]).inc();
            }
        }
        let (n_watchers, n_synced) = self.hub.counts();
        metrics.watchers.set(number(n_watchers));
        metrics.slow_watchers.set(number(n_watchers.saturating_sub(n_synced)));
        let sizes = self.writer.sizes();
        metrics.db_size.set(index(sizes.file_bytes));
        metrics.db_size_in_use.set(index(sizes.in_use_bytes));
        let raft = self.raft.status();
        metrics.proposals_committed.set(index(raft.last_index));
        metrics.proposals_applied.set(index(raft.applied));
        metrics.gather()
    }
}

/// Counted in a gauge for as long as it lives, also if its owner is cancelled.
struct Pending<'a>(&'a prometheus::IntGauge);

impl<'a> Pending<'a> {
    fn new(gauge: &'a prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
