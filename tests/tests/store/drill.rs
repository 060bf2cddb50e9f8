//! The short form of `cargo xtask store-drill`.

use anyhow::Result;
use quarterdeck_tests::store_drill::{Plan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_killed_paused_and_cut_off_keep_their_word() -> Result<()> {
    let report = run(&Plan { n_rounds: 8, seed: rand::random() }).await?;
    eprint!("{report}");
    report.check()
}
