//! Events.k8s.io/v1 Events: what happens again to the same object, in the same version, is a series of the first of them.
//!
//! Only the beginning of a series is written at once; its count follows when it is refreshed or has ended
//! (KEP-383, upstream's event broadcaster).

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::{EventType, REMEMBERED, WRITE_RETRY, is_given_up, reference};
use crate::{Connection, Shutdown};

/// Notes waiting to be written: a burst of pods is bound faster than it is told of.
const INBOX: usize = 8192;
/// A series ends when nothing was added to it for so long; one event is remembered for as long.
const FINISH_AFTER: Duration = Duration::from_secs(6 * 60);
/// How often the events of running series are written, so that they do not expire.
const REFRESH_EVERY: Duration = Duration::from_secs(30 * 60);
/// Bytes of a note; more is refused by the API server.
const NOTE_MAX: usize = 1024;
const CUT: &str = " ...";

/// Records events of one reporting controller. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct SeriesRecorder {
    inbox: mpsc::Sender<Event>,
    controller: String,
    instance: String,
}

impl SeriesRecorder {
    /// Starts the writing task; `controller` is what `kubectl describe` shows as From.
    pub fn new(connection: Connection, controller: &str, shutdown: Shutdown) -> Self {
        let (inbox, events) = mpsc::channel(INBOX);
        tokio::spawn(Writer { connection, known: Known::default() }.run(events, shutdown));
        let instance = format!("{controller}-{}", crate::host_name());
        Self { inbox, controller: controller.to_owned(), instance }
    }

    /// Records about an object of a static kind: why (`reason`), and what was done or tried (`action`). Notes of more than 1,024
    /// bytes are cut.
    pub fn event<K>(&self, regarding: &K, type_: EventType, reason: &str, action: &str, note: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let (regarding, now) = (reference(regarding), Timestamp::now());
        let name = regarding.name.as_deref().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(regarding.namespace.clone().unwrap_or_else(|| "default".into())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding),
            note: Some(cut(note.into())),
            type_: Some(type_.as_str().to_owned()),
            ..Event::default()
        };
        if self.inbox.try_send(event).is_err() {
            debug!(reason, "event dropped, the inbox is full or closed");
        }
    }
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE_MAX {
        note.truncate(note.floor_char_boundary(NOTE_MAX - CUT.len()));
        note.push_str(CUT);
    }
    note
}

