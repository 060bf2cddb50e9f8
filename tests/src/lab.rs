//! Masters in network namespaces of their own, on one switch: links can be cut, made deaf in one direction, or slow, and disks can stall.
//! Needs root, `ip` and, for disks, loop devices; says so when it cannot be. Whatever was made goes when the lab is dropped, with the
//! processes in it, which therefore must be declared after it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{Server, binary, has_program, quarterdeck, text};

/// Labs of one process have different names and networks.
static N_LABS: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Lab {
    /// Of everything's name; short, because names of links are.
    prefix: String,
    /// The first three bytes of all addresses.
    network: String,
    n_hosts: usize,
    /// Whether the tests' own processes reach the hosts.
    has_way_in: bool,
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
    /// Of the hosts whose links have a delay.
    wires: Mutex<BTreeMap<usize, Child>>,
}

impl Lab {
    /// A switch with so many hosts; `None` where that is not possible.
    pub fn new(n_hosts: usize) -> Result<Option<Self>> {
        Self::with(n_hosts, None)
    }

    /// The same with addresses that begin with these three bytes, reached by nobody from outside, so that they may be anybody's.
    pub fn isolated(n_hosts: usize, network: &str) -> Result<Option<Self>> {
        Self::with(n_hosts, Some(network.to_owned()))
    }

