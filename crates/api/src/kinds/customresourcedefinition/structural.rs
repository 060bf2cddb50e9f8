//! Structural schemas: every field has a type outside of logical parts, and logical parts (`allOf`, `anyOf`, `oneOf`, `not`) only
//! narrow values of fields that are described outside of them.

use std::sync::LazyLock;

use crate::json;

use super::pattern;
use crate::{Cursor, ErrorList, FieldError, Path, Value};

static INT_OR_STRING: LazyLock<Value> = LazyLock::new(|| json!([{"type": "integer"}, {"type": "string"}]));

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Why a schema has no structural form at all; other rules refuse the same fields in better words.
pub(super) fn unsupported(schema: &Value) -> Option<&'static str> {
    let fields = schema.as_object()?;
    const UNSUPPORTED: &[(&str, &str)] = &[
        ("id", "OpenAPIV3Schema 'id' is not supported"),
        ("$schema", "OpenAPIV3Schema 'schema' is not supported"),
        ("$ref", "OpenAPIV3Schema '$ref' is not supported"),
        ("patternProperties", "OpenAPIV3Schema 'patternProperties' is not supported"),
        ("dependencies", "OpenAPIV3Schema 'dependencies' is not supported"),
        ("additionalItems", "OpenAPIV3Schema 'additionalItems' is not supported"),
        ("definitions", "OpenAPIV3Schema 'definitions' is not supported"),
    ];
    let is_used = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(map)) => !map.is_empty() || name == "additionalItems",
        Some(_) => true,
    };
    if let Some((_, reason)) = UNSUPPORTED.iter().find(|(name, _)| is_used(name)) {
        return Some(reason);
    }
    let not = fields.get("not").into_iter();
    let parts = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|f| fields.get(f)?.as_array()).flatten();
    let additional = fields.get("additionalProperties").into_iter();
    if let Some(reason) = not.chain(parts).chain(additional).find_map(unsupported) {
        return Some(reason);
    }
    if fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined");
    }
    let items = fields.get("items");
    if items.and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array");
    }
    let properties = fields.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.values());
    items.into_iter().chain(properties).find_map(unsupported)
}

pub(super) fn is_structural(root: &Value) -> bool {
    unsupported(root).is_none() && validate(&Cursor::root(root)).is_empty()
}

