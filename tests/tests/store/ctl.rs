//! etcd's own programs, and what they say.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::stores::Stores;
use quarterdeck_tests::{PATIENCE, Process};

/// Every etcdctl on PATH of version 3.5 or later, under whatever name that begins so, the newest last.
pub(crate) fn programs() -> Result<Vec<Program>> {
    let found = versions_of("etcdctl")?;
    if found.is_empty() {
        eprintln!("skipped: no etcdctl of version 3.5 or later is on PATH");
    }
    Ok(found)
}

/// The newest etcdutl on PATH, if there is one.
pub(crate) fn etcdutl() -> Result<Option<PathBuf>> {
    let newest = versions_of("etcdutl")?.pop();
    if newest.is_none() {
        eprintln!("skipped: no etcdutl is on PATH");
    }
    Ok(newest.map(|program| program.path))
}

#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// Major and minor.
    pub(crate) version: (u32, u32),
}

fn versions_of(name: &str) -> Result<Vec<Program>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<(String, Program)> = Vec::new();
    for dir in std::env::split_paths(&path) {
        let files = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(name)) {
            let output = Command::new(file.path()).env("ETCDCTL_API", "3").arg("version").output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let first = format!("{name} version: ");
            let version = said.lines().find_map(|line| line.strip_prefix(&*first)).unwrap_or_default();
            let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
            let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { continue };
            if (major, minor) >= (3, 5) && found.iter().all(|(known, _)| known != version) {
                found.push((version.to_owned(), Program { path: file.path(), version: (major, minor) }));
            }
        }
    }
    let mut found: Vec<_> = found.into_iter().map(|(_, program)| program).collect();
    found.sort_by_key(|program| program.version);
    Ok(found)
}

/// etcdctl with the flags that lead to a cluster.
pub(crate) struct Ctl<'a> {
    pub(crate) program: Program,
    pub(crate) stores: &'a Stores,
    endpoints: String,
}

impl<'a> Ctl<'a> {
    pub(crate) fn to(program: Program, stores: &'a Stores) -> Self {
        Self { program, stores, endpoints: stores.endpoints() }
    }

    /// The same with some of the members only.
    pub(crate) fn at(&self, endpoints: &[&str]) -> Self {
        Self { program: self.program.clone(), endpoints: endpoints.join(","), ..*self }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program.path);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoints));
        if self.stores.scheme() == "https" {
            let [ca, cert, key] = self.stores.tls_files("client");
            command.arg(format!("--cacert={ca}")).arg(format!("--cert={cert}")).arg(format!("--key={key}"));
        }
        command.arg("--command-timeout=30s").args(args);
        command
    }

    /// Runs a command; whether it succeeded, and all it said but its own log.
    pub(crate) fn run(&self, args: &[&str], stdin: &str) -> Result<(bool, String)> {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("stdin")?.write_all(stdin.as_bytes())?;
        let output = child.wait_with_output()?;
        // Not everything is text.
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let is_own = |line: &&str| !line.starts_with("{\"level\"") && !line.contains("\tinfo\t");
        Ok((output.status.success(), said.lines().filter(is_own).collect::<Vec<_>>().join("\n")))
    }

    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        let (succeeded, said) = self.run(args, "")?;
        ensure!(succeeded, "etcdctl {args:?}: {said}");
        Ok(said)
    }

    /// Runs commands in turn; all that they say is compared.
    pub(crate) fn session(&self, commands: &[(&str, &str)]) -> Result<()> {
        for (command, expected) in commands {
            let args: Vec<_> = command.split(' ').collect();
            let (_, said) = self.run(&args, "")?;
            ensure!(said.trim_end() == *expected, "etcdctl {command}: {said:?} instead of {expected:?}");
        }
        Ok(())
    }

    /// Starts a command that does not end by itself.
    pub(crate) fn follow(&self, args: &[&str]) -> Result<Following> {
        let mut command = self.command(args);
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let stdout = process.stdout().context("stdout")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _nobody_listens_any_more = sender.send(line);
            }
        });
        Ok(Following { _process: process, lines })
    }
}

pub(crate) struct Following {
    _process: Process,
    pub(crate) lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    /// The next lines are these.
    pub(crate) fn says(&self, expected: &[&str]) -> Result<()> {
        for expected in expected {
            let line = self.lines.recv_timeout(PATIENCE).with_context(|| format!("{expected:?} is not said"))?;
            ensure!(line == *expected, "{line:?} instead of {expected:?}");
        }
        Ok(())
    }

    pub(crate) fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("nothing is said")
    }
}
