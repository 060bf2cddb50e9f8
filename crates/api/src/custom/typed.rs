//! A structural schema as the types that server-side apply merges by.

use std::collections::HashMap;

use super::structural::{Additional, Structural, Types};
use crate::schema::{Field, ListType, MapType, Merge, Omit, Schema, Shape, Type, TypeId};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The schema of a resource; its root is [`ROOT`].
pub(super) fn schema(root: &Structural) -> Schema {
    let mut builder = Builder { schema: Schema::default(), imported: HashMap::new(), n_types: 0 };
    builder.object(root, true);
    builder.schema
}

/// The type of the resource itself.
pub const ROOT: TypeId = TypeId(0);

struct Builder {
    schema: Schema,
    /// Built-in types by their id there.
    imported: HashMap<TypeId, TypeId>,
    n_types: usize,
}

impl Builder {
    fn object(&mut self, schema: &Structural, is_resource: bool) -> TypeId {
        let name = self.n_types.to_string();
        self.n_types += 1;
        // The type takes its id before the types below it do.
        self.schema.add(Type::new(name.clone().into(), Vec::new(), Vec::new(), None));
        let mut fields = Vec::with_capacity(schema.properties.len() + 3);
        if is_resource {
            fields.push(field("kind", Shape::String));
            fields.push(field("apiVersion", Shape::String));
            let meta = Schema::builtin().type_id(OBJECT_META).map(|id| self.import(id));
            let metadata = meta.map_or(Shape::Free, Shape::Ref);
            fields.push(Field { pointer: false, ..field("metadata", metadata) });
        }
        for (name, property) in &schema.properties {
            if is_resource && super::prune::META_FIELDS.contains(&name.as_ref()) {
                continue;
            }
            let (shape, merge) = self.shape(property);
            fields.push(Field {
                required: schema.limits.as_ref().is_some_and(|l| l.required.iter().any(|r| **r == **name)),
                openapi_default: property.default.as_ref().map(|default| default.to_string().into()),
                merge: merge.map(Box::new),
                ..field(name, shape)
            });
        }
        let merge =
            schema.is_atomic_map.then(|| Box::new(Merge { map_type: Some(MapType::Atomic), ..Merge::default() }));
        let mut ty = Type::new(name.into(), Vec::new(), fields, merge);
        ty.keeps_unknown_fields = schema.preserves_unknown;
        self.schema.add(ty)
    }

    fn shape(&mut self, schema: &Structural) -> (Shape, Option<Merge>) {
        if schema.is_int_or_string {
            return (Shape::IntOrString, None);
        }
        let types = schema.types;
        if types == Types::OBJECT {
            let merge = schema.is_atomic_map.then(|| Merge { map_type: Some(MapType::Atomic), ..Merge::default() });
            let shape = match &schema.additional {
                _ if schema.is_embedded || !schema.properties.is_empty() => {
                    Shape::Ref(self.object(schema, schema.is_embedded))
                }
                Some(Additional::Schema(below)) => {
                    let (element, _) = self.shape(below);
                    Shape::Map(self.schema.intern(element))
                }
                _ => Shape::Free,
            };
            return (shape, merge);
        }
        if types == Types::ARRAY {
            let element = schema.items.as_ref().map_or(Shape::Free, |items| self.shape(items).0);
            let merge = Merge {
                list_type: schema.list_type,
                list_map_keys: schema.list_map_keys.iter().map(|key| key.to_string().into()).collect(),
                ..Merge::default()
            };
            let is_declared = matches!(schema.list_type, Some(ListType::Set | ListType::Map | ListType::Atomic));
            return (Shape::List(self.schema.intern(element)), is_declared.then_some(merge));
        }
        let shape = match types {
            Types::STRING => Shape::String,
            Types::INTEGER => Shape::Int64,
            Types::NUMBER => Shape::Double,
            Types::BOOLEAN => Shape::Bool,
            _ => Shape::Free,
        };
        (shape, None)
    }

    /// A type of the built-in schema, and those it refers to.
    fn import(&mut self, id: TypeId) -> TypeId {
        if let Some(&known) = self.imported.get(&id) {
            return known;
        }
        let builtin = Schema::builtin();
        let ty = builtin.get(id);
        let own = self.schema.add(Type::new(ty.name.clone(), ty.gvks.clone(), Vec::new(), ty.merge.clone()));
        self.imported.insert(id, own);
        let fields = ty.fields.iter().map(|f| Field { shape: self.import_shape(f.shape), ..f.clone() }).collect();
        self.schema.add(Type::new(ty.name.clone(), ty.gvks.clone(), fields, ty.merge.clone()))
    }

    fn import_shape(&mut self, shape: Shape) -> Shape {
        let builtin = Schema::builtin();
        match shape {
            Shape::Ref(id) => Shape::Ref(self.import(id)),
            Shape::List(id) => {
                let element = self.import_shape(builtin.element(id));
                Shape::List(self.schema.intern(element))
            }
            Shape::Map(id) => {
                let element = self.import_shape(builtin.element(id));
                Shape::Map(self.schema.intern(element))
            }
            other => other,
        }
    }
}

/// A field that is there when it was set, whatever its value.
fn field(name: &str, shape: Shape) -> Field {
    Field {
        name: name.to_owned().into(),
        shape,
        pointer: true,
        tells_empty: false,
        omit: Omit::Empty,
        required: false,
        go_type: None,
        embedded_in: None,
        proto: Vec::new(),
        enum_values: Vec::new(),
        openapi_default: None,
        merge: None,
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn a_resource_has_metadata_and_what_its_schema_says() {
        let structural =
            Structural::new(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}}}));
        let schema = schema(&structural);
        let root = schema.get(ROOT);
        let names: Vec<&str> = root.fields.iter().map(|f| f.name.as_ref()).collect();
        assert_eq!(names, ["kind", "apiVersion", "metadata", "spec"]);
        let spec = root.field("spec").and_then(|f| f.shape.type_id()).expect("spec");
        let list = schema.field(spec, "l").expect("list");
        assert_eq!((list.list_type(), list.list_map_keys().len()), (ListType::Map, 1));
        assert_eq!(schema.zero(ROOT), json!({"metadata": {}}));
    }
}
