//! Counts of the audit log, by upstream's names.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::policy::Level;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    events: Counter,
    errors: Family<OfPlugin, Counter>,
    levels: Family<OfLevel, Counter>,
    rejected: Counter,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let text = "Counter of audit events generated and sent to the audit backend";
        registry.register("apiserver_audit_event", text, self.events.clone());
        let text = "Counter of audit events that failed to be audited properly";
        registry.register("apiserver_audit_error", text, self.errors.clone());
        let text = "Counter of policy levels for audit events (1 per request)";
        registry.register("apiserver_audit_level", text, self.levels.clone());
        let text = "Counter of apiserver requests rejected due to an error in audit logging backend";
        registry.register("apiserver_audit_requests_rejected", text, self.rejected.clone());
    }

    pub(super) fn reset(&self) {
        let Self { events, errors, levels, rejected } = self;
        errors.clear();
        levels.clear();
        for counter in [events, rejected] {
            counter.inner().store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn event(&self) {
        self.events.inc();
    }

    pub(super) fn error(&self, plugin: &'static str, events: usize) {
        self.errors.get_or_create(&OfPlugin { plugin }).inc_by(events as u64);
    }

    pub(super) fn level(&self, level: Level) {
        self.levels.get_or_create(&OfLevel { level: level.name() }).inc();
    }

    pub(super) fn rejected(&self) {
        self.rejected.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_counted_anew() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let counted = || {
            let text = crate::exposition::text(&registry);
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let none = ["apiserver_audit_event_total 0", "apiserver_audit_requests_rejected_total 0"];
        metrics.event();
        metrics.rejected();
        metrics.error("log", 2);
        metrics.level(Level::Metadata);
        assert_eq!(
            counted(),
            [
                "apiserver_audit_event_total 1",
                "apiserver_audit_error_total{plugin=\"log\"} 2",
                "apiserver_audit_level_total{level=\"Metadata\"} 1",
                "apiserver_audit_requests_rejected_total 1",
            ]
        );
        metrics.reset();
        assert_eq!(counted(), none);
    }
}
