//! The internal form of a definition's spec: `schema`, `subresources`, `additionalPrinterColumns` and `selectableFields` that
//! all versions share stand at the top (the schema as `validation`), the first version's name is `version`, and the webhook of
//! the conversion is flat. Also how Go prints versions and schemas in messages.

use crate::json;

use crate::validate::{go, text::same};
use crate::{Cursor, Map, Path, Value};

pub(super) struct Internal(Value);

impl Internal {
    pub(super) fn of(spec: &Value) -> Internal {
        let mut spec = spec.clone();
        hoist(&mut spec);
        if let Some(conversion) = spec.get_mut("conversion") {
            flatten(conversion);
        }
        Internal(spec)
    }

    pub(super) fn spec(&self) -> Cursor<'_> {
        Cursor::at(&self.0, Path::new("spec"))
    }

    /// The schema that all versions share.
    pub(super) fn schema(&self) -> Cursor<'_> {
        self.spec().fields(&["validation", "openAPIV3Schema"])
    }

    /// Root schemas: the shared one, or those of the versions.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &Value> {
        let shared = self.0.pointer("/validation/openAPIV3Schema");
        let versions = self.0.get("versions").and_then(Value::as_array).into_iter().flatten();
        shared.into_iter().chain(versions.filter_map(|v| v.pointer("/schema/openAPIV3Schema")))
    }

    pub(super) fn any_schema(&self, is_so: impl Fn(&Value) -> bool) -> bool {
        self.schemas().any(is_so)
    }
}

fn hoist(spec: &mut Value) {
    let Some(versions) = spec.get_mut("versions").and_then(Value::as_array_mut).map(std::mem::take) else { return };
    let mut versions: Vec<Value> = versions;
    let mut top = Map::new();
    if let Some(name) = versions.first().and_then(|v| v.get("name")) {
        top.insert("version", name.clone());
    }
    let is_shared = |versions: &[Value], field: &str| {
        let of = |v: &Value| v.get(field).cloned().unwrap_or(Value::Null);
        versions.windows(2).all(|pair| same(&of(&pair[0]), &of(&pair[1])))
    };
    let shares_schema = is_shared(&versions, "schema");
    let fields = [
        ("subresources", "subresources", true),
        ("schema", "validation", true),
        ("additionalPrinterColumns", "additionalPrinterColumns", true),
        // Paths mean something only within one schema.
        ("selectableFields", "selectableFields", shares_schema),
    ];
    for (field, top_name, may) in fields {
        if !may || !is_shared(&versions, field) {
            continue;
        }
        for version in versions.iter_mut().rev() {
            if let Some(value) = version.as_object_mut().and_then(|v| v.remove(field)) {
                top.insert(top_name, value);
            }
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("versions", Value::Array(versions));
        spec.extend(top);
    }
}

fn flatten(conversion: &mut Value) {
    let Some(conversion) = conversion.as_object_mut() else { return };
    let Some(Value::Object(mut webhook)) = conversion.remove("webhook") else { return };
    for (field, flat) in
        [("clientConfig", "webhookClientConfig"), ("conversionReviewVersions", "conversionReviewVersions")]
    {
        if let Some(value) = webhook.remove(field) {
            conversion.insert(flat, value);
        }
    }
}

/// The list of versions as an error shows it.
pub(super) fn go_versions(versions: &Cursor<'_>) -> Value {
    let mut list = versions.value().clone();
    for version in list.as_array_mut().into_iter().flatten() {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            *schema = go_schema(schema);
        }
    }
    go::list("crd.Version", &list)
}

/// How a field of a schema prints.
#[derive(Clone, Copy)]
enum Code {
    Text,
    Flag,
    /// A pointer or list of plain values.
    Plain,
    Schema,
    Schemas,
    SchemaMap,
    SchemaOrList,
    SchemaOrBool,
    /// A map of schemas or lists of names.
    Dependencies,
    Rules,
    Docs,
}

