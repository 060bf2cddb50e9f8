//! ResourceQuota controller: counts what a namespace uses of what its quotas limit.
//! Reads ResourceQuota, Pod, Service, PersistentVolumeClaim, ResourceClaim, DeviceClass and the metadata of what is counted. Writes
//! ResourceQuota.status.
//! Admission adds to `used` as things are made; this controller corrects it, above all when things go. What each thing uses is
//! decided in `api::quota`, for both.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::amounts::add as add_all;
use api::quota::{self, Usage, count};
use client::informer::Metadata;
use client::{Event, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec,
    ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::core::ApiResource;
use parking_lot::Mutex;

use crate::api_error::ApiErrorExt;
use crate::clock::{now, seconds_between};
use crate::discovery::discover;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{controller_of, namespace};
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
struct Controller {
    ctx: Ctx,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    device_claims: Informer<ResourceClaim>,
    device_classes: Informer<DeviceClass>,
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
    let device_classes = ctx.informers.informer::<DeviceClass>();
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
                Event::Updated { old, new } => {
                    let now = now();
                    !is_over(old, &now) && is_over(new, &now)
                        || terminates(old) != terminates(new)
                        || is_resized(old, new)
                }
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
            let freed = match event {
                Event::Added(_) => false,
                Event::Updated { old, new } => old.status != new.status,
                Event::Deleted(_) => true,
            };
            if freed {
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
    device_classes.has_synced().await;
    let controller = Controller {
        ctx: ctx.clone(),
        quotas,
        pods,
        services,
        claims,
        device_claims,
        device_classes,
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
    device_classes: &'a [Arc<DeviceClass>],
    now: &'a Time,
    /// Counts of other resources, by `resource.group`.
    counts: &'a BTreeMap<String, usize>,
}

/// The use of every limited resource that anybody counts. Same view, same answer.
fn used(view: &View) -> Usage {
    let mut total: Usage = BTreeMap::new();
    for pod in view.pods.iter().filter(|pod| in_scopes(view.spec, |scope| pod_in_scope(scope, pod))) {
        add_all(&mut total, pod_usage(pod, view.now));
    }
    for claim in view.claims.iter().filter(|claim| in_scopes(view.spec, |scope| claim_in_scope(scope, claim))) {
        add_all(&mut total, claim_usage(claim));
    }
    let scoped =
        view.spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || view.spec.scope_selector.is_some();
    if !scoped {
        view.services.iter().for_each(|service| add_all(&mut total, service_usage(service)));
        let resources = DeviceResources::of(view);
        view.device_claims.iter().for_each(|claim| add_all(&mut total, resources.usage(claim)));
        for (resource, count) in view.counts {
            total.insert(format!("count/{resource}"), quota::count(*count));
            if BARE_COUNTS.contains(&resource.as_str()) {
                total.insert(resource.clone(), quota::count(*count));
            }
        }
    }
    let limited = view.spec.hard.iter().flatten();
    limited.map(|(resource, _)| (resource.clone(), total.remove(resource).unwrap_or_default())).collect()
}

fn one(resource: &str) -> (String, api::quantity::Quantity) {
    (resource.to_owned(), count(1))
}

/// Finished, or deleted longer ago than it had time to end: its node is lost, and nobody shall wait for it.
fn is_over(pod: &Pod, now: &Time) -> bool {
    let metadata = &pod.metadata;
    let is_late = match (&metadata.deletion_timestamp, metadata.deletion_grace_period_seconds) {
        (Some(deleted), Some(grace)) => seconds_between(deleted, now) > grace,
        _ => false,
    };
    pods::is_terminal(pod) || is_late
}

fn terminates(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).is_some()
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    init.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

/// Does a container have other resources than it had?
fn is_resized(old: &Pod, new: &Pod) -> bool {
    let had: HashMap<&str, &ContainerStatus> = statuses(old).map(|status| (status.name.as_str(), status)).collect();
    statuses(new).any(|status| had.get(status.name.as_str()).is_some_and(|had| had.resources != status.resources))
}

fn pod_usage(pod: &Pod, now: &Time) -> Usage {
    let mut usage: Usage = [one("count/pods")].into();
    // It takes nothing but its place in the store.
    if is_over(pod, now) {
        return usage;
    }
    let Some(spec) = &pod.spec else { return usage };
    let held: HashMap<&str, &ContainerStatus> = statuses(pod)
        .filter(|status| status.resources.is_some())
        .map(|status| (status.name.as_str(), status))
        .collect();
    let container = |container: &Container| {
        let asked = container.resources.as_ref();
        let held = held.get(container.name.as_str()).map(|status| quota::Held {
            requests: parsed(status.resources.as_ref().and_then(|has| has.requests.as_ref())),
            limits: parsed(status.resources.as_ref().and_then(|has| has.limits.as_ref())),
            allocated: parsed(status.allocated_resources.as_ref()),
        });
        quota::Container {
            requests: parsed(asked.and_then(|asked| asked.requests.as_ref())),
            limits: parsed(asked.and_then(|asked| asked.limits.as_ref())),
            is_sidecar: container.restart_policy.as_deref() == Some("Always"),
            held,
        }
    };
    let own = spec.resources.as_ref();
    let pending = pods::condition(pod, "PodResizePending");
    let pod = quota::Pod {
        containers: spec.containers.iter().map(container).collect(),
        init_containers: spec.init_containers.iter().flatten().map(container).collect(),
        requests: parsed(own.and_then(|own| own.requests.as_ref())),
        limits: parsed(own.and_then(|own| own.limits.as_ref())),
        overhead: parsed(spec.overhead.as_ref()),
        is_resize_infeasible: pending.is_some_and(|pending| pending.reason.as_deref() == Some("Infeasible")),
    };
    usage.extend(pod.usage());
    usage
}

type ResourceList = BTreeMap<String, resource::Quantity>;

/// Malformed quantities cannot be in a stored object.
fn parsed(list: Option<&ResourceList>) -> Usage {
    let entries = list.into_iter().flatten();
    entries.filter_map(|(resource, quantity)| Some((resource.clone(), quantity.0.parse().ok()?))).collect()
}

fn service_usage(service: &Service) -> Usage {
    let spec = service.spec.as_ref();
    let type_ = spec.and_then(|spec| spec.type_.as_deref());
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or(&[]);
    let matters = quota::Service {
        is_node_port: type_ == Some("NodePort"),
        is_load_balancer: type_ == Some("LoadBalancer"),
        allocates_node_ports: spec.and_then(|spec| spec.allocate_load_balancer_node_ports).unwrap_or(true),
        n_ports: ports.len(),
        n_node_ports: ports.iter().filter(|port| port.node_port.is_some_and(|number| number != 0)).count(),
    };
    let mut usage = matters.usage();
    usage.extend([one("services"), one("count/services")]);
    usage
}

fn claim_usage(claim: &PersistentVolumeClaim) -> Usage {
    const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
    let spec = claim.spec.as_ref();
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let class = annotated.or(spec.and_then(|spec| spec.storage_class_name.as_ref())).map_or("", String::as_str);
    let requests = spec.and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    let allocated = claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref());
    let mut usage = quota::storage(class, parsed(requests).remove("storage"), parsed(allocated).remove("storage"));
    usage.extend([one("persistentvolumeclaims"), one("count/persistentvolumeclaims")]);
    usage
}

fn device_usage(claim: &ResourceClaim) -> Usage {
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()).map(|request| {
        let exactly = request.exactly.iter().map(|one| (&one.device_class_name, &one.allocation_mode, one.count));
        let alternatives = request.first_available.iter().flatten();
        let alternatives = alternatives.map(|one| (&one.device_class_name, &one.allocation_mode, one.count));
        alternatives.chain(exactly).map(|(class, mode, count)| quota::Devices {
            class,
            mode: mode.as_deref().unwrap_or_default(),
            count: count.unwrap_or(0),
        })
    });
    quota::devices(requests)
}

/// What stands behind claims to devices: the extended resources of their classes, and the pods that the scheduler made them for.
struct DeviceResources<'a> {
    by_class: HashMap<&'a str, &'a str>,
    pods: HashMap<&'a str, &'a Pod>,
    /// The first claim for the extended resources of each pod, by the pod's UID.
    first: HashMap<&'a str, (Option<&'a Time>, &'a str)>,
    now: &'a Time,
}

