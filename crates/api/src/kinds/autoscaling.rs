//! HorizontalPodAutoscaler. Source: `pkg/apis/autoscaling/validation`. Rules are written for `v2`; objects in `v1` have no
//! metrics but a utilization, which obeys the same limits.

use crate::strategy::SubresourceStrategy;
use crate::validate::names;
use crate::validate::resources::{container_resource_name, quantity};
use crate::validate::text::{NEGATIVE, formatted, nonnegative_fields, required_formatted, supported};
use crate::{Cursor, ErrorList, Strategy, meta};

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const STABILIZATION_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

pub const STRATEGY: Strategy = Strategy {
    validate: |object, errors| scaler_spec(&object.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        scaler_spec(&new.field("spec"), errors);
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |_, _, _| {},
        validate_update: |new, old, errors| {
            meta::validate_update_again(new, old, errors);
            nonnegative_fields(&new.field("status"), &["currentReplicas", "desiredReplicas"], errors);
        },
    }],
    ..Strategy::DEFAULT
};

fn scaler_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (min, max) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if min.opt_int().is_some_and(|n| n < 1) {
        min.invalid(errors, "must be greater than or equal to 1");
    }
    if max.int() == 0 {
        max.required(errors, "must be set and greater than 0");
    } else if max.int() < 0 {
        max.invalid(errors, "must be greater than or equal to 1");
    }
    if min.opt_int().is_some_and(|n| max.int() < n) {
        errors.invalid(max.path(), max.int(), "must be greater than or equal to `minReplicas`");
    }
    scale_target(&spec.field("scaleTargetRef"), errors);
    let utilization = spec.field("targetCPUUtilizationPercentage");
    if utilization.opt_int().is_some_and(|n| n < 1) {
        // As upstream says it of the metric that it becomes.
        let target = spec.path().child("metrics").index(0).child("resource").child("target");
        errors.invalid(target.child("averageUtilization"), utilization.value().clone(), NOT_ABOVE_ZERO);
    }
    for metric in spec.field("metrics").items() {
        metric_spec(&metric, errors);
    }
    let metrics = spec.field("metrics");
    let may_wake = metrics.items().any(|m| matches!(m.field("type").str(), "Object" | "External"));
    if min.opt_int() == Some(0) && !may_wake {
        errors.forbidden(
            spec.path().child("metrics"),
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    behavior(&spec.field("behavior"), errors);
}

const NOT_ABOVE_ZERO: &str = "must be greater than 0";

fn scale_target(target: &Cursor<'_>, errors: &mut ErrorList) {
    named_object(target, errors);
    let version = target.field("apiVersion");
    let parts: Vec<&str> = version.str().split('/').collect();
    let has_group = matches!(parts[..], [group, _] if !group.is_empty());
    // Of the group without a name only one kind can be scaled.
    let is_core =
        matches!(parts[..], [version] if !version.is_empty()) && target.field("kind").str() == "ReplicationController";
    if parts.len() > 2 {
        let detail = format!("unexpected GroupVersion string: {}", version.str());
        version.invalid(errors, detail);
    } else if !has_group && !is_core {
        errors.invalid(version.path(), version.str(), "apiVersion must specify API group");
    }
}

fn metric_spec(metric: &Cursor<'_>, errors: &mut ErrorList) {
    let kind = metric.field("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric source type");
    }
    supported(&kind, METRIC_TYPES, errors);
    let sources = [
        ("Object", "object"),
        ("External", "external"),
        ("Pods", "pods"),
        ("Resource", "resource"),
        ("ContainerResource", "containerResource"),
    ];
    let expected = sources.iter().find(|(name, _)| *name == kind.str()).map_or("", |(_, field)| *field);
    let n_set = sources.iter().filter(|(_, f)| metric.field(f).is_set()).count();
    // Only the first of several is looked at.
    if let Some((_, field)) = sources.iter().find(|(_, field)| metric.field(field).is_set()) {
        metric_source(field, &metric.field(field), errors);
    }
    if expected.is_empty() {
        // Said once more where the sources are looked at, as upstream does.
        supported(&kind, METRIC_TYPES, errors);
    } else if !metric.field(expected).is_set() {
        metric.field(expected).required(errors, "must populate information for the given metric source");
    }
    if n_set != 1 {
        for (_, field) in sources {
            if field != expected && metric.field(field).is_set() {
                metric.field(field).forbidden(errors, "must populate the given metric source only");
            }
        }
    }
}

