//! API priority and fairness: which request is worked on now, which waits, and which is sent away.
//!
//! A request belongs to the first FlowSchema that matches it ([`schema`]), and so to a priority level ([`level`]), which has a
//! number of seats. While seats are free a request takes its own with one atomic step; nothing is locked and nothing is asked.
//! When there are none it waits in one of the level's queues, chosen by shuffle sharding among the flows ([`shuffle`]), and the
//! queues take turns. Seats that a level does not need are lent to others ([`seats`]). Source: KEP-1040 and the Kubernetes page
//! "API Priority and Fairness".

mod dump;
mod executing;
mod level;
mod metrics;
mod schema;
mod seats;
mod shuffle;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::attributes::{Action, UserInfo};
use crate::bootstrap::flowcontrol::GROUP;
use crate::gateway::Gateway;
use crate::serve::stopped;
use crate::source::ObjectSource;
use level::{About, Level, Place};
use metrics::Metrics;
use schema::Schema;

/// How often the objects are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Seats are lent anew after this many looks: every ten seconds, as upstream.
const LOOKS_PER_LENDING: u32 = 40;
/// Nobody waits in a queue longer, whatever the request timeout.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A list takes a seat for so many objects, but no more seats than this.
const OBJECTS_PER_SEAT: usize = 100;
const LIST_SEATS_MAX: usize = 10;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The levels and schemas in force.
#[derive(Debug)]
pub(crate) struct Fairness {
    snapshot: RwLock<Arc<Snapshot>>,
    /// Seats of all levels together.
    seats: usize,
    metrics: Metrics,
}

/// What the objects said when they were last looked at.
#[derive(Debug, Default)]
struct Snapshot {
    /// In the order in which they are asked.
    schemas: Vec<Schema>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Admission {
    uids: Option<(HeaderValue, HeaderValue)>,
    /// Held while the request is worked on; `None` when it has to go.
    pub place: Option<Place>,
}

impl Admission {
    /// Tells the client which objects its request was judged by.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some((schema, level)) = &self.uids {
            headers.insert(SCHEMA_UID, schema.clone());
            headers.insert(LEVEL_UID, level.clone());
        }
    }
}

