//! Lists of many pods, whole, as an informer reads them when it starts.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::client::Body;
use kube::{Api, Client};

use crate::Options;
use crate::objects::{create_all, pod};
use crate::report::Report;
use crate::{place, schedule};

const PATH: &str = "/api/v1/pods";
/// Lists read per round.
const LISTS: usize = 60;

pub(crate) async fn list(options: &Options, report: &mut Report) -> Result<()> {
    let (mut server, _) = place::ephemeral()?;
    let client = server.client().await?;
    schedule::appears(&Api::<ServiceAccount>::namespaced(client.clone(), "default"), "default").await?;
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut pods = Vec::new();
    for n in 0..options.listed {
        let mut pod = pod(format!("pod-{n}"))?;
        // Nobody schedules these: lists are to be measured, not the scheduler.
        if let Some(spec) = &mut pod.spec {
            spec.scheduler_name = Some("nobody".into());
        }
        pods.push(pod);
    }
    create_all(&api, pods.into_iter()).await?;
    let (bytes, _) = read(&client).await?;
    for clients in [1, 2] {
        let started = Instant::now();
        let first_bytes: Vec<Duration> = stream::iter(0..LISTS)
            .map(|_| async {
                let (length, first) = read(&client).await?;
                ensure!(length == bytes, "a list of {length} bytes, expected {bytes}");
                Ok(first)
            })
            .buffer_unordered(clients)
            .try_collect()
            .await?;
        let rate = first_bytes.len() as f64 / started.elapsed().as_secs_f64();
        let volume = rate * bytes as f64 / 1e6;
        report.add(
            &format!("LIST of {} pods ({:.1} MB), {clients} at a time", options.listed, bytes as f64 / 1e6),
            format!("{rate:.0} /s, {volume:.0} MB/s"),
            if clients == 1 { "" } else { ">= 20 /s" },
        );
    }
    ensure!(server.process.terminate()?, "the server did not end well");
    Ok(())
}

/// Reads the list and throws it away; its length and how long its head took.
async fn read(client: &Client) -> Result<(usize, Duration)> {
    let started = Instant::now();
    let response = client.send(Request::get(PATH).body(Body::empty())?).await?;
    ensure!(response.status().is_success(), "list: {}", response.status());
    let first = started.elapsed();
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len());
    }
    Ok((length, first))
}
