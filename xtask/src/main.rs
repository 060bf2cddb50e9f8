//! Chores that need more than one command: turning facts about upstream into the compact data files the crates embed.

mod docs;
mod facts;
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
    /// Rewrite the descriptions and table columns of crates/api/data.
    Docs {
        /// Folder with the .tsv tables.
        #[arg(long, default_value = "../shared/facts")]
        from: PathBuf,
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
        Task::Rbac { from } => rbac::run(&from),
    }
}
