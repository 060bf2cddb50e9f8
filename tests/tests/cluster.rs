//! Three `quarterdeck store` processes, driven by etcdctl through each of them.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::{Process, binary, eventually, free_port, has_program};
use serde_json::Value;

struct Member {
    name: String,
    client_url: String,
    peer_url: String,
    process: Option<Process>,
}

struct Cluster {
    dir: tempfile::TempDir,
    members: Vec<Member>,
}

impl Cluster {
    fn of_three() -> Result<Self> {
        let mut cluster = Self { dir: tempfile::tempdir()?, members: Vec::new() };
        for name in ["a", "b", "c"] {
            cluster.members.push(Member::new(name)?);
        }
        let initial = cluster.members.iter().map(|member| format!("{}={}", member.name, member.peer_url));
        let initial = initial.collect::<Vec<_>>().join(",");
        for at in 0..3 {
            cluster.start(at, "new", &initial)?;
        }
        Ok(cluster)
    }

    fn start(&mut self, at: usize, state: &str, initial: &str) -> Result<()> {
        let dir = self.dir.path().join(&self.members[at].name);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{}.log", self.members[at].name)))?;
        let member = &mut self.members[at];
        let process = Process::spawn(
            Command::new(binary())
                .args(["store", "--name", &member.name, "--data-dir"])
                .arg(dir)
                .args(["--listen-client-urls", &member.client_url, "--advertise-client-urls", &member.client_url])
                .args(["--listen-peer-urls", &member.peer_url, "--initial-advertise-peer-urls", &member.peer_url])
                .args(["--initial-cluster", initial, "--initial-cluster-state", state])
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        member.process = Some(process);
        Ok(())
    }

    fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            process.kill();
        }
    }

    /// Runs etcdctl against one member.
    fn ctl(&self, at: usize, args: &[&str]) -> Result<String> {
        etcdctl(&self.members[at].client_url, args)
    }

    fn json(&self, at: usize, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.ctl(at, &[args, &["-w", "json"]].concat())?)?)
    }

    /// Id of a member and of the one it takes for the leader.
    fn ids(&self, at: usize) -> Result<(u64, u64)> {
        let status = self.json(at, &["endpoint", "status"])?;
        let number = |path: &str| status[0].pointer(path).and_then(Value::as_u64).unwrap_or(0);
        Ok((number("/Status/header/member_id"), number("/Status/leader")))
    }

    /// The place of the leader that all running members agree on.
    fn leader(&self) -> Result<usize> {
        eventually("a leader that all agree on", || {
            let mut leaders = Vec::new();
            let mut ids = BTreeMap::new();
            for at in (0..self.members.len()).filter(|at| self.members[*at].process.is_some()) {
                let (own, leader) = self.ids(at)?;
                ids.insert(own, at);
                leaders.push(leader);
            }
            let agreed = leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]);
            Ok(ids.get(&leaders[0]).copied().filter(|_| agreed))
        })
    }

    fn same_hashes(&self) -> Result<()> {
        eventually("equal hashes", || {
            let mut hashes = Vec::new();
            for at in (0..self.members.len()).filter(|at| self.members[*at].process.is_some()) {
                let hash = self.json(at, &["endpoint", "hashkv"])?;
                hashes.push(hash[0]["HashKV"]["hash"].clone());
            }
            Ok(hashes.iter().all(|hash| hash.is_u64() && *hash == hashes[0]).then_some(()))
        })
    }
}

impl Member {
    fn new(name: &str) -> Result<Self> {
        let url = || Ok::<_, anyhow::Error>(format!("http://127.0.0.1:{}", free_port()?));
        Ok(Self { name: name.into(), client_url: url()?, peer_url: url()?, process: None })
    }
}

