//! A create as the server makes it, without the server: what admission and allocation add is left out.
#![allow(dead_code, reason = "each test binary uses its part")]

use api::codec::{self, FieldValidation, Format};
use api::kinds::builtin;
use api::strategy::{Context, SubresourceStrategy};
use api::{Cursor, ErrorList, Kind, Status, Value, defaults, meta, rules};

pub(crate) const NOW: &str = "2026-01-01T00:00:00Z";
pub(crate) const UID: &str = "00000000-0000-0000-0000-0000000000aa";
pub(crate) const CTX: Context<'static> = Context {
    now: NOW,
    user: "admin",
    groups: &[],
    user_uid: "",
    sent: b"",
    extra: &std::collections::BTreeMap::new(),
    uid: UID,
};

/// The kind that a POST to a collection creates.
pub(crate) fn kind_of(path: &str) -> Option<&'static Kind> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts[..] {
        ["api", version, ref rest @ ..] => ("", version, rest),
        ["apis", group, version, ref rest @ ..] => (group, version, rest),
        _ => return None,
    };
    let resource = match rest {
        ["namespaces", _, resource] | [resource] => resource,
        _ => return None,
    };
    builtin().by_resource(group, version, resource).map(|kind| &**kind)
}

/// The object as it would be stored, or the message of the refusal.
pub(crate) fn create(kind: &Kind, body: &str, namespace: &str) -> Result<Value, String> {
    let (object, errors) = checked(kind, body, namespace)?;
    answer(kind, object, &errors)
}

/// The prepared object with what validation says of it, or why it could not be read.
pub(crate) fn checked(kind: &Kind, body: &str, namespace: &str) -> Result<(Value, ErrorList), String> {
    let decoded =
        codec::decode(body.as_bytes(), Format::Json, kind, FieldValidation::Ignore).map_err(|e| e.to_string())?;
    let mut object = decoded.value;
    defaults::apply_at(kind, &mut object, NOW);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid", UID.into());
        if kind.namespaced {
            metadata.insert("namespace", namespace.into());
        }
    }
    if kind.kind == "Pod"
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        // Admission gives every pod an account before it is validated.
        spec.entry("serviceAccountName").or_insert_with(|| "default".into());
    }
    rules::reset_for_create(kind, &mut object);
    (kind.strategy.prepare_for_create)(&mut object, &CTX);
    let mut errors = ErrorList::new();
    let cursor = Cursor::root(&object);
    meta::validate_new(kind, &cursor, &mut errors);
    Ok((object, errors))
}

/// The update of an object with what validation says of it, or why it could not be read.
pub(crate) fn updated(kind: &Kind, body: &str, old: &Value) -> Result<(Value, ErrorList), String> {
    let decoded =
        codec::decode(body.as_bytes(), Format::Json, kind, FieldValidation::Ignore).map_err(|e| e.to_string())?;
    let mut object = decoded.value;
    let before = |field: &str| old.get("metadata").and_then(|m| m.get(field)).cloned().unwrap_or(Value::Null);
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(api::Map::new());
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["generation", "creationTimestamp", "resourceVersion"] {
            metadata.insert(field, before(field));
        }
        for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            if metadata.get(field).is_none_or(Value::is_null) {
                metadata.insert(field, before(field));
            }
        }
        if kind.namespaced {
            metadata.insert("namespace", before("namespace"));
        }
    }
    Ok(replaced(kind, object, old))
}

/// A decoded object in the place of `old`, with what validation says of it.
pub(crate) fn replaced(kind: &Kind, mut object: Value, old: &Value) -> (Value, ErrorList) {
    defaults::apply_at(kind, &mut object, NOW);
    rules::reset_for_update(kind, &mut object, old);
    (kind.strategy.prepare_for_update)(&mut object, old, &CTX);
    let mut errors = ErrorList::new();
    let (new, before) = (Cursor::root(&object), Cursor::root(old));
    meta::validate_update(kind, &new, &before, &mut errors);
    (kind.strategy.validate_update)(&new, &before, &mut errors);
    (object, errors)
}

/// The update of a subresource with what validation says of it.
pub(crate) fn part_checked(
    kind: &Kind,
    rule: &SubresourceStrategy,
    mut object: Value,
    old: &Value,
) -> (Value, ErrorList) {
    defaults::apply_at(kind, &mut object, NOW);
    if rule.name == "status" {
        rules::reset_for_status_update(kind, &mut object, old);
    }
    (rule.prepare_for_update)(&mut object, old, &CTX);
    let mut errors = ErrorList::new();
    let (new, before) = (Cursor::root(&object), Cursor::root(old));
    meta::validate_update(kind, &new, &before, &mut errors);
    (rule.validate_update)(&new, &before, &mut errors);
    (object, errors)
}

pub(crate) fn answer(kind: &Kind, object: Value, errors: &ErrorList) -> Result<Value, String> {
    if errors.is_empty() {
        return Ok(object);
    }
    // Both forms of events are refused as core's.
    let group = if kind.kind == "Event" { "" } else { &*kind.group };
    Err(Status::invalid(group, &kind.kind, meta::name(&object), errors).message)
}
