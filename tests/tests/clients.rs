//! What programs do with the clients of other languages, on an ephemeral server with simulated nodes. The programs are in
//! `tests/clients`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use quarterdeck_tests::{Server, has_program, simulate_nodes};

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Runs a program, whose last argument is a kubeconfig, to its last line.
fn flows(program: &str, script: &str) -> Result<()> {
    let server = Server::ephemeral()?;
    let _nodes = simulate_nodes(&server, 2)?;
    let output = Command::new(program).arg(clients().join(script)).arg(&server.kubeconfig).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || said.lines().last() != Some("ok") {
        bail!("{script}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[test]
fn the_python_client_runs_its_flows() -> Result<()> {
    if !has_program("python3") {
        return Ok(());
    }
    if !Command::new("python3").args(["-c", "import kubernetes"]).output()?.status.success() {
        eprintln!("skipped: python3 has no module `kubernetes`");
        return Ok(());
    }
    flows("python3", "flows.py")
}

#[test]
fn the_javascript_client_runs_its_flows() -> Result<()> {
    if !has_program("node") {
        return Ok(());
    }
    if !clients().join("node_modules").is_dir() {
        eprintln!("skipped: `npm install` was not run in tests/clients");
        return Ok(());
    }
    flows("node", "flows.mjs")
}