struct Writer {
    connection: Connection,
    known: Known,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, shutdown: Shutdown) {
        let (mut finish, mut refresh) = (interval(FINISH_AFTER), interval(REFRESH_EVERY));
        for timer in [&mut finish, &mut refresh] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let to_write = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => Vec::from_iter(self.known.observe(event)),
                    None => return,
                },
                _ = finish.tick() => self.known.finished(Timestamp::now()),
                _ = refresh.tick() => self.known.running(),
                () = shutdown.cancelled() => return,
            };
            for event in to_write {
                tokio::select! {
                    () = self.write(&event) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn write(&self, event: &Event) {
        let reason = event.reason.as_deref().unwrap_or_default();
        for attempt in 1.. {
            match self.write_once(event).await {
                Err(error) if !is_given_up(reason, attempt, &error) => tokio::time::sleep(WRITE_RETRY).await,
                _ => return,
            }
        }
    }

    async fn write_once(&self, event: &Event) -> Result<Event, kube::Error> {
        let (name, namespace) = (event.metadata.name.as_deref(), event.metadata.namespace.as_deref());
        let events = self.connection.namespaced::<Event>(namespace.unwrap_or_default());
        if let Some(series) = &event.series {
            let change = Patch::Strategic(serde_json::json!({ "series": series }));
            match events.patch(name.unwrap_or_default(), &PatchParams::default(), &change).await {
                // It expired meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                answer => return answer,
            }
        }
        events.create(&PostParams::default(), event).await
    }
}

/// The events that others may repeat. Pure: times come with the events.
#[derive(Default)]
struct Known {
    events: HashMap<Key, Event>,
}

/// All but the note, the name and the times.
type Key = [Option<String>; 8];

impl Known {
    /// What is to be written: a new event, or the beginning of a series.
    fn observe(&mut self, event: Event) -> Option<Event> {
        self.forget_when_full();
        let key = key(&event);
        let Some(first) = self.events.get_mut(&key) else {
            self.events.insert(key, event.clone());
            return Some(event);
        };
        let at = event.event_time.unwrap_or_else(|| MicroTime(Timestamp::now()));
        match &mut first.series {
            Some(series) => {
                series.count = series.count.saturating_add(1);
                series.last_observed_time = at;
                None
            }
            None => {
                first.series = Some(EventSeries { count: 2, last_observed_time: at });
                Some(first.clone())
            }
        }
    }

    /// Forgets what has ended; the series among it are to be written for the last time.
    fn finished(&mut self, now: Timestamp) -> Vec<Event> {
        let has_ended = |_: &Key, event: &mut Event| {
            let last = event.series.as_ref().map(|series| &series.last_observed_time).or(event.event_time.as_ref());
            last.is_none_or(|last| {
                now.duration_since(last.0) > SignedDuration::try_from(FINISH_AFTER).unwrap_or_default()
            })
        };
        let ended = self.events.extract_if(has_ended);
        ended.map(|(_, event)| event).filter(|event| event.series.is_some()).collect()
    }

    fn running(&self) -> Vec<Event> {
        self.events.values().filter(|event| event.series.is_some()).cloned().collect()
    }

    /// Forgetting costs a repeated event, never a wrong one.
    fn forget_when_full(&mut self) {
        if self.events.len() >= REMEMBERED {
            self.events.retain(|_, event| event.series.is_some());
        }
        if self.events.len() >= REMEMBERED {
            self.events.clear();
        }
    }
}

fn key(event: &Event) -> Key {
    let about = event.regarding.clone().unwrap_or_default();
    let (type_, action, reason) = (event.type_.clone(), event.action.clone(), event.reason.clone());
    [type_, action, reason, about.kind, about.namespace, about.name, about.uid, about.resource_version]
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn event(second: i64, version: &str, note: &str) -> Event {
        let regarding = ObjectReference {
            kind: Some("Pod".into()),
            name: Some("p".into()),
            resource_version: Some(version.into()),
            ..ObjectReference::default()
        };
        Event {
            event_time: Some(MicroTime(at(second))),
            reason: Some("FailedScheduling".into()),
            regarding: Some(regarding),
            note: Some(note.into()),
            ..Event::default()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn counts(events: &[Event]) -> Vec<i32> {
        events.iter().map(|event| event.series.as_ref().map_or(0, |series| series.count)).collect()
    }

    #[test]
    fn what_happens_again_is_a_series_that_is_written_as_it_begins_and_as_it_ends() {
        let mut known = Known::default();
        let written: Vec<Event> =
            (0..4).filter_map(|second| known.observe(event(second, "1", &format!("note {second}")))).collect();
        assert_eq!(counts(&written), [0, 2]);
        assert_eq!(written[1].note.as_deref(), Some("note 0"));
        assert_eq!(counts(&known.running()), [4]);
        assert!(known.finished(at(300)).is_empty());
        let ended = known.finished(at(400));
        assert_eq!(counts(&ended), [4]);
        assert_eq!(ended[0].series.as_ref().unwrap().last_observed_time.0, at(3));
        assert!(known.events.is_empty());
    }

    #[test]
    fn another_version_of_the_object_is_another_event() {
        let mut known = Known::default();
        let written: Vec<Event> =
            ["1", "2"].iter().filter_map(|version| known.observe(event(0, version, "x"))).collect();
        assert_eq!(counts(&written), [0, 0]);
        assert!(known.finished(at(400)).is_empty(), "what happened once has been written");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut known = Known::default();
        for version in 0..2 * REMEMBERED {
            known.observe(event(0, &version.to_string(), "x"));
        }
        assert!(known.events.len() <= REMEMBERED);
    }

    #[test]
    fn a_long_note_is_cut() {
        assert_eq!(cut("a".repeat(NOTE_MAX)).len(), NOTE_MAX);
        let long = cut("ä".repeat(NOTE_MAX));
        assert!(long.len() <= NOTE_MAX && long.ends_with("ä ..."), "{long}");
    }
}
