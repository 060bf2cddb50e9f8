//! Probes and lifecycle handlers of containers.

use crate::kinds::pod::PodFacts;
use crate::validate::labels::invalid_each;
use crate::validate::names;
use crate::validate::text::{nonnegative_fields, port_number_or_name, supported};
use crate::{Cursor, ErrorList};

/// The three probes of a container.
pub fn probes(pod: &PodFacts<'_>, container: &Cursor<'_>, errors: &mut ErrorList) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.field(field);
        if !probe.is_set() {
            continue;
        }
        one_probe(pod, &probe, errors);
        if field == "readinessProbe" {
            let grace = probe.field("terminationGracePeriodSeconds");
            if grace.is_set() {
                grace.invalid(errors, "must not be set for readinessProbes");
            }
        } else {
            let threshold = probe.field("successThreshold");
            if threshold.int() != 1 {
                errors.invalid(threshold.path(), threshold.int(), "must be 1");
            }
        }
    }
}

fn one_probe(pod: &PodFacts<'_>, probe: &Cursor<'_>, errors: &mut ErrorList) {
    handler(pod, probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    nonnegative_fields(
        probe,
        &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"],
        errors,
    );
    let grace = probe.field("terminationGracePeriodSeconds");
    if grace.opt_int().is_some_and(|n| n <= 0) {
        grace.invalid(errors, "must be greater than 0");
    }
}

/// `lifecycle` of a container.
pub fn lifecycle(pod: &PodFacts<'_>, lifecycle: &Cursor<'_>, errors: &mut ErrorList) {
    for field in ["postStart", "preStop"] {
        let hook = lifecycle.field(field);
        if hook.is_set() {
            handler(pod, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
}

/// Exactly one of the handlers `allowed`.
fn handler(pod: &PodFacts<'_>, object: &Cursor<'_>, allowed: &[&str], errors: &mut ErrorList) {
    let mut found = false;
    for field in allowed {
        let action = object.field(field);
        if !action.is_set() {
            continue;
        }
        if found {
            action.forbidden(errors, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *field {
            "exec" => {
                let command = action.field("command");
                if command.is_empty() {
                    command.required(errors, "");
                }
            }
            "httpGet" => http_get(&action, errors),
            "sleep" => sleep(pod, &action, errors),
            _ => port_number_or_name(&action.field("port"), errors),
        }
    }
    if !found {
        object.required(errors, "must specify a handler type");
    }
}

fn http_get(action: &Cursor<'_>, errors: &mut ErrorList) {
    let path = action.field("path");
    if path.is_empty() {
        path.required(errors, "");
    }
    port_number_or_name(&action.field("port"), errors);
    supported(&action.field("scheme"), &["HTTP", "HTTPS"], errors);
    let headers = action.field("httpHeaders");
    for header in headers.items() {
        let name = header.field("name").str();
        invalid_each(errors, &headers.path(), name, names::http_header_name(name));
    }
}

fn sleep(pod: &PodFacts<'_>, action: &Cursor<'_>, errors: &mut ErrorList) {
    let seconds = action.field("seconds").int();
    let Some(grace) = pod.spec.field("terminationGracePeriodSeconds").opt_int() else { return };
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(action.path(), seconds, detail);
    }
}
