//! The schema of a CustomResourceDefinition as it is published. Source: apiextensions-apiserver `pkg/controller/openapi`
//! (`builder`, `v2`) and `pkg/apiserver/schema` (`Unfold`).

use crate::{Map, Value, json};

use super::Form;

/// Keywords that hold a list of schemas.
const JUNCTORS: &[&str] = &["allOf", "anyOf", "oneOf"];
const API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: \
                           https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The schema for clients: integers-or-strings spelled out, embedded objects with the fields of every object (`metadata` makes
/// the reference), and in v2 only what its readers can bear.
pub(super) fn published(form: Form, schema: &Map, metadata: &dyn Fn() -> Value) -> Map {
    let mut out = schema.clone();
    unfold(&mut out);
    if form == Form::V2 {
        for_v2(&mut out);
    }
    embedded(form, &mut out, metadata);
    out
}

pub(super) fn keeps_unknown_fields(schema: &Map) -> bool {
    is_set(schema, "x-kubernetes-preserve-unknown-fields")
}

fn is_set(schema: &Map, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

/// The schemas right below a schema that describe parts of the object: no alternatives.
fn each_part(schema: &mut Map, visit: &mut dyn FnMut(&mut Map)) {
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key).and_then(Value::as_object_mut) {
            visit(inner);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(visit);
    }
}

/// `x-kubernetes-int-or-string` as alternatives, unless the schema says so itself.
fn unfold(schema: &mut Map) {
    if is_set(schema, "x-kubernetes-int-or-string") {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        let says_so = schema.get("anyOf") == Some(&either)
            || schema.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("anyOf")) == Some(&either);
        if !says_so {
            if !schema.contains_key("anyOf") {
                schema.insert("anyOf", either);
            } else if let Some(all) = schema.entry("allOf").or_insert_with(|| json!([])).as_array_mut() {
                all.insert(0, json!({"anyOf": either}));
            }
        }
    }
    each_part(schema, &mut unfold);
}

/// No alternatives, no nullable types, no defaults, and nothing said below a place where unknown fields are kept.
fn for_v2(schema: &mut Map) {
    for key in JUNCTORS.iter().chain(&["not", "default"]) {
        schema.remove(key);
    }
    if is_set(schema, "nullable") {
        for key in ["nullable", "type", "items", "properties"] {
            schema.remove(key);
        }
    }
    let type_is = |schema: &Map, name: &str| schema.get("type").and_then(Value::as_str) == Some(name);
    let keeps_unknown = keeps_unknown_fields(schema);
    if keeps_unknown {
        schema.remove("items");
        schema.remove("properties");
    }
    let is_bare_list = type_is(schema, "array") && !schema.contains_key("items");
    if is_bare_list || (keeps_unknown && type_is(schema, "object")) {
        schema.remove("type");
    }
    optional_nulls(schema);
    each_part(schema, &mut for_v2);
}

/// What may be null is not required: v2 has no word for null.
fn optional_nulls(schema: &mut Map) {
    let is_nullable =
        |part: Option<&Value>| part.and_then(|p| p.get("nullable")).and_then(Value::as_bool) == Some(true);
    let mut required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    if is_nullable(schema.get("additionalProperties")) {
        required.clear();
    }
    let properties = schema.get("properties");
    required.retain(|name| !is_nullable(properties.and_then(|p| p.get(name.as_str()?))));
    if required.is_empty() {
        schema.remove("required");
    } else {
        schema.insert("required", required.into());
    }
}

/// Embedded objects have what every object has, except in v2 where unknown fields are kept.
fn embedded(form: Form, schema: &mut Map, metadata: &dyn Fn() -> Value) {
    each_part(schema, &mut |part| embedded(form, part, metadata));
    let is_hidden = form == Form::V2 && keeps_unknown_fields(schema);
    if is_hidden || !is_set(schema, "x-kubernetes-embedded-resource") {
        return;
    }
    if let Some(properties) = schema.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        properties.insert("apiVersion", json!({"description": API_VERSION, "type": "string"}));
        properties.insert("kind", json!({"description": KIND, "type": "string"}));
        properties.insert("metadata", metadata());
    }
    if let Some(required) = schema.entry("required").or_insert_with(|| json!([])).as_array_mut() {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known.as_str() == Some(name)) {
                required.push(name.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(form: Form, schema: Value) -> Value {
        published(form, schema.as_object().expect("a schema"), &|| json!("metadata")).into()
    }

    #[test]
    fn integers_or_strings_are_spelled_out_once() {
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        let port = json!({"x-kubernetes-int-or-string": true});
        let spelled = json!({"x-kubernetes-int-or-string": true, "anyOf": either});
        assert_eq!(of(Form::V3, json!({"properties": {"port": port}})), json!({"properties": {"port": spelled}}));
        assert_eq!(of(Form::V3, spelled.clone()), spelled);
        assert_eq!(
            of(Form::V3, json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minimum": 1}]})),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minimum": 1}], "allOf": [{"anyOf": either}]})
        );
        assert_eq!(of(Form::V2, spelled), port);
    }

    #[test]
    fn v2_says_nothing_below_a_place_for_unknown_fields() {
        let spec = json!({"type": "object", "description": "d", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"a": {"type": "string"}}});
        assert_eq!(
            of(Form::V2, json!({"type": "object", "properties": {"spec": spec}})),
            json!({"type": "object", "properties": {"spec": {"description": "d", "x-kubernetes-preserve-unknown-fields": true}}})
        );
        assert_eq!(of(Form::V3, spec.clone()), spec);
    }

    #[test]
    fn v2_requires_nothing_that_may_be_null() {
        let schema = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "array", "nullable": true, "items": {"type": "string"}}, "b": {"type": "string", "default": "x"}}});
        assert_eq!(
            of(Form::V2, schema.clone()),
            json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}})
        );
        assert_eq!(of(Form::V3, schema.clone()), schema);
    }

    #[test]
    fn embedded_objects_have_the_fields_of_all_objects() {
        let schema = json!({"type": "object", "x-kubernetes-embedded-resource": true, "required": ["kind"]});
        let shown = of(Form::V2, schema);
        assert_eq!(shown["required"], json!(["kind", "apiVersion"]));
        assert_eq!(shown["properties"]["metadata"], json!("metadata"));
        assert_eq!(shown["properties"]["kind"]["description"], json!(KIND));
    }
}
