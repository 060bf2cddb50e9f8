//! kill -9 at the worst moment: what was acknowledged is there, and history goes on.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use quarterdeck_tests::Durable;

fn config_map(name: String) -> ConfigMap {
    let data = BTreeMap::from([("key".to_owned(), "x".repeat(200))]);
    ConfigMap {
        metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
        data: Some(data),
        ..ConfigMap::default()
    }
}

fn version(object: &ObjectMeta) -> Result<i64> {
    object.resource_version.as_deref().context("resourceVersion")?.parse().context("resourceVersion")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_objects_survive_kill_9_in_a_burst() -> Result<()> {
    let durable = Durable::new()?;
    let mut server = durable.start()?;
    let client = server.client().await?;
    let (acknowledged_tx, mut acknowledged_rx) = tokio::sync::mpsc::unbounded_channel();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let acknowledged = acknowledged_tx.clone();
        writers.spawn(async move {
            for n in 0.. {
                let name = format!("burst-{writer}-{n}");
                match api.create(&PostParams::default(), &config_map(name.clone())).await {
                    Ok(object) => {
                        let Ok(version) = version(&object.metadata) else { return };
                        if acknowledged.send((name, version)).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
    }
    drop(acknowledged_tx);
    let mut acknowledged = BTreeMap::new();
    while acknowledged.len() < 300 {
        let (name, version) = acknowledged_rx.recv().await.context("writers ended early")?;
        acknowledged.insert(name, version);
    }
    server.process.kill();
    while let Some((name, version)) = acknowledged_rx.recv().await {
        acknowledged.insert(name, version);
    }
    writers.join_all().await;

    let server = durable.start()?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    let list = api.list(&ListParams::default()).await?;
    let present: BTreeMap<String, i64> = list
        .items
        .iter()
        .filter_map(|object| Some((object.metadata.name.clone()?, version(&object.metadata).ok()?)))
        .collect();
    for (name, version) in &acknowledged {
        assert_eq!(present.get(name), Some(version), "{name} was acknowledged");
    }
    let newest = acknowledged.values().max().copied().context("nothing acknowledged")?;
    let created = api.create(&PostParams::default(), &config_map("after".into())).await?;
    assert!(version(&created.metadata)? > newest, "revisions go on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_after_a_restart_from_where_they_were() -> Result<()> {
    let durable = Durable::new()?;
    let mut server = durable.start()?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    let seen = api.list(&ListParams::default()).await?.metadata.resource_version.context("resourceVersion")?;
    for n in 0..5 {
        api.create(&PostParams::default(), &config_map(format!("unseen-{n}"))).await?;
    }
    server.process.terminate()?;

    let server = durable.start()?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    api.create(&PostParams::default(), &config_map("after".into())).await?;
    let mut events = std::pin::pin!(api.watch(&WatchParams::default().timeout(30), &seen).await?);
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != "after") {
        match events.try_next().await?.context("the watch ended")? {
            WatchEvent::Added(object) => names.push(object.metadata.name.context("name")?),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
    names.retain(|name| name != "kube-root-ca.crt");
    assert_eq!(names, ["unseen-0", "unseen-1", "unseen-2", "unseen-3", "unseen-4", "after"]);
    Ok(())
}

#[test]
fn a_data_directory_serves_one_process_at_a_time() -> Result<()> {
    let durable = Durable::new()?;
    let mut first = durable.start()?;
    let output = std::process::Command::new(quarterdeck_tests::binary())
        .args(["server", "--bind-address=127.0.0.1"])
        .arg(format!("--secure-port={}", quarterdeck_tests::free_port()?))
        .arg(format!("--store-client-address=127.0.0.1:{}", quarterdeck_tests::free_port()?))
        .arg(format!("--store-peer-address=127.0.0.1:{}", quarterdeck_tests::free_port()?))
        .arg("--data-dir")
        .arg(durable.dir.path())
        .output()?;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("is in use"), "{text}");
    assert!(first.process.terminate()?, "SIGTERM ends the server cleanly");
    durable.start()?;
    Ok(())
}
