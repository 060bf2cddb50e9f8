//! Events in a file, one a line, in files of bounded size.
//!
//! A thread of its own writes: what waits is written together, so that many requests share one call.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::metrics::Metrics;
use super::sink::{BackendConfig, Entry};

/// Events written by one call.
const BATCH_MAX: usize = 256;
/// Name of a full file: `audit-2026-11-28T07-00-00.000.log`.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const MEGABYTE: u64 = 1 << 20;

/// `--audit-log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

/// `--audit-log-…`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `-` for standard output.
    pub path: PathBuf,
    pub format: Format,
    /// Days that full files are kept; 0: for ever.
    pub max_age_days: u32,
    /// Full files kept; 0: all.
    pub max_backups: usize,
    /// Megabytes of a file; 0: one file.
    pub max_size_mb: u64,
    /// Full files are compressed.
    pub compress: bool,
    pub backend: BackendConfig,
}

/// Opens the file, and starts the thread that writes to it. It ends with the queue.
pub(super) fn start(config: LogConfig, entries: mpsc::Receiver<Entry>, metrics: Metrics) -> io::Result<()> {
    let mut output = Output::open(config)?;
    let write = move || run(&mut output, entries, &metrics);
    std::thread::Builder::new().name("audit-log".to_owned()).spawn(write)?;
    Ok(())
}

fn run(output: &mut Output, mut entries: mpsc::Receiver<Entry>, metrics: &Metrics) {
    let mut batch = Vec::new();
    let mut text = Vec::new();
    while let Some(first) = entries.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH_MAX
            && let Ok(next) = entries.try_recv()
        {
            batch.push(next);
        }
        for entry in batch.iter().filter(|entry| !entry.is_marker()) {
            text.extend_from_slice(&entry.bytes);
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
        }
        let written = output.write(&text);
        if let Err(error) = &written {
            metrics.error("log", batch.len());
            tracing::error!(%error, events = batch.len(), "cannot write the audit log");
        }
        for done in batch.drain(..).filter_map(|entry| entry.done) {
            let _nobody_waits = done.send(written.is_ok());
        }
        text.clear();
    }
}

enum Output {
    Stdout,
    File { config: LogConfig, file: File, size: u64 },
}

impl Output {
    fn open(config: LogConfig) -> io::Result<Self> {
        if config.path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        if let Some(dir) = config.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = append(&config.path)?;
        let size = file.metadata()?.len();
        Ok(Self::File { config, file, size })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text)?;
                out.flush()
            }
            Self::File { config, file, size } => {
                let limit = config.max_size_mb * MEGABYTE;
                if limit > 0 && *size > 0 && *size + text.len() as u64 > limit {
                    *file = rotate(config)?;
                    *size = 0;
                }
                file.write_all(text)?;
                *size += text.len() as u64;
                Ok(())
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Stem and extension of the file's name.
fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

/// Puts the full file away under the time's name, and begins a new one.
fn rotate(config: &LogConfig) -> io::Result<File> {
    let (stem, extension) = name_parts(&config.path);
    let stamp = jiff::Timestamp::now().strftime(STAMP).to_string();
    let away = config.path.with_file_name(format!("{stem}-{stamp}{extension}"));
    fs::rename(&config.path, &away)?;
    if config.compress {
        compress(&away)?;
    }
    // Old files that cannot be removed are tried again the next time.
    if let Err(error) = clean(config, SystemTime::now()) {
        tracing::warn!(%error, "cannot remove old audit logs");
    }
    append(&config.path)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut packed = path.as_os_str().to_owned();
    packed.push(".gz");
    let out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&packed)?;
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

/// Removes full files that are too many or too old.
fn clean(config: &LogConfig, now: SystemTime) -> io::Result<()> {
    let (stem, extension) = name_parts(&config.path);
    let dir = config.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut full: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bare = name.strip_suffix(".gz").unwrap_or(&name);
        let stamp = bare.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        if let Some(stamp) = stamp.filter(|stamp| stamp.len() == "2026-11-28T07-00-00.000".len()) {
            full.push((stamp.to_owned(), path));
        }
    }
    full.sort_by(|a, b| b.0.cmp(&a.0));
    let age = Duration::from_secs(u64::from(config.max_age_days) * 24 * 3600);
    for (at, (_, path)) in full.iter().enumerate() {
        let too_many = config.max_backups > 0 && at >= config.max_backups;
        let is_old = || {
            let modified = fs::metadata(path).and_then(|data| data.modified()).unwrap_or(now);
            config.max_age_days > 0 && now.duration_since(modified).is_ok_and(|since| since > age)
        };
        if too_many || is_old() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sink::{BatchConfig, Mode};
    use super::*;

    #[test]
    fn a_full_file_is_put_away_and_old_ones_are_removed() {
        let dir = std::env::temp_dir().join(format!("audit-log-{}", uuid::Uuid::new_v4()));
        let batch = BatchConfig { buffer_size: 1, max_size: 1, max_wait: Duration::ZERO, throttle: None };
        let config = LogConfig {
            path: dir.join("audit.log"),
            format: Format::Json,
            max_age_days: 1,
            max_backups: 2,
            max_size_mb: 1,
            compress: true,
            backend: BackendConfig { mode: Mode::Blocking, batch, truncate: None },
        };
        let mut output = Output::open(config).unwrap();
        let most = vec![b'x'; 900 << 10];
        for _ in 0..5 {
            output.write(&most).unwrap();
            // Names are of milliseconds.
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
        }
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[0].starts_with("audit-2") && names[0].ends_with(".log.gz"), "{names:?}");
        assert_eq!(names[2], "audit.log");
        fs::remove_dir_all(dir).unwrap();
    }
}
