//! Writes paths and operations in the form of either OpenAPI version.

use std::collections::BTreeSet;

use crate::{Map, json};

use crate::Value;

use super::{
    Form, definitions, gvk,
    operations::{Body, Operation, Parameter},
    paths::Path,
    tag,
};

const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const CUSTOM_PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// A JSON object written entry by entry, so that only one entry is ever a tree.
pub(super) fn write_map<'n>(out: &mut Vec<u8>, entries: impl Iterator<Item = (&'n str, Value)>) {
    out.push(b'{');
    for (i, (name, value)) in entries.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(Value::from(name).to_string().as_bytes());
        out.push(b':');
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, &value);
    }
    out.push(b'}');
}

/// Writes all paths, sorted; returns the definitions that their operations name.
pub(super) fn write_paths(out: &mut Vec<u8>, form: Form, paths: &mut [Path]) -> Vec<String> {
    paths.sort_by(|a, b| a.path.cmp(&b.path));
    let mut named = BTreeSet::new();
    for operation in paths.iter().flat_map(|path| &path.operations) {
        match &operation.body {
            Body::None => {}
            Body::Required(name) | Body::Optional(name) => {
                named.insert(name.clone());
            }
            Body::Patch | Body::CustomPatch => {
                named.insert(definitions::PATCH.to_owned());
            }
        }
        if !operation.response.is_empty() {
            named.insert(operation.response.clone());
        }
    }
    write_map(out, paths.iter().map(|path| (path.path.as_str(), path_item(form, path))));
    named.into_iter().collect()
}

fn path_item(form: Form, path: &Path) -> Value {
    let mut item = Map::new();
    if !path.parameters.is_empty() {
        item.insert("parameters", path.parameters.iter().map(|p| parameter(form, p, &path.kind)).collect());
    }
    for operation in &path.operations {
        item.insert(operation.method, render(form, path, operation));
    }
    item.into()
}

fn parameter(form: Form, parameter: &Parameter, kind: &str) -> Value {
    let mut fields = Map::new();
    fields.insert("name", parameter.name.into());
    fields.insert("in", if parameter.is_path { "path" } else { "query" }.into());
    let description = match parameter.name {
        "name" => format!("name of the {kind}"),
        _ => parameter.description.to_owned(),
    };
    if !description.is_empty() {
        fields.insert("description", description.into());
    }
    if parameter.is_path {
        fields.insert("required", true.into());
    }
    match form {
        Form::V2 => {
            fields.insert("type", parameter.value_type.into());
            fields.insert("uniqueItems", true.into());
        }
        Form::V3 => {
            fields.insert("schema", json!({"type": parameter.value_type, "uniqueItems": true}));
        }
    }
    fields.into()
}

fn render(form: Form, path: &Path, operation: &Operation) -> Value {
    let mut fields = Map::new();
    fields.insert("tags", json!([tag(&path.group, &path.version)]));
    fields.insert("description", operation.description.as_str().into());
    fields.insert("operationId", operation.id.as_str().into());
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|p| parameter(form, p, &path.kind)).collect();
    match form {
        Form::V2 => {
            let produces = operation.produces.media_types();
            let consumes: &[&str] = match (&operation.body, operation.action) {
                (Body::Patch, _) => &PATCH_TYPES,
                (Body::CustomPatch, _) => &CUSTOM_PATCH_TYPES,
                (_, "") => produces,
                _ => &["*/*"],
            };
            fields.insert("consumes", json!(consumes));
            fields.insert("produces", json!(produces));
            fields.insert("schemes", json!(["https"]));
            parameters.splice(0..0, v2_body(&operation.body));
        }
        Form::V3 => {
            if let Some(body) = v3_body(&operation.body) {
                fields.insert("requestBody", body);
            }
        }
    }
    if !parameters.is_empty() {
        fields.insert("parameters", parameters.into());
    }
    fields.insert("responses", responses(form, operation));
    if !operation.action.is_empty() {
        fields.insert("x-kubernetes-action", operation.action.into());
    }
    if let Some((group, version, kind)) = &operation.gvk {
        fields.insert("x-kubernetes-group-version-kind", gvk(group, version, kind));
    }
    fields.into()
}

fn v2_body(body: &Body) -> Option<Value> {
    let schema = |name: &str| Form::V2.reference(name);
    match body {
        Body::None => None,
        Body::Required(name) => Some(json!({"name": "body", "in": "body", "required": true, "schema": schema(name)})),
        Body::Optional(name) => Some(json!({"name": "body", "in": "body", "schema": schema(name)})),
        Body::Patch | Body::CustomPatch => {
            Some(json!({"name": "body", "in": "body", "required": true, "schema": schema(definitions::PATCH)}))
        }
    }
}

fn v3_body(body: &Body) -> Option<Value> {
    let content = |name: &str| json!({"schema": Form::V3.reference(name)});
    let patches = |types: &[&str]| {
        let types: Map =
            types.iter().map(|media_type| ((*media_type).to_owned(), content(definitions::PATCH))).collect();
        json!({"content": types, "required": true})
    };
    match body {
        Body::None => None,
        Body::Required(name) => Some(json!({"content": {"*/*": content(name)}, "required": true})),
        Body::Optional(name) => Some(json!({"content": {"*/*": content(name)}})),
        Body::Patch => Some(patches(&PATCH_TYPES)),
        Body::CustomPatch => Some(patches(&CUSTOM_PATCH_TYPES)),
    }
}

fn responses(form: Form, operation: &Operation) -> Value {
    let schema = match operation.response.as_str() {
        "" => json!({"type": "string"}),
        name => form.reference(name),
    };
    let mut out = Map::new();
    for code in operation.codes {
        let description = match code {
            201 => "Created",
            202 => "Accepted",
            _ => "OK",
        };
        let response = match form {
            Form::V2 => json!({"description": description, "schema": schema}),
            Form::V3 => {
                let types = operation.produces.media_types().iter();
                let content: Map =
                    types.map(|media_type| ((*media_type).to_owned(), json!({"schema": schema}))).collect();
                json!({"description": description, "content": content})
            }
        };
        out.insert(code.to_string(), response);
    }
    out.insert("401", json!({"description": "Unauthorized"}));
    out.into()
}
