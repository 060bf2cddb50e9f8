//! Defaults and nulls: a null that may not be one is as good as absent. Source: `schema/defaulting`.

use super::prune::META_FIELDS;
use super::structural::{Additional, Structural};
use crate::{Map, Value};

/// Drops nulls of fields that are neither nullable nor have a default.
pub(super) fn prune_nulls_of_resource(object: &mut Map, schema: &Structural) {
    object.retain(|name, value| META_FIELDS.contains(&name.as_str()) || keep(name, value, schema));
}

/// Drops such nulls below the field; `false`: it is one itself.
fn keep(name: &str, value: &mut Value, schema: &Structural) -> bool {
    let below = schema.field(name).unwrap_or(None);
    if below.is_some_and(|s| value.is_null() && !s.nullable && s.default.is_none()) {
        return false;
    }
    prune_nulls(value, below);
    true
}

fn prune_nulls(value: &mut Value, schema: Option<&Structural>) {
    let Some(schema) = schema else { return };
    match value {
        Value::Object(map) => map.retain(|name, value| keep(name, value, schema)),
        Value::Array(items) => items.iter_mut().for_each(|item| prune_nulls(item, schema.items.as_deref())),
        _ => {}
    }
}

/// Fills in the defaults of a schema.
pub(super) fn apply(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => fields(map, schema),
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            for item in items {
                replace_null(item, below);
                apply(item, below);
            }
        }
        _ => {}
    }
}

fn fields(map: &mut Map, schema: &Structural) {
    for (name, property) in &schema.properties {
        let Some(default) = &property.default else { continue };
        match map.get_mut(name.as_ref()) {
            None => {
                map.insert(&**name, default.clone());
            }
            Some(value) => replace_null(value, property),
        }
    }
    for (name, value) in map.iter_mut() {
        match (schema.property(name), &schema.additional) {
            (Some(property), _) => apply(value, property),
            (None, Some(Additional::Schema(below))) => {
                replace_null(value, below);
                apply(value, below);
            }
            _ => {}
        }
    }
}

fn replace_null(value: &mut Value, schema: &Structural) {
    if value.is_null() && !schema.nullable {
        *value = schema.default.clone().unwrap_or(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn defaults_fill_what_is_absent_or_null_and_may_not_be() {
        let schema = Structural::new(&json!({"properties": {"spec": {"default": {"a": "from-parent"}, "properties": {
            "a": {"default": "x"}, "n": {"default": 5}, "nn": {"nullable": true, "default": "z"}, "plain": {},
            "l": {"default": [], "items": {"properties": {"p": {"default": "TCP"}}}},
            "m": {"additionalProperties": {"default": 1}}}}}}));
        let defaulted = |mut object: Value| {
            prune_nulls(&mut object, Some(&schema));
            apply(&mut object, &schema);
            object
        };
        assert_eq!(defaulted(json!({})), json!({"spec": {"a": "from-parent", "l": [], "n": 5, "nn": "z"}}));
        assert_eq!(
            defaulted(
                json!({"spec": {"a": null, "nn": null, "plain": null, "l": [{}, {"p": "UDP"}], "m": {"k": null}}})
            ),
            json!({"spec": {"a": "x", "nn": null, "l": [{"p": "TCP"}, {"p": "UDP"}], "m": {"k": 1}, "n": 5}})
        );
    }
}
