//! The running scheduler: feeds the engine from informers and carries out what it decides.
//!
//! One task owns the engine. Handlers of the informers push into its inbox; a bounded set of tasks talks to the API server and
//! reports back into the same inbox. The loop never waits for the API server, except for room in that set.

use std::sync::Arc;
use std::time::Duration;

use client::{Connection, EventType, Informer, InformerFactory, LeaderElection, Object, SeriesRecorder, Shutdown};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::SchedulerConfig;
use crate::engine::{DeviceChange, Engine, Event, Failure, Outcome, REASON_SCHEDULER_ERROR, StorageChange};
use crate::framework::{BindContext, Status};
use crate::metrics::Metrics;
use crate::model::PodInfo;
use crate::model::labels::Selector;
use crate::profile::{Profile, ProfileError};
use crate::queue::QueuedPod;
use crate::report;

/// How often backoffs are ended.
const TICK: Duration = Duration::from_secs(1);
/// Cycles between two looks at the inbox: enough to be cheap, few enough that decisions are made on fresh news.
const CYCLES_PER_TURN: usize = 8;
/// News taken in between two turns, so that no turn keeps a thread for long.
const NEWS_PER_TURN: usize = 256;

/// The scheduler as an API client.
pub struct Scheduler {
    connection: Connection,
    informers: InformerFactory,
    config: SchedulerConfig,
}

impl Scheduler {
    /// Nothing happens before `run`.
    pub fn new(connection: Connection, informers: InformerFactory, config: SchedulerConfig) -> Scheduler {
        Scheduler { connection, informers, config }
    }

    /// Schedules pods until `shutdown`; with leader election only while this process leads.
    ///
    /// # Errors
    /// When a profile cannot be built.
    pub fn run(self, shutdown: Shutdown) -> BoxFuture<'static, Result<(), ProfileError>> {
        let running = async move {
            // A wrong profile is told at once, not when leadership comes.
            build_profiles(&self.config)?;
            let Some(lease) = self.config.leader_election.clone() else {
                self.lead(shutdown).await;
                return Ok(());
            };
            let election = LeaderElection::new(self.connection.clone(), lease);
            election.run(shutdown, |term| self.lead(term)).await;
            Ok(())
        };
        running.boxed()
    }
}

impl Scheduler {
    async fn lead(&self, shutdown: Shutdown) {
        let profiles = match build_profiles(&self.config) {
            Ok(profiles) => profiles,
            Err(error) => return warn!(%error, "scheduler does not start"),
        };
        let (inbox, events) = mpsc::unbounded_channel();
        let factory = self.informers.for_term(shutdown.clone());
        let sources = Sources::start(&factory, self.config.shares_informers, &inbox);
        tokio::select! {
            () = sources.synced() => {}
            () = shutdown.cancelled() => return,
        }
        let _shown_until_the_end = self.config.pod_resources.show(&sources.pods);
        let recorders = profiles
            .iter()
            .map(|profile| &profile.scheduler_name)
            .map(|name| (name.clone(), SeriesRecorder::new(self.connection.clone(), name, shutdown.clone())))
            .collect();
        let seed = self.config.seed.unwrap_or_else(rand::random);
        let driver = Driver {
            engine: Engine::with_backoff(profiles, self.config.backoff, seed).since(Timestamp::now()),
            hands: Hands {
                context: BindContext {
                    client: self.connection.client(),
                    recorders: Arc::new(recorders),
                    metrics: self.config.metrics.clone(),
                },
                permits: Arc::new(Semaphore::new(self.config.concurrent_requests_max.max(1))),
                inbox,
                metrics: self.config.metrics.clone(),
            },
            started: Instant::now(),
        };
        info!("scheduler started");
        driver.run(events, shutdown).await;
        drop(sources);
    }
}

fn build_profiles(config: &SchedulerConfig) -> Result<Vec<Profile>, ProfileError> {
    config.profiles.iter().map(Profile::new).collect()
}

/// The informers; they live as long as this.
struct Sources {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    budgets: Informer<PodDisruptionBudget>,
    services: Informer<Service>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    csi_nodes: Informer<CSINode>,
    csi_drivers: Informer<CSIDriver>,
    capacities: Informer<CSIStorageCapacity>,
    resource_claims: Informer<ResourceClaim>,
    device_classes: Informer<DeviceClass>,
    resource_slices: Informer<ResourceSlice>,
}

