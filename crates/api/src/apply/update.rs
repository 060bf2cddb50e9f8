//! Ownership after a plain write: whoever changes a field owns it, and the former owners do not.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::Writer;
use super::compare::{Comparison, compare};
use super::conflict::Conflicts;
use super::fieldset::check;
use super::managed::{Fields, Managed, ManagerId, Operation, Owned};
use super::node::Node;
use super::set::Set;
use crate::kind::Kind;
use crate::{Map, Value, kinds};

/// Entries of plain writes that are kept apart; older ones are merged.
const UPDATE_MANAGERS_MAX: usize = 10;
/// Who owns the fields of merged entries.
const OLD_UPDATES_MANAGER: &str = "ancient-changes";

/// `metadata.managedFields` of `new`, which a plain write puts in the place of `live` (in a create: the zero object).
///
/// `new` carries what the client sent there. Null when nobody owns anything or nothing is tracked, or when the two cannot be compared.
pub fn track_update(kind: &Kind, writer: &Writer<'_>, live: &Value, new: &Value) -> Value {
    let managed = requested(writer, live, new);
    let is_create = crate::meta::uid(live).is_empty();
    // An object whose ownership is unknown stays so until somebody applies.
    if managed.is_empty() && !is_create {
        return Value::Null;
    }
    let mut managed = record(kind, writer, live, new, managed);
    cap(&mut managed);
    managed.encode()
}

/// The ownership that the write starts from: the client may replace it, or reset it with one empty entry.
fn requested(writer: &Writer<'_>, live: &Value, new: &Value) -> Managed {
    let stored = || Managed::decode(managed_fields(live)).unwrap_or_default();
    let sent = managed_fields(new);
    if !writer.subresource.is_empty() || sent == managed_fields(live) {
        return stored();
    }
    let list = sent.and_then(Value::as_array);
    let is_reset = list.is_some_and(|list| match list.as_slice() {
        [] => true,
        [only] => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    });
    if is_reset {
        return Managed::default();
    }
    match Managed::decode_checked(sent) {
        Ok(managed) if !managed.is_empty() => managed,
        _ => stored(),
    }
}

fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata").and_then(|m| m.get("managedFields")).filter(|v| !v.is_null())
}

/// Gives the changed fields to the writer.
pub(super) fn record(kind: &Kind, writer: &Writer<'_>, live: &Value, new: &Value, mut managed: Managed) -> Managed {
    let ignored = ignored_fields(kind, writer.subresource);
    let comparison = compare(Node::root(&kind.schema, kind.type_id), live, new).excluding(&ignored);
    if comparison.incomparable {
        return Managed::default();
    }
    if comparison.is_empty() {
        managed.entries.retain(|_, owned| is_served(kind, &owned.api_version));
        return managed;
    }
    let mut own = if managed.is_empty() {
        comparison.into_changed()
    } else {
        let changed = comparison.changed();
        // Ownership always moves here, so there is nothing to refuse.
        drop(reconcile(kind, &mut managed, comparison, (live, new), None, true));
        changed
    };
    own.subtract(stripped_fields());
    if own.is_empty() {
        return managed;
    }
    let id = ManagerId {
        manager: writer.manager.to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: writer.subresource.to_owned(),
    };
    let fields = match managed.entries.remove(&id) {
        Some(before) => before.fields.set().union(&own),
        None => own,
    };
    let owned = Owned { api_version: kind.api_version(), time: writer.now.to_owned(), fields: Fields::Parsed(fields) };
    managed.entries.insert(id, owned);
    managed
}

/// Why ownership could not be settled.
#[derive(Debug)]
pub(super) enum Unreconciled {
    Conflict(Conflicts),
    /// The object does not fit the version that a manager wrote in.
    Failed(String),
}

/// Takes changed and removed fields from everybody but `skip`. Without `force`, a changed field that somebody owns is a conflict.
pub(super) fn reconcile(
    kind: &Kind,
    managed: &mut Managed,
    comparison: Comparison,
    (live, new): (&Value, &Value),
    skip: Option<&ManagerId>,
    force: bool,
) -> Result<(), Unreconciled> {
    let own_version = kind.api_version();
    let mut versions: HashMap<String, Option<Changes>> = HashMap::new();
    versions.insert(own_version, Some(Changes::from(comparison)));
    let mut conflicts = Conflicts::default();
    let mut missing = Vec::new();
    for (id, owned) in managed.entries.iter_mut() {
        if Some(id) == skip {
            continue;
        }
        if !versions.contains_key(&owned.api_version) {
            let changes = changes_in_version(kind, &owned.api_version, live, new).map_err(Unreconciled::Failed)?;
            versions.insert(owned.api_version.clone(), changes);
        }
        let Some(Some(changes)) = versions.get(&owned.api_version) else {
            missing.push(id.clone());
            continue;
        };
        if !force {
            let taken = match &owned.fields {
                Fields::Stored(value) if !changes.changed.touches(value) => Set::new(),
                fields => fields.set().intersection(&changes.changed),
            };
            if !taken.is_empty() {
                conflicts.0.push((id.clone(), taken));
            }
        }
        owned.fields.subtract(&changes.changed);
        owned.fields.subtract(&changes.removed);
    }
    if !conflicts.is_empty() {
        return Err(Unreconciled::Conflict(conflicts));
    }
    managed.entries.retain(|id, owned| !missing.contains(id) && !owned.fields.is_empty());
    Ok(())
}

