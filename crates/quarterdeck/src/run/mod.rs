//! What each command does: configuration checked, components made, wired and stopped in order.

mod access;
mod audit;
mod care;
mod certs;
mod component_metrics;
mod components;
mod configz;
mod door;
mod elect;
mod guard;
mod kubeconfig;
mod member;
mod rejoin;
mod renewal;
mod scheduler_config;
mod server;
mod snapshot;
mod status;
mod store;
mod tls;
mod token;

use std::io::Write as _;

use client::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use certs::certs;
pub(crate) use component_metrics::ComponentMetrics;
pub(crate) use components::{api_server, controller_manager, scheduler, simulate_nodes};
pub(crate) use kubeconfig::kubeconfig;
pub(crate) use member::member;
pub(crate) use server::server;
pub(crate) use snapshot::snapshot;
pub(crate) use status::status;
pub(crate) use store::store;
pub(crate) use token::token;

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

/// Columns under a head, as wide as they must be.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("   ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

fn print_table(head: &[&str], rows: &[Vec<String>]) {
    print_line(&table(head, rows));
}
