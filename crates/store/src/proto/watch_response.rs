//! `etcdserverpb.WatchResponse`, written by hand for one field: events that are encoded already.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, bool, int64, message, skip_field, string};
use prost::{DecodeError, Message};

use super::etcdserverpb::ResponseHeader;
use super::mvccpb::Event;

/// The number of the field `events`.
const EVENTS: u32 = 11;

/// What a watch stream sends. `events` and `encoded_events` are the same field of the message: the first is what a receiver
/// finds there, the second what a sender has at hand, because many watchers are sent the same events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchResponse {
    pub header: Option<ResponseHeader>,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: String,
    pub fragment: bool,
    pub events: Vec<Event>,
    /// Each a number of whole fields as [`encode_event`] writes them. Always empty in a message that was received.
    pub encoded_events: Vec<Bytes>,
}

/// Appends an event as the field of a response.
pub(crate) fn encode_event(event: &Event, buffer: &mut impl BufMut) {
    message::encode(EVENTS, event, buffer);
}

impl Message for WatchResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if let Some(header) = &self.header {
            message::encode(1, header, buffer);
        }
        encode_int64(2, self.watch_id, buffer);
        encode_bool(3, self.created, buffer);
        encode_bool(4, self.canceled, buffer);
        encode_int64(5, self.compact_revision, buffer);
        if !self.cancel_reason.is_empty() {
            string::encode(6, &self.cancel_reason, buffer);
        }
        encode_bool(7, self.fragment, buffer);
        message::encode_repeated(EVENTS, &self.events, buffer);
        self.encoded_events.iter().for_each(|events| buffer.put_slice(events));
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => message::merge(wire_type, self.header.get_or_insert_default(), buffer, context),
            2 => int64::merge(wire_type, &mut self.watch_id, buffer, context),
            3 => bool::merge(wire_type, &mut self.created, buffer, context),
            4 => bool::merge(wire_type, &mut self.canceled, buffer, context),
            5 => int64::merge(wire_type, &mut self.compact_revision, buffer, context),
            6 => string::merge(wire_type, &mut self.cancel_reason, buffer, context),
            7 => bool::merge(wire_type, &mut self.fragment, buffer, context),
            EVENTS => message::merge_repeated(wire_type, &mut self.events, buffer, context),
            _ => skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let int64_len = |tag, value: i64| if value == 0 { 0 } else { int64::encoded_len(tag, &value) };
        let bool_len = |tag, value: bool| if value { bool::encoded_len(tag, &value) } else { 0 };
        let reason = &self.cancel_reason;
        self.header.as_ref().map_or(0, |header| message::encoded_len(1, header))
            + int64_len(2, self.watch_id)
            + bool_len(3, self.created)
            + bool_len(4, self.canceled)
            + int64_len(5, self.compact_revision)
            + if reason.is_empty() { 0 } else { string::encoded_len(6, reason) }
            + bool_len(7, self.fragment)
            + message::encoded_len_repeated(EVENTS, &self.events)
            + self.encoded_events.iter().map(Bytes::len).sum::<usize>()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A zero is not written.
fn encode_int64(tag: u32, value: i64, buffer: &mut impl BufMut) {
    if value != 0 {
        int64::encode(tag, &value, buffer);
    }
}

fn encode_bool(tag: u32, value: bool, buffer: &mut impl BufMut) {
    if value {
        bool::encode(tag, &value, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;

    fn event(key: &'static str) -> Event {
        let kv = KeyValue { key: key.into(), value: vec![b'v'; 300].into(), mod_revision: 7, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn response() -> WatchResponse {
        WatchResponse {
            header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 7, raft_term: 3 }),
            watch_id: 300,
            created: true,
            canceled: true,
            compact_revision: 5,
            cancel_reason: "because".to_owned(),
            fragment: true,
            ..WatchResponse::default()
        }
    }

    #[test]
    fn encoded_events_arrive_as_events() {
        let plain = WatchResponse { events: vec![event("a"), event("b")], ..response() };
        let encode = |events: &[Event]| {
            let mut bytes = Vec::new();
            events.iter().for_each(|event| encode_event(event, &mut bytes));
            Bytes::from(bytes)
        };
        let encoded = vec![encode(&[event("a")]), encode(&[event("b")])];
        let spliced = WatchResponse { encoded_events: encoded, ..response() };
        let bytes = spliced.encode_to_vec();
        assert_eq!(bytes.len(), spliced.encoded_len());
        assert_eq!(bytes, plain.encode_to_vec());
        assert_eq!(WatchResponse::decode(&bytes[..]).unwrap(), plain);
    }

    #[test]
    fn the_message_is_the_one_of_the_protocol_file() {
        let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        let pool = prost_reflect::DescriptorPool::decode(&descriptors[..]).unwrap();
        let description = pool.get_message_by_name("etcdserverpb.WatchResponse").unwrap();
        let whole = WatchResponse { events: vec![event("a")], ..response() };
        let dynamic = prost_reflect::DynamicMessage::decode(description, &whole.encode_to_vec()[..]).unwrap();
        assert_eq!(dynamic.unknown_fields().count(), 0, "every field is known under its number");
        assert_eq!(dynamic.fields().count(), 8, "every field of the protocol file is written");
        assert_eq!(WatchResponse::decode(&dynamic.encode_to_vec()[..]).unwrap(), whole);
        assert_eq!(WatchResponse::default().encode_to_vec(), [0_u8; 0]);
    }
}
