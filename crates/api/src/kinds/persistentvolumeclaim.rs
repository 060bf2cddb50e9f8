//! PersistentVolumeClaim. Source: `pkg/registry/core/persistentvolumeclaim`, `pkg/apis/core/validation`.

use crate::json;

use crate::kinds::carry;
use crate::strategy::SubresourceStrategy;
use crate::validate::labels::{invalid_each, selector};
use crate::validate::resources::{amount, basic_resource, is_native, positive, quantity, resource_value};
use crate::validate::text::{IMMUTABLE, formatted, formatted_if_set, immutable, optional_enum, same, supported};
use crate::validate::{go, names};
use crate::{Cursor, ErrorList, Path, Strategy, Value, meta};

pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub const STRATEGY: Strategy = Strategy {
    prepare_for_create: |new, _| {
        carry::set(new, "status", json!({"phase": "Pending"}));
        drop_cross_namespace_source(new, None);
        drop_foreign_data_source(new, None);
        sync_data_sources(new);
    },
    validate: |claim, errors| claim_spec(&claim.field("spec"), errors),
    prepare_for_update: |new, old, _| {
        carry::keep_status(new, old);
        drop_cross_namespace_source(new, Some(old));
        drop_foreign_data_source(new, Some(old));
        sync_data_sources(new);
    },
    validate_update,
    warnings: |new, _, out| {
        let spec = new.field("spec");
        spec_warnings(&spec, &spec.path(), out);
        class_annotation_warning(new, out);
    },
    subresources: &[SubresourceStrategy {
        name: "status",
        prepare_for_update: |new, old, _| carry::keep_spec(new, old),
        validate_update: validate_status_update,
    }],
    ..Strategy::DEFAULT
};

/// `dataSource` only ever meant claims and snapshots; anything else in it was ignored and still is, for clients that do not
/// know `dataSourceRef`.
fn drop_foreign_data_source(claim: &mut Value, old: Option<&Value>) {
    let has_source =
        |claim: &Value| ["dataSource", "dataSourceRef"].iter().any(|field| !claim["spec"][*field].is_null());
    if !claim["spec"]["dataSourceRef"].is_null() || old.is_some_and(has_source) {
        return;
    }
    let source = claim.pointer("/spec/dataSource");
    let text = |field: &str| source.and_then(|s| s.get(field)).and_then(Value::as_str).unwrap_or("");
    let is_known = matches!(
        (text("apiGroup"), text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if source.is_some() && !is_known {
        carry::remove(claim, &["spec"], "dataSource");
    }
}

/// Data of other namespaces is behind a gate that is off.
fn drop_cross_namespace_source(claim: &mut Value, old: Option<&Value>) {
    let names_one = |claim: &Value| claim.pointer("/spec/dataSourceRef/namespace").is_some_and(|n| n != "");
    if names_one(claim) && !old.is_some_and(names_one) {
        carry::remove(claim, &["spec"], "dataSourceRef");
    }
}

/// Fills in the older of the two data source fields from the newer one and the other way round.
fn sync_data_sources(claim: &mut Value) {
    let Some(Value::Object(spec)) = claim.get_mut("spec") else { return };
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef", source);
        }
        (None, Some(reference)) if reference.get("namespace").is_none_or(|n| n == "") => {
            let mut source = reference;
            carry::remove(&mut source, &[], "namespace");
            spec.insert("dataSource", source);
        }
        _ => {}
    }
}

