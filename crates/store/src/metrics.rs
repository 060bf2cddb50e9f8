//! What the embedded store counts and times, under etcd's names. A struct of instruments, made with a registry of its own and
//! passed in; what can be read from the state is read when somebody asks, in [`EmbeddedStore`](crate::EmbeddedStore).

use std::time::Instant;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use crate::OpResponse;
use crate::TxnResponse;
use crate::machine::Outcome;

/// An apply or a read that takes longer is slow: etcd's `--warning-apply-duration`.
const SLOW_APPLY_SECONDS: f64 = 0.1;

/// Makes instruments and registers them. Names, labels and bounds are literals of this crate, and every start makes all of them,
/// so what is expected of them here holds for everybody or for nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instruments(Registry);

impl Instruments {
    fn add(&self, collector: impl prometheus::core::Collector + 'static) {
        if let Err(error) = self.0.register(Box::new(collector)) {
            tracing::error!(%error, "a metric cannot be registered");
        }
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counters = self.counters(name, help, &[]);
        counters.with_label_values(&[])
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauges = self.gauges(name, help, &[]);
        gauges.with_label_values(&[])
    }

    /// A histogram with `count` buckets, the first up to `start`, each `2` times as wide as the one before.
    pub(crate) fn histogram(&self, name: &str, help: &str, start: f64, count: usize) -> Histogram {
        let histograms = self.histograms(name, help, &[], start, count);
        histograms.with_label_values(&[])
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a literal name");
        self.add(counters.clone());
        counters
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("a literal name");
        self.add(gauges.clone());
        gauges
    }

    pub(crate) fn histograms(&self, name: &str, help: &str, labels: &[&str], start: f64, count: usize) -> HistogramVec {
        self.histograms_of(name, help, labels, &exponential_buckets(start, 2.0, count).expect("literal bounds"))
    }

    pub(crate) fn histograms_of(&self, name: &str, help: &str, labels: &[&str], bounds: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let histograms = HistogramVec::new(options, labels).expect("a literal name");
        self.add(histograms.clone());
        histograms
    }

    pub(crate) fn collect_process(&self) {
        self.add(prometheus::process_collector::ProcessCollector::for_self());
    }

    pub(crate) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.0.gather()
    }
}

