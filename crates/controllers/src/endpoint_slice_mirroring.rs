//! EndpointSlice mirroring: what people write into the Endpoints of a Service without a selector, as slices.
//! Reads Endpoints, Service, EndpointSlice. Writes EndpointSlice. Source: KEP-752.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Event, EventRecorder, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{self as core, EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use crate::api_error::ApiErrorExt;
use crate::endpoint_slice;
use crate::own_writes::{LOOK_AGAIN, OwnWrites};
use crate::ownership::{self, controller_reference, name};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};
use crate::trigger_time;

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "endpointslice-mirroring-controller",
    alias: "endpointslicemirroring",
    account: "endpointslicemirroring-controller",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
/// The name in events.
const COMPONENT: &str = "endpoint-slice-mirroring-controller";
/// Of one subset (`--mirroring-max-endpoints-per-subset`'s default).
const ADDRESSES_MAX: usize = 1000;
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints only.
const OWN_ANNOTATIONS: [&str; 2] = [trigger_time::ANNOTATION, "kubectl.kubernetes.io/last-applied-configuration"];
const NAME_MAX: usize = 253;

struct Controller {
    ctx: Ctx,
    events: EventRecorder,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    own_writes: OwnWrites,
}

async fn run(ctx: Ctx) {
    let endpoints = ctx.informers.informer::<Endpoints>();
    let services = ctx.informers.informer::<Service>();
    let slices = ctx.informers.informer::<EndpointSlice>();
    slices.add_index("mirrored", |slice| mirrored_of(slice).map(|key| key.to_string()).into_iter().collect());
    let queue = WorkQueue::default();
    endpoints.on_event({
        let queue = queue.clone();
        move |event: &Event<Endpoints>| {
            if event.states().any(|endpoints| is_mirrored(endpoints)) {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    services.on_event({
        let queue = queue.clone();
        move |event: &Event<Service>| {
            if event.states().any(|service| !has_selector(service)) {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    slices.on_event({
        let queue = queue.clone();
        move |event: &Event<EndpointSlice>| {
            event.states().filter_map(|slice| mirrored_of(slice)).for_each(|key| queue.add(key))
        }
    });
    endpoints.has_synced().await;
    services.has_synced().await;
    slices.has_synced().await;
    let events = EventRecorder::new(ctx.connection.clone(), COMPONENT, ctx.shutdown.clone());
    let controller =
        Controller { ctx: ctx.clone(), events, endpoints, services, slices, own_writes: OwnWrites::default() };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

/// The Endpoints that a slice of this controller mirrors.
fn mirrored_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY_LABEL).is_some_and(|manager| manager == MANAGER);
    let service = labels.get(SERVICE_LABEL).filter(|service| ours && !service.is_empty())?;
    Some(ObjectKey::new(ownership::namespace(&slice.metadata), service))
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

/// Whether they are meant for traffic: not marked to be left alone, and not a lock of a leader election.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP_LABEL));
    let lock = endpoints.metadata.annotations.as_ref().and_then(|annotations| annotations.get(LEADER_ANNOTATION));
    skipped.is_none_or(|skipped| skipped != "true") && lock.is_none()
}

/// Slices with the same ports and family belong together: name, number, protocol and application protocol of each port.
type Group = (&'static str, Vec<(String, i32, String, String)>);

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
    n_invalid: usize,
    n_skipped: usize,
}

fn group(family: &'static str, ports: &[EndpointPort]) -> Group {
    let key = |port: &EndpointPort| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        (text(&port.name), port.port.unwrap_or(0), text(&port.protocol), text(&port.app_protocol))
    };
    let mut ports: Vec<_> = ports.iter().map(key).collect();
    ports.sort();
    (family, ports)
}

fn slice_ports(ports: Option<&Vec<core::EndpointPort>>) -> Vec<EndpointPort> {
    let port = |port: &core::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    endpoint_slice::sorted(ports.into_iter().flatten().map(port).collect())
}

/// None for an address that is not one.
fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

fn slice_meta(endpoints: &Endpoints) -> ObjectMeta {
    let service = name(&endpoints.metadata);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), service.to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    let dash = if service.len() < NAME_MAX { "-" } else { "" };
    ObjectMeta {
        namespace: endpoints.metadata.namespace.clone(),
        generate_name: Some(format!("{service}{dash}")),
        labels: Some(labels),
        annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        owner_references: Some(vec![controller_reference(endpoints)]),
        ..ObjectMeta::default()
    }
}

/// Same view, same plan. Touches nothing.
fn plan(endpoints: &Endpoints, slices: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: BTreeMap<Group, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = slice_ports(subset.ports.as_ref());
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut n_added = 0;
        for (address, ready) in ready.chain(unready) {
            if n_added == ADDRESSES_MAX {
                plan.n_skipped += 1;
            } else if let Some((family, endpoint)) = endpoint(address, ready) {
                n_added += 1;
                let (_, list) = wanted.entry(group(family, &ports)).or_insert_with(|| (ports.clone(), Vec::new()));
                if !list.contains(&endpoint) {
                    list.push(endpoint);
                }
            } else {
                plan.n_invalid += 1;
            }
        }
    }
    let mut spare = Vec::new();
    let mut present: BTreeMap<Group, &Arc<EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
        let key = group(family, slice.ports.as_deref().unwrap_or(&[]));
        if wanted.contains_key(&key) && !present.contains_key(&key) {
            present.insert(key, slice);
        } else {
            spare.push(slice.clone());
        }
    }
    let meta = slice_meta(endpoints);
    for (key, (ports, mut list)) in wanted {
        list.truncate(ADDRESSES_MAX);
        let slice = EndpointSlice {
            metadata: meta.clone(),
            address_type: key.0.to_owned(),
            ports: Some(ports),
            endpoints: Some(list),
        };
        // A slice of other ports is turned into this one rather than replaced.
        let reused = present.get(&key).map(|slice| Arc::clone(slice)).or_else(|| {
            let at = spare.iter().position(|old: &Arc<EndpointSlice>| old.address_type == key.0)?;
            Some(spare.remove(at))
        });
        match reused {
            None => plan.create.push(slice),
            Some(old) => {
                let mut new = EndpointSlice { metadata: old.metadata.clone(), ..slice };
                new.metadata.labels = meta.labels.clone();
                new.metadata.annotations = meta.annotations.clone();
                new.metadata.owner_references = meta.owner_references.clone();
                if new != *old {
                    plan.update.push(new);
                }
            }
        }
    }
    plan.delete = spare;
    plan
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        if !self.own_writes.settled(key) {
            return Ok(LOOK_AGAIN);
        }
        let slices = self.slices.by_index("mirrored", &key.to_string());
        let endpoints = self.endpoints.get(key).filter(|endpoints| is_mirrored(endpoints));
        let served = self.services.get(key).is_some_and(|service| !has_selector(&service));
        let Some(endpoints) = endpoints.filter(|_| served) else {
            self.delete(key, &slices).await?;
            return Ok(Requeue::Never);
        };
        let plan = plan(&endpoints, &slices);
        if plan.n_invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.n_invalid);
            self.events.event(endpoints.as_ref(), EventType::Warning, "InvalidIPAddress", message);
        }
        if plan.n_skipped > 0 {
            let message = format!(
                "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were \
                 skipped",
                plan.n_skipped + plan.n_invalid
            );
            self.events.event(endpoints.as_ref(), EventType::Warning, "TooManyAddressesToMirror", message);
        }
        let api = self.ctx.connection.namespaced::<EndpointSlice>(&key.namespace);
        let creates = plan.create.iter().filter(|_| endpoints.metadata.deletion_timestamp.is_none());
        for slice in creates {
            match api.create(&PostParams::default(), slice).await {
                Ok(written) => self.own_writes.wrote(key, &self.slices, &written),
                Err(error) if error.is_namespace_terminating() => return Ok(Requeue::Never),
                Err(error) => return Err(error.into()),
            }
        }
        for slice in &plan.update {
            let written = api.replace(name(&slice.metadata), &PostParams::default(), slice).await?;
            self.own_writes.wrote(key, &self.slices, &written);
        }
        self.delete(key, &plan.delete).await?;
        Ok(Requeue::Never)
    }
}

