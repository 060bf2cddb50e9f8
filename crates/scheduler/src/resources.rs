//! What pods request and are limited to, pod by pod, as the scheduler counts it: `/metrics/resources`.
//! Source: `pkg/scheduler/metrics/resources`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use api::amounts::Amounts;
use api::quota;
use api::validate::resources::is_huge_page;
use client::Informer;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::model::shares::amounts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPod {
    namespace: String,
    node: String,
    pod: String,
    priority: String,
    resource: String,
    scheduler: String,
    unit: &'static str,
}

/// The pods that a scheduler knows while it leads. Cheap to clone; clones know the same.
#[derive(Clone, Default)]
pub struct PodResources(Arc<Mutex<Option<Informer<Pod>>>>);

impl PodResources {
    /// Knows the pods until what is returned is dropped.
    pub(crate) fn show(&self, pods: &Informer<Pod>) -> Shown {
        *self.0.lock() = Some(pods.clone());
        Shown(self.clone())
    }

    /// Metrics of the pods that are not finished; empty where this scheduler does not lead.
    pub fn registry(&self) -> Registry {
        let pods = self.0.lock().clone();
        registry(pods.iter().flat_map(Informer::list))
    }
}

pub(crate) struct Shown(PodResources);

impl Drop for Shown {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}

fn registry(pods: impl Iterator<Item = Arc<Pod>>) -> Registry {
    let (requests, limits) = (Family::default(), Family::default());
    for pod in pods.filter(|pod| !is_over(pod)) {
        let asked = asked(&pod);
        report(&requests, &pod, asked.total_requests());
        report(&limits, &pod, asked.total_limits());
    }
    let mut registry = Registry::default();
    registry.register(
        "kube_pod_resource_limit",
        "Resources limit for workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and kubelet \
         expect per pod for resources along with the unit for the resource if any",
        limits,
    );
    registry.register(
        "kube_pod_resource_request",
        "Resources requested by workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and \
         kubelet expect per pod for resources along with the unit for the resource if any",
        requests,
    );
    registry
}

/// A pod that was never on a node is not finished, whatever it says.
fn is_over(pod: &Pod) -> bool {
    let is_on_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    is_on_node && matches!(phase, Some("Succeeded" | "Failed"))
}

/// What the spec says; what a container has while it is resized is not looked at.
fn asked(pod: &Pod) -> quota::Pod {
    let Some(spec) = &pod.spec else { return quota::Pod::default() };
    let lists = |resources: Option<&ResourceRequirements>| {
        let list = |of: fn(&ResourceRequirements) -> Option<&_>| amounts(resources.and_then(of));
        (list(|resources| resources.requests.as_ref()), list(|resources| resources.limits.as_ref()))
    };
    let container = |container: &Container| {
        let (requests, limits) = lists(container.resources.as_ref());
        let is_sidecar = container.restart_policy.as_deref() == Some("Always");
        quota::Container { requests, limits, is_sidecar, held: None }
    };
    let (requests, limits) = lists(spec.resources.as_ref());
    quota::Pod {
        containers: spec.containers.iter().map(container).collect(),
        init_containers: spec.init_containers.iter().flatten().map(container).collect(),
        requests,
        limits,
        overhead: amounts(spec.overhead.as_ref()),
        is_resize_infeasible: false,
    }
}

fn report(family: &Family<OfPod, Gauge<f64, AtomicU64>>, pod: &Pod, amounts: Amounts) {
    let Some(spec) = &pod.spec else { return };
    let text = |of: &Option<String>| of.clone().unwrap_or_default();
    for (resource, amount) in amounts.into_iter().filter(|(_, amount)| !amount.is_zero()) {
        let unit = unit(&resource);
        let of_pod = OfPod {
            namespace: text(&pod.metadata.namespace),
            node: text(&spec.node_name),
            pod: text(&pod.metadata.name),
            priority: spec.priority.map(|priority| priority.to_string()).unwrap_or_default(),
            resource,
            scheduler: text(&spec.scheduler_name),
            unit,
        };
        family.get_or_create(&of_pod).set(amount.to_f64());
    }
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "storage" | "ephemeral-storage" => "bytes",
        _ if is_huge_page(resource) => "bytes",
        _ if resource.starts_with("attachable-volumes-") => "integer",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lines(pod: &Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry([Arc::new(pod)].into_iter())).unwrap();
        let mut lines: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn pods_show_what_they_need_at_their_peak_until_they_are_finished() {
        let container =
            |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "example.com/gpu": "1"}}});
        let mut pod = json!({
            "metadata": {"namespace": "ns", "name": "a"},
            "spec": {
                "schedulerName": "default-scheduler",
                "priority": 0,
                "nodeName": "n",
                "containers": [container("100m"), {"name": "d", "resources": {"limits": {"memory": "1Gi", "hugepages-2Mi": "0"}}}],
                "initContainers": [container("2")],
                "overhead": {"cpu": "500m", "memory": "1Mi"},
            },
            "status": {"phase": "Running"},
        });
        let line = |metric: &str, priority: &str, resource: &str, unit: &str, amount: &str| {
            format!(
                "kube_pod_resource_{metric}{{namespace=\"ns\",node=\"n\",pod=\"a\",priority=\"{priority}\",resource=\"{resource}\",\
                 scheduler=\"default-scheduler\",unit=\"{unit}\"}} {amount}"
            )
        };
        let expected = |priority: &str| {
            [
                line("limit", priority, "memory", "bytes", "1074790400.0"),
                line("request", priority, "cpu", "cores", "2.5"),
                line("request", priority, "example.com/gpu", "", "1.0"),
                line("request", priority, "memory", "bytes", "1048576.0"),
            ]
        };
        assert_eq!(lines(&pod), expected("0"));
        pod["spec"]["priority"] = Value::Null;
        assert_eq!(lines(&pod), expected(""));
        pod["status"]["phase"] = json!("Failed");
        assert_eq!(lines(&pod), Vec::<String>::new());
    }

    #[test]
    fn pods_are_shown_as_long_as_the_scheduler_leads() {
        let pods = Informer::<Pod>::detached();
        let pod = json!({
            "metadata": {"namespace": "ns", "name": "a"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        });
        pods.apply(serde_json::from_value(pod).unwrap());
        let resources = PodResources::default();
        let is_shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &resources.registry()).unwrap();
            text.contains("pod=\"a\"")
        };
        assert!(!is_shown());
        let shown = resources.show(&pods);
        assert!(is_shown());
        drop(shown);
        assert!(!is_shown());
    }
}
