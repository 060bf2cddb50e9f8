//! Server-side apply: a manager says which fields it wants and how; what it no longer says, and nobody else applies, goes.

use crate::json;

use super::Writer;
use super::compare::compare;
use super::conflict::Conflicts;
use super::fieldset::{check, field_set};
use super::managed::{Fields, Managed, ManagerId, Operation, Owned};
use super::merge::{merge, remove};
use super::node::Node;
use super::set::Set;
use super::update::{Unreconciled, ignored_fields, reconcile, record, stripped_fields};
use crate::kind::Kind;
use crate::status::Status;
use crate::{Value, gojson, meta, patch};

/// Who owns the fields of an object that nobody tracked before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The one manager that takes over from client-side apply, and the annotation that tells of it.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The outcome of an apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The merged object, not yet decoded by schema, with its new `metadata.managedFields`.
    pub object: Value,
}

/// Why an apply was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// The body is no configuration of this kind: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the schema: upstream answers 500 without a reason.
    #[error("{0}")]
    Failed(String),
    /// Others own fields that the configuration sets otherwise: 409, unless forced.
    #[error("apply conflicts")]
    Conflict(Conflicts),
}

impl ApplyError {
    pub fn status(&self) -> Status {
        match self {
            Self::BadRequest(message) => Status::bad_request(message),
            Self::Failed(message) => Status::unknown(message),
            Self::Conflict(conflicts) => conflicts.status(),
        }
    }
}

/// What upstream says of a configuration that merges by schema and does not decode for a `reason`.
pub fn unconvertible(config: &Value, reason: &str) -> String {
    // Values are read without knowing which field they are for.
    let reason = match (reason.split_once("Go struct field "), reason.rsplit_once(" of type ")) {
        (Some((before, _)), Some((_, wanted))) => format!("{before}Go value of type {wanted}"),
        _ => patch::undecoded_bytes(reason).unwrap_or_else(|| reason.to_owned()),
    };
    let (described, gvk) = (described(config), gvk_text(text(config, "apiVersion"), text(config, "kind")));
    format!(
        "failed to convert new object ({described}) to proper version: unable to convert unstructured object to {gvk}: {reason}"
    )
}

/// `namespace/name; group/version, Kind=kind`, as the configuration has them.
fn described(config: &Value) -> String {
    let gvk = gvk_text(text(config, "apiVersion"), text(config, "kind"));
    format!("{}/{}; {gvk}", meta::namespace(config), meta::name(config))
}

fn text<'v>(config: &'v Value, field: &str) -> &'v str {
    config.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Applies `config` to `live` (for an object that is not there: the zero object with name and namespace).
pub fn apply(
    kind: &Kind,
    writer: &Writer<'_>,
    live: &Value,
    config: &Value,
    force: bool,
) -> Result<Applied, ApplyError> {
    if text(config, "apiVersion") != kind.api_version() || text(config, "kind") != kind.kind {
        let gvk = gvk_text(text(config, "apiVersion"), text(config, "kind"));
        return Err(ApplyError::BadRequest(format!("invalid object type: {gvk}")));
    }
    let stored = live.get("metadata").and_then(|m| m.get("managedFields"));
    let mut managed = Managed::decode(stored)
        .map_err(|error| ApplyError::Failed(format!("failed to decode managed fields: {error}")))?;
    let mut live = live.clone();
    drop_managed_fields(&mut live);
    let node = Node::root(&kind.schema, kind.type_id);
    if managed.is_empty() {
        check(node, &live).map_err(|error| {
            let described = described(&live);
            let text = format!("failed to convert new object ({described}) to smd typed: {error}");
            ApplyError::Failed(format!("failed to create manager for existing fields: {text}"))
        })?;
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
        managed = record(kind, &before, &kind.schema.zero(kind.type_id), &live, managed);
    }
    if config.pointer("/metadata/managedFields").is_some_and(|v| !v.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()));
    }
    check(node, config).map_err(|error| {
        ApplyError::Failed(format!("failed to create typed patch object ({}): {error}", described(config)))
    })?;
    let refused = match merged(kind, writer, &live, config, managed.clone(), force) {
        Ok(applied) => return Ok(applied),
        Err(Unreconciled::Failed(text)) => return Err(ApplyError::Failed(text)),
        Err(Unreconciled::Conflict(refused)) => refused,
    };
    if writer.manager != KUBECTL {
        return Err(ApplyError::Conflict(refused));
    }
    let left = refused.excluding(&last_applied_fields(node, &live));
    if !left.is_empty() {
        return Err(ApplyError::Conflict(left));
    }
    merged(kind, writer, &live, config, managed, true).map_err(|refused| match refused {
        Unreconciled::Failed(text) => ApplyError::Failed(text),
        Unreconciled::Conflict(conflicts) => ApplyError::Conflict(conflicts),
    })
}

