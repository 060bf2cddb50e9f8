//! The part of other API servers in our OpenAPI v2 document. Source: `kube-aggregator/pkg/controllers/openapi` and kube-openapi's
//! `aggregator`. Documents of v3 are one per group version, and are handed through.

use std::collections::{BTreeMap, BTreeSet};

use ::bytes::Bytes;
use api::{Map, Value, json, openapi};

use super::{Aggregation, ApiService, proxy};
use crate::gateway::Gateway;
use crate::outbound::Limits;
use crate::source::ObjectSource;

const DEFINITION: &str = "#/definitions/";

/// What a server's own document says of one group: `paths` and the `definitions` they need, as JSON.
#[derive(Clone, Debug)]
pub(super) struct Part {
    json: Bytes,
    hash: String,
}

/// Asks a server for its document; `None` where it has none that can be read.
pub(super) async fn fetch(gateway: &Gateway, service: &ApiService, limits: Limits) -> Option<Part> {
    let document = proxy::document(gateway, service, "/openapi/v2", limits).await.ok()?;
    let json = Bytes::from(of_group(&document, &service.group).to_string());
    Some(Part { hash: openapi::hash(&json), json })
}

/// The paths of a group, and what they refer to.
fn of_group(document: &Value, group: &str) -> Value {
    let prefix = format!("/apis/{group}/");
    let all = |field: &str| document.get(field).and_then(Value::as_object).into_iter().flatten();
    let paths: Map =
        all("paths").filter(|(path, _)| path.starts_with(&prefix)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let paths = Value::Object(paths);
    let mut needed = BTreeSet::new();
    let mut waiting = references(&paths);
    while let Some(name) = waiting.pop_first() {
        if let Some(definition) = document["definitions"].get(&name)
            && needed.insert(name)
        {
            waiting.extend(references(definition).difference(&needed).cloned());
        }
    }
    let definitions: Map = all("definitions")
        .filter(|(name, _)| needed.contains(name.as_str()))
        .map(|(name, definition)| (name.clone(), definition.clone()))
        .collect();
    json!({"paths": paths, "definitions": definitions})
}

/// Names of the definitions that a value refers to.
fn references(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                match (key.as_str(), value.as_str().and_then(|text| text.strip_prefix(DEFINITION))) {
                    ("$ref", Some(name)) => BTreeSet::from([name.to_owned()]),
                    _ => references(value),
                }
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

/// The value with its references changed to the names that the definitions have got.
fn renamed(value: &Value, names: &BTreeMap<String, String>) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| {
                    let target = value.as_str().filter(|_| key.as_str() == "$ref");
                    let new = target.and_then(|text| text.strip_prefix(DEFINITION)).and_then(|name| names.get(name));
                    let value = new.map_or_else(|| renamed(value, names), |name| format!("{DEFINITION}{name}").into());
                    (key.clone(), value)
                })
                .collect(),
        ),
        Value::Array(items) => items.iter().map(|item| renamed(item, names)).collect(),
        other => other.clone(),
    }
}

/// Lays `part` into a document. A path that is there already stays; a definition that differs from ours of the same name gets another
/// (`NAME_v2`).
fn lay_into(document: &mut Value, part: &Value) {
    let theirs = |field: &str| part.get(field).and_then(Value::as_object).into_iter().flatten();
    let Some(own) = document["definitions"].as_object() else { return };
    let mut names = BTreeMap::new();
    for (name, definition) in theirs("definitions") {
        let is_free = |candidate: &str| own.get(candidate).is_none_or(|known| known == definition);
        let candidates = (2_u32..).map(|n| format!("{name}_v{n}"));
        if !is_free(name)
            && let Some(other) = candidates.into_iter().find(|candidate| is_free(candidate))
        {
            names.insert(name.to_string(), other);
        }
    }
    let mut add = |field: &str, names_here: &BTreeMap<String, String>| {
        let Some(own) = document[field].as_object_mut() else { return };
        for (name, value) in theirs(field) {
            let name = names_here.get(name.as_str()).map_or(name.as_str(), String::as_str);
            own.entry(name).or_insert_with(|| renamed(value, &names));
        }
        let mut entries: Vec<_> = std::mem::take(own).into_iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        own.extend(entries);
    };
    add("paths", &BTreeMap::new());
    add("definitions", &names);
}

impl Aggregation {
    /// The document of OpenAPI v2 with the parts of others.
    pub(crate) fn merge_openapi_v2(&self, source: &dyn ObjectSource, document: &[u8]) -> Option<Bytes> {
        let parts = self.openapi_parts(source);
        if parts.is_empty() {
            return None;
        }
        let mut document: Value = Value::from_json(document).ok()?;
        for part in parts {
            lay_into(&mut document, &Value::from_json(&part.json).ok()?);
        }
        Some(document.to_string().into())
    }

    /// Changes when the parts of others do; empty without any.
    pub(crate) fn openapi_v2_hash(&self, source: &dyn ObjectSource) -> String {
        self.openapi_parts(source).iter().map(|part| part.hash.as_str()).collect()
    }

    fn openapi_parts(&self, source: &dyn ObjectSource) -> Vec<Part> {
        let table = self.table(source);
        let served = self.served.lock();
        let remote = table.services.iter().filter(|service| service.remote.is_some());
        remote.filter_map(|service| served.get(&service.name)?.swagger.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_brings_its_paths_and_what_they_refer_to() {
        let document = json!({
            "paths": {"/apis/metrics.k8s.io/v1beta1/nodes": {"get": {"schema": {"$ref": "#/definitions/NodeMetrics"}}},
                "/apis/other.io/v1/x": {"get": {"schema": {"$ref": "#/definitions/X"}}}, "/version": {}},
            "definitions": {"NodeMetrics": {"properties": {"metadata": {"$ref": "#/definitions/Meta"},
                "self": {"$ref": "#/definitions/NodeMetrics"}}}, "Meta": {"type": "object"}, "X": {}},
        });
        let part = of_group(&document, "metrics.k8s.io");
        let names = |field: &str| part[field].as_object().unwrap().keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names("paths"), ["/apis/metrics.k8s.io/v1beta1/nodes"]);
        assert_eq!(names("definitions"), ["NodeMetrics", "Meta"]);
    }

    #[test]
    fn a_definition_that_differs_from_ours_gets_another_name() {
        let mut document = json!({
            "paths": {"/apis/": {}, "/version": {}},
            "definitions": {"Meta": {"type": "object"}, "Time": {"type": "string"}},
        });
        let part = json!({
            "paths": {"/apis/a.io/v1": {"$ref": "#/definitions/A"}, "/version": {"not": "ours"}},
            "definitions": {"A": {"meta": {"$ref": "#/definitions/Meta"}, "time": {"$ref": "#/definitions/Time"}},
                "Meta": {"type": "string"}, "Time": {"type": "string"}},
        });
        lay_into(&mut document, &part);
        let wanted = json!({
            "paths": {"/apis/": {}, "/apis/a.io/v1": {"$ref": "#/definitions/A"}, "/version": {}},
            "definitions": {"A": {"meta": {"$ref": "#/definitions/Meta_v2"}, "time": {"$ref": "#/definitions/Time"}},
                "Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "Time": {"type": "string"}},
        });
        assert_eq!(document.to_string(), wanted.to_string());
    }
}
