//! What a server costs while nothing happens.

use std::time::Duration;

use anyhow::Result;
use quarterdeck_tests::Durable;

use crate::Options;
use crate::place;
use crate::process::{cpu_time, resident_bytes};
use crate::report::Report;

/// A server has settled when it used less than [`SETTLED`] of a core in one window; it is given up waiting after some.
const WINDOW: Duration = Duration::from_secs(1);
const SETTLED: f64 = 0.03;
const WINDOWS_MAX: usize = 20;

pub(crate) async fn idle(options: &Options, report: &mut Report) -> Result<()> {
    let place = Durable::new()?;
    let (server, _) = place::durable(&place)?;
    let pid = server.process.id();
    for _ in 0..WINDOWS_MAX {
        if used(pid, WINDOW).await? < SETTLED {
            break;
        }
    }
    let share = used(pid, Duration::from_secs(options.idle_seconds)).await?;
    let resident = resident_bytes(pid)? as f64 / 1e6;
    report.add("resident memory, idle", format!("{resident:.0} MB"), "< 60 MB");
    report.add("CPU, idle", format!("{:.2} % of a core", share * 100.0), "< 1 %");
    Ok(())
}

/// Share of one core that a process uses during `window`.
async fn used(pid: u32, window: Duration) -> Result<f64> {
    let before = cpu_time(pid)?;
    tokio::time::sleep(window).await;
    Ok(cpu_time(pid)?.saturating_sub(before).as_secs_f64() / window.as_secs_f64())
}
