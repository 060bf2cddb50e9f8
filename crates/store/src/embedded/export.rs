//! The whole keyspace at one revision: its checksum, and as a snapshot file.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use super::EmbeddedStore;
use crate::backend::{
    Bucket, COMPACTION_FINISHED, COMPACTION_SCHEDULED, CONSISTENT_INDEX, Row, STORAGE_VERSION, TERM, alarm_row,
    auth_row, downgrade_row, encode_versions, initial_rows, lease_row, progress_rows, row_lengths, rows_of,
};
use crate::background::{give_way, in_background};
use crate::machine::{Machine, Write};
use crate::mvcc::{CHUNK_KEYS_MAX, Kept, Keyspace, Rows};
use crate::pins::{Pin, Pins};
use crate::{Hash, HashKv, Revision, Snapshot, StoreError, bolt};

/// Rows of the `meta` bucket that are about the member, not about the data.
const IGNORED_IN_HASH: [&[u8]; 3] = [CONSISTENT_INDEX, TERM, STORAGE_VERSION];

/// Rows read from disk at a time; with large ones a millisecond's work.
const BATCH_ROWS: usize = 32;

impl EmbeddedStore {
    /// etcd's HashKV: the name of the bucket, then the rows in order of revision.
    pub(super) async fn hash_at(&self, revision: Revision) -> Result<HashKv, StoreError> {
        let _observed_when_dropped = self.metrics.hash_at.start_timer();
        hash_at(&self.machine, &self.pins, revision).await
    }

    /// An etcd snapshot file of the newest revision.
    pub(super) async fn take_snapshot(&self) -> Result<Snapshot, StoreError> {
        let _observed_when_dropped = self.metrics.snapshot.start_timer();
        let (rows, versions) = self.everything().await?;
        let (sum, hash_kv) = oneshot::channel();
        // The first pass looks at the length of every row.
        let plan = move || bolt::Writer::plan(buckets(rows, Arc::new(versions), Some(sum)));
        let writer = in_background("snapshot", plan).await??;
        Ok(Snapshot { hash_kv: Some(hash_kv), ..writer.into_snapshot() })
    }

    /// etcd's Hash: every bucket's name and rows, but for what differs between members anyway.
    pub(super) async fn hash_all(&self) -> Result<Hash, StoreError> {
        let _observed_when_dropped = self.metrics.hash.start_timer();
        let (mut rows, versions) = self.everything().await?;
        let revision = versions.revision;
        rows.retain(|row| row.bucket != Bucket::Meta || !IGNORED_IN_HASH.contains(&row.key.as_slice()));
        let hash = in_background("hash", move || {
            let mut buckets = buckets(rows, Arc::new(versions), None);
            buckets.sort_by_key(|bucket| bucket.name);
            let mut hash = 0;
            for bucket in buckets {
                hash = crc32c::crc32c_append(hash, bucket.name.as_bytes());
                for row in bucket.rows {
                    let (key, value) = row?;
                    hash = crc32c::crc32c_append(hash, &key);
                    hash = crc32c::crc32c_append(hash, &value);
                }
            }
            Ok::<_, StoreError>(hash)
        });
        let hash = hash.await??;
        Ok(Hash { hash, revision })
    }

    /// All small rows, and all versions up to the newest revision.
    async fn everything(&self) -> Result<(Vec<Row>, Versions), StoreError> {
        self.confirm_read().await?;
        let mut rows = small_rows(&self.machine.read());
        let versions = versions_at(&self.machine, &self.pins, Revision(0)).await?;
        // It may have been compacted meanwhile.
        rows.retain(|row| !is_compaction(row));
        rows.extend(compaction_rows(versions.compacted));
        Ok((rows, versions))
    }
}

/// etcd's HashKV, for whoever asks: a client or another member.
pub(super) async fn hash_at(
    machine: &RwLock<Machine>,
    pins: &Arc<Pins>,
    revision: Revision,
) -> Result<HashKv, StoreError> {
    let versions = versions_at(machine, pins, revision).await?;
    in_background("hash", move || versions.hash()).await?
}

