//! Servers to measure: quiet ones, with a directory of their own that is gone with them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use quarterdeck_tests::{Durable, Process, Server, binary};

/// What a server logs while it is measured.
const LOG_LEVEL: &str = "error";

/// An in-memory server, and how long it took to be ready.
pub(crate) fn ephemeral() -> Result<(Server, Duration)> {
    timed(Command::new(binary()).args(["server", "--ephemeral"]))
}

/// A server on a directory, and how long it took to be ready.
pub(crate) fn durable(place: &Durable) -> Result<(Server, Duration)> {
    timed(&mut place.command())
}

fn timed(command: &mut Command) -> Result<(Server, Duration)> {
    let started = Instant::now();
    let server = Server::start(command.env("RUST_LOG", LOG_LEVEL))?;
    Ok((server, started.elapsed()))
}

/// Simulated nodes against a server, until dropped.
pub(crate) fn simulated_nodes(server: &Server, count: usize) -> Result<Process> {
    Process::spawn(
        Command::new(binary())
            .env("RUST_LOG", LOG_LEVEL)
            .stdout(Stdio::null())
            .args(["simulate-nodes", "--count", &count.to_string(), "--kubeconfig"])
            .arg(&server.kubeconfig),
    )
}
