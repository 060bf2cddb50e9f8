//! Endpoints controller: the old, flat list of a Service's addresses.
//! Reads Service, Pod, Node, Endpoints. Writes Endpoints. Source: core/v1 API reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::dump;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::pods;
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::service_pods::{self, HEADLESS_LABEL};
use crate::spec::{ControllerSpec, Ctx};
use crate::trigger_time::{self, Triggers};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "endpoints-controller",
    alias: "endpoint",
    account: "endpoint-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ADDRESSES_MAX: usize = 1000;

struct Controller {
    ctx: Ctx,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    own_writes: OwnWrites,
    triggers: Triggers,
}

async fn run(ctx: Ctx) {
    let services = ctx.informers.informer::<Service>();
    let pods = ctx.informers.informer::<Pod>();
    let nodes = ctx.informers.informer::<Node>();
    let endpoints = ctx.informers.informer::<Endpoints>();
    let queue = WorkQueue::default();
    service_pods::wake(&queue, &services, &pods, &nodes);
    endpoints.on_event({
        let queue = queue.clone();
        move |event| queue.add(ObjectKey::of(event.object().as_ref()))
    });
    services.has_synced().await;
    pods.has_synced().await;
    nodes.has_synced().await;
    endpoints.has_synced().await;
    let (own_writes, triggers) = (OwnWrites::default(), Triggers::default());
    let controller = Controller { ctx: ctx.clone(), services, pods, endpoints, own_writes, triggers };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// An address as upstream tells it from others: by IP, then by the pod's uid.
type AddressKey = (String, String);

type PortKey = Option<(Option<String>, i32, Option<String>, Option<String>)>;

/// Which addresses have a port, and whether they are ready.
type Reached = BTreeMap<AddressKey, bool>;

/// The subsets a Service should have: ports that the same addresses have stand together. Addresses are sorted, ports and subsets lie as
/// upstream's hashes of them do.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let unready_too = service_pods::publishes_unready(service);
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let ipv6 = families.first().is_some_and(|family| family == "IPv6");
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    // Pods of a Service without ports are listed without one.
    let mut by_port: BTreeMap<PortKey, (Option<EndpointPort>, Reached)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| unready_too || pod.metadata.deletion_timestamp.is_none()) {
        let Some(ip) = service_pods::address(pod, ipv6) else { continue };
        let ports: Vec<Option<EndpointPort>> = if service_pods::ports(service).is_empty() {
            vec![None]
        } else {
            pod_ports(service, pod).map(Some).collect()
        };
        let key = (ip.clone(), pod.metadata.uid.clone().unwrap_or_default());
        let ready = unready_too || pods::is_ready(pod);
        for port in ports {
            let (_, reached) = by_port.entry(port_key(port.as_ref())).or_insert_with(|| (port, Reached::new()));
            reached.insert(key.clone(), ready);
            addresses.entry(key.clone()).or_insert_with(|| EndpointAddress {
                ip: ip.clone(),
                hostname: service_pods::hostname(pod, service),
                node_name: Some(pods::node_name(pod).to_owned()).filter(|node| !node.is_empty()),
                target_ref: Some(service_pods::reference(pod)),
            });
        }
    }
    let mut groups: BTreeMap<Reached, Vec<EndpointPort>> = BTreeMap::new();
    for (port, reached) in by_port.into_values() {
        groups.entry(reached).or_default().extend(port);
    }
    let of = |reached: &Reached, wanted: bool| {
        let keys = reached.iter().filter(|(_, ready)| **ready == wanted).map(|(key, _)| key);
        Some(keys.filter_map(|key| addresses.get(key).cloned()).collect::<Vec<_>>()).filter(|list| !list.is_empty())
    };
    let mut subsets: Vec<EndpointSubset> = groups
        .into_iter()
        .map(|(reached, mut ports)| {
            ports.sort_by_cached_key(|port| dump::sort_key(port, "v1.EndpointPort"));
            EndpointSubset {
                addresses: of(&reached, true),
                not_ready_addresses: of(&reached, false),
                ports: Some(ports).filter(|ports| !ports.is_empty()),
            }
        })
        .collect();
    subsets.sort_by_cached_key(|subset| dump::sort_key(subset, "v1.EndpointSubset"));
    subsets
}

fn port_key(port: Option<&EndpointPort>) -> PortKey {
    port.map(|port| (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone()))
}

fn pod_ports(service: &Service, pod: &Pod) -> impl Iterator<Item = EndpointPort> {
    service_pods::ports(service).iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: service_pods::target_port(pod, port)?,
            protocol: Some(service_pods::protocol(port).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    })
}

/// Cuts the lists to the limit, ready addresses first. True when something was cut.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut room = ADDRESSES_MAX;
    let mut cut = false;
    let mut take = |list: &mut Option<Vec<EndpointAddress>>| {
        let Some(addresses) = list else { return };
        cut |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
        if addresses.is_empty() {
            *list = None;
        }
    };
    subsets.iter_mut().for_each(|subset| take(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| take(&mut subset.not_ready_addresses));
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    cut
}

