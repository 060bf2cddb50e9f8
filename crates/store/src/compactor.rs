//! Automatic compaction: which revision to compact to, and when. The rules are etcd's; the clock's reading is passed in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Revision, Store, StoreError};

const HOUR: Duration = Duration::from_secs(3600);
/// Looks at the clock for each interval between two compactions.
const CHECKS_PER_INTERVAL: u32 = 10;
/// How often compaction by revisions looks.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// What automatic compaction leaves: etcd's `--auto-compaction-mode` and `--auto-compaction-retention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The history of this long.
    Period(Duration),
    /// This many revisions.
    Revisions(i64),
}

impl Retention {
    /// Keeps compacting while this member leads. Ends only by being dropped.
    pub async fn enforce(self, store: Arc<dyn Store>) {
        let mut compactor = Compactor::new(self, Instant::now());
        let mut status = store.status().await;
        loop {
            if let Ok(status) = &status {
                compactor.observe(status.revision);
            }
            tokio::time::sleep(self.check_interval()).await;
            status = store.status().await;
            let Ok(status) = &status else { continue };
            if status.leader_id != status.member_id {
                continue;
            }
            let Some(revision) = compactor.due(Instant::now(), status.revision) else { continue };
            match store.compact(revision, false).await {
                Ok(()) | Err(StoreError::Compacted { .. }) => {
                    tracing::info!(%revision, "completed auto compaction");
                    compactor.compacted(revision, Instant::now());
                }
                Err(error) => tracing::warn!(%revision, %error, "failed auto compaction"),
            }
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Period(period) => period.min(HOUR),
            Self::Revisions(_) => REVISION_INTERVAL,
        }
    }

    fn check_interval(self) -> Duration {
        match self {
            Self::Period(_) => self.interval() / CHECKS_PER_INTERVAL,
            Self::Revisions(_) => REVISION_INTERVAL,
        }
    }
}

/// The decision, free of sleep and store.
#[derive(Debug)]
struct Compactor {
    retention: Retention,
    /// Revisions at the last checks, the oldest one a whole period ago once there are enough.
    seen: VecDeque<Revision>,
    last: Revision,
    last_at: Instant,
    /// The first compaction waits for a whole period, later ones for an interval.
    wait: Duration,
}

impl Compactor {
    fn new(retention: Retention, now: Instant) -> Self {
        let wait = match retention {
            Retention::Period(period) => period,
            Retention::Revisions(_) => Duration::ZERO,
        };
        Self { retention, seen: VecDeque::new(), last: Revision(0), last_at: now, wait }
    }

    /// Notes the revision at a check.
    fn observe(&mut self, revision: Revision) {
        let Retention::Period(period) = self.retention else { return };
        let check = self.retention.check_interval().max(Duration::from_nanos(1));
        let n_kept = usize::try_from(period.as_nanos() / check.as_nanos()).unwrap_or(usize::MAX).saturating_add(1);
        self.seen.push_back(revision);
        if self.seen.len() > n_kept {
            self.seen.pop_front();
        }
    }

    /// The revision to compact to now, if any.
    fn due(&mut self, now: Instant, current: Revision) -> Option<Revision> {
        match self.retention {
            Retention::Revisions(kept) => {
                let revision = Revision(current.0.saturating_sub(kept));
                (revision > Revision(0) && revision != self.last).then_some(revision)
            }
            Retention::Period(_) => {
                let revision = *self.seen.front()?;
                if now.duration_since(self.last_at) < self.wait || revision == self.last {
                    return None;
                }
                self.wait = self.retention.interval();
                Some(revision)
            }
        }
    }

    fn compacted(&mut self, revision: Revision, now: Instant) {
        (self.last, self.last_at) = (revision, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a compactor for a number of checks while the revision grows by ten between them; the compactions, by check.
    fn compactions(retention: Retention, n_checks: i64) -> Vec<(i64, i64)> {
        let start = Instant::now();
        let mut compactor = Compactor::new(retention, start);
        let mut compactions = Vec::new();
        for check in 1..=n_checks {
            compactor.observe(Revision(check * 10));
            let now = start + retention.check_interval() * u32::try_from(check).unwrap();
            if let Some(revision) = compactor.due(now, Revision(check * 10 + 10)) {
                compactor.compacted(revision, now);
                compactions.push((check, revision.0));
            }
        }
        compactions
    }

    #[test]
    fn short_periods_compact_every_period_to_the_revision_of_a_period_ago() {
        let period = Retention::Period(Duration::from_secs(600));
        assert_eq!(period.check_interval(), Duration::from_secs(60));
        assert_eq!(compactions(period, 32), [(10, 10), (20, 100), (30, 200)]);
    }

    #[test]
    fn long_periods_compact_every_hour_once_the_first_period_is_over() {
        let period = Retention::Period(3 * HOUR);
        assert_eq!(period.check_interval(), Duration::from_secs(360));
        assert_eq!(compactions(period, 52), [(30, 10), (40, 100), (50, 200)]);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let kept = Retention::Revisions(25);
        assert_eq!(compactions(kept, 4), [(2, 5), (3, 15), (4, 25)]);
        assert_eq!(compactions(Retention::Revisions(1000), 4), []);
    }
}