async fn versions_at(machine: &RwLock<Machine>, pins: &Arc<Pins>, revision: Revision) -> Result<Versions, StoreError> {
    let (mut versions, pin) = {
        let machine = machine.read();
        let versions = Versions::empty(&machine.keyspace, revision)?;
        let pin = pins.pin(machine.keyspace.compacted().max(Revision(0)));
        (versions, pin)
    };
    versions.pin = Some(pin);
    let mut next = Some(Bytes::new());
    while let Some(start) = next {
        next = versions.collect(&machine.read().keyspace, &start, CHUNK_KEYS_MAX);
        tokio::task::yield_now().await;
    }
    versions.sort();
    Ok(versions)
}

/// All rows but those of the `key` bucket.
pub(crate) fn small_rows(machine: &Machine) -> Vec<Row> {
    let mut rows = initial_rows(&machine.membership);
    rows.extend(progress_rows(machine.applied.0, machine.applied.1));
    rows.extend(machine.lessor.stored().map(lease_row));
    rows.extend(machine.alarms.iter().copied().map(alarm_row));
    rows.extend(machine.auth.stored().iter().map(auth_row));
    rows.extend(machine.downgrade.as_deref().map(|target| downgrade_row(Some(target))));
    rows.extend(compaction_rows(machine.keyspace.compacted()));
    rows
}

fn compaction_rows(compacted: Revision) -> Vec<Row> {
    if compacted <= Revision(0) {
        return Vec::new();
    }
    [Write::CompactionScheduled(compacted), Write::CompactionFinished(compacted)].iter().map(rows_of).collect()
}

fn is_compaction(row: &Row) -> bool {
    row.bucket == Bucket::Meta && (row.key == COMPACTION_SCHEDULED || row.key == COMPACTION_FINISHED)
}

/// Every version that is kept up to a revision, in order of revision. The values stay where they are until they are asked for.
#[derive(Debug)]
pub(crate) struct Versions {
    kept: Vec<Kept>,
    revision: Revision,
    compacted: Revision,
    rows: Option<Arc<dyn Rows>>,
    /// Keeps the rows from being swept.
    pin: Option<Pin>,
}

impl Versions {
    /// Of a keyspace that does not change meanwhile; 0 is the newest revision.
    pub(crate) fn of(keyspace: &Keyspace, revision: Revision) -> Result<Self, StoreError> {
        let mut versions = Self::empty(keyspace, revision)?;
        let _no_rest = versions.collect(keyspace, &Bytes::new(), usize::MAX);
        versions.sort();
        Ok(versions)
    }

    fn empty(keyspace: &Keyspace, revision: Revision) -> Result<Self, StoreError> {
        let revision = keyspace.readable(revision)?;
        let rows = keyspace.cache().rows().cloned();
        Ok(Self { kept: Vec::new(), revision, compacted: keyspace.compacted(), rows, pin: None })
    }

    fn collect(&mut self, keyspace: &Keyspace, start: &Bytes, n_keys_max: usize) -> Option<Bytes> {
        keyspace.collect_kept(start, n_keys_max, self.revision, self.compacted, &mut self.kept)
    }

