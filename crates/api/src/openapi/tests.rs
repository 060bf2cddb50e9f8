//! Documents compared with upstream's.

use std::collections::BTreeSet;

use super::*;
use crate::{discovery, golden::shared_json};

fn v3(group: &str, version: &str) -> Value {
    let groups = discovery::builtin();
    let kinds = groups.iter().find(|g| g.name == group).expect("group").versions.iter().find(|v| v.version == version);
    let document = v3_document(group, version, kinds.expect("version").kinds.iter().copied());
    serde_json::from_slice(&document).expect("json")
}

fn v2() -> Value {
    serde_json::from_slice(&v2_document(&discovery::builtin(), &[])).expect("json")
}

/// Without what the golden documents were built without.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let is_left_out = |key: &str, value: &Value| match key {
                "description" => value.is_string(),
                "enum" => value.is_array(),
                _ => false,
            };
            map.retain(|key, value| !is_left_out(key, value));
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

#[test]
fn definitions_of_v2_are_upstreams() {
    let Some(want) = shared_json("testdata/openapi/swagger.json") else { return };
    let mut got = v2();
    strip(&mut got);
    let mut different = Vec::new();
    for (name, definition) in got["definitions"].as_object().expect("definitions") {
        let mut definition = definition.clone();
        let mut wanted = want["definitions"][name].clone();
        // The golden document has every alpha version on.
        for side in [&mut definition, &mut wanted] {
            if name.ends_with(".DeleteOptions") || name.ends_with(".WatchEvent") {
                side["x-kubernetes-group-version-kind"] = Value::Null;
            }
        }
        if definition != wanted {
            different.push(format!("{name}\n  got  {definition}\n  want {wanted}"));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn paths_and_operations_of_v2_are_upstreams() {
    let Some(want) = shared_json("testdata/openapi/swagger.json") else { return };
    let got = v2();
    let mut different = Vec::new();
    for (path, item) in got["paths"].as_object().expect("paths") {
        let wanted = &want["paths"][path];
        if wanted.is_null() {
            different.push(format!("{path}: not upstream's"));
            continue;
        }
        for method in keys(item).into_iter().filter(|key| *key != "parameters") {
            for field in ["operationId", "x-kubernetes-action", "x-kubernetes-group-version-kind", "tags"] {
                let (ours, theirs) = (&item[method][field], &wanted[method][field]);
                if ours != theirs {
                    different.push(format!("{path} {method} {field}: {ours} but {theirs}"));
                }
            }
        }
        let missing: Vec<&str> = keys(wanted).difference(&keys(item)).copied().collect();
        if !missing.is_empty() {
            different.push(format!("{path}: lacks {missing:?}"));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn schemas_and_paths_of_v3_are_those_recorded() {
    let Some(recorded) = shared_json("testdata/parity/discovery.json") else { return };
    let mut different = Vec::new();
    for scenario in recorded["scenarios"].as_array().expect("scenarios") {
        for step in scenario["steps"].as_array().expect("steps") {
            let path: Vec<&str> = step["path"].as_str().expect("path").split('/').skip(1).collect();
            let (group, version) = match path[..] {
                ["openapi", "v3", "api", version] => ("", version),
                ["openapi", "v3", "apis", group, version] => (group, version),
                _ => continue,
            };
            let body = &step["expect"]["body"];
            let document = v3(group, version);
            for (field, ours) in [("schemas", &document["components"]["schemas"]), ("paths", &document["paths"])] {
                let Some(wanted) = body[field].as_array() else { continue };
                let wanted: BTreeSet<&str> = wanted.iter().filter_map(Value::as_str).collect();
                let ours = keys(ours);
                if ours != wanted {
                    let extra: Vec<_> = ours.difference(&wanted).collect();
                    let missing: Vec<_> = wanted.difference(&ours).collect();
                    different.push(format!("{path:?} {field}: extra {extra:?}, missing {missing:?}"));
                }
            }
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn schemas_of_v3_are_upstreams() {
    let mut different = Vec::new();
    for group in discovery::builtin() {
        for version in &group.versions {
            let file = v3_path(group.name, version.version).replace('/', "__");
            let Some(want) = shared_json(&format!("testdata/openapi/v3/{file}_openapi.json")) else { return };
            let mut got = v3(group.name, version.version);
            strip(&mut got);
            for (name, schema) in got["components"]["schemas"].as_object().expect("schemas") {
                let wanted = &want["components"]["schemas"][name];
                let generic = name.ends_with(".DeleteOptions") || name.ends_with(".WatchEvent");
                if schema != wanted && !generic {
                    different.push(format!("{file} {name}\n  got  {schema}\n  want {wanted}"));
                }
            }
        }
    }
    different.truncate(10);
    assert!(different.is_empty(), "differ:\n{}", different.join("\n"));
}

#[test]
fn a_recorded_patch_operation_is_reproduced() {
    let Some(recorded) = shared_json("testdata/parity/discovery.json") else { return };
    let steps = recorded["scenarios"].as_array().expect("scenarios").iter().flat_map(|s| s["steps"].as_array());
    let body = steps.flatten().map(|step| &step["expect"]["body"]).find(|body| !body["p"].is_null()).expect("recorded");
    let document = v3("apps", "v1");
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(item["patch"], body["p"]);
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["get"], body["g"]);
}

#[test]
fn types_and_fields_are_described() {
    let document = v3("apps", "v1");
    let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["description"], "Deployment enables declarative updates for Pods and ReplicaSets.");
    let described = &deployment["properties"]["spec"];
    assert_eq!(described["description"], "Specification of the desired behavior of the Deployment.");
}

#[test]
fn the_index_names_documents_by_hash() {
    let hash = hash(b"abc");
    assert!(hash.starts_with("DDAF35A193617ABACC417349AE204131"), "{hash}");
    let index: Value = serde_json::from_slice(&v3_index([("api/v1", "AB")])).expect("json");
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=AB");
}

#[test]
fn custom_resources_are_described_as_recorded() {
    let Some(recorded) = shared_json("testdata/parity/crd.json") else { return };
    let scenario = recorded["scenarios"].as_array().into_iter().flatten().find(|s| s["name"] == "crd/openapi-v3");
    let steps = scenario.and_then(|s| s["steps"].as_array()).expect("recorded");
    let crd = steps.iter().map(|s| &s["body"]).find(|b| b["kind"] == "CustomResourceDefinition").expect("crd");
    let want = steps.iter().map(|s| &s["expect"]["body"]).find(|b| !b["schemas"].is_null()).expect("document");

    let mut kind =
        (**crate::kinds::builtin().by_resource("apps", "v1", "deployments").expect("a kind to start from")).clone();
    (kind.group, kind.kind, kind.resource) = ("${ns}.example.com".into(), "Widget".into(), "widgets".into());
    kind.subresources.clear();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let custom = CustomKind { kind: &kind, schema };
    let document = v3_custom_document(&[custom]);
    let document: Value = serde_json::from_slice(&document).expect("json");
    let wanted: BTreeSet<&str> = want["paths"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(keys(&document["paths"]), wanted);
    let schemas = &document["components"]["schemas"];
    assert_eq!(keys(schemas), keys(&want["schemas"]));
    for name in ["com.example.${ns}.v1.Widget", "com.example.${ns}.v1.WidgetList"] {
        assert_eq!(schemas[name], want["schemas"][name], "{name}");
    }
    for name in ["DeleteOptions", "ObjectMeta", "ListMeta", "Status", "Time", "Preconditions", "Patch"] {
        let name = definitions::meta(name);
        let (mut ours, mut theirs) = (schemas[&name].clone(), want["schemas"][&name].clone());
        strip(&mut ours);
        strip(&mut theirs);
        assert_eq!(ours, theirs, "{name}");
    }
    let v2: Value = serde_json::from_slice(&v2_document(&[], &[custom])).expect("json");
    assert_eq!(v2["definitions"]["com.example.${ns}.v1.Widget"]["properties"]["spec"]["type"], "object");
}

#[test]
fn the_protobuf_form_is_of_the_whole_document() {
    let json = v2_document(&discovery::builtin(), &[]);
    let binary = v2_protobuf(&json);
    assert!(binary.len() > json.len() / 3, "{} of {} bytes", binary.len(), json.len());
    assert!(binary.starts_with(b"\x0a\x032.0"), "field 1 is the version");
}