impl Sources {
    fn start(factory: &InformerFactory, shared: bool, inbox: &mpsc::UnboundedSender<Event>) -> Sources {
        let sources = Sources {
            // Finished pods hold nothing. A pod that finishes leaves the second informer as if it were deleted; the engine takes
            // it so from the first one as well.
            pods: if shared {
                factory.informer()
            } else {
                factory.informer_of_fields("status.phase!=Succeeded,status.phase!=Failed")
            },
            nodes: factory.informer(),
            namespaces: factory.informer(),
            budgets: factory.informer(),
            services: factory.informer(),
            replica_sets: factory.informer(),
            stateful_sets: factory.informer(),
            replication_controllers: factory.informer(),
            claims: factory.informer(),
            volumes: factory.informer(),
            classes: factory.informer(),
            csi_nodes: factory.informer(),
            csi_drivers: factory.informer(),
            capacities: factory.informer(),
            resource_claims: factory.informer(),
            device_classes: factory.informer(),
            resource_slices: factory.informer(),
        };
        sources.forward_storage(inbox);
        sources.forward_devices(inbox);
        forward(&sources.nodes, inbox, Event::NodeApplied, Event::NodeDeleted);
        forward(&sources.namespaces, inbox, Event::NamespaceApplied, Event::NamespaceDeleted);
        forward(&sources.budgets, inbox, Event::BudgetApplied, Event::BudgetDeleted);
        forward(&sources.services, inbox, Event::ServiceApplied, Event::ServiceDeleted);
        forward(
            &sources.replica_sets,
            inbox,
            |set| {
                owner_applied(
                    &set.metadata,
                    Selector::from_label_selector(set.spec.as_ref().map(|spec| &spec.selector)),
                )
            },
            |set| owner_deleted(&set.metadata),
        );
        forward(
            &sources.stateful_sets,
            inbox,
            |set| {
                owner_applied(
                    &set.metadata,
                    Selector::from_label_selector(set.spec.as_ref().map(|spec| &spec.selector)),
                )
            },
            |set| owner_deleted(&set.metadata),
        );
        forward(
            &sources.replication_controllers,
            inbox,
            |rc| {
                let selector = rc.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                owner_applied(&rc.metadata, selector.map_or_else(Selector::nothing, Selector::from_map))
            },
            |rc| owner_deleted(&rc.metadata),
        );
        forward(&sources.pods, inbox, Event::PodApplied, Event::PodDeleted);
        sources
    }

    fn forward_storage(&self, inbox: &mpsc::UnboundedSender<Event>) {
        use StorageChange as Change;
        forward(
            &self.claims,
            inbox,
            |claim| Event::Storage(Change::ClaimApplied(claim)),
            |claim| Event::Storage(Change::ClaimDeleted(claim)),
        );
        forward(
            &self.volumes,
            inbox,
            |volume| Event::Storage(Change::VolumeApplied(volume)),
            |volume| Event::Storage(Change::VolumeDeleted(volume)),
        );
        forward(
            &self.classes,
            inbox,
            |class| Event::Storage(Change::ClassApplied(class)),
            |class| Event::Storage(Change::ClassDeleted(class)),
        );
        forward(
            &self.csi_nodes,
            inbox,
            |node| Event::Storage(Change::CsiNodeApplied(node)),
            |node| Event::Storage(Change::CsiNodeDeleted(node)),
        );
        forward(
            &self.csi_drivers,
            inbox,
            |driver| Event::Storage(Change::CsiDriverApplied(driver)),
            |driver| Event::Storage(Change::CsiDriverDeleted(driver)),
        );
        forward(
            &self.capacities,
            inbox,
            |capacity| Event::Storage(Change::CapacityApplied(capacity)),
            |capacity| Event::Storage(Change::CapacityDeleted(capacity)),
        );
    }

    fn forward_devices(&self, inbox: &mpsc::UnboundedSender<Event>) {
        use DeviceChange as Change;
        forward(
            &self.resource_claims,
            inbox,
            |claim| Event::Devices(Change::ClaimApplied(claim)),
            |claim| Event::Devices(Change::ClaimDeleted(claim)),
        );
        forward(
            &self.device_classes,
            inbox,
            |class| Event::Devices(Change::ClassApplied(class)),
            |class| Event::Devices(Change::ClassDeleted(class)),
        );
        forward(
            &self.resource_slices,
            inbox,
            |slice| Event::Devices(Change::SliceApplied(slice)),
            |slice| Event::Devices(Change::SliceDeleted(slice)),
        );
    }