struct Changes {
    changed: Set,
    removed: Set,
}

impl From<Comparison> for Changes {
    fn from(comparison: Comparison) -> Self {
        Self { changed: comparison.changed(), removed: comparison.removed }
    }
}

/// Is there a version of the kind by this name?
fn is_served(kind: &Kind, api_version: &str) -> bool {
    api_version == kind.api_version() || in_version(kind, api_version).is_some()
}

/// The kind in the version by this name; `None` when that is not served any more.
fn in_version(kind: &Kind, api_version: &str) -> Option<Arc<Kind>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match kind.custom() {
        Some(custom) if group == kind.group => custom.definition().version_kind(version).map(Arc::new),
        Some(_) => None,
        None => {
            let other = kinds::builtin().by_kind(group, version, &kind.kind);
            other.filter(|other| other.storage_prefix == kind.storage_prefix).cloned()
        }
    }
}

/// The changes as a manager sees them who wrote in another version; `None` when that version is not served any more.
fn changes_in_version(kind: &Kind, api_version: &str, live: &Value, new: &Value) -> Result<Option<Changes>, String> {
    let Some(other) = in_version(kind, api_version) else { return Ok(None) };
    if kind.custom().is_some() {
        // Versions differ in what they know of an object; a webhook's conversion is not asked here.
        let node = Node::root(&other.schema, other.type_id);
        check(node, live).map_err(|error| format!("failed to convert old object: {error}"))?;
        check(node, new).map_err(|error| format!("failed to convert new object: {error}"))?;
        return Ok(Some(compare(node, live, new).into()));
    }
    let converted = |object: &Value| {
        let stored = match kind.conversion {
            Some(conversion) => (conversion.to_storage)(object.clone()),
            None => object.clone(),
        };
        match other.conversion {
            Some(conversion) => (conversion.from_storage)(stored),
            None => stored,
        }
    };
    Ok(Some(compare(Node::root(&other.schema, other.type_id), &converted(live), &converted(new)).into()))
}

/// Fields that writes to this part of the object do not set, whatever they say.
pub(super) fn ignored_fields(kind: &Kind, subresource: &str) -> Set {
    let paths = match subresource {
        "" => &kind.rules.apply_resets,
        "status" => &kind.rules.status_apply_resets,
        // The two other parts that are sent as the whole object and say what they reset.
        "finalize" => return Set::of_fields(["status"]),
        "approval" => return Set::of_fields(["spec", "status.certificate"]),
        _ => return Set::new(),
    };
    Set::of_fields(paths.iter().map(AsRef::as_ref))
}

/// Fields that nobody owns: identity and what the server sets.
pub(super) fn stripped_fields() -> &'static Set {
    static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
        Set::of_fields([
            "apiVersion",
            "kind",
            "metadata",
            "metadata.name",
            "metadata.namespace",
            "metadata.creationTimestamp",
            "metadata.selfLink",
            "metadata.uid",
            "metadata.clusterName",
            "metadata.generation",
            "metadata.managedFields",
            "metadata.resourceVersion",
        ])
    });
    &STRIPPED
}

/// Merges the oldest entries of plain writes, by version, until few enough are left.
fn cap(managed: &mut Managed) {
    let mut updaters: Vec<(String, ManagerId)> = managed
        .entries
        .iter()
        .filter(|(id, _)| id.operation == Operation::Update)
        .map(|(id, owned)| (owned.time.clone(), id.clone()))
        .collect();
    let mut left = updaters.len();
    if left <= UPDATE_MANAGERS_MAX {
        return;
    }
    updaters.sort();
    let mut first_of_version: HashMap<String, ManagerId> = HashMap::new();
    for (time, id) in updaters {
        if left <= UPDATE_MANAGERS_MAX {
            break;
        }
        let Some(first) = first_of_version.get(&id.api_version) else {
            first_of_version.insert(id.api_version.clone(), id);
            continue;
        };
        let bucket = ManagerId {
            manager: OLD_UPDATES_MANAGER.to_owned(),
            operation: Operation::Update,
            api_version: id.api_version.clone(),
            subresource: String::new(),
        };
        if !managed.entries.contains_key(&bucket)
            && let Some(owned) = managed.entries.remove(first)
        {
            managed.entries.insert(bucket.clone(), owned);
        }
        if id == bucket {
            continue;
        }
        let Some(merged) = managed.entries.remove(&id) else { continue };
        if let Some(owned) = managed.entries.get_mut(&bucket) {
            owned.fields = Fields::Parsed(owned.fields.set().union(&merged.fields.set()));
            owned.time = time;
        }
        left -= 1;
    }
}
