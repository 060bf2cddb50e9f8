//! The four components as four processes, wired by files that a first `server` run made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
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
    let signing_key = rsa_key(dir)?.unwrap_or_else(|| pki.join("sa.key"));
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
            .args(["--allow-privileged=true", "--profiling=false", "--service-account-signing-key-file"])
            .arg(&signing_key),
    )?;
    let server = Server { process: api_server, kubeconfig };
    eventually("the API server is ready", || Ok(server.kubectl_ok(&["get", "--raw=/readyz"]).ok()))?;
    let (controllers_port, scheduler_port) = (free_port()?, free_port()?);
    // As kubeadm starts them.
    let component = |name: &str, port: u16, more: &[&str]| {
        let kubeconfig = dir.join(format!("{name}.kubeconfig"));
        let mut command = Command::new(binary());
        command.arg(name).args(["--bind-address=127.0.0.1", "--leader-elect=true"]).args(more);
        for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
            command.arg(flag).arg(&kubeconfig);
        }
        command.arg("--client-ca-file").arg(pki.join("ca.crt")).arg(format!("--secure-port={port}"));
        Process::spawn(&mut command)
    };
    let more = ["--use-service-account-credentials=true", "--cluster-name=kubernetes"];
    let _controllers = component("controller-manager", controllers_port, &more)?;
    let _scheduler = component("scheduler", scheduler_port, &[])?;
    let _nodes = simulate_nodes(&server, 2)?;
    server.kubectl_ok(&["create", "deployment", "web", "--image=registry.example/web:1", "--replicas=2"])?;
    let done = server.kubectl_ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    assert!(done.contains("successfully rolled out"), "{done}");

    let page = |port: u16, path: &str, more: &[&str]| ask(&format!("https://127.0.0.1:{port}{path}"), more);
    if has_program("curl") {
        assert_eq!(page(controllers_port, "/healthz", &[])?, "ok");
        assert!(
            page(scheduler_port, "/metrics", &[])?.contains("forbidden: User \\\"system:anonymous\\\" cannot get path")
        );
        let token = server.kubectl_ok(&["create", "token", "default"])?;
        let bearer = format!("Authorization: Bearer {}", token.trim());
        assert!(page(scheduler_port, "/metrics", &["-H", &bearer])?.contains("system:serviceaccount:default:default"));
        let role = ["create", "clusterrolebinding", "scrapers", "--clusterrole=system:monitoring"];
        server.kubectl_ok(&[&role[..], &["--serviceaccount=default:default"]].concat())?;
        let counted = r#"scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 2"#;
        eventually("the scheduler tells what it did", || {
            Ok(page(scheduler_port, "/metrics", &["-H", &bearer])?.contains(counted).then_some(()))
        })?;
        let path = |name: &str| pki.join(name).display().to_string();
        let (certificate, key) = (path("admin.crt"), path("admin.key"));
        let metrics = page(controllers_port, "/metrics", &["--cert", &certificate, "--key", &key])?;
        assert!(metrics.contains(r#"leader_election_master_status{name="kube-controller-manager"} 1"#), "{metrics}");
        assert!(metrics.contains(r#"workqueue_adds_total{name="deployment-controller"}"#), "{metrics}");
        let indicators = page(controllers_port, "/metrics/slis", &["--cert", &certificate, "--key", &key])?;
        assert!(indicators.contains(r#"kubernetes_healthcheck{name="ping",type="healthz"} 1"#), "{indicators}");
        let flags = page(controllers_port, "/flagz", &["--cert", &certificate, "--key", &key])?;
        assert!(flags.starts_with("\nkube-controller-manager flagz\n"), "{flags}");
        assert!(flags.contains("\ncluster-name=kubernetes\n"), "{flags}");
        let status = page(scheduler_port, "/statusz", &["-H", &bearer])?;
        assert!(status.contains("\nPaths: /configz /flagz /healthz /livez /metrics /readyz\n"), "{status}");
        // Monitoring may not read the configuration.
        assert!(page(scheduler_port, "/configz", &["-H", &bearer])?.contains("forbidden"));
        let config = page(scheduler_port, "/configz", &["--cert", &certificate, "--key", &key])?;
        assert!(config.starts_with(r#"{"componentconfig":{"kind":"KubeSchedulerConfiguration","#), "{config}");
        let config = page(controllers_port, "/configz", &["--cert", &certificate, "--key", &key])?;
        assert!(config.contains(r#""ClusterName":"kubernetes""#), "{config}");
        server.kubectl_ok(&["set", "resources", "deployment/web", "--requests=cpu=100m"])?;
        eventually("the scheduler tells what pods request", || {
            let pods = page(scheduler_port, "/metrics/resources", &["--cert", &certificate, "--key", &key])?;
            let is_told = |line: &str| line.starts_with("kube_pod_resource_request{") && line.ends_with(" 0.1");
            Ok((pods.lines().filter(|line| is_told(line)).count() == 2).then_some(()))
        })?;
        let reset = page(scheduler_port, "/metrics", &["--cert", &certificate, "--key", &key, "-X", "DELETE"])?;
        assert_eq!(reset, "metrics reset\n");
        assert!(!page(scheduler_port, "/metrics", &["-H", &bearer])?.contains(counted));
    }
    Ok(())
}

/// A key as kubeadm makes it for service account tokens; `None` without openssl.
fn rsa_key(dir: &Path) -> Result<Option<PathBuf>> {
    if !has_program("openssl") {
        return Ok(None);
    }
    let path = dir.join("sa-rsa.key");
    let made = Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&path).arg("2048").output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(Some(path))
}

fn ask(url: &str, more: &[&str]) -> Result<String> {
    let answer = Command::new("curl").args(["-sSk", "--max-time", "10", url]).args(more).output()?;
    ensure!(answer.status.success(), "curl {url}: {}", String::from_utf8_lossy(&answer.stderr));
    Ok(String::from_utf8(answer.stdout)?)
}

#[test]
fn simulated_nodes_leave_the_master_its_processors() -> Result<()> {
    let server = Server::ephemeral()?;
    let nodes = simulate_nodes(&server, 1)?;
    let behind = nicenesses(server.process.id())?.into_iter().min().unwrap_or(0).saturating_add(10).min(19);
    eventually("threads that stand behind", || {
        let threads = nicenesses(nodes.id())?;
        Ok((threads.len() > 1 && threads.iter().all(|niceness| *niceness >= behind)).then_some(()))
    })
}

/// Of each thread of a process, as proc_pid_stat(5) has them.
fn nicenesses(pid: u32) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(line) = fs::read_to_string(thread?.path().join("stat")) else { continue };
        let after_name = line.rsplit_once(") ").context("stat")?.1;
        found.push(after_name.split(' ').nth(16).context("stat")?.parse()?);
    }
    Ok(found)
}