impl<'a> DeviceResources<'a> {
    fn of(view: &View<'a>) -> Self {
        let by_class = view
            .device_classes
            .iter()
            .filter_map(|class| Some((class.metadata.name.as_deref()?, class.spec.extended_resource_name.as_deref()?)));
        let mut first = HashMap::new();
        for claim in view.device_claims {
            let Some((_, uid)) = extended_owner(claim) else { continue };
            let age = (claim.metadata.creation_timestamp.as_ref(), claim.metadata.name.as_deref().unwrap_or_default());
            let oldest = first.entry(uid).or_insert(age);
            *oldest = age.min(*oldest);
        }
        // Without such claims nobody looks for a pod.
        let pods = view.pods.iter().filter(|_| !first.is_empty());
        let pods = pods.filter_map(|pod| Some((pod.metadata.name.as_deref()?, pod.as_ref()))).collect();
        Self { by_class: by_class.collect(), pods, first, now: view.now }
    }

    fn usage(&self, claim: &ResourceClaim) -> Usage {
        let mut usage = device_usage(claim);
        quota::add_extended(&mut usage, &self.pod_behind(claim), |class| self.by_class.get(class).copied());
        usage.extend([one("count/resourceclaims.resource.k8s.io")]);
        usage
    }

    /// What the pod is charged for whose extended resources the scheduler made the claim; nothing where they do not name each other.
    fn pod_behind(&self, claim: &ResourceClaim) -> Usage {
        let Some((pod, uid)) = extended_owner(claim) else { return Usage::new() };
        let Some(pod) = self.pods.get(pod).filter(|pod| pod.metadata.uid.as_deref() == Some(uid)) else {
            return Usage::new();
        };
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let named = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
        let named = named.map(|status| status.resource_claim_name.as_str());
        let is_first = || self.first.get(uid).is_some_and(|(_, first)| *first == name);
        let is_meant = quota::is_meant(name, named, is_first);
        if is_meant { pod_usage(pod, self.now) } else { Usage::new() }
    }
}

