//! The embedded store seen by etcdctl, and the whole server on a real etcd.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use quarterdeck_tests::{Durable, Process, Server, eventually, free_port, has_program, simulate_nodes};

fn etcdctl(durable: &Durable, args: &[&str]) -> Result<Output> {
    let pki = durable.dir.path().join("pki");
    Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://127.0.0.1:{}", durable.store_port))
        .arg(format!("--cacert={}", pki.join("ca.crt").display()))
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
