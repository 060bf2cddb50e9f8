//! Rows of autoscalers and of the Scale subresource.

use crate::json;

use crate::Value;

use super::row::{NONE, Row, UNKNOWN, UNSET};

/// Metrics shown before `+ N more...`.
const METRICS_MAX: usize = 2;

pub(super) fn scale(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.int("/spec/replicas").into(), row.int("/status/replicas").into(), row.age()]
}

pub(super) fn horizontal_pod_autoscaler(row: &Row<'_>) -> Vec<Value> {
    let target = row.str("/spec/scaleTargetRef/kind");
    vec![
        row.name(),
        format!("{target}/{}", row.str("/spec/scaleTargetRef/name")).into(),
        targets(row).into(),
        row.int_or_string("/spec/minReplicas", UNSET),
        row.int("/spec/maxReplicas").into(),
        row.int("/status/currentReplicas").into(),
        row.age(),
    ]
}

fn targets(row: &Row<'_>) -> String {
    let mut shown: Vec<String> = Vec::new();
    // autoscaling/v1 knows one metric only, in fields of its own.
    let v1_spec;
    let v1_status;
    if let Some(target) = row.get("/spec/targetCPUUtilizationPercentage") {
        v1_spec = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": target}}});
        v1_status = match row.get("/status/currentCPUUtilizationPercentage") {
            Some(current) => json!({"resource": {"current": {"averageUtilization": current}}}),
            None => Value::Null,
        };
        shown.push(metric(&Row { object: &v1_spec, now: row.now }, &Row { object: &v1_status, now: row.now }));
    }
    let null = Value::Null;
    let mut statuses = row.items("/status/currentMetrics");
    for spec in row.items("/spec/metrics") {
        let status = statuses.next().unwrap_or(Row { object: &null, now: row.now });
        shown.push(metric(&spec, &status));
    }
    match shown.len() {
        0 => NONE.to_owned(),
        count if count > METRICS_MAX => {
            format!("{} + {} more...", shown[..METRICS_MAX].join(", "), count - METRICS_MAX)
        }
        _ => shown.join(", "),
    }
}

/// `current/target` of one metric.
fn metric(spec: &Row<'_>, status: &Row<'_>) -> String {
    let (field, named) = match spec.str("/type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let target = |unit: &str| format!("/{field}/target/{unit}");
    let current = |unit: &str| {
        let pointer = format!("/{field}/current/{unit}");
        if status.has(&pointer) { status.quantity(&pointer) } else { UNKNOWN.to_owned() }
    };
    let prefix = if named { format!("{}: ", spec.str(&format!("/{field}/name"))) } else { String::new() };
    if spec.has(&target("averageValue")) {
        let suffix = if matches!(field, "external" | "object") { " (avg)" } else { "" };
        return format!("{prefix}{}/{}{suffix}", current("averageValue"), spec.quantity(&target("averageValue")));
    }
    if !named {
        return format!("{}/{}", current("value"), spec.quantity(&target("value")));
    }
    let percent = |row: &Row<'_>, pointer: &str, default: &str| match row.get(pointer) {
        Some(number) => format!("{number}%"),
        None => default.to_owned(),
    };
    let now = percent(status, &format!("/{field}/current/averageUtilization"), UNKNOWN);
    format!("{prefix}{now}/{}", percent(spec, &target("averageUtilization"), "<auto>"))
}
