//! Defaults that depend on other fields, one small function per type.

use crate::{Value, json};

use super::{Fields, Hook, image, pod};
use crate::Map;
use crate::kinds::apps::TEMPLATE_GENERATION;

/// Type (without `io.k8s.`) and function, in the order of the functions below.
pub(super) const HOOKS: &[(&str, Hook)] = &[
    ("api.core.v1.Pod", pod::pod),
    ("api.core.v1.PodTemplateSpec", pod::template),
    ("api.core.v1.PodSpec", pod::spec),
    ("api.core.v1.PodStatus", pod::status),
    ("api.core.v1.Container", container),
    ("api.core.v1.EphemeralContainer", container),
    ("api.core.v1.Volume", volume),
    ("api.core.v1.ImageVolumeSource", image_volume),
    ("api.core.v1.PersistentVolumeClaim", claim),
    ("api.core.v1.PersistentVolume", persistent_volume),
    ("api.core.v1.ReplicationController", replication_controller),
    ("api.core.v1.Service", service),
    ("api.core.v1.Secret", secret),
    ("api.core.v1.Namespace", namespace),
    ("api.core.v1.Node", node),
    ("api.core.v1.LimitRangeItem", limit_range_item),
    ("api.apps.v1.Deployment", deployment),
    ("api.apps.v1.DaemonSet", daemon_set),
    ("api.apps.v1.StatefulSet", stateful_set),
    ("api.batch.v1.Job", job),
    ("api.autoscaling.v2.HorizontalPodAutoscaler", autoscaler),
    ("api.networking.v1.NetworkPolicy", network_policy),
    ("api.rbac.v1.Subject", subject),
    ("api.resource.v1.ExactDeviceRequest", device_request),
    ("api.resource.v1.DeviceSubRequest", device_request),
    ("api.resource.v1.DeviceTaint", device_taint),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", definition),
];

fn text(value: &str) -> Value {
    Value::from(value)
}

fn container(c: &mut Fields<'_>) {
    if c.is_unset("imagePullPolicy") {
        let policy = image::pull_policy(c.str("image"));
        c.set("imagePullPolicy", policy);
    }
}

/// A volume without a source is an emptyDir.
fn volume(v: &mut Fields<'_>) {
    let has_source = v.map.iter().any(|(name, value)| name != "name" && !value.is_null());
    if !has_source {
        v.set("emptyDir", json!({}));
    }
}

fn image_volume(v: &mut Fields<'_>) {
    if v.is_unset("pullPolicy") {
        let policy = image::pull_policy(v.str("reference"));
        v.set("pullPolicy", policy);
    }
}

fn claim(c: &mut Fields<'_>) {
    if let Some(mut status) = c.child_or_new("status") {
        status.default("phase", || text("Pending"));
    }
}

fn persistent_volume(v: &mut Fields<'_>) {
    if let Some(mut status) = v.child_or_new("status") {
        status.default("phase", || text("Pending"));
    }
    if let Some(mut spec) = v.child_or_new("spec") {
        spec.default("persistentVolumeReclaimPolicy", || text("Retain"));
        spec.default("volumeMode", || text("Filesystem"));
    }
}

fn template_labels(spec: &Fields<'_>) -> Option<Value> {
    let labels = spec.get("template")?.get("metadata")?.get("labels")?;
    labels.as_object().filter(|l| !l.is_empty()).map(|l| Value::Object(l.clone()))
}

fn replication_controller(c: &mut Fields<'_>) {
    let Some(mut spec) = c.child("spec") else { return };
    spec.default("replicas", || json!(1));
    let Some(labels) = template_labels(&spec) else { return };
    if spec.is_empty("selector") {
        spec.set("selector", labels.clone());
    }
    if let Some(mut metadata) = c.child("metadata").filter(|m| m.is_empty("labels")) {
        metadata.set("labels", labels);
    }
}

