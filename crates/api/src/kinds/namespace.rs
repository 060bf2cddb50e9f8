//! Namespace: its finalizers decide when it is gone. Source: `pkg/registry/core/namespace`.

use crate::json;

use crate::kinds::carry;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::invalid_each;
use crate::validate::names;
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

const OWN_FINALIZER: &str = "kubernetes";

pub const STRATEGY: Strategy = Strategy {
    name_rule: names::label_name,
    prepare_for_create: |new, _| {
        let finalizers = new.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == OWN_FINALIZER) {
            let mut finalizers = finalizers;
            finalizers.push(OWN_FINALIZER.into());
            carry::set(new, "spec", json!({"finalizers": finalizers}));
        }
        carry::set(new, "status", json!({"phase": "Active"}));
        name_label(new);
    },
    validate: |namespace, errors| {
        let list = namespace.field("spec").field("finalizers");
        for finalizer in list.items() {
            finalizer_name(&Cursor::at(finalizer.value(), list.path()), errors);
        }
    },
    prepare_for_update: |new, old, _| {
        carry::keep_spec(new, old);
        carry::keep_status(new, old);
        name_label(new);
    },
    validate_update: |new, old, errors| {
        meta::validate_whole_again(new, false, names::label_name, errors);
        meta::validate_update_again(new, old, errors);
    },
    subresources: &[STATUS, FINALIZE],
    judges_preconditions: true,
    ..Strategy::DEFAULT
};

const STATUS: SubresourceStrategy = SubresourceStrategy {
    name: "status",
    prepare_for_update: |new, old, _| {
        carry::keep_spec(new, old);
        name_label(new);
    },
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        let phase = new.field("status").field("phase");
        let is_deleted = new.field("metadata").field("deletionTimestamp").is_set();
        let (wanted, detail) = if is_deleted {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        } else {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        };
        if phase.str() != wanted {
            errors.invalid(Path::new("status.Phase"), phase.str(), detail);
        }
    },
};

const FINALIZE: SubresourceStrategy = SubresourceStrategy {
    name: "finalize",
    prepare_for_update: |new, old, _| {
        carry::keep_status(new, old);
        name_label(new);
    },
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        for finalizer in new.field("spec").field("finalizers").items() {
            finalizer_name(&finalizer, errors);
        }
    },
};

fn finalizer_name(finalizer: &Cursor<'_>, errors: &mut ErrorList) {
    invalid_each(errors, &finalizer.path(), finalizer.str(), names::qualified_name(finalizer.str()));
    meta::standard_finalizer(finalizer, errors);
}

/// Every namespace carries its name as a label, so that selectors can name it.
fn name_label(namespace: &mut Value) {
    let name = meta::name(namespace).to_owned();
    let Some(Value::Object(metadata)) = namespace.get_mut("metadata") else { return };
    if name.is_empty() {
        return;
    }
    if let Value::Object(labels) = metadata.entry("labels").or_insert_with(|| json!({})) {
        labels.insert("kubernetes.io/metadata.name", name.into());
    }
}
