//! What a snapshot archive holds, and making one from a running store.
//!
//! ```text
//! store.db      the store's snapshot, a file as etcdctl saves it
//! pki/NAME      every file of DATA/pki
//! server.json   how the server was started
//! check.json    HashKV of the running store, to compare a restored one with
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::{BoxFuture, ready};
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use serde::{Deserialize, Serialize};
use store::{HashKv, Store};
use tokio::sync::mpsc;

use super::archive::{ArchiveKind, ArchiveWriter, BackupKey, Manifest};
use crate::join::Lineage;

pub(super) const STORE_ENTRY: &str = "store.db";
pub(super) const PKI_PREFIX: &str = "pki/";
pub(super) const SERVER_ENTRY: &str = "server.json";
pub(super) const CHECK_ENTRY: &str = "check.json";
/// Chunks made ahead of whoever writes them.
const CHUNKS_AHEAD: usize = 8;

/// How the server was started, so that whoever restores can start it in the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerInfo {
    /// Arguments after `quarterdeck`, without those that let it join.
    pub arguments: Vec<String>,
    /// What the server's cluster was itself restored from.
    #[serde(default, rename = "restoredFrom")]
    pub lineage: Lineage,
}

impl ServerInfo {
    /// Of a server with these arguments. Who joins with a token is let in once; it is nobody else's to know.
    pub(crate) fn of(arguments: impl IntoIterator<Item = String>, lineage: Lineage) -> Self {
        let mut kept = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.split_once('=').map_or(argument.as_str(), |(flag, _)| flag) {
                "--join" | "--token" => {
                    if !argument.contains('=') {
                        arguments.next();
                    }
                }
                _ => kept.push(argument),
            }
        }
        Self { arguments: kept, lineage }
    }
}

/// The running store's checksum at the revision of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    pub revision: i64,
    pub compact_revision: i64,
    pub hash: u32,
}

/// Where the contents of a snapshot archive come from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub store: Arc<dyn Store>,
    /// Not there for a server that keeps nothing.
    pub pki_dir: Option<PathBuf>,
    pub server: ServerInfo,
}

/// An archive while it is made.
#[derive(Debug)]
pub(crate) struct Making {
    pub manifest: Manifest,
    pub chunks: mpsc::Receiver<Result<Vec<u8>>>,
}

impl Source {
    /// Begins a snapshot archive: sealed with `key`, or readable by anyone. `bandwidth` bounds how fast it is made, in bytes
    /// per second; writers of the store are never held up.
    pub(crate) async fn snapshot(&self, key: Option<BackupKey>, bandwidth: Option<u64>) -> Result<Making> {
        let status = self.store.status().await.context("the store")?;
        let revision = self.store.current_revision().await.context("the store")?;
        let manifest = Manifest {
            kind: ArchiveKind::Snapshot,
            created: jiff::Timestamp::now().round(jiff::Unit::Second).context("the time")?.to_string(),
            writer: env!("CARGO_PKG_VERSION").into(),
            cluster_id: format!("{:016x}", status.cluster_id),
            revision: revision.0,
            from_revision: None,
        };
        let files = self.files()?;
        let mut snapshot = self.store.snapshot().await.context("the store's snapshot")?;
        let sum = match snapshot.hash_kv.take() {
            Some(told) => told.map_err(anyhow::Error::from).boxed(),
            None => ready(self.store.hash_kv(revision).await.map_err(anyhow::Error::from)).boxed(),
        };
        let contents = Contents { snapshot, files, sum };
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (writer, header) = ArchiveWriter::new(&manifest, key.as_ref(), rand::random());
        let making = async move {
            let mut throttle = Throttle::new(bandwidth);
            if let Err(error) = make(writer, header, contents, &sender, &mut throttle).await {
                let _nobody_listens = sender.send(Err(error)).await;
            }
        };
        // Sealing is work for a processor, which is not to be taken from requests.
        let runtime = tokio::runtime::Handle::current();
        store::spawn_background("backup", move || runtime.block_on(making))?;
        Ok(Making { manifest, chunks })
    }

    /// Name and bytes of everything beside the store.
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        if let Some(dir) = &self.pki_dir {
            let read = || -> std::io::Result<Vec<(String, Vec<u8>)>> {
                let mut found = Vec::new();
                for entry in std::fs::read_dir(dir)? {
                    let entry = entry?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if entry.file_type()?.is_file() && !name.ends_with(".tmp") {
                        found.push((format!("{PKI_PREFIX}{name}"), std::fs::read(entry.path())?));
                    }
                }
                Ok(found)
            };
            files = read().with_context(|| format!("cannot read {}", dir.display()))?;
        }
        files.push((SERVER_ENTRY.to_owned(), serde_json::to_vec(&self.server)?));
        files.sort();
        Ok(files)
    }
}

/// The receiver hung up; its own error says why.
fn hung_up<T>(_: mpsc::error::SendError<T>) -> anyhow::Error {
    anyhow::anyhow!("the backup was given up")
}

/// What goes into an archive, in this order.
struct Contents {
    snapshot: store::Snapshot,
    files: Vec<(String, Vec<u8>)>,
    /// HashKV of the snapshot; may only be known when that has passed.
    sum: BoxFuture<'static, Result<HashKv>>,
}

async fn make(
    mut writer: ArchiveWriter,
    header: Vec<u8>,
    contents: Contents,
    out: &mpsc::Sender<Result<Vec<u8>>>,
    throttle: &mut Throttle,
) -> Result<()> {
    let Contents { mut snapshot, mut files, sum } = contents;
    out.send(Ok(header)).await.map_err(hung_up)?;
    writer.begin_entry(STORE_ENTRY, snapshot.size_bytes);
    while let Some(chunk) = snapshot.chunks.next().await {
        let chunk = chunk.context("the store's snapshot")?;
        throttle.pass(chunk.len() as u64).await;
        let frames = writer.write(&chunk);
        if !frames.is_empty() {
            out.send(Ok(frames)).await.map_err(hung_up)?;
        }
    }
    let HashKv { hash, compact_revision, hash_revision } = sum.await.context("the store's checksum")?;
    let check = Check { revision: hash_revision.0, compact_revision: compact_revision.0, hash };
    files.push((CHECK_ENTRY.to_owned(), serde_json::to_vec(&check)?));
    for (name, bytes) in files {
        writer.begin_entry(&name, bytes.len() as u64);
        let frames = writer.write(&bytes);
        if !frames.is_empty() {
            out.send(Ok(frames)).await.map_err(hung_up)?;
        }
    }
    out.send(Ok(writer.finish())).await.map_err(hung_up)
}

/// Lets at most so many bytes per second pass, over the whole time since it was made.
struct Throttle {
    bytes_per_second: Option<u64>,
    started: Instant,
    passed: u64,
}

impl Throttle {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, started: Instant::now(), passed: 0 }
    }

    async fn pass(&mut self, n_bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        self.passed += n_bytes;
        let due = Duration::from_secs_f64(self.passed as f64 / rate as f64);
        let early = due.saturating_sub(self.started.elapsed());
        if early > Duration::from_millis(5) {
            tokio::time::sleep(early).await;
        }
    }
}