/// Access modes of claims and volumes: known ones, and ReadWriteOncePod alone.
pub fn access_modes(modes: &Cursor<'_>, errors: &mut ErrorList) {
    let mut has = (false, false);
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.str()) {
            errors.no_such_choice(modes.path(), mode.str(), ACCESS_MODES);
        } else if mode.str() == "ReadWriteOncePod" {
            has.0 = true;
        } else {
            has.1 = true;
        }
    }
    if has == (true, true) {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The spec of a new claim or of a claim template.
pub fn claim_spec(spec: &Cursor<'_>, errors: &mut ErrorList) {
    spec_over(spec, &Cursor::at(&Value::Null, spec.path()), errors);
}

/// A spec that is put in the place of `old`.
fn spec_over(spec: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let modes = spec.field("accessModes");
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    selector(&spec.field("selector"), errors);
    access_modes(&modes, errors);
    let storage = spec.field("resources").field("requests").field("storage");
    let path = spec.path().child("resources").key("storage");
    if !storage.is_set() {
        errors.required(path, "");
    } else if quantity(storage.value()).sign() <= 0 {
        positive(storage.value(), &path, errors);
    } else {
        resource_value("storage", storage.value(), &path, errors);
    }
    formatted_if_set(&spec.field("storageClassName"), names::dns1123_subdomain, errors);
    optional_enum(&spec.field("volumeMode"), VOLUME_MODES, errors);
    data_sources(spec, old, errors);
    formatted_if_set(&spec.field("volumeAttributesClassName"), names::dns1123_subdomain, errors);
}

fn data_sources(spec: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    // Groups were not always checked: a claim that named one may name any.
    let named_group = ["dataSource", "dataSourceRef"].iter().any(|field| old.field(field).field("apiGroup").is_set());
    let (source, reference) = (spec.field("dataSource"), spec.field("dataSourceRef"));
    for object in [&source, &reference].into_iter().filter(|object| object.is_set()) {
        data_source(object, errors);
        if !named_group {
            formatted_if_set(&object.field("apiGroup"), names::dns1123_subdomain, errors);
        }
    }
    let namespace = reference.field("namespace");
    formatted_if_set(&namespace, names::dns1123_label, errors);
    if !namespace.is_empty() {
        if source.is_set() {
            errors.invalid(spec.path(), json!({}), "may not be specified when dataSourceRef.namespace is specified");
        }
    } else if source.is_set() && reference.is_set() {
        let differs =
            ["apiGroup", "kind", "name"].iter().any(|f| source.field(f).value() != reference.field(f).value());
        if differs {
            // What is shown is meant to be the path of the field, an old slip of upstream's.
            errors.invalid(spec.path(), json!({}), "must match dataSourceRef");
        }
    }
}

fn data_source(source: &Cursor<'_>, errors: &mut ErrorList) {
    for field in ["name", "kind"] {
        if source.field(field).is_empty() {
            source.field(field).required(errors, "");
        }
    }
    let (group, kind) = (source.field("apiGroup"), source.field("kind"));
    if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
        errors.invalid(
            source.path(),
            kind.str(),
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        );
    }
}

fn validate_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    meta::validate_whole_again(new, true, names::subdomain_name, errors);
    spec_over(&spec, &old_spec, errors);
    let (munged, munged_old) = comparable_specs(new, old, errors);
    if !same(&munged, &munged_old) {
        let diff = go::diff("PersistentVolumeClaimSpec", &munged_old, &munged);
        spec.forbidden(
            errors,
            format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{diff}"
            ),
        );
    }
    let requests = spec.field("resources").field("requests");
    let size = amount(&requests, "storage").unwrap_or_default();
    let old_size = amount(&old_spec.field("resources").field("requests"), "storage").unwrap_or_default();
    let capacity = amount(&old.field("status").field("capacity"), "storage").unwrap_or_default();
    if size < old_size && size <= capacity {
        requests.field("storage").forbidden(errors, "field can not be less than status.capacity");
    }
    immutable(
        &Cursor::at(spec.field("volumeMode").value(), Path::new("volumeMode")),
        &old_spec.field("volumeMode"),
        errors,
    );
    class_is_not_unset(new, old, errors);
}

/// A class that volumes already have can be replaced, not taken away.
fn class_is_not_unset(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    let class_of = |claim: &Cursor<'_>| claim.field("spec").field("volumeAttributesClassName").value().clone();
    let has_one = old.field("status").field("currentVolumeAttributesClassName").is_set();
    if !has_one || class_of(new) == class_of(old) {
        return;
    }
    const WHEN: &str = "is forbidden when status.currentVolumeAttributesClassName is not nil";
    let class = new.field("spec").field("volumeAttributesClassName");
    if !class.is_set() {
        class.forbidden(errors, format!("update to nil {WHEN}"));
    } else if class.is_empty() {
        class.forbidden(errors, format!("update to empty string {WHEN}"));
    }
}

