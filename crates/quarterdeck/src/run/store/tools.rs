//! The tools of `quarterdeck store`: arguments to calls, results to etcd's output forms.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use store::offline::{self, OfflineError, Restore, SnapshotStatus};
use store::{HashKv, Pem, RemoteStore, RemoteTls, Revision, Store as _};

use crate::args::{
    DataDirArgs, HashKvArgs, MigrateArgs, OutputFormat, RestoreArgs, SaveArgs, SnapshotTool, StatusArgs, StoreTool,
    VerifyArgs,
};
use crate::run::print_line;

/// The trailer of a snapshot: the SHA-256 of what comes before.
const TRAILER_BYTES: u64 = 32;

pub(super) async fn run(tool: StoreTool) -> Result<()> {
    match tool {
        StoreTool::Snapshot(SnapshotTool::Save(args)) => save(args).await,
        other => tokio::task::spawn_blocking(move || run_offline(other)).await.context("the tool ended early")?,
    }
}

fn run_offline(tool: StoreTool) -> Result<()> {
    match tool {
        StoreTool::Snapshot(SnapshotTool::Save(_)) => unreachable!("saving asks a server"),
        StoreTool::Snapshot(SnapshotTool::Status(args)) => status(&args),
        StoreTool::Snapshot(SnapshotTool::Restore(args)) => restore(args),
        StoreTool::Defrag(args) => defrag(&args),
        StoreTool::HashKv(args) => hash_kv(&args),
        StoreTool::Verify(args) => verify(&args),
        StoreTool::Migrate(args) => migrate(&args),
    }
}

async fn save(args: SaveArgs) -> Result<()> {
    let SaveArgs { filename, endpoints, cacert, cert, key, command_timeout } = args;
    let [endpoint] = endpoints.as_slice() else {
        bail!("snapshot must be requested to one selected node, not multiple [{}]", endpoints.join(" "));
    };
    let is_secure = cacert.is_some() || cert.is_some() || endpoint.starts_with("https://");
    let url = match endpoint.contains("://") {
        true => endpoint.clone(),
        false => format!("{}://{endpoint}", if is_secure { "https" } else { "http" }),
    };
    let tls = match (is_secure, cacert) {
        (false, _) => None,
        (true, None) => bail!("--cacert is required for {url}"),
        (true, Some(ca)) => {
            let identity = cert.map(Pem::from).zip(key.map(Pem::from));
            Some(RemoteTls { ca: ca.into(), identity, server_name: None })
        }
    };
    let member = RemoteStore::connect(&[url], tls)?;
    let saving = save_to(&member, &filename);
    match command_timeout {
        None => saving.await?,
        Some(timeout) => tokio::time::timeout(timeout, saving).await.context("context deadline exceeded")??,
    }
    print_line(&format!("Snapshot saved at {}", filename.display()));
    let version =
        tokio::task::spawn_blocking(move || offline::snapshot_status(&filename)).await?.map_err(told)?.version;
    if !version.is_empty() {
        print_line(&format!("Server version {version}"));
    }
    Ok(())
}

/// Writes beside the file, and renames when all of it is there and on disk.
async fn save_to(member: &RemoteStore, filename: &Path) -> Result<()> {
    let mut part = filename.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write_snapshot(member, &part).await;
    if let Err(error) = written {
        let _nothing_written = std::fs::remove_file(&part);
        return Err(error);
    }
    std::fs::rename(&part, filename)
        .with_context(|| format!("could not rename {} to {}", part.display(), filename.display()))
}

async fn write_snapshot(member: &RemoteStore, part: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut snapshot = member.snapshot().await?;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.create(true).truncate(true).write(true).mode(0o600).open(part);
    let mut file = std::io::BufWriter::new(opened.with_context(|| format!("could not open {}", part.display()))?);
    let (mut hash, mut n_bytes, mut tail) = (Sha256::new(), 0_u64, Vec::new());
    while let Some(chunk) = snapshot.chunks.next().await {
        let chunk = chunk?;
        file.write_all(&chunk).context("cannot write the snapshot")?;
        n_bytes += chunk.len() as u64;
        // The last bytes are the hash of those before, so they are held back.
        tail.extend_from_slice(&chunk);
        let n_sure = tail.len().saturating_sub(TRAILER_BYTES as usize);
        hash.update(&tail[..n_sure]);
        tail.drain(..n_sure);
    }
    if n_bytes % 512 != TRAILER_BYTES {
        bail!("sha256 checksum not found [bytes: {n_bytes}]");
    }
    if hash.finalize().as_slice() != tail {
        bail!("the snapshot does not match its sha256 checksum");
    }
    file.into_inner().context("cannot write the snapshot")?.sync_all().context("cannot write the snapshot to disk")
}

