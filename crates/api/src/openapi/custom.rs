//! Custom resources in OpenAPI documents: their own schema with the fields every object has, and paths without what only
//! built-in kinds offer (protobuf, strategic merge patches, the old watch paths).

use std::collections::BTreeMap;

use crate::{Map, json};

use crate::{Kind, Value};

use super::{
    Form,
    definitions::meta,
    descriptions::{self, Descriptions},
    gvk,
    operations::{Body, Produces},
    paths::{self, Path},
    structural::{keeps_unknown_fields, published},
};

const METADATA: &str = "Standard object's metadata. More info: \
                        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";

/// Groups and versions that upstream has types for, served or not: options belong to all of them.
pub(super) const SCHEME: &[(&str, &str)] = &[
    ("", "v1"),
    ("admissionregistration.k8s.io", "v1"),
    ("admissionregistration.k8s.io", "v1alpha1"),
    ("admissionregistration.k8s.io", "v1beta1"),
    ("apps", "v1"),
    ("apps", "v1beta1"),
    ("apps", "v1beta2"),
    ("authentication.k8s.io", "v1"),
    ("authentication.k8s.io", "v1alpha1"),
    ("authentication.k8s.io", "v1beta1"),
    ("authorization.k8s.io", "v1"),
    ("authorization.k8s.io", "v1beta1"),
    ("autoscaling", "v1"),
    ("autoscaling", "v2"),
    ("batch", "v1"),
    ("batch", "v1beta1"),
    ("certificates.k8s.io", "v1"),
    ("certificates.k8s.io", "v1alpha1"),
    ("certificates.k8s.io", "v1beta1"),
    ("coordination.k8s.io", "v1"),
    ("coordination.k8s.io", "v1alpha2"),
    ("coordination.k8s.io", "v1beta1"),
    ("discovery.k8s.io", "v1"),
    ("discovery.k8s.io", "v1beta1"),
    ("events.k8s.io", "v1"),
    ("events.k8s.io", "v1beta1"),
    ("extensions", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta2"),
    ("flowcontrol.apiserver.k8s.io", "v1beta3"),
    ("internal.apiserver.k8s.io", "v1alpha1"),
    ("networking.k8s.io", "v1"),
    ("networking.k8s.io", "v1beta1"),
    ("node.k8s.io", "v1"),
    ("node.k8s.io", "v1alpha1"),
    ("node.k8s.io", "v1beta1"),
    ("policy", "v1"),
    ("policy", "v1beta1"),
    ("rbac.authorization.k8s.io", "v1"),
    ("rbac.authorization.k8s.io", "v1alpha1"),
    ("rbac.authorization.k8s.io", "v1beta1"),
    ("resource.k8s.io", "v1"),
    ("resource.k8s.io", "v1alpha3"),
    ("resource.k8s.io", "v1beta1"),
    ("resource.k8s.io", "v1beta2"),
    ("scheduling.k8s.io", "v1"),
    ("scheduling.k8s.io", "v1alpha2"),
    ("scheduling.k8s.io", "v1beta1"),
    ("storage.k8s.io", "v1"),
    ("storage.k8s.io", "v1alpha1"),
    ("storage.k8s.io", "v1beta1"),
    ("storagemigration.k8s.io", "v1beta1"),
];

/// A kind that a CRD brought, and its `openAPIV3Schema` (null when it has none).
#[derive(Clone, Copy, Debug)]
pub struct CustomKind<'k> {
    pub kind: &'k Kind,
    pub schema: &'k Value,
}

/// `com.example.v1.Widget`: the group's labels reversed.
pub(super) fn definition_name(kind: &Kind) -> String {
    let mut labels: Vec<&str> = kind.group.split('.').collect();
    labels.reverse();
    format!("{}.{}.{}", labels.join("."), kind.version, kind.kind)
}

/// Paths of a custom kind.
pub(super) fn paths(kind: &Kind) -> Vec<Path> {
    let name = definition_name(kind);
    let mut kind = kind.clone();
    for sub in kind.subresources.iter_mut().filter(|sub| sub.kind == kind.kind && sub.group == kind.group) {
        sub.type_name = name.clone().into();
    }
    kind.type_name = name.into();
    let mut out = paths::of_kind(&kind);
    out.retain(|path| !path.operations.iter().any(|op| op.action.starts_with("watch")));
    for operation in out.iter_mut().flat_map(|path| &mut path.operations) {
        operation.produces = Produces::Custom;
        if operation.body == Body::Patch {
            operation.body = Body::CustomPatch;
        }
    }
    out
}

/// Definitions of custom kinds and of their lists.
pub(super) fn definitions(form: Form, kinds: &[CustomKind<'_>]) -> BTreeMap<String, Value> {
    let text = descriptions::inflate();
    let descriptions = Descriptions::parse(&text);
    let text_of = |field: &str| descriptions.get("", field).unwrap_or_default();
    let string = |field: &str| json!({"description": text_of(field), "type": "string"});
    let reference = |name: &str, description: &str| {
        let reference = form.reference(&meta(name));
        match form {
            Form::V2 => json!({"$ref": reference["$ref"], "description": description}),
            Form::V3 => json!({"allOf": [reference], "description": description}),
        }
    };
    let list_metadata = descriptions.get("List", "metadata").unwrap_or_default();

    let mut out = BTreeMap::new();
    for CustomKind { kind, schema } in kinds {
        let name = definition_name(kind);
        let mut own = match schema {
            Value::Object(fields) if !(form == Form::V2 && keeps_unknown_fields(fields)) => {
                let mut own = published(form, fields, &|| reference("ObjectMeta", METADATA));
                own.insert("type", "object".into());
                let properties = own.entry("properties").or_insert_with(|| json!({}));
                if let Some(properties) = properties.as_object_mut() {
                    properties.insert("apiVersion", string("apiVersion"));
                    properties.insert("kind", string("kind"));
                    properties.insert("metadata", reference("ObjectMeta", METADATA));
                }
                own
            }
            // With properties, clients that check by OpenAPI v2 would refuse all others.
            _ => Map::from_iter([("type", "object")]),
        };
        let mark = |schema: &mut Map, name: String| {
            schema.insert("x-kubernetes-group-version-kind", json!([gvk(&kind.group, &kind.version, &name)]));
            let paths: Vec<Value> =
                kind.selectable_fields.iter().map(|field| json!({"fieldPath": field.label.as_ref()})).collect();
            if !paths.is_empty() {
                schema.insert("x-kubernetes-selectable-fields", paths.into());
            }
        };
        mark(&mut own, kind.kind.to_string());
        out.insert(name.clone(), own.into());

        let mut list = json!({
            "description": format!("{} is a list of {}", kind.list_kind(), kind.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": string("apiVersion"),
                "items": {
                    "description": format!("List of {}. More info: {CONVENTIONS}", kind.resource),
                    "type": "array",
                    "items": form.reference(&name),
                },
                "kind": string("kind"),
                "metadata": reference("ListMeta", list_metadata.as_str().unwrap_or_default()),
            },
        });
        if let Some(list) = list.as_object_mut() {
            mark(list, kind.list_kind());
        }
        out.insert(format!("{name}List"), list);
    }
    out
}
