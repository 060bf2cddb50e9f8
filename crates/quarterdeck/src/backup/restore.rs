//! From a backup to a data directory: a snapshot, and the changes after it up to a moment.
//!
//! The directory is made beside its place and renamed when it is whole, so a restore that is killed leaves nothing that a server
//! would start on.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use store::offline::{self, OfflineError, Replay};
use store::{Revision, WatchEvent};
use tempfile::TempDir;

use super::archive::{ArchiveKind, ArchiveReader, BackupKey, is_archive};
use super::catalog::{self, Listed};
use super::contents::{CHECK_ENTRY, Check, PKI_PREFIX, SERVER_ENTRY, STORE_ENTRY, ServerInfo};
use super::log::{self, LoggedRevision};
use super::target::Target;
use crate::join::Lineage;

/// Entries other than the store: certificates and a few lines of JSON.
const SMALL_ENTRY_BYTES_MAX: usize = 1 << 20;
/// A log archive's text; the writer ships at a fraction of this.
const LOG_BYTES_MAX: usize = 256 << 20;
/// What a store is called before it is told better; the binary gives its members their names at every start.
const MEMBER_NAME: &str = "quarterdeck";
const MEMBER_URL: &str = "http://localhost:2380";
/// A restore works in a directory with such a name, beside its place, and holds the directory's lock.
const SCRATCH: &str = ".quarterdeck-restore-";
/// Where masters compete for being the one that acts. Nobody holds anything in a cluster that has just been restored.
const ELECTIONS: &[u8] = b"/registry/leases/kube-system/kube-";
/// API servers that are alive; none is.
const ALIVE: &[u8] = b"/registry/masterleases/";

/// A point in history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Newest,
    Revision(i64),
    Time(Timestamp),
}

impl Moment {
    /// A revision when it is a number, else a time as of RFC 3339.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Ok(revision) = text.parse() {
            return Ok(Self::Revision(revision));
        }
        let time = text
            .parse()
            .with_context(|| format!("{text:?} is neither a revision nor a time like 2026-01-02T03:04:05Z"));
        time.map(Self::Time)
    }

    fn includes(self, logged: &LoggedRevision) -> bool {
        match self {
            Self::Newest => true,
            Self::Revision(revision) => logged.revision.0 <= revision,
            Self::Time(time) => logged.unix_ms <= time.as_millisecond(),
        }
    }

    fn has_snapshot(self, snapshot: &Listed) -> bool {
        match self {
            Self::Newest => true,
            Self::Revision(revision) => snapshot.to <= revision,
            Self::Time(time) => snapshot.time <= time,
        }
    }
}

#[derive(Debug)]
pub(crate) struct RestoreRequest {
    /// A file, or a name in the target; the newest fitting snapshot if not given.
    pub backup: Option<String>,
    pub target: Option<Target>,
    pub key: Option<BackupKey>,
    pub to: Moment,
    pub data_dir: PathBuf,
    pub bump_revision: u64,
    /// Keep what says who leads and lives, so that the data are exactly those of the backup: for trials.
    pub is_trial: bool,
}

/// What a restore made.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub snapshot: String,
    /// Archives with changes that were replayed.
    pub n_logs: usize,
    /// Revision of the data, before the jump ahead.
    pub revision: i64,
    pub server: Option<ServerInfo>,
    pub check: Option<Check>,
    pub has_pki: bool,
    /// What the restored cluster comes from.
    pub lineage: Lineage,
}

/// Makes the data directory.
pub(crate) async fn restore(request: RestoreRequest) -> Result<Restored> {
    let dir = std::path::absolute(&request.data_dir).context("the data directory's path")?;
    let is_free = match fs::read_dir(&dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    ensure!(is_free, "{} is not empty: a restore makes a new data directory", dir.display());
    let parent = dir.parent().context("the data directory has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    remove_leftovers(parent);
    let (scratch, lock) = scratch_in(parent).with_context(|| format!("cannot write to {}", parent.display()))?;
    let files = fetch(&request, scratch.path()).await?;
    let made = tokio::task::spawn_blocking(move || {
        let restored = make(&request, &files, scratch.path())?;
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(scratch.path().join("data"), &dir),
        }
        .and_then(|()| sync_dir(dir.parent().unwrap_or(&dir)))
        .with_context(|| format!("cannot put {} in place", dir.display()))?;
        drop(lock);
        Ok(restored)
    });
    made.await.context("restoring")?
}

/// A directory to work in, and its lock. It is on the same file system, so that the rename at the end is one step; it is removed when
/// dropped.
fn scratch_in(parent: &Path) -> std::io::Result<(TempDir, File)> {
    loop {
        let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(parent)?;
        // Before it is locked, another restore may take it for one that was left.
        let lock = match File::open(scratch.path()) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        lock.lock()?;
        if scratch.path().exists() {
            return Ok((scratch, lock));
        }
    }
}

/// Removes what restores that were killed have left; those that run hold their lock.
fn remove_leftovers(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SCRATCH)) {
        let Ok(lock) = File::open(entry.path()) else { continue };
        if lock.try_lock().is_ok()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "what a killed restore has left cannot be removed");
        }
    }
}

