//! PriorityClass, RuntimeClass and Lease: three small kinds of three groups. Source: `pkg/apis/{scheduling,node,coordination}`.

use crate::occurrences::Occurrences;
use crate::validate::labels::labels;
use crate::validate::resources::{container_resource_name, one_toleration, resource_lists};
use crate::validate::text::{formatted, immutable, immutable_text, required_formatted};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Strategy, Value, meta};

const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// Classes that every cluster has, and their values.
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub const PRIORITY_CLASS: Strategy = Strategy {
    validate: priority_class,
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let value = new.field("value");
        if value.int() != old.field("value").int() {
            value.forbidden(errors, "may not be changed in an update.");
        }
        immutable(&new.field("preemptionPolicy"), &old.field("preemptionPolicy"), errors);
    },
    refuses_delete: |name| {
        let is_system = SYSTEM_CLASSES.iter().any(|(known, _)| *known == name);
        is_system.then_some("this is a system priority class and cannot be deleted")
    },
    ..Strategy::DEFAULT
};

fn priority_class(class: &Cursor<'_>, errors: &mut ErrorList) {
    let (name, value) = (class.field("metadata").field("name"), class.field("value"));
    if name.str().starts_with("system-") {
        if let Some(problem) = system_class_problem(class, name.str()) {
            name.forbidden(
                errors,
                format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                ),
            );
        }
    } else if value.int() > USER_PRIORITY_MAX {
        value.forbidden(errors, format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"));
    }
    let policy = class.field("preemptionPolicy");
    if policy.is_set() {
        crate::validate::text::required_enum(&policy, &["PreemptLowerPriority", "Never"], errors);
    }
}

fn system_class_problem(class: &Cursor<'_>, name: &str) -> Option<String> {
    let Some((_, value)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if class.field("value").int() != *value {
        return Some(format!("value of {name} PriorityClass must be {value}"));
    }
    if class.field("globalDefault").bool() {
        return Some(format!("globalDefault of {name} PriorityClass must be false"));
    }
    None
}

pub const RUNTIME_CLASS: Strategy = Strategy {
    validate: runtime_class,
    validate_update: |new, old, errors| {
        meta::object_meta(&new.field("metadata"), false, names::subdomain_name, errors);
        runtime_class(new, errors);
        meta::object_meta_update(new, old, errors);
        immutable_text(&new.field("handler"), &old.field("handler"), errors);
    },
    warnings: |new, _, out| {
        let selector = new.field("scheduling").field("nodeSelector");
        for (key, _) in selector.entries() {
            if let Some(text) = super::pod::warnings::deprecated_node_label(key) {
                out.push(format!("{}: {text}", selector.path()));
            }
        }
    },
    ..Strategy::DEFAULT
};

fn runtime_class(class: &Cursor<'_>, errors: &mut ErrorList) {
    required_handler(&class.field("handler"), errors);
    let overhead = class.field("overhead");
    if overhead.is_set() {
        let whole = overhead.path();
        let limits = Cursor::at(overhead.field("podFixed").value(), whole.child("limits"));
        let none = Cursor::at(&Value::Null, whole.child("requests"));
        resource_lists(&limits, &none, &whole, container_resource_name, errors);
    }
    let scheduling = class.field("scheduling");
    labels(&scheduling.field("nodeSelector"), errors);
    let list = scheduling.field("tolerations");
    let mut seen: Occurrences<String> = Occurrences::new();
    for toleration in list.items() {
        one_toleration(&toleration, errors);
        let whole = toleration.value().to_string();
        if seen.contains(&whole) {
            errors.duplicate(toleration.path(), go::value("Toleration", toleration.value()));
        }
        seen.push(whole);
    }
}

fn required_handler(handler: &Cursor<'_>, errors: &mut ErrorList) {
    required_formatted(handler, names::dns1123_label, errors);
}

pub const LEASE: Strategy = Strategy {
    // Coordinated leader election is off: its fields are not kept.
    prepare_for_create: |lease, _| drop_coordination(lease),
    prepare_for_update: |new, old, _| {
        let is_used = |field: &str| !old["spec"][field].is_null();
        if !is_used("strategy") && !is_used("preferredHolder") {
            drop_coordination(new);
        }
    },
    validate: |lease, errors| lease_spec(&lease.field("spec"), errors),
    validate_update: |new, old, errors| {
        meta::object_meta_update(new, old, errors);
        lease_spec(&new.field("spec"), errors);
    },
    ..Strategy::DEFAULT
};

fn drop_coordination(lease: &mut Value) {
    if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

fn lease_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (duration, transitions) = (spec.field("leaseDurationSeconds"), spec.field("leaseTransitions"));
    if duration.opt_int().is_some_and(|n| n <= 0) {
        duration.invalid(errors, "must be greater than 0");
    }
    if transitions.opt_int().is_some_and(|n| n < 0) {
        transitions.invalid(errors, "must be greater than or equal to 0");
    }
    let (strategy, preferred) = (spec.field("strategy"), spec.field("preferredHolder"));
    if strategy.is_set() && strategy.str() != "OldestEmulationVersion" {
        formatted(&strategy, names::qualified_name, errors);
    }
    if preferred.is_set() && !preferred.is_empty() && strategy.is_empty() {
        preferred.forbidden(errors, "may only be specified if `strategy` is defined");
    }
}
