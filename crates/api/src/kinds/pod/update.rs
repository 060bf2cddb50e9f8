//! What may change in a pod: on the pod itself, its status, its resources, and its ephemeral containers.

use std::collections::HashSet;

use crate::kinds::carry;
use crate::kinds::pod::{containers, is_mirror, pod_annotations_update, qos_class, whole_pod};
use crate::validate::text::same;
use crate::validate::{go, names, resources};
use crate::{Cursor, ErrorList, Map, Path, Value, meta};

const SPEC_IS_FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
                             to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                             previously negative)";

/// An update of the pod itself.
pub fn pod(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    meta::validate_whole_again(new, true, names::subdomain_name, errors);
    whole_pod(new, errors);
    pod_annotations_update(new, old, errors);
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    for list in ["containers", "initContainers"] {
        if !same_containers(&spec.field(list), &old_spec.field(list), errors) {
            return;
        }
    }
    if !active_deadline(&spec.field("activeDeadlineSeconds"), &old_spec.field("activeDeadlineSeconds"), errors) {
        return;
    }
    only_added_tolerations(&spec.field("tolerations"), &old_spec.field("tolerations"), errors);
    only_deleted_gates(&spec.field("schedulingGates"), &old_spec.field("schedulingGates"), errors);
    if same_spec(spec.value(), old_spec.value()) {
        return;
    }
    let munged = with_changeable_fields_of(&spec, &old_spec, errors);
    if !same_spec(&munged, old_spec.value()) {
        let diff = go::diff("PodSpec", old_spec.value(), &munged);
        errors.forbidden(spec.path(), format!("{SPEC_IS_FIXED}\n{diff}"));
    }
}

/// Equal as upstream's internal type, which has no deprecated aliases (`serviceAccount`) and no absent structs.
fn same_spec(a: &Value, b: &Value) -> bool {
    same(&go::value("PodSpec", a), &go::value("PodSpec", b))
}

/// Same number, and images well formed. Whether it is worth going on.
fn same_containers(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) -> bool {
    if new.len() != old.len() {
        new.forbidden(errors, "pod updates may not add or remove containers");
        return false;
    }
    for container in new.items() {
        let image = container.field("image");
        if image.is_empty() {
            image.required(errors, "");
        }
        containers::trimmed_image(&container, errors);
    }
    true
}

