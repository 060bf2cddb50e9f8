//! autoscaling/v1 HorizontalPodAutoscaler, stored as autoscaling/v2.
//!
//! v1 knows one CPU percentage. Whatever else v2 says travels in four annotations of the v1 object, in upstream's encoding:
//! metrics, their status and the conditions as the (otherwise unserved) v1 types, behavior as Go prints the internal struct.

use crate::json;

use super::{Conversion, normalized};
use crate::{Map, Value};

pub(super) static CONVERSION: Conversion = Conversion { to_storage, from_storage };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const KIND: &str = "HorizontalPodAutoscaler";
const DEFAULT_CPU_PERCENT: i64 = 80;

fn to_storage(mut value: Value) -> Value {
    value["apiVersion"] = Value::from("autoscaling/v2");
    let annotations = take_annotations(&mut value);
    let annotation = |name: &str| -> Option<Value> {
        let text = annotations.iter().find(|(n, _)| *n == name)?.1.as_str()?;
        serde_json::from_str(text).ok().filter(|v: &Value| !v.is_null())
    };
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let percent = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null());
        let mut metrics: Vec<Value> =
            annotation(METRICS).as_ref().and_then(Value::as_array).into_iter().flatten().map(metric_to_v2).collect();
        if let Some(percent) = percent {
            metrics.push(cpu_metric(percent));
        }
        if metrics.is_empty() {
            metrics.push(cpu_metric(Value::from(DEFAULT_CPU_PERCENT)));
        }
        spec.insert("metrics", Value::Array(metrics));
        if let Some(behavior) = annotation(BEHAVIOR) {
            spec.insert("behavior", rename_keys(&behavior, uncapitalized));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
        let current = match annotation(CURRENT_METRICS) {
            Some(Value::Array(list)) => Some(list.iter().map(metric_status_to_v2).collect::<Vec<_>>()),
            _ => percent.map(|percent| vec![cpu_status(percent)]),
        };
        if let Some(current) = current {
            status.insert("currentMetrics", Value::Array(current));
        }
        if let Some(conditions) = annotation(CONDITIONS) {
            status.insert("conditions", conditions);
        }
    }
    normalized("autoscaling", "v2", KIND, value)
}

fn from_storage(mut value: Value) -> Value {
    value["apiVersion"] = Value::from("autoscaling/v1");
    take_annotations(&mut value);
    let mut annotations = Vec::new();
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = take_list(spec, "metrics");
        if let Some(percent) =
            metrics.iter().find(|m| is_cpu(m)).and_then(|m| m.pointer("/resource/target/averageUtilization"))
        {
            spec.insert("targetCPUUtilizationPercentage", percent.clone());
        }
        let is_percent = |m: &&Value| is_cpu(m) && m.pointer("/resource/target/averageUtilization").is_some();
        let others: Vec<Value> = metrics.iter().filter(|m| !is_percent(m)).map(metric_to_v1).collect();
        if !others.is_empty() {
            annotations.push((METRICS, Value::Array(others)));
        }
        if let Some(behavior) = spec.remove("behavior").filter(|b| !b.is_null()) {
            annotations.push((BEHAVIOR, behavior_to_go(&behavior)));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let current = take_list(status, "currentMetrics");
        let percent = |m: &&Value| m.pointer("/resource/current/averageUtilization").is_some();
        if let Some(cpu) = current.iter().filter(|m| is_cpu(m)).rfind(percent) {
            let percent = cpu.pointer("/resource/current/averageUtilization").cloned().unwrap_or_default();
            status.insert("currentCPUUtilizationPercentage", percent);
        }
        if !current.is_empty() {
            annotations.push((CURRENT_METRICS, Value::Array(current.iter().map(metric_status_to_v1).collect())));
        }
        let conditions = take_list(status, "conditions");
        if !conditions.is_empty() {
            annotations.push((CONDITIONS, Value::Array(conditions)));
        }
    }
    if !annotations.is_empty()
        && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let slot = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(map) = slot.as_object_mut() {
            map.extend(annotations.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value.to_string()))));
        }
    }
    normalized("autoscaling", "v1", KIND, value)
}

/// Removes the four annotations and returns them.
fn take_annotations(value: &mut Value) -> Vec<(&'static str, Value)> {
    let Some(annotations) = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let take = |name| Some((name, annotations.remove(name)?));
    [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS].into_iter().filter_map(take).collect()
}

fn take_list(map: &mut Map, name: &str) -> Vec<Value> {
    match map.remove(name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric.pointer("/resource/name").is_some_and(|n| n == "cpu")
}

fn cpu_metric(percent: Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn cpu_status(percent: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})
}

/// Member of a metric, and where its v1 fields (in v1's order) are found in v2.
type Shape = (&'static str, &'static [(&'static str, &'static str)]);

