//! ObjectMeta: reading it, and the rules that hold for every kind. Source: apimachinery `api/validation/objectmeta.go`.

use std::collections::BTreeSet;

use crate::field::is_unprintable;
use crate::validate::labels::{annotations, invalid_each, labels};
use crate::validate::text::{immutable, nonnegative};
use crate::validate::{names, text};
use crate::{Cursor, ErrorList, Kind, Map, Schema, Value};

pub use crate::validate::names::{mask_trailing_dash, subdomain_name as dns1123_subdomain_name};

const FIELD_MANAGER_MAX_BYTES: usize = 128;
const SUBRESOURCE_MAX_BYTES: usize = 256;
/// Finalizers without a domain that the core kinds know.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
/// Groups whose kinds accept any well-formed finalizer, because their validation predates or ignores the core rule.
const GROUPS_WITHOUT_STANDARD_FINALIZERS: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "policy",
];

/// An object of a built-in kind about to be created; its name has been generated already.
pub fn validate_new(kind: &Kind, object: &Cursor<'_>, errors: &mut ErrorList) {
    if !kind.strategy.judges_metadata_last {
        validate_create(kind, object, errors);
    }
    (kind.strategy.validate)(object, errors);
    if kind.strategy.judges_metadata_last && errors.is_empty() {
        validate_create(kind, object, errors);
    }
}

/// Metadata of an object about to be created.
pub fn validate_create(kind: &Kind, object: &Cursor<'_>, errors: &mut ErrorList) {
    let metadata = object.field("metadata");
    object_meta(&metadata, kind.namespaced, kind.strategy.name_rule, errors);
    if is_core_like(kind) {
        standard_finalizers(&metadata, errors);
    }
}

/// Metadata of an object about to replace `old`, after uid and timestamps were carried over.
pub fn validate_update(kind: &Kind, new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    object_meta(&new.field("metadata"), kind.namespaced, names::path_segment_name, errors);
    object_meta_update(new, old, errors);
}

/// All of the metadata, by the rules of a create: what most kinds check once more in their own update rules, where repeated causes are
/// part of the answer. Kinds whose finalizers need no domain use [`object_meta`].
pub(crate) fn validate_whole_again(
    new: &Cursor<'_>,
    namespaced: bool,
    name_rule: crate::strategy::NameRule,
    errors: &mut ErrorList,
) {
    let metadata = new.field("metadata");
    object_meta(&metadata, namespaced, name_rule, errors);
    standard_finalizers(&metadata, errors);
}

/// What most kinds check once more in their own update rules, of what may change; see [`validate_whole_again`].
pub fn validate_update_again(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    object_meta_update(new, old, errors);
    standard_finalizers(&new.field("metadata"), errors);
}

fn is_core_like(kind: &Kind) -> bool {
    let group = kind.group.as_ref();
    kind.custom().is_none()
        && !(group.is_empty() && kind.kind == "Event")
        && !GROUPS_WITHOUT_STANDARD_FINALIZERS.contains(&group)
}

/// Metadata of a resource inside of another; it need not have a name, and has a namespace only if it wants one.
pub(crate) fn validate_embedded(metadata: &Cursor<'_>, errors: &mut ErrorList) {
    let namespaced = !metadata.field("namespace").is_empty();
    let mut found = ErrorList::new();
    object_meta(metadata, namespaced, names::path_segment_name, &mut found);
    let nameless = metadata.field("name").is_empty();
    let name = metadata.field("name").path();
    for error in found {
        if !(nameless && error.path == name) {
            errors.push(error);
        }
    }
}

/// The rules that hold for the metadata of every object.
pub(crate) fn object_meta(
    metadata: &Cursor<'_>,
    namespaced: bool,
    name_rule: crate::strategy::NameRule,
    errors: &mut ErrorList,
) {
    let generate_name = metadata.field("generateName");
    if !generate_name.is_empty() {
        let messages = name_rule(generate_name.str(), true);
        invalid_each(errors, &generate_name.path(), generate_name.str(), messages);
    }
    let name = metadata.field("name");
    if name.is_empty() {
        name.required(errors, "name or generateName is required");
    } else {
        invalid_each(errors, &name.path(), name.str(), name_rule(name.str(), false));
    }
    let namespace = metadata.field("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => namespace.required(errors, ""),
        (true, false) => text::formatted(&namespace, names::dns1123_label, errors),
        (false, false) => namespace.forbidden(errors, "not allowed on this type"),
        (false, true) => {}
    }
    nonnegative(&metadata.field("generation"), errors);
    labels(&metadata.field("labels"), errors);
    annotations(&metadata.field("annotations"), errors);
    owner_references(&metadata.field("ownerReferences"), errors);
    finalizers(&metadata.field("finalizers"), errors);
    managed_fields(&metadata.field("managedFields"), errors);
}

