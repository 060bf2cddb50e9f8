//! What makes pod number N pod number N: its name, labels, host and claims.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::ownership::{controller_reference, name};
use crate::pods;
use crate::revisions::HASH_LABEL;

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number in the pod's name, if the name is one of this set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = name(&pod.metadata).rsplit_once('-')?;
    (parent == name(&set.metadata)).then(|| number.parse().ok()).flatten()
}

pub(super) fn pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    ordinal: i32,
    revision: &str,
) -> Pod {
    let mut pod = pods::from_template(template, &set.metadata, controller_reference(set));
    let pod_name = format!("{}-{ordinal}", name(&set.metadata));
    pod.metadata.name = Some(pod_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.to_owned(), pod_name.clone());
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(pod_name);
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let volumes = pod_spec.volumes.get_or_insert_default();
    for claim in spec.volume_claim_templates.iter().flatten() {
        let volume_name = name(&claim.metadata);
        volumes.retain(|volume| volume.name != volume_name);
        let source =
            PersistentVolumeClaimVolumeSource { claim_name: claim_name(set, claim, ordinal), read_only: Some(false) };
        volumes.push(Volume {
            name: volume_name.to_owned(),
            persistent_volume_claim: Some(source),
            ..Volume::default()
        });
    }
    if volumes.is_empty() {
        pod_spec.volumes = None;
    }
    pod
}

fn claim_name(set: &StatefulSet, claim: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", name(&claim.metadata), name(&set.metadata))
}

/// The claims of pod `ordinal`. They carry the set's selector labels, so that they are found with its pods.
pub(super) fn claims(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let one = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    spec.volume_claim_templates.iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_keeps_its_number_in_name_host_and_claim() {
        let set = json!({
            "metadata": { "name": "db", "namespace": "n" },
            "spec": {
                "serviceName": "db", "selector": { "matchLabels": { "app": "db" } },
                "template": { "metadata": { "labels": { "app": "db" } }, "spec": { "containers": [] } },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
            },
        });
        let set: StatefulSet = serde_json::from_value(set).unwrap();
        let spec = set.spec.as_ref().unwrap();
        let pod = pod(&set, spec, &spec.template, 2, "db-abc");
        assert_eq!(ordinal(&set, &pod), Some(2));
        let labels = pod.metadata.labels.clone().unwrap();
        assert_eq!((labels[POD_NAME_LABEL].as_str(), labels[HASH_LABEL].as_str()), ("db-2", "db-abc"));
        let pod_spec = pod.spec.unwrap();
        assert_eq!((pod_spec.hostname.as_deref(), pod_spec.subdomain.as_deref()), (Some("db-2"), Some("db")));
        let volume = &pod_spec.volumes.unwrap()[0];
        assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-2");
        let claim = &claims(&set, spec, 2)[0];
        assert_eq!(claim.metadata.name.as_deref(), Some("data-db-2"));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "db");
    }
}