fn metric_source(field: &str, source: &Cursor<'_>, errors: &mut ErrorList) {
    let target = source.field("target");
    match field {
        "object" => {
            described_object(&source.field("describedObject"), errors);
            metric_identifier(&source.field("metric"), errors);
            metric_target(&target, errors);
            if !target.field("value").is_set() && !target.field("averageValue").is_set() {
                target.field("averageValue").required(errors, "must set either a target value or averageValue");
            }
        }
        "external" => {
            metric_identifier(&source.field("metric"), errors);
            metric_target(&target, errors);
            let (value, average) = (target.field("value"), target.field("averageValue"));
            match (value.is_set(), average.is_set()) {
                (false, false) => {
                    average.required(errors, "must set either a target value for metric or a per-pod target")
                }
                (true, true) => {
                    value.forbidden(errors, "may not set both a target value for metric and a per-pod target")
                }
                _ => {}
            }
        }
        "pods" => {
            metric_identifier(&source.field("metric"), errors);
            metric_target(&target, errors);
            let average = target.field("averageValue");
            if !average.is_set() {
                average.required(errors, "must specify a positive target averageValue");
            }
        }
        _ => {
            let (name, container) = (source.field("name"), source.field("container"));
            let of_container = field == "containerResource";
            if name.is_empty() {
                name.required(errors, "must specify a resource name");
            } else if of_container {
                container_resource_name(name.str(), &name.path(), errors);
            }
            if of_container && container.is_empty() {
                container.required(errors, "must specify a container");
            } else if of_container {
                formatted(&container, names::dns1123_label, errors);
            }
            metric_target(&target, errors);
            let (utilization, average) = (target.field("averageUtilization"), target.field("averageValue"));
            match (utilization.is_set(), average.is_set()) {
                (false, false) => {
                    utilization.required(errors, "must set either a target raw value or a target utilization");
                }
                (true, true) => {
                    average.forbidden(errors, "may not set both a target raw value and a target utilization");
                }
                _ => {}
            }
        }
    }
}

fn described_object(target: &Cursor<'_>, errors: &mut ErrorList) {
    named_object(target, errors);
    let version = target.field("apiVersion");
    if version.str().split('/').count() > 2 {
        version.invalid(errors, format!("unexpected GroupVersion string: {}", version.str()));
    }
}

fn named_object(target: &Cursor<'_>, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        let value = target.field(field);
        required_formatted(&value, names::path_segment, errors);
    }
}

fn metric_identifier(metric: &Cursor<'_>, errors: &mut ErrorList) {
    let name = metric.field("name");
    if name.is_empty() {
        name.required(errors, "must specify a metric name");
    } else {
        formatted(&name, names::path_segment, errors);
    }
}

fn metric_target(target: &Cursor<'_>, errors: &mut ErrorList) {
    let kind = target.field("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric target type");
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        errors.invalid_choice(kind.path(), kind.str(), "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let value = target.field(field);
        let amount = quantity(value.value());
        if value.is_set() && amount.sign() != 1 {
            errors.invalid(value.path(), amount.to_string(), "must be positive");
        }
    }
    let utilization = target.field("averageUtilization");
    if utilization.opt_int().is_some_and(|n| n < 1) {
        utilization.invalid(errors, NOT_ABOVE_ZERO);
    }
}

fn behavior(behavior: &Cursor<'_>, errors: &mut ErrorList) {
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.field(direction);
        if rules.is_set() {
            scaling_rules(&rules, errors);
        }
    }
}

fn scaling_rules(rules: &Cursor<'_>, errors: &mut ErrorList) {
    let window = rules.field("stabilizationWindowSeconds");
    if let Some(n) = window.opt_int() {
        if n < 0 {
            window.invalid(errors, "must be greater than or equal to zero");
        }
        if n > STABILIZATION_SECONDS_MAX {
            window.invalid(errors, format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}"));
        }
    }
    let select = rules.field("selectPolicy");
    if select.is_set() {
        supported(&select, &["Disabled", "Max", "Min"], errors);
    }
    let policies = rules.field("policies");
    if policies.is_empty() {
        policies.required(errors, "must specify at least one Policy");
    }
    for policy in policies.items() {
        supported(&policy.field("type"), &["Percent", "Pods"], errors);
        let (value, period) = (policy.field("value"), policy.field("periodSeconds"));
        for field in [&value, &period] {
            if field.int() <= 0 {
                errors.invalid(field.path(), field.int(), "must be greater than zero");
            }
        }
        if period.int() > PERIOD_SECONDS_MAX {
            period.invalid(errors, format!("must be less than or equal to {PERIOD_SECONDS_MAX}"));
        }
    }
    let tolerance = rules.field("tolerance");
    let amount = quantity(tolerance.value());
    if amount.sign() < 0 {
        errors.invalid(tolerance.path(), amount.to_string(), NEGATIVE);
    }
}
