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

    /// It changes an object, which goes on when nobody waits for the answer any more.
    fn is_write(&self) -> bool {
        const WRITES: [&str; 6] = ["APPLY", "DELETE", "DELETECOLLECTION", "PATCH", "POST", "PUT"];
        !self.resource.is_empty() && WRITES.contains(&self.verb)
    }

    /// The answer goes on after the request is served.
    fn is_long_running(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

/// A request that the server ended in self-defence. Upstream also names what a client made up, and paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Termination {
    code: u16,
    component: &'static str,
    group: Str,
    resource: Str,
    scope: &'static str,
    subresource: Str,
    verb: &'static str,
    version: Str,
}

impl Termination {
    fn new(of: &RequestLabel, code: u16) -> Self {
        let RequestLabel { component: _, dry_run: _, group, resource, scope, subresource, verb, version } = of.clone();
        Self { code, component: "apiserver", group, resource, scope, subresource, verb, version }
    }
}

/// How a request ended whose client had been told that it is late.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LateEnd {
    Answer(u16),
    Panic,
    /// Not yet, when nobody looked any longer.
    Pending,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AfterTimeout {
    source: &'static str,
    status: &'static str,
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

/// A part of the server that counts by itself.
pub trait Counted: Send + Sync {
    /// Shows what it counts.
    fn register(&self, registry: &mut Registry);

    /// Counts anew. What tells a state, or when something was, stays; upstream empties most of that as well, until it changes.
    fn reset(&self);
}

#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<RwLock<Registry>>,
    parts: Arc<RwLock<Vec<Arc<dyn Counted>>>>,
    requests: Family<RequestTotal, Counter>,
    durations: Family<RequestLabel, Histogram, fn() -> Histogram>,
    terminations: Family<Termination, Counter>,
    after_timeout: Family<AfterTimeout, Counter>,
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
        let terminations = Family::<Termination, Counter>::default();
        let text = "Number of requests which apiserver terminated in self-defense";
        registry.register("apiserver_request_terminations", text, terminations.clone());
        let after_timeout = Family::<AfterTimeout, Counter>::default();
        registry.register(
            "apiserver_request_post_timeout",
            "Tracks the activity of the request handlers after the associated requests have been timed out by the apiserver",
            after_timeout.clone(),
        );
        Self {
            registry: Arc::new(RwLock::new(registry)),
            parts: Arc::default(),
            requests,
            durations,
            terminations,
            after_timeout,
        }
    }

    pub(crate) fn observe(&self, of: RequestLabel, code: u16, elapsed: Duration) {
        if !of.is_long_running() {
            self.durations.get_or_create(&of).observe(elapsed.as_secs_f64());
        }
        self.requests.get_or_create(&RequestTotal { code, of }).inc();
    }

    /// The server ended a request, by saying `code`, for its own good.
    pub(crate) fn terminated(&self, of: &RequestLabel, code: u16) {
        self.terminations.get_or_create(&Termination::new(of, code)).inc();
    }

    /// What became of a request after its client was told that it is late: upstream tells how what handles every request ended, and
    /// for writes how what they do ended.
    pub(crate) fn ended_late(&self, of: &RequestLabel, ended: LateEnd) {
        let count = |source, status| {
            self.after_timeout.get_or_create(&AfterTimeout { source, status }).inc();
        };
        if of.is_write() {
            let status = match ended {
                LateEnd::Answer(400..) => "error",
                LateEnd::Answer(_) => "ok",
                LateEnd::Panic => "panic",
                LateEnd::Pending => "pending",
            };
            count("rest-handler", status);
        }
        count("timeout-handler", if matches!(ended, LateEnd::Panic) { "panic" } else { "ok" });
    }

    /// Adds somebody else's metrics.
    pub(crate) fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.write());
    }

    /// Adds those of a part.
    pub(crate) fn add(&self, part: Arc<dyn Counted>) {
        self.extend(|registry| part.register(registry));
        self.parts.write().push(part);
    }

    /// Counts anew, as `DELETE /metrics` asks for.
    pub(crate) fn reset(&self) {
        self.parts.read().iter().for_each(|part| part.reset());
        self.requests.clear();
        self.durations.clear();
        self.terminations.clear();
        self.after_timeout.clear();
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

    #[test]
    fn what_was_ended_early_and_how_it_went_on_is_counted_until_that_is_forgotten() {
        let pods = api::kinds::builtin().by_resource("", "v1", "pods").expect("pods");
        let metrics = Metrics::new();
        let path = ResourcePath { namespace: "ns".into(), ..ResourcePath::default() };
        let (create, list) = (Some("create"), Some("list"));
        let [create, list] = [create, list].map(|verb| RequestLabel::of_resource(pods, &path, verb, false));
        metrics.terminated(&list, 429);
        metrics.terminated(&RequestLabel::other(&Method::GET), 504);
        for ended in [LateEnd::Answer(201), LateEnd::Answer(404), LateEnd::Panic, LateEnd::Pending] {
            metrics.ended_late(&create, ended);
        }
        metrics.ended_late(&list, LateEnd::Answer(504));
        let counted = || {
            let text = metrics.text();
            let lines = text.lines().filter(|line| line.starts_with("apiserver_"));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(
            counted(),
            [
                r#"apiserver_request_post_timeout_total{source="rest-handler",status="error"} 1"#,
                r#"apiserver_request_post_timeout_total{source="rest-handler",status="ok"} 1"#,
                r#"apiserver_request_post_timeout_total{source="rest-handler",status="panic"} 1"#,
                r#"apiserver_request_post_timeout_total{source="rest-handler",status="pending"} 1"#,
                r#"apiserver_request_post_timeout_total{source="timeout-handler",status="ok"} 4"#,
                r#"apiserver_request_post_timeout_total{source="timeout-handler",status="panic"} 1"#,
                r#"apiserver_request_terminations_total{code="429",component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
                r#"apiserver_request_terminations_total{code="504",component="apiserver",group="",resource="",scope="",subresource="",verb="GET",version=""} 1"#,
            ]
        );
        metrics.reset();
        assert!(counted().is_empty());
    }
}
