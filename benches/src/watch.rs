//! How long after a write was sent its answer and its watch event arrive, one write at a time on an otherwise idle server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use quarterdeck_tests::Durable;
use tokio::sync::mpsc;

use crate::objects::config_map;
use crate::place;
use crate::report::{Report, milliseconds, percentile};

const WRITES: usize = 300;
const PREFIX: &str = "watched-";
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn latency(report: &mut Report) -> Result<()> {
    let place = Durable::new()?;
    let (server, _) = place::durable(&place)?;
    let client = server.client().await?;
    let request = Request::get("/api/v1/namespaces/default/configmaps?watch=1").body(Vec::new())?;
    let mut lines = client.request_stream(request).await?.lines();
    let (arrivals_tx, mut arrivals) = mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        while let Some(Ok(line)) = lines.next().await {
            let now = Instant::now();
            if line.contains(PREFIX) && arrivals_tx.send(now).is_err() {
                return;
            }
        }
    });
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let (mut answers, mut events) = (Vec::new(), Vec::new());
    for n in 0..WRITES {
        let object = config_map(format!("{PREFIX}{n}"));
        let sent = Instant::now();
        api.create(&PostParams::default(), &object).await?;
        answers.push(sent.elapsed());
        let arrived = tokio::time::timeout(PATIENCE, arrivals.recv()).await.context("no event")?;
        events.push(arrived.context("the watch ended")?.duration_since(sent));
    }
    reader.abort();
    drop(server);
    for (what, samples) in [("create, durable: answered after", &mut answers), ("its watch event after", &mut events)] {
        let (median, high) = (percentile(samples, 50), percentile(samples, 99));
        report.add(what, format!("{:.1} ms (median), {:.1} ms (99 %)", milliseconds(median), milliseconds(high)), "");
    }
    Ok(())
}