fn merged(
    kind: &Kind,
    writer: &Writer<'_>,
    live: &Value,
    config: &Value,
    mut managed: Managed,
    force: bool,
) -> Result<Applied, Unreconciled> {
    let node = Node::root(&kind.schema, kind.type_id);
    let ignored = ignored_fields(kind, writer.subresource);
    let id = ManagerId {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        api_version: String::new(),
        subresource: writer.subresource.to_owned(),
    };
    let last = managed.entries.remove(&id);
    let last_time = last.as_ref().map(|owned| owned.time.clone()).unwrap_or_default();
    let set = field_set(node, config).without_subtrees(&ignored);
    let mut object = merge(node, live, config);
    if let Some(last) = last {
        object = prune(node, object, &last.fields.set(), &set, &managed);
    }
    let comparison = compare(node, live, &object).excluding(&ignored);
    let owned = Owned {
        api_version: kind.api_version(),
        time: last_time,
        fields: Fields::Parsed(set.difference(stripped_fields())),
    };
    managed.entries.insert(id.clone(), owned);
    reconcile(kind, &mut managed, comparison, (live, &object), Some(&id), force)?;
    if object != *live
        && let Some(owned) = managed.entries.get_mut(&id)
    {
        owned.time = writer.now.to_owned();
    }
    if writer.manager == KUBECTL {
        sync_last_applied(&mut object, config);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        match managed.encode() {
            Value::Null => metadata.remove("managedFields"),
            managed => metadata.insert("managedFields", managed),
        };
    }
    Ok(Applied { object })
}

/// Takes out what the manager applied last time and not now, unless somebody else owns it. A field goes with the last of its parts that
/// the manager owned, and takes with it what nobody owns.
fn prune(node: Node<'_>, merged: Value, last: &Set, now: &Set, managed: &Managed) -> Value {
    let last = last.with_named_fields(node);
    let pruned = remove(node, &merged, &last);
    let owned = managed.entries.values().fold(now.clone(), |all, owned| all.union(&owned.fields.set()));
    let merged_set = field_set(node, &merged).with_named_fields(node);
    let kept = field_set(node, &pruned).with_named_fields(node).union(&owned.with_named_fields(node));
    let pruned = remove(node, &merged, &merged_set.difference(&kept));
    let pruned_set = field_set(node, &pruned).with_named_fields(node);
    remove(node, &merged, &merged_set.difference(&pruned_set).intersection(&last))
}

/// The fields that client-side apply set and nobody has changed since: kubectl may take those over.
fn last_applied_fields(node: Node<'_>, live: &Value) -> Set {
    let annotation = live.get("metadata").and_then(|m| m.get("annotations")).and_then(|a| a.get(LAST_APPLIED));
    let Some(config) = annotation.and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok())
    else {
        return Set::new();
    };
    if config.get("apiVersion") != live.get("apiVersion") || check(node, &config).is_err() {
        return Set::new();
    }
    let changed = compare(node, &config, live);
    field_set(node, &config).difference(&changed.modified).difference(&changed.added)
}

/// Keeps the annotation of client-side apply true, where there is one.
fn sync_last_applied(object: &mut Value, config: &Value) {
    let annotations = object.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut);
    let Some(annotation) = annotations.and_then(|a| a.get_mut(LAST_APPLIED)) else { return };
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    *annotation = json!(format!("{}\n", gojson::sorted(&config)));
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// How Go prints a GroupVersionKind.
fn gvk_text(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}
