//! Extended resources that device classes stand behind: a pod asks for `example.com/gpu: 2`, as it would of a device plugin, and
//! gets devices of the class that names this resource, on nodes that do not have the resource themselves.
//!
//! The scheduler makes one claim for all of a pod's such requests; the pod's status says which container uses which request of it.
//! Source: KEP-5004; `dynamicresources/extendeddynamicresources.go` of Kubernetes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quota::{EXTENDED_CLAIM_ANNOTATION, is_extended_or_class};
use k8s_openapi::api::core::v1::{Container, ContainerExtendedResourceRequest};
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::framework::Status;
use crate::model::devices::{DeviceClaim, Devices};
use crate::model::{NodeInfo, PodInfo, quantity};

/// The claim's name while only the scheduler knows it; no claim can have it.
const NAME_IN_MEMORY: &str = "<extended-resources>";

/// What a pod asks for in extended resources, when a class stands behind any of them.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Class by resource.
    backed: BTreeMap<String, String>,
    /// Other extended resources: a node has to have them.
    others: Vec<String>,
    /// The claim for a node that has none of the backed resources itself.
    whole: Arc<Special>,
}

/// A claim for extended resources, and who uses which of its requests.
#[derive(Debug, Clone)]
pub(super) struct Special {
    pub claim: Arc<DeviceClaim>,
    pub mappings: Vec<ContainerExtendedResourceRequest>,
}

impl Wanted {
    /// `None`: no class stands behind anything that the pod asks for.
    pub(super) fn of(pod: &PodInfo, devices: &Devices) -> Option<Wanted> {
        let asked = pod.requests.scalar.iter().filter(|(name, amount)| **amount != 0 && is_extended_or_class(name));
        let (mut backed, mut others) = (BTreeMap::new(), Vec::new());
        for (name, _) in asked {
            match devices.class_behind(name) {
                Some(class) => drop(backed.insert(name.to_string(), class.to_owned())),
                None => others.push(name.to_string()),
            }
        }
        if backed.is_empty() {
            return None;
        }
        let whole = Arc::new(Special::new(pod, &backed));
        Some(Wanted { backed, others, whole })
    }

    /// The claim that the pod needs on this node; `None`: the node has all resources itself.
    pub(super) fn on(
        &self,
        pod: &PodInfo,
        node: &NodeInfo,
        plugin: &'static str,
    ) -> Result<Option<Arc<Special>>, Status> {
        let has = &node.facts.allocatable;
        let is_missing = |name: &String| !has.scalar.contains_key(name.as_str());
        if self.others.iter().any(is_missing) {
            return Err(Status::unresolvable(plugin, "cannot fit resource"));
        }
        if self.backed.keys().all(|name| has.amount(name) == 0) {
            return Ok(Some(Arc::clone(&self.whole)));
        }
        let by_claim = self.backed.iter().filter(|(name, _)| has.amount(name) == 0);
        let by_claim: BTreeMap<String, String> = by_claim.map(|(name, class)| (name.clone(), class.clone())).collect();
        Ok((!by_claim.is_empty()).then(|| Arc::new(Special::new(pod, &by_claim))))
    }
}

/// A request of the claim, and for which resource.
struct Part {
    name: String,
    class: String,
    count: i64,
}

impl Special {
    fn new(pod: &PodInfo, backed: &BTreeMap<String, String>) -> Special {
        let (mut parts, mappings) = parts(pod, backed);
        parts.sort_by(|one, other| one.name.cmp(&other.name));
        let request = |part: Part| resource::DeviceRequest {
            name: part.name,
            exactly: Some(resource::ExactDeviceRequest {
                device_class_name: part.class,
                allocation_mode: Some("ExactCount".to_owned()),
                count: Some(part.count),
                ..resource::ExactDeviceRequest::default()
            }),
            first_available: None,
        };
        let requests: Vec<_> = parts.into_iter().map(request).collect();
        let claim = resource::ResourceClaim {
            metadata: ObjectMeta {
                name: Some(NAME_IN_MEMORY.to_owned()),
                generate_name: Some(format!("{}-extended-resources-", pod.name)),
                namespace: Some(pod.namespace.to_string()),
                // Nobody else's: what is kept aside for the claim goes by it.
                uid: Some(format!("{NAME_IN_MEMORY}/{}", pod.uid)),
                annotations: Some([(EXTENDED_CLAIM_ANNOTATION.to_owned(), "true".to_owned())].into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: pod.name.to_string(),
                    uid: pod.uid.to_string(),
                    controller: Some(true),
                    block_owner_deletion: None,
                }]),
                ..ObjectMeta::default()
            },
            spec: resource::ResourceClaimSpec {
                devices: Some(resource::DeviceClaim { requests: Some(requests), ..resource::DeviceClaim::default() }),
            },
            status: None,
        };
        Special { claim: Arc::new(DeviceClaim::new(&Arc::new(claim))), mappings }
    }

    /// The claim as it is to be created.
    pub(super) fn to_create(claim: &DeviceClaim) -> resource::ResourceClaim {
        let mut claim = claim.claim.as_ref().clone();
        (claim.metadata.name, claim.metadata.uid) = (None, None);
        claim
    }
}

