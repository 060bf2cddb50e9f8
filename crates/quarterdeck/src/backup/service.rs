//! Backups while a server runs: snapshots on a schedule, and the log of changes between them.
//!
//! One task does everything, so that there is one order of things. It never gives up: what fails is logged, counted and tried
//! again. In a cluster of several masters the one whose store leads does the work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use client::Shutdown;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use store::{KeyRange, Revision, StoreError, Watch, WatchRequest};
use tokio::runtime::Builder;

use super::archive::{ArchiveKind, ArchiveWriter, Manifest};
use super::catalog::{self, Listed};
use super::contents::Source;
use super::log;
use super::metrics::BackupMetrics;
use super::settings::{self, Settings};
use crate::args::BackupFlags;

/// How often the schedule and the configuration file are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a failure, until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// Changes gathered before they are shipped without waiting for the interval.
const LOG_BYTES_SHIPPED: usize = 8 << 20;
/// Changes kept while the target is away. Beyond this they are read again from the store, or, if it has compacted them, a new
/// snapshot is made.
const LOG_BYTES_MAX: usize = 64 << 20;

/// What is known of a server's backups.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackupStatus {
    pub target: Option<String>,
    pub is_encrypted: bool,
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<(Timestamp, String)>,
    pub n_failures: u64,
    /// Any moment between these can be restored.
    pub window: Option<(Timestamp, Timestamp)>,
    /// Up to where changes are in the target.
    pub reached_revision: i64,
}

/// The backup of one server.
#[derive(Debug)]
pub(crate) struct BackupService {
    source: Source,
    flags: BackupFlags,
    /// External stores have no leader among the masters.
    needs_leadership: bool,
    status: Mutex<BackupStatus>,
    settings: Mutex<Option<Settings>>,
    metrics: BackupMetrics,
}

impl BackupService {
    /// Checks the configuration; nothing is done before [`BackupService::run`].
    pub(crate) fn new(source: Source, flags: BackupFlags, needs_leadership: bool) -> Result<Arc<Self>> {
        let settings = settings::settle(&flags)?;
        if let Some(settings) = &settings
            && settings.key.is_none()
        {
            tracing::warn!(
                target = settings.target.shown(),
                "backups are not encrypted and hold the cluster's keys: give --backup-key-file"
            );
        }
        let status = Mutex::new(BackupStatus::default());
        let (settings_in_force, metrics) = (Mutex::new(None), BackupMetrics::default());
        let service = Self { source, flags, needs_leadership, status, settings: settings_in_force, metrics };
        service.adopt(settings);
        Ok(Arc::new(service))
    }

