//! The drill of `cargo xtask store-drill`, with as many rounds as `STORE_DRILL_ROUNDS` says: few, unless somebody wants to know.

use anyhow::{Context as _, Result};
use quarterdeck_tests::store_drill::{Plan, run};

const ROUNDS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_killed_paused_and_cut_off_keep_their_word() -> Result<()> {
    let n_rounds = match std::env::var("STORE_DRILL_ROUNDS") {
        Ok(rounds) => rounds.parse().context("STORE_DRILL_ROUNDS")?,
        Err(_) => ROUNDS,
    };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let report = run(&Plan { n_rounds, seed }).await?;
    eprint!("{report}");
    report.check().with_context(|| format!("seed {seed}"))
}
