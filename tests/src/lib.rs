//! Whole-system tests: the real binary, driven through its real doors by real clients.
//!
//! This library starts and stops processes; the tests are in `tests/`. Every process a test starts ends with it, listens on a
//! free loopback port and keeps its files in a temporary directory. Tests of external programs skip with a message when the
//! program is not on PATH.

pub mod bucket;
pub mod drill;
pub mod endpoints;
pub mod lab;
pub mod machines;
pub mod masters;
pub mod page;
pub mod store_drill;
pub mod stores;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Nothing a test waits for takes longer than this on the slowest machine it should pass on.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test: beside the caller's own, since they are built together. Programs are in `target/PROFILE`, tests
/// one level below.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("quarterdeck")).find(|binary| binary.is_file());
    beside.unwrap_or_else(|| panic!("quarterdeck is not beside {}: run `cargo test --workspace`", own.display()))
}

/// A child process that does not outlive its owner.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it writes, where that was piped; given once.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped_before = self.0.wait();
    }

    /// Sends a signal by its name: STOP, CONT, TERM.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        anyhow::ensure!(status.context("kill")?.success(), "no signal {name} to process {}", self.0.id());
        Ok(())
    }

    /// SIGTERM; `true` when the process ended by itself and said that all is well.
    pub fn terminate(&mut self) -> Result<bool> {
        self.signal("TERM")?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the process does not end after SIGTERM")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running `quarterdeck server`.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    pub kubeconfig: PathBuf,
}

impl Server {
    /// In memory, on free ports.
    pub fn ephemeral() -> Result<Self> {
        Self::start(Command::new(binary()).args(["server", "--ephemeral"]))
    }

    /// Runs a command and waits for the line that says where the kubeconfig is.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut process = Process::spawn(command.stdout(Stdio::piped()))?;
        let stdout = process.stdout().context("stdout")?;
        let (lines, line) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                let _nobody_listens_any_more = lines.send(text);
            }
        });
        let text = line.recv_timeout(PATIENCE).context("the server did not become ready")?;
        let kubeconfig =
            text.strip_prefix("export KUBECONFIG=").with_context(|| format!("unexpected line {text:?}"))?;
        Ok(Self { process, kubeconfig: kubeconfig.into() })
    }

    /// Runs kubectl against this server.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl_stdin(args, "")
    }

    /// Runs kubectl with a manifest on standard input.
    pub fn kubectl_stdin(&self, args: &[&str], stdin: &str) -> Result<Output> {
        use std::io::Write as _;
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        let mut child = Command::new("kubectl")
            .arg(format!("--cache-dir={}", cache.display()))
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl")?;
        child.stdin.take().context("stdin")?.write_all(stdin.as_bytes())?;
        child.wait_with_output().context("kubectl")
    }

    /// Runs kubectl, which must succeed; its standard output.
    pub fn kubectl_ok(&self, args: &[&str]) -> Result<String> {
        self.kubectl_ok_stdin(args, "")
    }

    pub fn kubectl_ok_stdin(&self, args: &[&str], stdin: &str) -> Result<String> {
        let output = self.kubectl_stdin(args, stdin)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("kubectl {args:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// Runs kubectl, which must fail; its standard error.
    pub fn kubectl_err(&self, args: &[&str], stdin: &str) -> Result<String> {
        let output = self.kubectl_stdin(args, stdin)?;
        if output.status.success() {
            bail!("kubectl {args:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A typed client as the admin.
    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }
}

/// Simulated nodes against a server, until dropped.
pub fn simulate_nodes(server: &Server, count: usize) -> Result<Process> {
    Process::spawn(
        Command::new(binary())
            .args(["simulate-nodes", "--count", &count.to_string(), "--kubeconfig"])
            .arg(&server.kubeconfig),
    )
}

/// A durable server's flags: its own directory and ports, so that it can be started again.
#[derive(Debug)]
pub struct Durable {
    pub dir: tempfile::TempDir,
    pub secure_port: u16,
    pub store_port: u16,
    pub peer_port: u16,
}

impl Durable {
    pub fn new() -> Result<Self> {
        let (secure_port, store_port, peer_port) = (free_port()?, free_port()?, free_port()?);
        Ok(Self { dir: tempfile::tempdir()?, secure_port, store_port, peer_port })
    }

    /// An empty directory at the same addresses.
    pub fn emptied(&self) -> Result<Self> {
        let Self { dir: _, secure_port, store_port, peer_port } = *self;
        Ok(Self { dir: tempfile::tempdir()?, secure_port, store_port, peer_port })
    }

    pub fn start(&self) -> Result<Server> {
        Server::start(&mut self.command())
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["server", "--bind-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.secure_port))
            .arg(format!("--store-client-address=127.0.0.1:{}", self.store_port))
            .arg(format!("--store-peer-address=127.0.0.1:{}", self.peer_port))
            .arg("--data-dir")
            .arg(self.dir.path());
        command
    }
}

/// Runs the binary's own commands.
pub fn quarterdeck(args: &[&str]) -> Result<Output> {
    Command::new(binary()).args(args).env_remove("KUBECONFIG").output().context("quarterdeck")
}

/// Runs a command that must succeed and prints JSON.
pub fn quarterdeck_json(args: &[&str]) -> Result<serde_json::Value> {
    let output = quarterdeck(args)?;
    if !output.status.success() {
        bail!("{args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{args:?} does not print JSON"))
}

/// Runs a command that must fail; what it says.
pub fn quarterdeck_err(args: &[&str]) -> Result<String> {
    let output = quarterdeck(args)?;
    if output.status.success() {
        bail!("{args:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A path on a command line.
pub fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("a path is not text")
}

/// A port nobody listens on right now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether a program is on PATH; says so when it is not, so that a skipped test does not look like a passed one.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !found {
        eprintln!("skipped: {name} is not on PATH");
    }
    found
}

/// Whether a node is ready and its taints are gone.
pub fn takes_pods(node: &k8s_openapi::api::core::v1::Node) -> bool {
    let is_untainted = node.spec.as_ref().is_none_or(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty));
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    is_untainted && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Repeats `check` until it gives a value.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    match last {
        Some(error) => Err(error.context(format!("{what} did not happen"))),
        None => bail!("{what} did not happen"),
    }
}
