//! `quarterdeck snapshot`: backups from the command line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{Stream, StreamExt as _};
use serde_json::json;
use store::{EmbeddedConfig, EmbeddedStore};

use super::access::Access;
use super::{print_line, print_table};
use crate::args::{AccessFlags, PrintFormat, SnapshotCommand, TargetFlags};
use crate::backup::{
    self, ArchiveReader, ArchiveWriter, BackupKey, Listed, Moment, RestoreRequest, S3Options, StoredArchive, Target,
    read_key,
};
use crate::control::archive_json;

pub(crate) async fn snapshot(command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Save { path: Some(path), access, key_file } => {
            let key = key_file.as_deref().map(read_key).transpose()?;
            save_to_file(&path, &access, key).await
        }
        SnapshotCommand::Save { path: None, access, key_file: _ } => {
            let saved = Access::open(access.kubeconfig.as_deref()).await?.post("snapshots").await?;
            let name = saved["name"].as_str().unwrap_or_default().to_owned();
            show(access.output.output, &saved, || format!("saved {name}"));
            Ok(())
        }
        SnapshotCommand::Ls { access, target } => ls(&access, &target).await,
        SnapshotCommand::Verify { backup, target, drill, output } => {
            let (path, shown, _downloaded) = local(backup, &target).await?;
            let key = target.key_file.as_deref().map(read_key).transpose()?;
            let mut verified = {
                let (path, shown, key) = (path.clone(), shown.clone(), key.clone());
                let verifying = tokio::task::spawn_blocking(move || backup::verify(&path, &shown, key.as_ref()));
                verifying.await.context("verifying")??
            };
            if drill {
                backup::drill(&path, key, &mut verified).await?;
            }
            show(output.output, &serde_json::to_value(&verified)?, || {
                let drilled = match (verified.drilled, verified.objects) {
                    (true, Some(objects)) => format!(", restored for a trial: {objects} objects"),
                    _ => String::new(),
                };
                format!("{shown} is whole: revision {}, {} keys{drilled}", verified.revision, verified.total_keys)
            });
            Ok(())
        }
        SnapshotCommand::Restore { backup, target, data_dir, to, dry_run, kubeconfig, bump_revision, output } => {
            let to = to.as_deref().map_or(Ok(Moment::Newest), Moment::parse)?;
            let key = target.key_file.as_deref().map(read_key).transpose()?;
            let target = open_target(&target)?;
            let scratch = tempfile::tempdir().context("a scratch directory")?;
            let dir = match (&data_dir, dry_run) {
                (Some(dir), false) => dir.clone(),
                _ => scratch.path().join("restored"),
            };
            let request =
                RestoreRequest { backup, target, key, to, data_dir: dir.clone(), bump_revision, is_trial: dry_run };
            let restored = backup::restore(request).await?;
            if dry_run {
                let access = Access::open(kubeconfig.as_deref()).await?;
                return compare(&dir.join("store"), &access, output.output).await;
            }
            let document = json!({
                "backup": restored.snapshot,
                "logs": restored.n_logs,
                "revision": restored.revision,
                "pki": restored.has_pki,
                "arguments": restored.server.as_ref().map(|server| server.arguments.clone()),
                "dataDir": dir.display().to_string(),
            });
            show(output.output, &document, || {
                let shown = dir.display();
                let revision = restored.revision;
                let mut text = format!("restored {} to {shown}: revision {revision}", restored.snapshot);
                if restored.n_logs > 0 {
                    text.push_str(&format!(", {} logs replayed", restored.n_logs));
                }
                if !restored.has_pki {
                    text.push_str("\nit holds no certificates: the server makes new ones");
                }
                if let Some(server) = &restored.server {
                    text.push_str(&format!("\nit was started with: quarterdeck {}", server.arguments.join(" ")));
                }
                text
            });
            Ok(())
        }
        SnapshotCommand::Prune { target, keep, dry_run, output } => prune(&target, keep, dry_run, output.output).await,
    }
}

/// Prints a document as it is, or in words.
fn show(format: PrintFormat, document: &serde_json::Value, words: impl FnOnce() -> String) {
    match format {
        PrintFormat::Json => print_line(&format!("{document:#}")),
        PrintFormat::Table => print_line(&words()),
    }
}