fn service(s: &mut Fields<'_>) {
    let Some(mut spec) = s.child_or_new("spec") else { return };
    spec.default("sessionAffinity", || text("None"));
    match spec.str("sessionAffinity") {
        "None" => spec.remove("sessionAffinityConfig"),
        "ClientIP" => {
            let timeout = spec.get("sessionAffinityConfig").and_then(|c| c.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none_or(Value::is_null) {
                spec.set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
            }
        }
        _ => {}
    }
    spec.default("type", || text("ClusterIP"));
    spec.each("ports", |port| {
        if port.is_unset("targetPort") {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.set("targetPort", number);
        }
    });
    let service_type = spec.str("type").to_owned();
    let (load_balancer, node_port) = (service_type == "LoadBalancer", service_type == "NodePort");
    let cluster_ip = service_type == "ClusterIP";
    if load_balancer || node_port || (cluster_ip && !spec.is_empty("externalIPs")) {
        spec.default("externalTrafficPolicy", || text("Cluster"));
    }
    if load_balancer || node_port || cluster_ip {
        spec.default("internalTrafficPolicy", || text("Cluster"));
    }
    if !load_balancer {
        return;
    }
    spec.default("allocateLoadBalancerNodePorts", || json!(true));
    let balancer = s.map.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
    let ingresses = balancer.and_then(|b| b.get_mut("ingress")).and_then(Value::as_array_mut);
    let ingress_type = s.schema.type_id("io.k8s.api.core.v1.LoadBalancerIngress");
    if let (Some(ingresses), Some(id)) = (ingresses, ingress_type) {
        for map in ingresses.iter_mut().filter_map(Value::as_object_mut) {
            let mut ingress = Fields { schema: s.schema, id, map, now: s.now };
            if !ingress.str("ip").is_empty() {
                ingress.default("ipMode", || text("VIP"));
            }
        }
    }
}

/// `stringData` is write-only: it becomes `data`.
fn secret(s: &mut Fields<'_>) {
    use base64::Engine;
    let Some(Value::Object(strings)) = s.map.remove("stringData") else { return };
    let mut data = match s.map.get("data") {
        Some(Value::Object(data)) => data.clone(),
        _ => Map::new(),
    };
    for (key, value) in strings {
        let plain = value.as_str().unwrap_or("");
        data.insert(key, Value::from(base64::engine::general_purpose::STANDARD.encode(plain)));
    }
    data.sort_keys();
    if !data.is_empty() {
        s.set("data", data);
    }
}

fn namespace(n: &mut Fields<'_>) {
    const NAME_LABEL: &str = "kubernetes.io/metadata.name";
    if let Some(mut status) = n.child_or_new("status") {
        status.default("phase", || text("Active"));
    }
    let Some(mut metadata) = n.child("metadata") else { return };
    let name = metadata.str("name").to_owned();
    if name.is_empty() {
        return;
    }
    let mut labels = match metadata.get("labels") {
        Some(Value::Object(labels)) => labels.clone(),
        _ => Map::new(),
    };
    labels.insert(NAME_LABEL.to_owned(), Value::from(name));
    labels.sort_keys();
    metadata.set("labels", labels);
}

fn node(n: &mut Fields<'_>) {
    if let Some(mut status) = n.child("status")
        && status.is_empty("allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.set("allocatable", capacity);
    }
    if let Some(mut spec) = n.child("spec") {
        mirror_first(
            &mut spec,
            "podCIDR",
            "podCIDRs",
            |cidr| Value::from(cidr),
            |item| item.as_str().map(str::to_owned),
        );
    }
}

/// A singular field and the list that superseded it: the singular one wins when they differ, and both end up equal.
pub(super) fn mirror_first(
    f: &mut Fields<'_>,
    singular: &str,
    plural: &str,
    make: fn(&str) -> Value,
    read: fn(&Value) -> Option<String>,
) {
    let one = f.str(singular).to_owned();
    let first = f.get(plural).and_then(|list| list.get(0)).and_then(read);
    match (one.is_empty(), first) {
        (true, Some(first)) => f.set(singular, first),
        (false, Some(first)) if first == one => {}
        (false, _) => f.set(plural, vec![make(&one)]),
        (true, None) => {}
    }
}

fn limit_range_item(item: &mut Fields<'_>) {
    if !item.is("type", "Container") {
        return;
    }
    let map = |item: &Fields<'_>, name: &str| item.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let fill = |into: &mut Map, from: &Map| {
        for (key, value) in from {
            if !into.contains_key(key) {
                into.insert(key.clone(), value.clone());
            }
        }
        into.sort_keys();
    };
    let mut default = map(item, "default");
    fill(&mut default, &map(item, "max"));
    let mut request = map(item, "defaultRequest");
    fill(&mut request, &default);
    fill(&mut request, &map(item, "min"));
    if !default.is_empty() {
        item.set("default", default);
    }
    if !request.is_empty() {
        item.set("defaultRequest", request);
    }
}

fn deployment(d: &mut Fields<'_>) {
    let Some(mut spec) = d.child_or_new("spec") else { return };
    spec.default("replicas", || json!(1));
    if let Some(mut strategy) = spec.child_or_new("strategy") {
        strategy.default("type", || text("RollingUpdate"));
        if strategy.is("type", "RollingUpdate")
            && let Some(mut rolling) = strategy.child_or_new("rollingUpdate")
        {
            rolling.default("maxUnavailable", || text("25%"));
            rolling.default("maxSurge", || text("25%"));
        }
    }
    spec.default("revisionHistoryLimit", || json!(10));
    spec.default("progressDeadlineSeconds", || json!(600));
}

fn daemon_set(d: &mut Fields<'_>) {
    // The internal type has the template's generation as a field, which every version shows as this annotation.
    if let Some(metadata) = d.child_or_new("metadata")
        && let Some(annotations) = metadata.map.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
    {
        annotations.entry(TEMPLATE_GENERATION).or_insert_with(|| text("0"));
    }
    let Some(mut spec) = d.child_or_new("spec") else { return };
    if let Some(mut strategy) = spec.child_or_new("updateStrategy") {
        strategy.default("type", || text("RollingUpdate"));
        if strategy.is("type", "RollingUpdate")
            && let Some(mut rolling) = strategy.child_or_new("rollingUpdate")
        {
            rolling.default("maxUnavailable", || json!(1));
            rolling.default("maxSurge", || json!(0));
        }
    }
    spec.default("revisionHistoryLimit", || json!(10));
}

