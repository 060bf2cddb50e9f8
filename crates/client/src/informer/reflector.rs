//! Keeps one informer's store equal to the server's: a paged list, then a watch with bookmarks, for ever.
//!
//! A broken watch resumes from the last resourceVersion seen; an expired one (410) starts over with a list. Failures back off
//! from 0.8 to 30 seconds with jitter, as client-go's reflector does.

use std::time::Duration;

use kube::api::{Api, ListParams, WatchParams};
use rand::Rng;
use tracing::{debug, warn};

use super::wire::{Event, Source};
use super::{Informer, Object};
use crate::Shutdown;

/// Objects per list page.
const PAGE_SIZE: u32 = 500;
/// The server ends a watch after a random time in this range, in seconds, so that watches spread over servers again.
const WATCH_SECONDS: std::ops::Range<u32> = 200..290;
const BACKOFF_FIRST: Duration = Duration::from_millis(800);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A watch that lived this long was healthy: the next failure starts from the first delay again.
const BACKOFF_RESET: Duration = Duration::from_secs(120);

/// Which objects to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub fields: Option<String>,
}

pub(super) async fn run<K: Object>(api: Api<K>, scope: Scope, informer: Informer<K>, shutdown: Shutdown) {
    let source = Source::new(api);
    let mut backoff = Backoff::default();
    while !shutdown.is_cancelled() && informer.is_used() {
        let started = tokio::time::Instant::now();
        let ended = tokio::select! {
            ended = list_and_watch(&source, &scope, &informer) => ended,
            () = shutdown.cancelled() => return,
        };
        match ended {
            Err(error) if is_expired(&error) => debug!(url = source.url(), "watch expired, listing again"),
            Err(error) => warn!(url = source.url(), %error, "list or watch failed"),
            Ok(()) => {}
        }
        if started.elapsed() > BACKOFF_RESET {
            backoff = Backoff::default();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Returns when the store must be listed anew: an error, or nobody uses the informer any more.
async fn list_and_watch<K: Object>(
    source: &Source<K>,
    scope: &Scope,
    informer: &Informer<K>,
) -> Result<(), kube::Error> {
    let mut version = list(source, scope, informer).await?;
    let mut backoff = Backoff::default();
    while informer.is_used() {
        let started = tokio::time::Instant::now();
        let before = version.clone();
        match watch(source, scope, informer, &mut version).await {
            Err(error) if is_expired(&error) || matches!(error, kube::Error::Api(_)) => return Err(error),
            Err(error) => debug!(url = source.url(), %error, "watch broke off"),
            Ok(()) => {}
        }
        // A watch that ends at once, with nothing seen, would otherwise spin.
        if version == before && started.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(backoff.next()).await;
        } else {
            backoff = Backoff::default();
        }
    }
    Ok(())
}

async fn list<K: Object>(source: &Source<K>, scope: &Scope, informer: &Informer<K>) -> Result<String, kube::Error> {
    let mut params =
        ListParams { limit: Some(PAGE_SIZE), field_selector: scope.fields.clone(), ..ListParams::default() };
    let mut objects = Vec::new();
    loop {
        let page = source.page(&params).await?;
        objects.extend(page.items.unwrap_or_default());
        let version = page.metadata.resource_version.unwrap_or_default();
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => {
                informer.replace(objects, Some(&version));
                return Ok(version);
            }
        }
    }
}

async fn watch<K: Object>(
    source: &Source<K>,
    scope: &Scope,
    informer: &Informer<K>,
    version: &mut String,
) -> Result<(), kube::Error> {
    let seconds = rand::rng().random_range(WATCH_SECONDS);
    let mut params = WatchParams::default().timeout(seconds);
    params.field_selector = scope.fields.clone();
    let mut events = source.watch(&params, version).await?;
    while let Some(event) = events.next().await? {
        match event {
            Event::Applied(object) => {
                note(version, object.meta().resource_version.as_deref());
                informer.apply(object);
            }
            Event::Deleted(object) => {
                note(version, object.meta().resource_version.as_deref());
                informer.remove(object);
            }
            Event::Version(seen) => {
                note(version, Some(&seen));
                informer.advance(Some(version));
            }
            Event::Error(status) => return Err(kube::Error::Api(status)),
        }
        if !informer.is_used() {
            return Ok(());
        }
    }
    Ok(())
}

fn note(version: &mut String, seen: Option<&str>) {
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        seen.clone_into(version);
    }
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410 || status.reason == "Expired" || status.reason == "Gone")
}

#[derive(Default)]
struct Backoff {
    n_failures: u32,
}

impl Backoff {
    /// Doubles from the first to the longest delay; up to as much again is added at random.
    fn next(&mut self) -> Duration {
        let delay = BACKOFF_FIRST.saturating_mul(1 << self.n_failures.min(6)).min(BACKOFF_MAX);
        self.n_failures = self.n_failures.saturating_add(1);
        delay.mul_f64(1.0 + rand::rng().random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::{ConfigMap, Service};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;
    use crate::informer::InformerFactory;
    use crate::{Connection, ObjectKey};

    type Script = Arc<Mutex<VecDeque<(u16, String)>>>;

    /// An API server that answers from a script, notes what it was asked, and is silent at the end.
    fn scripted(answers: Vec<(u16, String)>) -> (Connection, Arc<Mutex<Vec<String>>>) {
        let script: Script = Arc::new(Mutex::new(answers.into()));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            log.lock().push(request.uri().to_string());
            let answer = script.lock().pop_front();
            async move {
                let Some((code, body)) = answer else { return std::future::pending().await };
                let response = Response::builder().status(code).body(Full::new(Bytes::from(body)));
                Ok::<_, Infallible>(response.unwrap_or_default())
            }
        });
        (Connection::in_process(service, "test").unwrap(), asked)
    }

