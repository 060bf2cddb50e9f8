//! What a pod asks of its node: containers that run together are summed, init containers run before them and only raise the
//! peak, sidecars (init containers that restart always) run beside both. Pod-level resources replace the sum.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::resources::{ResourceList, Resources};

/// What a container without a CPU request is taken to use when nodes are scored, in thousandths.
const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container without a memory request is taken to use when nodes are scored, in bytes.
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Whether a container's missing CPU and memory requests count as the defaults above.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Zero,
    Assumed,
}

/// The pod's requests, as filters see them.
pub fn of_pod(pod: &Pod) -> Resources {
    total(pod, Missing::Zero)
}

/// The pod's requests with defaults for missing CPU and memory, as scores see them.
pub fn of_pod_non_zero(pod: &Pod) -> Resources {
    total(pod, Missing::Assumed)
}

fn total(pod: &Pod, missing: Missing) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of_container(pod, container, missing));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut wanted = of_container(pod, container, missing);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&wanted);
            sidecars.add(&wanted);
            wanted = sidecars.clone();
        } else {
            wanted.add(&sidecars);
        }
        peak.raise_to(&wanted);
    }
    running.raise_to(&peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        replace_by_pod_level(&mut running, requests);
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

fn replace_by_pod_level(total: &mut Resources, requests: &ResourceList) {
    let wanted = Resources::from_list(requests);
    if requests.contains_key("cpu") {
        total.milli_cpu = wanted.milli_cpu;
    }
    if requests.contains_key("memory") {
        total.memory = wanted.memory;
    }
    for (name, amount) in wanted.scalar.into_iter().filter(|(name, _)| name.starts_with("hugepages-")) {
        total.scalar.insert(name, amount);
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    resources?.requests.as_ref()
}

fn of_container(pod: &Pod, container: &Container, missing: Missing) -> Resources {
    let list = requests(container.resources.as_ref());
    // No container asks for pods.
    let mut wanted = Resources { pods: 0, ..list.map(Resources::from_list).unwrap_or_default() };
    // While a resize is under way a container holds the larger of what it has and what it wants.
    if let Some(status) = container_status(pod, &container.name) {
        for held in [requests(status.resources.as_ref()), status.allocated_resources.as_ref()].into_iter().flatten() {
            wanted.raise_to(&Resources::from_list(held));
        }
    }
    if missing == Missing::Assumed {
        let is_missing = |name| list.is_none_or(|list| !list.contains_key(name));
        if is_missing("cpu") {
            wanted.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if is_missing("memory") {
            wanted.memory = DEFAULT_MEMORY_BYTES;
        }
    }
    wanted
}

fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn init_containers_raise_the_peak_and_sidecars_run_beside_everything() {
        let requests = of_pod(&pod(json!({
            "initContainers": [
                {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"name": "setup", "resources": {"requests": {"cpu": "5", "example.com/gpu": "1"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "2"}}}],
            "overhead": {"cpu": "100m"}})));
        assert_eq!(requests.milli_cpu, 6100);
        assert_eq!(requests.memory, 1 << 30);
        assert_eq!(requests.amount("example.com/gpu"), 1);
    }

    #[test]
    fn containers_without_requests_count_with_defaults_in_scores_only() {
        let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!((of_pod(&pod).milli_cpu, of_pod(&pod).memory), (1000, 0));
        let assumed = of_pod_non_zero(&pod);
        assert_eq!((assumed.milli_cpu, assumed.memory), (1100, 400 * 1024 * 1024));
    }

    #[test]
    fn pod_level_requests_replace_the_sum() {
        let pod = pod(json!({"resources": {"requests": {"cpu": "4"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}));
        assert_eq!((of_pod(&pod).milli_cpu, of_pod(&pod).memory), (4000, 1 << 30));
    }
}
