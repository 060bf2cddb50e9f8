//! One version of one key, shared by the index, the history and every reader.

use bytes::Bytes;

use super::rows::RowHead;
use crate::{KeyValue, LeaseId, Revision};

/// A change of a key at a revision. Never altered once made; a tombstone has version 0 and no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) value: Value,
    pub(crate) create: Revision,
    /// The revision of the change, and its place among the changes of that revision.
    pub(crate) main: Revision,
    pub(crate) sub: i64,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

/// Where a version's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Here(Bytes),
    /// Only in the row on disk.
    Stored,
}

impl Value {
    pub(crate) fn here(&self) -> Option<&Bytes> {
        match self {
            Self::Here(value) => Some(value),
            Self::Stored => None,
        }
    }
}

impl Record {
    pub(crate) fn tombstone(key: Bytes, main: Revision, sub: i64) -> Self {
        let value = Value::Here(Bytes::new());
        Self { key, value, create: Revision(0), main, sub, version: 0, lease: LeaseId(0) }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub(crate) fn head(&self) -> RowHead<'_> {
        RowHead { key: &self.key, create: self.create, version: self.version, lease: self.lease }
    }

    pub(crate) fn revision_key(&self) -> RevisionKey {
        RevisionKey { main: self.main, sub: self.sub, tombstone: self.is_tombstone() }
    }

    /// Without the value if that is not in memory.
    pub(crate) fn to_key_value(&self) -> KeyValue {
        KeyValue {
            key: self.key.clone(),
            value: self.value.here().cloned().unwrap_or_default(),
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            lease: self.lease,
        }
    }

    /// All but the value.
    pub(super) fn shallow(&self) -> Self {
        let Self { ref key, value: _, create, main, sub, version, lease } = *self;
        Self { key: key.clone(), value: Value::Stored, create, main, sub, version, lease }
    }

    /// Bytes that leave memory with the value, and what goes with it.
    pub(super) fn cost_bytes(&self) -> usize {
        let payload = PAYLOAD_BYTES + self.key.len() + self.value.here().map_or(0, Bytes::len);
        // Allocators round up, by an eighth at most and half of that on average.
        RECORD_BYTES + payload + payload / 16
    }
}

/// About what a record takes besides key and value: itself, its counters, its places in index, history and cache.
const RECORD_BYTES: usize = 200;
/// What surrounds key and value in the log entry, which they are slices of.
const PAYLOAD_BYTES: usize = 64;

/// The key of a record's row in the `key` bucket.
///
/// ```text
/// 0        8   9        17  18
/// | main BE | '_' | sub BE | 't' only for a tombstone |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RevisionKey {
    pub(crate) main: Revision,
    pub(crate) sub: i64,
    pub(crate) tombstone: bool,
}

/// Bytes of a revision without the tombstone mark.
const REVISION_KEY_BYTES: usize = 17;

impl RevisionKey {
    pub(crate) fn of_revision(main: Revision) -> Self {
        Self { main, sub: 0, tombstone: false }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend_from_slice(&self.main.0.to_be_bytes());
        bytes.push(b'_');
        bytes.extend_from_slice(&self.sub.to_be_bytes());
        if self.tombstone {
            bytes.push(b't');
        }
        bytes
    }

    pub(crate) fn encoded_len(self) -> usize {
        REVISION_KEY_BYTES + usize::from(self.tombstone)
    }

    /// `None` when the bytes are not a revision.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let tombstone = match bytes.get(REVISION_KEY_BYTES..)? {
            b"" => false,
            b"t" => true,
            _ => return None,
        };
        if bytes[8] != b'_' {
            return None;
        }
        let number = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self { main: Revision(number(0)?), sub: number(9)?, tombstone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_keys_have_etcds_layout_and_order() {
        let key = RevisionKey { main: Revision(258), sub: 3, tombstone: true };
        assert_eq!(key.encode(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        assert_eq!(RevisionKey::decode(&key.encode()), Some(key));
        assert_eq!(key.encoded_len(), key.encode().len());
        let earlier = RevisionKey { main: Revision(258), sub: 2, tombstone: true };
        assert!(earlier.encode() < key.encode());
        assert_eq!(RevisionKey::decode(b"short"), None);
        assert_eq!(RevisionKey::decode(b"\0\0\0\0\0\0\x01\x02-\0\0\0\0\0\0\0\x03"), None);
        assert_eq!(RevisionKey::decode(b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03x"), None);
    }
}
