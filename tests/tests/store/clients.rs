//! What programs do with clients of other languages. The programs are in `tests/clients`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::has_program;
use quarterdeck_tests::stores::{Setup, Stores};

/// Of the same descent, with the same interface.
const MODULES: [&str; 2] = ["pyetcd", "etcd3"];

fn python(args: &[&str]) -> Result<(bool, String)> {
    // Code that was generated long ago is read only by this one.
    let output = Command::new("python3").env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python").args(args).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.success(), said))
}

/// Runs the flows through a member, with each module there is.
fn flows(stores: &Stores, at: usize, tls: &[&str]) -> Result<()> {
    if !has_program("python3") {
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/store.py").to_string_lossy().into_owned();
    let endpoint = format!("127.0.0.1:{}", stores.members[at].client_port);
    for module in MODULES {
        if !python(&["-c", &format!("import {module}")])?.0 {
            eprintln!("skipped: python3 has no module `{module}`");
            continue;
        }
        let args: Vec<_> = [&*script, module, &*endpoint].into_iter().chain(tls.iter().copied()).collect();
        let (succeeded, said) = python(&args)?;
        ensure!(succeeded && said.lines().any(|line| line == "ok"), "{module}: {said}");
    }
    Ok(())
}

#[test]
fn the_python_clients_run_their_flows_against_one_member() -> Result<()> {
    flows(&Stores::start(Setup { n_members: 1, ..Setup::default() })?, 0, &[])
}

#[test]
fn the_python_clients_run_their_flows_against_three_members_over_tls() -> Result<()> {
    let stores = Stores::start(Setup { n_members: 3, tls: true, ..Setup::default() })?;
    let files = stores.tls_files("client");
    flows(&stores, 1, &files.each_ref().map(String::as_str))
}

/// The flows of the `etcd-client` crate, in the package that is built by itself.
fn etcd_client() -> Option<PathBuf> {
    let program = "clients/etcd-client/target/debug/etcd-client-flows";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    if !program.is_file() {
        eprintln!("skipped: tests/clients/etcd-client is not built");
        return None;
    }
    Some(program)
}

/// Runs the flows, and starts the member that they add.
fn flows_of_etcd_client(n_members: usize) -> Result<()> {
    let Some(program) = etcd_client() else { return Ok(()) };
    let mut stores = Stores::start(Setup { n_members, tls: true, ..Setup::default() })?;
    let place = stores.place("new")?;
    let mut command = Command::new(program);
    command.arg(stores.endpoints()).args(stores.tls_files("client")).arg(stores.peer_url(&place));
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut place = Some(place);
    let mut last = String::new();
    for line in BufReader::new(running.stdout.take().context("stdout")?).lines() {
        last = line?;
        if last == "added"
            && let Some(place) = place.take()
        {
            stores.join(place)?;
            writeln!(running.stdin.as_mut().context("stdin")?, "started")?;
        }
    }
    let mut said = String::new();
    running.stderr.take().context("stderr")?.read_to_string(&mut said)?;
    ensure!(running.wait()?.success() && last == "ok", "{last} {said}");
    Ok(())
}

#[test]
fn the_rust_client_runs_its_flows_against_one_member_over_tls() -> Result<()> {
    flows_of_etcd_client(1)
}

#[test]
fn the_rust_client_runs_its_flows_against_three_members_over_tls() -> Result<()> {
    flows_of_etcd_client(3)
}
