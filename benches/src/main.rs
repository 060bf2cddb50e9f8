//! Measures the release binary through its public API and prints the figures that the README quotes.
//!
//! `cargo run --release -p quarterdeck-benches` builds the binary, runs every measurement on servers of its own (free loopback
//! ports, temporary directories, gone afterwards) and prints one table. Clients and servers share the machine, so every figure
//! includes what the client costs. Names given on the command line select measurements.

mod backup;
mod beside_etcd;
mod idle;
mod list;
mod objects;
mod place;
mod process;
mod ready;
mod report;
mod schedule;
mod watch;

use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use report::Report;

/// Measurements of Quarterdeck.
#[derive(Debug, Parser)]
#[command(name = "quarterdeck-benches")]
struct Options {
    /// What to measure; everything when not given.
    #[arg(value_enum)]
    only: Vec<Measurement>,
    /// Objects in the store for the restart.
    #[arg(long, default_value_t = 20_000)]
    objects: usize,
    /// Pods in the list that is read again and again.
    #[arg(long, default_value_t = 5_000)]
    listed: usize,
    /// Simulated nodes to schedule on.
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Pods to schedule.
    #[arg(long, default_value_t = 3_000)]
    pods: usize,
    /// Keys of 1 KiB for the store's memory and restart.
    #[arg(long, default_value_t = 100_000)]
    store_keys: usize,
    /// How long each load on the store lasts.
    #[arg(long, default_value_t = 3)]
    store_seconds: u64,
    /// How often each load on the store is repeated; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// State to back up, restore and bring to a joining master, in bytes.
    #[arg(long, default_value_t = 1_000_000_000)]
    state_bytes: usize,
    /// How long an idle server is watched.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurement {
    Ready,
    Idle,
    Restart,
    List,
    Watch,
    Schedule,
    /// Snapshots, restores and joining with a large state.
    Backup,
    /// `quarterdeck store` beside the etcd on PATH.
    Store,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    build()?;
    let mut report = Report::begin()?;
    for measurement in Measurement::value_variants() {
        if !options.only.is_empty() && !options.only.contains(measurement) {
            continue;
        }
        match measurement {
            Measurement::Ready => ready::empty(&mut report)?,
            Measurement::Idle => idle::idle(&options, &mut report).await?,
            Measurement::Restart => ready::full(&options, &mut report).await?,
            Measurement::List => list::list(&options, &mut report).await?,
            Measurement::Watch => watch::latency(&mut report).await?,
            Measurement::Backup => backup::backup(&options, &mut report).await?,
            Measurement::Store => beside_etcd::compare(&options).await?,
            Measurement::Schedule => schedule::schedule(&options, &mut report).await?,
        }
    }
    report.end()
}

/// Builds the binary when cargo runs us, so that one command measures what is in the tree.
fn build() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bin", "quarterdeck"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    ensure!(command.status()?.success(), "the binary does not build");
    Ok(())
}
