//! Machines as far as a master can tell: a network namespace, a name, processes, and `/etc`, `/root`, `/tmp`, `/var/lib` and `/var/log` of
//! their own. They can be switched off, with everything that runs on them, and replaced by empty ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::Lab;
use crate::{PATIENCE, Process, Server, binary, eventually, has_program, text};

/// Directories that a machine has for itself; `/tmp` last, because the others may lie in it.
const OWN: [&str; 5] = ["/etc", "/root", "/var/lib", "/var/log", "/tmp"];
/// Where a machine finds the binary under test.
const PROGRAMS: &str = "/mnt";

#[derive(Debug)]
pub struct Machine {
    name: String,
    at: usize,
    disk: tempfile::TempDir,
    /// Its process 1 and that one's number; all others end with it.
    init: Option<(Process, u32)>,
    server: Option<Server>,
}

/// Whether machines can be made here.
pub fn are_possible() -> bool {
    ["unshare", "nsenter", "mount", "hostname"].iter().all(|program| has_program(program))
}

impl Machine {
    /// With these lines in `/etc/hosts`, switched on.
    pub fn new(lab: &Lab, at: usize, name: &str, hosts: &str) -> Result<Self> {
        let disk = tempfile::tempdir()?;
        for dir in OWN {
            std::fs::create_dir_all(place(disk.path(), dir))?;
        }
        let etc = place(disk.path(), "/etc");
        let copied = Command::new("cp").args(["-a", "/etc/.", text(&etc)?]).status()?;
        ensure!(copied.success(), "cannot copy /etc");
        std::fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\n{hosts}\n"))?;
        let mut machine = Self { name: name.to_owned(), at, disk, init: None, server: None };
        machine.switch_on(lab)?;
        Ok(machine)
    }

    pub fn switch_on(&mut self, lab: &Lab) -> Result<()> {
        let programs = binary();
        let programs = programs.parent().context("the binary has a folder")?;
        let mut script = format!("set -e\nmount --bind {} {PROGRAMS}\nhostname {}\n", text(programs)?, self.name);
        for dir in OWN {
            script.push_str(&format!("mount --bind {} {dir}\n", text(&place(self.disk.path(), dir))?));
        }
        script.push_str("touch /root/is-on\nexec sleep infinity\n");
        let is_on = self.file("/root/is-on");
        let _was_off = std::fs::remove_file(&is_on);
        let mut command = lab.command(self.at, "unshare");
        command.args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
        let init = Process::spawn(&mut command)?;
        eventually("a machine that is on", || Ok(is_on.exists().then_some(())))?;
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", init.id()))?;
        let pid = children.split_whitespace().next().context("the machine's first process")?.parse()?;
        self.init = Some((init, pid));
        Ok(())
    }

    /// Nothing that runs on it ends in order.
    pub fn switch_off(&mut self) {
        self.init = None;
        self.server = None;
    }

    pub fn is_on(&self) -> bool {
        self.init.is_some()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file of the machine, from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        let dir = OWN.into_iter().find(|dir| path.starts_with(&format!("{dir}/"))).unwrap_or("/root");
        place(self.disk.path(), dir).join(path.trim_start_matches(dir).trim_start_matches('/'))
    }

    fn shell(&self, script: &str) -> Result<Command> {
        let (_, pid) = self.init.as_ref().with_context(|| format!("{} is off", self.name))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--mount", "--uts", "--net", "--pid", "sh", "-c"]);
        // As one shell that is left open: what was exported stays.
        command.arg(format!("set -e\ncd /root\nif [ -f .exported ]; then . ./.exported; fi\n{script}"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{PROGRAMS}:{path}")).env("HOME", "/root").env_remove("KUBECONFIG");
        Ok(command)
    }

    /// Types commands, which must succeed; what they print.
    pub fn run(&self, commands: &str) -> Result<String> {
        let output = self.shell(&format!("{commands}\nexport -p > .exported"))?.stdin(Stdio::null()).output()?;
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {commands}\n{printed}{said}", self.name);
        Ok(printed.into_owned())
    }

    pub fn json(&self, commands: &str) -> Result<serde_json::Value> {
        serde_json::from_str(&self.run(commands)?).with_context(|| format!("{commands} does not print JSON"))
    }

    /// Starts what serves; the one before it is stopped first. A master is waited for.
    pub fn serve(&mut self, command: &str) -> Result<()> {
        self.stop()?;
        let log = std::fs::File::options().create(true).append(true).open(self.file("/root/server.log"))?;
        let mut shell = self.shell(&format!("echo $$ > server.pid\nexec {command}"))?;
        let started = if command.contains("--witness") {
            let process = Process::spawn(shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
            Ok(Server { process, kubeconfig: PathBuf::new() })
        } else {
            Server::start(shell.stdin(Stdio::null()).stderr(log))
        };
        self.server = Some(started.with_context(|| format!("{}: {command}\n{}", self.name, self.log()))?);
        Ok(())
    }

    pub fn is_serving(&self) -> bool {
        self.server.is_some()
    }

    /// The end of what its server has said.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.file("/root/server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// SIGTERM, and wait.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        self.run("kill -TERM $(cat server.pid)")?;
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            if let Some(status) = server.process.ended()? {
                ensure!(status.success(), "{}: the server ended badly\n{}", self.name, self.log());
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        bail!("{}: the server does not end\n{}", self.name, self.log())
    }
}

fn place(disk: &Path, dir: &str) -> PathBuf {
    disk.join(dir.trim_start_matches('/').replace('/', "-"))
}
