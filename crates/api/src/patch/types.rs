//! Strategic merge patches of typed objects: what the schema says of merging, in the patch's terms.

use crate::{
    Schema,
    schema::{Field, Shape},
};

use super::{FieldMeta, ListMerge, PatchSchema};

impl PatchSchema for Schema {
    type Node = Shape;

    fn field(&self, node: Shape, name: &str) -> Option<FieldMeta<'_, Shape>> {
        match node {
            Shape::Ref(id) => self.get(id).field(name).map(|field| meta(self, field)),
            // Every key of a map has the same type, and nothing is said of merging below it.
            Shape::Map(_) => {
                let list = ListMerge::Replace;
                Some(FieldMeta { node: Some(self.element_of(self.element_of(node))), replace: false, list })
            }
            _ => None,
        }
    }

    fn is_map(&self, node: Shape) -> bool {
        matches!(node, Shape::Map(_))
    }

    fn type_name(&self, node: Shape) -> String {
        match node {
            Shape::Ref(id) => self.get(id).short_name().to_owned(),
            other => self.go_shape(other).rsplit('.').next().unwrap_or_default().to_owned(),
        }
    }
}

fn meta<'s>(schema: &Schema, field: &'s Field) -> FieldMeta<'s, Shape> {
    let strategy = field.patch_strategy();
    let (node, list) = match field.shape {
        Shape::List(element) => {
            let list = match (strategy.merge, field.patch_merge_key()) {
                (false, _) => ListMerge::Replace,
                (true, Some(key)) => ListMerge::ByKey(key),
                (true, None) => ListMerge::Set,
            };
            (schema.element(element), list)
        }
        shape => (shape, ListMerge::Replace),
    };
    FieldMeta { node: Some(node), replace: strategy.replace, list }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;
    use crate::{
        Value,
        patch::{Patch, PatchType},
    };

    fn patched(type_name: &str, original: Value, patch: Value) -> Value {
        let schema = Schema::builtin();
        let root = Shape::Ref(schema.type_id(type_name).expect("known type"));
        let patch = Patch::decode(PatchType::Strategic, patch.to_string().as_bytes(), false).expect("decodes");
        patch.apply(&original, schema, root).expect("applies").object
    }

    #[test]
    fn lists_are_searched_for_what_is_to_be_deleted_and_maps_have_no_order() {
        let claim = "io.k8s.api.core.v1.PersistentVolumeClaim";
        let original = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["x", "y"]}});
        let patch = json!({"spec": {"$deleteFromPrimitiveList/accessModes": ["x"]}});
        assert_eq!(patched(claim, original.clone(), patch)["spec"]["accessModes"], json!(["y"]));
        let patch = json!({"metadata": {"labels": {"$setElementOrder/z": ["a"]}}}).to_string();
        let patch = Patch::decode(PatchType::Strategic, patch.as_bytes(), false).expect("decodes");
        let root = Shape::Ref(Schema::builtin().type_id(claim).expect("known type"));
        let refused = patch.apply(&original, Schema::builtin(), root).expect_err("refused").to_string();
        assert_eq!(refused, "merging an object in json but data type is not struct, instead is: map");
    }

    #[test]
    fn services_merge_ports_by_number_and_drop_selectors() {
        let original = json!({"spec": {"ports": [{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81}], "selector": {"x": "y"}}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 81, "$patch": "delete"}], "selector": null}});
        let want = json!({"spec": {"ports": [{"name": "a", "port": 80, "protocol": "TCP", "targetPort": 8080}]}});
        assert_eq!(patched("io.k8s.api.core.v1.Service", original, patch), want);
    }

    #[test]
    fn deployments_merge_containers_labels_and_finalizers() {
        let original = json!({
            "metadata": {"finalizers": ["a"], "labels": {"l": "1"}},
            "spec": {"template": {"spec": {
                "containers": [{"name": "c", "args": ["x"], "env": [{"name": "A", "value": "1"}]}],
                "tolerations": [{"key": "t"}],
            }}},
        });
        let patch = json!({
            "metadata": {"finalizers": ["b"], "labels": {"m": "2"}},
            "spec": {"template": {"spec": {
                "containers": [{"name": "c", "args": ["y"], "env": [{"name": "B", "value": "2"}]}],
                "tolerations": [{"key": "u"}],
            }}},
        });
        let want = json!({
            "metadata": {"finalizers": ["b", "a"], "labels": {"l": "1", "m": "2"}},
            "spec": {"template": {"spec": {
                "containers": [{"name": "c", "args": ["y"], "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}],
                "tolerations": [{"key": "u"}],
            }}},
        });
        assert_eq!(patched("io.k8s.api.apps.v1.Deployment", original, patch), want);
    }
}