/// Fields of metadata that an update may not change.
const IMMUTABLE_FIELDS: &[&str] =
    &["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// What generic code and the rules of some kinds check of the metadata of an update.
pub(crate) fn object_meta_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let (new, old) = (new.field("metadata"), old.field("metadata"));
    if old.field("deletionTimestamp").is_set() {
        no_new_finalizers(&new.field("finalizers"), &old.field("finalizers"), errors);
    }
    let resource_version = new.field("resourceVersion");
    if resource_version.is_empty() {
        errors.invalid(resource_version.path(), "", "must be specified for an update");
    }
    let generation = new.field("generation");
    if generation.int() < old.field("generation").int() {
        errors.invalid(generation.path(), generation.int(), "must not be decremented");
    }
    for name in IMMUTABLE_FIELDS {
        immutable(&new.field(name), &old.field(name), errors);
    }
    labels(&new.field("labels"), errors);
    annotations(&new.field("annotations"), errors);
    owner_references(&new.field("ownerReferences"), errors);
    managed_fields(&new.field("managedFields"), errors);
}

fn no_new_finalizers(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let mut added: Vec<&str> =
        new.items().map(|f| f.str()).filter(|name| !old.items().any(|f| f.str() == *name)).collect();
    if added.is_empty() {
        return;
    }
    added.sort_unstable();
    added.dedup();
    let quoted: Vec<String> = added.iter().map(|name| format!("\"{name}\"")).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        quoted.join(", ")
    );
    new.forbidden(errors, detail);
}

