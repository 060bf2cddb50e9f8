//! Which volume suits a claim: capacity, class, modes and labels. Source: persistent volumes' docs, "Binding".

use std::sync::Arc;

use api::quantity::Quantity;
use client::LabelSelectorExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource;

use crate::ownership::{name, namespace, uid};

/// The class before it was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const FILESYSTEM: &str = "Filesystem";

pub(super) fn volume_class(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotated.map(String::as_str).or(class).unwrap_or("")
}

/// None when the claim leaves the class open.
pub(super) fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.map(String::as_str).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn quantity(quantity: Option<&resource::Quantity>) -> Quantity {
    let parsed = quantity.and_then(|quantity| quantity.0.trim().parse::<Quantity>().ok());
    parsed.unwrap_or_else(|| Quantity::new(0, api::quantity::Format::BinarySi))
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    quantity(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage")))
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    quantity(resources.and_then(|resources| resources.requests.as_ref()?.get("storage")))
}

fn too_small(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    capacity(volume) < requested(claim)
}

pub(super) fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or(FILESYSTEM);
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or(FILESYSTEM);
    of_volume != of_claim
}

fn attributes_class_differs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or("");
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or("");
    of_volume != of_claim
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or(&[])
}

fn gives_access(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or(&[]);
    wanted.iter().all(|mode| access_modes(volume).contains(mode))
}

/// Whether the volume's claimRef means this claim: the uid may still be open.
pub(super) fn refers_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let same_uid = reference.uid.as_deref().is_none_or(|one| one.is_empty() || one == uid(&claim.metadata));
    reference.name.as_deref() == Some(name(&claim.metadata))
        && reference.namespace.as_deref() == Some(namespace(&claim.metadata))
        && same_uid
}

/// Why a volume that the claim names does not suit it, in upstream's words.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!("the volume is marked for deletion {:?}", name(&volume.metadata)));
    }
    let reason = if too_small(volume, claim) {
        "requested PV is too small"
    } else if volume_class(volume) != claim_class(claim).unwrap_or("") {
        "storageClassName does not match"
    } else if attributes_class_differs(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if modes_differ(volume, claim) {
        "incompatible volumeMode"
    } else if !gives_access(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// The volume reserved for the claim, else the one that gives away least: fewest access modes, then least capacity. `late`
/// claims wait for the scheduler and take reserved volumes only.
pub(super) fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    late: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let suits = |volume: &&Arc<PersistentVolume>| {
        volume.metadata.deletion_timestamp.is_none()
            && !too_small(volume, claim)
            && !modes_differ(volume, claim)
            && !attributes_class_differs(volume, claim)
            && gives_access(volume, claim)
    };
    let suitable: Vec<&Arc<PersistentVolume>> = volumes.iter().filter(suits).collect();
    if let Some(reserved) = suitable.iter().find(|volume| refers_to(volume, claim)) {
        return Some(reserved);
    }
    let class = claim_class(claim).unwrap_or("");
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let is_free = |volume: &&Arc<PersistentVolume>| {
        let available = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        available
            && volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
            && volume_class(volume) == class
            && selector.is_none_or(|selector| selector.takes(volume.metadata.labels.as_ref()))
    };
    let free = suitable.into_iter().filter(|_| !late).filter(is_free);
    free.min_by(|one, other| {
        let n_modes = |volume: &PersistentVolume| access_modes(volume).len();
        let by_capacity = || capacity(one).cmp(&capacity(other));
        n_modes(one)
            .cmp(&n_modes(other))
            .then_with(by_capacity)
            .then_with(|| name(&one.metadata).cmp(name(&other.metadata)))
    })
}

/// Whether a claim has no volume yet, names none, and may be given this one.
pub(super) fn could_have(claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    named.is_none_or(str::is_empty) && find(claim, std::slice::from_ref(volume), false).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_free_volume_is_for_claims_of_its_class_that_are_small_enough_and_name_none() {
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": { "name": "v" },
            "spec": { "storageClassName": "a", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" } },
            "status": { "phase": "Available" },
        }))
        .unwrap();
        let volume = Arc::new(volume);
        let claim = |class: &str, size: &str, named: Option<&str>| -> PersistentVolumeClaim {
            serde_json::from_value(json!({ "metadata": { "name": "c", "namespace": "n" }, "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteOnce"], "volumeName": named,
                "resources": { "requests": { "storage": size } },
            } }))
            .unwrap()
        };
        assert!(could_have(&claim("a", "1Gi", None), &volume));
        for claim in [claim("b", "1Gi", None), claim("a", "3Gi", None), claim("a", "1Gi", Some("w"))] {
            assert!(!could_have(&claim, &volume));
        }
    }
}
