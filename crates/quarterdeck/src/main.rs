//! The binary: parses the command line, wires the components together, supervises them. It decides nothing about objects.

mod args;
mod backup;
mod control;
mod duration;
mod join;
mod kubeconfig;
mod logging;
mod pki;
mod run;
mod simulate;

use std::process::ExitCode;

use args::{Command, Parsed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Version of the Kubernetes API that is served.
pub(crate) const KUBERNETES_VERSION: &str = "v1.36.2";

fn main() -> ExitCode {
    let parsed = args::parse();
    // What is simulated would be other machines: they are to leave the master its processors. Threads inherit this.
    if matches!(parsed.command, Command::SimulateNodes(_)) {
        store::stand_behind();
    }
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(dispatch(parsed)),
        Err(error) => {
            logging::init(0);
            tracing::error!("no threads to run on: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(Parsed { command, warnings }: Parsed) -> ExitCode {
    // A store that serves logs as its own flags say.
    let is_store_server = matches!(&command, Command::Store(args) if args.is_server());
    if !is_store_server {
        logging::init(command.verbosity());
    }
    let shutdown = run::shutdown_on_signals();
    let result = match command {
        Command::Server(args) => Box::pin(run::server(*args, shutdown)).await,
        Command::Apiserver(args) => run::api_server(*args, shutdown).await,
        Command::ControllerManager(args) => run::controller_manager(*args, shutdown).await,
        Command::Scheduler(args) => run::scheduler(*args, shutdown).await,
        Command::Store(args) => run::store(*args, &warnings, shutdown).await,
        Command::Snapshot(command) => run::snapshot(*command).await,
        Command::Token(command) => run::token(command).await,
        Command::Member(command) => run::member(command).await,
        Command::Certs(command) => run::certs(command),
        Command::Kubeconfig(args) => run::kubeconfig(args),
        Command::Status(args) => run::status(args, shutdown).await,
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
