//! Rows of volumes, claims and storage classes.

use crate::Value;

use super::row::{NONE, Row, UNSET};

const BETA_CLASS: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

fn access_modes(row: &Row<'_>, pointer: &str) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| row.items(pointer).any(|m| m.object.as_str() == Some(mode));
    SHORT.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

fn class<'a>(row: &Row<'a>) -> &'a str {
    if row.has(BETA_CLASS) { row.str(BETA_CLASS) } else { row.str("/spec/storageClassName") }
}

fn phase(row: &Row<'_>) -> Value {
    if row.is_being_deleted() { "Terminating".into() } else { row.text("/status/phase") }
}

fn optional(row: &Row<'_>, pointer: &str) -> Value {
    if row.has(pointer) { row.text(pointer) } else { UNSET.into() }
}

pub(super) fn persistent_volume(row: &Row<'_>) -> Vec<Value> {
    let claim = match row.get("/spec/claimRef").map(|v| row.at(v)) {
        Some(claim) => format!("{}/{}", claim.str("/namespace"), claim.str("/name")),
        None => String::new(),
    };
    vec![
        row.name(),
        row.quantity("/spec/capacity/storage").into(),
        access_modes(row, "/spec/accessModes").into(),
        row.text("/spec/persistentVolumeReclaimPolicy"),
        phase(row),
        claim.into(),
        class(row).into(),
        optional(row, "/spec/volumeAttributesClassName"),
        row.text("/status/reason"),
        row.age(),
        optional(row, "/spec/volumeMode"),
    ]
}

pub(super) fn persistent_volume_claim(row: &Row<'_>) -> Vec<Value> {
    let volume = row.str("/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        (row.quantity("/status/capacity/storage"), access_modes(row, "/status/accessModes"))
    };
    vec![
        row.name(),
        phase(row),
        volume.into(),
        capacity.into(),
        modes.into(),
        class(row).into(),
        optional(row, "/spec/volumeAttributesClassName"),
        row.age(),
        optional(row, "/spec/volumeMode"),
    ]
}

pub(super) fn storage_class(row: &Row<'_>) -> Vec<Value> {
    const DEFAULT_MARKS: [&str; 2] = [
        "/metadata/annotations/storageclass.kubernetes.io~1is-default-class",
        "/metadata/annotations/storageclass.beta.kubernetes.io~1is-default-class",
    ];
    let is_default = DEFAULT_MARKS.iter().any(|mark| row.str(mark) == "true");
    let suffix = if is_default { " (default)" } else { "" };
    vec![
        format!("{}{suffix}", row.str("/metadata/name")).into(),
        row.text("/provisioner"),
        row.text_or("/reclaimPolicy", "Delete"),
        row.text_or("/volumeBindingMode", "Immediate"),
        row.bool_or("/allowVolumeExpansion", false),
        row.age(),
    ]
}

pub(super) fn volume_attributes_class(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/driverName"), row.age()]
}

pub(super) fn volume_attachment(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.text("/spec/attacher"),
        row.text("/spec/source/persistentVolumeName"),
        row.text("/spec/nodeName"),
        row.bool_or("/status/attached", false),
        row.age(),
    ]
}

pub(super) fn csi_node(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.count("/spec/drivers").into(), row.age()]
}

pub(super) fn csi_driver(row: &Row<'_>) -> Vec<Value> {
    let tokens = if row.has("/spec/tokenRequests") {
        row.items("/spec/tokenRequests").map(|t| t.str("/audience")).collect::<Vec<_>>().join(",")
    } else {
        UNSET.to_owned()
    };
    let modes = row.joined("/spec/volumeLifecycleModes", ",");
    vec![
        row.name(),
        row.bool_or("/spec/attachRequired", true),
        row.bool_or("/spec/podInfoOnMount", false),
        row.bool_or("/spec/storageCapacity", false),
        tokens.into(),
        row.bool_or("/spec/requiresRepublish", false),
        if modes.is_empty() { NONE.into() } else { modes.into() },
        row.age(),
    ]
}
