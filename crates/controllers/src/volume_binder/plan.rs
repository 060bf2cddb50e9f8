//! What to do about a claim, and about a volume: each from its own side, as the two meet in the middle.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::matching::{claim_class, find, mismatch, modes_differ, refers_to};
use crate::ownership::{name, namespace, uid};

/// On the claim: both halves of the binding have been written.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either: the controller chose the other half, not the user.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub(super) const PROVISIONERS: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Provisioners of this prefix were part of Kubernetes once; nobody else answers for them.
const IN_TREE: &str = "kubernetes.io/";

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A warning or not, a reason and a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

fn normal(reason: &'static str, message: impl Into<String>) -> Note {
    Note { warning: false, reason, message: message.into() }
}

fn warning(reason: &'static str, message: impl Into<String>) -> Note {
    Note { warning: true, reason, message: message.into() }
}

pub(super) struct ClaimView<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<PersistentVolume>],
    pub classes: &'a [Arc<StorageClass>],
    /// Names of pods that use the claim and have no node yet.
    pub waiting_pods: &'a [String],
}

#[derive(Debug, PartialEq)]
pub(super) enum ClaimPlan {
    Bind(Arc<PersistentVolume>),
    /// Stays, or becomes again, Pending.
    Pending(Option<Note>),
    Lost(Note),
    /// Only told about: somebody must act first.
    Tell(Note),
    /// Left open by the user, and there is a default by now.
    SetClass(String),
    /// Left to a provisioner outside.
    Provision(String),
    /// Bound to a volume that another claim has by now; nothing to do before one of them changes.
    Retry(String),
}

/// Same view, same plan. Touches nothing.
pub(super) fn plan_claim(view: &ClaimView) -> ClaimPlan {
    let claim = view.claim;
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
    let volume = view.volumes.iter().find(|volume| name(&volume.metadata) == wanted);
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return plan_bound_claim(claim, wanted, volume);
    }
    if wanted.is_empty() {
        return plan_open_claim(view);
    }
    let Some(volume) = volume else { return ClaimPlan::Pending(None) };
    if volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).is_none() {
        return match mismatch(volume, claim) {
            None => ClaimPlan::Bind(volume.clone()),
            Some(reason) => {
                let message = format!("Cannot bind to requested volume {wanted:?}: {reason}");
                ClaimPlan::Pending(Some(warning("VolumeMismatch", message)))
            }
        };
    }
    if refers_to(volume, claim) {
        return ClaimPlan::Bind(volume.clone());
    }
    if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() {
        let message = format!("volume {wanted:?} already bound to a different claim.");
        return ClaimPlan::Pending(Some(warning("FailedBinding", message)));
    }
    ClaimPlan::Retry(format!(
        "invalid binding of claim {:?} to volume {wanted:?}: volume already claimed",
        format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata))
    ))
}

fn plan_bound_claim(claim: &PersistentVolumeClaim, wanted: &str, volume: Option<&Arc<PersistentVolume>>) -> ClaimPlan {
    let lost = |message: &str| ClaimPlan::Lost(warning("ClaimLost", message));
    if wanted.is_empty() {
        return lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = volume else {
        return lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none_or(|reference| reference.uid.as_deref() == Some(uid(&claim.metadata))) {
        return ClaimPlan::Bind(volume.clone());
    }
    let message = "Two claims are bound to the same volume, this one is bound incorrectly";
    ClaimPlan::Lost(warning("ClaimMisbound", message))
}

fn plan_open_claim(view: &ClaimView) -> ClaimPlan {
    let claim = view.claim;
    let class_name = claim_class(claim);
    let class = view.classes.iter().find(|class| Some(name(&class.metadata)) == class_name);
    let late = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = find(claim, view.volumes, late) {
        return ClaimPlan::Bind(volume.clone());
    }
    if class_name.is_none()
        && let Some(default) = default_class(view.classes)
    {
        return ClaimPlan::SetClass(default);
    }
    if late && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        return ClaimPlan::Pending(Some(waiting(view.waiting_pods)));
    }
    let Some(class_name) = class_name.filter(|class| !class.is_empty()) else {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return ClaimPlan::Pending(Some(normal("FailedBinding", message)));
    };
    let Some(class) = class else {
        let message = format!("storageclass.storage.k8s.io {class_name:?} not found");
        return ClaimPlan::Tell(warning("ProvisioningFailed", message));
    };
    if class.provisioner.starts_with(IN_TREE) {
        let message = format!("no volume plugin matched name: {}", class.provisioner);
        return ClaimPlan::Tell(warning("ProvisioningFailed", message));
    }
    ClaimPlan::Provision(class.provisioner.clone())
}

fn waiting(pods: &[String]) -> Note {
    match pods {
        [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [pod] => normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
    }
}

/// The newest of those marked as default; of the same age, the first by name.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default =
        |class: &&Arc<StorageClass>| DEFAULT_CLASS.iter().any(|key| annotation(&class.metadata, key) == Some("true"));
    let newest = classes.iter().filter(is_default).min_by(|one, other| {
        let age = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        age(other).cmp(&age(one)).then_with(|| name(&one.metadata).cmp(name(&other.metadata)))
    });
    newest.map(|class| name(&class.metadata).to_owned())
}

#[derive(Debug, PartialEq)]
pub(super) enum VolumePlan {
    Phase(&'static str),
    /// The claim has to move first, or cannot have this volume.
    WakeClaim(Option<Note>),
    /// The claim took another volume: this one is free again.
    Unbind,
    /// The claim is gone.
    Reclaim,
}

/// `claim` is the one the volume's claimRef names, when it exists and has the uid meant.
pub(super) fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return VolumePlan::Phase("Available");
    };
    if reference.uid.as_deref().is_none_or(str::is_empty) {
        return VolumePlan::Phase("Available");
    }
    let Some(claim) = claim else { return VolumePlan::Reclaim };
    let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
    if bound == name(&volume.metadata) {
        return VolumePlan::Phase("Bound");
    }
    if bound.is_empty() {
        let message = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
            name(&claim.metadata)
        );
        return VolumePlan::WakeClaim(modes_differ(volume, claim).then(|| warning("VolumeMismatch", message)));
    }
    let dynamic = annotation(&volume.metadata, PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete";
    if dynamic { VolumePlan::Reclaim } else { VolumePlan::Unbind }
}

