//! Pod: its strategy, and the rules of PodSpec that templates share. Source: `pkg/registry/core/pod` and
//! `pkg/apis/core/validation`. Start at [`spec::pod_spec`] for what a pod may say, at [`update`] for what may change.

pub mod containers;
pub mod env;
pub mod overlaps;
pub mod probes;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod spec;
mod status;
pub mod update;
pub mod warnings;

use crate::json;

use crate::kinds::carry;
use crate::strategy::{Context, SubresourceStrategy};
use crate::{Cursor, ErrorList, Map, Strategy, Value};

pub use resources::qos_class;
pub use spec::{PodFacts, each_container, is_mirror, pod_annotations, pod_annotations_update, pod_spec, template};

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create,
    validate,
    prepare_for_update: |new, old, _| carry::keep_status(new, old),
    validate_update: update::pod,
    warnings: warnings::pod,
    status_warnings: status::warnings,
    subresources: &[status::STATUS, EPHEMERAL_CONTAINERS, RESIZE],
    grace_period: Some(grace_period),
    ..Strategy::DEFAULT
};

const EPHEMERAL_CONTAINERS: SubresourceStrategy = SubresourceStrategy {
    name: "ephemeralcontainers",
    prepare_for_update: |new, old, _| {
        let sent = new.get("spec").cloned().unwrap_or_default();
        keep_all_but_spec(new, old);
        if let Some(spec) = new.get_mut("spec") {
            carry::keep(spec, &sent, "ephemeralContainers");
        }
    },
    validate_update: update::ephemeral_containers,
};

const RESIZE: SubresourceStrategy = SubresourceStrategy {
    name: "resize",
    prepare_for_update: |new, old, _| {
        const LISTS: [&str; 2] = ["containers", "initContainers"];
        let sent = new.get("spec").cloned().unwrap_or_default();
        let old_spec = old.get("spec").cloned().unwrap_or_default();
        // Containers that come, go or move are left for validation to refuse.
        if LISTS.iter().any(|list| names_in(&sent, list).len() != names_in(&old_spec, list).len()) {
            return;
        }
        keep_all_but_spec(new, old);
        let Some(spec) = new.get_mut("spec") else { return };
        for list in LISTS {
            if names_in(&sent, list) != names_in(&old_spec, list) {
                carry::keep(spec, &sent, list);
                continue;
            }
            let sent = sent.get(list).and_then(Value::as_array);
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for (container, sent) in containers.into_iter().flatten().zip(sent.into_iter().flatten()) {
                carry::keep(container, sent, "resources");
                carry::keep(container, sent, "resizePolicy");
            }
        }
        carry::keep(spec, &sent, "resources");
    },
    validate_update: update::resize,
};

/// The stored object, at the resourceVersion and with the managed fields of the request.
fn keep_all_but_spec(new: &mut Value, old: &Value) {
    let mut out = old.clone();
    for field in ["resourceVersion", "managedFields"] {
        carry::keep_in(&mut out, new, "metadata", field);
    }
    *new = out;
}

fn names_in(spec: &Value, list: &str) -> Vec<Value> {
    let containers = spec.get(list).and_then(Value::as_array);
    containers.into_iter().flatten().map(|c| c.get("name").cloned().unwrap_or_default()).collect()
}

fn prepare_for_create(new: &mut Value, ctx: &Context<'_>) {
    let mut status = Map::new();
    status.insert("phase", "Pending".into());
    let is_gated = new.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty());
    if is_gated {
        status.insert(
            "conditions",
            json!([{
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": null,
                "lastTransitionTime": ctx.now,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]),
        );
    }
    status.insert("qosClass", qos_class(new).into());
    carry::set(new, "status", Value::Object(status));
    merge_label_keys(new);
    app_armor_from_annotations(new);
}

/// Turns matchLabelKeys and mismatchLabelKeys into selector expressions on the pod's own labels, so that the scheduler and
/// everybody else see one selector.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|a| a.get_mut(kind)) else { continue };
        for (list, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", None),
            ("preferredDuringSchedulingIgnoredDuringExecution", Some("podAffinityTerm")),
        ] {
            for term in affinity.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let term = match inner {
                    Some(field) => match term.get_mut(field) {
                        Some(term) => term,
                        None => continue,
                    },
                    None => term,
                };
                merge_keys(term, "matchLabelKeys", "In", &labels);
                merge_keys(term, "mismatchLabelKeys", "NotIn", &labels);
            }
        }
    }
    let constraints = spec.get_mut("topologySpreadConstraints").and_then(Value::as_array_mut);
    for constraint in constraints.into_iter().flatten() {
        merge_keys(constraint, "matchLabelKeys", "In", &labels);
    }
}

