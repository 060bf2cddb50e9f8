//! Many pods on many simulated nodes: how fast they are bound, and how fast they run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use quarterdeck_tests::{Durable, PATIENCE, takes_pods};
use serde_json::json;

use crate::objects::{create_all, pod, pod_spec};
use crate::process::{cpu_time, resident_bytes};
use crate::report::Report;
use crate::{Options, place};

/// Deployments that share the pods.
const DEPLOYMENTS: usize = 10;
const POLL: Duration = Duration::from_millis(50);
/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) async fn schedule(options: &Options, report: &mut Report) -> Result<()> {
    let place = Durable::new()?;
    let (server, _) = place::durable(&place)?;
    let client = server.client().await?;
    appears(&Api::<ServiceAccount>::namespaced(client.clone(), "default"), "default").await?;
    let started = Instant::now();
    let nodes = place::simulated_nodes(&server, options.nodes)?;
    nodes_are_ready(&client, options.nodes).await?;
    report.add(
        &format!("{} simulated nodes Ready after", options.nodes),
        format!("{:.1} s", started.elapsed().as_secs_f64()),
        "",
    );

    let pods = options.pods;
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let bound = Arrivals::follow(&client, "spec.nodeName!=").await?;
    let objects = (0..pods).map(|n| pod(format!("pod-{n}"))).collect::<Result<Vec<_>>>()?;
    let (cpu, started) = (cpu_time(server.process.id())?, Instant::now());
    let created = create_all(&api, objects.into_iter()).await?;
    bound.reach(pods).await?;
    let took = started.elapsed();
    let cpu = cpu_time(server.process.id())?.saturating_sub(cpu);
    let what = format!("{pods} pods posted, on {} nodes: bound", options.nodes);
    report.add(&what, format!("{:.0} pods/s", pods as f64 / took.as_secs_f64()), ">= 1500 pods/s");
    report.add(
        "of that, posting took",
        format!(
            "{:.1} of {:.1} s; the server used {:.1} s of CPU",
            created.as_secs_f64(),
            took.as_secs_f64(),
            cpu.as_secs_f64()
        ),
        "",
    );
    // Followed from here on only, so that it costs nothing before.
    let running = Arrivals::follow(&client, "status.phase=Running").await?;
    running.reach(pods).await?;
    report.add("all of them Running after", format!("{:.1} s", started.elapsed().as_secs_f64()), "");
    api.delete_collection(
        &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() },
        &ListParams::default(),
    )
    .await?;
    until("the pods are gone", async || Ok(api.list_metadata(&ListParams::default()).await?.items.is_empty())).await?;

    let bound = Arrivals::follow(&client, "spec.nodeName!=").await?;
    let running = Arrivals::follow(&client, "status.phase=Running").await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let started = Instant::now();
    for n in 0..DEPLOYMENTS {
        deployments.create(&PostParams::default(), &deployment(n, pods / DEPLOYMENTS)?).await?;
    }
    let wanted = pods / DEPLOYMENTS * DEPLOYMENTS;
    bound.reach(wanted).await?;
    let took = started.elapsed();
    let what = format!("{DEPLOYMENTS} Deployments, {wanted} pods in all: bound");
    report.add(&what, format!("{:.0} pods/s", wanted as f64 / took.as_secs_f64()), "");
    running.reach(wanted).await?;
    report.add("all of them Running after", format!("{:.1} s", started.elapsed().as_secs_f64()), "");
    let resident = resident_bytes(server.process.id())? as f64 / 1e6;
    report.add("resident memory after that", format!("{resident:.0} MB"), "");
    drop(nodes);
    drop(server);
    Ok(())
}

fn deployment(n: usize, replicas: usize) -> Result<Deployment> {
    let name = format!("web-{n}");
    let labels = json!({ "app": name });
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod_spec() },
        },
    }))?)
}

/// Waits until an object exists.
pub(crate) async fn appears<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    until(name, async || Ok(api.get_opt(name).await?.is_some())).await
}

async fn nodes_are_ready(client: &Client, count: usize) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    until("all nodes are ready", async || {
        let nodes = api.list(&ListParams::default()).await?.items;
        Ok(nodes.iter().filter(|node| takes_pods(node)).count() == count)
    })
    .await
}

async fn until(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Counts pods as they come to match a selector. Only the type of each event is looked at, so that counting costs little.
struct Arrivals {
    count: tokio::sync::watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Arrivals {
    async fn follow(client: &Client, field_selector: &str) -> Result<Self> {
        let selector = field_selector.replace('!', "%21").replace('=', "%3D");
        let path = format!("/api/v1/namespaces/default/pods?watch=1&fieldSelector={selector}");
        let mut lines = client.request_stream(Request::get(path).body(Vec::new())?).await?.lines();
        let (sender, count) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            while let Some(Ok(line)) = lines.next().await {
                if line.starts_with("{\"type\":\"ADDED\"") {
                    sender.send_modify(|count| *count += 1);
                }
            }
        });
        Ok(Self { count, task })
    }

    async fn reach(mut self, wanted: usize) -> Result<()> {
        let waited = tokio::time::timeout(LIMIT, self.count.wait_for(|count| *count >= wanted)).await;
        let reached = waited.is_ok_and(|ended| ended.is_ok());
        self.task.abort();
        ensure!(reached, "only {} of {wanted} pods came", *self.count.borrow());
        Ok(())
    }
}