fn open_target(flags: &TargetFlags) -> Result<Option<Target>> {
    let TargetFlags { target, s3_endpoint, s3_region, s3_ca_file, key_file: _ } = flags;
    let Some(url) = target else { return Ok(None) };
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let s3 = S3Options {
        endpoint: s3_endpoint.clone(),
        region: s3_region.clone(),
        ca_pem: s3_ca_file.as_ref().map(read).transpose()?,
    };
    Target::open(url, &s3).map(Some)
}

/// A backup as a file of this machine: itself, or downloaded.
async fn local(backup: Option<String>, flags: &TargetFlags) -> Result<(PathBuf, String, Option<tempfile::TempDir>)> {
    if let Some(path) = backup.as_ref().map(PathBuf::from).filter(|path| path.is_file()) {
        let shown = path.display().to_string();
        return Ok((path, shown, None));
    }
    let Some(target) = open_target(flags)? else {
        match backup {
            Some(backup) => bail!("{backup}: no such file; give --target for a backup's name"),
            None => bail!("give a file, or --target"),
        }
    };
    let listed = backup::read_catalog(&target.list().await?);
    let snapshots = listed.iter().filter(|archive| archive.kind == backup::ArchiveKind::Snapshot);
    let chosen = match &backup {
        Some(name) => snapshots.clone().find(|archive| archive.name == *name),
        None => snapshots.clone().max_by_key(|archive| archive.time),
    };
    let chosen = chosen.with_context(|| format!("{} has no such backup", target.shown()))?;
    let scratch = tempfile::tempdir().context("a scratch directory")?;
    let path = scratch.path().join(&chosen.name);
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    target.download(&chosen.name, &mut file).await?;
    Ok((path, chosen.name.clone(), Some(scratch)))
}

/// Receives an archive from the server and seals it on the way to the file, which appears when it is whole and on disk.
async fn save_to_file(path: &Path, access: &AccessFlags, key: Option<BackupKey>) -> Result<()> {
    ensure!(!path.exists(), "{} exists", path.display());
    let server = Access::open(access.kubeconfig.as_deref()).await?;
    let body = server.stream("snapshot").await?;
    let temporary = path.with_extension("partial");
    let saved = write_archive(&temporary, body, key.clone()).await;
    if saved.is_err() {
        let _nothing_was_written = std::fs::remove_file(&temporary);
    }
    let (revision, size_bytes) = saved?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot create {}", path.display()))?;
    if key.is_none() {
        tracing::warn!(
            "{} is not encrypted and holds the cluster's keys: keep it safe, or use --key-file",
            path.display()
        );
    }
    let document = json!({ "path": path.display().to_string(), "revision": revision, "sizeBytes": size_bytes });
    show(access.output.output, &document, || {
        format!("saved {}: revision {revision}, {size_bytes} bytes", path.display())
    });
    Ok(())
}

/// The archive, sealed anew; its revision and size.
async fn write_archive(
    path: &Path,
    body: impl Stream<Item = Result<bytes::Bytes>> + Send + 'static,
    key: Option<BackupKey>,
) -> Result<(i64, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = open.with_context(|| format!("cannot create {}", path.display()))?;
    let reader = tokio_util::io::SyncIoBridge::new(tokio_util::io::StreamReader::new(Box::pin(
        body.map(|chunk| chunk.map_err(std::io::Error::other)),
    )));
    let copied = tokio::task::spawn_blocking(move || -> Result<(i64, u64)> {
        let mut archive = ArchiveReader::open(reader, None)?;
        let manifest = archive.manifest().clone();
        let (mut writer, header) = ArchiveWriter::new(&manifest, key.as_ref(), rand::random());
        let mut size_bytes = header.len() as u64;
        file.write_all(&header).context("writing the backup")?;
        let mut buffer = vec![0; 1 << 20];
        while let Some(entry) = archive.next_entry()? {
            writer.begin_entry(&entry.name, entry.size_bytes);
            loop {
                let n_read = archive.read_entry(&mut buffer)?;
                if n_read == 0 {
                    break;
                }
                let frames = writer.write(&buffer[..n_read]);
                size_bytes += frames.len() as u64;
                file.write_all(&frames).context("writing the backup")?;
            }
        }
        let rest = writer.finish();
        size_bytes += rest.len() as u64;
        file.write_all(&rest).context("writing the backup")?;
        file.sync_all().context("writing the backup")?;
        Ok((manifest.revision, size_bytes))
    });
    copied.await.context("writing the backup")?
}