    fn with(n_hosts: usize, network: Option<String>) -> Result<Option<Self>> {
        if !has_program("ip") {
            return Ok(None);
        }
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
        if !is_root {
            eprintln!("skipped: network namespaces need root");
            return Ok(None);
        }
        let pid = std::process::id();
        let number = N_LABS.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            prefix: format!("qd{}{number}", pid % 100_000),
            has_way_in: network.is_none(),
            network: network
                .unwrap_or_else(|| format!("10.{}.{}", 180 + (pid + number) % 60, (pid / 60 + number) % 250)),
            n_hosts,
            dir: tempfile::tempdir()?,
            mounts: Vec::new(),
            wires: Mutex::default(),
        };
        if let Err(error) = lab.build() {
            // A container without the right to make namespaces.
            eprintln!("skipped: no network namespaces: {error:#}");
            return Ok(None);
        }
        Ok(Some(lab))
    }

    fn build(&self) -> Result<()> {
        let Self { prefix, network, .. } = self;
        let switch = self.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for at in 0..self.n_hosts {
            let (host, address) = (self.host(at), self.address(at));
            ip(&format!("netns add {host}"))?;
            ip(&format!("-n {switch} link add p{at} type veth peer name eth0 netns {host}"))?;
            ip(&format!("-n {switch} link set p{at} master br0 up"))?;
            ip(&format!("-n {host} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {host} link set eth0 up"))?;
            ip(&format!("-n {host} link set lo up"))?;
        }
        if !self.has_way_in {
            return Ok(());
        }
        // The way of the tests' own clients.
        ip(&format!("link add {prefix}r type veth peer name root netns {switch}"))?;
        ip(&format!("-n {switch} link set root master br0 up"))?;
        ip(&format!("addr add {network}.254/24 dev {prefix}r"))?;
        ip(&format!("link set {prefix}r up"))
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    fn host(&self, at: usize) -> String {
        format!("{}-{at}", self.prefix)
    }

    pub fn address(&self, at: usize) -> String {
        format!("{}.{}", self.network, at + 1)
    }

    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("m{at}"))
    }

    /// Something that runs on a host.
    pub fn command(&self, at: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(at), program]);
        command
    }

    /// The master of a host, with its standard ports.
    pub fn master(&self, at: usize) -> Command {
        let mut command = self.command(at, &binary().to_string_lossy());
        command
            .args(["server", "--name", &format!("m{at}"), "--bind-address", &self.address(at)])
            .args(["--store-peer-address", &format!("{}:2380", self.address(at)), "--data-dir"])
            .arg(self.data_dir(at));
        command
    }

    /// Starts the first master and lets the others join.
    pub fn form(&self) -> Result<Vec<Server>> {
        let mut servers = vec![Server::start(&mut self.master(0))?];
        let invitation = crate::masters::token(&servers[0])?;
        let url = format!("https://{}:6443", self.address(0));
        for at in 1..self.n_hosts {
            servers.push(Server::start(self.master(at).args(["--join", &url, "--token", &invitation]))?);
        }
        crate::masters::wait_for_voters(&servers[0], self.n_hosts)?;
        Ok(servers)
    }

    /// Pulls a host's plug.
    pub fn cut(&self, at: usize) -> Result<()> {
        ip(&format!("-n {} link set p{at} down", self.switch()))
    }

    pub fn heal(&self, at: usize) -> Result<()> {
        ip(&format!("-n {} link set p{at} up", self.switch()))
    }

    /// What one host sends another gets lost; the other direction works.
    pub fn lose(&self, from: usize, to: usize) -> Result<()> {
        ip(&format!("-n {} route add blackhole {}/32", self.host(from), self.address(to)))
    }

    pub fn find(&self, from: usize, to: usize) -> Result<()> {
        ip(&format!("-n {} route del blackhole {}/32", self.host(from), self.address(to)))
    }

    /// From now on, everything a host sends arrives so much later; false where that is not possible. A process carries the
    /// frames, because not every kernel has `netem`.
    pub fn delay(&self, at: usize, delay: Duration) -> Result<bool> {
        if !has_program("python3") || !Path::new("/dev/net/tun").exists() {
            eprintln!("skipped: no delay without python3 and /dev/net/tun");
            return Ok(false);
        }
        let (host, switch, port) = (self.host(at), self.switch(), format!("s{at}"));
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("wire.py"), &host, &switch, &port, &delay.as_millis().to_string()]);
        let mut wire = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("python3")?;
        let mut said = String::new();
        BufReader::new(wire.stdout.take().context("piped")?).read_line(&mut said)?;
        ensure!(said == "ready\n", "no wire to {host}");
        // The others know the host by its hardware address.
        let of_eth0 = run("ip", &["netns", "exec", &host, "cat", "/sys/class/net/eth0/address"])?;
        ip(&format!("-n {host} link set slow0 address {} up", of_eth0.trim()))?;
        ip(&format!("-n {host} addr add {}/24 dev slow0", self.address(at)))?;
        ip(&format!("-n {switch} link set {port} master br0 up"))?;
        ip(&format!("-n {host} link set eth0 down"))?;
        self.wires.lock().unwrap_or_else(PoisonError::into_inner).insert(at, wire);
        Ok(true)
    }

    pub fn undelay(&self, at: usize) -> Result<()> {
        let wire = self.wires.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
        let mut wire = wire.context("the host's link has no delay")?;
        ip(&format!("-n {} link set eth0 up", self.host(at)))?;
        // Its standard input ends, and so does it.
        drop(wire.stdin.take());
        wire.wait()?;
        Ok(())
    }

    /// Puts a host's data on a disk of its own, which can stall; before its master starts. False where there are no such disks.
    pub fn disk(&mut self, at: usize) -> Result<bool> {
        if !["losetup", "mkfs.ext4", "fsfreeze", "mount"].iter().all(|program| has_program(program)) {
            return Ok(false);
        }
        let image = self.dir.path().join(format!("m{at}.img"));
        std::fs::File::create(&image)?.set_len(1 << 30)?;
        run("mkfs.ext4", &["-q", text(&image)?])?;
        let data = self.data_dir(at);
        std::fs::create_dir_all(&data)?;
        if let Err(error) = run("mount", &["-o", "loop", text(&image)?, text(&data)?]) {
            eprintln!("skipped: no disks: {error:#}");
            return Ok(false);
        }
        self.mounts.push(data);
        Ok(true)
    }

    /// From now on, whatever writes to the host's disk waits.
    pub fn stall(&self, at: usize) -> Result<()> {
        run("fsfreeze", &["-f", text(&self.data_dir(at))?]).map(drop)
    }

    pub fn unstall(&self, at: usize) -> Result<()> {
        run("fsfreeze", &["-u", text(&self.data_dir(at))?]).map(drop)
    }

    /// Runs `quarterdeck status` on the host itself, whoever else can reach it.
    pub fn status(&self, at: usize) -> Result<serde_json::Value> {
        let kubeconfig = self.data_dir(at).join("admin.kubeconfig");
        let mut command = self.command(at, &binary().to_string_lossy());
        let output = command.args(["status", "-o", "json", "--kubeconfig"]).arg(kubeconfig).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for wire in self.wires.get_mut().unwrap_or_else(PoisonError::into_inner).values_mut() {
            let _gone_already = wire.kill();
            let _reaped = wire.wait();
        }
        for data in &self.mounts {
            let _not_frozen = Command::new("fsfreeze").arg("-u").arg(data).stderr(Stdio::null()).status();
            let _busy_until_the_process_is_gone = Command::new("umount").arg("-l").arg(data).status();
        }
        if self.has_way_in {
            let _was_not_made = ip(&format!("link del {}r", self.prefix));
        }
        for name in (0..self.n_hosts).map(|at| self.host(at)).chain([self.switch()]) {
            let _was_not_made = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(args: &str) -> Result<()> {
    run("ip", &args.split(' ').collect::<Vec<_>>()).map(drop)
}

/// What the program prints.
fn run(program: &str, args: &[&str]) -> Result<String> {
    let output: Output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The name of the master that leads, as one of them sees it.
pub fn leader(server: &Server) -> Result<String> {
    let output = quarterdeck(&["member", "ls", "-o", "json", "--kubeconfig", text(Path::new(&server.kubeconfig))?])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let leader = listed["items"].as_array().into_iter().flatten().find(|member| member["role"] == "leader");
    Ok(leader.context("no leader")?["name"].as_str().unwrap_or_default().to_owned())
}
