//! The hash that names a revision of a pod template.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;

/// Letters and digits that make no words, as upstream's names have them.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a of the value's canonical JSON and the collision count, in decimal digits replaced by [`SAFE`] characters. Upstream
/// hashes a dump of its own memory instead; nobody compares hashes of two control planes, only templates.
pub(crate) fn hash<T: Serialize>(value: &T, collision_count: Option<i32>) -> String {
    // Typed objects always serialise; a failure would only make the hash less varied.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

pub(crate) fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
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
    use super::*;

    #[test]
    fn fnv_matches_its_published_vectors() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn safe_names_have_no_vowels() {
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
        assert_ne!(hash(&"x", None), hash(&"x", Some(1)));
    }
}