fn merge_keys(term: &mut Value, keys: &str, operator: &str, labels: &Value) {
    let keys = term.get(keys).and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(Value::Object(selector)) = term.get_mut("labelSelector") else { return };
    for key in keys.iter().filter_map(Value::as_str) {
        let Some(value) = labels.get(key) else { continue };
        let expression = json!({"key": key, "operator": operator, "values": [value]});
        if let Value::Array(list) = selector.entry("matchExpressions").or_insert_with(|| Value::Array(Vec::new())) {
            list.push(expression);
        }
    }
}

/// Profiles still given as annotations become fields, unless the fields are set.
fn app_armor_from_annotations(pod: &mut Value) {
    let annotations = pod.pointer("/metadata/annotations").cloned().unwrap_or_default();
    if pod.pointer("/spec/os/name").is_some_and(|name| name == "windows") {
        return;
    }
    let Some(spec) = pod.get_mut("spec") else { return };
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or("");
            let annotation = annotations.get(format!("{}{name}", security::APP_ARMOR)).and_then(Value::as_str);
            let Some(profile) = annotation.and_then(app_armor_profile) else { continue };
            let Value::Object(fields) = container else { continue };
            if let Value::Object(context) = fields.entry("securityContext").or_insert_with(|| json!({})) {
                context.entry("appArmorProfile").or_insert(profile);
            }
        }
    }
}

/// The profile that an annotation of AppArmor means.
fn app_armor_profile(annotation: &str) -> Option<Value> {
    match annotation {
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        "unconfined" => Some(json!({"type": "Unconfined"})),
        text => {
            let path = text.strip_prefix("localhost/").filter(|path| !path.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": path}))
        }
    }
}

fn validate(pod: &Cursor<'_>, errors: &mut ErrorList) {
    spec_rules(pod, errors);
    let spec = pod.field("spec");
    let ephemeral = spec.field("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "cannot be set on create");
    }
    if !spec.field("nodeName").is_empty() && !spec.field("schedulingGates").is_empty() {
        spec.field("nodeName").forbidden(errors, "cannot be set until all schedulingGates have been cleared");
    }
    security::annotations_match_fields(&pod.field("metadata"), &spec, errors);
}

/// What holds for a pod at any time; on creation its metadata has been checked already.
fn spec_rules(pod: &Cursor<'_>, errors: &mut ErrorList) {
    let (metadata, spec) = (pod.field("metadata"), pod.field("spec"));
    pod_annotations(&metadata.field("annotations"), &spec, errors);
    pod_spec(&spec, Some(&metadata), errors);
    if spec.field("serviceAccountName").is_empty() {
        for volume in spec.field("volumes").items() {
            for source in volume.field("projected").field("sources").items() {
                let token = source.field("serviceAccountToken");
                if token.is_set() {
                    token.forbidden(errors, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.field(list).items() {
            containers::trimmed_image(&container, errors);
        }
    }
}

/// What holds for a stored pod that is about to change.
pub fn whole_pod(pod: &Cursor<'_>, errors: &mut ErrorList) {
    spec_rules(pod, errors);
}

/// A pod that no kubelet knows yet, or that has ended, needs no time to stop.
fn grace_period(pod: &Value, requested: Option<i64>) -> i64 {
    let period =
        requested.or_else(|| pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64)).unwrap_or(0);
    let has_node = pod.pointer("/spec/nodeName").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
    if !has_node || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    if period < 0 { 1 } else { period }
}

/// The rules of a Binding, `POST pods/NAME/binding`.
pub fn validate_binding(binding: &Cursor<'_>, errors: &mut ErrorList) {
    let target = binding.field("target");
    let kind = target.field("kind");
    if !matches!(kind.str(), "" | "Node") {
        kind.not_supported(errors, &["Node", "<empty>"]);
    }
    if target.field("name").is_empty() {
        target.field("name").required(errors, "");
    }
}

#[cfg(test)]
mod tests;
