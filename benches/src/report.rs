//! The table of figures, and the machine they come from.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Writes from which the disk's speed is told.
const SYNCS: u64 = 50;

/// Prints figures as they come, and all of them as a Markdown table at the end.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<[String; 3]>,
}

impl Report {
    pub(crate) fn begin() -> Result<Self> {
        let cores = std::thread::available_parallelism()?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let load = load.split_whitespace().next().unwrap_or("?");
        print(&format!(
            "{cores} cores, load {load} at the start, a write and sync of 4 KiB takes {:.2} ms (median)",
            milliseconds(sync_time()?)
        ));
        Ok(Self { rows: Vec::new() })
    }

    /// A figure; an empty target for one that has none.
    pub(crate) fn add(&mut self, what: &str, value: String, target: &str) {
        print(&format!("{what}: {value}"));
        self.rows.push([what.to_owned(), value, target.to_owned()]);
    }

    pub(crate) fn end(self) -> Result<()> {
        print("\n| what | measured | target |\n|---|---|---|");
        for [what, value, target] in &self.rows {
            print(&format!("| {what} | {value} | {target} |"));
        }
        Ok(())
    }
}

pub(crate) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _closed_pipe = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value below which `percent` of the samples lie.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    let index = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
    samples.get(index).copied().unwrap_or_default()
}

fn sync_time() -> Result<Duration> {
    let file: File = tempfile::tempfile()?;
    let block = [1; 4096];
    let mut samples = Vec::new();
    for n in 0..SYNCS {
        let started = Instant::now();
        file.write_all_at(&block, n * 4096)?;
        file.sync_data()?;
        samples.push(started.elapsed());
    }
    Ok(percentile(&mut samples, 50))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred_samples() {
        let mut samples: Vec<Duration> = (0..100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut samples, 50), Duration::from_millis(50));
        assert_eq!(percentile(&mut samples, 99), Duration::from_millis(99));
        assert_eq!(percentile(&mut samples, 100), Duration::from_millis(99));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
