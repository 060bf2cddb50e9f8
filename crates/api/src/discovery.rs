//! Discovery documents: which groups, versions, resources and subresources a server has, as JSON ready to send.
//!
//! The input is a list of groups in discovery order, made from the built-in registry ([`builtin`]) and extended by whatever
//! else is served. The unaggregated documents and both aggregated forms come from the same records.

use crate::{Map, json};
use bytes::Bytes;

use crate::{
    Kind, Value,
    kind::{SchemaRef, Str, group_version},
    kinds,
};

/// A group with its versions, preferred first. The core group has the empty name.
#[derive(Clone, Debug)]
pub struct ApiGroup<'k> {
    pub name: &'k str,
    pub versions: Vec<ApiVersion<'k>>,
}

/// A version of a group.
#[derive(Clone, Debug)]
pub struct ApiVersion<'k> {
    pub version: &'k str,
    /// Alphabetical by resource.
    pub kinds: Vec<&'k Kind>,
    /// What is listed may be out of date (an aggregated server does not answer).
    pub stale: bool,
}

/// The Content-Type of the aggregated form.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// All built-in groups, the core group first.
pub fn builtin() -> Vec<ApiGroup<'static>> {
    let registry = kinds::builtin();
    let version = |group: &'static str, version: &'static str| ApiVersion {
        version,
        kinds: registry.of_group_version(group, version).map(|kind| &**kind).collect(),
        stale: false,
    };
    let versions = |group: &kinds::Group| group.versions.iter().map(|v| version(group.name, v.version)).collect();
    registry.groups().iter().map(|group| ApiGroup { name: group.name, versions: versions(group) }).collect()
}

/// `/api`. `server_address` is `host:port`.
pub fn api_versions(server_address: &str) -> Bytes {
    bytes(&json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    }))
}