pub(super) fn reclaim_policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Why a released volume cannot be reclaimed here; None when it is kept on purpose, or an external provisioner deletes it.
pub(super) fn reclaim_failure(volume: &PersistentVolume) -> Option<Note> {
    let spec = volume.spec.as_ref()?;
    match reclaim_policy(volume) {
        "Retain" => None,
        "Recycle" => Some(warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        "Delete" => {
            let provisioner = annotation(&volume.metadata, PROVISIONED_BY);
            if provisioner.is_some_and(|provisioner| !provisioner.starts_with(IN_TREE)) {
                return None;
            }
            // Upstream has plugins for these, of which none deletes what it did not make.
            let known = spec.nfs.is_some() || spec.host_path.is_some();
            let why = if known { "no deletable volume plugin matched" } else { "no volume plugin matched" };
            let message = format!("error getting deleter volume plugin for volume {:?}: {why}", name(&volume.metadata));
            Some(warning("VolumeFailedDelete", message))
        }
        _ => Some(warning("VolumeUnknownReclaimPolicy", "Volume has an unrecognized reclaim policy")),
    }
}

fn set_annotation(meta: &mut ObjectMeta, key: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), "yes".to_owned());
}

/// The volume with its half of the binding.
pub(super) fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut bound = volume.clone();
    let reserved = refers_to(volume, claim);
    let spec = bound.spec.get_or_insert_default();
    if spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_deref()) != Some(uid(&claim.metadata)) {
        spec.claim_ref = Some(ObjectReference {
            kind: Some("PersistentVolumeClaim".to_owned()),
            api_version: Some("v1".to_owned()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            ..ObjectReference::default()
        });
    }
    if !reserved {
        set_annotation(&mut bound.metadata, BOUND_BY_CONTROLLER);
    }
    bound
}

/// The claim with its half.
pub(super) fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut bound = claim.clone();
    let spec = bound.spec.get_or_insert_default();
    if spec.volume_name.as_deref() != volume.metadata.name.as_deref() {
        spec.volume_name = volume.metadata.name.clone();
        set_annotation(&mut bound.metadata, BOUND_BY_CONTROLLER);
    }
    if annotation(&bound.metadata, BIND_COMPLETED).is_none() {
        set_annotation(&mut bound.metadata, BIND_COMPLETED);
    }
    bound
}

/// The volume without the claim: wholly when the controller chose it, else only reserved again.
pub(super) fn unbound_volume(volume: &PersistentVolume) -> PersistentVolume {
    let mut free = volume.clone();
    let chosen = free.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER));
    if let Some(spec) = &mut free.spec {
        match &mut spec.claim_ref {
            Some(reference) if chosen.is_none() => reference.uid = None,
            reference => *reference = None,
        }
    }
    free
}