impl Controller {
    async fn delete(&self, key: &ObjectKey, slices: &[Arc<EndpointSlice>]) -> Result<(), ReconcileError> {
        let api = self.ctx.connection.namespaced::<EndpointSlice>(&key.namespace);
        for slice in slices {
            match api.delete(name(&slice.metadata), &DeleteParams::default()).await {
                Ok(_) => self.own_writes.deleted(key, &self.slices, slice.as_ref()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        let metadata = json!({ "name": "a", "namespace": "n", "uid": "u", "labels": { "team": "x" } });
        serde_json::from_value(json!({ "metadata": metadata, "subsets": subsets })).unwrap()
    }

    fn carried_out(plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let named = plan.create.into_iter().enumerate().map(|(at, mut slice)| {
            slice.metadata.name = Some(format!("a-{at}"));
            Arc::new(slice)
        });
        named.collect()
    }

    #[test]
    fn each_family_gets_a_slice_with_the_labels_of_the_endpoints() {
        let endpoints = endpoints(json!([{
            "addresses": [{ "ip": "1.2.3.4" }, { "ip": "fd00::1" }, { "ip": "no" }],
            "notReadyAddresses": [{ "ip": "1.2.3.5", "hostname": "h" }],
            "ports": [{ "port": 80 }],
        }]));
        let first = plan(&endpoints, &[]);
        assert_eq!(first.n_invalid, 1);
        let slice = serde_json::to_value(&first.create[0]).unwrap();
        assert_eq!(
            slice["endpoints"],
            json!([
                { "addresses": ["1.2.3.4"], "conditions": { "ready": true } },
                { "addresses": ["1.2.3.5"], "conditions": { "ready": false }, "hostname": "h" },
            ])
        );
        assert_eq!(slice["ports"], json!([{ "name": "", "port": 80, "protocol": "TCP" }]));
        assert_eq!(
            slice["metadata"]["labels"],
            json!({ "kubernetes.io/service-name": "a", "endpointslice.kubernetes.io/managed-by": MANAGER, "team": "x" })
        );
        assert_eq!(first.create[1].address_type, "IPv6");
        let again = plan(&endpoints, &carried_out(first));
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    }

    #[test]
    fn a_changed_port_reuses_the_slice_and_no_address_deletes_it() {
        let of_port =
            |port: i32| endpoints(json!([{ "addresses": [{ "ip": "1.2.3.4" }], "ports": [{ "port": port }] }]));
        let slices = carried_out(plan(&of_port(80), &[]));
        let changed = plan(&of_port(81), &slices);
        assert_eq!((changed.create.len(), changed.update.len(), changed.delete.len()), (0, 1, 0));
        assert_eq!(changed.update[0].metadata.name.as_deref(), Some("a-0"));
        let emptied = plan(&endpoints(json!([])), &slices);
        assert_eq!((emptied.create.len(), emptied.update.len(), emptied.delete.len()), (0, 0, 1));
    }
}