fn owner_references(list: &Cursor<'_>, errors: &mut ErrorList) {
    // Errors name the list, not the item: upstream never indexed it.
    let path = list.path();
    let mut first_controller: Option<String> = None;
    for reference in list.items() {
        let api_version = reference.field("apiVersion").str();
        // What has more than one slash names no version.
        let version = match api_version.split_once('/') {
            Some((_, version)) => Some(version).filter(|version| !version.contains('/')).unwrap_or(""),
            None => api_version,
        };
        if version.is_empty() {
            errors.invalid(path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if reference.field(field).is_empty() {
                errors.invalid(path.child(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && reference.field("kind").str() == "Event" {
            errors.invalid(
                path.clone(),
                reference.value().clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if reference.field("controller").bool() {
            let current = format!("{}/{}", reference.field("kind").str(), reference.field("name").str());
            match &first_controller {
                None => first_controller = Some(current),
                Some(first) => errors.invalid(
                    path.clone(),
                    list.value().clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}"
                    ),
                ),
            }
        }
    }
}

fn finalizers(list: &Cursor<'_>, errors: &mut ErrorList) {
    let path = list.path();
    let mut has = (false, false);
    for finalizer in list.items() {
        invalid_each(errors, &path, finalizer.str(), names::qualified_name(finalizer.str()));
        has.0 |= finalizer.str() == "orphan";
        has.1 |= finalizer.str() == "foregroundDeletion";
    }
    if has == (true, true) {
        list.invalid(errors, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn standard_finalizers(metadata: &Cursor<'_>, errors: &mut ErrorList) {
    for finalizer in metadata.field("finalizers").items() {
        standard_finalizer(&finalizer, errors);
    }
}

/// What is said about new finalizers of custom resources, whose names nobody checks.
pub fn finalizer_warnings(new: &Cursor<'_>, old: Option<&Cursor<'_>>, out: &mut Vec<String>) {
    let names = |object: &Cursor<'_>| -> BTreeSet<String> {
        let list = object.field("metadata").field("finalizers");
        list.items().map(|finalizer| finalizer.str().to_owned()).collect()
    };
    let known = old.map(names).unwrap_or_default();
    let mut added = names(new);
    added.retain(|name| !known.contains(name) && !name.contains('/') && !STANDARD_FINALIZERS.contains(&name.as_str()));
    out.extend(added.iter().map(|name| {
        let including = if name.contains('.') { " including a path (/)" } else { "" };
        format!(
            "metadata.finalizers: {}: prefer a domain-qualified finalizer name{including} to avoid accidental conflicts with other \
             finalizer writers",
            crate::field::go_quote(name)
        )
    }));
}

/// A finalizer without a domain must be one that the server itself knows.
pub fn standard_finalizer(finalizer: &Cursor<'_>, errors: &mut ErrorList) {
    let name = finalizer.str();
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errors.invalid(finalizer.path(), name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn managed_fields(list: &Cursor<'_>, errors: &mut ErrorList) {
    for entry in list.items() {
        let operation = entry.field("operation");
        if !matches!(operation.str(), "Apply" | "Update") {
            errors.invalid(operation.path(), operation.str(), "must be `Apply` or `Update`");
        }
        let fields_type = entry.field("fieldsType");
        if !fields_type.is_empty() && fields_type.str() != "FieldsV1" {
            fields_type.invalid(errors, "must be `FieldsV1`");
        }
        field_manager(&entry.field("manager"), errors);
        if entry.field("subresource").str().len() > SUBRESOURCE_MAX_BYTES {
            errors.too_long(entry.field("subresource").path(), SUBRESOURCE_MAX_BYTES);
        }
    }
}

/// The name of a field manager, in managedFields and in request options.
pub fn field_manager(manager: &Cursor<'_>, errors: &mut ErrorList) {
    if manager.str().len() > FIELD_MANAGER_MAX_BYTES {
        errors.too_long(manager.path(), FIELD_MANAGER_MAX_BYTES);
    }
    for (position, c) in manager.str().char_indices() {
        if is_unprintable(c) {
            let detail = format!("invalid character U+{:04X} (at position {position})", u32::from(c));
            errors.invalid(manager.path(), manager.str(), detail);
        }
    }
}

/// Name, labels and annotations of an embedded claim template; nothing else may be set.
pub fn template_meta(metadata: &Cursor<'_>, errors: &mut ErrorList) {
    annotations(&metadata.field("annotations"), errors);
    labels(&metadata.field("labels"), errors);
    for (key, value) in metadata.entries() {
        if !matches!(key, "annotations" | "labels") && value.is_set() {
            // Named as in Go.
            let shown = if key == "uid" { "uID" } else { key };
            errors.forbidden(metadata.path().child(shown), "cannot be set");
        }
    }
}

/// `metadata.name`, or `""`.
pub fn name(object: &Value) -> &str {
    metadata_str(object, "name")
}

/// `metadata.namespace`, or `""`.
pub fn namespace(object: &Value) -> &str {
    metadata_str(object, "namespace")
}

/// `metadata.uid`, or `""`.
pub fn uid(object: &Value) -> &str {
    metadata_str(object, "uid")
}

/// `metadata.resourceVersion`, or `""`.
pub fn resource_version(object: &Value) -> &str {
    metadata_str(object, "resourceVersion")
}

/// A string field of `metadata`, or `""`.
pub fn metadata_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// Deletion has been asked for and waits for grace or finalizers.
pub fn is_being_deleted(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
}

/// Puts the fields of an object's metadata in the order of their type, wherever they were added.
pub fn put_in_order(object: &mut Value) {
    let Some(ty) = Schema::builtin().lookup("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") else { return };
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let mut ordered = Map::with_capacity(metadata.len());
    for field in &ty.fields {
        if let Some(value) = metadata.remove(&field.name) {
            ordered.insert(field.name.as_ref(), value);
        }
    }
    ordered.extend(std::mem::take(metadata));
    *metadata = ordered;
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;
    use crate::Path;

    fn errors_of(metadata: Value, namespaced: bool) -> Vec<String> {
        let mut errors = ErrorList::new();
        let cursor = Cursor::at(&metadata, Path::new("metadata"));
        object_meta(&cursor, namespaced, names::subdomain_name, &mut errors);
        standard_finalizers(&cursor, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_and_the_right_scope_are_required() {
        assert_eq!(
            errors_of(json!({}), true),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert_eq!(
            errors_of(json!({"name": "a", "namespace": "b"}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
    }

    #[test]
    fn generate_name_may_end_with_a_dash() {
        assert_eq!(errors_of(json!({"name": "web-x", "generateName": "web-"}), false), Vec::<String>::new());
    }

    #[test]
    fn finalizers_need_a_domain_or_a_standard_name() {
        assert_eq!(
            errors_of(json!({"name": "a", "finalizers": ["bogus", "example.com/x", "orphan"]}), false),
            [
                "metadata.finalizers[0]: Invalid value: \"bogus\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
    }

    #[test]
    fn two_controllers_are_refused() {
        let reference =
            |name: &str| json!({"apiVersion": "v1", "kind": "A", "name": name, "uid": "u", "controller": true});
        let errors = errors_of(json!({"name": "a", "ownerReferences": [reference("x"), reference("y")]}), false);
        assert!(errors[0].ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for A/x and A/y"
        ));
    }

    #[test]
    fn identity_is_immutable_and_a_version_is_needed() {
        let new = json!({"metadata": {"name": "a", "uid": "x"}});
        let old = json!({"metadata": {"name": "a", "uid": "u"}});
        let mut errors = ErrorList::new();
        object_meta_update(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.uid: Invalid value: \"x\": field is immutable"
            ]
        );
    }

    #[test]
    fn finalizers_are_not_added_while_deleting() {
        let new =
            json!({"metadata": {"name": "a", "resourceVersion": "1", "finalizers": ["a/b"], "deletionTimestamp": "t"}});
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "t"}});
        let mut errors = ErrorList::new();
        object_meta_update(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        assert_eq!(
            errors.aggregate_message(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
             finalizers []string{\"a/b\"}"
        );
    }
}