/// Both specs with what may change made equal: the volume once, a missing class once, and the size of a bound claim.
fn comparable_specs(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) -> (Value, Value) {
    let (mut spec, mut old_spec) = (new.field("spec").value().clone(), old.field("spec").value().clone());
    if old.field("spec").field("volumeName").is_empty() {
        carry::keep(&mut old_spec, &spec, "volumeName");
    }
    let annotation = |claim: &Cursor<'_>| {
        claim.field("metadata").field("annotations").field(CLASS_ANNOTATION).value().as_str().map(str::to_owned)
    };
    let (annotated, old_annotated) = (annotation(new), annotation(old));
    let class = new.field("spec").field("storageClassName").value().as_str().map(str::to_owned);
    let had_class = old.field("spec").field("storageClassName").is_set();
    let moved_to_field = old_annotated.is_some()
        && !had_class
        && class == old_annotated
        && annotated.as_ref().is_none_or(|a| Some(a) == old_annotated.as_ref());
    if moved_to_field {
        carry::remove(&mut spec, &[], "storageClassName");
    } else {
        if annotated.as_deref().unwrap_or("") != old_annotated.as_deref().unwrap_or("") {
            let path = Path::new("metadata.annotations").child(CLASS_ANNOTATION);
            errors.invalid(path, annotated.unwrap_or_default(), IMMUTABLE);
        }
        let set_once = !had_class && class.is_some() && (old_annotated.is_none() || class == old_annotated);
        if set_once {
            carry::keep(&mut spec, &old_spec, "storageClassName");
        }
    }
    if new.field("status").field("phase").str() == "Bound" {
        if let (Some(requests), Some(old_requests)) =
            (spec.pointer_mut("/resources/requests"), old_spec.pointer("/resources/requests"))
        {
            carry::keep(requests, old_requests, "storage");
        }
        if spec.get("volumeAttributesClassName").is_some() {
            carry::keep(&mut spec, &old_spec, "volumeAttributesClassName");
        }
    }
    (spec, old_spec)
}

const RESIZE_STATUSES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn validate_status_update(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut ErrorList) {
    meta::validate_update_again(new, old, errors);
    if new.field("spec").field("accessModes").is_empty() {
        errors.required(Path::new("Spec.accessModes"), "");
    }
    let status = new.field("status");
    for (_, amount) in status.field("capacity").entries() {
        basic_resource(amount.value(), &amount.path(), errors);
    }
    let statuses = status.path().child("allocatedResourceStatuses");
    for (name, value) in status.field("allocatedResourceStatuses").entries() {
        resource_key(name, &statuses, errors);
        if !RESIZE_STATUSES.contains(&value.str()) {
            errors.not_supported(statuses.clone(), name, RESIZE_STATUSES);
        }
    }
    let allocated = status.field("allocatedResources");
    for (name, amount) in allocated.entries() {
        if resource_key(name, &allocated.path(), errors) && basic_resource(amount.value(), &amount.path(), errors) {
            resource_value("storage", amount.value(), &amount.path(), errors);
        }
    }
}

fn resource_key(name: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let messages = names::qualified_name(name);
    let ok = messages.is_empty();
    invalid_each(errors, path, name, messages);
    if ok && is_native(name) && name != "storage" {
        errors.not_supported(path.clone(), name, &["storage"]);
        return false;
    }
    ok
}

/// Fractions of bytes, in claims and in claim templates; `path` is where they are said to be.
pub fn spec_warnings(spec: &Cursor<'_>, path: &Path, out: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        let storage = spec.field("resources").field(list).key("storage");
        let amount = quantity(storage.value());
        if storage.is_set() && amount.milli_value() % 1000 != 0 {
            let path = path.child("resources").child(list).key("storage");
            out.push(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"));
        }
    }
}

/// The class given as an annotation, of claims and volumes.
pub fn class_annotation_warning(object: &Cursor<'_>, out: &mut Vec<String>) {
    let annotation = object.field("metadata").field("annotations").key(CLASS_ANNOTATION);
    if annotation.is_set() {
        out.push(format!("{}: deprecated since v1.8; use \"storageClassName\" attribute instead", annotation.path()));
    }
}

/// The class of a claim or volume.
pub fn class_name(class: &Cursor<'_>, errors: &mut ErrorList) {
    formatted(class, names::dns1123_subdomain, errors);
}

/// The mode of a volume.
pub fn volume_mode(mode: &Cursor<'_>, errors: &mut ErrorList) {
    if mode.is_set() {
        supported(mode, VOLUME_MODES, errors);
    }
}
