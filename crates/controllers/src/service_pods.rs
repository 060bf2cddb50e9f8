//! Which pods stand behind a Service, and at which addresses and ports: what Endpoints and EndpointSlices share.

use std::net::IpAddr;
use std::sync::Arc;

use client::selector::{Labels, map_takes};
use client::{Event, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ownership;
use crate::pods;

pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The selector of a Service that has one.
pub(crate) fn selector(service: &Service) -> Option<&Labels> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    (!selector.is_empty() && service.spec.as_ref()?.type_.as_deref() != Some("ExternalName")).then_some(selector)
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub(crate) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or(&[])
}

/// The pods that the Service selects.
pub(crate) fn selected(service: &Service, pods: &Informer<Pod>) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let mut selected = pods.by_namespace(ownership::namespace(&service.metadata));
    selected.retain(|pod| map_takes(selector, pod.metadata.labels.as_ref()));
    selected
}

/// Whether a selected pod belongs behind the Service: it has not finished, and has an address.
pub(crate) fn is_reachable(pod: &Pod) -> bool {
    !pods::is_terminal(pod) && has_address(pod)
}

fn has_address(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).is_some_and(|ip| !ip.is_empty())
}

/// The pod's address of one family.
pub(crate) fn address(pod: &Pod, ipv6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = listed.chain(status.pod_ip.as_deref());
    all.find(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6)).map(str::to_owned)
}

/// The pod's number for a Service port; None when no container names it.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => named_port(pod, name, protocol(port)),
    }
}

pub(crate) fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let is_it = |port: &&ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    containers.flat_map(|container| container.ports.iter().flatten()).find(is_it).map(|port| port.container_port)
}

/// The name DNS gives the pod within the Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|hostname| ours && !hostname.is_empty())
}

pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Wakes every Service that selects, or selected, the pod; and, when a node comes, the Services of its pods.
pub(crate) fn wake(
    queue: &WorkQueue<ObjectKey>,
    services: &Informer<Service>,
    pods: &Informer<Pod>,
    nodes: &Informer<Node>,
) {
    services.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    pods.on_event({
        let (queue, services) = (queue.clone(), services.clone());
        move |event| {
            if matches!(event, Event::Updated { old, new } if !matters(old, new)) {
                return;
            }
            event.states().for_each(|pod| wake_services_of(pod, &services, &queue));
        }
    });
    pods::index_by_node(pods);
    nodes.on_event({
        let (queue, services, pods) = (queue.clone(), services.clone(), pods.clone());
        move |event| {
            if matches!(event, Event::Updated { .. }) {
                return;
            }
            for pod in pods.by_index("node", event.object().metadata.name.as_deref().unwrap_or("")) {
                wake_services_of(&pod, &services, &queue);
            }
        }
    });
}

fn wake_services_of(pod: &Pod, services: &Informer<Service>, queue: &WorkQueue<ObjectKey>) {
    for service in services.by_namespace(ownership::namespace(&pod.metadata)) {
        if selector(&service).is_some_and(|selector| map_takes(selector, pod.metadata.labels.as_ref())) {
            queue.add(ObjectKey::of(service.as_ref()));
        }
    }
}

/// Whether a change of a pod can change an address list: most changes are heartbeats of containers.
fn matters(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let status = pod.status.as_ref();
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.is_some(),
            pods::is_ready(pod),
            pods::is_terminal(pod),
            pods::node_name(pod).to_owned(),
            status.and_then(|status| status.pod_ip.clone()),
            status.and_then(|status| status.pod_ips.clone()),
        )
    };
    facts(old) != facts(new)
}
