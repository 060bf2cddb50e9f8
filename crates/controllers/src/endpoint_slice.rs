//! EndpointSlice controller: a Service's endpoints in slices of at most 100, changed as little as possible.
//! Reads Service, Pod, Node, EndpointSlice. Writes EndpointSlice. Source: KEP-752, discovery.k8s.io/v1 API reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::dump;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, controller_reference, name};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::service_pods::{self, HEADLESS_LABEL};
use crate::spec::{ControllerSpec, Ctx};
use crate::trigger_time::{self, Triggers};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "endpointslice-controller",
    alias: "endpointslice",
    account: "endpointslice-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const ENDPOINTS_MAX: usize = 100;
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

struct Controller {
    ctx: Ctx,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    own_writes: OwnWrites,
    triggers: Triggers,
}

async fn run(ctx: Ctx) {
    let services = ctx.informers.informer::<Service>();
    let pods = ctx.informers.informer::<Pod>();
    let nodes = ctx.informers.informer::<Node>();
    let slices = ctx.informers.informer::<EndpointSlice>();
    slices.add_index("service", |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
    let queue = WorkQueue::default();
    service_pods::wake(&queue, &services, &pods, &nodes);
    slices.on_event({
        let queue = queue.clone();
        move |event: &Event<EndpointSlice>| {
            event.states().filter_map(|slice| service_of(slice)).for_each(|key| queue.add(key))
        }
    });
    services.has_synced().await;
    pods.has_synced().await;
    nodes.has_synced().await;
    slices.has_synced().await;
    let controller = Controller {
        ctx: ctx.clone(),
        services,
        pods,
        nodes,
        slices,
        own_writes: OwnWrites::default(),
        triggers: Triggers::default(),
    };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// The Service of a slice this controller manages.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY_LABEL).is_some_and(|manager| manager == MANAGER);
    let service = labels.get(SERVICE_LABEL).filter(|service| ours && !service.is_empty())?;
    Some(ObjectKey::new(ownership::namespace(&slice.metadata), service))
}

struct View<'a> {
    service: &'a Service,
    pods: &'a [Arc<Pod>],
    /// The node's zone, where known.
    zone: &'a dyn Fn(&str) -> Option<String>,
    slices: &'a [Arc<EndpointSlice>],
    /// When what the slices tell began to change.
    trigger: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// Same view, same plan. Touches nothing.
fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    let families = view.service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let families = if families.is_empty() { vec!["IPv4".to_owned()] } else { families };
    for family in &families {
        let existing: Vec<_> = view.slices.iter().filter(|slice| slice.address_type == *family).cloned().collect();
        plan_family(view, family, existing, &mut plan);
    }
    plan.delete.extend(view.slices.iter().filter(|slice| !families.contains(&slice.address_type)).cloned());
    recycle(&mut plan);
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        trigger_time::mark(&mut slice.metadata, view.trigger);
    }
    plan
}

/// A slice that would go becomes one that would come.
fn recycle(plan: &mut Plan) {
    plan.delete.retain(|old| {
        let of_this_family = plan.create.iter().rposition(|new| new.address_type == old.address_type);
        let Some(mut new) = of_this_family.map(|at| plan.create.remove(at)) else { return true };
        new.metadata = ObjectMeta { labels: new.metadata.labels, ..old.metadata.clone() };
        plan.update.push(new);
        false
    });
}

type PortsKey = Vec<(Option<String>, Option<i32>, Option<String>, Option<String>)>;

fn ports_key(ports: &[EndpointPort]) -> PortsKey {
    let mut key: PortsKey = ports
        .iter()
        .map(|port| (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone()))
        .collect();
    key.sort();
    key
}

fn plan_family(view: &View, family: &str, existing: Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
    let mut wanted: BTreeMap<PortsKey, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for pod in view.pods {
        let Some(address) = service_pods::address(pod, family == "IPv6") else { continue };
        let ports = slice_ports(view.service, pod);
        let group = wanted.entry(ports_key(&ports)).or_insert_with(|| (sorted(ports), Vec::new()));
        group.1.push(endpoint(view, pod, address));
    }
    let mut by_ports: BTreeMap<PortsKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or(&[]))).or_default().push(slice);
    }
    if wanted.is_empty() {
        // One empty slice says that the Service was seen, and has nobody behind it.
        wanted.insert(Vec::new(), (Vec::new(), Vec::new()));
    }
    for (key, (ports, endpoints)) in wanted {
        let slices = by_ports.remove(&key).unwrap_or_default();
        plan_group(view, family, &ports, endpoints, slices, plan);
    }
    plan.delete.extend(by_ports.into_values().flatten());
}

