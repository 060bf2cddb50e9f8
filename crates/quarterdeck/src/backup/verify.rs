//! Whether a backup is one: read to the end, and restored for a trial.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use store::offline;
use store::{EmbeddedConfig, EmbeddedStore, KeyRange, KeyValue, RangeRequest, Revision, Store as _};

use super::archive::{ArchiveKind, ArchiveReader, BackupKey, Manifest};
use super::contents::STORE_ENTRY;
use super::restore::{Moment, RestoreRequest, restore};

/// Keys read at a time.
const PAGE_KEYS: usize = 1_000;
/// The mark of upstream's binary encoding.
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";

/// What a check found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verified {
    pub backup: String,
    pub revision: i64,
    pub total_keys: u64,
    pub encrypted: bool,
    /// Restored for a trial.
    pub drilled: bool,
    /// Objects found in the restored store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// HashKV of the restored store, the same as that of the store that was backed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<u32>,
}

/// Reads all of a snapshot archive: every seal, every page of the store's snapshot.
pub(crate) fn verify(path: &Path, shown: &str, key: Option<&BackupKey>) -> Result<Verified> {
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let encrypted = super::read_manifest(&file).map(|(_, encrypted)| encrypted).unwrap_or(false);
    let scratch = tempfile::tempdir().context("a scratch directory")?;
    let (database, manifest) = match ArchiveReader::open(std::io::BufReader::new(File::open(path)?), key) {
        Ok(archive) => {
            let database = scratch.path().join(STORE_ENTRY);
            let manifest = unpack(archive, &database)?;
            (database, Some(manifest))
        }
        Err(super::archive::ArchiveError::NotAnArchive) => (path.to_owned(), None),
        Err(error) => return Err(error).with_context(|| shown.to_owned()),
    };
    let status = offline::snapshot_status(&database).with_context(|| shown.to_owned())?;
    if let Some(manifest) = &manifest {
        let (said, has) = (manifest.revision, status.revision);
        ensure!(has >= said, "the backup says that it reaches revision {said}, but it ends at {has}");
    }
    Ok(Verified {
        backup: shown.to_owned(),
        revision: status.revision,
        total_keys: status.total_keys,
        encrypted,
        drilled: false,
        objects: None,
        hash: None,
    })
}

fn unpack<R: std::io::Read>(mut archive: ArchiveReader<R>, database: &Path) -> Result<Manifest> {
    let manifest = archive.manifest().clone();
    ensure!(manifest.kind == ArchiveKind::Snapshot, "this holds the changes between snapshots, not a snapshot");
    while let Some(entry) = archive.next_entry()? {
        if entry.name == STORE_ENTRY {
            let mut file = File::create(database).with_context(|| format!("cannot create {}", database.display()))?;
            archive.copy_entry(&mut file)?;
        }
    }
    ensure!(database.exists(), "the backup holds no store");
    Ok(manifest)
}

/// Restores into a scratch directory, opens the store, reads every object and compares the checksum with the one that the
/// running store had.
pub(crate) async fn drill(path: &Path, key: Option<BackupKey>, verified: &mut Verified) -> Result<()> {
    let scratch = tempfile::tempdir().context("a scratch directory")?;
    let data_dir = scratch.path().join("data");
    let request = RestoreRequest {
        backup: Some(path.to_string_lossy().into_owned()),
        target: None,
        key,
        to: Moment::Newest,
        data_dir: data_dir.clone(),
        bump_revision: 0,
        is_trial: true,
    };
    let restored = restore(request).await?;
    let config = EmbeddedConfig { data_dir: Some(data_dir.join("store")), ..EmbeddedConfig::default() };
    let store =
        tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.context("opening the store")??;
    let examined = examine(&store, &restored).await;
    tokio::task::spawn_blocking(move || store.shutdown()).await.context("closing the store")?;
    let (objects, hash) = examined?;
    verified.drilled = true;
    verified.objects = Some(objects);
    verified.hash = hash;
    Ok(())
}

async fn examine(store: &EmbeddedStore, restored: &super::Restored) -> Result<(u64, Option<u32>)> {
    let mut objects = 0;
    each_object(store, |kv| {
        // Ranges of addresses and ports, and API servers' leases, are kept in forms of their own by some servers.
        if kv.value.starts_with(b"{") || kv.value.starts_with(PROTOBUF_MAGIC) {
            objects += 1;
        }
        if kv.value.starts_with(b"{") {
            serde_json::from_slice::<serde::de::IgnoredAny>(&kv.value)
                .with_context(|| format!("{} is not JSON", String::from_utf8_lossy(&kv.key)))?;
        }
        Ok(())
    })
    .await?;
    let Some(check) = restored.check else { return Ok((objects, None)) };
    let hash = store.hash_kv(Revision(check.revision)).await?;
    // A compaction between the checksum and the snapshot leaves nothing to compare.
    if hash.compact_revision.0 != check.compact_revision {
        return Ok((objects, None));
    }
    let (ours, theirs, revision) = (hash.hash, check.hash, check.revision);
    ensure!(
        ours == theirs,
        "the restored store has hash {ours} at revision {revision}, the one backed up had {theirs}"
    );
    Ok((objects, Some(hash.hash)))
}

/// Shows every key below `/registry/`, in order.
pub(crate) async fn each_object(store: &EmbeddedStore, mut show: impl FnMut(&KeyValue) -> Result<()>) -> Result<()> {
    let everything = KeyRange::prefix(b"/registry/".as_slice());
    let mut next = everything.start;
    loop {
        let range = KeyRange { start: next, end: everything.end.clone() };
        let page = store.range(RangeRequest { range, limit: PAGE_KEYS, ..RangeRequest::default() }).await?;
        page.kvs.iter().try_for_each(&mut show)?;
        let Some(last) = page.kvs.last().filter(|_| page.more) else { return Ok(()) };
        let mut after = last.key.to_vec();
        after.push(0);
        next = after.into();
    }
}
