//! What may change in a job.

use crate::kinds::batch::{generated_selector, indexed_host_names, job_spec};
use crate::kinds::carry;
use crate::validate::text::{IMMUTABLE, immutable, same};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Value, meta};

/// Fields of the pod spec that may change while a job is suspended and has never run.
const SCHEDULING_FIELDS: &[&str] = &["nodeSelector", "tolerations", "schedulingGates"];

/// Everything that holds for a job, then what may change; the spec is checked in both, and reported twice.
pub(super) fn job(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_whole_again(new, true, names::subdomain_name, errors);
    generated_selector(new, errors);
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    job_spec(&spec, errors);
    indexed_host_names(new, errors);
    meta::validate_update_again(new, old, errors);
    job_spec(&spec, errors);
    completions(&spec, &old_spec, errors);
    immutable(&spec.field("selector"), &old_spec.field("selector"), errors);
    template(new, old, errors);
    immutable(&spec.field("completionMode"), &old_spec.field("completionMode"), errors);
    policy_is_fixed(&spec, &old_spec, "podFailurePolicy", "batch.PodFailurePolicy", errors);
    for field in ["backoffLimitPerIndex", "managedBy"] {
        immutable(&spec.field(field), &old_spec.field(field), errors);
    }
    policy_is_fixed(&spec, &old_spec, "successPolicy", "batch.SuccessPolicy", errors);
}

fn policy_is_fixed(new: &Cursor<'_>, old: &Cursor<'_>, field: &str, type_name: &str, errors: &mut ErrorList) {
    let (policy, before) = (new.field(field), old.field(field));
    if policy.is_set() != before.is_set() || !same(policy.value(), before.value()) {
        errors.invalid(policy.path(), go::pointer(type_name, policy.value()), IMMUTABLE);
    }
}

fn completions(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let (count, before) = (new.field("completions"), old.field("completions"));
    if new.field("completionMode").str() != "Indexed" {
        immutable(&count, &before, errors);
        return;
    }
    // That an Indexed job lacks the number is told already.
    if count.value() == before.value() || !count.is_set() {
        return;
    }
    if count.int() != new.field("parallelism").int() {
        count.invalid(errors, "can only be modified in tandem with spec.parallelism");
    }
}

/// The template is fixed, except that a suspended job which has no pods may still be steered.
fn template(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let (template, old_template) = (new.field("spec").field("template"), old.field("spec").field("template"));
    if !is_idle(old) {
        if !same(template.value(), old_template.value()) {
            errors.invalid(template.path(), go::value("PodTemplateSpec", template.value()), IMMUTABLE);
        }
        return;
    }
    // Nobody looks at the metadata then.
    let spec = template.field("spec");
    let mut expected = old_template.field("spec").value().clone();
    free_scheduling_fields(&mut expected, spec.value());
    if !same(&expected, spec.value()) {
        errors.invalid(spec.path(), go::value("PodSpec", spec.value()), IMMUTABLE);
    }
}

fn free_scheduling_fields(spec: &mut Value, new: &Value) {
    for field in SCHEDULING_FIELDS {
        carry::keep(spec, new, field);
    }
    let affinity = new.pointer("/affinity/nodeAffinity").cloned();
    match (spec.get_mut("affinity"), affinity) {
        (Some(own), _) => carry::keep(own, new.get("affinity").unwrap_or(&Value::Null), "nodeAffinity"),
        (None, Some(affinity)) => carry::set(spec, "affinity", crate::json!({"nodeAffinity": affinity})),
        (None, None) => {}
    }
    for list in ["containers", "initContainers"] {
        let sent = new.get(list).and_then(Value::as_array);
        let own = spec.get_mut(list).and_then(Value::as_array_mut);
        let (Some(sent), Some(own)) = (sent, own) else { continue };
        let is_same_number = sent.len() == own.len();
        let pairs = own.iter_mut().zip(sent).filter(|_| is_same_number);
        for (container, sent) in pairs.filter(|(container, sent)| container.get("name") == sent.get("name")) {
            carry::keep(container, sent, "resources");
        }
    }
}

/// Suspended, and without pods: never started, or known to be suspended.
fn is_idle(job: &Cursor<'_>) -> bool {
    let status = job.field("status");
    let is_suspended = status
        .field("conditions")
        .items()
        .any(|c| c.field("type").str() == "Suspended" && c.field("status").str() == "True");
    job.field("spec").field("suspend").bool()
        && (!status.field("startTime").is_set() || is_suspended)
        && status.field("active").int() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn the_number_of_indexes_changes_with_the_number_of_pods() {
        let refused = |completions: Value, parallelism: i64| {
            let spec = |completions: Value, parallelism: i64| json!({"completionMode": "Indexed", "completions": completions, "parallelism": parallelism});
            let (new, old) = (spec(completions, parallelism), spec(json!(4), 4));
            let mut errors = ErrorList::new();
            super::completions(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(refused(json!(5), 5), [""; 0]);
        assert_eq!(refused(Value::Null, 2), [""; 0], "told elsewhere");
        let told = "completions: Invalid value: 5: can only be modified in tandem with spec.parallelism";
        assert_eq!(refused(json!(5), 4), [told]);
    }
}
