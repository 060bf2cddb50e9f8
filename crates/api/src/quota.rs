//! What objects use of their namespace's quotas. Admission charges it, reading trees; the controller counts it again, reading
//! types: each hands over what matters here, and the rules are the same. Source: upstream's quota evaluators
//! (`pkg/quota/v1/evaluator/core`) and `component-helpers/resource`.

use crate::amounts::{self, Starting, add, raise, replace};
use crate::quantity::{Format, Quantity};
use crate::validate::resources::{OF_PODS, is_huge_page, is_native};

pub use crate::amounts::Amounts as Usage;

/// What follows the name of a device class in the name of its quota.
pub const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// What stands before the name of a device class in the name of the extended resource that every class is.
pub const IMPLICIT_RESOURCE_PREFIX: &str = "deviceclass.resource.kubernetes.io/";
/// On a claim that the scheduler made for the extended resources of a pod.
pub const EXTENDED_CLAIM_ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";
/// Devices that a claim to all of them may get.
const DEVICES_MAX: i64 = 32;
const STORAGE_CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// A whole number of something.
pub fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// A resource outside of Kubernetes' own names, well formed or not, or a device class under its own name: what counts as devices may.
pub fn is_extended_or_class(resource: &str) -> bool {
    resource.starts_with(IMPLICIT_RESOURCE_PREFIX) || !is_native(resource) && !resource.starts_with("requests.")
}

/// Is a quota of this name on something that pods ask for?
pub fn is_of_pods(name: &str) -> bool {
    let is_huge = is_huge_page(name.strip_prefix("requests.").unwrap_or(name));
    OF_PODS.contains(&name) || is_huge || name.strip_prefix("requests.").is_some_and(is_extended_or_class)
}

/// What a container asks for, and what it has.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub requests: Usage,
    pub limits: Usage,
    /// An init container that runs on beside the others.
    pub is_sidecar: bool,
    /// As its status says, once that says anything.
    pub held: Option<Held>,
}

/// What a container has while its resources are changed in place.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// `resources` of the status.
    pub requests: Usage,
    pub limits: Usage,
    /// `allocatedResources` of the status.
    pub allocated: Usage,
}

/// What a pod asks for.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    /// `spec.resources`
    pub requests: Usage,
    pub limits: Usage,
    pub overhead: Usage,
    /// The node has said that it cannot be resized as the spec wants it.
    pub is_resize_infeasible: bool,
}

impl Pod {
    /// The pod itself, and requests and limits as quotas name them.
    pub fn usage(&self) -> Usage {
        let mut usage = compute(&self.total_requests(), &self.total_limits());
        usage.insert("pods".to_owned(), count(1));
        usage
    }

    /// As the scheduler counts it.
    pub fn total_requests(&self) -> Usage {
        let mut total = self.peak(|container| match &container.held {
            None => container.requests.clone(),
            Some(held) => {
                let mut most = if self.is_resize_infeasible { Usage::new() } else { container.requests.clone() };
                raise(&mut most, &held.requests);
                raise(&mut most, &held.allocated);
                most
            }
        });
        replace(&mut total, &self.requests);
        add(&mut total, self.overhead.clone());
        total
    }

    /// What it may not use more of, as far as it says so.
    pub fn total_limits(&self) -> Usage {
        let mut total = self.peak(|container| match &container.held {
            None => container.limits.clone(),
            Some(held) => {
                let mut most = if self.is_resize_infeasible { Usage::new() } else { container.limits.clone() };
                raise(&mut most, &held.limits);
                most
            }
        });
        replace(&mut total, &self.limits);
        // Overhead raises a limit only where there is one.
        let is_limited = |name: &String| total.get(name).is_some_and(|amount| !amount.is_zero());
        let raised = self.overhead.iter().filter(|(name, _)| is_limited(name));
        let raised: Usage = raised.map(|(name, amount)| (name.clone(), amount.clone())).collect();
        add(&mut total, raised);
        total
    }

    fn peak(&self, of: impl Fn(&Container) -> Usage) -> Usage {
        let starting = self.init_containers.iter().map(|container| {
            let is_sidecar = container.is_sidecar;
            // Whoever ran to its end has nothing to resize.
            let held = container.held.clone().filter(|_| is_sidecar);
            Starting { amounts: of(&Container { held, ..container.clone() }), is_sidecar }
        });
        amounts::peak(self.containers.iter().map(&of), starting)
    }
}

/// Requests and limits as quotas name them.
pub fn compute(requests: &Usage, limits: &Usage) -> Usage {
    const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let mut usage = Usage::new();
    for (name, amount) in requests {
        let is_compute = COMPUTE.contains(&name.as_str()) || is_huge_page(name);
        if is_compute {
            usage.insert(name.clone(), amount.clone());
        }
        if is_compute || is_extended_or_class(name) {
            usage.insert(format!("requests.{name}"), amount.clone());
        }
    }
    for name in COMPUTE {
        if let Some(amount) = limits.get(name) {
            usage.insert(format!("limits.{name}"), amount.clone());
        }
    }
    usage
}

