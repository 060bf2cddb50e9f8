//! The facts of a kind's write path, and the generic resets that follow from them.
//!
//! A per-kind strategy runs after these functions and sees the object as they leave it: `status` empty on create and
//! restored on update wherever the table says so. Nothing here knows a kind by name.

use crate::kind::{Kind, Str};
use crate::{Map, Text, Value};

/// What the table says about writes to one kind. A CRD fills the same record.
#[derive(Clone, Debug)]
pub struct WriteRules {
    /// PUT to a missing object creates it.
    pub create_on_update: bool,
    /// PUT without resourceVersion overwrites.
    pub unconditional_update: bool,
    /// `status` becomes its zero value on create, whatever the client sent.
    pub clears_status_on_create: bool,
    /// `status` becomes what it was on a write to the main resource.
    pub keeps_status_on_update: bool,
    pub generation: Generation,
    pub gc_default: GcDefault,
    pub delete_returns: DeleteReturns,
    /// Paths that server-side apply to the main resource takes no ownership of: `status`.
    pub apply_resets: Vec<Str>,
    /// The same for the status subresource: `spec`, `metadata.labels`.
    pub status_apply_resets: Vec<Str>,
    /// Paths that a write to the status subresource takes from the stored object. `metadata` means all of it but managedFields.
    pub status_update_restores: Vec<Str>,
}

/// When `metadata.generation` moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Never set.
    None,
    /// 1 on create, never bumped.
    CreateOnly,
    /// 1 on create, +1 when one of the named top-level fields changed.
    Fields(&'static [&'static str]),
    /// 1 on create, +1 when a named top-level field or the annotations changed (Deployment).
    FieldsOrAnnotations(&'static [&'static str]),
    /// Unset on create, +1 when one of the named top-level fields changed (CSIDriver).
    FieldsOnUpdateOnly(&'static [&'static str]),
    /// 1 on create, +1 when anything outside metadata, or the labels, changed (EndpointSlice).
    AllButMetadataOrLabels,
    /// 1 on create, +1 when anything outside metadata changed; with a status subresource `status` was restored before (CRs).
    AllButMetadata,
}

/// What the garbage collector does by default when a delete names no propagation policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcDefault {
    Background,
    Orphan,
    /// The kind takes no part in garbage collection (events).
    Unsupported,
}

/// What DELETE answers with once the object is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteReturns {
    Status,
    Object,
}

impl WriteRules {
    /// A kind without status and generation.
    pub const PLAIN: WriteRules = WriteRules {
        create_on_update: false,
        unconditional_update: true,
        clears_status_on_create: false,
        keeps_status_on_update: false,
        generation: Generation::None,
        gc_default: GcDefault::Background,
        delete_returns: DeleteReturns::Status,
        apply_resets: Vec::new(),
        status_apply_resets: Vec::new(),
        status_update_restores: Vec::new(),
    };
}

/// Before a kind's `prepare_for_create`: clears `status`, and what is behind gates that are off.
pub fn reset_for_create(kind: &Kind, new: &mut Value) {
    crate::gates::drop_disabled(kind, new, None);
    if !kind.rules.clears_status_on_create {
        return;
    }
    let Some(object) = new.as_object_mut() else { return };
    match kind.schema.zero_field(kind.type_id, "status") {
        Some(zero) => kind.schema.set(kind.type_id, object, "status", zero),
        None => {
            object.remove("status");
        }
    }
}

/// Removes fields of gates that are off from an object that had none of them before.
pub fn drop_disabled(kind: &Kind, new: &mut Value) {
    crate::gates::drop_disabled(kind, new, None);
}

/// Before a kind's `prepare_for_update`: takes `status` from the stored object.
pub fn reset_for_update(kind: &Kind, new: &mut Value, old: &Value) {
    crate::gates::drop_disabled(kind, new, Some(old));
    if kind.rules.keeps_status_on_update {
        restore(kind, new, old, "status");
    }
}

