//! Event, of core and of events.k8s.io. Both are one object; the newer form asks for more. Source:
//! `pkg/apis/core/validation/events.go`. Errors carry core's field names and an empty value, as upstream's do.

use crate::validate::names;
use crate::validate::text::same;
use crate::{Cursor, ErrorList, Path, Strategy};

const FIELD_MAX_BYTES: usize = 128;
const NOTE_MAX_BYTES: usize = 1024;

/// `v1` Event.
pub const CORE: Strategy = Strategy {
    name_rule: names::path_segment_name,
    validate: |event, errors| involved_namespace(event, "involvedObject", errors),
    validate_update: |new, _, errors| involved_namespace(new, "involvedObject", errors),
    ..Strategy::DEFAULT
};

/// `events.k8s.io/v1` Event.
pub const EVENTS: Strategy = Strategy {
    validate: |event, errors| {
        involved_namespace(event, "regarding", errors);
        new_event(event, errors);
    },
    validate_update: |new, old, errors| {
        involved_namespace(new, "regarding", errors);
        new_event_update(new, old, errors);
    },
    ..Strategy::DEFAULT
};

/// Events live in the namespace of what they are about; about cluster-scoped objects, in `default` or any other.
fn involved_namespace(event: &Cursor<'_>, field: &str, errors: &mut ErrorList) {
    let namespace = event.field("metadata").field("namespace").str();
    let involved = event.field(field).field("namespace").str();
    let path = Path::new("involvedObject.namespace");
    if event.field("eventTime").is_set() {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errors.invalid(path, involved, "does not match event.namespace");
        }
        reporting(event, field, errors);
        return;
    }
    let matches = if involved.is_empty() { matches!(namespace, "" | "default") } else { involved == namespace };
    if !matches {
        errors.invalid(path, involved, "does not match event.namespace");
    }
}

fn reporting(event: &Cursor<'_>, field: &str, errors: &mut ErrorList) {
    // The controller has another name in core's form of the object.
    let controller_field = if field == "regarding" { "reportingController" } else { "reportingComponent" };
    let controller = event.field(controller_field);
    let path = controller.path();
    if controller.is_empty() {
        errors.required(path.clone(), "");
    }
    for message in names::qualified_name(controller.str()) {
        errors.invalid(path.clone(), controller.str(), message);
    }
    for name in ["reportingInstance", "action", "reason"] {
        let value = event.field(name);
        if value.is_empty() {
            value.required(errors, "");
        }
        if value.str().len() > FIELD_MAX_BYTES {
            errors.invalid(value.path(), "", format!("can have at most {FIELD_MAX_BYTES} characters"));
        }
    }
    let note = if field == "regarding" { "note" } else { "message" };
    if event.field(note).str().len() > NOTE_MAX_BYTES {
        errors.invalid(Path::new("message"), "", format!("can have at most {NOTE_MAX_BYTES} characters"));
    }
}

fn new_event(event: &Cursor<'_>, errors: &mut ErrorList) {
    series(&event.field("series"), errors);
    if !event.field("eventTime").is_set() {
        event.field("eventTime").required(errors, "");
    }
    let kind = event.field("type");
    if !matches!(kind.str(), "Normal" | "Warning") {
        errors.invalid(kind.path(), "", format!("has invalid value: {}", kind.str()));
    }
    for (field, shown) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let value = event.field(field);
        if value.is_set() && !(value.is_empty() || value.opt_int() == Some(0)) {
            errors.invalid(Path::new(shown), "", "needs to be unset");
        }
    }
}

fn series(series: &Cursor<'_>, errors: &mut ErrorList) {
    if !series.is_set() {
        return;
    }
    if series.field("count").int() < 2 {
        errors.invalid(series.field("count").path(), "", "should be at least 2");
    }
    if !series.field("lastObservedTime").is_set() {
        series.field("lastObservedTime").required(errors, "");
    }
}

/// Fields of an event that do not change, by their name in the request and in errors.
const FIXED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

fn new_event_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    for (field, shown) in FIXED {
        let value = new.field(field);
        if !same(value.value(), old.field(field).value()) {
            errors.invalid(Path::new(*shown), value.value().clone(), "field is immutable");
        }
    }
    series(&new.field("series"), errors);
}