/// The requests of a pod's containers, resource by resource. A container that runs on has a request of its own; init containers
/// that end use what will be given to those that start later, and of what they need beyond that only the largest counts.
fn parts(pod: &PodInfo, backed: &BTreeMap<String, String>) -> (Vec<Part>, Vec<ContainerExtendedResourceRequest>) {
    let (mut parts, mut mappings) = (Vec::new(), Vec::new());
    let Some(spec) = &pod.pod.spec else { return (parts, mappings) };
    let inits = spec.init_containers.iter().flatten().map(|container| (true, container));
    let containers: Vec<(bool, &Container)> =
        inits.chain(spec.containers.iter().map(|container| (false, container))).collect();
    let ends =
        |(is_init, container): &(bool, &Container)| *is_init && container.restart_policy.as_deref() != Some("Always");
    for (resource, class) in backed {
        let mapping = |container: &Container, request: &str| ContainerExtendedResourceRequest {
            container_name: container.name.clone(),
            resource_name: resource.clone(),
            request_name: request.to_owned(),
        };
        let mut lasting: Vec<Option<Part>> = Vec::with_capacity(containers.len());
        for (at, one) in containers.iter().enumerate() {
            let asked = asked(one.1, resource).filter(|_| !ends(one));
            lasting.push(asked.map(|(count, place)| {
                let name = format!("container-{at}-request-{place}");
                mappings.push(mapping(one.1, &name));
                Part { name, class: class.clone(), count }
            }));
        }
        let mut largest: Option<Part> = None;
        let (mut passing, mut passing_names) = (Vec::new(), Vec::new());
        for (at, one) in containers.iter().enumerate().filter(|(_, one)| ends(one)) {
            let Some((wanted, place)) = asked(one.1, resource) else { continue };
            let mut have = 0;
            for part in lasting[at..].iter().flatten() {
                if have >= wanted {
                    break;
                }
                have += part.count;
                passing.push(mapping(one.1, &part.name));
            }
            if have >= wanted {
                continue;
            }
            let part =
                Part { name: format!("container-{at}-request-{place}"), class: class.clone(), count: wanted - have };
            passing.push(mapping(one.1, &part.name));
            passing_names.push(part.name.clone());
            if largest.as_ref().is_none_or(|largest| largest.count < part.count) {
                largest = Some(part);
            }
        }
        if let Some(largest) = &largest {
            for used in passing.iter_mut().filter(|used| passing_names.contains(&used.request_name)) {
                used.request_name.clone_from(&largest.name);
            }
        }
        parts.extend(largest.into_iter().chain(lasting.into_iter().flatten()));
        mappings.extend(passing);
    }
    (parts, mappings)
}

/// How much of a resource a container asks for, and the resource's place among all that it asks for, by name.
fn asked(container: &Container, resource: &str) -> Option<(i64, usize)> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    let amount = quantity::value(&requests.get(resource)?.0)?;
    let place = requests.keys().position(|name| name == resource)?;
    (amount != 0).then_some((amount, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::{Value, json};

    fn special(spec: Value) -> Special {
        let pod = pod(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}));
        let backed = [("example.com/gpu".to_owned(), "gpu".to_owned())].into();
        Special::new(&pod, &backed)
    }

    /// `request*count`, and `container>request`.
    fn shown(special: &Special) -> (Vec<String>, Vec<String>) {
        let requests = special.claim.claim.spec.devices.as_ref().unwrap().requests.as_ref().unwrap();
        let shown = requests.iter().map(|one| format!("{}*{}", one.name, one.exactly.as_ref().unwrap().count.unwrap()));
        let uses = special.mappings.iter().map(|use_| format!("{}>{}", use_.container_name, use_.request_name));
        (shown.collect(), uses.collect())
    }

    fn container(name: &str, gpus: i64) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": "1", "example.com/gpu": gpus.to_string()}}})
    }

    #[test]
    fn each_container_that_runs_on_has_a_request() {
        let special = special(json!({"containers": [container("a", 2), {"name": "b"}, container("c", 1)]}));
        let (requests, uses) = shown(&special);
        assert_eq!(requests, ["container-0-request-1*2", "container-2-request-1*1"]);
        assert_eq!(uses, ["a>container-0-request-1", "c>container-2-request-1"]);
        let claim = Special::to_create(&special.claim);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-extended-resources-"));
        assert_eq!((claim.metadata.name, claim.metadata.uid), (None, None));
    }

    #[test]
    fn init_containers_use_what_later_ones_get_and_share_the_rest() {
        let mut sidecar = container("side", 1);
        sidecar["restartPolicy"] = json!("Always");
        let inits = json!([container("first", 5), sidecar, container("second", 2), container("third", 4)]);
        let (requests, uses) = shown(&special(json!({"initContainers": inits, "containers": [container("main", 2)]})));
        // The first has the sidecar's and the main's 3 and needs 2 more; the third has the main's 2 and needs 2 more.
        assert_eq!(requests, ["container-0-request-1*2", "container-1-request-1*1", "container-4-request-1*2"]);
        assert_eq!(
            uses,
            [
                "side>container-1-request-1",
                "main>container-4-request-1",
                "first>container-1-request-1",
                "first>container-4-request-1",
                "first>container-0-request-1",
                "second>container-4-request-1",
                "third>container-4-request-1",
                "third>container-0-request-1",
            ]
        );
    }
}