/// A claim's status in a phase, with what the volume gives while it has one.
pub(super) fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> PersistentVolumeClaimStatus {
    let old = claim.status.clone().unwrap_or_default();
    let was_bound = old.phase.as_deref() == Some("Bound");
    let mut status = PersistentVolumeClaimStatus { phase: Some(phase.to_owned()), ..old };
    match volume.and_then(|volume| volume.spec.as_ref()) {
        Some(spec) => {
            status.access_modes = spec.access_modes.clone();
            // A bound claim's capacity changes only when its file system has grown.
            if !was_bound || status.capacity.is_none() {
                status.capacity = spec.capacity.clone();
            }
            if !was_bound {
                status.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
            }
        }
        None => {
            status.access_modes = None;
            status.capacity = None;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut full = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "2Gi" } } });
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        let metadata = json!({ "name": "c", "namespace": "n", "uid": "u" });
        serde_json::from_value(json!({ "metadata": metadata, "spec": full })).unwrap()
    }

    fn volume(volume_name: &str, capacity: &str, modes: &[&str]) -> Arc<PersistentVolume> {
        let volume = json!({
            "metadata": { "name": volume_name },
            "spec": { "capacity": { "storage": capacity }, "accessModes": modes, "hostPath": { "path": "/x" } },
            "status": { "phase": "Available" },
        });
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn class(class_name: &str, provisioner: &str, mode: &str, default: &str) -> Arc<StorageClass> {
        let metadata = json!({ "name": class_name, "annotations": { DEFAULT_CLASS[0]: default } });
        let class = json!({ "metadata": metadata, "provisioner": provisioner, "volumeBindingMode": mode });
        Arc::new(serde_json::from_value(class).unwrap())
    }

    fn planned(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        classes: &[Arc<StorageClass>],
    ) -> ClaimPlan {
        plan_claim(&ClaimView { claim, volumes, classes, waiting_pods: &[] })
    }

    #[test]
    fn the_smallest_sufficient_volume_with_fewest_modes_is_bound() {
        let volumes = [
            volume("small", "1Gi", &["ReadWriteOnce"]),
            volume("shared", "2Gi", &["ReadWriteOnce", "ReadOnlyMany"]),
            volume("large", "10Gi", &["ReadWriteOnce"]),
            volume("fitting", "3Gi", &["ReadWriteOnce"]),
        ];
        let claim = claim(json!({ "storageClassName": "" }));
        assert_eq!(planned(&claim, &volumes, &[]), ClaimPlan::Bind(volumes[3].clone()));
        let message = "no persistent volumes available for this claim and no storage class is set";
        assert_eq!(planned(&claim, &[], &[]), ClaimPlan::Pending(Some(normal("FailedBinding", message))));
    }

    #[test]
    fn both_halves_are_written_and_then_nothing_changes() {
        let (claim, volume) = (claim(json!({})), volume("v", "3Gi", &["ReadWriteOnce"]));
        let volume = bound_volume(&volume, &claim);
        assert_eq!(annotation(&volume.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(plan_volume(&volume, Some(&claim)), VolumePlan::WakeClaim(None));
        let bound = bound_claim(&claim, &volume);
        assert_eq!(annotation(&bound.metadata, BIND_COMPLETED), Some("yes"));
        assert_eq!(plan_volume(&volume, Some(&bound)), VolumePlan::Phase("Bound"));
        assert_eq!(bound_volume(&volume, &bound), volume);
        assert_eq!(bound_claim(&bound, &volume), bound);
        let volumes = [Arc::new(volume.clone())];
        assert_eq!(planned(&bound, &volumes, &[]), ClaimPlan::Bind(volumes[0].clone()));
        let status = serde_json::to_value(claim_status(&bound, "Bound", Some(&volume))).unwrap();
        let expected = json!({ "phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "3Gi" } });
        assert_eq!(status, expected);
        assert_eq!(plan_volume(&volume, None), VolumePlan::Reclaim);
        let free = unbound_volume(&volume);
        assert_eq!(plan_volume(&free, None), VolumePlan::Phase("Available"));
        let ClaimPlan::Lost(note) = planned(&bound, &[], &[]) else { panic!("still there") };
        assert_eq!(note.message, "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    }

    #[test]
    fn classes_decide_who_provides_the_volume() {
        let of = |name: &str| claim(json!({ "storageClassName": name }));
        let classes = [
            class("csi", "csi.example.com", "Immediate", "true"),
            class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer", "false"),
        ];
        assert_eq!(planned(&of("csi"), &[], &classes), ClaimPlan::Provision("csi.example.com".to_owned()));
        let wait = normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding");
        assert_eq!(planned(&of("local"), &[], &classes), ClaimPlan::Pending(Some(wait)));
        let missing = warning("ProvisioningFailed", "storageclass.storage.k8s.io \"gone\" not found");
        assert_eq!(planned(&of("gone"), &[], &classes), ClaimPlan::Tell(missing));
        assert_eq!(planned(&claim(json!({})), &[], &classes), ClaimPlan::SetClass("csi".to_owned()));
    }

    #[test]
    fn a_named_volume_that_does_not_suit_is_told_of() {
        let claim = claim(json!({ "volumeName": "v", "storageClassName": "" }));
        let message = "Cannot bind to requested volume \"v\": requested PV is too small";
        let expected = ClaimPlan::Pending(Some(warning("VolumeMismatch", message)));
        assert_eq!(planned(&claim, &[volume("v", "1Gi", &["ReadWriteOnce"])], &[]), expected);
        assert_eq!(planned(&claim, &[], &[]), ClaimPlan::Pending(None));
    }

    #[test]
    fn deleting_needs_a_provisioner() {
        let mut volume = volume("v", "1Gi", &[]).as_ref().clone();
        assert_eq!(reclaim_failure(&volume), None);
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Delete".to_owned());
        let message = "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
        assert_eq!(reclaim_failure(&volume), Some(warning("VolumeFailedDelete", message)));
        volume.metadata.annotations = Some([(PROVISIONED_BY.to_owned(), "csi.example.com".to_owned())].into());
        assert_eq!(reclaim_failure(&volume), None);
    }
}