    async fn synced(&self) {
        self.resource_claims.has_synced().await;
        self.device_classes.has_synced().await;
        self.resource_slices.has_synced().await;
        self.claims.has_synced().await;
        self.volumes.has_synced().await;
        self.classes.has_synced().await;
        self.csi_nodes.has_synced().await;
        self.csi_drivers.has_synced().await;
        self.capacities.has_synced().await;
        self.nodes.has_synced().await;
        self.namespaces.has_synced().await;
        self.budgets.has_synced().await;
        self.services.has_synced().await;
        self.replica_sets.has_synced().await;
        self.stateful_sets.has_synced().await;
        self.replication_controllers.has_synced().await;
        self.pods.has_synced().await;
    }
}

fn owner_applied(meta: &ObjectMeta, selector: Selector) -> Event {
    Event::OwnerApplied { uid: meta.uid.clone().unwrap_or_default(), selector }
}

fn owner_deleted(meta: &ObjectMeta) -> Event {
    Event::OwnerDeleted { uid: meta.uid.clone().unwrap_or_default() }
}

fn forward<K: Object>(
    informer: &Informer<K>,
    inbox: &mpsc::UnboundedSender<Event>,
    applied: fn(Arc<K>) -> Event,
    deleted: fn(Arc<K>) -> Event,
) {
    let inbox = inbox.clone();
    informer.on_event(move |event| {
        let event = match event {
            client::Event::Added(object) => applied(object.clone()),
            client::Event::Updated { old, new } => {
                // A pod deleted and created again between two lists is two pods.
                if old.meta().uid != new.meta().uid {
                    let _ = inbox.send(deleted(old.clone()));
                }
                applied(new.clone())
            }
            client::Event::Deleted(object) => deleted(object.clone()),
        };
        // The driver is gone when the process stops; nobody needs the news then.
        let _ = inbox.send(event);
    });
}

struct Driver {
    engine: Engine,
    hands: Hands,
    started: Instant,
}

impl Driver {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut news = Vec::new();
        // Everything the first lists brought comes before the first decision.
        while let Ok(event) = events.try_recv() {
            self.engine.handle(event, self.now());
        }
        while !shutdown.is_cancelled() {
            let idle = self.turn(&shutdown).await;
            if idle {
                tokio::select! {
                    count = events.recv_many(&mut news, NEWS_PER_TURN) => if count == 0 { return },
                    _ = ticks.tick() => self.tick(),
                    () = shutdown.cancelled() => return,
                }
            } else {
                while news.len() < NEWS_PER_TURN {
                    let Ok(event) = events.try_recv() else { break };
                    news.push(event);
                }
                if futures::FutureExt::now_or_never(ticks.tick()).is_some() {
                    self.tick();
                }
                tokio::task::yield_now().await;
            }
            let now = self.now();
            for event in news.drain(..) {
                self.engine.handle(event, now);
            }
        }
    }

    fn tick(&mut self) {
        self.engine.tick(self.now());
        self.hands.metrics.pending(&self.engine.pending());
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A few cycles; true when no pod was ready.
    async fn turn(&mut self, shutdown: &Shutdown) -> bool {
        for _ in 0..CYCLES_PER_TURN {
            let permit = tokio::select! {
                permit = self.hands.permits.clone().acquire_owned() => permit,
                () = shutdown.cancelled() => return true,
            };
            let Ok(permit) = permit else { return true };
            let begun = self.now();
            match self.engine.schedule_next(begun) {
                None => return true,
                Some(Outcome::Skipped) => {}
                Some(Outcome::Bind { pod, node }) => {
                    let profile = self.engine.profile(pod.pod.scheduler_name()).cloned();
                    let (hands, started) = (self.hands.clone(), self.started);
                    tokio::spawn(async move {
                        let waits = profile.as_ref().is_some_and(|profile| profile.waits(&pod.pod));
                        // A binding that waits for something outside must not hold up the others.
                        let held = (!waits).then_some(permit);
                        hands.bind(profile, pod, node, (started, begun)).await;
                        drop(held);
                    });
                }
                Some(Outcome::Failed(failure)) => {
                    self.hands.metrics.failed(&failure, self.now().saturating_sub(begun));
                    let hands = self.hands.clone();
                    tokio::spawn(async move {
                        hands.report(failure).await;
                        drop(permit);
                    });
                }
            }
        }
        false
    }
}

