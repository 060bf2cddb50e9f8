//! Chores that need more than one command: turning facts about upstream into the compact data files the crates embed.

mod docs;
mod facts;
mod rbac;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use quarterdeck_tests::drill::{Ending, Plan, Victims};

#[derive(Parser)]
#[command(name = "xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rewrite the descriptions and table columns of crates/api/data.
    Docs {
        /// Folder with the .tsv tables.
        #[arg(long, default_value = "../shared/facts")]
        from: PathBuf,
    },
    /// Kill masters one after the other under load, and report what that cost.
    Drill {
        #[arg(long, default_value_t = 3)]
        masters: usize,
        /// For how long.
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// Seconds between two kills.
        #[arg(long, default_value_t = 10.0)]
        interval: f64,
        /// So many kills, instead of as many as there is time for.
        #[arg(long, conflicts_with = "minutes")]
        kills: Option<usize>,
        /// Always kill the master whose store leads.
        #[arg(long)]
        leader: bool,
        /// Restart one after the other instead (SIGTERM).
        #[arg(long, conflicts_with = "leader")]
        rolling: bool,
    },
    /// Kill, pause and cut off members of a store cluster under load, and hold what clients were told against what happened.
    StoreDrill {
        #[arg(long, default_value_t = 200)]
        rounds: usize,
        /// Of the faults; drawn when not given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Rewrite crates/api/data from the fact tables.
    Facts {
        /// Folder with the .tsv tables.
        #[arg(long, default_value = "../shared/facts")]
        from: PathBuf,
        /// Compare instead of writing; fail when a file is stale.
        #[arg(long)]
        check: bool,
    },
    /// Writes crates/apiserver/data/rbac.json from upstream's bootstrap policy.
    Rbac {
        /// Folder with cluster-roles.yaml, cluster-role-bindings.yaml and the other five lists.
        #[arg(long)]
        from: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().task {
        Task::Docs { from } => docs::run(std::path::Path::new("."), &from),
        Task::Facts { from, check } => facts::run(&from, check),
        Task::Drill { masters, minutes, interval, kills, leader, rolling } => {
            let kill_interval = std::time::Duration::try_from_secs_f64(interval)?;
            let n_kills = kills.unwrap_or((minutes * 60.0 / interval.max(0.1)) as usize);
            let (victims, ending) = match (leader, rolling) {
                (true, _) => (Victims::Leader, Ending::Killed),
                (false, true) => (Victims::InTurn, Ending::Stopped),
                (false, false) => (Victims::Random, Ending::Killed),
            };
            drill(&Plan { n_masters: masters, n_kills, kill_interval, victims, ending })
        }
        Task::StoreDrill { rounds, seed } => store_drill(rounds, seed),
        Task::Rbac { from } => rbac::run(&from),
    }
}

/// Builds the binary that is drilled, in the profile of this one.
fn build_binary() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--workspace", "--bin", "quarterdeck"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    anyhow::ensure!(build.status()?.success(), "the binary was not built");
    Ok(())
}

fn store_drill(n_rounds: usize, seed: Option<u64>) -> anyhow::Result<()> {
    build_binary()?;
    let seed = seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let plan = quarterdeck_tests::store_drill::Plan { n_rounds, seed };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(quarterdeck_tests::store_drill::run(&plan))?;
    eprint!("{report}");
    report.check()
}

fn drill(plan: &Plan) -> anyhow::Result<()> {
    build_binary()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(quarterdeck_tests::drill::run(plan))?;
    eprint!("{report}");
    report.check()
}
