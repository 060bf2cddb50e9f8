//! What a server does by itself: fills the cache, creates the objects of the control plane, keeps them, forgets old revisions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::{Status, Value, meta};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body_util::BodyExt as _;
use store::Revision;
use tokio::sync::watch;

use crate::aggregation;
use crate::attributes::UserInfo;
use crate::bootstrap::alive::Alive;
use crate::bootstrap::objects::{AuthenticationInfo, KubernetesService};
use crate::bootstrap::{Change, ChangeAction, flowcontrol, objects, rbac};
use crate::gateway::{Call, Gateway, Peer};
use crate::serve::stopped;
use crate::source::ObjectSource as _;
use crate::verbs;

/// The server's own user, as upstream's loopback client.
const LOOPBACK_USER: &str = "system:apiserver";
/// The program that the server's own writes are managed by.
pub(crate) const USER_AGENT: &str = "kube-apiserver";
/// Bootstrap writes under way at once: enough to share fsyncs, few enough to leave room for clients.
const WRITES_AT_ONCE: usize = 64;
/// Rounds until everything that should exist does; more means that somebody works against us.
const ROUNDS_MAX: usize = 10;
/// How often what the control plane keeps is looked after.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How often FlowSchemas are looked at.
const CONDITIONS_INTERVAL: Duration = Duration::from_millis(500);
/// How often addresses of Services are compared with the objects that stand for them, as upstream.
const REPAIR_INTERVAL: Duration = Duration::from_secs(180);
/// Revisions older than this are compacted, and as often; upstream's `--etcd-compaction-interval`.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// What the objects of the control plane say about this server.
#[derive(Debug)]
pub(crate) struct Identity {
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    pub authentication: AuthenticationInfo,
    pub alive: Alive,
}

/// Creates what is missing. Errors are logged and tried again: a server without its objects still serves.
pub(crate) async fn bootstrap(gateway: &Arc<Gateway>, identity: &Identity) {
    let mut failures = 0_u32;
    loop {
        match bootstrap_once(gateway, identity).await {
            Ok(()) => break,
            Err(status) => {
                failures += 1;
                tracing::warn!(%status, failures, "cannot create the objects of the control plane, trying again");
                tokio::time::sleep(Duration::from_millis(100) * failures.min(50)).await;
            }
        }
    }
    gateway.health.set_bootstrapped();
}

async fn bootstrap_once(gateway: &Arc<Gateway>, identity: &Identity) -> Result<(), Status> {
    settle(gateway, |gateway| objects::namespaces(gateway.cache.as_ref())).await?;
    settle(gateway, |gateway| {
        let source = gateway.cache.as_ref();
        let ranges = gateway.allocations.configured().ranges();
        let mut changes = rbac::plan(source);
        changes.extend(objects::priority_classes(source));
        changes.extend(flowcontrol::plan(source));
        changes.extend(objects::service_cidr(source, ranges));
        changes.extend(aggregation::builtin(source));
        changes.extend(objects::authentication_config(source, &identity.authentication));
        changes
    })
    .await?;
    keep(gateway, identity).await
}

