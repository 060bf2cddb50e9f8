//! ReplicationController and PodTemplate. Source: `pkg/registry/core/{replicationcontroller,podtemplate}`.

use crate::json;

use crate::kinds::{carry, pod};
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::selector_matches;
use crate::validate::names;
use crate::validate::text::{nonnegative, nonnegative_fields, supported};
use crate::{Cursor, ErrorList, Strategy, meta};

pub const CONTROLLER: Strategy = Strategy {
    name_rule: names::long_name,
    prepare_for_create: |new, _| carry::set(new, "status", json!({"replicas": 0})),
    validate: |rc, errors| controller_spec(&rc.field("spec"), errors),
    prepare_for_update: |new, old, _| carry::keep_status(new, old),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        controller_spec(&new.field("spec"), errors);
    },
    warnings: |new, old, out| {
        if old.is_none() {
            pod::warnings::owner_name(new, out);
        }
        if pod::warnings::is_worth_a_look(new, old) {
            pod::warnings::template(&new.field("spec").field("template"), out);
        }
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| carry::keep_spec(new, old),
        validate_update: |new, old, errors| {
            meta::validate_update_again(new, old, errors);
            replica_status(&new.field("status"), errors);
        },
    }],
    ..Strategy::DEFAULT
};

pub const POD_TEMPLATE: Strategy = Strategy {
    validate: |object, errors| pod::template(&object.field("template"), errors),
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        pod::template(&new.field("template"), errors);
    },
    warnings: |new, old, out| {
        if pod::warnings::is_worth_a_look(new, old) {
            pod::warnings::template(&new.field("template"), out);
        }
    },
    ..Strategy::DEFAULT
};

/// Replica counts of a status, shared with ReplicaSet.
pub fn replica_status(status: &Cursor<'_>, errors: &mut ErrorList) {
    const TOO_MANY: &str = "cannot be greater than status.replicas";
    let count = |field: &str| status.field(field).int();
    nonnegative_fields(
        status,
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ],
        errors,
    );
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.invalid(status.path().child(field), count(field), TOO_MANY);
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let path = status.path().child("availableReplicas");
        errors.invalid(path, count("availableReplicas"), "cannot be greater than readyReplicas");
    }
}

fn controller_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    let (selector, template) = (spec.field("selector"), spec.field("template"));
    nonnegative(&spec.field("minReadySeconds"), errors);
    if selector.is_empty() {
        selector.required(errors, "");
    }
    nonnegative(&spec.field("replicas"), errors);
    if !template.is_set() {
        template.required(errors, "");
        return;
    }
    // Of these labels nobody asks whether they could be labels.
    let labels = template.field("metadata").field("labels");
    if selector.entries().any(|(key, wanted)| labels.field(key).value() != wanted.value()) {
        labels.invalid(errors, MISMATCH);
    }
    pod::template(&template, errors);
    always_restarts(&template, "ReplicationController", errors);
}

const MISMATCH: &str = "`selector` does not match template `labels`";

/// The template's labels must be selected by the owner's selector.
pub fn labels_match(selector: &Cursor<'_>, template: &Cursor<'_>, errors: &mut ErrorList) {
    let labels = template.field("metadata").field("labels");
    if selector_matches(selector, &labels) == Some(false) {
        labels.invalid(errors, MISMATCH);
    }
}

/// Pods of a controller that keeps a number of them running restart always and have no deadline.
pub fn always_restarts(template: &Cursor<'_>, owner: &str, errors: &mut ErrorList) {
    let spec = template.field("spec");
    supported(&spec.field("restartPolicy"), &["Always"], errors);
    let deadline = spec.field("activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.forbidden(errors, format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}
