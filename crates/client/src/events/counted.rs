//! Core/v1 Events that count.
//!
//! Notes pass through the [`Correlator`] (upstream's rules: a chatty object is silenced, many like events become one, equal events
//! are counted) before they are written.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tracing::debug;

use super::{EventType, REMEMBERED, WRITE_RETRY, is_given_up, reference};
use crate::{Connection, Shutdown};

/// Notes waiting to be written.
const INBOX: usize = 1000;
/// More different messages than this within [`AGGREGATE_WITHIN`] become one combined event.
const AGGREGATE_AFTER: usize = 10;
const AGGREGATE_WITHIN: Duration = Duration::from_secs(600);
/// Events one source may write about one object: a burst, then one per five minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_PER_SECOND: f64 = 1.0 / 300.0;

#[derive(Clone, Debug)]
struct Note {
    about: ObjectReference,
    type_: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records events of one component. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct EventRecorder {
    inbox: mpsc::Sender<Note>,
}

impl EventRecorder {
    /// Starts the writing task; `component` is what `kubectl describe` shows as From.
    pub fn new(connection: Connection, component: &str, shutdown: Shutdown) -> Self {
        let (inbox, notes) = mpsc::channel(INBOX);
        let writer = Writer { connection, component: component.to_owned(), correlator: Correlator::default() };
        tokio::spawn(writer.run(notes, shutdown));
        Self { inbox }
    }

    /// A recorder that only drops, for tests of code that records.
    pub fn disconnected() -> Self {
        Self { inbox: mpsc::channel(1).0 }
    }

    /// Records about an object of a static kind.
    pub fn event<K>(&self, object: &K, type_: EventType, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.event_about(reference(object), type_, reason, message);
    }

