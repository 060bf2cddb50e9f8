//! Defaults of pods and pod templates.

use super::{Fields, hooks};
use crate::amounts;
use crate::validate::resources::{is_huge_page, is_pod_level};
use crate::{Map, Text, Value, json};

/// Annotations of ancient init containers, dropped from whatever carries them.
const DROPPED_ANNOTATIONS: &[&str] = &[
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// What holds for a Pod but not for a pod template.
pub(super) fn pod(p: &mut Fields<'_>) {
    drop_annotations(p);
    let Some(mut spec) = p.child_or_new("spec") else { return };
    for list in ["containers", "initContainers"] {
        spec.each(list, |container| {
            if let Some(mut resources) = container.child("resources") {
                requests_from_limits(&mut resources);
            }
        });
    }
    pod_level_resources(&mut spec);
    spec.default("enableServiceLinks", || json!(true));
    // A pod is read with a negative grace period as 1; a template keeps what it says.
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|grace| grace < 0) {
        spec.set("terminationGracePeriodSeconds", json!(1));
    }
    if spec.get("hostNetwork") == Some(&json!(true)) {
        for list in ["containers", "initContainers"] {
            spec.each(list, |container| {
                container.each("ports", |port| {
                    if port.is_unset("hostPort") {
                        let number = port.get("containerPort").cloned().unwrap_or(json!(0));
                        port.set("hostPort", number);
                    }
                });
            });
        }
    }
}

pub(super) fn template(t: &mut Fields<'_>) {
    drop_annotations(t);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same, the new one wins.
pub(super) fn spec(s: &mut Fields<'_>) {
    let (new, old) = (s.str("serviceAccountName").to_owned(), s.str("serviceAccount").to_owned());
    let name = if new.is_empty() { old } else { new };
    if !name.is_empty() {
        s.set("serviceAccountName", name.clone());
        s.set("serviceAccount", name);
    }
}

pub(super) fn status(s: &mut Fields<'_>) {
    let read = |item: &Value| item.get("ip").and_then(Value::as_str).map(str::to_owned);
    hooks::mirror_first(s, "podIP", "podIPs", |ip| json!({"ip": ip}), read);
}

fn drop_annotations(owner: &mut Fields<'_>) {
    let Some(mut metadata) = owner.child("metadata") else { return };
    let Some(Value::Object(annotations)) = metadata.map.get_mut("annotations") else { return };
    for name in DROPPED_ANNOTATIONS {
        annotations.remove(name);
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

fn requests_from_limits(resources: &mut Fields<'_>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let mut requests = resources.get("requests").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
    requests.sort_keys();
    if !requests.is_empty() {
        resources.set("requests", requests);
    }
}

/// Pod-level requests follow the containers' requests, then the pod-level limits; hugepage limits follow the containers'.
fn pod_level_resources(spec: &mut Fields<'_>) {
    if spec.get("resources").is_none() {
        return;
    }
    let container_requests = aggregate(spec, "requests");
    let container_limits = aggregate(spec, "limits");
    let Some(mut resources) = spec.child("resources") else { return };
    let list = |resources: &Fields<'_>, name: &str| {
        resources.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let mut limits = list(&resources, "limits");
    let mut requests = list(&resources, "requests");
    // Only what is partly specified is completed.
    let is_specified = !(limits.is_empty() && requests.is_empty());
    for (name, quantity) in container_limits.iter().filter(|_| is_specified) {
        if is_huge_page(name) && !requests.contains_key(name) && !limits.contains_key(name) {
            limits.insert(name.clone(), quantity.clone());
        }
    }
    if !limits.is_empty() {
        for (name, quantity) in &container_requests {
            if matches!(name.as_str(), "cpu" | "memory") && !requests.contains_key(name) {
                requests.insert(name.clone(), quantity.clone());
            }
        }
        for (name, quantity) in &limits {
            if is_pod_level(name) && !requests.contains_key(name) {
                requests.insert(name.clone(), quantity.clone());
            }
        }
    }
    for (name, mut map) in [("limits", limits), ("requests", requests)] {
        if !map.is_empty() {
            map.sort_keys();
            resources.set(name, map);
        }
    }
}

fn aggregate(spec: &Fields<'_>, list: &str) -> Map {
    let peak = amounts::of_containers(spec.map, list);
    peak.into_iter().map(|(name, amount)| (Text::from(name), Value::from(amount.to_string()))).collect()
}
