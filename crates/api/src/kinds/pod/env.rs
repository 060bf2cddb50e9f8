//! Environment variables of containers, and the field and resource selectors they share with downward API volumes.

use crate::kinds::pod::each_container;
use crate::validate::labels::invalid_each;
use crate::validate::names;
use crate::validate::resources::{is_huge_page, quantity};
use crate::validate::text::{formatted, path_no_backsteps, required_formatted};
use crate::{Cursor, ErrorList};

/// Fields of a pod that a variable can take, sorted.
pub const ENV_FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that a file of a volume can take, sorted.
pub const VOLUME_FIELD_PATHS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that the conversion of field labels knows at all.
const KNOWN_FIELD_PATHS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];
const RESOURCE_PATHS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` of a container.
pub fn env(list: &Cursor<'_>, errors: &mut ErrorList) {
    for variable in list.items() {
        let name = variable.field("name");
        required_formatted(&name, names::env_var_name, errors);
        value_from(&variable, errors);
    }
}

fn value_from(variable: &Cursor<'_>, errors: &mut ErrorList) {
    let from = variable.field("valueFrom");
    if !from.is_set() {
        return;
    }
    let mut n_sources = 0;
    let mut each = |field: &str, rule: &mut dyn FnMut(&Cursor<'_>)| {
        let source = from.field(field);
        if source.is_set() {
            n_sources += 1;
            rule(&source);
        }
    };
    each("fieldRef", &mut |c| field_selector(c, ENV_FIELD_PATHS, errors));
    each("resourceFieldRef", &mut |c| resource_selector(c, false, errors));
    each("configMapKeyRef", &mut |c| key_selector(c, errors));
    each("secretKeyRef", &mut |c| key_selector(c, errors));
    each("fileKeyRef", &mut |c| file_key_selector(c, errors));
    let detail = if n_sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !variable.field("value").is_empty() {
        "may not be specified when `value` is not empty"
    } else if n_sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    errors.invalid(from.path(), "", detail);
}

/// `envFrom` of a container.
pub fn env_from(list: &Cursor<'_>, errors: &mut ErrorList) {
    for item in list.items() {
        let prefix = item.field("prefix");
        if !prefix.is_empty() {
            formatted(&prefix, names::env_var_name, errors);
        }
        let mut n_sources = 0;
        for field in ["configMapRef", "secretRef"] {
            let source = item.field(field);
            if !source.is_set() {
                continue;
            }
            n_sources += 1;
            let name = source.field("name");
            if name.is_empty() {
                name.required(errors, "");
            } else {
                invalid_each(errors, &name.path(), name.str(), names::subdomain_name(name.str(), true));
            }
        }
        match n_sources {
            0 => errors.invalid(list.path(), "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(list.path(), "", "may not have more than one field specified at a time"),
        }
    }
}

/// An ObjectFieldSelector: a path, with a subscript for labels and annotations.
pub fn field_selector(selector: &Cursor<'_>, allowed: &[&str], errors: &mut ErrorList) {
    for field in ["apiVersion", "fieldPath"] {
        let value = selector.field(field);
        if value.is_empty() {
            value.required(errors, "");
            return;
        }
    }
    let field_path = selector.field("fieldPath");
    let text = field_path.str();
    let subscripted = split_subscript(text);
    let base = subscripted.map_or(text, |(base, _)| base);
    if selector.field("apiVersion").str() != "v1" {
        let detail =
            format!("error converting fieldPath: unsupported pod version: {}", selector.field("apiVersion").str());
        errors.invalid(field_path.path(), text, detail);
        return;
    }
    if !KNOWN_FIELD_PATHS.contains(&base) {
        let detail = format!("error converting fieldPath: field label not supported: {text}");
        errors.invalid(field_path.path(), text, detail);
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_each(errors, &selector.path(), &key, names::qualified_name(&key));
        }
        Some(("metadata.labels", key)) => invalid_each(errors, &selector.path(), key, names::qualified_name(key)),
        Some((base, _)) => errors.invalid(selector.path(), base, "does not support subscript"),
        None if !allowed.contains(&text) => errors.not_supported(field_path.path(), text, allowed),
        None => {}
    }
}

/// `metadata.labels['x']` into path and key.
fn split_subscript(text: &str) -> Option<(&str, &str)> {
    let (path, rest) = text.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, rest))
}

/// A ResourceFieldSelector; files of volumes have to name the container.
pub fn resource_selector(selector: &Cursor<'_>, in_volume: bool, errors: &mut ErrorList) {
    let (container, resource) = (selector.field("containerName"), selector.field("resource"));
    let name = resource.str();
    let is_huge_pages = ["limits.", "requests."].iter().any(|p| name.strip_prefix(p).is_some_and(is_huge_page));
    if in_volume && container.is_empty() {
        container.required(errors, "");
    } else if resource.is_empty() {
        resource.required(errors, "");
    } else if !RESOURCE_PATHS.contains(&name) && !is_huge_pages {
        errors.not_supported(resource.path(), name, RESOURCE_PATHS);
    }
    divisor(selector, name, is_huge_pages, errors);
}

const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn divisor(selector: &Cursor<'_>, name: &str, is_huge_pages: bool, errors: &mut ErrorList) {
    let divisor = selector.field("divisor");
    let amount = quantity(divisor.value());
    if amount.is_zero() {
        return;
    }
    let text = amount.to_string();
    let bytes = |what: &str| {
        format!(
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the {what} resource"
        )
    };
    let resource = name.split_once('.').map_or("", |(_, r)| r);
    let detail = match resource {
        "cpu" if !matches!(text.as_str(), "1" | "1m") => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        "memory" if !BYTE_DIVISORS.contains(&text.as_str()) => bytes("memory"),
        "ephemeral-storage" if !BYTE_DIVISORS.contains(&text.as_str()) => bytes("local ephemeral storage"),
        _ if is_huge_pages && !BYTE_DIVISORS.contains(&text.as_str()) => bytes("hugepages"),
        _ => return,
    };
    errors.invalid(divisor.path(), name, detail);
}

fn key_selector(selector: &Cursor<'_>, errors: &mut ErrorList) {
    formatted(&selector.field("name"), names::dns1123_subdomain, errors);
    let key = selector.field("key");
    required_formatted(&key, names::config_map_key, errors);
}

fn file_key_selector(selector: &Cursor<'_>, errors: &mut ErrorList) {
    let (key, volume, path) = (selector.field("key"), selector.field("volumeName"), selector.field("path"));
    required_formatted(&key, names::env_var_name, errors);
    required_formatted(&volume, names::dns1123_label, errors);
    if path.is_empty() {
        path.required(errors, "");
    } else {
        path_no_backsteps(&path, errors);
    }
}

/// Files with variables are read from volumes that start empty.
pub fn file_key_volumes(spec: &Cursor<'_>, errors: &mut ErrorList) {
    each_container(spec, |container| {
        for variable in container.field("env").items() {
            let file = variable.field("valueFrom").field("fileKeyRef");
            if !file.is_set() {
                continue;
            }
            let volume = file.field("volumeName");
            // Of volumes with one name, the last.
            match spec.field("volumes").items().filter(|v| v.field("name").str() == volume.str()).last() {
                None => errors.not_found(volume.path(), volume.str()),
                Some(found) if !found.field("emptyDir").is_set() => {
                    errors.invalid(volume.path(), volume.str(), "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    });
}