    pub fn event_about(&self, about: ObjectReference, type_: EventType, reason: &str, message: impl Into<String>) {
        let note = Note { about, type_, reason: reason.to_owned(), message: message.into(), at: Timestamp::now() };
        if self.inbox.try_send(note).is_err() {
            debug!(reason, "event dropped, the inbox is full or closed");
        }
    }
}

struct Writer {
    connection: Connection,
    component: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>, shutdown: Shutdown) {
        loop {
            let note = tokio::select! {
                note = notes.recv() => note,
                () = shutdown.cancelled() => return,
            };
            let Some(note) = note else { return };
            let Some((series, write)) = self.correlator.correlate(note) else { continue };
            tokio::select! {
                () = self.write(&series, write) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn write(&mut self, series: &SeriesKey, mut write: Write) {
        for attempt in 1.. {
            match self.write_once(&write).await {
                Ok(name) => return self.correlator.written(series, name),
                // The event expired meanwhile: start a new one with the count so far.
                Err(kube::Error::Api(status)) if status.code == 404 && write.existing.is_some() => {
                    write.existing = None
                }
                Err(error) if is_given_up(&write.note.reason, attempt, &error) => return,
                Err(_) => tokio::time::sleep(WRITE_RETRY).await,
            }
        }
    }

    async fn write_once(&self, write: &Write) -> Result<String, kube::Error> {
        let namespace = write.note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let events = self.connection.namespaced::<Event>(&namespace);
        let written = match &write.existing {
            Some(name) => {
                let change = serde_json::json!({
                    "count": write.count,
                    "lastTimestamp": Time(write.note.at),
                    "message": write.note.message,
                });
                events.patch(name, &PatchParams::default(), &Patch::Strategic(change)).await?
            }
            None => events.create(&PostParams::default(), &self.event(write, namespace)).await?,
        };
        Ok(written.metadata.name.unwrap_or_default())
    }

    fn event(&self, write: &Write, namespace: String) -> Event {
        let note = &write.note;
        let about_name = note.about.name.as_deref().unwrap_or("");
        let name = format!("{about_name}.{:x}", note.at.as_nanosecond());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            type_: Some(note.type_.as_str().to_owned()),
            first_timestamp: Some(Time(write.first)),
            last_timestamp: Some(Time(note.at)),
            count: Some(write.count),
            source: Some(EventSource { component: Some(self.component.clone()), host: None }),
            // Upstream forgets it where many events become one.
            reporting_component: (!note.message.starts_with(COMBINED)).then(|| self.component.clone()),
            reporting_instance: Some(String::new()),
            ..Event::default()
        }
    }
}

/// What to write about a note: a new event, or a higher count of an old one.
#[derive(Debug)]
struct Write {
    note: Note,
    count: i32,
    first: Timestamp,
    existing: Option<String>,
}

type AboutKey = (String, String, String, String);
/// About what, type, reason, message (empty for combined events).
type SeriesKey = (AboutKey, EventType, String, String);

/// Upstream's event correlator. Pure: times come with the notes.
#[derive(Default)]
struct Correlator {
    spam: HashMap<AboutKey, Bucket>,
    groups: HashMap<(AboutKey, EventType, String), Group>,
    series: HashMap<SeriesKey, Series>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Group {
    messages: HashSet<String>,
    at: Timestamp,
}

struct Series {
    count: i32,
    first: Timestamp,
    name: Option<String>,
}

impl Correlator {
    /// None when the object has been talked about too much.
    fn correlate(&mut self, mut note: Note) -> Option<(SeriesKey, Write)> {
        self.forget_when_full();
        let about = about_key(&note.about);
        if !self.aggregate(&about, &mut note) {
            return None;
        }
        let combined = note.message.starts_with(COMBINED);
        let message = if combined { String::new() } else { note.message.clone() };
        let key = (about, note.type_, note.reason.clone(), message);
        let series = self.series.entry(key.clone()).or_insert(Series { count: 0, first: note.at, name: None });
        series.count = series.count.saturating_add(1);
        let write = Write { count: series.count, first: series.first, existing: series.name.clone(), note };
        Some((key, write))
    }

    /// Combines a note with many like it, then asks the spam filter.
    fn aggregate(&mut self, about: &AboutKey, note: &mut Note) -> bool {
        let group_key = (about.clone(), note.type_, note.reason.clone());
        let group = self.groups.entry(group_key).or_insert(Group { messages: HashSet::new(), at: note.at });
        if seconds_between(group.at, note.at) > AGGREGATE_WITHIN.as_secs_f64() {
            group.messages.clear();
        }
        group.at = note.at;
        group.messages.insert(note.message.clone());
        if group.messages.len() >= AGGREGATE_AFTER {
            note.message = format!("{COMBINED}{}", note.message);
            // Which ones they were no longer matters.
            group.messages = group.messages.drain().take(AGGREGATE_AFTER).collect();
        }
        let bucket = self.spam.entry(about.clone()).or_insert(Bucket { tokens: SPAM_BURST, at: note.at });
        let refill = seconds_between(bucket.at, note.at) * SPAM_REFILL_PER_SECOND;
        bucket.tokens = (bucket.tokens + refill).min(SPAM_BURST);
        bucket.at = note.at;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn written(&mut self, series: &SeriesKey, name: String) {
        if let Some(series) = self.series.get_mut(series) {
            series.name = Some(name);
        }
    }

    /// Forgetting costs a repeated event, never a wrong one.
    fn forget_when_full(&mut self) {
        if self.series.len() >= REMEMBERED || self.groups.len() >= REMEMBERED || self.spam.len() >= REMEMBERED {
            *self = Self::default();
        }
    }
}

const COMBINED: &str = "(combined from similar events): ";

fn about_key(about: &ObjectReference) -> AboutKey {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    (part(&about.kind), part(&about.namespace), part(&about.name), part(&about.uid))
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(second: i64, message: &str) -> Note {
        let about = ObjectReference { kind: Some("Pod".into()), name: Some("p".into()), ..ObjectReference::default() };
        let at = Timestamp::from_second(1_700_000_000 + second).unwrap();
        Note { about, type_: EventType::Warning, reason: "Failed".into(), message: message.into(), at }
    }

    #[test]
    fn an_equal_event_is_counted_on_the_first_one() {
        let mut correlator = Correlator::default();
        let (series, write) = correlator.correlate(note(0, "x")).unwrap();
        assert_eq!((write.count, write.existing), (1, None));
        correlator.written(&series, "p.1".into());
        let (_, write) = correlator.correlate(note(5, "x")).unwrap();
        assert_eq!((write.count, write.existing.as_deref()), (2, Some("p.1")));
        assert_eq!(write.first, note(0, "x").at);
        let (_, write) = correlator.correlate(note(6, "y")).unwrap();
        assert_eq!((write.count, write.existing), (1, None));
    }

    #[test]
    fn the_tenth_different_message_is_combined() {
        let mut correlator = Correlator::default();
        let messages: Vec<String> = (0..11)
            .filter_map(|second| correlator.correlate(note(second, &format!("m{second}"))))
            .map(|(_, write)| format!("{} {}", write.count, write.note.message))
            .collect();
        assert_eq!(messages[8], "1 m8");
        assert_eq!(messages[9], "1 (combined from similar events): m9");
        assert_eq!(messages[10], "2 (combined from similar events): m10");
    }

    #[test]
    fn a_chatty_object_is_silenced_after_its_burst() {
        let mut correlator = Correlator::default();
        let n_written = (0..40).filter(|_| correlator.correlate(note(0, "x")).is_some()).count();
        assert_eq!(n_written, 25);
        assert!(correlator.correlate(note(301, "x")).is_some());
    }
}
