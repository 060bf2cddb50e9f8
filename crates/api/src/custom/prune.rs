//! Pruning: fields that no schema describes are dropped, and named for those who want to hear of it. Source: `schema/pruning`.

use super::structural::{Structural, Unknown};
use crate::{Map, Value};

/// Fields that every resource has.
pub(super) const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops unknown fields of a resource; what is returned are their paths, sorted: `spec.list[0].x`.
pub(super) fn prune(object: &mut Map, schema: &Structural) -> Vec<String> {
    let mut pruner = Pruner { path: String::new(), unknown: Vec::new() };
    pruner.fields(object, Some(schema), true, schema.preserves_unknown);
    pruner.unknown.sort();
    pruner.unknown
}

struct Pruner {
    path: String,
    unknown: Vec<String>,
}

impl Pruner {
    /// `keeps`: unknown fields stay, as far down as nobody says otherwise.
    fn fields(&mut self, object: &mut Map, schema: Option<&Structural>, is_resource: bool, keeps: bool) {
        let length = self.path.len();
        object.retain(|name, value| {
            if is_resource && META_FIELDS.contains(&name.as_str()) {
                return true;
            }
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            let kept = match schema.map_or(Err(Unknown), |schema| schema.field(name)) {
                Ok(below) => {
                    self.value(value, below);
                    true
                }
                Err(Unknown) => {
                    if !keeps {
                        self.unknown.push(self.path.clone());
                    }
                    keeps
                }
            };
            self.path.truncate(length);
            kept
        });
    }

    fn value(&mut self, value: &mut Value, schema: Option<&Structural>) {
        let keeps = schema.is_some_and(|s| s.preserves_unknown);
        self.inside(value, schema, keeps);
    }

    /// A place where unknown fields are kept passes that on to the items of its lists.
    fn inside(&mut self, value: &mut Value, schema: Option<&Structural>, keeps: bool) {
        match value {
            Value::Object(map) if schema.is_some() || !keeps => {
                self.fields(map, schema, schema.is_some_and(|s| s.is_embedded), keeps);
            }
            Value::Array(items) => {
                let below = schema.and_then(|s| s.items.as_deref());
                let length = self.path.len();
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{index}]"));
                    let keeps = keeps || below.is_some_and(|s| s.preserves_unknown);
                    self.inside(item, below, keeps);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn check(schema: Value, mut object: Value, pruned: Value, unknown: &[&str]) {
        let found = prune(object.as_object_mut().expect("object"), &Structural::new(&schema));
        assert_eq!(object, pruned);
        assert_eq!(found, unknown);
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = json!({"properties": {"spec": {"properties": {"a": {}, "l": {"items": {"properties": {"b": {}}}},
            "m": {"additionalProperties": {"properties": {"c": {}}}}}}}});
        check(
            schema,
            json!({"kind": "X", "metadata": {"x": 1}, "z": 1, "spec": {"a": 1, "q": 2, "l": [{"b": 1, "n": 2}],
                "m": {"k": {"c": 1, "d": 2}}}}),
            json!({"kind": "X", "metadata": {"x": 1}, "spec": {"a": 1, "l": [{"b": 1}], "m": {"k": {"c": 1}}}}),
            &["spec.l[0].n", "spec.m.k.d", "spec.q", "z"],
        );
    }

    #[test]
    fn what_is_preserved_is_pruned_again_where_a_schema_describes_it() {
        let schema = json!({"properties": {"spec": {"x-kubernetes-preserve-unknown-fields": true, "properties": {
            "known": {"properties": {"a": {}}}}}}});
        check(
            schema,
            json!({"spec": {"free": {"x": [{"y": 1}]}, "known": {"a": 1, "b": 2}}}),
            json!({"spec": {"free": {"x": [{"y": 1}]}, "known": {"a": 1}}}),
            &["spec.known.b"],
        );
    }

    #[test]
    fn embedded_resources_keep_what_every_resource_has() {
        let schema =
            json!({"properties": {"pod": {"x-kubernetes-embedded-resource": true, "properties": {"spec": {}}}}});
        check(
            schema,
            json!({"pod": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": 1, "status": 2}}),
            json!({"pod": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": 1}}),
            &["pod.status"],
        );
    }
}