/// What talks to the API server.
#[derive(Clone)]
struct Hands {
    context: BindContext,
    permits: Arc<Semaphore>,
    inbox: mpsc::UnboundedSender<Event>,
    metrics: Metrics,
}

impl Hands {
    /// Binds a pod, tells the engine, and tells the user. The attempt began so long after the scheduler `started`.
    async fn bind(
        &self,
        profile: Option<Arc<Profile>>,
        queued: QueuedPod,
        node: Arc<str>,
        (started, begun): (Instant, Duration),
    ) {
        let pod = queued.pod.clone();
        let result = match &profile {
            Some(profile) => self.run_binding(profile, &pod, &node).await,
            None => Err(Status::error("", "the pod's profile is gone")),
        };
        let failure = result.as_ref().err().map(|status| Failure {
            pod: pod.clone(),
            reason: REASON_SCHEDULER_ERROR,
            message: status.message(),
            nominated_node: None,
            victims: Vec::new(),
            displaced: Vec::new(),
            take_back: None,
        });
        let took = started.elapsed().saturating_sub(begun);
        match &failure {
            None => self.metrics.scheduled(&queued, took, started.elapsed()),
            Some(failure) => self.metrics.failed(failure, took),
        }
        let _ = self.inbox.send(Event::BindingFinished { pod: queued, node: node.clone(), result });
        match failure {
            None => {
                debug!(pod = pod.key(), node = &*node, "bound");
                let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.context.record(&pod, EventType::Normal, "Scheduled", "Binding", note);
            }
            Some(failure) => self.report(failure).await,
        }
    }

    async fn run_binding(&self, profile: &Profile, pod: &PodInfo, node: &str) -> Result<(), Status> {
        if profile.waits(pod)
            && let Err(error) = report::nominate(&self.context.client, pod, node).await
        {
            debug!(pod = pod.key(), node, %error, "the pod's node is not told ahead");
        }
        for slot in &profile.points.pre_bind {
            slot.plugin.pre_bind(&self.context, pod, node).await.map_err(|status| status.while_running("PreBind"))?;
        }
        // The first binder binds; a profile has at least one.
        if let Some(slot) = profile.points.bind.first() {
            slot.plugin.bind(&self.context, pod, node).await.map_err(|status| status.while_running("Bind"))?;
        }
        for slot in &profile.points.post_bind {
            slot.plugin.post_bind(&self.context, pod, node).await;
        }
        Ok(())
    }

    /// Tells the user, on the pod and as an event, why a pod stays pending; removes the pods it is to replace.
    async fn report(&self, failure: Failure) {
        let pod = &failure.pod;
        debug!(pod = pod.key(), message = failure.message, "not scheduled");
        self.context.record(pod, EventType::Warning, "FailedScheduling", "Scheduling", failure.message.clone());
        let client = &self.context.client;
        if let Err(error) = report::update_pod(client, &failure).await {
            debug!(pod = pod.key(), %error, "pod condition not written");
        }
        if let Some((claim, undo)) = &failure.take_back
            && let Err(error) = report::take_back(client, pod, claim, *undo).await
        {
            warn!(pod = pod.key(), claim, %error, "claim not taken back");
        }
        for other in &failure.displaced {
            if let Err(error) = report::clear_nomination(client, other).await {
                debug!(pod = other.key(), %error, "nomination not cleared");
            }
        }
        let node = failure.nominated_node.as_deref().unwrap_or_default();
        for victim in &failure.victims {
            match report::evict(client, pod, victim).await {
                Ok(()) => {
                    let note = format!("Preempted by pod {} on node {node}", pod.uid);
                    self.context.record_for(pod, victim, EventType::Normal, "Preempted", "Preempting", note);
                }
                Err(error) => warn!(pod = pod.key(), victim = victim.key(), %error, "victim not removed"),
            }
        }
    }
}
