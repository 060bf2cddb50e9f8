//! Definitions of types: a schema's structs, and the few types whose JSON is not that of a struct.

use std::collections::BTreeSet;

use crate::{Map, json};

use crate::{
    Schema, Value,
    schema::{Field, ListType, MapType, Merge, Shape, Type},
};

use super::{Form, descriptions::Descriptions, gvk};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// Makes the definitions of one document.
pub(super) struct Definitions<'d> {
    pub(super) form: Form,
    pub(super) schema: &'d Schema,
    pub(super) descriptions: &'d Descriptions<'d>,
    /// Groups and versions to which DeleteOptions and WatchEvent belong in this document.
    pub(super) served: &'d [(&'d str, &'d str)],
}

impl Definitions<'_> {
    /// Names of `roots` and of all they refer to.
    pub(super) fn reached_from(&self, roots: &[String]) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<String> = roots.to_vec();
        while let Some(name) = open.pop() {
            if self.item_of_list(&name).is_some() {
                open.push(meta("ListMeta"));
            }
            if let Some(ty) = self.schema.lookup(&name) {
                let named = ty.fields.iter().filter_map(|field| self.name_of(field.shape));
                open.extend(named.filter(|name| !reached.contains(name)));
            }
            reached.insert(name);
        }
        reached
    }

    /// The definition's name behind a shape, lists and maps looked through; `None` for plain values.
    fn name_of(&self, shape: Shape) -> Option<String> {
        match shape {
            Shape::Ref(id) => Some(self.schema.get(id).name.to_string()),
            Shape::List(_) | Shape::Map(_) => self.name_of(self.schema.element_of(shape)),
            other => special_name(other),
        }
    }

    pub(super) fn definition(&self, name: &str) -> Value {
        let mut out = Map::new();
        if let Some(text) = self.descriptions.get(name, "") {
            out.insert("description", text);
        }
        match self.schema.lookup(name) {
            Some(ty) => self.structure(ty, &mut out),
            None => match self.item_of_list(name) {
                Some(item) => self.list_structure(name, item, &mut out),
                None => out.extend(special(self.form, name)),
            },
        }
        out.into()
    }

    /// The type of the items of a list type that the schema does not spell out.
    fn item_of_list(&self, name: &str) -> Option<&Type> {
        if self.schema.lookup(name).is_some() {
            return None;
        }
        self.schema.lookup(name.strip_suffix("List")?)
    }

    fn list_structure(&self, name: &str, item: &Type, out: &mut Map) {
        let described = |field: &str, mut value: Value| {
            if let (Some(text), Some(fields)) = (self.descriptions.get(name, field), value.as_object_mut()) {
                fields.insert("description", text);
            }
            value
        };
        let metadata = self.form.reference(&meta("ListMeta"));
        let metadata = match self.form {
            Form::V2 => metadata,
            Form::V3 => json!({"allOf": [metadata], "default": {}}),
        };
        out.insert("type", "object".into());
        out.insert("required", json!(["items"]));
        let properties = json!({
            "apiVersion": described("apiVersion", json!({"type": "string"})),
            "items": described("items", json!({"type": "array", "items": self.form.reference(&item.name)})),
            "kind": described("kind", json!({"type": "string"})),
            "metadata": described("metadata", metadata),
        });
        out.insert("properties", properties);
        let gvks: Vec<Value> = self
            .gvks(item)
            .into_iter()
            .map(|mut gvk| {
                gvk["kind"] = format!("{}List", item.short_name()).into();
                gvk
            })
            .collect();
        if !gvks.is_empty() {
            out.insert("x-kubernetes-group-version-kind", gvks.into());
        }
    }

    fn structure(&self, ty: &Type, out: &mut Map) {
        out.insert("type", "object".into());
        let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
        if !required.is_empty() {
            out.insert("required", required.into());
        }
        let mut fields: Vec<&Field> = ty.fields.iter().collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let properties: Map =
            fields.into_iter().map(|field| (field.name.to_string(), self.property(ty, field))).collect();
        if !properties.is_empty() {
            out.insert("properties", properties.into());
        }
        let gvks = self.gvks(ty);
        if !gvks.is_empty() {
            out.insert("x-kubernetes-group-version-kind", gvks.into());
        }
        if let Some(merge) = &ty.merge {
            type_extensions(merge, out);
        }
    }

    fn gvks(&self, ty: &Type) -> Vec<Value> {
        let all = || self.served.iter().map(|(group, version)| gvk(group, version, ty.short_name()));
        let mut out = Vec::new();
        for text in &ty.gvks {
            let mut parts = text.split('/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(group), Some(version), Some(kind)) => out.push(gvk(group, version, kind)),
                _ => out.extend(all()),
            }
        }
        out
    }

    fn property(&self, ty: &Type, field: &Field) -> Value {
        let mut out = Map::new();
        let description = self.descriptions.get(&ty.name, &field.name);
        if let Some(description) = with_enum(description, field) {
            out.insert("description", description);
        }
        if self.form == Form::V3
            && let Some(default) = default_of(field)
        {
            out.insert("default", default);
        }
        let values = || -> Value { field.enum_values.iter().map(|v| v.as_ref()).collect() };
        if !field.enum_values.is_empty() && element_name(field).is_none() {
            out.insert("enum", values());
        }
        if let Some(merge) = &field.merge {
            field_extensions(merge, &mut out);
        }
        let mut shape = self.shape(field.shape);
        // Of a list or map it is each element that is one of the values.
        if let Some(element) = element_name(field).filter(|_| !field.enum_values.is_empty())
            && let Some(Value::Object(element)) = shape.get_mut(element)
        {
            element.insert("enum", values());
        }
        if self.form == Form::V3 && shape.contains_key("$ref") && !out.is_empty() {
            // Siblings of a reference are ignored in v3, so it is wrapped.
            out.insert("allOf", json!([shape]));
        } else {
            out.extend(shape);
        }
        out.into()
    }

    fn shape(&self, shape: Shape) -> Map {
        let fields = match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::List(id) => json!({"type": "array", "items": self.shape(self.schema.element(id))}),
            Shape::Map(id) => json!({"type": "object", "additionalProperties": self.shape(self.schema.element(id))}),
            Shape::Ref(id) => self.form.reference(&self.schema.get(id).name),
            other => match special_name(other) {
                Some(name) => self.form.reference(&name),
                None => json!({}),
            },
        };
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// The declared default; a struct that is not a pointer is never absent in Go, which its document shows as `{}`.
fn default_of(field: &Field) -> Option<Value> {
    match (&field.openapi_default, field.shape) {
        (Some(text), _) => serde_json::from_str(text).ok(),
        (None, Shape::Ref(_)) if !field.pointer => Some(json!({})),
        _ => None,
    }
}

