//! Chores that need more than one command: turning facts about upstream into the compact data files the crates embed.

mod rbac;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes crates/apiserver/data/rbac.json from upstream's bootstrap policy.
    Rbac {
        /// Folder with cluster-roles.yaml, cluster-role-bindings.yaml and the other five lists.
        #[arg(long)]
        from: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().task {
        Task::Rbac { from } => rbac::run(&from),
    }
}
