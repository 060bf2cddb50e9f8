//! The embedded store seen by etcdctl, and the whole server on a real etcd.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use quarterdeck_tests::{Durable, Process, Server, eventually, free_port, has_program, simulate_nodes};

fn etcdctl(durable: &Durable, args: &[&str]) -> Result<Output> {
    let pki = durable.dir.path().join("pki");
    Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://127.0.0.1:{}", durable.store_port))
        .arg(format!("--cacert={}", pki.join("store-ca.crt").display()))
        .arg(format!("--cert={}", pki.join("store-client.crt").display()))
        .arg(format!("--key={}", pki.join("store-client.key").display()))
        .args(args)
        .output()
        .context("etcdctl")
}

fn etcdctl_ok(durable: &Durable, args: &[&str]) -> Result<String> {
    let output = etcdctl(durable, args)?;
    anyhow::ensure!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn etcdctl_reads_and_writes_the_store() -> Result<()> {
    if !has_program("etcdctl") {
        return Ok(());
    }
    let durable = Durable::new()?;
    let _server = durable.start()?;
    assert_eq!(etcdctl_ok(&durable, &["put", "/foo", "bar"])?, "OK\n");
    assert_eq!(etcdctl_ok(&durable, &["get", "/foo"])?, "/foo\nbar\n");
    let keys = etcdctl_ok(&durable, &["get", "--prefix", "--keys-only", "/registry/namespaces/"])?;
    assert!(keys.contains("/registry/namespaces/kube-system\n"), "{keys}");
    let status = etcdctl_ok(&durable, &["endpoint", "status", "-w", "json"])?;
    assert!(status.contains("\"raftTerm\""), "{status}");
    let snapshot = durable.dir.path().join("snapshot.db");
    let path = snapshot.to_str().context("path")?;
    etcdctl_ok(&durable, &["snapshot", "save", path])?;
    let checked = etcdctl_ok(&durable, &["snapshot", "status", path, "-w", "json"])?;
    assert!(checked.contains("\"revision\""), "{checked}");
    assert_eq!(etcdctl_ok(&durable, &["del", "/foo"])?, "1\n");

    let bare = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://127.0.0.1:{}", durable.store_port))
        .arg(format!("--cacert={}", durable.dir.path().join("pki/ca.crt").display()))
        .args(["--dial-timeout=2s", "--command-timeout=2s", "get", "/foo"])
        .output()?;
    assert!(!bare.status.success(), "the store's API wants a client certificate");
    Ok(())
}

#[test]
fn a_server_runs_on_a_stand_alone_etcd() -> Result<()> {
    if !has_program("etcd") || !has_program("kubectl") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (client_port, peer_port) = (free_port()?, free_port()?);
    let client_url = format!("http://127.0.0.1:{client_port}");
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(dir.path().join("etcd"));
    etcd.args(["--name=one", "--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    etcd.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    etcd.arg(format!("--initial-cluster=one={peer_url}"));
    etcd.stdout(Stdio::null()).stderr(Stdio::null());
    let _etcd = Process::spawn(&mut etcd)?;
    eventually("etcd listens", || Ok(std::net::TcpStream::connect(("127.0.0.1", client_port)).ok()))?;

    let start = || {
        Server::start(
            Command::new(quarterdeck_tests::binary())
                .args(["server", "--bind-address=127.0.0.1", "--etcd-servers", &client_url])
                .arg(format!("--secure-port={}", free_port()?))
                .arg("--data-dir")
                .arg(dir.path().join("data")),
        )
    };
    let mut server = start()?;
    let nodes = simulate_nodes(&server, 2)?;
    server.kubectl_ok(&["create", "deployment", "web", "--image=registry.example/web:1", "--replicas=2"])?;
    server.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    drop(nodes);
    server.process.kill();
    let server = start()?;
    let replicas = server.kubectl_ok(&["get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}"])?;
    assert_eq!(replicas, "2");
    Ok(())
}

/// `quarterdeck store` on free ports, and the lines it logs.
fn start_store(dir: &std::path::Path, port: u16, flags: &[&str]) -> Result<Process> {
    let url = format!("http://127.0.0.1:{port}");
    let log = std::fs::File::create(dir.join("store.log"))?;
    let mut command = Command::new(quarterdeck_tests::binary());
    command.arg("store").arg("--data-dir").arg(dir.join("store"));
    command.arg("--listen-peer-urls=http://127.0.0.1:0");
    command.args(["--name=one", "--listen-client-urls", &url, "--advertise-client-urls", &url]).args(flags);
    let process = Process::spawn(command.stderr(log))?;
    eventually("the store is ready", || {
        let log = std::fs::read_to_string(dir.join("store.log"))?;
        Ok(log.contains("\"msg\":\"ready to serve client requests\"").then_some(()))
    })?;
    Ok(process)
}

fn tool(args: &[&str]) -> Result<String> {
    let output = Command::new(quarterdeck_tests::binary()).arg("store").args(args).output()?;
    anyhow::ensure!(output.status.success(), "store {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_stand_alone_store_is_saved_restored_and_looked_at_as_an_etcd() -> Result<()> {
    if !has_program("etcdctl") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let endpoint = format!("127.0.0.1:{port}");
    let etcdctl = |args: &[&str]| -> Result<String> {
        let output =
            Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(args).output()?;
        anyhow::ensure!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let path = |name: &str| dir.path().join(name).to_str().map(str::to_owned).context("path");
    let mut store = start_store(dir.path(), port, &["--max-txn-ops=2", "--quota-backend-bytes=100000000"])?;
    etcdctl(&["put", "a", "1"])?;
    etcdctl(&["put", "a", "2"])?;
    let saved = path("saved.db")?;
    assert_eq!(
        tool(&["snapshot", "save", "--endpoints", &endpoint, &saved])?,
        format!("Snapshot saved at {saved}\nServer version 3.6.0\n")
    );
    // etcd's own tool, of a version that counts revisions instead of keys, agrees about the rest.
    let theirs = etcdctl(&["snapshot", "status", &saved])?;
    let ours = tool(&["snapshot", "status", &saved])?;
    let (theirs, ours): (Vec<_>, Vec<_>) = (theirs.trim().split(", ").collect(), ours.trim().split(", ").collect());
    assert_eq!((theirs[0], theirs[1], theirs[3]), (ours[0], ours[1], ours[3]));
    assert_eq!((ours[1], ours[2], ours[4]), ("3", "1", "3.6.0"));
    let hash = etcdctl(&["endpoint", "hashkv", "-w", "json"])?;
    let hash = hash.split("\"hash\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).context("hash")?;
    assert_eq!(tool(&["hashkv", &saved, "-w", "fields"])?.lines().next(), Some(format!("\"Hash\" : {hash}").as_str()));
    anyhow::ensure!(store.terminate()?);
    assert!(tool(&["verify", &path("store")?])?.ends_with("ok\n"));
    tool(&["defrag", "--data-dir", &path("store")?])?;

    std::fs::rename(dir.path().join("store"), dir.path().join("old"))?;
    tool(&[
        "snapshot",
        "restore",
        &saved,
        "--data-dir",
        &path("store")?,
        "--name=one",
        "--initial-cluster=one=http://localhost:2380",
        "--bump-revision=1000",
        "--mark-compacted",
    ])?;
    let _store = start_store(dir.path(), port, &[])?;
    assert_eq!(etcdctl(&["get", "a"])?, "a\n2\n");
    assert!(etcdctl(&["get", "a", "-w", "json"])?.contains("\"revision\":1003"));
    Ok(())
}

#[test]
fn a_full_store_takes_writes_again_once_it_was_compacted_shrunk_and_told_so() -> Result<()> {
    if !has_program("etcdctl") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let etcdctl = |args: &[&str]| {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints=127.0.0.1:{port}")).args(args);
        command.output().context("etcdctl")
    };
    let text = |output: &Output| String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let _store = start_store(dir.path(), port, &["--quota-backend-bytes=20000000", "--unsafe-no-fsync"])?;
    let value = "v".repeat(100_000);
    let refused = eventually("the quota is reached", || {
        let put = etcdctl(&["put", "large", &value])?;
        Ok((!put.status.success()).then(|| text(&put)))
    })?;
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    assert!(text(&etcdctl(&["alarm", "list"])?).contains("alarm:NOSPACE"));
    let small = etcdctl(&["put", "small", "1"])?;
    assert!(!small.status.success(), "an alarm refuses everything that adds data");
    assert!(etcdctl(&["get", "large", "--keys-only"])?.status.success());
    let status = text(&etcdctl(&["get", "large", "-w", "json", "--keys-only"])?);
    let revision = status.split("\"revision\":").nth(1).and_then(|rest| rest.split(',').next()).context("revision")?;
    assert!(etcdctl(&["compact", revision, "--physical"])?.status.success());
    assert!(etcdctl(&["defrag"])?.status.success());
    assert!(!etcdctl(&["put", "small", "1"])?.status.success(), "the alarm stays until it is lowered");
    assert!(etcdctl(&["alarm", "disarm"])?.status.success());
    let put = etcdctl(&["put", "small", "1"])?;
    assert!(put.status.success(), "{}", text(&put));
    Ok(())
}
