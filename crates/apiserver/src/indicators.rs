//! Service level indicators, in the words of upstream's component-base: `/metrics/slis` of every component.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;

use crate::exposition;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCheck {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    name: &'static str,
    status: &'static str,
    r#type: &'static str,
}

/// How checks went whenever an endpoint ran all of its own.
#[derive(Debug)]
pub struct Indicators {
    registry: Registry,
    last: Family<OfCheck, Gauge>,
    results: Family<OfResult, Counter>,
}

impl Indicators {
    pub fn new(started: jiff::Timestamp) -> Self {
        let (last, results) = (Family::<OfCheck, Gauge>::default(), Family::<OfResult, Counter>::default());
        let start_time = Gauge::<f64, AtomicU64>::default();
        start_time.set(started.as_duration().as_secs_f64());
        let mut registry = Registry::default();
        registry.register(
            "kubernetes_healthcheck",
            "This metric records the result of a single healthcheck",
            last.clone(),
        );
        registry.register(
            "kubernetes_healthchecks",
            "This metric records the results of all healthcheck",
            results.clone(),
        );
        let help = "Start time of the process since unix epoch in seconds";
        registry.register("process_start_time_seconds", help, start_time);
        Self { registry, last, results }
    }

    pub fn observe(&self, name: &'static str, endpoint: &'static str, is_well: bool) {
        self.last.get_or_create(&OfCheck { name, r#type: endpoint }).set(i64::from(is_well));
        let status = if is_well { "success" } else { "error" };
        self.results.get_or_create(&OfResult { name, status, r#type: endpoint }).inc();
    }

    /// The text exposition.
    pub fn text(&self) -> String {
        exposition::text(&self.registry)
    }

    /// Forgets how checks went, as `DELETE /metrics/slis` asks for.
    pub fn reset(&self) {
        self.last.clear();
        self.results.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_counted_anew() {
        let indicators = Indicators::new(jiff::Timestamp::UNIX_EPOCH);
        let lines = |indicators: &Indicators| {
            let text = indicators.text();
            text.lines().filter(|line| line.starts_with("kubernetes_")).map(str::to_owned).collect::<Vec<_>>()
        };
        for is_well in [true, true, false] {
            indicators.observe("ping", "healthz", is_well);
        }
        let mut counted = lines(&indicators);
        counted.sort_unstable();
        assert_eq!(
            counted,
            [
                r#"kubernetes_healthchecks_total{name="ping",status="error",type="healthz"} 1"#,
                r#"kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2"#,
                r#"kubernetes_healthcheck{name="ping",type="healthz"} 0"#,
            ]
        );
        indicators.reset();
        assert!(lines(&indicators).is_empty());
        assert!(indicators.text().contains("\nprocess_start_time_seconds 0"), "{}", indicators.text());
    }
}