/// All that keeps a schema from being structural, sorted as upstream sorts it.
pub(super) fn validate(root: &Cursor<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(root, Level::Root, &mut errors);
    complete(root, Some(root), &root.path(), &root.path(), &mut errors);
    let mut sorted: Vec<(String, FieldError)> = errors.into_iter().map(|e| (e.to_string(), e)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut out = ErrorList::new();
    for (_, error) in sorted {
        out.push(error);
    }
    out
}

fn invariants(schema: &Cursor<'_>, level: Level, errors: &mut ErrorList) {
    let (kind, items, additional) = (schema.field("type"), schema.field("items"), schema.field("additionalProperties"));
    if kind.str() == "array" && !items.value().is_object() {
        items.required(errors, "must be specified");
    }
    if items.value().is_object() {
        invariants(&items, Level::Item, errors);
    }
    for (_, property) in schema.field("properties").entries() {
        invariants(&property, Level::Field, errors);
    }
    if additional.is_set() {
        if level == Level::Root {
            additional.forbidden(errors, "must not be used at the root");
        }
        if additional.value().is_object() {
            invariants(&additional, Level::Field, errors);
        }
    }
    let preserve = schema.field("x-kubernetes-preserve-unknown-fields");
    let embedded = schema.field("x-kubernetes-embedded-resource");
    let int_or_string = schema.field("x-kubernetes-int-or-string").bool();
    for other in [&preserve, &embedded] {
        if int_or_string && other.bool() {
            other.invalid(errors, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    let is_pattern = |part: &Cursor<'_>| *part.field("anyOf").value() == *INT_OR_STRING;
    value_validation(schema, is_pattern(schema), is_pattern(&schema.field("allOf").index(0)), errors);
    types(schema, level, errors);
    if embedded.bool() && additional.is_set() {
        additional.forbidden(errors, "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root && !kind.is_empty() && kind.str() != "object" {
        kind.invalid(errors, "must be object at the root");
    }
    metadata(schema, level, errors);
    if embedded.bool() && !preserve.bool() && schema.field("properties").is_empty() {
        schema.field("properties").required(
            errors,
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

fn types(schema: &Cursor<'_>, level: Level, errors: &mut ErrorList) {
    let kind = schema.field("type");
    let may_be_any = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"]
        .iter()
        .any(|extension| schema.field(extension).bool());
    if schema.field("x-kubernetes-embedded-resource").bool() && kind.str() != "object" {
        const OBJECT: &str = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            kind.required(errors, OBJECT);
        } else {
            kind.invalid(errors, OBJECT);
        }
    } else if kind.is_empty() && !may_be_any {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        kind.required(errors, detail);
    }
}

/// What a resource always has may be restricted, not redefined.
fn metadata(schema: &Cursor<'_>, level: Level, errors: &mut ErrorList) {
    let is_resource = level == Level::Root || schema.field("x-kubernetes-embedded-resource").bool();
    let properties = schema.field("properties");
    for name in ["kind", "apiVersion"] {
        let property = properties.key(name);
        if is_resource && property.is_set() && property.field("type").str() != "string" {
            let kind = property.field("type");
            errors.invalid(kind.path(), kind.str(), "must be string");
        }
    }
    let metadata = properties.key("metadata");
    if !metadata.is_set() {
        return;
    }
    let kind = metadata.field("type");
    if is_resource && kind.str() != "object" {
        errors.invalid(kind.path(), kind.str(), "must be object");
    }
    let is_plain = |name: &str| match name {
        "type" | "default" | "externalDocs" | "example" => true,
        "properties" => {
            let own = metadata.field("properties");
            own.entries().all(|(name, _)| matches!(name, "name" | "generateName"))
        }
        _ => false,
    };
    if level == Level::Root && !metadata.value().as_object().is_some_and(|m| m.keys().all(|name| is_plain(name))) {
        metadata.forbidden(
            errors,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

/// `skip_any` and `skip_first_any`: the two ways to write "integer or string", in which `type` may stand in a logical part.
fn value_validation(schema: &Cursor<'_>, skip_any: bool, skip_first_any: bool, errors: &mut ErrorList) {
    if !skip_any {
        for part in schema.field("anyOf").items() {
            nested(&part, false, errors);
        }
    }
    for (index, part) in schema.field("allOf").items().enumerate() {
        nested(&part, skip_first_any && index == 0, errors);
    }
    for part in schema.field("oneOf").items() {
        nested(&part, false, errors);
    }
    nested(&schema.field("not"), false, errors);
    let own = schema.field("pattern");
    if let Some(error) = Some(own.str()).filter(|p| !p.is_empty()).and_then(pattern::error) {
        own.invalid(errors, format!("must be a valid regular expression, but isn't: {error}"));
    }
}

/// Fields that a logical part may not have, and what its error says.
const FORBIDDEN: &[(&str, &str)] = &[
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(part: &Cursor<'_>, skip_any: bool, errors: &mut ErrorList) {
    if !part.value().is_object() {
        return;
    }
    value_validation(part, skip_any, false, errors);
    nested(&part.field("items"), false, errors);
    for (_, property) in part.field("properties").entries() {
        nested(&property, false, errors);
    }
    for (field, detail) in FORBIDDEN {
        let own = part.field(field);
        let is_set = match own.value() {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Bool(flag) => *flag || *field == "additionalProperties" || *field == "default",
            Value::Array(list) => !list.is_empty() || *field == "default",
            _ => true,
        };
        if is_set {
            own.forbidden(errors, *detail);
        }
    }
    let metadata = part.field("properties").key("metadata");
    if metadata.is_set() {
        metadata.forbidden(errors, "must not be specified in a nested context");
    }
}

/// Every field that `part` restricts exists in `schema`, which stands at `schema_path` (also when it is missing).
fn complete(
    part: &Cursor<'_>,
    schema: Option<&Cursor<'_>>,
    schema_path: &Path,
    part_path: &Path,
    errors: &mut ErrorList,
) {
    let Some(schema) = schema else {
        errors.required(schema_path.clone(), format!("because it is defined in {part_path}"));
        return;
    };
    let mut below = |child: Cursor<'_>| {
        if child.value().is_object() {
            complete_nested(&child, Some(schema), schema_path, errors);
        }
    };
    below(part.field("not"));
    for field in ["allOf", "anyOf", "oneOf"] {
        for child in part.field(field).items() {
            below(child);
        }
    }
}

fn complete_nested(part: &Cursor<'_>, schema: Option<&Cursor<'_>>, schema_path: &Path, errors: &mut ErrorList) {
    complete(part, schema, schema_path, &part.path(), errors);
    let Some(schema) = schema else { return };
    let items = part.field("items");
    if items.value().is_object() {
        let own = schema.field("items");
        complete_nested(&items, Some(&own).filter(|s| s.value().is_object()), &own.path(), errors);
    }
    for (name, property) in part.field("properties").entries() {
        let own = schema.field("properties").key(name);
        complete_nested(&property, Some(&own).filter(|s| s.value().is_object()), &own.path(), errors);
    }
}
