//! Clusters of `quarterdeck store`: each member a process that can be killed, paused and started again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use store::proto::etcdserverpb::StatusRequest;
use store::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};

use crate::lab::Lab;
use crate::{Process, binary, eventually, free_port, text};

/// An answer to anything takes less, also on a slow machine, when there is a leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a cluster is set up.
#[derive(Debug, Default)]
pub struct Setup {
    pub n_members: usize,
    /// Certificates of one authority for clients and members; clients must have one.
    pub tls: bool,
    /// Flags of every member.
    pub flags: Vec<String>,
}

#[derive(Debug)]
pub struct Stores {
    pub members: Vec<StoreMember>,
    // Processes end before what they use goes.
    pub lab: Option<Lab>,
    pub dir: tempfile::TempDir,
    flags: Vec<String>,
    tls: bool,
}

#[derive(Debug)]
pub struct StoreMember {
    pub name: String,
    pub host: String,
    pub client_port: u16,
    pub peer_port: u16,
    pub data_dir: PathBuf,
    pub process: Option<Process>,
}

impl StoreMember {
    fn in_dir(dir: &Path, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            host: "127.0.0.1".into(),
            client_port: free_port()?,
            peer_port: free_port()?,
            data_dir: dir.join(name),
            process: None,
        })
    }

    fn peer_url(&self, scheme: &str) -> String {
        format!("{scheme}://{}:{}", self.host, self.peer_port)
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and all must be well.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().with_context(|| format!("{} runs", self.name))?;
        ensure!(process.terminate()?, "{} did not end well", self.name);
        Ok(())
    }

    pub fn signal(&self, name: &str) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} runs", self.name))?.signal(name)
    }
}

