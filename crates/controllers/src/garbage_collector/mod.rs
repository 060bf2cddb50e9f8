//! Garbage collector: deletes what nobody owns any more, in the order owners ask for.
//! Reads the metadata of everything deletable, by discovery. Deletes anything; patches finalizers and ownerReferences.
//!
//! [`graph`] holds who owns whom and says which objects need a look; [`attempt`] looks at one, asking the API server about owners
//! it has never seen; this file feeds the graph from metadata informers and keeps them in step with discovery.

mod attempt;
mod graph;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::informer::Metadata;
use client::{Event, Informer, WorkQueue};
use futures::FutureExt;
use kube::core::ApiResource;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::discovery::{self, Resource};
use crate::spec::{ControllerSpec, Ctx};
use attempt::Collector;
use graph::{Graph, Uid, Wake};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "garbage-collector-controller",
    alias: "garbagecollector",
    account: "generic-garbage-collector",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 20;
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// How long a look waits for the first lists; a resource that cannot be listed must not stop the rest.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects nobody collects: they expire, or are made anew at once.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// Wakes as the graph asks.
#[derive(Clone, Default)]
struct Queues {
    delete: WorkQueue<Uid>,
    orphan: WorkQueue<Uid>,
}

impl Queues {
    fn wake(&self, wakes: Vec<Wake>) {
        for wake in wakes {
            match wake {
                Wake::Delete(uid) => self.delete.add(uid),
                Wake::Orphan(uid) => self.orphan.add(uid),
            }
        }
    }
}

async fn run(ctx: Ctx) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queues = Queues::default();
    let mut monitors =
        Monitors { ctx: ctx.clone(), graph: graph.clone(), queues: queues.clone(), informers: HashMap::new() };
    let collector = Arc::new(Collector::new(ctx.clone(), graph, queues.clone()));
    while !monitors.sync(&collector).await {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
    monitors.wait_for_lists().await;
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(attempt::delete_worker(collector.clone(), queues.delete.clone()));
        workers.spawn(attempt::orphan_worker(collector.clone(), queues.orphan.clone()));
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(DISCOVERY_PERIOD) => {}
            () = ctx.shutdown.cancelled() => break,
        }
        monitors.sync(&collector).await;
    }
    queues.delete.shut_down();
    queues.orphan.shut_down();
    while workers.join_next().await.is_some() {}
}

/// One metadata informer per deletable resource.
struct Monitors {
    ctx: Ctx,
    graph: Arc<Mutex<Graph>>,
    queues: Queues,
    informers: HashMap<ApiResource, Informer<Metadata>>,
}

impl Monitors {
    /// Starts informers for new resources and ends those of resources that went. False when discovery could not be asked.
    async fn sync(&mut self, collector: &Collector) -> bool {
        let discovered = match discovery::discover(&self.ctx.connection).await {
            Ok(discovered) => discovered,
            Err(error) => {
                debug!(%error, "discovery failed");
                return false;
            }
        };
        for (group, error) in &discovered.failures {
            warn!(group, error, "group not discovered, its objects are left alone");
        }
        let deletable = |resource: &&Resource| {
            let ignored = IGNORED.contains(&(resource.api.group.as_str(), resource.api.plural.as_str()));
            !ignored && resource.has_verbs(&["delete", "list", "watch"])
        };
        let wanted: Vec<Resource> = discovered.resources.iter().filter(deletable).cloned().collect();
        collector.set_resources(&discovered.resources);
        for resource in &wanted {
            if !self.informers.contains_key(&resource.api) {
                self.start(resource);
            }
        }
        // Resources of a group that did not answer may be served still.
        if discovered.failures.is_empty() {
            let gone: Vec<ApiResource> = self
                .informers
                .keys()
                .filter(|api| !wanted.iter().any(|resource| resource.api == **api))
                .cloned()
                .collect();
            for api in gone {
                self.informers.remove(&api);
                self.ctx.informers.forget_metadata(&api);
                let wakes = self.graph.lock().forget_resource(&api);
                self.queues.wake(wakes);
            }
        }
        true
    }

    fn start(&mut self, resource: &Resource) {
        let informer = self.ctx.informers.metadata(&resource.api);
        let (graph, queues, api) = (self.graph.clone(), self.queues.clone(), resource.api.clone());
        informer.on_event(move |event| {
            let wakes = match event {
                Event::Added(object) | Event::Updated { new: object, .. } => {
                    graph.lock().observe(&api, &object.metadata)
                }
                Event::Deleted(object) => graph.lock().remove(&object.metadata),
            };
            queues.wake(wakes);
        });
        self.informers.insert(resource.api.clone(), informer);
    }

    async fn wait_for_lists(&self) {
        let lists = self.informers.values().map(|informer| informer.has_synced());
        if tokio::time::timeout(SYNC_TIMEOUT, futures::future::join_all(lists)).await.is_err() {
            warn!("some resources could not be listed, collecting without them");
        }
    }
}
