//! What each command does: configuration checked, components made, wired and stopped in order.

mod components;
mod elect;
mod server;
mod store;
mod tls;

use std::io::Write as _;

use client::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use components::{api_server, controller_manager, scheduler, simulate_nodes};
pub(crate) use server::server;
pub(crate) use store::store;

/// Cancelled by the first SIGTERM or SIGINT; the second ends the process at once.
pub(crate) fn shutdown_on_signals() -> Shutdown {
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return tracing::error!("cannot listen for signals: stop with SIGKILL");
        };
        for stops in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stops == 0 {
                tracing::info!("stopping");
                stop.cancel();
            } else {
                std::process::exit(1);
            }
        }
    });
    shutdown
}

/// A line for the user on standard output. A closed pipe is no reason to stop a server.
pub(crate) fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _closed_pipe = writeln!(out, "{line}").and_then(|()| out.flush());
}
