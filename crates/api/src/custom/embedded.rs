//! Resources inside of resources: what is said of their kind and metadata. Source: `schema/objectmeta`.

use super::structural::Structural;
use crate::codec;
use crate::field::ErrorType;
use crate::validate::names;
use crate::{Cursor, ErrorList, FieldError, Map, Path, Value, meta};

/// Brings the metadata of embedded resources into the form of any metadata. The error is that of the first wrong type;
/// fields that metadata does not have go into `unknown`.
pub(super) fn coerce(
    path: &Path,
    value: &mut Value,
    schema: &Structural,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    match value {
        Value::Object(map) => {
            if schema.is_embedded {
                coerce_resource(path, map, unknown)?;
            }
            for (name, value) in map.iter_mut() {
                match schema.field(name) {
                    Ok(Some(below)) if schema.property(name).is_some() => {
                        coerce(&path.child(name), value, below, unknown)?
                    }
                    Ok(Some(below)) => coerce(&path.key(name), value, below, unknown)?,
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return Ok(()) };
            for (index, item) in items.iter_mut().enumerate() {
                coerce(&path.index(index), item, below, unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_resource(path: &Path, map: &mut Map, unknown: &mut Vec<String>) -> Result<(), FieldError> {
    let refuse = |name: &str, value: &Value, detail: &str| {
        Err(FieldError {
            error_type: ErrorType::Invalid,
            path: path.child(name),
            bad_value: value.clone(),
            detail: detail.to_owned(),
        })
    };
    for name in ["apiVersion", "kind"] {
        if let Some(value) = map.get(name).filter(|value| !value.is_string()) {
            return refuse(name, value, "must be a string");
        }
    }
    let Some(metadata) = map.get("metadata") else { return Ok(()) };
    match codec::normalize_metadata(metadata) {
        Ok(normalized) => {
            let path = path.child("metadata");
            unknown.extend(normalized.unknown.into_iter().map(|name| format!("{path}.{name}")));
            map.insert("metadata", normalized.value);
            Ok(())
        }
        Err(text) => refuse("metadata", metadata, &text),
    }
}

/// Embedded resources have a version, a kind, and well-formed metadata.
pub(super) fn validate(path: &Path, value: &Value, schema: &Structural, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if schema.is_embedded {
                resource(path, map, errors);
            }
            for (name, value) in map {
                match schema.field(name) {
                    Ok(Some(below)) if schema.property(name).is_some() => {
                        validate(&path.child(name), value, below, errors)
                    }
                    Ok(Some(below)) => validate(&path.key(name), value, below, errors),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            items.iter().enumerate().for_each(|(i, item)| validate(&path.index(i), item, below, errors));
        }
        _ => {}
    }
}

fn resource(path: &Path, map: &Map, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        if !map.contains_key(name) {
            errors.required(path.child(name), "");
        }
    }
    for name in ["apiVersion", "kind"] {
        let Some(value) = map.get(name) else { continue };
        let Some(text) = value.as_str() else {
            errors.invalid(path.child(name), value.clone(), "must be a string");
            continue;
        };
        if text.is_empty() {
            errors.required(path.child(name), "");
        } else if name == "apiVersion" && text.matches('/').count() > 1 {
            errors.invalid(path.child(name), text, format!("unexpected GroupVersion string: {text}"));
        } else if name == "kind" {
            let messages = names::dns1035_label(&text.to_lowercase());
            if !messages.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", messages.join(","));
                errors.invalid(path.child(name), text, detail);
            }
        }
    }
    if let Some(metadata) = map.get("metadata") {
        meta::validate_embedded(&Cursor::at(metadata, path.child("metadata")), errors);
    }
}
