//! Event, of core and of events.k8s.io. Both are one object; the newer form asks for more. Source:
//! `pkg/apis/core/validation/events.go`. Errors carry core's field names and an empty value, as upstream's do.

use crate::validate::text::{IMMUTABLE, same};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

const FIELD_MAX_BYTES: usize = 128;
const NOTE_MAX_BYTES: usize = 1024;

/// `v1` Event.
pub const CORE: Strategy = Strategy {
    name_rule: names::path_segment_name,
    validate: |event, errors| involved_namespace(event, "involvedObject", errors),
    judges_metadata_last: true,
    validate_update: |new, _, errors| involved_namespace(new, "involvedObject", errors),
    ..Strategy::DEFAULT
};

/// `events.k8s.io/v1` Event.
pub const EVENTS: Strategy = Strategy {
    judges_metadata_last: true,
    validate: |event, errors| {
        involved_namespace(event, "regarding", errors);
        meta::validate_whole_again(event, true, names::subdomain_name, errors);
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

/// Fields of an event that do not change: by their name in the request, by that in errors, and their type as upstream prints it (see
/// [`go`]). The reason is looked at twice.
const FIXED: &[(&str, &str, &str)] = &[
    ("regarding", "involvedObject", "ObjectReference"),
    ("reason", "reason", TEXT),
    ("note", "message", TEXT),
    ("deprecatedSource", "source", "EventSource"),
    ("deprecatedFirstTimestamp", "firstTimestamp", TIME),
    ("deprecatedLastTimestamp", "lastTimestamp", TIME),
    ("deprecatedCount", "count", NUMBER),
    ("reason", "reason", TEXT),
    ("type", "type", TEXT),
    ("eventTime", "eventTime", TIME),
    ("action", "action", TEXT),
    ("related", "related", "*ObjectReference"),
    ("reportingController", "reportingController", TEXT),
    ("reportingInstance", "reportingInstance", TEXT),
];

const TEXT: &str = "string";
const NUMBER: &str = "int32";
const TIME: &str = "time";

fn new_event_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    if !same(new.field("series").value(), old.field("series").value()) {
        series(&new.field("series"), errors);
    }
    for (field, shown, type_name) in FIXED {
        let as_go = |event: &Cursor<'_>| shown_as(type_name, event.field(field).value());
        if as_go(new) != as_go(old) {
            errors.invalid(Path::new(*shown), as_go(new), IMMUTABLE);
        }
    }
}

fn shown_as(type_name: &str, value: &Value) -> Value {
    match (type_name, value) {
        (TEXT, Value::Null) => "".into(),
        (NUMBER, Value::Null) => 0.into(),
        (TEXT | NUMBER | TIME, value) => value.clone(),
        (name, value) => match name.strip_prefix('*') {
            Some(name) => go::pointer(name, value),
            None => go::value(name, value),
        },
    }
}
