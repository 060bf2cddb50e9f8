//! The way from a version to its row on disk, for what is no longer in memory.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::record::{Record, RevisionKey, Value};
use crate::proto::mvccpb;
use crate::{KeyValue, LeaseId, Revision, StoreError};

/// Rows of the `key` bucket as they were last committed.
pub(crate) trait Rows: Send + Sync + std::fmt::Debug {
    /// The rows of these versions, in the same order; `None` for one that has been swept.
    fn get(&self, versions: &[RevisionKey]) -> Result<Vec<Option<Bytes>>, StoreError>;

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