/// The store's instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    instruments: Instruments,
    pub(crate) wal_fsync: Histogram,
    pub(crate) wal_write: Histogram,
    /// A gauge in etcd.
    pub(crate) wal_bytes: IntGauge,
    pub(crate) backend_commit: Histogram,
    pub(crate) defragment: Histogram,
    pub(crate) defragments_running: IntGauge,
    pub(crate) snapshot: Histogram,
    pub(crate) hash: Histogram,
    pub(crate) hash_at: Histogram,
    pub(crate) ranges: IntCounter,
    puts: IntCounter,
    deletes: IntCounter,
    txns: IntCounter,
    apply: HistogramVec,
    slow_applies: IntCounter,
    leases_granted: IntCounter,
    leases_revoked: IntCounter,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_expired: IntCounter,
    pub(crate) proposals_pending: IntGauge,
    pub(crate) proposals_failed: IntCounter,
    pub(crate) read_indexes_failed: IntCounter,
    pub(crate) slow_read_indexes: IntCounter,
    // Read from the state when asked for.
    pub(crate) keys: IntGauge,
    pub(crate) current_revision: IntGauge,
    pub(crate) compact_revision: IntGauge,
    pub(crate) auth_revision: IntGauge,
    pub(crate) watchers: IntGauge,
    pub(crate) slow_watchers: IntGauge,
    pub(crate) db_size: IntGauge,
    pub(crate) db_size_in_use: IntGauge,
    pub(crate) proposals_committed: IntGauge,
    pub(crate) proposals_applied: IntGauge,
    pub(crate) alarms: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let new = Instruments::default();
        Self {
            wal_fsync: new.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "Time to write log entries durably.",
                0.001,
                14,
            ),
            wal_write: new.histogram(
                "etcd_disk_wal_write_duration_seconds",
                "Time to write log entries that need not be durable at once.",
                0.001,
                14,
            ),
            wal_bytes: new.gauge("etcd_disk_wal_write_bytes_total", "Bytes of log entries written."),
            backend_commit: new.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "Time to commit to the state file.",
                0.001,
                14,
            ),
            defragment: new.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "Time to defragment the state file.",
                0.1,
                13,
            ),
            defragments_running: new.gauge("etcd_disk_defrag_inflight", "Whether the state file is defragmented now."),
            snapshot: new.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "Time to plan a snapshot of the state.",
                0.01,
                17,
            ),
            hash: new.histogram("etcd_mvcc_hash_duration_seconds", "Time to hash everything stored.", 0.01, 15),
            hash_at: new.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "Time to hash the keys up to a revision.",
                0.01,
                15,
            ),
            ranges: new.counter("etcd_mvcc_range_total", "Ranges read by this member."),
            puts: new.counter("etcd_mvcc_put_total", "Puts seen by this member."),
            deletes: new.counter("etcd_mvcc_delete_total", "Deletes seen by this member."),
            txns: new.counter("etcd_mvcc_txn_total", "Transactions of several operations seen by this member."),
            apply: new.histograms(
                "etcd_server_apply_duration_seconds",
                "Time to apply a committed command.",
                &["version", "op", "success"],
                0.0001,
                20,
            ),
            slow_applies: new.counter("etcd_server_slow_apply_total", "Commands that took over 100 ms to apply."),
            leases_granted: new.counter("etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: new.counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            leases_renewed: new.counter("etcd_debugging_lease_renewed_total", "Leases renewed through this member."),
            leases_expired: new.counter("etcd_debugging_server_lease_expired_total", "Leases whose time was up."),
            proposals_pending: new.gauge("etcd_server_proposals_pending", "Commands proposed and not applied."),
            proposals_failed: new.counter("etcd_server_proposals_failed_total", "Proposals that failed."),
            read_indexes_failed: new
                .counter("etcd_server_read_indexes_failed_total", "Reads that could not be confirmed."),
            slow_read_indexes: new
                .counter("etcd_server_slow_read_indexes_total", "Reads that took over a second to confirm."),
            keys: new.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist."),
            current_revision: new.gauge("etcd_debugging_mvcc_current_revision", "The newest revision."),
            compact_revision: new.gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision."),
            auth_revision: new.gauge("etcd_debugging_auth_revision", "The revision of users and roles."),
            watchers: new.gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            slow_watchers: new.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind."),
            db_size: new.gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the state file."),
            db_size_in_use: new
                .gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the state file that hold data."),
            proposals_committed: new
                .gauge("etcd_server_proposals_committed_total", "Index of the last committed entry."),
            proposals_applied: new.gauge("etcd_server_proposals_applied_total", "Index of the last applied entry."),
            alarms: new.gauges("etcd_debugging_server_alarms", "Alarms that are raised.", &["server_id", "alarm_type"]),
            instruments: new,
        }
    }
}

impl Metrics {
    pub(crate) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.instruments.gather()
    }

    /// Counts an applied command: its kind under etcd's name, and what came of it.
    pub(crate) fn applied<E>(&self, op: &str, began: Instant, outcome: &Result<Outcome, E>) {
        let seconds = began.elapsed().as_secs_f64();
        let success = if outcome.is_ok() { "true" } else { "false" };
        self.apply.with_label_values(&["v3", op, success]).observe(seconds);
        if seconds > SLOW_APPLY_SECONDS {
            self.slow_applies.inc();
        }
        match outcome {
            Ok(Outcome::Txn(response)) => self.ran(response),
            Ok(Outcome::Granted { .. }) => self.leases_granted.inc(),
            Ok(Outcome::Done) if op == "LeaseRevoke" => self.leases_revoked.inc(),
            _ => {}
        }
    }

    /// Counts the operations of a transaction.
    pub(crate) fn ran(&self, response: &TxnResponse) {
        let mut counts = OpCounts::default();
        counts.add(response);
        self.ranges.inc_by(counts.ranges);
        self.puts.inc_by(counts.puts);
        self.deletes.inc_by(counts.deletes);
        if counts.ranges + counts.puts + counts.deletes > 1 {
            self.txns.inc();
        }
    }
}

#[derive(Default)]
struct OpCounts {
    ranges: u64,
    puts: u64,
    deletes: u64,
}

impl OpCounts {
    fn add(&mut self, response: &TxnResponse) {
        for op in &response.responses {
            match op {
                OpResponse::Range(_) => self.ranges += 1,
                OpResponse::Put { .. } => self.puts += 1,
                OpResponse::Delete { .. } => self.deletes += 1,
                OpResponse::Txn(nested) => self.add(nested),
            }
        }
    }
}
