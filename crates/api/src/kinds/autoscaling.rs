//! HorizontalPodAutoscaler. Source: `pkg/apis/autoscaling/validation`. Rules are written for `v2`; objects in `v1` have no
//! metrics but a utilization, which obeys the same limits.

use crate::strategy::SubresourceStrategy;
use crate::validate::labels::selector;
use crate::validate::names;
use crate::validate::resources::quantity;
use crate::validate::text::{NOT_POSITIVE, formatted, nonnegative_fields, supported};
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
    if max.int() < 1 {
        max.required(errors, "must be set and greater than 0");
    }
    if min.opt_int().is_some_and(|n| max.int() < n) {
        errors.invalid(max.path(), max.int(), "must be greater than or equal to `minReplicas`");
    }
    scale_target(&spec.field("scaleTargetRef"), errors);
    let utilization = spec.field("targetCPUUtilizationPercentage");
    if utilization.opt_int().is_some_and(|n| n < 1) {
        utilization.invalid(errors, NOT_POSITIVE);
    }
    for metric in spec.field("metrics").items() {
        metric_spec(&metric, errors);
    }
    behavior(&spec.field("behavior"), errors);
}

fn scale_target(target: &Cursor<'_>, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        let value = target.field(field);
        if value.is_empty() {
            value.required(errors, "");
        } else {
            formatted(&value, names::path_segment, errors);
        }
    }
    let version = target.field("apiVersion");
    let parts: Vec<&str> = version.str().split('/').collect();
    if parts.len() > 2 {
        let detail = format!("unexpected GroupVersion string: {}", version.str());
        version.invalid(errors, detail);
    } else if version.is_empty() || (parts.len() == 1 && target.field("kind").str() != "ReplicationController") {
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
    let mut expected = "";
    for (name, field) in sources {
        let source = metric.field(field);
        if name == kind.str() {
            expected = field;
        }
        if source.is_set() {
            metric_source(field, &source, errors);
        }
    }
    if expected.is_empty() && !kind.is_empty() {
        // Said once more where the sources are looked at, as upstream does.
        supported(&kind, METRIC_TYPES, errors);
    }
    let n_set = sources.iter().filter(|(_, f)| metric.field(f).is_set()).count();
    if !expected.is_empty() && !metric.field(expected).is_set() {
        metric.field(expected).required(errors, "must populate information for the given metric source");
    }
    if n_set > usize::from(!expected.is_empty() && metric.field(expected).is_set()) {
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
            if !average.is_set() || quantity(average.value()).sign() != 1 {
                average.required(errors, "must specify a positive target averageValue");
            }
        }
        _ => {
            if source.field("name").is_empty() {
                source.field("name").required(errors, "must specify a resource name");
            }
            if field == "containerResource" && source.field("container").is_empty() {
                source.field("container").required(errors, "must specify a container");
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
    for field in ["kind", "name"] {
        let value = target.field(field);
        if value.is_empty() {
            value.required(errors, "");
        } else {
            formatted(&value, names::path_segment, errors);
        }
    }
}

fn metric_identifier(metric: &Cursor<'_>, errors: &mut ErrorList) {
    let name = metric.field("name");
    if name.is_empty() {
        name.required(errors, "must specify a metric name");
    } else {
        formatted(&name, names::path_segment, errors);
    }
    selector(&metric.field("selector"), errors);
}

fn metric_target(target: &Cursor<'_>, errors: &mut ErrorList) {
    let kind = target.field("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric target type");
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        errors.invalid(kind.path(), kind.str(), "must be either Utilization, Value, or AverageValue");
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
        utilization.invalid(errors, NOT_POSITIVE);
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
        errors.invalid(tolerance.path(), amount.to_string(), "must be greater or equal to zero");
    }
}