/// The object as it should be, made from the present one where there is one.
fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let over_capacity = truncate(&mut subsets);
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS_LABEL);
    }
    wanted.metadata.labels = Some(labels);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if over_capacity {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    wanted.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    // When it began to change matters only where something did.
    if current == Some(&wanted) {
        return None;
    }
    trigger_time::mark(&mut wanted.metadata, trigger);
    Some(wanted)
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let current = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.triggers.forget(key);
            return self.delete_orphan(key, current.as_deref()).await;
        };
        if service_pods::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::Never);
        }
        let mut pods = service_pods::selected(&service, &self.pods);
        let trigger = self.triggers.observe(key, &service, &pods);
        pods.retain(|pod| service_pods::is_reachable(pod));
        let Some(wanted) = plan(&service, &pods, current.as_deref(), trigger) else { return Ok(Requeue::Never) };
        let api = self.ctx.connection.namespaced::<Endpoints>(&key.namespace);
        let (written, reason, verb) = match &current {
            None => (api.create(&PostParams::default(), &wanted).await, "FailedToCreateEndpoint", "create"),
            Some(_) => {
                (api.replace(&key.name, &PostParams::default(), &wanted).await, "FailedToUpdateEndpoint", "update")
            }
        };
        match written {
            Ok(written) => {
                self.own_writes.wrote(key, &self.endpoints, &written);
                Ok(Requeue::Never)
            }
            Err(error) if error.is_namespace_terminating() => Ok(Requeue::Never),
            Err(error) => {
                if !error.is_conflict() && !error.is_already_exists() {
                    let message = format!("Failed to {verb} endpoint {key}: {}", error.text());
                    self.ctx.events.event(service.as_ref(), EventType::Warning, reason, message);
                }
                Err(error.into())
            }
        }
    }
}

impl Controller {
    /// Endpoints outlive their Service only when somebody else made them.
    async fn delete_orphan(&self, key: &ObjectKey, current: Option<&Endpoints>) -> Result<Requeue, ReconcileError> {
        let labels = current.and_then(|endpoints| endpoints.metadata.labels.as_ref());
        let ours = labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1);
        if !ours {
            return Ok(Requeue::Never);
        }
        match self
            .ctx
            .connection
            .namespaced::<Endpoints>(&key.namespace)
            .delete(&key.name, &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(Requeue::Never),
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        let service = json!({
            "metadata": { "name": "a", "namespace": "n", "labels": { "team": "x" } },
            "spec": {
                "selector": { "app": "a" },
                "ports": [{ "name": "h", "port": 80, "targetPort": "web" }, { "name": "d", "port": 53, "targetPort": 5353, "protocol": "UDP" }],
            },
        });
        serde_json::from_value(service).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": name, "namespace": "n", "uid": name },
            "spec": { "nodeName": "node", "containers": [{ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
            "status": { "podIP": ip, "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn ready_and_unready_pods_of_the_same_ports_share_a_subset() {
        let wanted = plan(&service(), &[pod("p", "10.1.2.3", true), pod("q", "10.1.2.1", false)], None, None).unwrap();
        let address = |ip: &str, name: &str| json!({ "ip": ip, "nodeName": "node", "targetRef": { "kind": "Pod", "name": name, "namespace": "n", "uid": name } });
        let expected = json!([{
            "addresses": [address("10.1.2.3", "p")],
            "notReadyAddresses": [address("10.1.2.1", "q")],
            "ports": [{ "name": "d", "port": 5353, "protocol": "UDP" }, { "name": "h", "port": 8080, "protocol": "TCP" }],
        }]);
        assert_eq!(serde_json::to_value(&wanted.subsets).unwrap(), expected);
        let labels = wanted.metadata.labels.clone().unwrap();
        assert_eq!(labels["endpoints.kubernetes.io/managed-by"], "endpoint-controller");
        assert_eq!(labels["team"], "x");
        assert_eq!(
            plan(&service(), &[pod("p", "10.1.2.3", true), pod("q", "10.1.2.1", false)], Some(&wanted), None),
            None
        );
    }

    #[test]
    fn ports_that_the_same_pods_have_stand_together_and_lie_as_upstreams_hashes_do() {
        let mut other = pod("q", "10.1.2.4", true).as_ref().clone();
        other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
        let nameless: Pod = {
            let mut pod = pod("r", "10.1.2.5", true).as_ref().clone();
            pod.spec.as_mut().unwrap().containers[0].ports = None;
            pod
        };
        let pods = [pod("p", "10.1.2.3", true), Arc::new(other), Arc::new(nameless)];
        let subsets = plan(&service(), &pods, None, None).unwrap().subsets.unwrap();
        let told = |subset: &EndpointSubset| {
            let ips: Vec<_> = subset.addresses.iter().flatten().map(|address| address.ip.clone()).collect();
            let ports: Vec<_> = subset.ports.iter().flatten().map(|port| port.port).collect();
            (ips.join(" "), ports)
        };
        let mut told: Vec<_> = subsets.iter().map(told).collect();
        told.sort();
        assert_eq!(
            told,
            [
                ("10.1.2.3".to_owned(), vec![8080]),
                ("10.1.2.3 10.1.2.4 10.1.2.5".to_owned(), vec![5353]),
                ("10.1.2.4".to_owned(), vec![9090]),
            ]
        );
    }

    #[test]
    fn beyond_a_thousand_addresses_the_list_is_cut_and_marked() {
        let pods: Vec<_> =
            (0..1001).map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), true)).collect();
        let wanted = plan(&service(), &pods, None, None).unwrap();
        assert_eq!(wanted.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY], "truncated");
        assert_eq!(wanted.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
    }
}