fn stateful_set(s: &mut Fields<'_>) {
    let Some(mut spec) = s.child_or_new("spec") else { return };
    spec.default("podManagementPolicy", || text("OrderedReady"));
    if let Some(mut strategy) = spec.child_or_new("updateStrategy") {
        if strategy.is_unset("type") {
            strategy.set("type", "RollingUpdate");
            strategy.default("rollingUpdate", || json!({}));
        }
        if strategy.is("type", "RollingUpdate")
            && let Some(mut rolling) = strategy.child("rollingUpdate")
        {
            rolling.default("partition", || json!(0));
        }
    }
    if let Some(mut retention) = spec.child_or_new("persistentVolumeClaimRetentionPolicy") {
        retention.default("whenDeleted", || text("Retain"));
        retention.default("whenScaled", || text("Retain"));
    }
    spec.default("replicas", || json!(1));
    spec.default("revisionHistoryLimit", || json!(10));
    spec.each("volumeClaimTemplates", |claim| {
        claim.set("kind", "PersistentVolumeClaim");
        claim.set("apiVersion", "v1");
    });
}

/// Only Jobs themselves: the spec inside a CronJob stays as written.
fn job(j: &mut Fields<'_>) {
    let Some(mut spec) = j.child_or_new("spec") else { return };
    if spec.is_unset("completions") && spec.is_unset("parallelism") {
        spec.set("completions", 1);
    }
    spec.default("parallelism", || json!(1));
    let per_index = !spec.is_unset("backoffLimitPerIndex");
    spec.default("backoffLimit", || json!(if per_index { i32::MAX } else { 6 }));
    spec.default("completionMode", || text("NonIndexed"));
    spec.default("suspend", || json!(false));
    let has_policy = spec.get("podFailurePolicy").is_some();
    spec.default("podReplacementPolicy", || text(if has_policy { "Failed" } else { "TerminatingOrFailed" }));
    spec.default("manualSelector", || json!(false));
    let labels = template_labels(&spec);
    if let (Some(labels), Some(mut metadata)) = (labels, j.child("metadata").filter(|m| m.is_empty("labels"))) {
        metadata.set("labels", labels);
    }
}

fn autoscaler(a: &mut Fields<'_>) {
    let Some(mut spec) = a.child_or_new("spec") else { return };
    spec.default("minReplicas", || json!(1));
    if spec.is_empty("metrics") {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.set("metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    let Some(mut behavior) = spec.child("behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    if let Some(mut up) = behavior.child_or_new("scaleUp") {
        up.default("stabilizationWindowSeconds", || json!(0));
        up.default("selectPolicy", || text("Max"));
        up.default("policies", || json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]));
    }
    if let Some(mut down) = behavior.child_or_new("scaleDown") {
        down.default("selectPolicy", || text("Max"));
        down.default("policies", || json!([percent]));
    }
}

fn network_policy(p: &mut Fields<'_>) {
    let Some(mut spec) = p.child_or_new("spec") else { return };
    if spec.is_empty("policyTypes") {
        let egress = !spec.is_empty("egress");
        spec.set("policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn subject(s: &mut Fields<'_>) {
    if matches!(s.str("kind"), "User" | "Group") {
        s.default("apiGroup", || text("rbac.authorization.k8s.io"));
    }
}

fn device_request(r: &mut Fields<'_>) {
    r.default("allocationMode", || text("ExactCount"));
    if r.is("allocationMode", "ExactCount") {
        r.default("count", || json!(1));
    }
}

fn device_taint(t: &mut Fields<'_>) {
    if t.is_unset("timeAdded") && !t.now.is_empty() {
        let now = t.now.to_owned();
        t.set("timeAdded", now);
    }
}

fn definition(d: &mut Fields<'_>) {
    let mut storage = Vec::new();
    if let Some(mut spec) = d.child_or_new("spec") {
        if let Some(mut names) = spec.child_or_new("names") {
            let kind = names.str("kind").to_owned();
            if !kind.is_empty() {
                names.default("singular", || text(&kind.to_lowercase()));
                names.default("listKind", || text(&format!("{kind}List")));
            }
        }
        if spec.get("conversion").is_none() {
            spec.set("conversion", json!({"strategy": "None"}));
        }
        let versions = spec.get("versions").and_then(Value::as_array);
        let stored = |v: &&Value| v.get("storage").and_then(Value::as_bool) == Some(true);
        storage.extend(versions.into_iter().flatten().filter(stored).filter_map(|v| v.get("name").cloned()));
    }
    if let Some(mut status) = d.child_or_new("status")
        && status.is_empty("storedVersions")
        && !storage.is_empty()
    {
        storage.truncate(1);
        status.set("storedVersions", storage);
    }
}
