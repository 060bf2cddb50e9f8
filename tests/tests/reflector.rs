//! A controller's reflector that reads by streaming lists: it goes on through restarts of the server from where it was.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::reflector::{self, Store};
use kube_runtime::watcher::{self, Event, watcher};
use quarterdeck_tests::Durable;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How long an event may take, restarts and back-off of the client included.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the watcher says, in few words: `init`, `initial NAME`, `ready`, `applied NAME`, `deleted NAME`.
fn words(event: &Event<ConfigMap>) -> String {
    let name = |object: &ConfigMap| object.metadata.name.clone().unwrap_or_default();
    match event {
        Event::Init => "init".to_owned(),
        Event::InitApply(object) => format!("initial {}", name(object)),
        Event::InitDone => "ready".to_owned(),
        Event::Apply(object) => format!("applied {}", name(object)),
        Event::Delete(object) => format!("deleted {}", name(object)),
    }
}

/// A reflector on the ConfigMaps of a namespace; errors on the way are what restarts look like and are left out.
fn reflect(client: kube::Client) -> (Store<ConfigMap>, UnboundedReceiver<String>) {
    let (store, writer) = reflector::store();
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let events = watcher(api, watcher::Config::default().streaming_lists()).default_backoff();
    let mut events = Box::pin(reflector::reflector(writer, events));
    let (said, heard) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Ok(event) = event
                && said.send(words(&event)).is_err()
            {
                return;
            }
        }
    });
    (store, heard)
}

/// Everything said until `last`, itself included.
async fn until(heard: &mut UnboundedReceiver<String>, last: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    while all.last().is_none_or(|said| said != last) {
        match tokio::time::timeout(PATIENCE, heard.recv()).await {
            Ok(said) => all.push(said.context("the reflector ended")?),
            Err(_) => bail!("no {last:?} after {all:?}"),
        }
    }
    Ok(all)
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..ConfigMap::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streaming_reflector_lists_once_and_goes_on_through_restarts() -> Result<()> {
    let durable = Durable::new()?;
    let mut server = durable.start()?;
    let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
    api.create(&PostParams::default(), &config_map("before")).await?;
    let (store, mut heard) = reflect(server.client().await?);
    let first = until(&mut heard, "ready").await?;
    assert_eq!(first.first().map(String::as_str), Some("init"));
    assert!(first.contains(&"initial before".to_owned()), "{first:?}");

    api.create(&PostParams::default(), &config_map("live")).await?;
    let live = until(&mut heard, "applied live").await?;
    assert!(!live.contains(&"init".to_owned()), "{live:?}");

    // Once in good order and once not; what happens around the restart arrives in order and without a second list.
    for (round, is_orderly) in [(1, true), (2, false)] {
        let (unseen, after) = (format!("unseen-{round}"), format!("after-{round}"));
        if is_orderly {
            server.process.terminate()?;
        } else {
            server.process.kill();
        }
        server = durable.start()?;
        let api: Api<ConfigMap> = Api::namespaced(server.client().await?, "default");
        api.create(&PostParams::default(), &config_map(&unseen)).await?;
        api.delete(&unseen, &DeleteParams::default()).await?;
        api.create(&PostParams::default(), &config_map(&after)).await?;
        let said = until(&mut heard, &format!("applied {after}")).await?;
        let own: Vec<&String> = said.iter().filter(|said| !said.contains("kube-root-ca.crt")).collect();
        assert_eq!(own, [&format!("applied {unseen}"), &format!("deleted {unseen}"), &format!("applied {after}")]);
    }
    let mut names: Vec<String> = store.state().iter().filter_map(|object| object.metadata.name.clone()).collect();
    names.retain(|name| name != "kube-root-ca.crt");
    names.sort();
    assert_eq!(names, ["after-1", "after-2", "before", "live"]);
    Ok(())
}