impl Stores {
    /// Starts a new cluster on loopback, and waits until it serves.
    pub fn start(setup: Setup) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let members = (0..setup.n_members).map(|at| StoreMember::in_dir(dir.path(), &format!("m{at}")));
        Self::of(setup, members.collect::<Result<_>>()?, None, dir)
    }

    /// Members on the hosts of a lab.
    pub fn in_lab(setup: Setup, lab: Lab) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let member = |at: usize| StoreMember {
            name: format!("m{at}"),
            host: lab.address(at),
            client_port: 2379,
            peer_port: 2380,
            data_dir: dir.path().join(format!("m{at}")),
            process: None,
        };
        let members = (0..setup.n_members).map(member).collect();
        Self::of(setup, members, Some(lab), dir)
    }

    fn of(setup: Setup, members: Vec<StoreMember>, lab: Option<Lab>, dir: tempfile::TempDir) -> Result<Self> {
        let mut stores = Self { members, lab, dir, flags: setup.flags, tls: setup.tls };
        if stores.tls {
            write_certificates(stores.dir.path())?;
        }
        for at in 0..stores.members.len() {
            stores.spawn(at, &[])?;
        }
        for at in 0..stores.members.len() {
            stores.wait_ready(at)?;
        }
        Ok(stores)
    }

    /// Starts a member that is not running, and waits until it serves.
    pub fn run(&mut self, at: usize) -> Result<()> {
        self.spawn(at, &[])?;
        self.wait_ready(at)
    }

    /// A member that was added to the cluster: takes a place here and starts.
    pub fn join(&mut self, member: StoreMember) -> Result<usize> {
        let at = self.begin_to_join(member)?;
        self.wait_ready(at)?;
        Ok(at)
    }

    /// As [`Stores::join`], without waiting until it serves.
    pub fn begin_to_join(&mut self, member: StoreMember) -> Result<usize> {
        self.members.push(member);
        let at = self.members.len() - 1;
        self.spawn(at, &["--initial-cluster-state=existing"])?;
        Ok(at)
    }

    /// A place for a member to be, on loopback.
    pub fn place(&self, name: &str) -> Result<StoreMember> {
        StoreMember::in_dir(self.dir.path(), name)
    }

    pub fn peer_url(&self, member: &StoreMember) -> String {
        member.peer_url(self.scheme())
    }

    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub fn spawn(&mut self, at: usize, more: &[&str]) -> Result<()> {
        let scheme = self.scheme();
        let member = &self.members[at];
        let client = format!("{scheme}://{}:{}", member.host, member.client_port);
        let listed = self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url(scheme)));
        let listed: Vec<_> = listed.collect();
        let mut command = match &self.lab {
            Some(lab) => lab.command(at, &binary().to_string_lossy()),
            None => Command::new(binary()),
        };
        command.args(["store", "--name", &member.name, "--data-dir", text(&member.data_dir)?]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        let peer = member.peer_url(scheme);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &listed.join(",")]).args(&self.flags).args(more);
        if self.tls {
            let [ca, cert, key] = self.tls_files("server");
            command.arg(format!("--trusted-ca-file={ca}")).arg("--client-cert-auth");
            command.arg(format!("--cert-file={cert}")).arg(format!("--key-file={key}"));
            command.arg(format!("--peer-trusted-ca-file={ca}")).arg("--peer-client-cert-auth");
            command.arg(format!("--peer-cert-file={cert}")).arg(format!("--peer-key-file={key}"));
        }
        let log = std::fs::File::create(self.log(at))?;
        self.members[at].process = Some(Process::spawn(command.stderr(log))?);
        Ok(())
    }

    fn log(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.members[at].name))
    }

    pub fn wait_ready(&mut self, at: usize) -> Result<()> {
        let log = self.log(at);
        let process = self.members[at].process.as_mut().context("a process")?;
        eventually("the member is ready", || {
            let log = std::fs::read_to_string(&log)?;
            if let Some(status) = process.ended()? {
                anyhow::bail!("it ended, {status}: {log}");
            }
            Ok(log.contains("\"msg\":\"ready to serve client requests\"").then_some(()))
        })
    }

    /// Files of the authority, and of the certificate and key of a name.
    pub fn tls_files(&self, name: &str) -> [String; 3] {
        let file = |name: String| self.dir.path().join(name).to_string_lossy().into_owned();
        [file("ca.crt".into()), file(format!("{name}.crt")), file(format!("{name}.key"))]
    }

    /// `HOST:PORT` of all members, as etcdctl wants them.
    pub fn endpoints(&self) -> String {
        let endpoints = self.members.iter().map(|member| format!("{}:{}", member.host, member.client_port));
        endpoints.collect::<Vec<_>>().join(",")
    }

    /// A connection to a member (without TLS), made when it is first used and again when it broke.
    pub fn channel(&self, at: usize) -> Result<Channel> {
        let member = &self.members[at];
        let url = format!("http://{}:{}", member.host, member.client_port);
        Ok(Endpoint::from_shared(url)?.connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT).connect_lazy())
    }

    /// The member that leads, as the running members agree.
    pub async fn leader(&self) -> Result<usize> {
        self.leader_as("").await
    }

    /// As [`Stores::leader`], with the token of a user who may ask.
    pub async fn leader_as(&self, token: &str) -> Result<usize> {
        let deadline = std::time::Instant::now() + crate::PATIENCE;
        loop {
            let mut leaders = Vec::new();
            let mut own = vec![0; self.members.len()];
            for at in (0..self.members.len()).filter(|at| self.members[*at].is_running()) {
                let mut request = tonic::Request::new(StatusRequest {});
                if !token.is_empty() {
                    request.metadata_mut().insert("token", token.parse()?);
                }
                let status = MaintenanceClient::new(self.channel(at)?).status(request).await;
                let Ok(status) = status.map(tonic::Response::into_inner) else { continue };
                own[at] = status.header.context("a header")?.member_id;
                leaders.push(status.leader);
            }
            let leader = leaders.first().copied().unwrap_or(0);
            let place = own.iter().position(|id| leader != 0 && *id == leader);
            if let Some(place) = place.filter(|_| leaders.iter().all(|other| *other == leader)) {
                return Ok(place);
            }
            ensure!(std::time::Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `ca.crt`, and `server` and `client` with a key each.
fn write_certificates(dir: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "stores");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(dir.join("ca.crt"), authority.pem())?;
    for name in ["server", "client"] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(dir.join(format!("{name}.crt")), params.signed_by(&key, &authority)?.pem())?;
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}
