//! The hash that names a revision of a pod template.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::dump;

/// Letters and digits that make no words, as upstream's names have them.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a of upstream's dump of the template and the collision count, in decimal digits replaced by [`SAFE`] characters: the
/// same number that Kubernetes computes, so that a cluster that moves here keeps its ReplicaSets.
pub(crate) fn hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    // Typed objects always serialise; a failure would only make the hash less varied.
    let value = serde_json::to_value(template).unwrap_or_default();
    let mut bytes = dump::dump(&value, "v1.PodTemplateSpec").into_bytes();
    if let Some(count) = collision_count {
        // Upstream's buffer has eight bytes, of which the count fills four.
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// FNV-1 of a ControllerRevision's data as Go writes JSON (sorted, HTML characters escaped), and the collision count.
pub(crate) fn data_hash(data: &Value, collision_count: Option<i32>) -> String {
    let mut text = api::gojson::marshal(&data.clone().into());
    if let Some(count) = collision_count {
        text.push_str(&count.to_string());
    }
    safe_encode(&fnv32(text.as_bytes()).to_string())
}

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

pub(crate) fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| hash.wrapping_mul(FNV_PRIME) ^ u32::from(*byte))
}

pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()])).collect()
}

pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Equal but for the hash label, which the controller itself adds.
pub(crate) fn equal_ignoring_hash(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    let without = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.remove(HASH_LABEL);
        template
    };
    without(one) == without(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fnv_matches_its_published_vectors() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
        assert_eq!(fnv32(b"a"), 0x050c_5d7e);
        assert_eq!(fnv32(b"foobar"), 0x31f0_b262);
    }

    /// Recorded from Kubernetes v1.36.2: the hash of a DaemonSet's defaulted template.
    #[test]
    fn a_template_hashes_to_the_number_upstream_gives_it() {
        let template = json!({
            "metadata": { "labels": { "app": "a" } },
            "spec": {
                "containers": [{
                    "image": "busybox", "imagePullPolicy": "Always", "name": "c", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
            },
        });
        let template: PodTemplateSpec = serde_json::from_value(template).unwrap();
        assert_eq!(hash(&template, None), "55c46458c6");
        assert_ne!(hash(&template, Some(1)), hash(&template, None));
    }

    #[test]
    fn safe_names_have_no_vowels() {
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }
}
