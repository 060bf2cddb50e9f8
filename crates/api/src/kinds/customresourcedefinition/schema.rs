//! Rules for every schema of a definition, in the order in which upstream visits it: a schema's own unsupported fields, the
//! schemas below it, then its extensions. [`super::structural`] holds the rules for the schema as a whole.

use super::internal::{Internal, go_schema, set_fields};
use super::{path, rules, structural};
use crate::occurrences::Occurrences;
use crate::{Cursor, ErrorList, Value, custom};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// Go's names of the fields a root schema may set when there is a status subresource: `status` can then be checked alone.
const ROOT_FIELDS_WITH_STATUS: &[&str] = &[
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];
/// Formats of strings, dashes removed.
const STRING_FORMATS: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "quantity",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// What is asked of schemas; an update does not ask for what the stored ones lack.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) structural: bool,
    known_types: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    complete_keys: bool,
}

impl Options {
    pub(super) const STRICT: Options =
        Options { structural: true, known_types: true, pruned_defaults: true, atomic_sets: true, complete_keys: true };

    pub(super) fn update(old: &Internal) -> Options {
        let had = |is_bad: &dyn Fn(&Value) -> bool| old.any_schema(|root| any(root, is_bad));
        Options {
            structural: true,
            known_types: !had(&|s| !text(s, "type").is_empty() && !TYPES.contains(&text(s, "type"))),
            pruned_defaults: !old.any_schema(|root| structural::is_structural(root) && has_unpruned_default(root)),
            atomic_sets: !had(&|s| set_of_parts(s).is_some()),
            complete_keys: !had(&|s| {
                let mut errors = ErrorList::new();
                keys_are_complete(&Cursor::root(s), &mut errors);
                !errors.is_empty()
            }),
        }
    }
}

fn text<'s>(schema: &'s Value, field: &str) -> &'s str {
    schema.get(field).and_then(Value::as_str).unwrap_or("")
}

