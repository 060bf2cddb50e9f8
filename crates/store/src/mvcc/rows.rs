//! The way from a version to its row on disk, for what is no longer in memory.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::record::{Record, RevisionKey, Value};
use crate::proto::mvccpb;
use crate::{KeyValue, LeaseId, Revision, StoreError};

/// Rows of the `key` bucket as they were last committed.
pub(crate) trait Rows: Send + Sync + std::fmt::Debug {
    /// The rows of these versions, in the same order; `None` for one that has been swept.
    fn get(&self, versions: &[RevisionKey]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Lengths of these rows in bytes.
    fn lengths(&self, versions: &[RevisionKey]) -> Result<Vec<Option<usize>>, StoreError>;

    /// Rows in order from a revision on up to another, both included: whole revisions only, `n_max` rows or somewhat more.
    fn scan(&self, from: Revision, to: Revision, n_max: usize) -> Result<Vec<(RevisionKey, Bytes)>, StoreError>;
}

/// A version from its row. `None` when the row makes no sense.
pub(crate) fn decode_record(at: RevisionKey, row: Bytes) -> Option<Record> {
    let kv = mvccpb::KeyValue::decode(row).ok()?;
    if at.tombstone {
        return Some(Record::tombstone(kv.key, at.main, at.sub));
    }
    Some(Record {
        key: kv.key,
        value: Value::Here(kv.value),
        create: Revision(kv.create_revision),
        main: at.main,
        sub: at.sub,
        version: kv.version,
        lease: LeaseId(kv.lease),
    })
}

/// All of a row but its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowHead<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) create: Revision,
    /// 0 for a tombstone, whose row is only its key.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

/// Reads a row without copying anything. `None` where that is not enough, as for a row with fields of a later version.
pub(crate) fn decode_head(mut row: &[u8]) -> Option<RowHead<'_>> {
    let mut head = RowHead { key: &[], create: Revision(0), version: 0, lease: LeaseId(0) };
    while !row.is_empty() {
        let (field, wire_type) = decode_key(&mut row).ok()?;
        let number = decode_varint(&mut row).ok()?;
        match (field, wire_type) {
            (1 | 5, WireType::LengthDelimited) => {
                let (bytes, rest) = row.split_at_checked(usize::try_from(number).ok()?)?;
                row = rest;
                if field == 1 {
                    head.key = bytes;
                }
            }
            (2, WireType::Varint) => head.create = Revision(number.cast_signed()),
            (3, WireType::Varint) => {}
            (4, WireType::Varint) => head.version = number.cast_signed(),
            (6, WireType::Varint) => head.lease = LeaseId(number.cast_signed()),
            _ => return None,
        }
    }
    Some(head)
}

fn value_of(at: RevisionKey, row: Bytes) -> Result<Bytes, StoreError> {
    let record = decode_record(at, row);
    let value = record.and_then(|record| record.value.here().cloned());
    value.ok_or_else(|| StoreError::Fatal(format!("the row of revision {} is damaged", at.main)))
}

/// Reads the values that `records` lack. A version that was compacted meanwhile becomes `None`.
pub(crate) fn with_values(rows: Option<&Arc<dyn Rows>>, records: &mut [Option<Arc<Record>>]) -> Result<(), StoreError> {
    let lacking = |record: &Option<Arc<Record>>| record.as_ref().is_some_and(|record| record.value.here().is_none());
    let wanted: Vec<_> = records.iter().filter(|record| lacking(record)).flatten().map(|r| r.revision_key()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut found = source(rows)?.get(&wanted)?.into_iter();
    for record in records.iter_mut().filter(|record| lacking(record)) {
        let row = found.next().flatten();
        *record = match (row, record.take()) {
            (Some(row), Some(old)) => {
                let value = Value::Here(value_of(old.revision_key(), row)?);
                Some(Arc::new(Record { value, ..old.shallow() }))
            }
            _ => None,
        };
    }
    Ok(())
}

/// Reads the values of `kvs` at the given places. They must not have been swept.
pub(crate) fn fill_in(
    rows: Option<&Arc<dyn Rows>>,
    kvs: &mut [KeyValue],
    missing: &mut Vec<(usize, RevisionKey)>,
) -> Result<(), StoreError> {
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Vec<_> = missing.iter().map(|(_, at)| *at).collect();
    let found = source(rows)?.get(&wanted)?;
    for ((place, at), row) in missing.drain(..).zip(found) {
        let row = row.ok_or_else(|| StoreError::Fatal(format!("the row of revision {} is missing", at.main)))?;
        kvs[place].value = value_of(at, row)?;
    }
    Ok(())
}

fn source(rows: Option<&Arc<dyn Rows>>) -> Result<&Arc<dyn Rows>, StoreError> {
    rows.ok_or_else(|| StoreError::Fatal("a value is neither in memory nor on disk".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_without_its_value_or_not_at_all() {
        let kv = mvccpb::KeyValue {
            key: "key".into(),
            create_revision: 300,
            mod_revision: 301,
            version: 2,
            value: "value".into(),
            lease: -7,
        };
        let row = kv.encode_to_vec();
        let head = RowHead { key: b"key", create: Revision(300), version: 2, lease: LeaseId(-7) };
        assert_eq!(decode_head(&row), Some(head));
        let tombstone = mvccpb::KeyValue { key: "key".into(), ..Default::default() }.encode_to_vec();
        let gone = RowHead { key: b"key", create: Revision(0), version: 0, lease: LeaseId(0) };
        assert_eq!(decode_head(&tombstone), Some(gone));
        assert_eq!(decode_head(&[&row[..], &[0x38, 1]].concat()), None, "a field that nobody knows");
        // Between two fields, the rest may be missing and nobody can tell.
        for cut in [1, 3, 6, 12, row.len() - 1] {
            assert_eq!(decode_head(&row[..cut]), None, "{cut}");
        }
    }
}