/// Fits the endpoints of one set of ports into its slices: those already placed stay, changed slices are filled up first, then the
/// fullest slice that has room for all the rest, then new ones.
fn plan_group(
    view: &View,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let placeholder = endpoints.is_empty();
    let mut left: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let stay: Vec<Endpoint> =
            slice.endpoints.iter().flatten().filter_map(|old| left.remove(&identity(old))).collect();
        kept.push((slice, stay));
    }
    let changed =
        |slice: &EndpointSlice, endpoints: &[Endpoint]| slice.endpoints.as_deref().unwrap_or(&[]) != endpoints;
    let mut rest: Vec<Endpoint> = left.into_values().collect();
    kept.sort_by_key(|(slice, stay)| (!changed(slice, stay), std::cmp::Reverse(stay.len())));
    for (slice, stay) in &mut kept {
        if changed(slice, stay) && !stay.is_empty() {
            fill(stay, &mut rest);
        }
    }
    while rest.len() >= ENDPOINTS_MAX {
        let full: Vec<Endpoint> = rest.drain(..ENDPOINTS_MAX).collect();
        plan.create.push(new_slice(view.service, family, ports, full));
    }
    let fits = |stay: &Vec<Endpoint>| stay.len() + rest.len() <= ENDPOINTS_MAX;
    if !rest.is_empty() {
        match kept.iter_mut().filter(|(_, stay)| fits(stay)).max_by_key(|(_, stay)| stay.len()) {
            Some((_, stay)) => fill(stay, &mut rest),
            None => plan.create.push(new_slice(view.service, family, ports, std::mem::take(&mut rest))),
        }
    }
    let mut needs_placeholder = placeholder;
    for (slice, stay) in kept {
        if stay.is_empty() && !needs_placeholder {
            plan.delete.push(slice);
            continue;
        }
        needs_placeholder = false;
        let labels = slice_labels(view.service);
        if changed(&slice, &stay) || slice.metadata.labels.as_ref() != Some(&labels) {
            let mut updated = slice.as_ref().clone();
            updated.metadata.labels = Some(labels);
            updated.endpoints = Some(stay);
            updated.ports = Some(ports.to_vec());
            plan.update.push(updated);
        }
    }
    if needs_placeholder {
        plan.create.push(new_slice(view.service, family, ports, Vec::new()));
    }
}

fn fill(slice: &mut Vec<Endpoint>, rest: &mut Vec<Endpoint>) {
    let room = ENDPOINTS_MAX.saturating_sub(slice.len()).min(rest.len());
    slice.extend(rest.drain(..room));
}

/// What makes two endpoints the same one: the pod and its address.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or("");
    format!("{} {uid}", endpoint.addresses.join(","))
}

/// In the Service's order; a named port the pod does not have is left out.
fn slice_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service_pods::ports(service).iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(service_pods::target_port(pod, port)?),
            protocol: Some(service_pods::protocol(port).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

/// As upstream's hashes of them lie.
pub(crate) fn sorted(mut ports: Vec<EndpointPort>) -> Vec<EndpointPort> {
    ports.sort_by_cached_key(|port| dump::sort_key(port, "discovery/v1.EndpointPort"));
    ports
}

fn endpoint(view: &View, pod: &Pod, address: String) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = service_pods::publishes_unready(view.service) || (serving && !terminating);
    let node = Some(pods::node_name(pod).to_owned()).filter(|node| !node.is_empty());
    let zone = node.as_deref().and_then(view.zone);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        // Nobody is led to an endpoint that is not ready.
        hints: hints(view.service, node.as_deref(), zone.as_deref()).filter(|_| ready),
        hostname: service_pods::hostname(pod, view.service),
        node_name: node,
        target_ref: Some(service_pods::reference(pod)),
        zone,
        deprecated_topology: None,
    }
}

fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.map(|node| vec![ForNode { name: node.to_owned() }]);
    let hints = match distribution {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones, for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones, for_nodes },
        _ => return None,
    };
    (hints.for_zones.is_some() || hints.for_nodes.is_some()).then_some(hints)
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS_LABEL);
    }
    labels
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(slice_labels(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports.to_vec()),
        endpoints: Some(endpoints),
    }
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        Box::pin(self.sync(key)).await
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        // A deleted Service takes its slices with it, by ownership.
        let Some(service) = self.services.get(key) else {
            self.own_writes.forget(key);
            self.triggers.forget(key);
            return Ok(Requeue::Never);
        };
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        if service_pods::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::Never);
        }
        let mut pods = service_pods::selected(&service, &self.pods);
        let trigger = self.triggers.observe(key, &service, &pods);
        pods.retain(|pod| service_pods::is_reachable(pod));
        // The pods of a node that is gone are reached only by who wants them as they are.
        if !service_pods::publishes_unready(&service) {
            let exists = |node: &str| node.is_empty() || self.nodes.get(&ObjectKey::cluster(node)).is_some();
            pods.retain(|pod| exists(pods::node_name(pod)));
        }
        let zone =
            |node: &str| self.nodes.get(&ObjectKey::cluster(node))?.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned();
        let mut slices = self.slices.by_index("service", &key.to_string());
        slices.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        let plan = plan(&View { service: &service, pods: &pods, zone: &zone, slices: &slices, trigger });
        match self.execute(key, plan).await {
            Ok(()) => Ok(Requeue::Never),
            Err(error) if error.is_namespace_terminating() => Ok(Requeue::Never),
            Err(error) => {
                if !error.is_conflict() {
                    let message = format!("Error updating Endpoint Slices for Service {key}: {}", error.text());
                    self.ctx.events.event(
                        service.as_ref(),
                        EventType::Warning,
                        "FailedToUpdateEndpointSlices",
                        message,
                    );
                }
                Err(error.into())
            }
        }
    }

    async fn execute(&self, key: &ObjectKey, plan: Plan) -> Result<(), kube::Error> {
        let api = self.ctx.connection.namespaced::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            let written = api.create(&PostParams::default(), slice).await?;
            self.own_writes.wrote(key, &self.slices, &written);
        }
        for slice in &plan.update {
            let written = api.replace(name(&slice.metadata), &PostParams::default(), slice).await?;
            self.own_writes.wrote(key, &self.slices, &written);
        }
        for slice in &plan.delete {
            match api.delete(name(&slice.metadata), &DeleteParams::default()).await {
                Ok(_) => self.own_writes.deleted(key, &self.slices, slice.as_ref()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        let service = json!({
            "metadata": { "name": "a", "namespace": "n", "uid": "s" },
            "spec": { "selector": { "app": "a" }, "ports": [{ "name": "h", "port": 80, "targetPort": "web" }] },
        });
        serde_json::from_value(service).unwrap()
    }

    fn pod(n: usize, ready: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": format!("p{n}"), "namespace": "n", "uid": format!("u{n:04}") },
            "spec": { "nodeName": "node", "containers": [{ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
            "status": { "podIP": format!("10.0.{}.{}", n / 250, n % 250), "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn planned(pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
        let zone = |_: &str| None;
        plan(&View { service: &service(), pods, zone: &zone, slices, trigger: None })
    }

    /// What the API server would hold after the plan.
    fn carried_out(plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let named = plan.create.into_iter().enumerate().map(|(n, mut slice)| {
            slice.metadata.name = Some(format!("a-{n}"));
            slice
        });
        named.chain(plan.update).map(Arc::new).collect()
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn only_ready_endpoints_carry_hints() {
        let mut service = service();
        service.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameNode".to_owned());
        let zone = |_: &str| Some("z".to_owned());
        let pods = [pod(0, true), pod(1, false)];
        let plan = plan(&View { service: &service, pods: &pods, zone: &zone, slices: &[], trigger: None });
        let hints = plan.create[0].endpoints.iter().flatten().map(|endpoint| endpoint.hints.clone());
        let both = json!({ "forZones": [{ "name": "z" }], "forNodes": [{ "name": "node" }] });
        assert_eq!(hints.collect::<Vec<_>>(), [Some(serde_json::from_value(both).unwrap()), None]);
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let first = planned(&[], &[]);
        assert_eq!(sizes(&first.create), [0]);
        let again = planned(&[], &carried_out(first));
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    }

    #[test]
    fn a_hundred_and_fifty_pods_make_two_slices_and_stay_there() {
        let pods: Vec<_> = (0..150).map(|n| pod(n, true)).collect();
        let first = planned(&pods, &[]);
        assert_eq!(sizes(&first.create), [100, 50]);
        let slices = carried_out(first);
        let again = planned(&pods, &slices);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let more: Vec<_> = (0..151).map(|n| pod(n, true)).collect();
        let grown = planned(&more, &slices);
        assert!(grown.create.is_empty());
        assert_eq!(sizes(&grown.update), [51]);
    }

    #[test]
    fn a_pod_that_turns_unready_changes_one_slice_only() {
        let pods: Vec<_> = (0..150).map(|n| pod(n, true)).collect();
        let slices = carried_out(planned(&pods, &[]));
        let mut changed = pods.clone();
        changed[3] = pod(3, false);
        let plan = planned(&changed, &slices);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        let conditions = plan.update[0].endpoints.iter().flatten().filter_map(|endpoint| endpoint.conditions.clone());
        assert_eq!(conditions.filter(|conditions| conditions.ready == Some(false)).count(), 1);
    }

    #[test]
    fn when_the_last_pod_goes_the_ported_slice_becomes_the_empty_one() {
        let slices = carried_out(planned(&[pod(0, true)], &[]));
        let plan = planned(&[], &slices);
        assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
        assert_eq!(sizes(&plan.update), [0]);
        assert_eq!((plan.update[0].metadata.name.as_deref(), &plan.update[0].ports), (Some("a-0"), &Some(Vec::new())));
    }
}
