//! The binary: parses the command line, wires the components together, supervises them. It decides nothing about objects.

mod args;
mod duration;
mod kubeconfig;
mod pki;
mod run;
mod simulate;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Version of the Kubernetes API that is served.
pub(crate) const KUBERNETES_VERSION: &str = "v1.36.2";

/// The HTTP client's own lines name neither server nor purpose; whoever asked logs what failed.
const DEFAULT_LOG_FILTER: &str = "info,kube_client=off";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG_FILTER));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    let shutdown = run::shutdown_on_signals();
    let result = match cli.command {
        Command::Server(args) => run::server(*args, shutdown).await,
        Command::Apiserver(args) => run::api_server(*args, shutdown).await,
        Command::ControllerManager(args) => run::controller_manager(*args, shutdown).await,
        Command::Scheduler(args) => run::scheduler(*args, shutdown).await,
        Command::Store(args) => run::store(*args, shutdown).await,
        Command::SimulateNodes(args) => run::simulate_nodes(args, shutdown).await,
        Command::Version => {
            run::print_line(&format!("quarterdeck v{} (Kubernetes {KUBERNETES_VERSION})", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
