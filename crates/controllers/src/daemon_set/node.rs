//! Which nodes take a DaemonSet's pods, and how a pod is tied to its node.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::ownership::name;
use crate::taint_eviction::tolerates;

const NAME_FIELD: &str = "metadata.name";
/// Tolerated by every daemon pod: key, effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a pod should run on a node, and whether one that does may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub runs: bool,
    pub stays: bool,
}

pub(super) fn placement(spec: &PodSpec, node: &Node) -> Placement {
    let named = spec.node_name.as_deref().filter(|wanted| !wanted.is_empty());
    if named.is_some_and(|wanted| wanted != name(&node.metadata)) || !selects(spec, node) {
        return Placement { runs: false, stays: false };
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let untolerated: Vec<&str> = taints
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
        .map(|taint| taint.effect.as_str())
        .collect();
    Placement { runs: untolerated.is_empty(), stays: !untolerated.contains(&"NoExecute") }
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let network = spec.host_network.unwrap_or(false).then_some(NETWORK);
    let own = spec.tolerations.iter().flatten().cloned();
    let added = TOLERATED.into_iter().chain(network).map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    });
    let mut all: Vec<Toleration> = own.collect();
    for toleration in added {
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
    if !spec.node_selector.iter().flatten().all(has) {
        return false;
    }
    match required(spec) {
        Some(selector) => selector.node_selector_terms.iter().any(|term| term_takes(term, node)),
        None => true,
    }
}

fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

/// An empty term takes nothing, as the scheduler has it.
fn term_takes(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|one| satisfies(one, label(&one.key)))
        && fields.iter().all(|one| one.key == NAME_FIELD && satisfies(one, Some(name(&node.metadata))))
}

fn satisfies(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let listed = |value: &str| values.iter().any(|one| one == value);
    let compare = |greater: bool| {
        let number = |text: &str| text.parse::<i64>().ok();
        let (Some(value), Some(bound)) = (value.and_then(number), values.first().and_then(|bound| number(bound)))
        else {
            return false;
        };
        if greater { value > bound } else { value < bound }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}

/// Ties a new pod to its node: every required term must name it too, so that the scheduler can bind it nowhere else.
pub(super) fn bind(spec: &mut PodSpec, node: &str) {
    spec.tolerations = Some(tolerations(spec));
    let field = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let selector = node_affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node a daemon pod is bound to, or is meant for.
pub(super) fn target(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(bound) = spec.node_name.as_ref().filter(|bound| !bound.is_empty()) {
        return Some(bound.clone());
    }
    let terms = required(spec)?.node_selector_terms.iter();
    let mut fields = terms.flat_map(|term| term.match_fields.iter().flatten());
    fields.find(|field| field.key == NAME_FIELD && field.operator == "In")?.values.as_ref()?.first().cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, taints: Value, runs: bool, stays: bool) {
        let node = json!({ "metadata": { "name": "n", "labels": { "disk": "ssd" } }, "spec": { "taints": taints } });
        let mut spec = spec;
        spec["containers"] = json!([]);
        let placement =
            placement(&serde_json::from_value(spec.clone()).unwrap(), &serde_json::from_value(node).unwrap());
        assert_eq!(placement, Placement { runs, stays }, "{spec} on {taints}");
    }

    #[test]
    fn selectors_and_taints_decide() {
        let taint = |key: &str, effect: &str| json!([{ "key": key, "effect": effect }]);
        check(json!({}), json!([]), true, true);
        check(json!({ "nodeSelector": { "disk": "hdd" } }), json!([]), false, false);
        check(json!({}), taint("mine", "NoSchedule"), false, true);
        check(json!({}), taint("mine", "NoExecute"), false, false);
        check(json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), true, true);
        check(json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), false, true);
        check(
            json!({ "hostNetwork": true }),
            taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
            true,
            true,
        );
    }

    #[test]
    fn a_bound_pod_names_its_node_in_every_term() {
        let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        bind(pod.spec.as_mut().unwrap(), "n");
        assert_eq!(target(&pod).as_deref(), Some("n"));
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
    }
}