/// These errors say in their own text what caused them.
fn told(error: OfflineError) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

fn status(args: &StatusArgs) -> Result<()> {
    let SnapshotStatus { hash, revision, total_keys, total_bytes, version } =
        offline::snapshot_status(&args.filename).map_err(told)?;
    let report = Report {
        columns: vec![
            ("hash", format!("{hash:x}")),
            ("revision", revision.to_string()),
            ("total keys", total_keys.to_string()),
            ("total size", human_bytes(total_bytes)),
            ("version", version.clone()),
        ],
        fields: vec![
            ("Hash", hash.to_string()),
            ("Revision", revision.to_string()),
            ("Keys", total_keys.to_string()),
            ("Size", total_bytes.to_string()),
            ("Version", version.clone()),
        ],
        json: serde_json::json!({
            "hash": hash, "revision": revision, "totalKey": total_keys, "totalSize": total_bytes, "version": version,
        }),
    };
    report.print(args.write_out);
    Ok(())
}

fn hash_kv(args: &HashKvArgs) -> Result<()> {
    let HashKv { hash, compact_revision, hash_revision } =
        offline::hash_kv(&args.filename, Revision(args.rev)).map_err(told)?;
    let report = Report {
        columns: vec![
            ("hash", hash.to_string()),
            ("hash revision", hash_revision.to_string()),
            ("compact revision", compact_revision.to_string()),
        ],
        fields: vec![
            ("Hash", hash.to_string()),
            ("Hash revision", hash_revision.to_string()),
            ("Compact revision", compact_revision.to_string()),
        ],
        json: serde_json::json!({
            "hash": hash, "hashRevision": hash_revision.0, "compactRevision": compact_revision.0,
        }),
    };
    report.print(args.write_out);
    Ok(())
}

fn restore(args: RestoreArgs) -> Result<()> {
    let RestoreArgs {
        filename,
        data_dir,
        name,
        initial_cluster,
        initial_cluster_token,
        initial_advertise_peer_urls,
        skip_hash_check,
        bump_revision,
        mark_compacted,
    } = args;
    if (bump_revision > 0) != mark_compacted {
        bail!("--mark-compacted required if --revision-bump > 0");
    }
    let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));
    tracing::info!(path = %filename.display(), data_dir = %data_dir.display(), "restoring snapshot");
    offline::restore(&Restore {
        snapshot: filename.clone(),
        data_dir: data_dir.clone(),
        name,
        peer_urls: initial_advertise_peer_urls,
        initial_cluster,
        cluster_token: initial_cluster_token,
        skip_hash_check,
        bump_revision,
    })
    .map_err(told)?;
    tracing::info!(path = %filename.display(), data_dir = %data_dir.display(), "restored snapshot");
    Ok(())
}

fn defrag(args: &DataDirArgs) -> Result<()> {
    let started = std::time::Instant::now();
    let dir = args.data_dir.display();
    let (before, after) = offline::defragment(&args.data_dir)
        .map_err(told)
        .with_context(|| format!("Failed to defragment etcd data[{dir}]"))?;
    let took = Duration::from_millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    tracing::info!("finished defragmenting directory: {} -> {} in {took:?}", human_bytes(before), human_bytes(after));
    Ok(())
}

fn verify(args: &VerifyArgs) -> Result<()> {
    let verified = offline::verify(&args.filename).map_err(told)?;
    print_line(&format!("revision {}, compacted at {}", verified.revision, verified.compact_revision));
    print_line(&format!("{} versions of keys, {} leases", verified.n_versions, verified.n_leases));
    print_line(&format!("hash {} at revision {}", verified.hash.hash, verified.hash.hash_revision));
    if let Some(n_ahead) = verified.n_log_entries_ahead {
        print_line(&format!("the log has {n_ahead} entries that the state file does not have yet"));
    }
    print_line("ok");
    Ok(())
}

