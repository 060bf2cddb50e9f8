//! ConfigMap and Secret: bags of keys with a size limit, which can be locked. Source: `pkg/apis/core/validation`.

use base64::Engine;

use crate::gojson;
use crate::strategy::Strategy;
use crate::validate::labels::invalid_each;
use crate::validate::names;
use crate::validate::text::{immutable, same};
use crate::{Cursor, ErrorList, Path, Value, meta};

/// Total size of the values.
pub const DATA_MAX_BYTES: usize = 1024 * 1024;
const LOCKED: &str = "field is immutable when `immutable` is set";

pub const CONFIG_MAP: Strategy = Strategy {
    validate: config_map,
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        locked(new, old, &["data", "binaryData"], errors);
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        config_map(new, errors);
    },
    ..Strategy::DEFAULT
};

pub const SECRET: Strategy = Strategy {
    validate: secret,
    prepare_for_update: |new, old, _| {
        if new.get("type").and_then(Value::as_str).unwrap_or("").is_empty() {
            crate::kinds::carry::keep(new, old, "type");
        }
    },
    validate_update: |new, old, errors| {
        meta::validate_update_again(new, old, errors);
        immutable(&new.field("type"), &old.field("type"), errors);
        locked(new, old, &["data"], errors);
        meta::validate_whole_again(new, true, names::subdomain_name, errors);
        secret(new, errors);
    },
    warnings: |new, _, out| {
        if new.field("type").str() == "kubernetes.io/tls" {
            tls_warnings(new, out);
        }
    },
    ..Strategy::DEFAULT
};

fn locked(new: &Cursor<'_>, old: &Cursor<'_>, fields: &[&str], errors: &mut ErrorList) {
    if !old.field("immutable").bool() {
        return;
    }
    if !new.field("immutable").bool() {
        new.field("immutable").forbidden(errors, LOCKED);
    }
    for field in fields {
        if !same(new.field(field).value(), old.field(field).value()) {
            new.field(field).forbidden(errors, LOCKED);
        }
    }
}

fn config_map(map: &Cursor<'_>, errors: &mut ErrorList) {
    let (data, binary) = (map.field("data"), map.field("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        invalid_each(errors, &value.path(), key, names::config_map_key(key));
        if binary.value().get(key).is_some() {
            errors.invalid(value.path(), key, "duplicate of key present in binaryData");
        }
        size += value.str().len();
    }
    for (key, value) in binary.entries() {
        invalid_each(errors, &value.path(), key, names::config_map_key(key));
        size += decoded_len(value.str());
    }
    if size > DATA_MAX_BYTES {
        // The path of a field without a name, which is how upstream points at the whole object.
        errors.too_long(Path::new("[]"), DATA_MAX_BYTES);
    }
}

/// Length in bytes of what padded base64 stands for.
fn decoded_len(base64: &str) -> usize {
    base64.len() / 4 * 3 - base64.bytes().rev().take_while(|&b| b == b'=').count().min(2)
}

fn decoded(base64: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default()
}

fn secret(secret: &Cursor<'_>, errors: &mut ErrorList) {
    let data = secret.field("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        invalid_each(errors, &value.path(), key, names::config_map_key(key));
        size += decoded_len(value.str());
    }
    if size > DATA_MAX_BYTES {
        errors.too_long(data.path(), DATA_MAX_BYTES);
    }
    let has = |key: &str| data.value().get(key).is_some();
    let mut require = |keys: &[&str]| {
        for key in keys {
            errors.required(data.path().key(key), "");
        }
    };
    match secret.field("type").str() {
        "kubernetes.io/service-account-token" => {
            let account = secret.field("metadata").field("annotations").key("kubernetes.io/service-account.name");
            if account.is_empty() {
                account.required(errors, "");
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(&data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => require(&["username", "password"]),
        "kubernetes.io/ssh-auth" if data.field("ssh-privatekey").is_empty() => require(&["ssh-privatekey"]),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    require(&[key]);
                }
            }
        }
        _ => {}
    }
}

fn docker_config(data: &Cursor<'_>, key: &str, errors: &mut ErrorList) {
    let value = data.key(key);
    if data.value().get(key).is_none() {
        value.required(errors, "");
        return;
    }
    if let Some(problem) = json_object_problem(&decoded(value.str())) {
        errors.invalid(value.path(), "<secret contents redacted>", problem);
    }
}

/// What Go's decoder says of bytes that are no JSON object.
fn json_object_problem(bytes: &[u8]) -> Option<String> {
    match gojson::parse(bytes) {
        Ok(document) if document.value.is_object() || document.value.is_null() => None,
        Ok(document) => {
            let kind = gojson::type_name(&document.value);
            Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
        }
        Err(syntax) => Some(syntax),
    }
}

fn tls_warnings(secret: &Cursor<'_>, out: &mut Vec<String>) {
    let is_pem = |key: &str| decoded(secret.field("data").field(key).str()).windows(11).any(|w| w == b"-----BEGIN ");
    if !is_pem("tls.crt") {
        out.push("tls: failed to find any PEM data in certificate input".to_owned());
    } else if !is_pem("tls.key") {
        out.push("tls: failed to find any PEM data in key input".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn errors_of(rule: fn(&Cursor<'_>, &mut ErrorList), object: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        rule(&Cursor::root(&object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_is_in_one_bag_only() {
        assert_eq!(
            errors_of(config_map, json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}})),
            ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
        );
    }

    #[test]
    fn typed_secrets_need_their_keys() {
        assert_eq!(
            errors_of(secret, json!({"type": "kubernetes.io/tls", "data": {}})),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
        assert_eq!(
            errors_of(secret, json!({"type": "kubernetes.io/basic-auth"})),
            ["data[username]: Required value", "data[password]: Required value"]
        );
        assert_eq!(
            errors_of(secret, json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "e30="}})).len(),
            0
        );
    }

    #[test]
    fn a_locked_map_stays_locked() {
        let old = json!({"metadata": {"name": "a", "namespace": "d", "resourceVersion": "1"}, "immutable": true, "data": {"a": "x"}});
        let new = json!({"metadata": {"name": "a", "namespace": "d", "resourceVersion": "1"}, "data": {"a": "y"}});
        let mut errors = ErrorList::new();
        (CONFIG_MAP.validate_update)(&Cursor::root(&new), &Cursor::root(&old), &mut errors);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
