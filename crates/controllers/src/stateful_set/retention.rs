//! Who owns the claims of a StatefulSet, so that they go with it or with their pod where the set says so.
//! Source: KEP-1847.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity::ordinal;
use crate::ownership::{controller_of, controller_reference, uid};

/// The claim's owners as they should be; None when they are, or when the claim is somebody else's.
pub(super) fn owners(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let (of_set, of_pod) = (uid(&set.metadata), uid(&pod.metadata));
    let is_ours = |owner: &OwnerReference| owner.uid == of_set || owner.uid == of_pod;
    if controller_of(&claim.metadata).is_some_and(|owner| !is_ours(owner)) {
        return None;
    }
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let with_set = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let with_pod = deletes(policy.and_then(|policy| policy.when_scaled.as_ref())) && is_scaled_down(set, spec, pod);
    let old = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let mut new: Vec<OwnerReference> = old.iter().filter(|owner| !is_ours(owner)).cloned().collect();
    if with_pod {
        new.push(controller_reference(pod));
    } else if with_set {
        new.push(controller_reference(set));
    }
    (new != old).then_some(new)
}

/// The pod's number is beyond what the set wants.
fn is_scaled_down(set: &StatefulSet, spec: &StatefulSetSpec, pod: &Pod) -> bool {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1));
    ordinal(set, pod).is_some_and(|number| !wanted.contains(&number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_go_with_set_or_pod_as_the_policy_says() {
        let owner_kind = |deleted: &str, scaled: &str, number: i32| {
            let set: StatefulSet = serde_json::from_value(json!({
                "metadata": { "name": "db", "uid": "s" },
                "spec": {
                    "replicas": 1, "selector": {}, "template": {},
                    "persistentVolumeClaimRetentionPolicy": { "whenDeleted": deleted, "whenScaled": scaled },
                },
            }))
            .unwrap();
            let pod = json!({ "metadata": { "name": format!("db-{number}"), "uid": "p" } });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let claim = PersistentVolumeClaim::default();
            let owners = owners(&set, set.spec.as_ref().unwrap(), &pod, &claim);
            owners.and_then(|owners| owners.first().map(|owner| owner.kind.clone()))
        };
        for (deleted, scaled, number, expected) in [
            ("Retain", "Retain", 0, None),
            ("Retain", "Retain", 3, None),
            ("Delete", "Retain", 3, Some("StatefulSet")),
            ("Retain", "Delete", 0, None),
            ("Retain", "Delete", 3, Some("Pod")),
            ("Delete", "Delete", 0, Some("StatefulSet")),
            ("Delete", "Delete", 3, Some("Pod")),
        ] {
            assert_eq!(owner_kind(deleted, scaled, number).as_deref(), expected, "{deleted} {scaled} {number}");
        }
    }
}
