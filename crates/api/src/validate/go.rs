//! Objects as upstream's internal Go types print them. Messages that show a struct (`Invalid value: {"Type":"Bogus",…}`) or
//! the difference of two carry Go's field names, field order and zero values, and clients compare messages.
//!
//! The table `gotypes.txt` has one line per type: `Name|GoField:jsonField:code|…`. Codes: `s` string, `b` bool, `n` number,
//! `q` quantity (zero values printed), `p` pointer or metav1 type (null when absent, else printed as it is), `l` list, `m` map,
//! `T` struct, `*T` pointer to struct, `[]T` list of structs, `^T` embedded struct, `^meta` embedded ObjectMeta, `!` the pod
//! security context, which internally also holds the host namespace fields of the pod spec.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::validate::diff;
use crate::{Map, Value, gojson};

struct Field {
    go_name: &'static str,
    json_name: &'static str,
    code: &'static str,
}

static TYPES: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    include_str!("gotypes.txt")
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(name, fields)| (name, fields.split('|').map(parse_field).collect()))
        .collect()
});

fn parse_field(text: &'static str) -> Field {
    let mut parts = text.splitn(3, ':');
    let first = parts.next().unwrap_or("");
    match (parts.next(), parts.next()) {
        (Some(json_name), Some(code)) => Field { go_name: first, json_name, code },
        _ => Field { go_name: "", json_name: "", code: first },
    }
}

/// `value` as the internal type `type_name` prints in JSON. Types that are not in the table print as they are.
pub fn value(type_name: &str, value: &Value) -> Value {
    let mut out = Map::new();
    match TYPES.get(type_name) {
        Some(fields) => {
            write_struct(&mut out, fields, value);
            Value::Object(out)
        }
        None => value.clone(),
    }
}

/// As [`value`], null staying null (a nil pointer).
pub fn pointer(type_name: &str, v: &Value) -> Value {
    if v.is_null() { Value::Null } else { value(type_name, v) }
}

/// A list of a type, null staying null.
pub fn list(type_name: &str, list: &Value) -> Value {
    match list {
        Value::Array(items) => items.iter().map(|item| value(type_name, item)).collect(),
        _ => Value::Null,
    }
}

/// The unified diff of two values of a type, as upstream's messages append it.
pub fn diff(type_name: &str, old: &Value, new: &Value) -> String {
    diff::unified(&pretty(&value(type_name, old)), &pretty(&value(type_name, new)))
}

fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    // Writing a Value into memory cannot fail.
    if value.serialize(&mut serializer).is_err() {
        return String::new();
    }
    gojson::html_safe(&String::from_utf8_lossy(&out))
}

fn write_struct(out: &mut Map, fields: &[Field], object: &Value) {
    for field in fields {
        if let Some(embedded) = field.code.strip_prefix('^') {
            match TYPES.get(embedded) {
                Some(fields) => write_struct(out, fields, object),
                None => {
                    let metadata = object.get("metadata").map(without_empty);
                    out.extend(metadata.as_ref().and_then(Value::as_object).cloned().unwrap_or_default());
                }
            }
            continue;
        }
        let printed = match field.code {
            "!" => pod_security_context(object),
            code => print(code, object.get(field.json_name).unwrap_or(&Value::Null)),
        };
        out.insert(field.go_name, printed);
    }
}

fn print(code: &str, v: &Value) -> Value {
    match code {
        "p" => without_empty(v),
        "l" => v.clone(),
        "m" => sorted(v),
        "s" if v.is_null() => "".into(),
        "b" if v.is_null() => false.into(),
        "n" if v.is_null() => 0.into(),
        "q" if v.is_null() => "0".into(),
        "s" | "b" | "n" | "q" => v.clone(),
        _ => match (code.strip_prefix('*'), code.strip_prefix("[]")) {
            (Some(name), _) => pointer(name, v),
            (_, Some(name)) => list(name, v),
            _ => value(code, v),
        },
    }
}

/// A metav1 type as its JSON has it, where empty maps and lists are left out.
fn without_empty(v: &Value) -> Value {
    let is_empty = |v: &Value| match v {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match v {
        Value::Object(map) => {
            let fields = map.iter().filter(|(_, v)| !is_empty(v));
            Value::Object(fields.map(|(k, v)| (k.clone(), without_empty(v))).collect())
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        _ => v.clone(),
    }
}

fn sorted(map: &Value) -> Value {
    let Value::Object(entries) = map else { return map.clone() };
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

const POD_LEVEL_SECURITY_FIELDS: &[&str] = &["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

fn pod_security_context(spec: &Value) -> Value {
    let mut merged = spec.get("securityContext").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in POD_LEVEL_SECURITY_FIELDS {
        if let Some(v) = spec.get(field) {
            merged.insert((*field).to_owned(), v.clone());
        }
    }
    value("PodSecurityContext", &Value::Object(merged))
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn structs_print_go_names_and_zero_values() {
        assert_eq!(
            value("SecurityContext", &json!({"privileged": true, "allowPrivilegeEscalation": false})).to_string(),
            "{\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\
             \"RunAsGroup\":null,\"RunAsNonRoot\":null,\"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\
             \"ProcMount\":null,\"SeccompProfile\":null,\"AppArmorProfile\":null}"
        );
        assert_eq!(
            value(
                "policy.PodDisruptionBudgetSpec",
                &json!({"minAvailable": 2, "selector": {"matchLabels": {"a": "b"}}})
            )
            .to_string(),
            "{\"MinAvailable\":2,\"Selector\":{\"matchLabels\":{\"a\":\"b\"}},\"MaxUnavailable\":null,\
             \"UnhealthyPodEvictionPolicy\":null}"
        );
    }

    #[test]
    fn embedded_structs_and_metadata_are_inline() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {}});
        let printed = value("PodTemplateSpec", &template);
        assert_eq!(printed["labels"]["a"], "b");
        assert_eq!(printed["Spec"]["SecurityContext"]["HostNetwork"], false);
        assert_eq!(value("Volume", &json!({"name": "v"}))["HostPath"], Value::Null);
    }

    #[test]
    fn a_changed_field_shows_its_neighbours() {
        assert_eq!(
            diff("ContainerPort", &json!({"name": "a", "containerPort": 1}), &json!({"name": "b", "containerPort": 1})),
            "@@ -1,5 +1,5 @@\n {\n- \"Name\": \"a\",\n+ \"Name\": \"b\",\n  \"HostPort\": 0,\n  \"ContainerPort\": 1,\n  \"Protocol\": \"\",\n"
        );
    }
}