    pub(crate) fn status(&self) -> BackupStatus {
        self.status.lock().clone()
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The archives in the target, the oldest first.
    pub(crate) async fn list(&self) -> Result<Vec<Listed>> {
        let settings = self.settings()?;
        Ok(catalog::read(&settings.target.list().await?))
    }

    /// Makes a snapshot in the target now; returns its name and revision.
    pub(crate) async fn save(&self) -> Result<(String, i64)> {
        let settings = self.settings()?;
        let outcome = self.snapshot(&settings).await;
        self.note(&outcome);
        let _best_effort_until_the_next_round = self.refresh(&settings).await;
        outcome
    }

    fn settings(&self) -> Result<Settings> {
        self.settings.lock().clone().context("this server has no --backup-target")
    }

    /// Works until told to stop.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let mut config = ConfigFile::new(self.flags.backup_config.clone());
        let mut shipper: Option<Shipper> = None;
        let mut next_snapshot = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            if config.has_changed() {
                match settings::settle(&self.flags) {
                    Ok(settings) => {
                        tracing::info!("the backup's configuration was read again");
                        self.adopt(settings);
                        shipper = None;
                        next_snapshot = Instant::now();
                    }
                    Err(error) => tracing::error!("the backup's configuration is not used: {error:#}"),
                }
            }
            let settings = self.settings.lock().clone();
            let Some(settings) = settings else { continue };
            if !self.is_my_turn().await {
                shipper = None;
                continue;
            }
            if Instant::now() >= next_snapshot {
                next_snapshot = Instant::now() + self.scheduled(&settings).await;
            }
            if let Some(interval) = settings.log_interval
                && let Err(error) = self.ship(&mut shipper, &settings, interval).await
            {
                shipper = None;
                match error.downcast_ref::<Gap>() {
                    // What is missing is in the next snapshot.
                    Some(_) => next_snapshot = Instant::now(),
                    None => self.note(&Err::<(), _>(error)),
                }
            }
        }
        if let (Some(mut shipper), Ok(settings)) = (shipper, self.settings()) {
            let last = tokio::time::timeout(RETRY_INTERVAL, shipper.ship(&settings)).await;
            if !matches!(last, Ok(Ok(_))) {
                tracing::warn!("the last changes could not be added to the backup");
            }
        }
    }

    async fn is_my_turn(&self) -> bool {
        if !self.needs_leadership {
            return true;
        }
        self.source.store.status().await.is_ok_and(|status| status.leader_id == status.member_id)
    }

    fn adopt(&self, settings: Option<Settings>) {
        let mut status = self.status.lock();
        status.target = settings.as_ref().map(|settings| settings.target.shown().to_owned());
        status.is_encrypted = settings.as_ref().is_some_and(|settings| settings.key.is_some());
        *self.settings.lock() = settings;
    }

    /// Makes a snapshot if one is due, lets old ones go; returns the time until the next look.
    async fn scheduled(&self, settings: &Settings) -> Duration {
        let outcome = self.snapshot_if_due(settings).await;
        self.note(&outcome);
        match outcome {
            Ok(until_next) => until_next,
            Err(_logged) => RETRY_INTERVAL.min(settings.interval),
        }
    }

    async fn snapshot_if_due(&self, settings: &Settings) -> Result<Duration> {
        let (listed, cluster_id) = self.refresh(settings).await?;
        let newest = catalog::newest_snapshot(&listed, &cluster_id, i64::MAX);
        let needs_base = settings.log_interval.is_some()
            && !self.can_continue(catalog::reached(&listed, &cluster_id).unwrap_or(0)).await;
        if let Some(newest) = newest.filter(|_| !needs_base) {
            let age = Timestamp::now().duration_since(newest.time);
            let age = Duration::try_from(age).unwrap_or_default();
            if age < settings.interval {
                return Ok(settings.interval - age);
            }
        }
        self.snapshot(settings).await?;
        let (listed, cluster_id) = self.refresh(settings).await?;
        let gone = catalog::superfluous(&listed, &cluster_id, settings.n_snapshots);
        if !gone.is_empty() {
            settings.target.delete(&gone).await?;
            tracing::info!(n_archives = gone.len(), "old backups were removed");
            self.refresh(settings).await?;
        }
        Ok(settings.interval)
    }

    /// Whether the store still has every change after a revision.
    async fn can_continue(&self, reached: i64) -> bool {
        reached > 0 && !matches!(Shipper::start(&self.source, reached).await, Err(error) if error.is::<Gap>())
    }

    async fn snapshot(&self, settings: &Settings) -> Result<(String, i64)> {
        let (source, settings) = (self.source.clone(), settings.clone());
        // A runtime of its own, because threads that copy and write inherit their priority from the one that starts them.
        let saving = move || Builder::new_current_thread().enable_all().build()?.block_on(save(&source, &settings));
        store::in_background("backup", saving).await?
    }

    /// Looks at the target; returns what is there and the cluster's id.
    async fn refresh(&self, settings: &Settings) -> Result<(Vec<Listed>, String)> {
        let listed = catalog::read(&settings.target.list().await?);
        let cluster_id = self.source.store.status().await.context("the store")?.cluster_id;
        let cluster_id = format!("{cluster_id:016x}");
        let mut status = self.status.lock();
        status.window = catalog::window(&listed, &cluster_id);
        status.reached_revision = catalog::reached(&listed, &cluster_id).unwrap_or(0);
        let newest = catalog::newest_snapshot(&listed, &cluster_id, i64::MAX);
        status.last_success = newest.map(|snapshot| snapshot.time).max(status.last_success);
        self.metrics.follow(&status);
        Ok((listed, cluster_id))
    }

    fn note<T>(&self, outcome: &Result<T>) {
        if let Err(error) = outcome {
            tracing::error!("backup failed: {error:#}");
            let mut status = self.status.lock();
            status.n_failures += 1;
            status.last_failure = Some((Timestamp::now(), format!("{error:#}")));
            self.metrics.follow(&status);
        }
    }

    /// Takes what changed since the last look and ships it when it is time.
    async fn ship(&self, shipper: &mut Option<Shipper>, settings: &Settings, interval: Duration) -> Result<()> {
        if shipper.is_none() {
            let (listed, cluster_id) = self.refresh(settings).await?;
            let Some(reached) = catalog::reached(&listed, &cluster_id) else { return Err(Gap.into()) };
            *shipper = Some(Shipper::start(&self.source, reached).await?);
        }
        let Some(shipper) = shipper else { return Ok(()) };
        shipper.take().await?;
        let is_due = shipper.last_shipped.elapsed() >= interval || shipper.text.len() >= LOG_BYTES_SHIPPED;
        if is_due && let Some(reached) = shipper.ship(settings).await? {
            let mut status = self.status.lock();
            status.reached_revision = reached;
            let now = Timestamp::now();
            status.window = status.window.map(|(first, _)| (first, now));
            status.last_success = Some(now);
            self.metrics.follow(&status);
        }
        Ok(())
    }
}