async fn ls(access: &AccessFlags, flags: &TargetFlags) -> Result<()> {
    let items = match open_target(flags)? {
        Some(target) => backup::read_catalog(&target.list().await?).iter().map(archive_json).collect(),
        None => {
            let listed = Access::open(access.kubeconfig.as_deref()).await?.get("snapshots").await?;
            listed["items"].as_array().cloned().unwrap_or_default()
        }
    };
    if access.output.output == PrintFormat::Json {
        print_line(&format!("{:#}", json!({ "items": items })));
        return Ok(());
    }
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = items.iter().map(|item| {
        let row = ["time", "kind", "fromRevision", "toRevision", "sizeBytes", "name"];
        row.map(|member| text(&item[member])).to_vec()
    });
    print_table(&["TIME", "KIND", "FROM", "TO", "BYTES", "NAME"], &rows.collect::<Vec<_>>());
    Ok(())
}

async fn prune(flags: &TargetFlags, keep: usize, dry_run: bool, output: PrintFormat) -> Result<()> {
    ensure!(keep > 0, "--keep must be greater than zero");
    let target = open_target(flags)?.context("give --target")?;
    let archives: Vec<StoredArchive> = target.list().await?;
    let listed: Vec<Listed> = backup::read_catalog(&archives);
    let mut clusters: Vec<&str> = listed.iter().map(|archive| archive.cluster_id.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let gone: Vec<String> =
        clusters.into_iter().flat_map(|cluster| backup::superfluous(&listed, cluster, keep)).collect();
    if !dry_run {
        target.delete(&gone).await?;
    }
    show(output, &json!({ "removed": gone, "dryRun": dry_run }), || {
        let verb = if dry_run { "would remove" } else { "removed" };
        let mut lines = vec![format!("{verb} {} of {} archives", gone.len(), listed.len())];
        lines.extend(gone.iter().cloned());
        lines.join("\n")
    });
    Ok(())
}

/// Object keys of a store with a digest of each value.
type Objects = BTreeMap<String, [u8; 32]>;

/// Says what a restore would change: the running cluster's objects against those of the restored store.
async fn compare(restored: &Path, access: &Access, output: PrintFormat) -> Result<()> {
    let scratch = tempfile::tempdir().context("a scratch directory")?;
    let live = scratch.path().join("live.qdb");
    write_archive(&live, access.stream("snapshot").await?, None).await.context("the running cluster's state")?;
    let request = RestoreRequest {
        backup: Some(live.display().to_string()),
        target: None,
        key: None,
        to: Moment::Newest,
        data_dir: scratch.path().join("live"),
        bump_revision: 0,
        is_trial: true,
    };
    backup::restore(request).await.context("the running cluster's state")?;
    let now = objects(scratch.path().join("live/store")).await?;
    let then = objects(restored.to_owned()).await?;
    let created: Vec<&String> = then.keys().filter(|key| !now.contains_key(*key)).collect();
    let deleted: Vec<&String> = now.keys().filter(|key| !then.contains_key(*key)).collect();
    let changed: Vec<&String> = then
        .iter()
        .filter(|(key, digest)| now.get(*key).is_some_and(|other| other != *digest))
        .map(|(key, _)| key)
        .collect();
    show(output, &json!({ "created": created, "changed": changed, "deleted": deleted }), || {
        let mut lines = Vec::new();
        for (mark, keys) in [("+", &created), ("~", &changed), ("-", &deleted)] {
            lines.extend(keys.iter().map(|key| format!("{mark} {key}")));
        }
        let (created, changed, deleted) = (created.len(), changed.len(), deleted.len());
        lines.push(format!("a restore would create {created}, change {changed} and delete {deleted} objects"));
        lines.join("\n")
    });
    Ok(())
}

async fn objects(data_dir: PathBuf) -> Result<Objects> {
    use sha2::Digest as _;
    let config = EmbeddedConfig { data_dir: Some(data_dir), ..EmbeddedConfig::default() };
    let store =
        tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.context("opening the store")??;
    let mut objects = Objects::new();
    backup::each_object(&store, |kv| {
        objects.insert(String::from_utf8_lossy(&kv.key).into_owned(), sha2::Sha256::digest(&kv.value).into());
        Ok(())
    })
    .await?;
    tokio::task::spawn_blocking(move || store.shutdown()).await.context("closing the store")?;
    Ok(objects)
}