fn migrate(args: &MigrateArgs) -> Result<()> {
    let MigrateArgs { data_dir, target_version, force } = args;
    let numbers = target_version.split_once('.').filter(|(_, minor)| !minor.contains('.'));
    let Some((major, minor)) = numbers else {
        bail!("wrong target version format, expected \"X.Y\", got {target_version:?}");
    };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        bail!("failed to parse target version: Invalid Semantic Version");
    };
    if (major, minor) < (3, 5) {
        bail!("target version {target_version:?} not supported. Minimal \"3.5\"");
    }
    let current = offline::storage_version(data_dir).map_err(told)?;
    let current = current.as_deref().map_or("3.5", |version| version.strip_suffix(".0").unwrap_or(version));
    if current == target_version {
        tracing::info!(storage_version = current, "storage version up-to-date");
        return Ok(());
    }
    // Both versions have the same rows, apart from the label, which 3.5 does not know.
    match (major, minor) {
        (3, 5) => offline::set_storage_version(data_dir, None).map_err(told)?,
        (3, 6) => offline::set_storage_version(data_dir, Some(store::etcd::STORAGE_VERSION)).map_err(told)?,
        _ if *force => {
            offline::set_storage_version(data_dir, Some(&format!("{major}.{minor}.0"))).map_err(told)?;
            tracing::warn!(storage_version = target_version, "forcefully set storage version");
        }
        _ => bail!("version \"{major}.{minor}.0\" is not supported"),
    }
    tracing::info!(storage_version = target_version, "updated storage version");
    Ok(())
}

/// A result in all of etcdutl's forms.
struct Report {
    /// For people: headings and values.
    columns: Vec<(&'static str, String)>,
    fields: Vec<(&'static str, String)>,
    json: serde_json::Value,
}

impl Report {
    fn print(&self, format: OutputFormat) {
        print_line(&self.text(format));
    }

    fn text(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Simple => {
                let values: Vec<_> = self.columns.iter().map(|(_, value)| value.as_str()).collect();
                values.join(", ")
            }
            OutputFormat::Json => self.json.to_string(),
            OutputFormat::Fields => {
                let lines: Vec<_> = self.fields.iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
                lines.join("\n")
            }
            OutputFormat::Table => self.table(),
        }
    }

    fn table(&self) -> String {
        let (mut rule, mut head, mut row) = (String::from("+"), String::from("|"), String::from("|"));
        for (name, value) in &self.columns {
            let width = name.len().max(value.len());
            rule += &format!("{}+", "-".repeat(width + 2));
            head += &format!(" {:^width$} |", name.to_uppercase());
            row += &format!(" {value:>width$} |");
        }
        [&rule, &head, &rule, &row, &rule].map(String::as_str).join("\n")
    }
}

/// Bytes in powers of a thousand, with one decimal below ten: `59 MB`, `2.1 GB`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog10() / 3) as usize;
    let value = bytes as f64 / 1000_f64.powi(exponent as i32);
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {}", UNITS[exponent]) } else { format!("{value:.0} {}", UNITS[exponent]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_look_like_etcdutls() {
        let report = Report {
            columns: vec![("hash", "cf1550fb".into()), ("revision", "3".into()), ("total size", human_bytes(25_000))],
            fields: vec![("Hash", "3".into())],
            json: serde_json::json!({"hash": 3}),
        };
        assert_eq!(report.text(OutputFormat::Simple), "cf1550fb, 3, 25 kB");
        assert_eq!(report.text(OutputFormat::Json), "{\"hash\":3}");
        assert_eq!(report.text(OutputFormat::Fields), "\"Hash\" : 3");
        assert_eq!(
            report.text(OutputFormat::Table),
            "+----------+----------+------------+\n\
             |   HASH   | REVISION | TOTAL SIZE |\n\
             +----------+----------+------------+\n\
             | cf1550fb |        3 |      25 kB |\n\
             +----------+----------+------------+"
        );
    }

    #[test]
    fn sizes_are_rounded_as_etcdutl_does() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1_500, "1.5 kB"),
            (59_100_000, "59 MB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
