//! How often values are sealed and opened, by upstream's names.

use std::time::Instant;

use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::GroupResource;
use super::cipher::{NotOurs, Provider};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transformation {
    resource: String,
    status: &'static str,
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    status: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    operations: Family<Transformation, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    reloads: Family<Reload, Counter>,
    last_reload: Family<Reload, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let make: fn() -> Histogram = || Histogram::new(exponential_buckets(5e-6, 2.0, 25));
        Self {
            operations: Family::default(),
            durations: Family::new_with_constructor(make),
            reloads: Family::default(),
            last_reload: Family::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_storage_transformation_operations",
            "Total number of transformations",
            self.operations.clone(),
        );
        registry.register(
            "apiserver_storage_transformation_duration_seconds",
            "Latencies in seconds of value transformation operations",
            self.durations.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_automatic_reloads",
            "Total number of reload successes and failures of encryption configuration",
            self.reloads.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "Timestamp of the last successful or failed automatic reload of encryption configuration",
            self.last_reload.clone(),
        );
    }

    pub(super) fn sealing(&self, of: &GroupResource, provider: &Provider, seal: impl FnOnce() -> Bytes) -> Bytes {
        let started = Instant::now();
        let sealed = seal();
        self.observe(of, "to_storage", provider, true, started);
        sealed
    }

    pub(super) fn opening(
        &self,
        of: &GroupResource,
        provider: &Provider,
        open: impl FnOnce() -> Result<Vec<u8>, NotOurs>,
    ) -> Result<Vec<u8>, NotOurs> {
        let started = Instant::now();
        let opened = open();
        self.observe(of, "from_storage", provider, opened.is_ok(), started);
        opened
    }

    pub(super) fn unknown(&self, of: &GroupResource) {
        self.count(of, "from_storage", "unknown".to_owned(), false);
    }

    pub(super) fn reloaded(&self, well: bool) {
        let status = Reload { status: if well { "success" } else { "failure" } };
        self.reloads.get_or_create(&status).inc();
        self.last_reload.get_or_create(&status).set(jiff::Timestamp::now().as_second());
    }

    fn observe(&self, of: &GroupResource, direction: &'static str, provider: &Provider, well: bool, started: Instant) {
        // Without the key's name, as upstream's providers are known.
        let prefix = String::from_utf8_lossy(&provider.prefix);
        let shown: String = prefix.split_inclusive(':').take(4).collect();
        let kind = Kind { transformation_type: direction, transformer_prefix: shown.clone() };
        self.durations.get_or_create(&kind).observe(started.elapsed().as_secs_f64());
        self.count(of, direction, shown, well);
    }

    fn count(&self, of: &GroupResource, direction: &'static str, prefix: String, well: bool) {
        let transformation = Transformation {
            resource: of.to_string(),
            status: if well { "OK" } else { "unknown-non-grpc" },
            transformation_type: direction,
            transformer_prefix: prefix,
        };
        self.operations.get_or_create(&transformation).inc();
    }
}