/// What has to be looked after while the server runs.
async fn keep(gateway: &Arc<Gateway>, identity: &Identity) -> Result<(), Status> {
    let masters = match identity.advertise_address {
        own if own.is_loopback() => BTreeSet::new(),
        own => identity.alive.say(gateway.objects.store().as_ref(), own).await.map_err(Status::internal)?,
    };
    settle(gateway, |gateway| {
        let source = gateway.cache.as_ref();
        let mut changes = objects::namespaces(source);
        let service = kubernetes_service(gateway, identity);
        changes.extend(service.as_ref().and_then(|wanted| objects::kubernetes_service(source, wanted)));
        // An endpoint cannot be a loopback address: such a server is reachable from this machine only.
        if !identity.advertise_address.is_loopback() {
            changes.extend(objects::kubernetes_endpoints(source, &masters, identity.secure_port));
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        changes.extend(objects::legacy_token_tracking(source, &now));
        changes
    })
    .await?;
    let now = crate::write::rfc3339(jiff::Timestamp::now());
    match objects::service_cidr_ready(gateway.cache.as_ref(), &now) {
        Some(object) => write(gateway, Method::PUT, "networking.k8s.io", "servicecidrs", "status", &object).await,
        None => Ok(()),
    }
}

fn kubernetes_service(gateway: &Gateway, identity: &Identity) -> Option<KubernetesService> {
    let range = gateway.allocations.configured().ranges().first()?;
    Some(KubernetesService { range: *range, secure_port: identity.secure_port, node_port: 0 })
}

/// Repeats a plan until nothing is left to do.
pub(crate) async fn settle(gateway: &Arc<Gateway>, plan: impl Fn(&Gateway) -> Vec<Change>) -> Result<(), Status> {
    for _ in 0..ROUNDS_MAX {
        let changes = plan(gateway);
        if changes.is_empty() {
            return Ok(());
        }
        let mut results = futures::stream::iter(changes)
            .map(|change| async move { apply(gateway, &change).await })
            .buffer_unordered(WRITES_AT_ONCE);
        // All of them are seen through: a write that is dropped half-way could leave an address reserved.
        let mut failure = None;
        while let Some(result) = results.next().await {
            failure = failure.or(result.err());
        }
        if let Some(status) = failure {
            return Err(status);
        }
        let fresh = gateway.cache.catch_up().await.map_err(Status::internal)?;
        fresh.map_err(crate::error::from_not_fresh)?;
    }
    Err(Status::internal("the objects of the control plane do not settle"))
}

async fn apply(gateway: &Arc<Gateway>, change: &Change) -> Result<(), Status> {
    let result = match change.action {
        ChangeAction::Create => write(gateway, Method::POST, change.group, change.resource, "", &change.object).await,
        ChangeAction::Update => write(gateway, Method::PUT, change.group, change.resource, "", &change.object).await,
        ChangeAction::Delete => {
            let gone = write(gateway, Method::DELETE, change.group, change.resource, "", &change.object).await;
            if matches!(&gone, Err(status) if status.code == 404) { Ok(()) } else { gone }
        }
        ChangeAction::Recreate => {
            let gone = write(gateway, Method::DELETE, change.group, change.resource, "", &change.object).await;
            if let Err(status) = gone
                && status.code != 404
            {
                return Err(status);
            }
            let mut object = change.object.clone();
            crate::write::set_metadata(&mut object, "resourceVersion", Value::Null);
            write(gateway, Method::POST, change.group, change.resource, "", &object).await
        }
    };
    match result {
        // Another master was faster; the next round sees what it made.
        Err(status) if status.code == 409 => Ok(()),
        other => other,
    }
}

/// A request to ourselves, so that our own objects pass the same checks as everybody's. A PATCH is an apply.
pub(crate) async fn write(
    gateway: &Arc<Gateway>,
    method: Method,
    group: &str,
    resource: &str,
    subresource: &str,
    object: &Value,
) -> Result<(), Status> {
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
    let namespace = meta::namespace(object);
    let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let mut path = format!("{root}{scope}/{resource}");
    if method != Method::POST {
        path = format!("{path}/{}", meta::name(object).replace(':', "%3A"));
    }
    if !subresource.is_empty() {
        path = format!("{path}/{subresource}");
    }
    let body = if method == Method::DELETE {
        Bytes::new()
    } else {
        Bytes::from(serde_json::to_vec(object).map_err(Status::internal)?)
    };
    let uri: Uri = path.parse().map_err(Status::internal)?;
    let mut headers = HeaderMap::new();
    let content_type = if method == Method::PATCH { verbs::apply::MEDIA_TYPE } else { "application/json" };
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let agent = if group == flowcontrol::GROUP { flowcontrol::MANAGER } else { USER_AGENT };
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static(agent));
    let call = Call { body: Ok(body), ..gateway.call(method, uri, headers) };
    let response = gateway.handle(&loopback(), call).await;
    if response.status().is_success() {
        return Ok(());
    }
    let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    Err(serde_json::from_slice(&body).unwrap_or_else(|_| Status::internal(String::from_utf8_lossy(&body))))
}

fn loopback() -> Peer {
    Peer::InProcess(Arc::new(loopback_user()))
}

pub(crate) fn loopback_user() -> UserInfo {
    let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
    UserInfo { name: LOOPBACK_USER.to_owned(), groups, ..UserInfo::default() }
}

/// Keeps the control plane's objects until the stop.
pub(crate) async fn run_keeper(gateway: Arc<Gateway>, identity: Identity, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(KEEP_INTERVAL) => {}
            () = stopped(&mut shutdown) => break,
        }
        if let Err(status) = keep(&gateway, &identity).await {
            tracing::warn!(%status, "cannot keep the objects of the control plane");
        }
    }
    identity.alive.stop(gateway.objects.store().as_ref()).await;
}

/// Keeps the conditions of FlowSchemas true, looking only when something has changed.
pub(crate) async fn run_flow_conditions(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    const RESOURCES: [&str; 2] = ["flowschemas", "prioritylevelconfigurations"];
    let mut seen = [Revision(0); 2];
    loop {
        tokio::select! {
            () = tokio::time::sleep(CONDITIONS_INTERVAL) => {}
            () = stopped(&mut shutdown) => return,
        }
        let source = gateway.cache.as_ref();
        let newest = RESOURCES.map(|resource| source.last_change(flowcontrol::GROUP, resource));
        if newest == seen || !gateway.cache.is_ready() {
            continue;
        }
        seen = newest;
        let now = crate::write::rfc3339(jiff::Timestamp::now());
        let apply = format!("status?fieldManager={}&force=true", flowcontrol::CONDITIONS_MANAGER);
        for schema in flowcontrol::with_conditions(source, &now) {
            let written = write(&gateway, Method::PATCH, flowcontrol::GROUP, "flowschemas", &apply, &schema).await;
            // It may be gone by now.
            if let Err(status) = written.or_else(|status| if status.code == 404 { Ok(()) } else { Err(status) }) {
                tracing::warn!(%status, "cannot set the condition of a flow schema");
            }
        }
    }
}

/// Makes Services and the objects that stand for their addresses agree, at the start and now and then: whoever wrote one of them
/// may have stopped before the other.
pub(crate) async fn run_address_repair(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    gateway.cache.ready().await;
    loop {
        gateway.allocations.repair(&gateway).await;
        tokio::select! {
            () = tokio::time::sleep(REPAIR_INTERVAL) => {}
            () = stopped(&mut shutdown) => return,
        }
    }
}

/// Compacts the revision of one interval ago, again and again.
pub(crate) async fn run_compactor(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut previous = Revision(0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(COMPACTION_INTERVAL) => {}
            () = stopped(&mut shutdown) => return,
        }
        let store = gateway.objects.store();
        if previous > Revision(0)
            && let Err(error) = store.compact(previous, false).await
        {
            tracing::info!(%error, "compaction was refused");
        }
        match store.current_revision().await {
            Ok(revision) => previous = revision,
            Err(error) => tracing::warn!(%error, "cannot read the revision to compact"),
        }
    }
}
