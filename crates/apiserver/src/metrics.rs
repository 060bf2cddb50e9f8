//! The API server's own metrics, by upstream's names.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::http::path::ResourcePath;

/// What a request was for, bounded: only served resources are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RequestLabel {
    group: String,
    version: String,
    resource: String,
    subresource: String,
    verb: &'static str,
}

impl RequestLabel {
    pub(crate) fn new(path: &ResourcePath, verb: &'static str) -> Self {
        Self {
            group: path.group.clone(),
            version: path.version.clone(),
            resource: path.resource.clone(),
            // Unknown subresources are 404 for everybody; their names are not worth a series.
            subresource: if path.subresource.len() > 32 { String::new() } else { path.subresource.clone() },
            verb,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestTotal {
    code: u16,
    group: String,
    resource: String,
    subresource: String,
    verb: String,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestDuration {
    group: String,
    resource: String,
    subresource: String,
    verb: String,
    version: String,
}

/// Upstream's buckets of apiserver_request_duration_seconds.
const DURATION_BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    60.0,
];

#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<RwLock<Registry>>,
    requests: Family<RequestTotal, Counter>,
    durations: Family<RequestDuration, Histogram, fn() -> Histogram>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestTotal, Counter>::default();
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, group, version, resource and HTTP response code",
            requests.clone(),
        );
        let make: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let durations = Family::<RequestDuration, Histogram, fn() -> Histogram>::new_with_constructor(make);
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, group, version and resource",
            durations.clone(),
        );
        Self { registry: Arc::new(RwLock::new(registry)), requests, durations }
    }

    pub(crate) fn observe(&self, label: &RequestLabel, method: &Method, code: u16, elapsed: Duration) {
        let verb = if label.verb.is_empty() { method.as_str().to_owned() } else { label.verb.to_ascii_uppercase() };
        self.requests
            .get_or_create(&RequestTotal {
                code,
                group: label.group.clone(),
                resource: label.resource.clone(),
                subresource: label.subresource.clone(),
                verb: verb.clone(),
                version: label.version.clone(),
            })
            .inc();
        if label.verb != "watch" {
            self.durations
                .get_or_create(&RequestDuration {
                    group: label.group.clone(),
                    resource: label.resource.clone(),
                    subresource: label.subresource.clone(),
                    verb,
                    version: label.version.clone(),
                })
                .observe(elapsed.as_secs_f64());
        }
    }

    /// Adds somebody else's metrics.
    pub(crate) fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.write());
    }

    /// The text exposition.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _infallible = encode(&mut out, &self.registry.read());
        out
    }
}
