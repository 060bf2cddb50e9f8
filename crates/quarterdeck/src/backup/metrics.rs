//! What a monitoring system watches of the backups.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::service::BackupStatus;

type Seconds = Gauge<f64, AtomicU64>;

/// Gauges that follow a [`BackupStatus`].
#[derive(Debug, Default)]
pub(super) struct BackupMetrics {
    last_success: Seconds,
    recoverable_from: Seconds,
    recoverable_until: Seconds,
    reached_revision: Gauge,
    failures: Gauge,
}

impl BackupMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { last_success, recoverable_from, recoverable_until, reached_revision, failures } = self;
        let mut seconds = |name: &str, help: &str, gauge: &Seconds| registry.register(name, help, gauge.clone());
        seconds(
            "quarterdeck_backup_last_success_timestamp_seconds",
            "When the backup target last got something, in seconds since 1970; 0 for never",
            last_success,
        );
        seconds(
            "quarterdeck_backup_recoverable_from_timestamp_seconds",
            "The earliest moment that can be restored, in seconds since 1970; 0 for none",
            recoverable_from,
        );
        seconds(
            "quarterdeck_backup_recoverable_until_timestamp_seconds",
            "The latest moment that can be restored, in seconds since 1970; 0 for none",
            recoverable_until,
        );
        registry.register(
            "quarterdeck_backup_reached_revision",
            "The store's revision up to which everything is in the backup target",
            reached_revision.clone(),
        );
        registry.register(
            "quarterdeck_backup_failures",
            "Backups that failed since the server started",
            failures.clone(),
        );
    }

    pub(super) fn follow(&self, status: &BackupStatus) {
        let seconds = |time: Option<Timestamp>| time.map_or(0.0, |time| time.as_millisecond() as f64 / 1e3);
        self.last_success.set(seconds(status.last_success));
        self.recoverable_from.set(seconds(status.window.map(|(from, _)| from)));
        self.recoverable_until.set(seconds(status.window.map(|(_, until)| until)));
        self.reached_revision.set(status.reached_revision);
        self.failures.set(i64::try_from(status.n_failures).unwrap_or(i64::MAX));
    }
}
