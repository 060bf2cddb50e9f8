//! The API server's own metrics, by upstream's names.

use std::sync::Arc;
use std::time::Duration;

use api::Kind;
use api::kind::Str;
use http::Method;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::http::path::ResourcePath;
use crate::http::query::Query;

/// What a request was for, bounded: only served resources are named. Labels and values are upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabel {
    component: &'static str,
    dry_run: &'static str,
    group: Str,
    resource: Str,
    scope: &'static str,
    subresource: String,
    verb: &'static str,
    version: Str,
}

impl RequestLabel {
    /// A request to a path that is no resource's, or not a served one's.
    pub(crate) fn other(method: &Method) -> Self {
        Self { component: COMPONENT, verb: method_label(method), ..Self::default() }
    }

    pub(crate) fn new(kind: &Kind, path: &ResourcePath, method: &Method, query: &Query, is_apply: bool) -> Self {
        let is_watch = path.watch_prefix || query.flag("watch");
        let verb = match (method, path.name.is_empty()) {
            (&Method::GET | &Method::HEAD, _) if is_watch => WATCH,
            (&Method::GET | &Method::HEAD, true) => "LIST",
            (&Method::PATCH, _) if is_apply => "APPLY",
            (&Method::DELETE, true) => "DELETECOLLECTION",
            _ => method_label(method),
        };
        let scope = match (path.name.is_empty() && method != Method::POST, path.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        // Unknown subresources are 404 for everybody; their names are not worth a series.
        let subresource = if path.subresource.len() > 32 { String::new() } else { path.subresource.clone() };
        Self {
            component: COMPONENT,
            dry_run: if query.text("dryRun") == "All" { "All" } else { "" },
            group: kind.group.clone(),
            resource: kind.resource.clone(),
            scope,
            subresource,
            verb,
            version: kind.version.clone(),
        }
    }
}

const COMPONENT: &str = "apiserver";
const WATCH: &str = "WATCH";

/// Clients can send any word as a method.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestTotal {
    code: u16,
    #[prometheus(flatten)]
    request: RequestLabel,
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
    durations: Family<RequestLabel, Histogram, fn() -> Histogram>,
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
        let durations = Family::<RequestLabel, Histogram, fn() -> Histogram>::new_with_constructor(make);
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, group, version and resource",
            durations.clone(),
        );
        Self { registry: Arc::new(RwLock::new(registry)), requests, durations }
    }

    pub(crate) fn observe(&self, request: &RequestLabel, code: u16, elapsed: Duration) {
        self.requests.get_or_create(&RequestTotal { code, request: request.clone() }).inc();
        if request.verb != WATCH {
            self.durations.get_or_create(request).observe(elapsed.as_secs_f64());
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
