//! The command line, as typed. Parsing does nothing else; what the values mean is decided in `run`.
//!
//! Flags carry upstream's names and meaning. A flag that is not listed here is refused by name: nothing is swallowed.

mod api_server;
mod controller_manager;
mod leader;
mod scheduler;
mod server;
mod store;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use api_server::{ApiServerArgs, ApiServerFlags, EtcdFlags};
pub(crate) use controller_manager::{ControllerFlags, ControllerManagerArgs};
pub(crate) use leader::{ElectFlags, LeaderFlags};
pub(crate) use scheduler::SchedulerArgs;
pub(crate) use server::ServerArgs;
pub(crate) use store::StoreArgs;

/// A Kubernetes master in one binary: API server, controller manager, scheduler and cluster store.
#[derive(Debug, Parser)]
#[command(name = "quarterdeck", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole master: store, API server, controllers and scheduler in one process.
    Server(Box<ServerArgs>),
    /// Run only the API server, against a stand-alone store.
    Apiserver(Box<ApiServerArgs>),
    /// Run only the controllers, against an API server.
    ControllerManager(Box<ControllerManagerArgs>),
    /// Run only the scheduler, against an API server.
    Scheduler(Box<SchedulerArgs>),
    /// Run only the cluster store, with etcd's API, flags and ETCD_* variables.
    Store(Box<StoreArgs>),
    /// Register simulated nodes and run their pods as kubelets would.
    SimulateNodes(SimulateArgs),
    /// Print the version of Quarterdeck and of the Kubernetes API it serves.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// How many nodes to register.
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Kubeconfig of the cluster.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Names are this plus a number.
    #[arg(long, default_value = "sim-")]
    pub name_prefix: String,
}
