//! ResourceQuota controller: counts what a namespace uses of what its quotas limit.
//! Reads ResourceQuota, Pod, Service, PersistentVolumeClaim, ResourceClaim and the metadata of what is counted. Writes
//! ResourceQuota.status.
//! Admission adds to `used` as things are made; this controller corrects it, above all when things go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::quantity::{Format, Quantity};
use client::informer::Metadata;
use client::{Event, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource;
use kube::api::PostParams;
use kube::core::ApiResource;
use parking_lot::Mutex;

use crate::api_error::ApiErrorExt;
use crate::discovery::discover;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::namespace;
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "resourcequota-controller",
    alias: "resourcequota",
    account: "resourcequota-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const RESYNC: Duration = Duration::from_secs(300);
/// From a quota's first count to the one that no watch can be late for.
const SECOND_COUNT: Duration = Duration::from_secs(1);
/// Core resources counted under their bare names too.
const BARE_COUNTS: [&str; 4] = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];
const STORAGE_CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices that a claim to all of them may get.
const DEVICES_MAX: i64 = 32;

type Usage = BTreeMap<String, Quantity>;

struct Controller {
    ctx: Ctx,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    device_claims: Informer<ResourceClaim>,
    /// By `resource.group` as `count/` names them; a bare resource is of the core group.
    counted: Mutex<HashMap<String, Informer<Metadata>>>,
    queue: WorkQueue<ObjectKey>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let quotas = ctx.informers.informer::<ResourceQuota>();
    let pods = ctx.informers.informer::<Pod>();
    let services = ctx.informers.informer::<Service>();
    let claims = ctx.informers.informer::<PersistentVolumeClaim>();
    let device_claims = ctx.informers.informer::<ResourceClaim>();
    let queue = WorkQueue::default();
    quotas.on_event({
        let queue = queue.clone();
        move |event| {
            // Charges of admission are no reason to count again: what is charged may not be there to be counted yet.
            let same_limits = matches!(event, Event::Updated { old, new } if old.spec == new.spec);
            if !same_limits {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    pods.on_event({
        let (queue, quotas) = (queue.clone(), quotas.clone());
        move |event| {
            let freed = match event {
                Event::Added(_) => false,
                Event::Updated { old, new } => pods::is_terminal(new) && !pods::is_terminal(old),
                Event::Deleted(_) => true,
            };
            if freed {
                wake(&queue, &quotas, namespace(&event.object().metadata));
            }
        }
    });
    services.on_event({
        let (queue, quotas) = (queue.clone(), quotas.clone());
        move |event| {
            if !matches!(event, Event::Added(_)) {
                wake(&queue, &quotas, namespace(&event.object().metadata));
            }
        }
    });
    claims.on_event({
        let (queue, quotas) = (queue.clone(), quotas.clone());
        move |event| {
            if matches!(event, Event::Deleted(_)) {
                wake(&queue, &quotas, namespace(&event.object().metadata));
            }
        }
    });
    device_claims.on_event({
        let (queue, quotas) = (queue.clone(), quotas.clone());
        move |event| {
            if matches!(event, Event::Deleted(_)) {
                wake(&queue, &quotas, namespace(&event.object().metadata));
            }
        }
    });
    quotas.has_synced().await;
    pods.has_synced().await;
    services.has_synced().await;
    claims.has_synced().await;
    device_claims.has_synced().await;
    let controller = Controller {
        ctx: ctx.clone(),
        quotas,
        pods,
        services,
        claims,
        device_claims,
        counted: Mutex::default(),
        queue: queue.clone(),
        own_writes: OwnWrites::default(),
    };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

fn wake(queue: &WorkQueue<ObjectKey>, quotas: &Informer<ResourceQuota>, namespace: &str) {
    quotas.by_namespace(namespace).iter().for_each(|quota| queue.add(ObjectKey::of(quota.as_ref())));
}

/// What the quota may count in its namespace.
struct View<'a> {
    spec: &'a ResourceQuotaSpec,
    pods: &'a [Arc<Pod>],
    services: &'a [Arc<Service>],
    claims: &'a [Arc<PersistentVolumeClaim>],
    device_claims: &'a [Arc<ResourceClaim>],
    /// Counts of other resources, by `resource.group`.
    counts: &'a BTreeMap<String, usize>,
}

/// The use of every limited resource that anybody counts. Same view, same answer.
fn used(view: &View) -> Usage {
    let mut total: Usage = BTreeMap::new();
    for pod in view.pods.iter().filter(|pod| in_scopes(view.spec, |scope| pod_in_scope(scope, pod))) {
        add_all(&mut total, pod_usage(pod));
    }
    for claim in view.claims.iter().filter(|claim| in_scopes(view.spec, |scope| claim_in_scope(scope, claim))) {
        add_all(&mut total, claim_usage(claim));
    }
    let scoped =
        view.spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || view.spec.scope_selector.is_some();
    if !scoped {
        view.services.iter().for_each(|service| add_all(&mut total, service_usage(service)));
        view.device_claims.iter().for_each(|claim| add_all(&mut total, device_usage(claim)));
        for (resource, count) in view.counts {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            total.insert(format!("count/{resource}"), Quantity::new(count, Format::DecimalSi));
            if BARE_COUNTS.contains(&resource.as_str()) {
                total.insert(resource.clone(), Quantity::new(count, Format::DecimalSi));
            }
        }
    }
    let limited = view.spec.hard.iter().flatten();
    limited.map(|(resource, _)| (resource.clone(), total.remove(resource).unwrap_or_default())).collect()
}

fn add_all(total: &mut Usage, more: Usage) {
    for (resource, quantity) in more {
        let sum = total.get(&resource).map_or_else(|| quantity.clone(), |sum| sum.add(&quantity));
        total.insert(resource, sum);
    }
}

fn one(resource: &str) -> (String, Quantity) {
    (resource.to_owned(), Quantity::new(1, Format::DecimalSi))
}

fn pod_usage(pod: &Pod) -> Usage {
    let mut usage: Usage = [one("count/pods")].into();
    // A finished pod takes nothing but its place in the store.
    if pods::is_terminal(pod) {
        return usage;
    }
    usage.extend([one("pods")]);
    let Some(spec) = &pod.spec else { return usage };
    let init = spec.init_containers.as_deref().unwrap_or(&[]);
    let overhead = spec.overhead.as_ref();
    for (resource, quantity) in
        pod_sum(&spec.containers, init, overhead, |container| container.resources.as_ref()?.requests.as_ref())
    {
        if matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-") {
            usage.insert(resource.clone(), quantity.clone());
        }
        usage.insert(format!("requests.{resource}"), quantity);
    }
    for (resource, quantity) in
        pod_sum(&spec.containers, init, overhead, |container| container.resources.as_ref()?.limits.as_ref())
    {
        usage.insert(format!("limits.{resource}"), quantity);
    }
    usage
}

type ResourceList = BTreeMap<String, resource::Quantity>;

/// Containers and sidecars run together; an ordinary init container runs before them, with the sidecars started so far.
fn pod_sum(
    containers: &[Container],
    init: &[Container],
    overhead: Option<&ResourceList>,
    list: impl Fn(&Container) -> Option<&ResourceList>,
) -> Usage {
    let mut running: Usage = BTreeMap::new();
    let mut peak: Usage = BTreeMap::new();
    for container in init {
        let own = parsed(list(container));
        if container.restart_policy.as_deref() == Some("Always") {
            add_all(&mut running, own);
            continue;
        }
        let mut together = running.clone();
        add_all(&mut together, own);
        raise(&mut peak, together);
    }
    containers.iter().for_each(|container| add_all(&mut running, parsed(list(container))));
    raise(&mut peak, running);
    if !peak.is_empty() {
        add_all(&mut peak, parsed(overhead));
    }
    peak
}

fn raise(peak: &mut Usage, candidate: Usage) {
    for (resource, quantity) in candidate {
        if peak.get(&resource).is_none_or(|highest| *highest < quantity) {
            peak.insert(resource, quantity);
        }
    }
}

/// Malformed quantities cannot be in a stored object.
fn parsed(list: Option<&ResourceList>) -> Usage {
    let entries = list.into_iter().flatten();
    entries.filter_map(|(resource, quantity)| Some((resource.clone(), quantity.0.parse().ok()?))).collect()
}

fn service_usage(service: &Service) -> Usage {
    let type_ = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP");
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or(&[]);
    let allocates = service.spec.as_ref().and_then(|spec| spec.allocate_load_balancer_node_ports).unwrap_or(true);
    let n_node_ports = match type_ {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|port| port.node_port.is_some_and(|number| number != 0)).count(),
        _ => 0,
    };
    let n_node_ports = i64::try_from(n_node_ports).unwrap_or(i64::MAX);
    let n_balancers = i64::from(type_ == "LoadBalancer");
    [
        one("services"),
        one("count/services"),
        ("services.nodeports".to_owned(), Quantity::new(n_node_ports, Format::DecimalSi)),
        ("services.loadbalancers".to_owned(), Quantity::new(n_balancers, Format::DecimalSi)),
    ]
    .into()
}

fn claim_usage(claim: &PersistentVolumeClaim) -> Usage {
    let mut usage: Usage = [one("persistentvolumeclaims"), one("count/persistentvolumeclaims")].into();
    let Some(spec) = &claim.spec else { return usage };
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let storage = parsed(requests).remove("storage");
    if let Some(class) = &spec.storage_class_name {
        usage.extend([one(&format!("{class}{STORAGE_CLASS_SUFFIX}persistentvolumeclaims"))]);
        if let Some(storage) = &storage {
            usage.insert(format!("{class}{STORAGE_CLASS_SUFFIX}requests.storage"), storage.clone());
        }
    }
    usage.extend(storage.map(|storage| ("requests.storage".to_owned(), storage)));
    usage
}

/// Devices by class; of alternatives, the most of each class that any of them asks for.
fn device_usage(claim: &ResourceClaim) -> Usage {
    let mut usage: Usage = [one("count/resourceclaims.resource.k8s.io")].into();
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    for request in requests {
        let exactly = request.exactly.iter().map(|one| (&one.device_class_name, &one.allocation_mode, one.count));
        let alternatives = request.first_available.iter().flatten();
        let alternatives = alternatives.map(|one| (&one.device_class_name, &one.allocation_mode, one.count));
        let mut most = Usage::new();
        for (class, mode, count) in alternatives.chain(exactly) {
            let count = match mode.as_deref() {
                Some("ExactCount") => count.unwrap_or(0),
                Some("All") => DEVICES_MAX,
                _ => 0,
            };
            raise(&mut most, [(format!("{class}{DEVICES_SUFFIX}"), Quantity::new(count, Format::DecimalSi))].into());
        }
        add_all(&mut usage, most);
    }
    usage
}

/// Every scope and selector of the quota matches.
fn in_scopes(spec: &ResourceQuotaSpec, matches: impl Fn(&ScopedResourceSelectorRequirement) -> bool) -> bool {
    let scopes = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten().cloned());
    scopes.chain(selected).all(|requirement| matches(&requirement))
}

fn pod_in_scope(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let terminating = spec.and_then(|spec| spec.active_deadline_seconds).is_some();
    let best_effort = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) == Some("BestEffort");
    match requirement.scope_name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = spec.and_then(|spec| spec.priority_class_name.as_ref());
            names(requirement, class)
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether a name that is there, or none, is one that the requirement asks for.
fn names(requirement: &ScopedResourceSelectorRequirement, name: Option<&String>) -> bool {
    let name = name.filter(|name| !name.is_empty());
    let is_listed = |name: &String| requirement.values.iter().flatten().any(|value| value == name);
    match requirement.operator.as_str() {
        "In" => name.is_some_and(is_listed),
        "NotIn" => !name.is_some_and(is_listed),
        "DoesNotExist" => name.is_none(),
        _ => name.is_some(),
    }
}

/// A claim has its attributes class, the one it had, and the one it is to get.
fn claim_in_scope(requirement: &ScopedResourceSelectorRequirement, claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let modifying = status.and_then(|status| status.modify_volume_status.as_ref());
    let classes = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_ref()),
        modifying.and_then(|modifying| modifying.target_volume_attributes_class_name.as_ref()),
    ];
    let mut classes = classes.into_iter().flatten().filter(|class| !class.is_empty()).peekable();
    requirement.scope_name == "VolumeAttributesClass"
        && match classes.peek() {
            None => names(requirement, None),
            Some(_) => classes.any(|class| names(requirement, Some(class))),
        }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let near = affinity.pod_affinity.iter().flat_map(|affinity| {
        let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|preferred| &preferred.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|affinity| {
        let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|preferred| &preferred.pod_affinity_term))
    });
    let crosses =
        |namespaces: &Option<Vec<String>>| namespaces.as_ref().is_some_and(|namespaces| !namespaces.is_empty());
    near.chain(far).any(|term| crosses(&term.namespaces) || term.namespace_selector.is_some())
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(quota) = self.quotas.get(key) else {
            self.own_writes.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let Some(spec) = &quota.spec else { return Ok(Requeue::Never) };
        let counts = self.counts(&key.namespace, spec).await?;
        let view = View {
            spec,
            pods: &self.pods.by_namespace(&key.namespace),
            services: &self.services.by_namespace(&key.namespace),
            claims: &self.claims.by_namespace(&key.namespace),
            device_claims: &self.device_claims.by_namespace(&key.namespace),
            counts: &counts,
        };
        let used: ResourceList = used(&view)
            .into_iter()
            .map(|(resource, quantity)| (resource, resource::Quantity(quantity.to_string())))
            .collect();
        let mut changed = quota.as_ref().clone();
        let status = changed.status.get_or_insert_default();
        status.hard = spec.hard.clone();
        status.used = Some(used).filter(|used| !used.is_empty());
        if changed.status != quota.status {
            let api = self.ctx.connection.namespaced::<ResourceQuota>(&key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Ok(written) => self.own_writes.wrote(key, &self.quotas, &written),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Each kind arrives by a watch of its own: what was made just before the quota may not have been here to be counted.
        let is_first = quota.status.as_ref().is_none_or(|status| status.used.is_none());
        Ok(Requeue::After(if is_first { SECOND_COUNT } else { RESYNC }))
    }

    /// How many there are of each limited resource that is merely counted.
    async fn counts(
        &self,
        namespace: &str,
        spec: &ResourceQuotaSpec,
    ) -> Result<BTreeMap<String, usize>, ReconcileError> {
        let mut counts = BTreeMap::new();
        for limited in spec.hard.iter().flatten().map(|(resource, _)| resource) {
            let bare = BARE_COUNTS.contains(&limited.as_str()).then_some(limited.as_str());
            let Some(resource) = limited.strip_prefix("count/").or(bare) else { continue };
            // These are counted with what they use.
            if matches!(resource, "pods" | "services" | "persistentvolumeclaims" | "resourceclaims.resource.k8s.io") {
                continue;
            }
            if let Some(informer) = self.counted(resource).await? {
                informer.has_synced().await;
                // The quota itself counts, and is not always among the metadata yet.
                let n_found = match resource {
                    "resourcequotas" => self.quotas.by_namespace(namespace).len(),
                    _ => informer.by_namespace(namespace).len(),
                };
                counts.insert(resource.to_owned(), n_found);
            }
        }
        Ok(counts)
    }

    /// None when the server does not serve the resource: it is then used not at all.
    async fn counted(&self, resource: &str) -> Result<Option<Informer<Metadata>>, ReconcileError> {
        if let Some(informer) = self.counted.lock().get(resource) {
            return Ok(Some(informer.clone()));
        }
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let discovered = discover(&self.ctx.connection).await?;
        let mut served = discovered.resources.iter().filter(|one| one.namespaced && one.has_verbs(&["list", "watch"]));
        let Some(found) = served.find(|one| one.api.plural == plural && one.api.group == group) else {
            return Ok(None);
        };
        Ok(Some(self.watch(resource, &found.api)))
    }

    fn watch(&self, resource: &str, api: &ApiResource) -> Informer<Metadata> {
        let mut counted = self.counted.lock();
        if let Some(informer) = counted.get(resource) {
            return informer.clone();
        }
        let informer = self.ctx.informers.metadata(api);
        let (queue, quotas) = (self.queue.clone(), self.quotas.clone());
        informer.on_event(move |event| {
            if matches!(event, Event::Deleted(_)) {
                wake(&queue, &quotas, namespace(&event.object().metadata));
            }
        });
        counted.insert(resource.to_owned(), informer.clone());
        informer
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(phase: &str, requests: Value, init: Value) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": {
                "containers": [{ "name": "c", "resources": { "requests": requests } }],
                "initContainers": [{ "name": "i", "resources": { "requests": init } }],
            },
            "status": { "phase": phase, "qosClass": "Burstable" },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn check(spec: Value, pods: &[Arc<Pod>], counts: &[(&str, usize)], expected: Value) {
        let spec: ResourceQuotaSpec = serde_json::from_value(spec).unwrap();
        let counts = counts.iter().map(|(resource, count)| ((*resource).to_owned(), *count)).collect();
        let used = used(&View { spec: &spec, pods, services: &[], claims: &[], device_claims: &[], counts: &counts });
        let used: BTreeMap<String, String> =
            used.into_iter().map(|(resource, quantity)| (resource, quantity.to_string())).collect();
        assert_eq!(serde_json::to_value(used).unwrap(), expected);
    }

    #[test]
    fn running_pods_use_their_peak_and_finished_ones_only_their_place() {
        let pods = [
            pod("Running", json!({ "cpu": "100m", "memory": "1Gi" }), json!({ "cpu": "1" })),
            pod("Running", json!({ "cpu": "500m" }), json!({})),
            pod("Succeeded", json!({ "cpu": "7" }), json!({})),
        ];
        let hard =
            json!({ "pods": "9", "count/pods": "9", "requests.cpu": "9", "cpu": "9", "memory": "9Gi", "secrets": "1" });
        let expected = json!({ "pods": "2", "count/pods": "3", "requests.cpu": "1500m", "cpu": "1500m", "memory": "1Gi", "secrets": "4" });
        check(json!({ "hard": hard }), &pods, &[("secrets", 4)], expected);
    }

    #[test]
    fn a_scope_counts_only_its_pods() {
        let pods = [pod("Running", json!({ "cpu": "1" }), json!({}))];
        check(json!({ "hard": { "pods": "1" }, "scopes": ["BestEffort"] }), &pods, &[], json!({ "pods": "0" }));
        check(json!({ "hard": { "pods": "1" }, "scopes": ["NotBestEffort"] }), &pods, &[], json!({ "pods": "1" }));
    }

    #[test]
    fn a_claim_counts_where_it_has_the_attributes_class_or_is_to_get_it() {
        let claim = |spec: Value, status: Value| -> Arc<PersistentVolumeClaim> {
            Arc::new(serde_json::from_value(json!({ "metadata": {}, "spec": spec, "status": status })).unwrap())
        };
        let claims = [
            claim(json!({ "volumeAttributesClassName": "gold" }), json!({ "currentVolumeAttributesClassName": "old" })),
            claim(json!({}), json!({})),
        ];
        let counted = |operator: &str, values: &[&str]| {
            let scope = json!({ "scopeName": "VolumeAttributesClass", "operator": operator, "values": values });
            let spec =
                json!({ "hard": { "persistentvolumeclaims": "9" }, "scopeSelector": { "matchExpressions": [scope] } });
            let spec: ResourceQuotaSpec = serde_json::from_value(spec).unwrap();
            let counts = BTreeMap::new();
            let view =
                View { spec: &spec, pods: &[], services: &[], claims: &claims, device_claims: &[], counts: &counts };
            used(&view)["persistentvolumeclaims"].to_string()
        };
        assert_eq!(counted("In", &["gold"]), "1");
        assert_eq!(counted("In", &["old"]), "1");
        assert_eq!(counted("NotIn", &["gold"]), "2");
        assert_eq!(counted("Exists", &[]), "1");
        assert_eq!(counted("DoesNotExist", &[]), "1");
    }

    #[test]
    fn claims_to_devices_count_by_class() {
        let gold = |count: i64| json!({ "name": "g", "deviceClassName": "gold", "allocationMode": "ExactCount", "count": count });
        let all = json!({ "name": "t", "deviceClassName": "tin", "allocationMode": "All" });
        let claim: ResourceClaim = serde_json::from_value(json!({ "metadata": {}, "spec": { "devices": { "requests": [
            { "name": "a", "exactly": gold(2) }, { "name": "b", "firstAvailable": [gold(1), all, gold(3)] },
        ] } } }))
        .unwrap();
        let (gold, tin) = (format!("gold{DEVICES_SUFFIX}"), format!("tin{DEVICES_SUFFIX}"));
        let count = "count/resourceclaims.resource.k8s.io";
        let spec: ResourceQuotaSpec =
            serde_json::from_value(json!({ "hard": { &gold: "1", &tin: "1", count: "1" } })).unwrap();
        let (claims, counts) = ([Arc::new(claim)], BTreeMap::new());
        let view = View { spec: &spec, pods: &[], services: &[], claims: &[], device_claims: &claims, counts: &counts };
        let used = used(&view);
        let used: Vec<String> = [gold.as_str(), &tin, count].iter().map(|name| used[*name].to_string()).collect();
        assert_eq!(used, ["5", "32", "1"]);
    }
}