const SPEC: &[Shape] = &[
    (
        "object",
        &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("targetValue", "/target/value"),
            ("selector", "/metric/selector"),
            ("averageValue", "/target/averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", "/metric/name"),
            ("targetAverageValue", "/target/averageValue"),
            ("selector", "/metric/selector"),
        ],
    ),
    (
        "resource",
        &[
            ("name", "/name"),
            ("targetAverageUtilization", "/target/averageUtilization"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "/name"),
            ("targetAverageUtilization", "/target/averageUtilization"),
            ("targetAverageValue", "/target/averageValue"),
            ("container", "/container"),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
];

const STATUS: &[Shape] = &[
    (
        "object",
        &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("currentValue", "/current/value"),
            ("selector", "/metric/selector"),
            ("averageValue", "/current/averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", "/metric/name"),
            ("currentAverageValue", "/current/averageValue"),
            ("selector", "/metric/selector"),
        ],
    ),
    (
        "resource",
        &[
            ("name", "/name"),
            ("currentAverageUtilization", "/current/averageUtilization"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "/name"),
            ("currentAverageUtilization", "/current/averageUtilization"),
            ("currentAverageValue", "/current/averageValue"),
            ("container", "/container"),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("currentValue", "/current/value"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    ),
];

/// v1 fields that are values, not pointers: printed as `"0"` when v2 has none.
const ALWAYS_PRINTED: &[(&str, &str)] = &[
    ("object", "targetValue"),
    ("pods", "targetAverageValue"),
    ("object", "currentValue"),
    ("pods", "currentAverageValue"),
    ("resource", "currentAverageValue"),
    ("containerResource", "currentAverageValue"),
    ("external", "currentValue"),
];

fn metric_to_v1(metric: &Value) -> Value {
    flatten(metric, SPEC)
}

fn metric_status_to_v1(metric: &Value) -> Value {
    flatten(metric, STATUS)
}

fn flatten(metric: &Value, shapes: &[Shape]) -> Value {
    let mut out = Map::new();
    out.insert("type", metric["type"].clone());
    for (member, fields) in shapes {
        let Some(source) = metric.get(member) else { continue };
        let mut flat = Map::new();
        for (name, path) in *fields {
            match source.pointer(path).filter(|v| !v.is_null()) {
                Some(value) => drop(flat.insert(*name, value.clone())),
                None if ALWAYS_PRINTED.contains(&(*member, *name)) => drop(flat.insert(*name, "0".into())),
                None => {}
            }
        }
        out.insert(*member, Value::Object(flat));
    }
    Value::Object(out)
}

fn metric_to_v2(metric: &Value) -> Value {
    let mut out = unflatten(metric, SPEC);
    for (member, _) in SPEC {
        let given = |name: &str| metric.get(member).and_then(|m| m.get(name)).is_some_and(|v| !v.is_null());
        let target_type = match *member {
            "object" if given("averageValue") => "AverageValue",
            "object" => "Value",
            "pods" => "AverageValue",
            "external" if given("targetValue") => "Value",
            "external" => "AverageValue",
            _ if given("targetAverageUtilization") => "Utilization",
            _ => "AverageValue",
        };
        let Some(member) = out.get_mut(member).filter(|m| m.is_object()) else { continue };
        let Some(member) = member.as_object_mut() else { continue };
        let target = member.entry("target").or_insert_with(|| json!({}));
        target["type"] = Value::from(target_type);
        // An object metric by average has no total.
        if target_type == "AverageValue"
            && let Some(target) = target.as_object_mut()
        {
            target.remove("value");
        }
    }
    out
}

fn metric_status_to_v2(metric: &Value) -> Value {
    unflatten(metric, STATUS)
}

fn unflatten(metric: &Value, shapes: &[Shape]) -> Value {
    let mut out = Map::new();
    out.insert("type", metric.get("type").cloned().unwrap_or_else(|| "".into()));
    for (member, fields) in shapes {
        let Some(source) = metric.get(member).filter(|m| m.is_object()) else { continue };
        let mut nested = json!({});
        for (name, path) in *fields {
            let Some(value) = source.get(name).filter(|v| !v.is_null()) else { continue };
            match path[1..].split_once('/') {
                Some((outer, inner)) => nested[outer][inner] = value.clone(),
                None => nested[&path[1..]] = value.clone(),
            }
        }
        out.insert(*member, nested);
    }
    Value::Object(out)
}

/// The behavior as Go prints the internal struct: capitalised names, every field.
fn behavior_to_go(behavior: &Value) -> Value {
    let rules = |name: &str| match behavior.get(name).filter(|r| !r.is_null()) {
        None => Value::Null,
        Some(rules) => {
            let get = |field: &str| rules.get(field).cloned().unwrap_or_default();
            let policies = match get("policies") {
                Value::Array(list) => list.iter().map(|p| rename_keys(p, capitalized)).collect(),
                _ => Value::Null,
            };
            json!({
                "StabilizationWindowSeconds": get("stabilizationWindowSeconds"),
                "SelectPolicy": get("selectPolicy"),
                "Policies": policies,
                "Tolerance": get("tolerance"),
            })
        }
    };
    json!({"ScaleUp": rules("scaleUp"), "ScaleDown": rules("scaleDown")})
}

fn rename_keys(value: &Value, rename: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (rename(k), rename_keys(v, rename))).collect()),
        Value::Array(list) => list.iter().map(|v| rename_keys(v, rename)).collect(),
        other => other.clone(),
    }
}

fn capitalized(name: &str) -> String {
    name.chars().take(1).flat_map(char::to_uppercase).chain(name.chars().skip(1)).collect()
}

fn uncapitalized(name: &str) -> String {
    name.chars().take(1).flat_map(char::to_lowercase).chain(name.chars().skip(1)).collect()
}
