//! A component of its own that knows all masters, when the one that it uses dies or hangs.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use quarterdeck_tests::masters::{Master, form};
use quarterdeck_tests::{Process, Server, binary};
use serde_json::json;

/// On the slowest machine that this should pass on; two seconds on others.
const FAIL_OVER_MAX: Duration = Duration::from_secs(15);
const NAME: &str = "apart";

/// How long a pod of the scheduler's own waits for a node.
async fn schedule(server: &Server, pod: &str) -> Result<Duration> {
    let pods: Api<Pod> = Api::namespaced(server.client().await?, "default");
    let spec = json!({ "schedulerName": NAME, "containers": [{ "name": "c", "image": "x" }] });
    let made: Pod = serde_json::from_value(json!({ "metadata": { "name": pod }, "spec": spec }))?;
    let begun = Instant::now();
    pods.create(&PostParams::default(), &made).await?;
    while begun.elapsed() < FAIL_OVER_MAX {
        if pods.get(pod).await?.spec.context("a spec")?.node_name.is_some() {
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{pod} was not scheduled within {FAIL_OVER_MAX:?}")
}

fn signal(server: &Server, name: &str) -> Result<()> {
    ensure!(Command::new("kill").args([name, &server.process.id().to_string()]).status()?.success(), "kill {name}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_of_its_own_goes_to_another_master_when_its_own_dies_or_hangs() -> Result<()> {
    let masters = [Master::new("a")?, Master::new("b")?, Master::new("c")?];
    let mut servers = form(&masters)?;
    let nodes: Api<Node> = Api::all(servers[2].client().await?);
    let capacity = json!({ "cpu": "8", "memory": "8Gi", "pods": "110" });
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    let status = json!({ "capacity": capacity, "allocatable": capacity, "conditions": ready });
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": "n" }, "status": status }))?;
    nodes.create(&PostParams::default(), &node).await?;

    let dir = masters[0].durable.dir.path();
    let config = dir.join("scheduler.yaml");
    let urls: Vec<_> = masters.iter().map(Master::url).collect();
    std::fs::write(
        &config,
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
            leaderElection: {{leaderElect: false}}\nclientConnection: {{kubeconfig: {}}}\n\
            profiles: [{{schedulerName: {NAME}}}]\n",
            dir.join("scheduler.kubeconfig").display()
        ),
    )?;
    let mut command = Command::new(binary());
    command.args(["scheduler", "--secure-port=0", "--master", &urls.join(","), "--config"]).arg(&config);
    let _scheduler = Process::spawn(&mut command)?;
    schedule(&servers[2], "before").await?;

    servers[0].process.kill();
    eprintln!(
        "scheduled {:?} after the death of the scheduler's master",
        schedule(&servers[2], "after-a-death").await?
    );
    // It uses the second one now.
    signal(&servers[1], "-STOP")?;
    servers[0] = masters[0].start()?;
    let after = schedule(&servers[2], "after-a-hang").await;
    signal(&servers[1], "-CONT")?;
    eprintln!("scheduled {:?} after the scheduler's master hung", after?);
    Ok(())
}