/// What matters of a Service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service {
    pub is_node_port: bool,
    pub is_load_balancer: bool,
    /// A load balancer may do without node ports.
    pub allocates_node_ports: bool,
    pub n_ports: usize,
    /// Ports that name their node port.
    pub n_node_ports: usize,
}

impl Service {
    pub fn usage(self) -> Usage {
        let allocates = self.is_node_port || self.is_load_balancer && self.allocates_node_ports;
        let n_node_ports = match self.is_load_balancer {
            _ if allocates => self.n_ports,
            true => self.n_node_ports,
            false => 0,
        };
        [
            ("services.nodeports".to_owned(), count(n_node_ports)),
            ("services.loadbalancers".to_owned(), count(self.is_load_balancer.into())),
        ]
        .into()
    }
}

/// A claim to storage. One that is being grown and shrunk back still holds what was `allocated`.
pub fn storage(class: &str, asked: Option<Quantity>, allocated: Option<Quantity>) -> Usage {
    let mut usage = Usage::new();
    if !class.is_empty() {
        usage.insert(format!("{class}{STORAGE_CLASS_SUFFIX}persistentvolumeclaims"), count(1));
    }
    // Bytes are counted whole.
    let whole = |amount: Quantity| {
        let rounded = Quantity::new(amount.value(), amount.format());
        if rounded == amount { amount } else { rounded }
    };
    let Some(asked) = asked.map(whole) else { return usage };
    let size = allocated.map(whole).filter(|allocated| *allocated > asked).unwrap_or(asked);
    if !class.is_empty() {
        usage.insert(format!("{class}{STORAGE_CLASS_SUFFIX}requests.storage"), size.clone());
    }
    usage.insert("requests.storage".to_owned(), size);
    usage
}

/// Devices of one class that a claim asks for.
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a> {
    pub class: &'a str,
    pub mode: &'a str,
    pub count: i64,
}

/// Devices by class. Each item is one request of a claim; of its alternatives, the most of each class counts.
pub fn devices<'a, R>(requests: impl Iterator<Item = R>) -> Usage
where
    R: Iterator<Item = Devices<'a>>,
{
    let mut usage = Usage::new();
    for alternatives in requests {
        let mut most = Usage::new();
        for asked in alternatives {
            let count = match asked.mode {
                "ExactCount" => asked.count,
                "All" => DEVICES_MAX,
                _ => 0,
            };
            let name = format!("{}{DEVICES_SUFFIX}", asked.class);
            raise(&mut most, &[(name, Quantity::new(count, Format::DecimalSi))].into());
        }
        add(&mut usage, most);
    }
    usage
}

/// Devices count as the extended resources that their classes stand behind, too; `resource_of` says which one a class names. What
/// the pod uses for which the scheduler made the claim is not counted twice.
pub fn add_extended<'a>(usage: &mut Usage, of_pod: &Usage, resource_of: impl Fn(&str) -> Option<&'a str>) {
    let mut extended = Usage::new();
    for (name, amount) in usage.iter() {
        let Some(class) = name.strip_suffix(DEVICES_SUFFIX).filter(|class| !class.is_empty()) else { continue };
        extended.insert(format!("requests.{IMPLICIT_RESOURCE_PREFIX}{class}"), amount.clone());
        if let Some(resource) = resource_of(class) {
            extended.insert(format!("requests.{resource}"), amount.clone());
        }
    }
    for (name, amount) in extended {
        let left = of_pod.get(&name).map_or_else(|| amount.clone(), |counted| amount.sub(counted));
        if left.sign() > 0 {
            usage.insert(name, left);
        }
    }
}

