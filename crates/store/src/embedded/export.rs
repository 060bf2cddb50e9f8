//! The whole keyspace at one revision: its checksum, and as a snapshot file.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::EmbeddedStore;
use crate::backend::{Bucket, Row, alarm_row, initial_rows, lease_row, progress_rows, rows_of, stored_key_value};
use crate::machine::Write;
use crate::mvcc::{CHUNK_KEYS_MAX, Record};
use crate::{HashKv, Revision, Snapshot, StoreError, bolt};

impl EmbeddedStore {
    /// etcd's HashKV: the name of the bucket, then the rows in order of revision.
    pub(super) async fn hash(&self, revision: Revision) -> Result<HashKv, StoreError> {
        let (records, hash_revision, compact_revision) = self.records_at(revision).await?;
        let hash = tokio::task::spawn_blocking(move || hash_of(&records, compact_revision)).await;
        let hash = hash.map_err(|error| StoreError::Fatal(format!("hash: {error}")))?;
        Ok(HashKv { hash, compact_revision, hash_revision })
    }

    /// An etcd snapshot file of the newest revision.
    pub(super) async fn take_snapshot(&self) -> Result<Snapshot, StoreError> {
        self.raft.read_index().await?;
        let mut rows;
        {
            let machine = self.machine.read();
            rows = initial_rows(&machine.membership);
            rows.extend(progress_rows(machine.applied.0, machine.applied.1));
            rows.extend(machine.lessor.stored().map(lease_row));
            rows.extend(machine.alarms.iter().copied().map(alarm_row));
        }
        let (records, _revision, compacted) = self.records_at(Revision(0)).await?;
        if compacted > Revision(0) {
            rows.push(rows_of(&Write::CompactionScheduled(compacted)));
            rows.push(rows_of(&Write::CompactionFinished(compacted)));
        }
        // The first pass over the lengths reads every record.
        let planned = tokio::task::spawn_blocking(move || bolt::Writer::plan(buckets(rows, records)));
        let writer = planned.await.map_err(|error| StoreError::Fatal(format!("snapshot: {error}")))??;
        Ok(writer.into_snapshot())
    }

    /// Every version that is kept up to a revision (0: the newest), in order of revision; that revision; the compacted one.
    async fn records_at(&self, revision: Revision) -> Result<(Vec<Arc<Record>>, Revision, Revision), StoreError> {
        let (revision, compacted, _pin) = {
            let machine = self.machine.read();
            let revision = machine.keyspace.readable(revision)?;
            (revision, machine.keyspace.compacted(), self.pins.pin(machine.keyspace.compacted().max(Revision(0))))
        };
        let mut records = Vec::new();
        let mut next = Some(Bytes::new());
        while let Some(start) = next {
            next = self.machine.read().keyspace.collect_kept(&start, CHUNK_KEYS_MAX, revision, compacted, &mut records);
            tokio::task::yield_now().await;
        }
        records.sort_unstable_by_key(|record| (record.main, record.sub));
        Ok((records, revision, compacted))
    }
}

/// Of the rows at or before the compacted revision, only those that are still the newest of their key count, and a tombstone at
/// that revision never does: not all versions of etcd keep the others.
pub(crate) fn hash_of(records: &[Arc<Record>], compact_revision: Revision) -> u32 {
    let mut newest: HashMap<&Bytes, &Arc<Record>> = HashMap::new();
    for record in records {
        newest.insert(&record.key, record);
    }
    let n_existing = newest.values().filter(|record| !record.is_tombstone()).count();
    let is_skipped = |record: &Arc<Record>| {
        let is_superseded = record.is_tombstone() || newest.get(&record.key) != Some(&record);
        (record.main <= compact_revision && is_superseded && n_existing > 0)
            || (record.main == compact_revision && record.is_tombstone())
    };
    let mut hash = crc32c::crc32c(Bucket::Key.name().as_bytes());
    for record in records.iter().filter(|record| !is_skipped(record)) {
        hash = crc32c::crc32c_append(hash, &record.revision_key().encode());
        hash = crc32c::crc32c_append(hash, &stored_key_value(record).encode_to_vec());
    }
    hash
}

/// The rows by bucket, each sorted, the records already in the order of their rows.
fn buckets(mut rows: Vec<Row>, records: Vec<Arc<Record>>) -> Vec<bolt::Bucket> {
    rows.sort_by(|a, b| (a.bucket, &a.key).cmp(&(b.bucket, &b.key)));
    let small = |bucket: Bucket| {
        let rows = rows.iter().filter(|row| row.bucket == bucket);
        let rows = rows.map(|row| (row.key.clone().into(), row.value.clone().unwrap_or_default().into()));
        bolt::Bucket::of(bucket.name(), rows.collect())
    };
    let mut buckets: Vec<_> = Bucket::ALL.into_iter().filter(|bucket| *bucket != Bucket::Key).map(small).collect();
    buckets.extend(Bucket::EMPTY.map(|name| bolt::Bucket::of(name, Vec::new())));
    let records: Arc<[_]> = records.into();
    let again = records.clone();
    let lengths = (0..records.len()).map(move |at| {
        let record = &records[at];
        Ok((record.revision_key().encode().len(), stored_key_value(record).encoded_len()))
    });
    let rows = (0..again.len()).map(move |at| {
        let record = &again[at];
        Ok((record.revision_key().encode().into(), stored_key_value(record).encode_to_vec().into()))
    });
    buckets.push(bolt::Bucket { name: Bucket::Key.name(), lengths: Box::new(lengths), rows: Box::new(rows) });
    buckets
}
