//! The four components as four processes, wired by files that a first `server` run made.

use std::process::Command;

use anyhow::Result;
use quarterdeck_tests::{Durable, Process, Server, binary, eventually, free_port, has_program, simulate_nodes};

#[test]
fn four_processes_are_a_master() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    // The first run makes the PKI and the kubeconfigs; then the parts take over its ports.
    let durable = Durable::new()?;
    let mut whole = durable.start()?;
    let kubeconfig = whole.kubeconfig.clone();
    assert!(whole.process.terminate()?);

    let dir = durable.dir.path();
    let pki = dir.join("pki");
    let store_port = free_port()?;
    let store_url = format!("http://127.0.0.1:{store_port}");
    let _store = Process::spawn(
        Command::new(binary())
            .args(["store", "--listen-peer-urls=http://127.0.0.1:0"])
            .args(["--listen-client-urls", &store_url, "--advertise-client-urls", &store_url, "--data-dir"])
            .arg(dir.join("stand-alone-store")),
    )?;
    let api_server = Process::spawn(
        Command::new(binary())
            .args(["apiserver", "--bind-address=127.0.0.1", "--etcd-servers", &store_url])
            .arg(format!("--secure-port={}", durable.secure_port))
            .arg("--tls-cert-file")
            .arg(pki.join("apiserver.crt"))
            .arg("--tls-private-key-file")
            .arg(pki.join("apiserver.key"))
            .arg("--client-ca-file")
            .arg(pki.join("ca.crt"))
            .arg("--service-account-signing-key-file")
            .arg(pki.join("sa.key")),
    )?;
    let server = Server { process: api_server, kubeconfig };
    eventually("the API server is ready", || Ok(server.kubectl_ok(&["get", "--raw=/readyz"]).ok()))?;
    let _controllers = Process::spawn(
        Command::new(binary())
            .args(["controller-manager", "--kubeconfig"])
            .arg(dir.join("controller-manager.kubeconfig")),
    )?;
    let _scheduler = Process::spawn(
        Command::new(binary()).args(["scheduler", "--kubeconfig"]).arg(dir.join("scheduler.kubeconfig")),
    )?;
    let _nodes = simulate_nodes(&server, 2)?;
    server.kubectl_ok(&["create", "deployment", "web", "--image=registry.example/web:1", "--replicas=2"])?;
    let done = server.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    assert!(done.contains("successfully rolled out"), "{done}");
    Ok(())
}