impl Fairness {
    pub(crate) fn new(seats: usize) -> Self {
        Self { snapshot: RwLock::default(), seats, metrics: Metrics::default() }
    }

    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.metrics.register(registry);
    }

    /// Counts requests anew.
    pub(crate) fn reset(&self, source: &dyn ObjectSource) {
        self.metrics.reset();
        self.refresh(source);
    }

    /// Finds a place for a request, now or after a while: at most a quarter of what it may take altogether. `count` says how many
    /// objects a list would look at.
    pub(crate) async fn admit(
        &self,
        user: &UserInfo,
        action: &Arc<Action>,
        limit: Duration,
        count: impl FnOnce() -> usize,
    ) -> Admission {
        // A watch holds its seats until it begins, other streams none.
        if action.is_long_running() && !action.is_watch() {
            return Admission { uids: None, place: Some(Place::free()) };
        }
        let snapshot = Arc::clone(&self.snapshot.read());
        // There is nothing yet while the server starts.
        let Some(schema) = snapshot.schemas.iter().find(|schema| schema.matches(user, action)) else {
            return Admission { uids: None, place: Some(Place::free()) };
        };
        let uids = Some((schema.uid.clone(), schema.level_uid.clone()));
        let level = &schema.level;
        let width = if level.is_exempt() { 1 } else { width(action, level, count) };
        schema.counts.came(width);
        let about = About {
            arrived: jiff::Timestamp::now(),
            schema: Arc::clone(&schema.name),
            distinguisher: schema.distinguisher(user, action).into(),
            user: user.name.as_str().into(),
            action: Arc::clone(action),
            counts: schema.counts.clone(),
        };
        if let Some(place) = level.take(width, &about) {
            return Admission { uids, place: Some(place) };
        }
        match level.wait(width, about, WAIT_MAX.min(limit / 4)).await {
            Ok(place) => Admission { uids, place: Some(place) },
            Err(reason) => {
                self.metrics.rejected(&level.name, &schema.name, reason);
                Admission { uids, place: None }
            }
        }
    }

    /// Reads the objects again.
    pub(crate) fn refresh(&self, source: &dyn ObjectSource) {
        let former = Arc::clone(&self.snapshot.read());
        let parsed = |resource: &str| source.list(GROUP, resource, "").into_iter().filter_map(|stored| stored.parse());
        let mut levels = BTreeMap::new();
        let mut uids = BTreeMap::new();
        let objects: Vec<_> = parsed("prioritylevelconfigurations").collect();
        let limits = seats::nominal(&objects, self.seats);
        for (object, limits) in objects.iter().zip(limits) {
            let name = api::meta::name(object).to_owned();
            let level = former.levels.get(&name).cloned();
            let level = level.unwrap_or_else(|| Arc::new(Level::new(&name, self.metrics.courses(&name))));
            level.configure(object, limits);
            self.metrics.limits(&name, &level.limits());
            uids.insert(name.clone(), uid(object));
            levels.insert(name, level);
        }
        let limited = || levels.values().filter(|level| !level.is_exempt());
        let (places, seats) =
            (limited().map(|level| level.places()).sum(), limited().map(|level| level.limits().0.nominal).sum());
        self.metrics.bounds(places, seats);
        let mut schemas: Vec<Schema> = Vec::new();
        for object in parsed("flowschemas") {
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
            // A schema without its level is as good as none.
            let (Some(level), Some(level_uid)) = (levels.get(level), uids.get(level)) else { continue };
            let counts = self.metrics.counts(&level.name, api::meta::name(&object));
            schemas.push(Schema::parse(&object, uid(&object), Arc::clone(level), level_uid.clone(), counts));
        }
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        *self.snapshot.write() = Arc::new(Snapshot { schemas, levels });
    }

    /// Lends the seats that some levels do not need to those that do.
    fn lend(&self) {
        let snapshot = Arc::clone(&self.snapshot.read());
        let levels: Vec<_> = snapshot.levels.values().collect();
        let demands: Vec<_> = levels.iter().map(|level| level.demand()).collect();
        let lending = seats::lend(self.seats, &demands);
        self.metrics.fair_fraction(lending.fraction);
        for (at, level) in levels.iter().enumerate() {
            level.set_seats(lending.seats[at], (self.seats / 10).max(1));
            self.metrics.limits(&level.name, &level.limits());
            self.metrics.lent(&level.name, &demands[at].course, demands[at].smoothed, lending.targets[at]);
        }
    }

    /// One of the pages under /debug/api_priority_and_fairness.
    pub(crate) fn dump(&self, path: &str, details: bool) -> Option<String> {
        let snapshot = Arc::clone(&self.snapshot.read());
        dump::page(&snapshot.levels, path, details)
    }
}

/// Follows the objects until the server stops.
pub(crate) async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let Some(fairness) = &gateway.fairness else { return };
    let resources = ["flowschemas", "prioritylevelconfigurations"];
    let mut seen = None;
    for look in 1_u32.. {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stopped(&mut shutdown) => return,
        }
        let source = gateway.cache.as_ref();
        let newest = resources.map(|resource| source.last_change(GROUP, resource));
        if gateway.cache.is_ready() && seen != Some(newest) {
            fairness.refresh(source);
            seen = Some(newest);
        }
        if look.is_multiple_of(LOOKS_PER_LENDING) {
            fairness.lend();
        }
    }
}

fn uid(object: &api::Value) -> HeaderValue {
    HeaderValue::from_str(api::meta::uid(object)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Seats that a request takes.
fn width(action: &Action, level: &Level, count: impl FnOnce() -> usize) -> usize {
    match action {
        Action::Resource { verb, name, subresource, .. }
            if verb == "list" && name.is_empty() && subresource.is_empty() =>
        {
            count().div_ceil(OBJECTS_PER_SEAT).clamp(1, LIST_SEATS_MAX.min(level.width_max()))
        }
        _ => 1,
    }
}