/// The files of a restore, on this machine.
struct Files {
    snapshot: PathBuf,
    shown: String,
    logs: Vec<PathBuf>,
}

async fn fetch(request: &RestoreRequest, scratch: &Path) -> Result<Files> {
    if let Some(backup) = &request.backup
        && Path::new(backup).is_file()
    {
        let (snapshot, shown) = (PathBuf::from(backup), backup.clone());
        return match &request.target {
            None => Ok(Files { snapshot, shown, logs: Vec::new() }),
            Some(target) => {
                let (manifest, _) = super::read_manifest(File::open(&snapshot)?)?;
                let listed = catalog::read(&target.list().await?);
                let chain = catalog::continued(&listed, &manifest.cluster_id, manifest.revision).1;
                let logs = fetch_logs(request, target, &chain, scratch).await?;
                Ok(Files { snapshot, shown, logs })
            }
        };
    }
    let Some(target) = &request.target else {
        match &request.backup {
            Some(backup) => bail!("{backup}: no such file; give --target for a backup's name"),
            None => bail!("give a file, or --target"),
        }
    };
    let listed = catalog::read(&target.list().await?);
    let snapshots = listed.iter().filter(|archive| archive.kind == ArchiveKind::Snapshot);
    let chosen = match &request.backup {
        Some(name) => snapshots.clone().find(|archive| archive.name == *name),
        None => {
            let before = snapshots.clone().filter(|snapshot| request.to.has_snapshot(snapshot));
            // A later snapshot may still have the history of a revision.
            let after = || match request.to {
                Moment::Revision(_) => snapshots.clone().min_by_key(|snapshot| (snapshot.time, snapshot.to)),
                Moment::Newest | Moment::Time(_) => None,
            };
            before.max_by_key(|snapshot| (snapshot.time, snapshot.to)).or_else(after)
        }
    };
    let chosen = chosen.with_context(|| match &request.backup {
        Some(name) => format!("{} has no backup {name}", target.shown()),
        None => format!("{} has no snapshot that is old enough", target.shown()),
    })?;
    let snapshot = download(target, &chosen.name, scratch).await?;
    let chain = catalog::continued(&listed, &chosen.cluster_id, chosen.to).1;
    let logs = fetch_logs(request, target, &chain, scratch).await?;
    Ok(Files { snapshot, shown: chosen.name.clone(), logs })
}

/// The logs that may hold something for the wanted moment.
async fn fetch_logs(
    request: &RestoreRequest,
    target: &Target,
    chain: &[&Listed],
    scratch: &Path,
) -> Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for log in chain {
        if matches!(request.to, Moment::Revision(revision) if log.from > revision) {
            break;
        }
        logs.push(download(target, &log.name, scratch).await?);
        // A log's time is after all changes in it: one that is later than the moment is the last.
        if matches!(request.to, Moment::Time(time) if log.time > time + jiff::SignedDuration::from_secs(1)) {
            break;
        }
    }
    Ok(logs)
}

async fn download(target: &Target, name: &str, scratch: &Path) -> Result<PathBuf> {
    let path = scratch.join(name);
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    target.download(name, &mut file).await?;
    Ok(path)
}

fn make(request: &RestoreRequest, files: &Files, scratch: &Path) -> Result<Restored> {
    let data = scratch.join("data");
    crate::pki::create_private_dir(&data)?;
    let mut restored = Restored {
        snapshot: files.shown.clone(),
        n_logs: files.logs.len(),
        revision: 0,
        server: None,
        check: None,
        has_pki: false,
        lineage: Lineage::default(),
    };
    let mut file = File::open(&files.snapshot).with_context(|| format!("cannot read {}", files.shown))?;
    let mut start = [0; 8];
    let n_read = file.read(&mut start)?;
    file.rewind()?;
    let database = if is_archive(&start[..n_read]) {
        let database = scratch.join(STORE_ENTRY);
        extract(
            ArchiveReader::open(std::io::BufReader::new(file), request.key.as_ref())?,
            &data,
            &database,
            &mut restored,
        )
        .with_context(|| files.shown.clone())?;
        database
    } else {
        files.snapshot.clone()
    };
    let mut changes = Changes {
        logs: files.logs.iter().cloned().collect(),
        key: request.key.clone(),
        to: request.to,
        ready: VecDeque::new(),
    };
    let revision_max = match request.to {
        Moment::Revision(revision) => Some(Revision(revision)),
        Moment::Newest | Moment::Time(_) => None,
    };
    let replay = Replay {
        revision_max,
        changes: &mut changes,
        leave_out: &|key| !request.is_trial && (key.starts_with(ELECTIONS) || key.starts_with(ALIVE)),
    };
    let wanted = offline::Restore {
        snapshot: database,
        data_dir: data.join("store"),
        name: MEMBER_NAME.into(),
        peer_urls: vec![MEMBER_URL.into()],
        initial_cluster: format!("{MEMBER_NAME}={MEMBER_URL}"),
        // Every restore makes a cluster of its own.
        cluster_token: format!("restored-{:016x}", rand::random::<u64>()),
        skip_hash_check: false,
        bump_revision: request.bump_revision,
    };
    restored.lineage.write(&data)?;
    restored.revision = offline::restore_at(&wanted, replay).with_context(|| files.shown.clone())?.0;
    if let Moment::Revision(revision) = request.to {
        ensure!(restored.revision == revision, "the backups reach revision {}, not {revision}", restored.revision);
    }
    sync_dir(&data)?;
    Ok(restored)
}

