//! Snapshots, restores and a joining master with a large state, and what the writes of others notice of them.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use quarterdeck_tests::masters::{Master, token, wait_for_voters};
use quarterdeck_tests::{Server, binary, quarterdeck_json, text};

use crate::Options;
use crate::objects::{config_map, create_all};
use crate::report::{Report, milliseconds, percentile};

/// Bytes of one object of the state.
const VALUE_BYTES: usize = 64 << 10;
/// How long writes are watched before anything else happens.
const QUIET: Duration = Duration::from_secs(10);
/// Between two writes of the client that is watched.
const WRITE_PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn backup(options: &Options, report: &mut Report) -> Result<()> {
    let size = format!("{:.1} GB of state", options.state_bytes as f64 / 1e9);
    let place = tempfile::tempdir()?;
    let target = place.path().join("backups");
    let target = text(&target)?;
    let first = Master::new("a")?;
    let mut command = first.durable.command();
    command.args(["--name=a", "--backup-target", target, "--backup-log-interval=0", "--backup-interval=1000h"]);
    let server = Server::start(command.env("RUST_LOG", "error"))?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    create_all(&api, (0..options.state_bytes / VALUE_BYTES).map(|n| large(format!("state-{n}")))).await?;

    let (mut quiet, ()) = while_writing(&server, "quiet", async {
        tokio::time::sleep(QUIET).await;
        Ok(())
    })
    .await?;
    let kubeconfig = text(&server.kubeconfig)?.to_owned();
    let (mut saving, (saved, time)) = while_writing(&server, "saving", async {
        timed(move || quarterdeck_json(&["snapshot", "save", "--kubeconfig", &kubeconfig, "-o", "json"])).await
    })
    .await?;
    let name = saved["name"].as_str().context("the snapshot's name")?.to_owned();
    let file = std::path::Path::new(target).join(&name);
    let rate = std::fs::metadata(file)?.len() as f64 / 1e6 / time.as_secs_f64();
    report.add(&format!("snapshot, {size}"), format!("{rate:.0} MB/s"), ">= 200 MB/s");

    let joining = Master::new("b")?;
    let invitation = token(&server)?;
    let mut command = joining.durable.command();
    command.args(["--name=b", "--join", &first.url(), "--token", &invitation]).env("RUST_LOG", "error");
    let begun = Instant::now();
    let (mut while_joining, second) = while_writing(&server, "joining", async {
        let second = tokio::task::spawn_blocking(move || Server::start(&mut command)).await??;
        wait_for_voters(&server, 2)?;
        Ok(second)
    })
    .await?;
    report.add(&format!("a master joins, {size}"), format!("{:.1} s", begun.elapsed().as_secs_f64()), "< 60 s");
    drop((second, server));

    let dir = place.path().join("restored");
    let mut command = Command::new(binary());
    command.args(["snapshot", "restore", &name, "--target", target, "--data-dir"]).arg(&dir).stdout(Stdio::null());
    let (status, time) = timed(move || Ok(command.status()?)).await?;
    ensure!(status.success(), "the restore failed");
    report.add(&format!("restore, {size}"), format!("{:.1} s", time.as_secs_f64()), "< 20 s");

    let of = |samples: &mut Vec<Duration>| percentile(samples, 99);
    let (quiet, saving, joining) = (of(&mut quiet), of(&mut saving), of(&mut while_joining));
    for (what, high) in [("a snapshot", saving), ("a join", joining)] {
        let value = format!(
            "{:.1} ms, {:.1} times that before ({:.1} ms)",
            milliseconds(high),
            high.as_secs_f64() / quiet.as_secs_f64(),
            milliseconds(quiet)
        );
        report.add(&format!("writes during {what}: 99 %"), value, "< 2 times");
    }
    Ok(())
}

/// A value that does not compress.
fn large(name: String) -> ConfigMap {
    let mut object = config_map(name);
    let value = std::iter::repeat_with(|| char::from(rand::random_range(b'!'..b'~'))).take(VALUE_BYTES).collect();
    object.data = Some([("key".to_owned(), value)].into());
    object
}

async fn timed<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let done = tokio::task::spawn_blocking(work).await??;
    Ok((done, begun.elapsed()))
}

/// How long each of one client's writes took while something went on.
async fn while_writing<T>(
    server: &Server,
    name: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<(Vec<Duration>, T)> {
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    let ends = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (ends, name) = (Arc::clone(&ends), name.to_owned());
        async move {
            let mut samples = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let object = config_map(format!("{name}-{}", samples.len()));
                let sent = Instant::now();
                api.create(&PostParams::default(), &object).await?;
                samples.push(sent.elapsed());
                tokio::time::sleep(WRITE_PAUSE).await;
            }
            Ok::<_, kube::Error>(samples)
        }
    });
    let done = work.await;
    ends.store(true, Ordering::Relaxed);
    Ok((writing.await??, done?))
}
