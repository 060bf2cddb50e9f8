//! etcd's plain pages: health in its old and new forms, version and metrics. Clients are probes and people.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use tonic::body::Body;

use super::shared::Shared;
use super::{STORAGE_VERSION, VERSION};
use crate::{AlarmKind, KeyRange, RangeRequest, StoreError};

/// A probe is answered within this time, well or ill.
const CHECK_TIMEOUT: Duration = Duration::from_secs(7);
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One thing that can be wrong with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

/// Checks by name, for each page in the order in which they are shown.
const LIVEZ: &[(&str, Check)] = &[("serializable_read", Check::SerializableRead)];
const READYZ: &[(&str, Check)] = &[
    ("data_corruption", Check::DataCorruption),
    ("serializable_read", Check::SerializableRead),
    ("linearizable_read", Check::LinearizableRead),
    ("non_learner", Check::NonLearner),
];

pub(super) fn not_found() -> Response<Body> {
    page_of(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

/// What an address for metrics and health offers.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(page_and_sub(path).0, "health" | "metrics" | "livez" | "readyz")
}

fn page_and_sub(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or_default();
    path.split_once('/').unwrap_or((path, ""))
}

pub(super) async fn serve(shared: &Shared, method: &Method, uri: &Uri) -> Response<Body> {
    let (page, sub) = page_and_sub(uri.path());
    let known =
        matches!(page, "health" | "version" | "metrics") && sub.is_empty() || matches!(page, "livez" | "readyz");
    if !known {
        return not_found();
    }
    if method != Method::GET {
        let mut refused = page_of(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
        refused.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
        return refused;
    }
    let query = Query(uri.query().unwrap_or_default());
    match page {
        "health" => health(shared, query).await,
        "version" => {
            let versions = [("etcdserver", VERSION), ("etcdcluster", STORAGE_VERSION), ("storage", STORAGE_VERSION)];
            let fields = versions.map(|(name, version)| format!("\"{name}\":\"{version}\""));
            page_of(StatusCode::OK, JSON, format!("{{{}}}", fields.join(",")))
        }
        "metrics" => page_of(StatusCode::OK, METRICS, shared.metrics.page(shared).await),
        "livez" => checks(shared, "livez", LIVEZ, sub, query).await,
        _ => checks(shared, "readyz", READYZ, sub, query).await,
    }
}

fn page_of(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// A query string; the parameters used here need no decoding.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn values(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    fn has(self, name: &'a str, value: &str) -> bool {
        self.values(name).any(|given| given == value)
    }
}

async fn health(shared: &Shared, query: Query<'_>) -> Response<Body> {
    let serializable = query.values("serializable").next() == Some("true");
    let checked = tokio::time::timeout(CHECK_TIMEOUT, health_problem(shared, query, serializable)).await;
    let problem = checked.unwrap_or_else(|_late| Some("RANGE ERROR:context deadline exceeded".to_owned()));
    match problem {
        None => {
            shared.metrics.health_success.inc();
            page_of(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            shared.metrics.health_failures.inc();
            let reason = reason.replace('\\', "\\\\").replace('"', "\\\"");
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            page_of(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
        }
    }
}

async fn health_problem(shared: &Shared, query: Query<'_>, serializable: bool) -> Option<String> {
    let range_error = |error: StoreError| Some(format!("RANGE ERROR:{error}"));
    let alarms = match shared.store.alarms().await {
        Ok(alarms) => alarms,
        Err(error) => return range_error(error),
    };
    for alarm in alarms {
        let name = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        if !query.has("exclude", name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && !shared.refresh().await {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(shared, serializable).await.err().and_then(range_error)
}

async fn read(shared: &Shared, serializable: bool) -> Result<(), StoreError> {
    let request = RangeRequest {
        range: KeyRange::key(Bytes::from_static(b"\0")),
        limit: 1,
        keys_only: true,
        serializable,
        ..RangeRequest::default()
    };
    shared.store.range(request).await.map(drop)
}

async fn run(shared: &Shared, check: Check) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    match check {
        Check::SerializableRead => read(shared, true).await.map_err(text),
        Check::LinearizableRead => read(shared, false).await.map_err(text),
        Check::DataCorruption => {
            let alarms = shared.store.alarms().await.map_err(text)?;
            let corrupt = alarms.iter().find(|alarm| alarm.kind == AlarmKind::Corrupt);
            corrupt.map_or(Ok(()), |alarm| Err(format!("alarm activated: CORRUPT on member {:x}", alarm.member_id)))
        }
        Check::NonLearner => {
            let learner = shared.store.status().await.map_err(text)?.is_learner;
            if learner { Err("server is a learner".to_owned()) } else { Ok(()) }
        }
    }
}

/// One check by its own path, or all of a page but those excluded.
async fn checks(shared: &Shared, page: &str, all: &[(&str, Check)], sub: &str, query: Query<'_>) -> Response<Body> {
    let wanted = |name: &str| if sub.is_empty() { !query.has("exclude", name) } else { name == sub };
    let chosen: Vec<_> = all.iter().filter(|(name, _)| wanted(name)).collect();
    if !sub.is_empty() && chosen.is_empty() {
        return not_found();
    }
    let mut lines = String::new();
    let mut failed = false;
    for (name, check) in chosen {
        let result = tokio::time::timeout(CHECK_TIMEOUT, run(shared, *check)).await;
        let result = result.unwrap_or_else(|_late| Err("context deadline exceeded".to_owned()));
        shared.metrics.health_check(page, name, result.is_ok());
        match result {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if failed {
        return page_of(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines);
    }
    let verbose = query.values("verbose").next().is_some();
    let body = if verbose { lines + "ok\n" } else { "ok\n".to_owned() };
    page_of(StatusCode::OK, TEXT, body)
}