/// Fields of a schema in the order of the internal type: Go's name, JSON name, form.
const FIELDS: &[(&str, &str, Code)] = &[
    ("ID", "id", Code::Text),
    ("Schema", "$schema", Code::Text),
    ("Ref", "$ref", Code::Plain),
    ("Description", "description", Code::Text),
    ("Type", "type", Code::Text),
    ("Nullable", "nullable", Code::Flag),
    ("Format", "format", Code::Text),
    ("Title", "title", Code::Text),
    ("Default", "default", Code::Plain),
    ("Maximum", "maximum", Code::Plain),
    ("ExclusiveMaximum", "exclusiveMaximum", Code::Flag),
    ("Minimum", "minimum", Code::Plain),
    ("ExclusiveMinimum", "exclusiveMinimum", Code::Flag),
    ("MaxLength", "maxLength", Code::Plain),
    ("MinLength", "minLength", Code::Plain),
    ("Pattern", "pattern", Code::Text),
    ("MaxItems", "maxItems", Code::Plain),
    ("MinItems", "minItems", Code::Plain),
    ("UniqueItems", "uniqueItems", Code::Flag),
    ("MultipleOf", "multipleOf", Code::Plain),
    ("Enum", "enum", Code::Plain),
    ("MaxProperties", "maxProperties", Code::Plain),
    ("MinProperties", "minProperties", Code::Plain),
    ("Required", "required", Code::Plain),
    ("Items", "items", Code::SchemaOrList),
    ("AllOf", "allOf", Code::Schemas),
    ("OneOf", "oneOf", Code::Schemas),
    ("AnyOf", "anyOf", Code::Schemas),
    ("Not", "not", Code::Schema),
    ("Properties", "properties", Code::SchemaMap),
    ("AdditionalProperties", "additionalProperties", Code::SchemaOrBool),
    ("PatternProperties", "patternProperties", Code::SchemaMap),
    ("Dependencies", "dependencies", Code::Dependencies),
    ("AdditionalItems", "additionalItems", Code::SchemaOrBool),
    ("Definitions", "definitions", Code::SchemaMap),
    ("ExternalDocs", "externalDocs", Code::Docs),
    ("Example", "example", Code::Plain),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", Code::Plain),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Code::Flag),
    ("XIntOrString", "x-kubernetes-int-or-string", Code::Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Code::Plain),
    ("XListType", "x-kubernetes-list-type", Code::Plain),
    ("XMapType", "x-kubernetes-map-type", Code::Plain),
    ("XValidations", "x-kubernetes-validations", Code::Rules),
];

const POINTERS: &[&str] = &["$ref", "x-kubernetes-list-type", "x-kubernetes-map-type"];

/// Go's names of the fields that a schema sets, in the order of the type.
pub(super) fn set_fields(schema: &Value) -> impl Iterator<Item = &'static str> {
    let is_set = |name: &str| match schema.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        // An empty text behind a pointer is a text.
        Some(Value::String(text)) => !text.is_empty() || POINTERS.contains(&name),
        Some(_) => true,
    };
    FIELDS.iter().filter(move |(_, name, _)| is_set(name)).map(|(go_name, _, _)| *go_name)
}

/// A schema as Go prints its internal type in JSON.
pub(super) fn go_schema(schema: &Value) -> Value {
    let mut out = Map::new();
    for (go_name, name, code) in FIELDS {
        out.insert((*go_name).to_owned(), go_field(*code, schema.get(name).unwrap_or(&Value::Null)));
    }
    Value::Object(out)
}

fn go_field(code: Code, value: &Value) -> Value {
    let schemas = |list: &Value| list.as_array().into_iter().flatten().map(go_schema).collect::<Value>();
    match (code, value) {
        (Code::Text, Value::Null) => "".into(),
        (Code::Flag, Value::Null) => false.into(),
        (_, Value::Null) => Value::Null,
        (Code::Text | Code::Flag | Code::Plain, _) => value.clone(),
        (Code::Schema, _) => go_schema(value),
        (Code::Schemas, _) => schemas(value),
        (Code::SchemaMap, _) => {
            let mut entries: Vec<_> = value.as_object().into_iter().flatten().collect();
            entries.sort_by_key(|(name, _)| *name);
            Value::Object(entries.into_iter().map(|(name, s)| (name.clone(), go_schema(s))).collect())
        }
        (Code::SchemaOrList, Value::Array(_)) => json!({"Schema": null, "JSONSchemas": schemas(value)}),
        (Code::SchemaOrList, _) => json!({"Schema": go_schema(value), "JSONSchemas": null}),
        (Code::SchemaOrBool, Value::Bool(allows)) => json!({"Allows": allows, "Schema": null}),
        (Code::SchemaOrBool, _) => json!({"Allows": true, "Schema": go_schema(value)}),
        (Code::Dependencies, _) => {
            let mut entries: Vec<_> = value.as_object().into_iter().flatten().collect();
            entries.sort_by_key(|(name, _)| *name);
            let printed = entries.into_iter().map(|(name, value)| {
                let names = value.is_array();
                let schema = if names { Value::Null } else { go_schema(value) };
                let property = if names { value.clone() } else { Value::Null };
                (name.clone(), json!({"Schema": schema, "Property": property}))
            });
            Value::Object(printed.collect())
        }
        (Code::Rules, _) => go::list("crd.ValidationRule", value),
        (Code::Docs, _) => go::value("crd.ExternalDocumentation", value),
    }
}
