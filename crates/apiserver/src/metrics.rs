//! The API server's own metrics, by upstream's names.

use std::sync::Arc;
use std::time::Duration;

use api::Kind;
use api::kind::Str;
use http::Method;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::exposition;
use crate::http::path::ResourcePath;
use crate::relay;

/// What a request was for, bounded: only what is served is named, never what a client made up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabel {
    component: &'static str,
    dry_run: &'static str,
    group: Str,
    resource: Str,
    scope: &'static str,
    subresource: Str,
    verb: &'static str,
    version: Str,
}

impl RequestLabel {
    /// Of something that is no resource, or none that is served.
    pub(crate) fn other(method: &Method) -> Self {
        let verb = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let none = Str::Borrowed("");
        Self {
            component: "",
            dry_run: "",
            group: none.clone(),
            resource: none.clone(),
            scope: "",
            subresource: none.clone(),
            verb,
            version: none,
        }
    }

    /// Of a resource; `verb` is the one that authorization knows.
    pub(crate) fn of_resource(kind: &Kind, path: &ResourcePath, verb: Option<&str>, is_dry_run: bool) -> Self {
        let subresource = kind.subresource(&path.subresource);
        let scope = match (path.name.is_empty(), path.namespace.is_empty()) {
            _ if verb == Some("create") => "resource",
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let is_relayed = path.group.is_empty() && relay::is_relayed(&path.resource, &path.subresource);
        let verb = match verb {
            _ if is_relayed => "CONNECT",
            Some("get") => "GET",
            Some("list") => "LIST",
            Some("watch") => "WATCH",
            Some("create") => "POST",
            Some("update") => "PUT",
            Some("patch") => "PATCH",
            Some("delete") => "DELETE",
            Some("deletecollection") => "DELETECOLLECTION",
            _ => "other",
        };
        Self {
            component: "apiserver",
            dry_run: if is_dry_run { "All" } else { "" },
            group: kind.group.clone(),
            resource: kind.resource.clone(),
            scope,
            subresource: subresource.map_or(Str::Borrowed(""), |subresource| subresource.name.clone()),
            verb,
            version: kind.version.clone(),
        }
    }

    /// Says that a patch was an apply.
    pub(crate) fn of_apply(self) -> Self {
        Self { verb: "APPLY", ..self }
    }

    /// The answer goes on after the request is served.
    fn is_long_running(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestTotal {
    code: u16,
    #[prometheus(flatten)]
    of: RequestLabel,
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
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and \
             HTTP response code",
            requests.clone(),
        );
        let make: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let durations = Family::<RequestLabel, Histogram, fn() -> Histogram>::new_with_constructor(make);
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope \
             and component",
            durations.clone(),
        );
        Self { registry: Arc::new(RwLock::new(registry)), requests, durations }
    }

    pub(crate) fn observe(&self, of: RequestLabel, code: u16, elapsed: Duration) {
        if !of.is_long_running() {
            self.durations.get_or_create(&of).observe(elapsed.as_secs_f64());
        }
        self.requests.get_or_create(&RequestTotal { code, of }).inc();
    }

    /// Adds somebody else's metrics.
    pub(crate) fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.write());
    }

    /// Counts requests anew, as `DELETE /metrics` asks for.
    pub(crate) fn reset(&self) {
        self.requests.clear();
        self.durations.clear();
    }

    /// The text exposition.
    pub(crate) fn text(&self) -> String {
        exposition::text(&self.registry.read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_upstreams_labels_and_nothing_that_a_client_made_up() {
        let pods = api::kinds::builtin().by_resource("", "v1", "pods").expect("pods");
        let metrics = Metrics::new();
        let path = ResourcePath { namespace: "ns".into(), name: "a".into(), ..ResourcePath::default() };
        let status = ResourcePath { subresource: "status".into(), ..path.clone() };
        let made_up = ResourcePath { subresource: "made-up".into(), ..path.clone() };
        let patch = RequestLabel::of_resource(pods, &status, Some("patch"), true).of_apply();
        metrics.observe(patch, 200, Duration::from_millis(10));
        metrics.observe(RequestLabel::of_resource(pods, &made_up, None, false), 404, Duration::ZERO);
        let list = ResourcePath { name: String::new(), ..path };
        metrics.observe(RequestLabel::of_resource(pods, &list, Some("watch"), false), 200, Duration::ZERO);
        metrics.observe(RequestLabel::other(&Method::from_bytes(b"MADEUP").expect("a method")), 405, Duration::ZERO);
        let text = metrics.text();
        for line in [
            r#"{code="200",component="apiserver",dry_run="All",group="",resource="pods",scope="resource",subresource="status",verb="APPLY",version="v1"} 1"#,
            r#"{code="404",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="other",version="v1"} 1"#,
            r#"{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="WATCH",version="v1"} 1"#,
            r#"{code="405",component="",dry_run="",group="",resource="",scope="",subresource="",verb="other",version=""} 1"#,
        ] {
            assert!(text.contains(&format!("apiserver_request_total{line}\n")), "{line} in {text}");
        }
        assert!(text.contains("# TYPE apiserver_request_total counter\n"), "{text}");
        assert!(!text.to_lowercase().contains("made"), "{text}");
    }
}
