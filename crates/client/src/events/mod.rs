//! Tells people what happened, as `kubectl describe` shows it.
//!
//! There are two forms, and every component writes the one that upstream's writes: controllers count what happens again on a
//! core/v1 Event ([`EventRecorder`]), the scheduler makes a series of it on an events.k8s.io/v1 Event ([`SeriesRecorder`]). Both put a
//! note into a bounded inbox and return; when the inbox is full the note is dropped. One task each writes.

mod counted;
mod series;

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use tracing::debug;

pub use counted::EventRecorder;
pub use series::SeriesRecorder;

/// Objects, sources and series a recorder remembers (upstream's LRU size).
const REMEMBERED: usize = 4096;
/// How often a write is tried, and the wait between.
const WRITE_TRIES: usize = 12;
const WRITE_RETRY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What an event says it is about.
fn reference<K>(object: &K) -> ObjectReference
where
    K: Resource<DynamicType = ()>,
{
    let mut about = object.object_ref(&());
    about.resource_version = object.meta().resource_version.clone();
    about
}

/// Whether a write that failed for the `attempt`th time, counted from one, is not to be tried again.
fn is_given_up(reason: &str, attempt: usize, error: &kube::Error) -> bool {
    match error {
        // The server said no; asking again would not help.
        kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
            debug!(reason, error = status.message, "event refused");
            true
        }
        error if attempt >= WRITE_TRIES => {
            debug!(reason, %error, "event given up");
            true
        }
        _ => false,
    }
}