/// `/apis`: every group but the core group.
pub fn group_list(groups: &[ApiGroup<'_>]) -> Bytes {
    let groups: Vec<Value> = groups.iter().filter(|g| !g.name.is_empty()).map(|g| group_fields(g).into()).collect();
    bytes(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/GROUP`.
pub fn group(group: &ApiGroup<'_>) -> Bytes {
    let mut document = Map::new();
    document.insert("kind", "APIGroup".into());
    document.insert("apiVersion", "v1".into());
    document.extend(group_fields(group));
    bytes(&document.into())
}

fn group_fields(group: &ApiGroup<'_>) -> Map {
    let version =
        |v: &ApiVersion<'_>| json!({"groupVersion": group_version(group.name, v.version), "version": v.version});
    let mut fields = Map::new();
    fields.insert("name", group.name.into());
    fields.insert("versions", group.versions.iter().map(version).collect());
    if let Some(preferred) = group.versions.first() {
        fields.insert("preferredVersion", version(preferred));
    }
    fields
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub fn resource_list<'k>(group: &str, version: &str, kinds: impl IntoIterator<Item = &'k Kind>) -> Bytes {
    let mut resources = Vec::new();
    for kind in kinds {
        resources.push(resource(kind));
        resources.extend(kind.subresources.iter().map(|sub| {
            let mut fields = Map::new();
            fields.insert("name", format!("{}/{}", kind.resource, sub.name).into());
            fields.insert("singularName", "".into());
            fields.insert("namespaced", kind.namespaced.into());
            if (&sub.group, &sub.version) != (&kind.group, &kind.version) {
                put(&mut fields, "group", &sub.group);
                put(&mut fields, "version", &sub.version);
            }
            put(&mut fields, "kind", &sub.kind);
            fields.insert("verbs", texts(&sub.verbs));
            Value::Object(fields)
        }));
    }
    let mut document = Map::new();
    document.insert("kind", "APIResourceList".into());
    // The core group's list has never carried an apiVersion.
    if !group.is_empty() {
        document.insert("apiVersion", "v1".into());
    }
    document.insert("groupVersion", group_version(group, version).into());
    document.insert("resources", resources.into());
    bytes(&document.into())
}

fn resource(kind: &Kind) -> Value {
    let mut fields = Map::new();
    put(&mut fields, "name", &kind.resource);
    fields.insert("singularName", kind.singular.as_ref().into());
    fields.insert("namespaced", kind.namespaced.into());
    put(&mut fields, "kind", &kind.kind);
    fields.insert("verbs", texts(&kind.verbs));
    put_all(&mut fields, "shortNames", &kind.short_names);
    put_all(&mut fields, "categories", &kind.categories);
    put(&mut fields, "storageVersionHash", &kind.storage_version_hash);
    fields.into()
}

/// The aggregated form of `/api` (`core`: only the core group) or of `/apis` (every other group).
pub fn aggregated(core: bool, groups: &[ApiGroup<'_>]) -> Bytes {
    let items: Vec<Value> = groups
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = group.versions.iter().map(aggregated_version).collect();
            // The core group has no name, and an empty name is left out.
            let metadata = if core { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    bytes(
        &json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
    )
}

fn aggregated_version(version: &ApiVersion<'_>) -> Value {
    let resources: Vec<Value> = version.kinds.iter().map(|kind| aggregated_resource(kind)).collect();
    let freshness = if version.stale { "Stale" } else { "Current" };
    let mut fields = Map::new();
    fields.insert("version", version.version.into());
    if !resources.is_empty() {
        fields.insert("resources", resources.into());
    }
    fields.insert("freshness", freshness.into());
    fields.into()
}

fn aggregated_resource(kind: &Kind) -> Value {
    // Built-in kinds leave out what equals the version they are listed under; custom resources say it.
    let is_custom = matches!(kind.schema, SchemaRef::Custom(_));
    let response_kind = |group: &str, version: &str, name: &str| {
        let implied = !is_custom && group == kind.group && version == kind.version;
        let (group, version) = if implied { ("", "") } else { (group, version) };
        json!({"group": group, "version": version, "kind": name})
    };
    let mut fields = Map::new();
    put(&mut fields, "resource", &kind.resource);
    fields.insert("responseKind", response_kind(&kind.group, &kind.version, &kind.kind));
    fields.insert("scope", if kind.namespaced { "Namespaced" } else { "Cluster" }.into());
    fields.insert("singularResource", kind.singular.as_ref().into());
    fields.insert("verbs", texts(&kind.verbs));
    put_all(&mut fields, "shortNames", &kind.short_names);
    put_all(&mut fields, "categories", &kind.categories);
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": response_kind(&sub.group, &sub.version, &sub.kind),
                "verbs": texts(&sub.verbs),
            })
        })
        .collect();
    if !subresources.is_empty() {
        fields.insert("subresources", subresources.into());
    }
    fields.into()
}

fn put(fields: &mut Map, name: &str, text: &str) {
    if !text.is_empty() {
        fields.insert(name, text.into());
    }
}

fn put_all(fields: &mut Map, name: &str, list: &[Str]) {
    if !list.is_empty() {
        fields.insert(name, texts(list));
    }
}

fn texts(list: &[Str]) -> Value {
    list.iter().map(|text| text.as_ref()).collect()
}

/// Upstream ends a JSON document with a newline.
fn bytes(document: &Value) -> Bytes {
    format!("{document}\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::shared_json;

    fn read(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).expect("json")
    }

    #[test]
    fn every_group_version_is_as_upstream_lists_it() {
        for group in builtin() {
            for version in &group.versions {
                let path = match group.name {
                    "" => "api__v1".to_owned(),
                    name => format!("apis__{name}__{}", version.version),
                };
                let Some(want) = shared_json(&format!("testdata/discovery/{path}.json")) else { return };
                let got = read(&resource_list(group.name, version.version, version.kinds.iter().copied()));
                assert_eq!(got["resources"], want["resources"], "{path}");
                assert_eq!(got.get("apiVersion"), want.get("apiVersion"), "{path}");
                assert_eq!(got["groupVersion"], want["groupVersion"], "{path}");
            }
        }
    }

    #[test]
    fn documents_recorded_from_a_default_server_are_reproduced() {
        let Some(recorded) = shared_json("testdata/parity/discovery.json") else { return };
        let groups = builtin();
        let mut compared = 0;
        for scenario in recorded["scenarios"].as_array().expect("scenarios") {
            for step in scenario["steps"].as_array().expect("steps") {
                let path: Vec<&str> = step["path"].as_str().expect("path").split('/').skip(1).collect();
                let found = |name: &str| groups.iter().find(|g| g.name == name);
                let got = match path[..] {
                    ["apis", name] => found(name).map(group),
                    ["apis", name, version] => found(name)
                        .and_then(|g| g.versions.iter().find(|v| v.version == version))
                        .map(|v| resource_list(name, version, v.kinds.iter().copied())),
                    _ => continue,
                };
                let Some(got) = got else { continue };
                assert_eq!(read(&got), step["expect"]["body"], "{path:?}");
                compared += 1;
            }
        }
        assert!(compared > 20, "only {compared} documents compared");
    }

    #[test]
    fn the_aggregated_form_lists_what_upstream_lists() {
        let Some(want) = shared_json("testdata/discovery/aggregated_v2.json") else { return };
        let got = read(&aggregated(false, &builtin()));
        assert_eq!(got["apiVersion"], want["apiVersion"]);
        for item in got["items"].as_array().expect("items") {
            let items = want["items"].as_array().expect("items");
            let same = items.iter().find(|i| i["metadata"] == item["metadata"]);
            let Some(same) = same else { panic!("{} is not upstream's", item["metadata"]) };
            for version in item["versions"].as_array().expect("versions") {
                let versions = same["versions"].as_array().expect("versions");
                let same = versions.iter().find(|v| v["version"] == version["version"]);
                assert_eq!(Some(version), same, "{} {}", item["metadata"], version["version"]);
            }
        }
    }

    #[test]
    fn the_core_group_has_a_document_of_its_own() {
        let got = read(&aggregated(true, &builtin()));
        assert_eq!(got["apiVersion"], "apidiscovery.k8s.io/v2");
        assert_eq!(got["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(got["items"][0]["versions"][0]["version"], "v1");
        let list = read(&group_list(&builtin()));
        assert_eq!(list["groups"][0]["name"], "apiregistration.k8s.io");
        assert_eq!(read(&api_versions("10.0.0.1:6443"))["versions"], json!(["v1"]));
    }
}
