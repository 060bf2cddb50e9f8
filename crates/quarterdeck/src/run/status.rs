//! `quarterdeck status`: one master and its cluster on a screen.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{Timestamp, Unit};

use super::access::Access;
use super::{print_line, table};
use crate::args::{MasterStatusArgs, PrintFormat};
use crate::control::MasterStatus;

/// Between two looks with --watch.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(crate) async fn status(args: MasterStatusArgs, shutdown: client::Shutdown) -> Result<()> {
    let access = Access::open(args.access.kubeconfig.as_deref()).await?;
    loop {
        let (document, health) = tokio::join!(access.get("status"), access.health("readyz"));
        // Nobody can tell how a server is that does not answer; the other question says why.
        let health = health.unwrap_or_default();
        match (args.access.output.output, document) {
            // A master that is away for a moment is what one watches for.
            (_, Err(error)) if args.watch => print_line(&format!("{error:#}")),
            (_, Err(error)) => return Err(error),
            (PrintFormat::Json, Ok(mut document)) => {
                let health = health.iter().map(|(name, passes)| serde_json::json!({ "name": name, "ok": passes }));
                document["health"] = health.collect();
                print_line(&format!("{document:#}"));
            }
            (PrintFormat::Table, Ok(document)) => {
                let status: MasterStatus = serde_json::from_value(document).context("the server's answer")?;
                if args.watch && std::io::stdout().is_terminal() {
                    let mut out = std::io::stdout().lock();
                    let _closed_pipe = out.write_all(CLEAR.as_bytes());
                }
                print_line(&screen(&status, &health, Timestamp::now()));
            }
        }
        if !args.watch {
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(REFRESH_INTERVAL) => {}
        }
    }
}

fn screen(status: &MasterStatus, health: &[(String, bool)], now: Timestamp) -> String {
    let MasterStatus { version, kubernetes_version, started, store, members, alarms, certificates, backup } = status;
    let mut text = format!("quarterdeck {version} (Kubernetes {kubernetes_version}), up {}\n", since(started, now));
    let sizes = format!("{} of {} in use", bytes(store.size_in_use_bytes), bytes(store.size_bytes));
    let lag = store.raft_index.saturating_sub(store.raft_applied_index);
    text.push_str(&format!(
        "store: {}, cluster {}, revision {}, term {}, {lag} entries behind, {sizes}, quota {}\n",
        store.topology,
        store.cluster_id,
        store.revision,
        store.term,
        bytes(store.quota_bytes),
    ));
    let failing: Vec<_> = health.iter().filter(|(_, passes)| !passes).map(|(name, _)| name.as_str()).collect();
    match failing.as_slice() {
        [] if health.is_empty() => text.push_str("health: unknown\n"),
        [] => text.push_str(&format!("health: ready, {} checks pass\n", health.len())),
        failing => text.push_str(&format!("health: NOT ready: {}\n", failing.join(", "))),
    }
    for error in store.errors.iter().chain(alarms) {
        text.push_str(&format!("store: {error}\n"));
    }
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|m| {
            vec![
                m.id.clone(),
                m.name.clone(),
                m.role.clone(),
                m.state.clone(),
                m.peer_urls.join(","),
                m.client_urls.join(","),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["ID", "NAME", "ROLE", "STATE", "PEERS", "CLIENTS"], &rows));
    if !certificates.is_empty() {
        let rows: Vec<Vec<String>> =
            certificates.iter().map(|c| vec![c.name.clone(), until(&c.expires, now), c.expires.clone()]).collect();
        text.push_str("\n\n");
        text.push_str(&table(&["CERTIFICATE", "EXPIRES IN", "AT"], &rows));
    }
    text.push_str("\n\n");
    match &backup.target {
        None => text.push_str("backup: none configured (--backup-target)"),
        Some(target) => {
            let sealed = if backup.encrypted { "encrypted" } else { "NOT encrypted" };
            let last =
                backup.last_success.as_deref().map_or("never".into(), |time| format!("{} ago", since(time, now)));
            text.push_str(&format!("backup: {target}, {sealed}, last success {last}, {} failures", backup.failures));
            if let (Some(from), Some(until)) = (&backup.recoverable_from, &backup.recoverable_until) {
                text.push_str(&format!("\nbackup: any moment from {from} to {until} can be restored"));
            }
            if let Some(failure) = &backup.last_failure {
                text.push_str(&format!("\nbackup: last failure {failure}"));
            }
        }
    }
    text
}

fn since(time: &str, now: Timestamp) -> String {
    time.parse::<Timestamp>().map_or_else(|_| "?".into(), |time| span(now.duration_since(time)))
}

fn until(time: &str, now: Timestamp) -> String {
    time.parse::<Timestamp>().map_or_else(
        |_| "?".into(),
        |time| {
            if time <= now { "EXPIRED".into() } else { span(time.duration_since(now)) }
        },
    )
}

/// The two largest units, as kubectl prints ages.
fn span(duration: jiff::SignedDuration) -> String {
    let seconds = duration.round(Unit::Second).unwrap_or(duration).as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

fn bytes(n_bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (n_bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n_bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_short() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(since("2026-01-02T03:03:55Z", now), "10s");
        assert_eq!(since("2026-01-02T02:00:00Z", now), "1h4m");
        assert_eq!(until("2027-01-02T03:04:05Z", now), "365d0h");
        assert_eq!(until("2026-01-02T03:04:05Z", now), "EXPIRED");
        assert_eq!((bytes(12), bytes(20_480), bytes(5 << 30)), ("12 B".into(), "20.0 KiB".into(), "5.0 GiB".into()));
    }
}