fn etcdctl(endpoint: &str, args: &[&str]) -> Result<String> {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        // With a scheme, some of its commands send what is no authority to HTTP.
        .arg(format!("--endpoints={}", endpoint.trim_start_matches("http://")))
        .args(["--dial-timeout=2s", "--command-timeout=8s"])
        .args(args)
        .output()
        .context("etcdctl")?;
    ensure!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn three_members_serve_etcdctl_and_lose_nothing_when_one_dies_or_is_replaced() -> Result<()> {
    if !has_program("etcdctl") {
        return Ok(());
    }
    let mut cluster = Cluster::of_three()?;
    cluster.leader()?;
    for at in 0..3 {
        let key = format!("through-{at}");
        assert_eq!(cluster.ctl(at, &["put", &key, "yes"])?, "OK\n");
        for other in 0..3 {
            assert_eq!(cluster.ctl(other, &["get", &key, "--print-value-only"])?, "yes\n");
        }
        let members = cluster.json(at, &["member", "list"])?;
        assert_eq!(members["members"].as_array().map(Vec::len), Some(3));
    }

    let leader = cluster.leader()?;
    let next = (leader + 1) % 3;
    let (next_id, _) = cluster.ids(next)?;
    let refused = cluster.ctl(next, &["move-leader", &format!("{next_id:x}")]).unwrap_err().to_string();
    assert!(refused.contains("no leader endpoint given"), "{refused}");
    let moved = cluster.ctl(leader, &["move-leader", &format!("{next_id:x}")])?;
    assert!(moved.starts_with("Leadership transferred from"), "{moved}");
    assert_eq!(cluster.leader()?, next);

    // Writers on the members that stay, while the leader is killed.
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .filter(|at| *at != next)
        .map(|at| {
            let (endpoint, acknowledged, stop) =
                (cluster.members[at].client_url.clone(), acknowledged.clone(), stop.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("load-{at}-{n}");
                    if etcdctl(&endpoint, &["put", &key, "kept"]).is_ok() {
                        acknowledged.lock().unwrap().insert(key, at);
                    }
                }
            })
        })
        .collect();
    let n_acknowledged = || acknowledged.lock().unwrap().len();
    eventually("some writes", || Ok((n_acknowledged() > 10).then_some(())))?;
    cluster.kill(next);
    let before = n_acknowledged();
    eventually("writes go on without the leader", || Ok((n_acknowledged() > before + 10).then_some(())))?;
    cluster.start(next, "new", &format!("{}={}", cluster.members[next].name, cluster.members[next].peer_url))?;
    eventually("the one that was killed serves again", || cluster.ctl(next, &["get", "through-0"]).map(Some))?;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    cluster.leader()?;
    cluster.same_hashes()?;
    let found = cluster.ctl(next, &["get", "load-", "--prefix", "--keys-only"])?;
    for key in acknowledged.lock().unwrap().keys() {
        assert!(found.lines().any(|line| line == key), "{key} was acknowledged");
    }

    // One member goes, another comes.
    let gone = (cluster.leader()? + 1) % 3;
    let (gone_id, _) = cluster.ids(gone)?;
    let stays = (gone + 1) % 3;
    let removed = eventually("the cluster is healthy enough to remove a member", || {
        cluster.ctl(stays, &["member", "remove", &format!("{gone_id:x}")]).map(Some)
    })?;
    assert!(removed.contains("removed from cluster"), "{removed}");
    eventually("the removed member knows", || {
        let log = std::fs::read_to_string(cluster.dir.path().join(format!("{}.log", cluster.members[gone].name)))?;
        Ok(log.contains("the member has been permanently removed from the cluster").then_some(()))
    })?;
    cluster.kill(gone);
    cluster.members[gone] = Member::new("d")?;
    let peer_url = format!("--peer-urls={}", cluster.members[gone].peer_url);
    eventually("the cluster is healthy enough to add a member", || {
        cluster.ctl(stays, &["member", "add", "d", "--learner", &peer_url]).map(Some)
    })?;
    let members = cluster.json(stays, &["member", "list"])?;
    let pair = |member: &Value| {
        let name = member["name"].as_str().filter(|name| !name.is_empty()).unwrap_or("d");
        Some(format!("{name}={}", member["peerURLs"][0].as_str()?))
    };
    let initial: Vec<_> = members["members"].as_array().context("members")?.iter().filter_map(pair).collect();
    cluster.start(gone, "existing", &initial.join(","))?;
    let (new_id, _) = eventually("the new member runs", || cluster.ids(gone).map(Some))?;
    eventually("the learner is promoted", || {
        cluster.ctl(stays, &["member", "promote", &format!("{new_id:x}")]).map(Some)
    })?;
    cluster.leader()?;
    cluster.same_hashes()?;
    assert_eq!(cluster.ctl(gone, &["get", "through-1", "--print-value-only"])?, "yes\n");
    Ok(())
}