fn flag(schema: &Value, field: &str) -> bool {
    schema.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// Calls `f` for a schema and all below it, parents first.
pub(super) fn visit<'s>(schema: &'s Value, f: &mut dyn FnMut(&'s Value)) {
    any_with(schema, &mut |s| {
        f(s);
        false
    });
}

/// Some schema of the tree is so.
pub(super) fn any(schema: &Value, is_so: &dyn Fn(&Value) -> bool) -> bool {
    any_with(schema, &mut |s| is_so(s))
}

fn any_with<'s>(schema: &'s Value, is_so: &mut dyn FnMut(&'s Value) -> bool) -> bool {
    if !schema.is_object() {
        return false;
    }
    if is_so(schema) {
        return true;
    }
    let one_or_list = |v: &'s Value| v.as_array().map_or(std::slice::from_ref(v), Vec::as_slice);
    for field in ["items", "allOf", "anyOf", "oneOf", "not"] {
        for below in schema.get(field).map(one_or_list).unwrap_or_default() {
            if any_with(below, is_so) {
                return true;
            }
        }
    }
    for (field, is_map) in [
        ("properties", true),
        ("additionalProperties", false),
        ("patternProperties", true),
        ("additionalItems", false),
        ("definitions", true),
        ("dependencies", true),
    ] {
        let Some(value) = schema.get(field) else { continue };
        let found = match value.as_object() {
            Some(map) if is_map => map.values().any(|below| any_with(below, is_so)),
            _ => any_with(value, is_so),
        };
        if found {
            return true;
        }
    }
    false
}

/// Uses an extension that only means something in a structural schema.
pub(super) fn has_extensions(schema: &Value) -> bool {
    let is_set = |field: &str| schema.get(field).is_some_and(|v| !v.is_null() && *v != Value::Bool(false));
    schema.get("x-kubernetes-preserve-unknown-fields").is_some_and(|v| !v.is_null())
        || [
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-list-type",
            "x-kubernetes-validations",
        ]
        .into_iter()
        .any(is_set)
}

/// The format of a schema when values are not checked against it.
pub(super) fn unknown_format(schema: &Value) -> Option<&str> {
    let format = text(schema, "format");
    let is_known = match text(schema, "type") {
        "" | "string" => STRING_FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    (!format.is_empty() && !is_known).then_some(format)
}

/// `validation` of a spec or `schema` of a version. `unchanged`: it is stored already.
pub(super) fn validate(
    validation: &Cursor<'_>,
    has_status: bool,
    unchanged: bool,
    options: Options,
    errors: &mut ErrorList,
) {
    let root = validation.field("openAPIV3Schema");
    if !root.is_set() {
        return;
    }
    let mut own = ErrorList::new();
    if has_status {
        root_fields(&root, &mut own);
    }
    if root.field("nullable").bool() {
        root.field("nullable").forbidden(&mut own, "nullable cannot be true at the root");
    }
    let mut unsupported = None;
    let mut has_rules = false;
    if options.structural {
        match structural::unsupported(root.value()) {
            Some(reason) => unsupported = Some(reason),
            None => {
                let found = structural::validate(&root);
                let is_structural = found.is_empty();
                own.extend(found);
                if is_structural {
                    let mut found = ErrorList::new();
                    defaults(&root, true, options.pruned_defaults, &mut found);
                    has_rules = found.is_empty();
                    own.extend(found);
                }
            }
        }
    }
    let mut found = ErrorList::new();
    walk(&root, &Place::ROOT, options, &mut found);
    let faults: Vec<String> = found.iter().map(|error| error.path.as_str().to_owned()).collect();
    own.extend(found);
    if has_rules {
        rules::compile(&root, unchanged, &faults, &mut own);
    }
    // The rules of single schemas mostly name the same fault, and better.
    if let Some(reason) = unsupported.filter(|_| own.is_empty()) {
        own.invalid(root.path(), "", reason);
    }
    errors.extend(own);
}

fn root_fields(root: &Cursor<'_>, errors: &mut ErrorList) {
    for field in set_fields(root.value()) {
        if field == "Type" {
            let kind = root.field("type");
            if kind.str() != "object" {
                kind.invalid(
                    errors,
                    "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
                );
                return;
            }
        } else if !ROOT_FIELDS_WITH_STATUS.contains(&field) {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                ROOT_FIELDS_WITH_STATUS.join(" ")
            );
            errors.invalid(root.path(), go_schema(root.value()), detail);
            return;
        }
    }
}

/// Where a schema stands, as far as rules depend on it.
#[derive(Clone)]
struct Place {
    is_root: bool,
    in_resource_meta: bool,
    /// Why a default may not be set here.
    no_default: Option<String>,
}

impl Place {
    const ROOT: Place = Place { is_root: true, in_resource_meta: false, no_default: None };
}

fn walk(schema: &Cursor<'_>, place: &Place, options: Options, errors: &mut ErrorList) {
    if !schema.value().is_object() {
        return;
    }
    unsupported_fields(schema, place, options, errors);
    if schema.field("uniqueItems").bool() {
        schema
            .field("uniqueItems")
            .forbidden(errors, "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    let below = Place { is_root: false, ..place.clone() };
    additional_properties(schema, &below, options, errors);
    for (name, property) in schema.field("properties").entries() {
        let mut own = below.clone();
        let is_resource = place.is_root || schema.field("x-kubernetes-embedded-resource").bool();
        if is_resource && matches!(name, "metadata" | "kind" | "apiVersion") {
            own.in_resource_meta = true;
            if place.is_root {
                own.no_default = Some(format!("in top-level {name}"));
            }
        }
        walk(&property, &own, options, errors);
    }
    walk(&schema.field("not"), &below, options, errors);
    for field in ["allOf", "oneOf", "anyOf"] {
        for part in schema.field(field).items() {
            walk(&part, &below, options, errors);
        }
    }
    for (_, definition) in schema.field("definitions").entries() {
        walk(&definition, &below, options, errors);
    }
    let items = schema.field("items");
    walk(&items, &below, options, errors);
    for item in items.items() {
        walk(&item, &below, options, errors);
    }
    for (_, dependency) in schema.field("dependencies").entries() {
        walk(&dependency, &below, options, errors);
    }
    extensions(schema, options, errors);
    if options.complete_keys {
        keys_are_complete(schema, errors);
    }
    for rule in schema.field("x-kubernetes-validations").items() {
        validation_rule(schema.value(), &rule, errors);
    }
}

fn unsupported_fields(schema: &Cursor<'_>, place: &Place, options: Options, errors: &mut ErrorList) {
    let kind = schema.field("type");
    if options.known_types && !kind.is_empty() && !TYPES.contains(&kind.str()) {
        kind.not_supported(errors, TYPES);
    }
    if let Some(reason) = place.no_default.as_ref().filter(|_| schema.field("default").is_set()) {
        schema.field("default").forbidden(errors, format!("must not be set {reason}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let own = schema.field(field);
        // A list of schemas or a flag counts even when it allows nothing.
        let is_set =
            if matches!(field, "additionalItems" | "dependencies" | "$ref") { own.is_set() } else { !own.is_empty() };
        if is_set {
            own.forbidden(errors, format!("{field} is not supported"));
        }
    }
    if kind.str() == "null" {
        kind.forbidden(errors, "type cannot be set to null, use nullable as an alternative");
    }
    let items = schema.field("items");
    if items.value().is_array() && !items.is_empty() {
        items.forbidden(errors, "items must be a schema object and not an array");
    }
    let embedded = schema.field("x-kubernetes-embedded-resource");
    if place.in_resource_meta && embedded.bool() {
        embedded.forbidden(errors, "must not be used inside of resource meta");
    }
}

fn additional_properties(schema: &Cursor<'_>, below: &Place, options: Options, errors: &mut ErrorList) {
    let additional = schema.field("additionalProperties");
    if !additional.is_set() {
        return;
    }
    if !schema.field("properties").is_empty() && *additional.value() != Value::Bool(true) {
        additional.forbidden(errors, "additionalProperties and properties are mutual exclusive");
    }
    let mut own = below.clone();
    if own.in_resource_meta {
        own.no_default = Some("inside additionalProperties applying to object metadata".to_owned());
    }
    walk(&additional, &own, options, errors);
}

/// `type` must be `expected` when `extension` is used.
fn needs_type(schema: &Cursor<'_>, expected: &str, extension: &str, errors: &mut ErrorList) {
    let kind = schema.field("type");
    let detail = format!("must be {expected} if {extension} is specified");
    if kind.is_empty() {
        kind.required(errors, &detail);
    } else {
        kind.invalid(errors, detail);
    }
}

fn extensions(schema: &Cursor<'_>, options: Options, errors: &mut ErrorList) {
    let preserve = schema.field("x-kubernetes-preserve-unknown-fields");
    if preserve.is_set() && !preserve.bool() {
        preserve.invalid(errors, "must be true or undefined");
    }
    let kind = schema.field("type").str();
    let (map_type, list_type) = (schema.field("x-kubernetes-map-type"), schema.field("x-kubernetes-list-type"));
    if map_type.is_set() {
        if kind != "object" {
            needs_type(schema, "object", "x-kubernetes-map-type", errors);
        }
        if !matches!(map_type.str(), "atomic" | "granular") {
            map_type.not_supported(errors, &["atomic", "granular"]);
        }
    }
    if list_type.is_set() && kind != "array" {
        needs_type(schema, "array", "x-kubernetes-list-type", errors);
    } else if let Some(field) = set_of_parts(schema.value()).filter(|_| options.atomic_sets) {
        // Upstream shows the list type in both cases.
        let items = schema.field("items");
        let shown = items.field("x-kubernetes-list-type").value().clone();
        errors.invalid(
            items.field(field).path(),
            shown,
            "must be atomic as item of a list with x-kubernetes-list-type=set",
        );
    }
    if list_type.is_set() && !matches!(list_type.str(), "atomic" | "set" | "map") {
        list_type.not_supported(errors, &["atomic", "set", "map"]);
    }
    if !schema.field("x-kubernetes-list-map-keys").is_empty() && list_type.str() != "map" {
        const MAP: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list_type.is_set() {
            list_type.invalid(errors, MAP);
        } else {
            list_type.required(errors, MAP);
        }
    }
    if list_type.str() == "map" {
        map_list(schema, errors);
    }
}

/// The extension that would make the items of a set atomic, when they are not.
fn set_of_parts(schema: &Value) -> Option<&'static str> {
    let items = schema.get("items").filter(|i| i.is_object() && text(schema, "x-kubernetes-list-type") == "set")?;
    match text(items, "type") {
        "array" if !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic") => Some("x-kubernetes-list-type"),
        "object" if text(items, "x-kubernetes-map-type") != "atomic" => Some("x-kubernetes-map-type"),
        _ => None,
    }
}

fn map_list(schema: &Cursor<'_>, errors: &mut ErrorList) {
    let (keys, items) = (schema.field("x-kubernetes-list-map-keys"), schema.field("items"));
    if keys.is_empty() {
        keys.required(errors, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        items.required(errors, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if !items.value().is_object() {
        items.invalid(errors, "must only have a single schema if x-kubernetes-list-type is map");
        return;
    }
    let kind = items.field("type");
    if kind.str() != "object" {
        errors.invalid(kind.path(), kind.str(), "must be object if parent array's x-kubernetes-list-type is map");
        return;
    }
    let mut seen: Occurrences<&str> = Occurrences::new();
    for key in keys.items() {
        let property = items.field("properties").key(key.str());
        if !property.is_set() {
            keys.invalid(errors, "entries must all be names of item properties");
        } else if matches!(property.field("type").str(), "array" | "object") {
            errors.invalid(
                property.field("type").path(),
                kind.str(),
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            );
        }
        if seen.contains(&key.str()) {
            keys.invalid(errors, "must not contain duplicate entries");
        }
        seen.push(key.str());
    }
}

/// Items of sets and map lists are never null, and every item of a map list has its keys.
fn keys_are_complete(schema: &Cursor<'_>, errors: &mut ErrorList) {
    let (list_type, items) = (schema.field("x-kubernetes-list-type"), schema.field("items"));
    if !items.value().is_object() || !matches!(list_type.str(), "set" | "map") {
        return;
    }
    if items.field("nullable").bool() {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {}", list_type.str());
        items.field("nullable").forbidden(errors, detail);
    }
    if list_type.str() != "map" {
        return;
    }
    for key in schema.field("x-kubernetes-list-map-keys").items() {
        let property = items.field("properties").key(key.str());
        if !property.is_set() {
            continue;
        }
        let is_required = items.field("required").items().any(|r| r.str() == key.str());
        if !is_required && !property.field("default").is_set() {
            property.field("default").required(
                errors,
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if property.field("nullable").bool() {
            property
                .field("nullable")
                .forbidden(errors, "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
    }
}

fn validation_rule(schema: &Value, rule: &Cursor<'_>, errors: &mut ErrorList) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let (expression, message) = (rule.field("rule"), rule.field("message"));
    let (trimmed, trimmed_message) = (expression.str().trim(), message.str().trim());
    if trimmed.is_empty() {
        expression.required(errors, "rule is not specified");
    } else if !message.is_empty() && trimmed_message.is_empty() {
        message.invalid(errors, "must be non-empty if specified");
    } else if breaks(trimmed_message) {
        message.invalid(errors, "must not contain line breaks");
    } else if breaks(trimmed) && trimmed_message.is_empty() {
        message.required(errors, "must be specified if rule contains line breaks");
    }
    let dynamic = rule.field("messageExpression");
    if !dynamic.is_empty() && dynamic.str().trim().is_empty() {
        dynamic.required(errors, "must be non-empty if specified");
    }
    let reason = rule.field("reason");
    if reason.is_set() && !REASONS.contains(&reason.str()) {
        reason.no_such_choice(errors, REASONS);
    }
    let field = rule.field("fieldPath");
    if field.is_empty() {
        return;
    }
    if field.str().trim().is_empty() {
        field.invalid(errors, "must be non-empty if specified");
    }
    if breaks(field.str()) {
        field.invalid(errors, "must not contain line breaks");
    }
    if structural::unsupported(schema).is_none() && path::resolve(field.str(), schema, path::Brackets::Allowed).is_err()
    {
        field.invalid(errors, "must be a valid path");
    }
}

/// A default is a value that its schema takes, without fields that the schema does not keep.
fn defaults(schema: &Cursor<'_>, is_root: bool, pruned: bool, errors: &mut ErrorList) {
    let default = schema.field("default");
    if default.is_set() {
        if pruned && has_unknown(default.value(), schema.value(), false) {
            default.invalid(errors, "must not have unknown fields");
        }
        custom::validate_default(&default, schema.value(), is_root, errors);
    }
    let items = schema.field("items");
    if items.value().is_object() {
        defaults(&items, false, pruned, errors);
    }
    for (_, property) in schema.field("properties").entries() {
        defaults(&property, false, pruned, errors);
    }
}

fn has_unpruned_default(root: &Value) -> bool {
    any(root, &|s| s.get("default").is_some_and(|default| has_unknown(default, s, false)))
}

/// Pruning would remove something. Below `x-kubernetes-preserve-unknown-fields` only what a schema describes is looked at.
fn has_unknown(value: &Value, schema: &Value, keeps: bool) -> bool {
    let keeps = keeps || flag(schema, "x-kubernetes-preserve-unknown-fields");
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let is_meta = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            let property = schema.get("properties").and_then(|p| p.get(name));
            match (property, schema.get("additionalProperties")) {
                _ if is_meta && flag(schema, "x-kubernetes-embedded-resource") => false,
                (Some(property), _) => has_unknown(value, property, false),
                (None, Some(additional)) => has_unknown(value, additional, keeps),
                (None, None) => !keeps,
            }
        }),
        Value::Array(items) => {
            let below = schema.get("items").unwrap_or(&Value::Null);
            items.iter().any(|item| has_unknown(item, below, keeps))
        }
        _ => false,
    }
}
