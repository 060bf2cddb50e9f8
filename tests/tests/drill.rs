//! The short form of `cargo xtask drill`.

use std::time::Duration;

use anyhow::{Result, ensure};
use quarterdeck_tests::drill::{Ending, Plan, Victims, quantile, run};

/// On the slowest machine that this should pass on, built without optimisation, beside other tests.
const FAIL_OVER_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_that_are_killed_one_after_the_other_lose_nothing() -> Result<()> {
    let plan = Plan {
        n_masters: 3,
        n_kills: 4,
        kill_interval: Duration::from_secs(8),
        victims: Victims::Leader,
        ending: Ending::Killed,
    };
    let report = tokio::time::timeout(Duration::from_secs(400), run(&plan)).await??;
    eprintln!("{report}");
    report.check()?;
    for times in [&report.writes, &report.schedules] {
        ensure!(quantile(times, 0.5) < FAIL_OVER_MAX, "fail-over is slow: {report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_that_are_restarted_one_after_the_other_lose_no_request() -> Result<()> {
    let plan = Plan {
        n_masters: 3,
        n_kills: 3,
        kill_interval: Duration::from_secs(2),
        victims: Victims::InTurn,
        ending: Ending::Stopped,
    };
    let report = tokio::time::timeout(Duration::from_secs(300), run(&plan)).await??;
    eprintln!("{report}");
    report.check()?;
    ensure!(report.n_served == report.n_requests, "a restart lost requests: {report}");
    Ok(())
}