/// Name and UID of the pod for whose extended resources the scheduler made the claim.
fn extended_owner(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let made = claim.metadata.annotations.as_ref()?.get(quota::EXTENDED_CLAIM_ANNOTATION)?;
    let owner = controller_of(&claim.metadata).filter(|_| made == "true")?;
    (owner.kind == "Pod" && owner.api_version == "v1").then_some((owner.name.as_str(), owner.uid.as_str()))
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
    let terminating = terminates(pod);
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
            device_classes: &self.device_classes.list(),
            now: &now(),
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

    fn epoch() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn empty<'a>(spec: &'a ResourceQuotaSpec, counts: &'a BTreeMap<String, usize>, now: &'a Time) -> View<'a> {
        let (pods, services, claims): (&[_], &[_], &[_]) = (&[], &[], &[]);
        View { spec, pods, services, claims, device_claims: &[], device_classes: &[], now, counts }
    }

    fn check(spec: Value, pods: &[Arc<Pod>], counts: &[(&str, usize)], expected: Value) {
        let spec: ResourceQuotaSpec = serde_json::from_value(spec).unwrap();
        let counts = counts.iter().map(|(resource, count)| ((*resource).to_owned(), *count)).collect();
        let used = used(&View { pods, ..empty(&spec, &counts, &epoch()) });
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

    fn typed(pod: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_is_counted_as_a_whole_and_as_it_is_resized() {
        let whole = typed(json!({ "metadata": {}, "spec": {
            "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "3" } },
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1", "memory": "1Gi" } } }],
        } }));
        let resized = |conditions: Value| {
            typed(json!({
                "metadata": {},
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "8" } } }] },
                "status": { "conditions": conditions, "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "resources": { "requests": { "cpu": "2" } }, "allocatedResources": { "cpu": "3" },
                }] },
            }))
        };
        let hard = json!({ "hard": { "requests.cpu": "9", "limits.cpu": "9", "memory": "9Gi" } });
        check(hard.clone(), &[whole], &[], json!({ "requests.cpu": "2", "limits.cpu": "3", "memory": "1Gi" }));
        let used = |cpu: &str| json!({ "requests.cpu": cpu, "limits.cpu": "0", "memory": "0" });
        check(hard.clone(), &[resized(json!([]))], &[], used("8"));
        let infeasible = json!([{ "type": "PodResizePending", "status": "True", "reason": "Infeasible" }]);
        check(hard, &[resized(infeasible)], &[], used("3"));
    }

    #[test]
    fn a_pod_whose_node_is_lost_uses_nothing_once_its_grace_is_over() {
        let deleted = |at: &str, grace: i64| {
            typed(json!({
                "metadata": { "deletionTimestamp": at, "deletionGracePeriodSeconds": grace },
                "spec": { "containers": [] }, "status": { "phase": "Running" },
            }))
        };
        let pods = [deleted("1969-12-31T23:59:00Z", 59), deleted("1969-12-31T23:59:00Z", 60)];
        let hard = json!({ "hard": { "pods": "9", "count/pods": "9" } });
        check(hard, &pods, &[], json!({ "pods": "1", "count/pods": "2" }));
    }

    #[test]
    fn claims_to_devices_count_as_extended_resources_unless_their_pod_does() {
        let class: DeviceClass = serde_json::from_value(json!({
            "metadata": { "name": "gold" }, "spec": { "extendedResourceName": "example.com/gpu" },
        }))
        .unwrap();
        let claim = |name: &str, metadata: Value, count: i64| -> Arc<ResourceClaim> {
            let exactly = json!({ "deviceClassName": "gold", "allocationMode": "ExactCount", "count": count });
            let mut claim = json!({ "metadata": metadata,
                "spec": { "devices": { "requests": [{ "name": "r", "exactly": exactly }] } } });
            claim["metadata"]["name"] = name.into();
            Arc::new(serde_json::from_value(claim).unwrap())
        };
        let made = json!({
            "annotations": { (quota::EXTENDED_CLAIM_ANNOTATION): "true" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true }],
        });
        let pod = |status: Value| {
            [typed(json!({ "metadata": { "name": "p", "uid": "u" }, "status": status, "spec": { "containers": [
                { "name": "c", "resources": { "requests": { "example.com/gpu": "2" } } },
            ] } }))]
        };
        let (named, implicit) = ("requests.example.com/gpu", "requests.deviceclass.resource.kubernetes.io/gold");
        let spec: ResourceQuotaSpec = serde_json::from_value(json!({ "hard": { named: "9", implicit: "9" } })).unwrap();
        let (classes, counts, now) = ([Arc::new(class)], BTreeMap::new(), epoch());
        let counted = |pods: &[Arc<Pod>], device_claims: &[Arc<ResourceClaim>]| {
            let view = View { pods, device_claims, device_classes: &classes, ..empty(&spec, &counts, &now) };
            let used = used(&view);
            (used[named].to_string(), used[implicit].to_string())
        };
        let of = |named: &str, implicit: &str| (named.to_owned(), implicit.to_owned());
        assert_eq!(counted(&[], &[claim("a", json!({}), 3)]), of("3", "3"));
        // The pod counts two of the three.
        let pods = pod(json!({}));
        let (first, second) = (claim("a", made.clone(), 3), claim("b", made.clone(), 3));
        assert_eq!(counted(&pods, std::slice::from_ref(&first)), of("3", "3"));
        assert_eq!(counted(&pods, &[first.clone(), second.clone()]), of("6", "6"));
        assert_eq!(counted(&pods, &[claim("a", json!({}), 3)]), of("5", "3"));
        let settled =
            pod(json!({ "extendedResourceClaimStatus": { "resourceClaimName": "b", "requestMappings": [] } }));
        assert_eq!(counted(&settled, &[first]), of("5", "3"));
        assert_eq!(counted(&settled, &[second]), of("3", "3"));
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
            used(&View { claims: &claims, ..empty(&spec, &counts, &epoch()) })["persistentvolumeclaims"].to_string()
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
        let [gold, tin] = ["gold", "tin"].map(|class| format!("{class}{}", quota::DEVICES_SUFFIX));
        let count = "count/resourceclaims.resource.k8s.io";
        let spec: ResourceQuotaSpec =
            serde_json::from_value(json!({ "hard": { &gold: "1", &tin: "1", count: "1" } })).unwrap();
        let (claims, counts) = ([Arc::new(claim)], BTreeMap::new());
        let used = used(&View { device_claims: &claims, ..empty(&spec, &counts, &epoch()) });
        let used: Vec<String> = [gold.as_str(), &tin, count].iter().map(|name| used[*name].to_string()).collect();
        assert_eq!(used, ["5", "32", "1"]);
    }
}