/// Takes an archive apart. Names are input: only plain file names below `pki/` become files.
fn extract<R: std::io::Read>(
    mut archive: ArchiveReader<R>,
    data: &Path,
    database: &Path,
    restored: &mut Restored,
) -> Result<()> {
    ensure!(
        archive.manifest().kind == ArchiveKind::Snapshot,
        "this holds the changes between snapshots, not a snapshot"
    );
    let mut has_store = false;
    while let Some(entry) = archive.next_entry()? {
        match entry.name.as_str() {
            STORE_ENTRY => {
                let mut file =
                    File::create(database).with_context(|| format!("cannot create {}", database.display()))?;
                archive.copy_entry(&mut file)?;
                has_store = true;
            }
            SERVER_ENTRY => {
                restored.server = serde_json::from_slice(&archive.read_small_entry(SMALL_ENTRY_BYTES_MAX)?).ok()
            }
            CHECK_ENTRY => {
                restored.check = serde_json::from_slice(&archive.read_small_entry(SMALL_ENTRY_BYTES_MAX)?).ok()
            }
            name => {
                let Some(file_name) = name.strip_prefix(PKI_PREFIX) else {
                    tracing::warn!(name, "this version does not know what to do with an entry of the backup");
                    continue;
                };
                ensure!(crate::pki::is_file_name(file_name), "the backup has a file named {file_name:?}");
                crate::pki::create_private_dir(&data.join("pki"))?;
                let mode = if file_name.ends_with(".crt") || file_name.ends_with(".pub") { 0o644 } else { 0o600 };
                let bytes = archive.read_small_entry(SMALL_ENTRY_BYTES_MAX)?;
                crate::pki::write_file(&data.join("pki").join(file_name), &bytes, mode)?;
                restored.has_pki = true;
            }
        }
    }
    ensure!(has_store, "the backup holds no store");
    let before = restored.server.as_ref().map(|server| server.lineage.clone()).unwrap_or_default();
    restored.lineage = before.continued(&archive.manifest().cluster_id);
    Ok(())
}

/// The changes of log archives up to a moment, archive by archive.
struct Changes {
    logs: VecDeque<PathBuf>,
    key: Option<BackupKey>,
    to: Moment,
    ready: VecDeque<Vec<WatchEvent>>,
}

impl Changes {
    fn read(&mut self, path: &Path) -> Result<()> {
        let shown = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(path).with_context(shown)?;
        let mut archive = ArchiveReader::open(std::io::BufReader::new(file), self.key.as_ref()).with_context(shown)?;
        while let Some(entry) = archive.next_entry().with_context(shown)? {
            if entry.name != super::LOG_ENTRY {
                continue;
            }
            let text = archive.read_small_entry(LOG_BYTES_MAX).with_context(shown)?;
            for revision in log::decode(text.into()).with_context(shown)? {
                if !self.to.includes(&revision) {
                    self.logs.clear();
                    return Ok(());
                }
                self.ready.push_back(revision.events);
            }
        }
        Ok(())
    }
}

impl Iterator for Changes {
    type Item = Result<Vec<WatchEvent>, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            let path = self.logs.pop_front()?;
            if let Err(error) = self.read(&path) {
                return Some(Err(OfflineError::Data(format!("{error:#}"))));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_restore_has_left_is_removed_wherever_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let (running, _lock) = scratch_in(parent.path()).unwrap();
        let left = |name: &str| parent.path().join(format!("{SCRATCH}{name}"));
        fs::create_dir(left("just-made")).unwrap();
        fs::create_dir_all(left("half-done").join("data")).unwrap();
        remove_leftovers(parent.path());
        assert!(running.path().exists());
        assert!(!left("just-made").exists() && !left("half-done").exists());
    }

    #[test]
    fn a_moment_is_a_revision_or_a_time() {
        assert_eq!(Moment::parse("42").unwrap(), Moment::Revision(42));
        let time = Moment::parse("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(time, Moment::Time(Timestamp::from_second(1_767_323_045).unwrap()));
        let error = Moment::parse("yesterday").unwrap_err().to_string();
        assert_eq!(error, "\"yesterday\" is neither a revision nor a time like 2026-01-02T03:04:05Z");
    }
}