/// Brings a snapshot of the store to the target; returns its name and revision.
async fn save(source: &Source, settings: &Settings) -> Result<(String, i64)> {
    let started = Instant::now();
    let mut making = source.snapshot(settings.key.clone(), settings.bandwidth).await?;
    let name = catalog::name_of(&making.manifest, Timestamp::now());
    let mut upload = settings.target.upload(&name);
    let mut size_bytes = 0;
    while let Some(chunk) = making.chunks.recv().await {
        let written = match chunk {
            Ok(chunk) => {
                size_bytes += chunk.len();
                upload.write(chunk).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            upload.abort().await;
            return Err(error);
        }
    }
    upload.finish().await?;
    let (revision, elapsed) = (making.manifest.revision, started.elapsed());
    tracing::info!(name, revision, size_bytes, ?elapsed, "backup saved");
    Ok((name, revision))
}

/// The store has forgotten changes that no backup has.
#[derive(Debug, thiserror::Error)]
#[error("changes between the last backup and now are gone from the store")]
struct Gap;

/// Follows the store and gathers its changes.
struct Shipper {
    watch: Watch,
    cluster_id: String,
    /// Changes taken and not yet shipped: revisions `from..=to`.
    text: Vec<u8>,
    from: i64,
    to: i64,
    last_shipped: Instant,
}

impl Shipper {
    /// Begins after a revision.
    async fn start(source: &Source, reached: i64) -> Result<Self> {
        let cluster_id = format!("{:016x}", source.store.status().await.context("the store")?.cluster_id);
        let everything = KeyRange { start: b"\0".as_slice().into(), end: b"\0".as_slice().into() };
        let request = WatchRequest { range: everything, start_revision: Revision(reached + 1), ..Default::default() };
        let watch = match source.store.watch(request).await {
            Ok(watch) => watch,
            Err(StoreError::Compacted { .. }) => return Err(Gap.into()),
            Err(error) => return Err(error).context("following the store"),
        };
        let (from, to) = (reached + 1, reached);
        Ok(Self { watch, cluster_id, text: Vec::new(), from, to, last_shipped: Instant::now() })
    }

    /// Takes what is there, without waiting.
    async fn take(&mut self) -> Result<()> {
        loop {
            let next = tokio::time::timeout(Duration::from_millis(1), self.watch.next()).await;
            let batch = match next {
                Err(_nothing_more) => return Ok(()),
                Ok(None) => bail!("the store ended the watch"),
                Ok(Some(Err(StoreError::Compacted { .. }))) => return Err(Gap.into()),
                Ok(Some(Err(error))) => return Err(error).context("following the store"),
                Ok(Some(Ok(batch))) => batch,
            };
            let Some(last) = batch.events.last() else { continue };
            self.to = last.kv.mod_revision.0;
            log::encode(&batch.events, Timestamp::now().as_millisecond(), &mut self.text);
            if self.text.len() > LOG_BYTES_MAX {
                bail!("the target cannot take changes as fast as they come");
            }
            if self.text.len() >= LOG_BYTES_SHIPPED {
                return Ok(());
            }
        }
    }

    /// Ships what was taken; returns up to where the target now has everything, or nothing if there was nothing new.
    async fn ship(&mut self, settings: &Settings) -> Result<Option<i64>> {
        if self.text.is_empty() {
            self.last_shipped = Instant::now();
            return Ok(None);
        }
        let now = Timestamp::now();
        let manifest = Manifest {
            kind: ArchiveKind::Log,
            created: now.to_string(),
            writer: env!("CARGO_PKG_VERSION").into(),
            cluster_id: self.cluster_id.clone(),
            revision: self.to,
            from_revision: Some(self.from),
        };
        let (mut writer, mut file) = ArchiveWriter::new(&manifest, settings.key.as_ref(), rand::random());
        writer.begin_entry(super::LOG_ENTRY, self.text.len() as u64);
        file.extend(writer.write(&self.text));
        file.extend(writer.finish());
        let mut upload = settings.target.upload(&catalog::name_of(&manifest, now));
        if let Err(error) = upload.write(file).await {
            upload.abort().await;
            return Err(error);
        }
        upload.finish().await?;
        self.text.clear();
        self.from = self.to + 1;
        self.last_shipped = Instant::now();
        Ok(Some(self.to))
    }
}

/// Notices that a file was changed.
struct ConfigFile {
    path: Option<PathBuf>,
    seen: Option<SystemTime>,
}

impl ConfigFile {
    fn new(path: Option<PathBuf>) -> Self {
        let seen = modified(path.as_ref());
        Self { path, seen }
    }

    fn has_changed(&mut self) -> bool {
        let now = modified(self.path.as_ref());
        // A file that is gone for a moment is being replaced.
        let has_changed = now.is_some() && now != self.seen;
        if has_changed {
            self.seen = now;
        }
        has_changed
    }
}

fn modified(path: Option<&PathBuf>) -> Option<SystemTime> {
    path.and_then(|path| std::fs::metadata(path).ok()).and_then(|metadata| metadata.modified().ok())
}
