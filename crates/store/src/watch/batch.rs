//! What watches deliver: batches that all watches of the same events share, and the channels they go through.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::proto::{encode_event, mvccpb};
use crate::{Revision, StoreError, WatchBatch, WatchEvent};

/// A [`WatchBatch`] that may have been made for many watches.
#[derive(Clone, Debug)]
pub struct SharedBatch {
    /// Everything up to and including this revision has been delivered. An empty batch is a progress notification.
    pub revision: Revision,
    events: Arc<Events>,
}

/// Events in revision order, and their encoded form once somebody has wanted it.
#[derive(Debug, Default)]
struct Events {
    list: Vec<WatchEvent>,
    encoded: OnceLock<EncodedEvents>,
}

/// Events as they are sent, encoded once for all who watch.
#[derive(Debug)]
pub(crate) struct EncodedEvents {
    bytes: Bytes,
    /// Where each event ends.
    ends: Vec<usize>,
}

impl SharedBatch {
    pub(crate) fn new(revision: Revision, list: Vec<WatchEvent>) -> Self {
        debug_assert!(list.is_sorted_by_key(|event| event.kv.mod_revision));
        Self { revision, events: Arc::new(Events { list, encoded: OnceLock::new() }) }
    }

    /// The batch that only says how far its watch has come.
    pub(crate) fn progress(revision: Revision) -> Self {
        Self::new(revision, Vec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.list.is_empty()
    }

    pub(crate) fn n_events(&self) -> usize {
        self.events.list.len()
    }

    /// The revision of the first event.
    pub(crate) fn first(&self) -> Option<Revision> {
        self.events.list.first().map(|event| event.kv.mod_revision)
    }

    /// Without the events before a revision; `None` if there are no others.
    pub(super) fn since(&self, next: Revision) -> Option<Self> {
        if self.first()? >= next {
            return Some(self.clone());
        }
        let list: Vec<_> = self.events.list.iter().filter(|event| event.kv.mod_revision >= next).cloned().collect();
        (!list.is_empty()).then(|| Self::new(self.revision, list))
    }

    pub(crate) fn encoded(&self) -> &EncodedEvents {
        self.events.encoded.get_or_init(|| {
            let mut bytes = BytesMut::new();
            let encode = |event: &WatchEvent| {
                encode_event(&mvccpb::Event::from(event.clone()), &mut bytes);
                bytes.len()
            };
            let ends = self.events.list.iter().map(encode).collect();
            EncodedEvents { bytes: bytes.freeze(), ends }
        })
    }
}

/// For implementations that have a batch of their own.
impl From<WatchBatch> for SharedBatch {
    fn from(WatchBatch { revision, events }: WatchBatch) -> Self {
        Self::new(revision, events)
    }
}

impl From<SharedBatch> for WatchBatch {
    fn from(SharedBatch { revision, events }: SharedBatch) -> Self {
        let events = Arc::try_unwrap(events).map_or_else(|shared| shared.list.clone(), |own| own.list);
        Self { revision, events }
    }
}

impl EncodedEvents {
    /// All of them.
    pub(crate) fn whole(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Pieces of up to `bytes_max`, at least one event each.
    pub(crate) fn pieces(&self, bytes_max: usize) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let (mut start, mut end) = (0, 0);
        for &next in &self.ends {
            if next - start > bytes_max && end > start {
                pieces.push(self.bytes.slice(start..end));
                start = end;
            }
            end = next;
        }
        pieces.push(self.bytes.slice(start..));
        pieces
    }
}

/// What came of a watch, and of which.
#[derive(Debug)]
pub struct Delivery {
    /// As given to [`WatchSink::tagged`].
    pub tag: u64,
    /// After an error the watch is over.
    pub outcome: Result<SharedBatch, StoreError>,
}

/// Where a watch delivers to, possibly together with others.
#[derive(Clone, Debug)]
pub struct WatchSink {
    tag: u64,
    deliveries: mpsc::Sender<Delivery>,
}

impl WatchSink {
    /// A sink and its other end; `capacity` deliveries may wait.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<Delivery>) {
        let (deliveries, receiver) = mpsc::channel(capacity);
        (Self { tag: 0, deliveries }, receiver)
    }

    /// The same sink for another watch.
    #[must_use]
    pub fn tagged(&self, tag: u64) -> Self {
        Self { tag, deliveries: self.deliveries.clone() }
    }

    /// Waits for room. False when nobody listens any more.
    pub async fn send(&self, outcome: Result<SharedBatch, StoreError>) -> bool {
        self.deliveries.send(Delivery { tag: self.tag, outcome }).await.is_ok()
    }

    pub(super) fn try_send(
        &self,
        outcome: Result<SharedBatch, StoreError>,
    ) -> Result<(), mpsc::error::TrySendError<Delivery>> {
        self.deliveries.try_send(Delivery { tag: self.tag, outcome })
    }

    /// Returns when nobody listens any more.
    pub async fn closed(&self) {
        self.deliveries.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventKind, KeyValue};

    fn event(revision: i64, value_bytes: usize) -> WatchEvent {
        let value = vec![b'x'; value_bytes].into();
        let kv = KeyValue { value, mod_revision: Revision(revision), ..KeyValue::default() };
        WatchEvent { kind: EventKind::Put, kv, prev_kv: None }
    }

    #[test]
    fn a_large_revision_is_split_between_events() {
        let batch = SharedBatch::new(Revision(1), [40, 40, 40, 500, 10].map(|bytes| event(1, bytes)).to_vec());
        let encoded = batch.encoded();
        let of_one = |n: usize| SharedBatch::new(Revision(1), vec![event(1, n)]).encoded().whole().len();
        let sizes = |bytes_max| encoded.pieces(bytes_max).iter().map(Bytes::len).collect::<Vec<_>>();
        let (small, large, tiny) = (of_one(40), of_one(500), of_one(10));
        assert_eq!(sizes(100), [2 * small, small, large, tiny]);
        assert_eq!(sizes(1), [small, small, small, large, tiny]);
        assert_eq!(sizes(usize::MAX), [encoded.whole().len()]);
        assert_eq!(encoded.pieces(100).concat(), encoded.whole());
    }

    #[test]
    fn a_watch_that_begins_later_gets_the_later_events() {
        let batch = SharedBatch::new(Revision(9), vec![event(7, 1), event(9, 1)]);
        let revisions = |batch: SharedBatch| -> Vec<i64> {
            WatchBatch::from(batch).events.iter().map(|event| event.kv.mod_revision.0).collect()
        };
        assert_eq!(batch.since(Revision(7)).map(revisions), Some(vec![7, 9]));
        assert_eq!(batch.since(Revision(8)).map(revisions), Some(vec![9]));
        assert!(batch.since(Revision(10)).is_none());
    }
}