/// Names of the definitions whose JSON is not a struct's.
fn special_name(shape: Shape) -> Option<String> {
    Some(match shape {
        Shape::Time => TIME.to_owned(),
        Shape::MicroTime => MICRO_TIME.to_owned(),
        Shape::Duration => DURATION.to_owned(),
        Shape::Quantity => QUANTITY.to_owned(),
        Shape::IntOrString => INT_OR_STRING.to_owned(),
        Shape::RawExtension | Shape::Free => RAW_EXTENSION.to_owned(),
        Shape::FieldsV1 => FIELDS_V1.to_owned(),
        Shape::Any => format!("{EXTENSIONS}.JSON"),
        Shape::SchemaOrArray(_) => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
        Shape::SchemaOrBool(_) => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
        Shape::SchemaOrStrings(_) => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        _ => return None,
    })
}

fn special(form: Form, name: &str) -> Map {
    let fields = match (name, form) {
        (TIME | MICRO_TIME, _) => json!({"type": "string", "format": "date-time"}),
        (DURATION, _) => json!({"type": "string"}),
        (QUANTITY, Form::V2) => json!({"type": "string"}),
        (QUANTITY, Form::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (INT_OR_STRING, Form::V2) => json!({"type": "string", "format": "int-or-string"}),
        (INT_OR_STRING, Form::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (RAW_EXTENSION | FIELDS_V1 | PATCH, _) => json!({"type": "object"}),
        _ => json!({}),
    };
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Where a list or map says what its elements are.
fn element_name(field: &Field) -> Option<&'static str> {
    match field.shape {
        Shape::List(_) => Some("items"),
        Shape::Map(_) => Some("additionalProperties"),
        _ => None,
    }
}

/// Upstream ends the description of an enumerated field with its values.
fn with_enum(description: Option<Value>, field: &Field) -> Option<Value> {
    if field.enum_values.is_empty() || element_name(field).is_some() {
        return description;
    }
    let mut text = description.as_ref().and_then(Value::as_str).unwrap_or("").to_owned();
    if text.contains("Possible enum values:") {
        return description;
    }
    text.push_str("\n\nPossible enum values:");
    for value in &field.enum_values {
        text.push_str("\n - `");
        text.push_str(&crate::field::go_quote(value));
        text.push('`');
    }
    Some(text.trim_start().into())
}

fn type_extensions(merge: &Merge, out: &mut Map) {
    if merge.map_type == Some(MapType::Atomic) {
        out.insert("x-kubernetes-map-type", "atomic".into());
    }
    if let Some(union) = &merge.union {
        let mut fields = Map::new();
        if let Some(discriminator) = &union.discriminator {
            fields.insert("discriminator", discriminator.as_ref().into());
        }
        let by_field = union.fields.iter().map(|(field, value)| (field.to_string(), Value::from(value.as_ref())));
        fields.insert("fields-to-discriminateBy", by_field.collect::<Map>().into());
        out.insert("x-kubernetes-unions", json!([fields]));
    }
}

fn field_extensions(merge: &Merge, out: &mut Map) {
    if let Some(list_type) = merge.list_type {
        let name = match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        out.insert("x-kubernetes-list-type", name.into());
    }
    if !merge.list_map_keys.is_empty() {
        let keys = merge.list_map_keys.iter().map(|k| k.as_ref()).collect();
        out.insert("x-kubernetes-list-map-keys", keys);
    }
    if let Some(map_type) = merge.map_type {
        let name = match map_type {
            MapType::Granular => "granular",
            MapType::Atomic => "atomic",
        };
        out.insert("x-kubernetes-map-type", name.into());
    }
    if let Some(key) = &merge.patch_merge_key {
        out.insert("x-kubernetes-patch-merge-key", key.as_ref().into());
    }
    let strategy = merge.patch_strategy;
    let words = [(strategy.merge, "merge"), (strategy.retain_keys, "retainKeys"), (strategy.replace, "replace")];
    let words: Vec<&str> = words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
    if !words.is_empty() {
        out.insert("x-kubernetes-patch-strategy", words.join(",").into());
    }
}

/// `…meta.v1.NAME`
pub(super) fn meta(name: &str) -> String {
    format!("{META}.{name}")
}