    fn object(name: &str, version: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "n", "uid": name, "resourceVersion": version },
        })
    }

    fn list(version: &str, token: &str, items: &[Value]) -> (u16, String) {
        let metadata = json!({ "resourceVersion": version, "continue": token });
        (200, json!({ "apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items }).to_string())
    }

    fn watch(events: &[(&str, Value)]) -> (u16, String) {
        let lines = events.iter().map(|(type_, object)| format!("{}\n", json!({ "type": type_, "object": object })));
        (200, lines.collect())
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_joined_and_a_watch_resumes_where_it_ended() {
        let bookmark = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "resourceVersion": "20" } });
        let (connection, asked) = scripted(vec![
            list("10", "next", &[object("a", "3")]),
            list("10", "", &[object("b", "4")]),
            watch(&[("MODIFIED", object("a", "11")), ("DELETED", object("b", "12")), ("BOOKMARK", bookmark)]),
        ]);
        let informer = InformerFactory::new(connection, Shutdown::new()).informer::<ConfigMap>();
        informer.reached(20).await;
        let names: Vec<_> = informer.list().iter().map(|one| one.metadata.name.clone().unwrap_or_default()).collect();
        assert_eq!(names, ["a"]);
        assert!(informer.is_synced());
        while asked.lock().len() < 4 {
            tokio::task::yield_now().await;
        }
        let asked = asked.lock().clone();
        assert!(asked[1].contains("continue=next"), "{asked:?}");
        assert!(asked[2].contains("watch=true") && asked[2].contains("resourceVersion=10"), "{asked:?}");
        assert!(asked[3].contains("watch=true") && asked[3].contains("resourceVersion=20"), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_makes_no_sense_does_not_hide_the_others() {
        let nonsense = |name: &str, version: &str| {
            let mut object = object(name, version);
            object["data"] = json!("neither map nor null");
            object
        };
        let (connection, asked) = scripted(vec![
            list("10", "", &[nonsense("a", "3"), object("b", "4"), object("c", "5")]),
            watch(&[
                ("ADDED", nonsense("d", "11")),
                ("MODIFIED", nonsense("b", "12")),
                ("DELETED", nonsense("c", "13")),
                ("ADDED", object("e", "14")),
            ]),
        ]);
        let informer = InformerFactory::new(connection, Shutdown::new()).informer::<ConfigMap>();
        informer.reached(14).await;
        let mut names: Vec<_> = informer.list().iter().filter_map(|one| one.metadata.name.clone()).collect();
        names.sort();
        assert_eq!(names, ["b", "e"]);
        while asked.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert!(asked.lock()[2].contains("resourceVersion=14"), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn events_may_be_written_in_another_order_and_with_spaces() {
        let line = format!("{{ \"object\" : {}, \"type\" : \"ADDED\" }} \n", object("a", "11"));
        let (connection, _) = scripted(vec![list("10", "", &[]), (200, line)]);
        let informer = InformerFactory::new(connection, Shutdown::new()).informer::<ConfigMap>();
        informer.reached(11).await;
        assert_eq!(informer.list().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_never_changed_is_seen() {
        let service = |name: &str, version: &str| {
            let condition =
                json!({ "type": "A", "status": "True", "lastTransitionTime": null, "reason": "", "message": "" });
            let mut service = object(name, version);
            service["kind"] = "Service".into();
            service["status"] = json!({ "conditions": [condition] });
            service
        };
        let (connection, _) = scripted(vec![
            list("10", "", &[service("a", "3")]),
            watch(&[("ADDED", service("b", "11")), ("MODIFIED", service("a", "12"))]),
        ]);
        let informer = InformerFactory::new(connection, Shutdown::new()).informer::<Service>();
        informer.reached(12).await;
        let versions =
            informer.list().iter().filter_map(|one| one.metadata.resource_version.clone()).collect::<Vec<_>>();
        assert_eq!(versions, ["12", "11"]);
        let conditions = informer.list()[0].status.clone().unwrap_or_default().conditions.unwrap_or_default();
        assert_eq!(json!(conditions[0].last_transition_time), "0001-01-01T00:00:00Z");
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_watch_lists_again_and_keeps_what_is_the_same() {
        let expired =
            json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old", "code": 410 });
        let (connection, asked) = scripted(vec![
            list("10", "", &[object("a", "3"), object("b", "4")]),
            watch(&[("ERROR", expired)]),
            list("30", "", &[object("a", "3"), object("c", "25")]),
        ]);
        let informer = InformerFactory::new(connection, Shutdown::new()).informer::<ConfigMap>();
        informer.reached(30).await;
        assert!(informer.get(&ObjectKey::new("n", "c")).is_some());
        assert!(informer.get(&ObjectKey::new("n", "b")).is_none());
        assert!(!asked.lock()[2].contains("watch=true"));
    }
}