/// Is the claim, which the scheduler made for the extended resources of a pod, the one that the pod uses? As long as the pod names
/// none, it is the first.
pub fn is_meant(claim: &str, named: Option<&str>, is_first: impl FnOnce() -> bool) -> bool {
    named.map_or_else(is_first, |named| named == claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(list: &[(&str, &str)]) -> Usage {
        list.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap())).collect()
    }

    fn shown(usage: &Usage) -> Vec<String> {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        Container { requests: amounts(requests), limits: amounts(limits), ..Container::default() }
    }

    #[test]
    fn a_pod_uses_what_its_containers_use_at_their_peak() {
        let sidecar = Container { is_sidecar: true, ..container(&[("cpu", "1")], &[]) };
        let pod = Pod {
            containers: vec![
                container(&[("cpu", "1"), ("example.com/gpu", "2"), ("nvidia", "1")], &[("memory", "1Gi")]),
                container(&[("cpu", "500m"), ("deviceclass.resource.kubernetes.io/gold", "3")], &[]),
            ],
            init_containers: vec![sidecar, container(&[("cpu", "3"), ("hugepages-2Mi", "4Mi")], &[])],
            overhead: amounts(&[("cpu", "100m"), ("memory", "1Mi")]),
            ..Pod::default()
        };
        assert_eq!(
            shown(&pod.usage()),
            [
                "cpu=4100m",
                "hugepages-2Mi=4Mi",
                "limits.memory=1025Mi",
                "memory=1Mi",
                "pods=1",
                "requests.cpu=4100m",
                "requests.deviceclass.resource.kubernetes.io/gold=3",
                "requests.example.com/gpu=2",
                "requests.hugepages-2Mi=4Mi",
                "requests.memory=1Mi",
            ]
        );
    }

    #[test]
    fn what_the_pod_says_stands_for_what_its_containers_say() {
        let pod = Pod {
            containers: vec![container(&[("cpu", "1"), ("memory", "1Gi"), ("ephemeral-storage", "1Gi")], &[])],
            requests: amounts(&[("cpu", "2"), ("ephemeral-storage", "9Gi")]),
            limits: amounts(&[("cpu", "3")]),
            overhead: amounts(&[("cpu", "1")]),
            ..Pod::default()
        };
        let expected = [
            "cpu=3",
            "ephemeral-storage=1Gi",
            "limits.cpu=4",
            "memory=1Gi",
            "pods=1",
            "requests.cpu=3",
            "requests.ephemeral-storage=1Gi",
            "requests.memory=1Gi",
        ];
        assert_eq!(shown(&pod.usage()), expected);
    }

    #[test]
    fn a_container_that_is_resized_uses_the_most_of_what_it_wants_and_has() {
        let resized = |wanted: &str, has: &str, allocated: &str, is_resize_infeasible: bool| {
            let held = Held {
                requests: amounts(&[("cpu", has)]),
                limits: amounts(&[("cpu", has)]),
                allocated: amounts(&[("cpu", allocated)]),
            };
            let container = Container { held: Some(held), ..container(&[("cpu", wanted)], &[("cpu", wanted)]) };
            // An init container that is over has nothing to resize.
            let init_containers = vec![Container { requests: amounts(&[("cpu", "1m")]), ..container.clone() }];
            let pod = Pod { containers: vec![container], init_containers, is_resize_infeasible, ..Pod::default() };
            let usage = pod.usage();
            (usage["requests.cpu"].to_string(), usage["limits.cpu"].to_string())
        };
        assert_eq!(resized("3", "1", "2", false), ("3".into(), "3".into()));
        assert_eq!(resized("1", "2", "3", false), ("3".into(), "2".into()));
        assert_eq!(resized("1", "3", "2", false), ("3".into(), "3".into()));
        // What cannot be is not counted.
        assert_eq!(resized("9", "1", "2", true), ("2".into(), "9".into()));
    }

    #[test]
    fn storage_counts_in_whole_bytes_and_as_it_was_allocated() {
        let quantity = |text: &str| Some(text.parse::<Quantity>().unwrap());
        assert_eq!(shown(&storage("", quantity("1500m"), None)), ["requests.storage=2"]);
        assert_eq!(shown(&storage("", quantity("1Gi"), quantity("2Gi"))), ["requests.storage=2Gi"]);
        assert_eq!(shown(&storage("", None, quantity("2Gi"))), Vec::<String>::new());
        assert_eq!(
            shown(&storage("gold", quantity("3Gi"), quantity("2Gi"))),
            [
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/requests.storage=3Gi",
                "requests.storage=3Gi"
            ]
        );
    }

    #[test]
    fn devices_count_as_extended_resources_beyond_what_the_pod_is_charged() {
        let mut usage = amounts(&[("gold.deviceclass.resource.k8s.io/devices", "3"), ("count/x", "1")]);
        let of_pod = amounts(&[("requests.example.com/gpu", "2"), ("requests.cpu", "1")]);
        add_extended(&mut usage, &of_pod, |class| (class == "gold").then_some("example.com/gpu"));
        let expected = [
            "count/x=1",
            "gold.deviceclass.resource.k8s.io/devices=3",
            "requests.deviceclass.resource.kubernetes.io/gold=3",
            "requests.example.com/gpu=1",
        ];
        assert_eq!(shown(&usage), expected);
    }

    #[test]
    fn names_of_extended_resources_and_of_classes_under_their_own() {
        for (name, expected) in [
            ("example.com/gpu", true),
            ("deviceclass.resource.kubernetes.io/gpu", true),
            ("cpu", false),
            ("hugepages-2Mi", false),
            ("scheduling.kubernetes.io/x", false),
            ("requests.example.com/x", false),
        ] {
            assert_eq!(is_extended_or_class(name), expected, "{name}");
        }
    }
}