fn active_deadline(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) -> bool {
    match (new.opt_int(), old.opt_int()) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            new.invalid(errors, names::inclusive_range_error(0, i64::from(i32::MAX)));
            false
        }
        (Some(seconds), Some(before)) if before < seconds => {
            new.invalid(errors, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            new.invalid(errors, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let without_seconds = |toleration: &Cursor<'_>| {
        let mut fields = toleration.value().as_object().cloned().unwrap_or_default();
        fields.remove("tolerationSeconds");
        Value::from(fields).to_string()
    };
    let kept: HashSet<String> = new.items().map(|t| without_seconds(&t)).collect();
    if old.items().any(|toleration| !kept.contains(&without_seconds(&toleration))) {
        new.forbidden(errors, "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    resources::tolerations(new, errors);
}

fn only_deleted_gates(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    for gate in new.items() {
        let name = gate.field("name");
        if !old.items().any(|g| g.field("name").str() == name.str()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.str());
            name.forbidden(errors, detail);
        }
    }
}

/// The new spec with everything that may change put back, so that any difference left is a forbidden one.
fn with_changeable_fields_of(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) -> Value {
    let mut munged = new.value().clone();
    for list in ["containers", "initContainers"] {
        let before = old.field(list);
        for (index, container) in munged.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            copy_field(container, before.index(index).value(), "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy_field(&mut munged, old.value(), field);
    }
    let grace = old.field("terminationGracePeriodSeconds");
    if grace.int() < 0 && new.field("terminationGracePeriodSeconds").opt_int() == Some(1) {
        copy_field(&mut munged, old.value(), "terminationGracePeriodSeconds");
    }
    if !old.field("schedulingGates").is_empty() {
        gated_changes(new, old, &mut munged, errors);
    }
    munged
}

fn copy_field(to: &mut Value, from: &Value, field: &str) {
    let Value::Object(to) = to else { return };
    match from.get(field) {
        Some(value) => {
            to.insert(field, value.clone());
        }
        None => {
            to.remove(field);
        }
    }
}

/// A gated pod has not been looked at by the scheduler, so its node constraints may still be narrowed.
fn gated_changes(new: &Cursor<'_>, old: &Cursor<'_>, munged: &mut Value, errors: &mut ErrorList) {
    let (selector, old_selector) = (new.field("nodeSelector"), old.field("nodeSelector"));
    if !same(selector.value(), old_selector.value()) {
        if old_selector.entries().any(|(key, value)| selector.field(key).value() != value.value()) {
            selector.invalid(errors, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
        }
        copy_field(munged, old.value(), "nodeSelector");
    }
    let affinity = new.field("affinity").field("nodeAffinity");
    let old_affinity = old.field("affinity").field("nodeAffinity");
    if same(affinity.value(), old_affinity.value()) {
        return;
    }
    node_affinity_additions(&affinity, &old_affinity, errors);
    let Value::Object(spec) = munged else { return };
    let has_others = ["podAffinity", "podAntiAffinity"].iter().any(|f| new.field("affinity").field(f).is_set());
    match spec.get_mut("affinity") {
        Some(Value::Object(_)) if !old.field("affinity").is_set() && !has_others => {
            spec.remove("affinity");
        }
        Some(own @ Value::Object(_)) => copy_field(own, old.field("affinity").value(), "nodeAffinity"),
        _ if old_affinity.is_set() => {
            let mut restored = Map::new();
            restored.insert("nodeAffinity", old_affinity.value().clone());
            spec.insert("affinity", Value::Object(restored));
        }
        _ => {}
    }
}

fn node_affinity_additions(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = new.field(REQUIRED).field("nodeSelectorTerms");
    let old_terms = old.field(REQUIRED).field("nodeSelectorTerms");
    if old_terms.is_empty() {
        return;
    }
    if old_terms.len() != terms.len() {
        let shown = go::list("NodeSelectorTerm", terms.value());
        errors.invalid(terms.path(), shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
        return;
    }
    for (term, old_term) in terms.items().zip(old_terms.items()) {
        if !only_additions(&term, &old_term) {
            let shown = go::value("NodeSelectorTerm", term.value());
            errors.invalid(term.path(), shown, "only additions are allowed (no mutations or deletions)");
        }
    }
}

fn only_additions(new: &Cursor<'_>, old: &Cursor<'_>) -> bool {
    const LISTS: [&str; 2] = ["matchExpressions", "matchFields"];
    let is_empty = |term: &Cursor<'_>| LISTS.iter().all(|list| term.field(list).is_empty());
    if is_empty(old) && !is_empty(new) {
        return false;
    }
    LISTS.iter().all(|list| {
        let (new, old) = (new.field(list), old.field(list));
        new.len() >= old.len() && old.items().zip(new.items()).all(|(o, n)| same(o.value(), n.value()))
    })
}

/// An update through `ephemeralcontainers`: nothing that is there changes.
pub fn ephemeral_containers(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    whole_pod(new, errors);
    pod_annotations_update(new, old, errors);
    if is_mirror(old) {
        *errors = ErrorList::new();
        errors.forbidden(Path::new("[]"), "static pods do not support ephemeral containers");
        return;
    }
    let list = new.field("spec").field("ephemeralContainers");
    for before in old.field("spec").field("ephemeralContainers").items() {
        let name = before.field("name").str();
        match list.items().find(|c| c.field("name").str() == name) {
            None => list.forbidden(errors, format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(after) if !same(after.value(), before.value()) => {
                let diff = go::diff("EphemeralContainer", before.value(), after.value());
                list.forbidden(errors, format!("existing ephemeral containers \"{name}\" may not be changed\n{diff}"));
            }
            Some(_) => {}
        }
    }
}

/// An update through `resize`: cpu and memory of containers and of the pod, without changing its quality of service.
pub fn resize(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    whole_pod(new, errors);
    let whole = |errors: &mut ErrorList, detail: &str| {
        *errors = ErrorList::new();
        errors.forbidden(Path::new("[]"), detail);
    };
    if is_mirror(old) {
        return whole(errors, "static pods cannot be resized");
    }
    if old.field("spec").field("os").field("name").str() == "windows" {
        return whole(errors, "windows pods cannot be resized");
    }
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    if qos_class(old.value()) != qos_class(new.value()) {
        let shown = new.field("status").field("qosClass").str();
        errors.invalid(spec.path(), shown, "Pod QOS Class may not change as a result of resizing");
    }
    let running =
        old.field("status").field("containerStatuses").items().find(|s| s.field("state").field("running").is_set());
    if running.is_some_and(|s| !s.field("resources").is_set()) {
        spec.forbidden(errors, "Pod running on node without support for resize");
    }
    let mut munged = spec.value().clone();
    let (of_pod, of_old_pod) = (spec.field("resources"), old_spec.field("resources"));
    if has_amounts(&of_pod) || has_amounts(&of_old_pod) {
        pod_level_resources(&spec, &old_spec, &mut munged, errors);
    }
    if !old.field("status").field("nodeAllocatableResourceClaimStatuses").is_empty() {
        spec.forbidden(errors, "pods with node allocatable resource claims cannot be resized");
    }
    if !same_order(&spec, &old_spec, errors) {
        return;
    }
    for list in ["initContainers", "containers"] {
        for (container, before) in spec.field(list).items().zip(old_spec.field(list).items()) {
            amounts_kept(&container.field("resources"), &before.field("resources"), "resource", errors);
        }
    }
    for list in ["containers", "initContainers"] {
        let containers = munged.get_mut(list).and_then(Value::as_array_mut);
        let changed = spec.field(list);
        for ((munged, sent), before) in
            containers.into_iter().flatten().zip(changed.items()).zip(old_spec.field(list).items())
        {
            // Claims are lost on the way, so that a container that has any cannot be resized.
            let mut resources = Value::Object(Map::new());
            set_old_compute(&mut resources, &sent.field("resources"), &before.field("resources"));
            carry::set(munged, "resources", resources);
            let is_same = same_container(munged, before.value());
            match list {
                "containers" if !is_same => spec.forbidden(errors, "only cpu and memory resources are mutable"),
                "initContainers" => init_container_resize(&sent, &before, is_same, errors),
                _ => {}
            }
        }
    }
    if errors.is_empty() && !same_spec(&munged, old_spec.value()) {
        spec.forbidden(errors, "only cpu and memory resources are mutable");
    }
}

fn init_container_resize(new: &Cursor<'_>, old: &Cursor<'_>, only_compute_differs: bool, errors: &mut ErrorList) {
    if !only_compute_differs {
        new.forbidden(errors, "only cpu and memory resources for init or sidecar containers are mutable");
    }
    let is_sidecar = new.field("restartPolicy").str() == "Always";
    if is_sidecar || same_container(new.value(), old.value()) {
        return;
    }
    for _ in
        new.field("resizePolicy").items().filter(|policy| policy.field("restartPolicy").str() == "RestartContainer")
    {
        new.forbidden(errors, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized");
    }
}

fn pod_level_resources(new: &Cursor<'_>, old: &Cursor<'_>, munged: &mut Value, errors: &mut ErrorList) {
    let (resources, before) = (new.field("resources"), old.field("resources"));
    if before.is_set() && !resources.is_set() {
        return resources.forbidden(errors, "pod-level resources cannot be removed");
    }
    amounts_kept(&resources, &before, "pod-level resource", errors);
    if let Some(munged) = munged.get_mut("resources") {
        set_old_compute(munged, &resources, &before);
    }
    let nothing_else = munged.get("resources").and_then(Value::as_object).is_some_and(Map::is_empty);
    if !before.is_set() && nothing_else {
        carry::remove(munged, &[], "resources");
    }
    if !same(munged.get("resources").unwrap_or(&Value::Null), before.value()) {
        new.forbidden(errors, "only cpu and memory resources are mutable at pod-level");
    }
}

/// The containers of both are those of before, in the same order. Whether it is worth going on.
fn same_order(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) -> bool {
    let n_before = errors.len();
    for list in ["containers", "initContainers"] {
        let (containers, before) = (new.field(list), old.field(list));
        if containers.len() != before.len() {
            containers.forbidden(errors, format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (container, before) in containers.items().zip(before.items()) {
            if container.field("name").str() != before.field("name").str() {
                container.field("name").forbidden(errors, format!("{list} may not be renamed or reordered on resize"));
            }
        }
    }
    errors.len() == n_before
}

fn amounts_kept(new: &Cursor<'_>, old: &Cursor<'_>, what: &str, errors: &mut ErrorList) {
    for list in ["requests", "limits"] {
        let after = new.field(list);
        if old.field(list).entries().any(|(name, _)| !after.field(name).is_set()) {
            after.forbidden(errors, format!("{what} {list} cannot be removed"));
        }
    }
}

fn has_amounts(resources: &Cursor<'_>) -> bool {
    ["requests", "limits"].iter().any(|list| !resources.field(list).is_empty())
}

/// Amounts as `new` has them, but for cpu and memory, which are those of `old`.
fn set_old_compute(resources: &mut Value, new: &Cursor<'_>, old: &Cursor<'_>) {
    for list in ["limits", "requests"] {
        let mut amounts = new.field(list).value().as_object().cloned().unwrap_or_default();
        for compute in ["cpu", "memory"] {
            amounts.remove(compute);
            let before = old.field(list).field(compute);
            if before.is_set() {
                amounts.insert(compute, before.value().clone());
            }
        }
        if amounts.is_empty() {
            carry::remove(resources, &[], list);
        } else {
            carry::set(resources, list, Value::Object(amounts));
        }
    }
}

/// Equal as upstream's internal type.
fn same_container(a: &Value, b: &Value) -> bool {
    same(&go::value("Container", a), &go::value("Container", b))
}
