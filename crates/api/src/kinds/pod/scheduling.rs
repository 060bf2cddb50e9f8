//! What a pod asks of the scheduler: affinity, spreading, gates.

use std::collections::HashSet;

use crate::occurrences::Occurrences;
use crate::validate::labels::{label_key, node_selector, node_selector_term, selector};
use crate::validate::names;
use crate::validate::text::{NOT_POSITIVE, formatted, optional_enum, supported};
use crate::{Cursor, ErrorList};

/// `spec.affinity`.
pub fn affinity(affinity: &Cursor<'_>, errors: &mut ErrorList) {
    let node = affinity.field("nodeAffinity");
    let required = node.field("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, errors);
    }
    for term in node.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&term, errors);
        // Preferences may be nonsense: on a cluster where nothing matches they simply have no effect.
        node_selector_term(&term.field("preference"), false, errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.field(field);
        for term in pods.field("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_affinity_term(&term, errors);
        }
        for term in pods.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&term, errors);
            pod_affinity_term(&term.field("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Cursor<'_>, errors: &mut ErrorList) {
    let weight = term.field("weight");
    if !(1..=100).contains(&weight.int()) {
        errors.invalid(weight.path(), weight.int(), "must be in the range 1-100");
    }
}

fn pod_affinity_term(term: &Cursor<'_>, errors: &mut ErrorList) {
    let labels = term.field("labelSelector");
    selector(&labels, errors);
    selector(&term.field("namespaceSelector"), errors);
    for namespace in term.field("namespaces").items() {
        for message in names::dns1123_label(namespace.str()) {
            errors.invalid(term.path().child("namespace"), namespace.str(), message);
        }
    }
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        label_keys(&term.field(field), &labels, errors);
    }
    keys_not_in_selector(term, &labels, errors);
    let mismatched = term.field("mismatchLabelKeys");
    for key in term.field("matchLabelKeys").items() {
        if mismatched.items().any(|m| m.str() == key.str()) {
            key.invalid(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
    let topology = term.field("topologyKey");
    if topology.is_empty() {
        topology.required(errors, "can not be empty");
    }
    label_key(&topology, errors);
}

fn label_keys(keys: &Cursor<'_>, selector: &Cursor<'_>, errors: &mut ErrorList) {
    if keys.is_empty() {
        return;
    }
    if !selector.is_set() {
        keys.forbidden(errors, "must not be specified when labelSelector is not set");
        return;
    }
    for key in keys.items() {
        label_key(&key, errors);
    }
}

/// A key of matchLabelKeys is in the selector once, put there on creation; twice means that the user wrote it as well.
fn keys_not_in_selector(term: &Cursor<'_>, selector: &Cursor<'_>, errors: &mut ErrorList) {
    let keys = Occurrences::of(term.field("matchLabelKeys").items().map(|k| k.str()));
    let mut seen: HashSet<&str> = selector.field("matchLabels").entries().map(|(k, _)| k).collect();
    for expression in selector.field("matchExpressions").items() {
        let key = expression.field("key").str();
        if let Some(index) = keys.first(&key)
            && seen.contains(&key)
        {
            errors.invalid(term.path().index(index), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
}

/// `spec.topologySpreadConstraints`.
pub fn topology_spread(list: &Cursor<'_>, errors: &mut ErrorList) {
    let constraints: Vec<Cursor<'_>> = list.items().collect();
    for (index, constraint) in constraints.iter().enumerate() {
        let skew = constraint.field("maxSkew");
        if skew.int() <= 0 {
            errors.invalid(skew.path(), skew.int(), NOT_POSITIVE);
        }
        let key = constraint.field("topologyKey");
        if key.is_empty() {
            key.required(errors, "can not be empty");
        }
        let action = constraint.field("whenUnsatisfiable");
        supported(&action, &["DoNotSchedule", "ScheduleAnyway"], errors);
        let is_repeated = constraints[index + 1..]
            .iter()
            .any(|c| c.field("topologyKey").str() == key.str() && c.field("whenUnsatisfiable").str() == action.str());
        if is_repeated {
            let path = constraint.path().child("{topologyKey, whenUnsatisfiable}");
            errors.duplicate(path, format!("{{{}, {}}}", key.str(), action.str()));
        }
        let min_domains = constraint.field("minDomains");
        if let Some(n) = min_domains.opt_int() {
            if n <= 0 {
                min_domains.invalid(errors, NOT_POSITIVE);
            }
            if action.str() != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.str());
                min_domains.invalid(errors, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            optional_enum(&constraint.field(field), &["Honor", "Ignore"], errors);
        }
        spread_label_keys(constraint, errors);
        selector(&constraint.field("labelSelector"), errors);
    }
}

fn spread_label_keys(constraint: &Cursor<'_>, errors: &mut ErrorList) {
    let labels = constraint.field("labelSelector");
    label_keys(&constraint.field("matchLabelKeys"), &labels, errors);
    keys_not_in_selector(constraint, &labels, errors);
}

/// `spec.schedulingGates`.
pub fn scheduling_gates(list: &Cursor<'_>, errors: &mut ErrorList) {
    let mut seen: Occurrences<&str> = Occurrences::new();
    for gate in list.items() {
        let name = gate.field("name");
        formatted(&Cursor::at(name.value(), gate.path()), names::qualified_name, errors);
        if seen.contains(&name.str()) {
            errors.duplicate(gate.path(), name.str());
        }
        seen.push(name.str());
    }
}

/// `spec.readinessGates`.
pub fn readiness_gates(list: &Cursor<'_>, errors: &mut ErrorList) {
    for gate in list.items() {
        formatted(&gate.field("conditionType"), names::qualified_name, errors);
    }
}