    fn sort(&mut self) {
        self.kept.sort_unstable_by_key(|version| (version.at.main, version.at.sub));
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// etcd's HashKV.
    pub(crate) fn hash(&self) -> Result<HashKv, StoreError> {
        let mut sum = Sum::of(self);
        for batch in self.kept.chunks(BATCH_ROWS) {
            give_way();
            for (version, row) in batch.iter().zip(encode_versions(batch, self.rows.as_ref())?) {
                sum.add(version, &row);
            }
        }
        Ok(sum.hash_kv)
    }

    /// All rows, read as they are asked for. After the last one their HashKV is sent to whoever wants to know it.
    fn stream(
        self: Arc<Self>,
        summed: Option<oneshot::Sender<HashKv>>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + Send {
        let mut summed = summed.map(|summed| (Sum::of(&self), summed));
        let n_batches = self.n_batches();
        // One more, so that a keyspace without rows has its sum, too.
        (0..=n_batches).flat_map(move |batch| {
            let versions = self.batch(batch);
            let rows = match encode_versions(versions, self.rows.as_ref()) {
                Ok(rows) => rows,
                Err(error) => return vec![Err(error)],
            };
            give_way();
            if let Some((sum, _)) = &mut summed {
                versions.iter().zip(&rows).for_each(|(version, row)| sum.add(version, row));
            }
            if batch == n_batches
                && let Some((sum, receiver)) = summed.take()
            {
                let _nobody_asks = receiver.send(sum.hash_kv);
            }
            let keys = versions.iter().map(|version| version.at.encode().into());
            keys.zip(rows).map(Ok).collect()
        })
    }

    fn n_batches(&self) -> usize {
        self.kept.len().div_ceil(BATCH_ROWS)
    }

    /// Nothing beyond the last one.
    fn batch(&self, batch: usize) -> &[Kept] {
        self.kept.chunks(BATCH_ROWS).nth(batch).unwrap_or(&[])
    }

    /// Key and value lengths of the rows.
    fn lengths(self: Arc<Self>) -> impl Iterator<Item = Result<(usize, usize), StoreError>> + Send {
        (0..self.n_batches()).flat_map(move |batch| {
            let versions = self.batch(batch);
            give_way();
            match row_lengths(versions, self.rows.as_ref()) {
                Ok(rows) => versions.iter().map(|version| version.at.encoded_len()).zip(rows).map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }
}

/// etcd's HashKV while the rows pass. Of those at or before the compacted revision, only those count that are still the newest of
/// their key, and a tombstone at that revision never does: not all versions of etcd keep the others.
struct Sum {
    hash_kv: HashKv,
    has_existing: bool,
}

impl Sum {
    fn of(versions: &Versions) -> Self {
        let hash = crc32c::crc32c(Bucket::Key.name().as_bytes());
        let has_existing = versions.kept.iter().any(|version| version.is_newest && !version.at.tombstone);
        let hash_kv = HashKv { hash, compact_revision: versions.compacted, hash_revision: versions.revision };
        Self { hash_kv, has_existing }
    }

    fn add(&mut self, version: &Kept, row: &[u8]) {
        let at = version.at;
        let compacted = self.hash_kv.compact_revision;
        let is_superseded = at.tombstone || !version.is_newest;
        let is_skipped =
            (at.main <= compacted && is_superseded && self.has_existing) || (at.main == compacted && at.tombstone);
        if !is_skipped {
            let hash = crc32c::crc32c_append(self.hash_kv.hash, &at.encode());
            self.hash_kv.hash = crc32c::crc32c_append(hash, row);
        }
    }
}

/// The rows by bucket, each sorted, the versions already in the order of their rows. Their HashKV is sent to `summed` when they
/// have passed.
pub(crate) fn buckets(
    mut rows: Vec<Row>,
    versions: Arc<Versions>,
    summed: Option<oneshot::Sender<HashKv>>,
) -> Vec<bolt::Bucket> {
    rows.sort_by(|a, b| (a.bucket, &a.key).cmp(&(b.bucket, &b.key)));
    let small = |bucket: Bucket| {
        let rows = rows.iter().filter(|row| row.bucket == bucket);
        let rows = rows.map(|row| (row.key.clone().into(), row.value.clone().unwrap_or_default().into()));
        bolt::Bucket::of(bucket.name(), rows.collect())
    };
    let mut buckets: Vec<_> = Bucket::ALL.into_iter().filter(|bucket| *bucket != Bucket::Key).map(small).collect();
    let lengths = versions.clone().lengths();
    let rows = versions.stream(summed);
    buckets.push(bolt::Bucket { name: Bucket::Key.name(), lengths: Box::new(lengths), rows: Box::new(rows) });
    buckets
}
