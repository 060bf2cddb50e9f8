//! ObjectMeta: reading it, and the rules that hold for every kind.

use crate::Value;

const DNS1123_SUBDOMAIN_MAX_BYTES: usize = 253;

/// The name rule of most kinds: a DNS-1123 subdomain.
pub fn dns1123_subdomain_name(name: &str, prefix: bool) -> Vec<String> {
    let masked = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
    let mut out = Vec::new();
    if masked.len() > DNS1123_SUBDOMAIN_MAX_BYTES {
        out.push(format!("must be no more than {DNS1123_SUBDOMAIN_MAX_BYTES} bytes"));
    }
    if masked.is_empty() || !masked.split('.').all(is_dns1123_label) {
        out.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
             and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    out
}

/// generateName may end with a dash, which a name may not: checked as if it were a letter.
pub fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(head) if !head.is_empty() => format!("{head}a"),
        _ => name.to_owned(),
    }
}

fn is_dns1123_label(label: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    !bytes.is_empty()
        && ok(bytes[0])
        && ok(bytes[bytes.len() - 1])
        && bytes.iter().all(|&b| ok(b) || b == b'-')
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