/// Before the `status` subresource's `prepare_for_update`: takes everything else from the stored object.
pub fn reset_for_status_update(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.custom().is_some() {
        return crate::custom::restore_all_but_status(new, old);
    }
    for path in &kind.rules.status_update_restores {
        restore(kind, new, old, path);
    }
    crate::gates::drop_disabled(kind, new, Some(old));
}

/// Copies `field` or `metadata.field` of `old` over `new`, or removes it when `old` has none.
fn restore(kind: &Kind, new: &mut Value, old: &Value, path: &str) {
    let Some(object) = new.as_object_mut() else { return };
    let (field, inner) = path.split_once('.').map_or((path, None), |(f, i)| (f, Some(i)));
    match inner {
        Some(inner) => {
            let Some(Value::Object(part)) = object.get_mut(field) else { return };
            let part_type = kind.schema.field(kind.type_id, field).and_then(|f| f.shape.type_id());
            copy(kind, part_type, part, old.get(field).and_then(|m| m.get(inner)), inner);
        }
        None if field == "metadata" => restore_metadata(kind, object, old),
        None => copy(kind, Some(kind.type_id), object, old.get(field), field),
    }
}

/// Everything of metadata but managedFields, which the write itself may move.
fn restore_metadata(kind: &Kind, object: &mut Map, old: &Value) {
    let Some(old_metadata) = old.get("metadata") else { return };
    let managed = object.get_mut("metadata").and_then(|m| m.as_object_mut()).and_then(|m| m.remove("managedFields"));
    let kept = old_metadata.as_object().into_iter().flatten().filter(|(field, _)| *field != "managedFields");
    let mut metadata: Map = kept.map(|(field, value)| (field.clone(), value.clone())).collect();
    if let Some(managed) = managed {
        metadata.insert("managedFields", managed);
    }
    kind.schema.set(kind.type_id, object, "metadata", metadata.into());
}

fn copy(kind: &Kind, owner: Option<crate::schema::TypeId>, to: &mut Map, value: Option<&Value>, field: &str) {
    match (value, owner) {
        (None, _) => {
            to.remove(field);
        }
        // The usual case: nobody tried to change it.
        (Some(value), _) if to.get(field) == Some(value) => {}
        (Some(value), Some(owner)) => kind.schema.set(owner, to, field, value.clone()),
        (Some(value), None) => {
            to.insert(field, value.clone());
        }
    }
}

/// `metadata.generation` of a new object; `None` leaves it unset.
pub fn generation_on_create(kind: &Kind) -> Option<i64> {
    match kind.rules.generation {
        Generation::None | Generation::FieldsOnUpdateOnly(_) => None,
        Generation::CreateOnly
        | Generation::Fields(_)
        | Generation::FieldsOrAnnotations(_)
        | Generation::AllButMetadataOrLabels
        | Generation::AllButMetadata => Some(1),
    }
}

/// A write from `old` to `new` moves `metadata.generation` by one.
pub fn bumps_generation(kind: &Kind, new: &Value, old: &Value) -> bool {
    let any_changed = |fields: &[&str]| fields.iter().any(|f| new.get(f) != old.get(f));
    let metadata_changed = |field: &str| {
        let of = |v: &Value| v.get("metadata").and_then(|m| m.get(field)).filter(|v| !v.is_null()).cloned();
        of(new) != of(old)
    };
    match kind.rules.generation {
        Generation::None | Generation::CreateOnly => false,
        Generation::Fields(fields) | Generation::FieldsOnUpdateOnly(fields) => any_changed(fields),
        Generation::FieldsOrAnnotations(fields) => any_changed(fields) || metadata_changed("annotations"),
        Generation::AllButMetadataOrLabels => changed_outside_metadata(new, old) || metadata_changed("labels"),
        Generation::AllButMetadata => changed_outside_metadata(new, old),
    }
}

fn changed_outside_metadata(new: &Value, old: &Value) -> bool {
    let fields = |v: &Value| -> Vec<Text> { v.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect() };
    let skip = |f: &Text| matches!(f.as_str(), "metadata" | "apiVersion" | "kind");
    fields(new).iter().chain(fields(old).iter()).filter(|f| !skip(f)).any(|f| new.get(f) != old.get(f))
}
