//! What a snapshot file holds, in etcd's figures.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::OfflineError;
use crate::backend::{Bucket, STORAGE_VERSION};
use crate::bolt::Reader;
use crate::mvcc::RevisionKey;
use crate::proto::mvccpb;

/// etcdutl's `snapshot status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// CRC-32C over names, keys and values of all buckets.
    pub hash: u32,
    /// The newest one with a row.
    pub revision: i64,
    /// Keys that exist at that revision.
    pub total_keys: u64,
    /// Bytes of the database, without the trailer.
    pub total_bytes: u64,
    /// The version of the stored data; empty before etcd 3.6.
    pub version: String,
}

/// Reads all of a snapshot file, or of etcd's database file; every row must be readable.
pub fn snapshot_status(path: &Path) -> Result<SnapshotStatus, OfflineError> {
    let reader = Reader::open_any(path)?;
    let mut hash = 0;
    let mut revision = 0;
    let mut version = String::new();
    let mut existing: HashSet<Bytes> = HashSet::new();
    for name in reader.buckets()? {
        hash = crc32c::crc32c_append(hash, &name);
        let Ok(text) = std::str::from_utf8(&name) else {
            return Err(OfflineError::Data(format!("bucket name {name:?} is not text")));
        };
        let rows = reader.bucket(text)?;
        for row in rows.into_iter().flatten() {
            let (key, value) = row?;
            hash = crc32c::crc32c_append(hash, &key);
            hash = crc32c::crc32c_append(hash, &value);
            if text == Bucket::Meta.name() && key == STORAGE_VERSION {
                version = String::from_utf8_lossy(&value).into_owned();
            }
            if text != Bucket::Key.name() {
                continue;
            }
            let damaged = || OfflineError::Data(format!("bucket key has a damaged row {key:02x?}"));
            let at = RevisionKey::decode(&key).ok_or_else(damaged)?;
            let kv = mvccpb::KeyValue::decode(value).map_err(|_| damaged())?;
            revision = at.main.0;
            if at.tombstone {
                existing.remove(&kv.key);
            } else {
                // Its own copy: a slice would keep a whole page alive.
                existing.insert(Bytes::copy_from_slice(&kv.key));
            }
        }
    }
    let total_keys = existing.len() as u64;
    Ok(SnapshotStatus { hash, revision, total_keys, total_bytes: reader.size_bytes(), version })
}
