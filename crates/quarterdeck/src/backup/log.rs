//! What a log archive holds: the changes between snapshots, revision by revision, each with the time it was seen. Pure.
//!
//! ```text
//! revision  revision i64 | milliseconds since 1970 i64 | number of events u32 | events
//! put       0 u8 | key | value | create revision i64 | version i64 | lease i64        key, value: length u32 | bytes
//! delete    1 u8 | key
//! ```
//!
//! Numbers are big-endian. Revisions ascend without gaps: a revision that changed nothing does not exist in the store.

use bytes::{Buf as _, BufMut as _, Bytes};
use store::{EventKind, KeyValue, LeaseId, Revision, WatchEvent};

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoggedRevision {
    pub revision: Revision,
    /// When the backup saw it: at most the log's interval after it was written, and never before.
    pub unix_ms: i64,
    pub events: Vec<WatchEvent>,
}

/// A segment is damaged although its seal is right: it was written by something else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log segment is malformed")]
pub(crate) struct MalformedLog;

/// Appends the events of a watch batch, which may span several revisions.
pub(crate) fn encode(events: &[WatchEvent], unix_ms: i64, out: &mut Vec<u8>) {
    for events in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
        out.put_i64(events[0].kv.mod_revision.0);
        out.put_i64(unix_ms);
        out.put_u32(events.len() as u32);
        for event in events {
            let kv = &event.kv;
            match event.kind {
                EventKind::Put => {
                    out.put_u8(0);
                    put_bytes(out, &kv.key);
                    put_bytes(out, &kv.value);
                    out.put_i64(kv.create_revision.0);
                    out.put_i64(kv.version);
                    out.put_i64(kv.lease.0);
                }
                EventKind::Delete => {
                    out.put_u8(1);
                    put_bytes(out, &kv.key);
                }
            }
        }
    }
}

/// Everything in a segment, in order.
pub(crate) fn decode(mut text: Bytes) -> Result<Vec<LoggedRevision>, MalformedLog> {
    let mut revisions: Vec<LoggedRevision> = Vec::new();
    while text.has_remaining() {
        let revision = Revision(text.try_get_i64().map_err(|_| MalformedLog)?);
        let unix_ms = text.try_get_i64().map_err(|_| MalformedLog)?;
        let n_events = text.try_get_u32().map_err(|_| MalformedLog)?;
        if revisions.last().is_some_and(|last| last.revision >= revision) {
            return Err(MalformedLog);
        }
        let mut events = Vec::new();
        for _ in 0..n_events {
            events.push(decode_event(&mut text, revision)?);
        }
        revisions.push(LoggedRevision { revision, unix_ms, events });
    }
    Ok(revisions)
}

fn decode_event(text: &mut Bytes, revision: Revision) -> Result<WatchEvent, MalformedLog> {
    let kind = match text.try_get_u8().map_err(|_| MalformedLog)? {
        0 => EventKind::Put,
        1 => EventKind::Delete,
        _ => return Err(MalformedLog),
    };
    let mut kv = KeyValue { key: take_bytes(text)?, mod_revision: revision, ..KeyValue::default() };
    if kind == EventKind::Put {
        kv.value = take_bytes(text)?;
        let mut number = || text.try_get_i64().map_err(|_| MalformedLog);
        kv.create_revision = Revision(number()?);
        kv.version = number()?;
        kv.lease = LeaseId(number()?);
    }
    Ok(WatchEvent { kind, kv, prev_kv: None })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_bytes(text: &mut Bytes) -> Result<Bytes, MalformedLog> {
    let len = text.try_get_u32().map_err(|_| MalformedLog)? as usize;
    if len > text.remaining() {
        return Err(MalformedLog);
    }
    Ok(text.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, revision: i64) -> WatchEvent {
        let kv = KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(b"v"),
            create_revision: Revision(2),
            mod_revision: Revision(revision),
            version: 3,
            lease: LeaseId(7),
        };
        WatchEvent { kind: EventKind::Put, kv, prev_kv: None }
    }

    fn delete(key: &'static str, revision: i64) -> WatchEvent {
        let kv = KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            mod_revision: Revision(revision),
            ..Default::default()
        };
        WatchEvent { kind: EventKind::Delete, kv, prev_kv: None }
    }

    #[test]
    fn events_come_back_by_revision() {
        let mut text = Vec::new();
        encode(&[put("a", 5), delete("b", 5), put("a", 6)], 1_000, &mut text);
        encode(&[delete("a", 7)], 2_000, &mut text);
        let wanted = vec![
            LoggedRevision { revision: Revision(5), unix_ms: 1_000, events: vec![put("a", 5), delete("b", 5)] },
            LoggedRevision { revision: Revision(6), unix_ms: 1_000, events: vec![put("a", 6)] },
            LoggedRevision { revision: Revision(7), unix_ms: 2_000, events: vec![delete("a", 7)] },
        ];
        assert_eq!(decode(text.into()).unwrap(), wanted);
    }

    #[test]
    fn a_cut_or_disordered_segment_is_an_error() {
        let mut text = Vec::new();
        encode(&[put("a", 5), put("b", 6)], 1_000, &mut text);
        let whole = decode(text.clone().into()).unwrap().len();
        assert_eq!(whole, 2);
        for len in 1..text.len() {
            let decoded = decode(Bytes::copy_from_slice(&text[..len]));
            assert!(decoded.is_err() || decoded.unwrap().len() == 1, "cut to {len}");
        }
        let mut disordered = Vec::new();
        encode(&[put("a", 6), put("b", 5)], 1_000, &mut disordered);
        assert_eq!(decode(disordered.into()), Err(MalformedLog));
    }
}
