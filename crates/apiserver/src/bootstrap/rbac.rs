//! The default roles and bindings: create what is missing, add missing rules and subjects, never take anything away.
//!
//! An object whose annotation `rbac.authorization.kubernetes.io/autoupdate` is `false` is left alone. The policy itself is data
//! (`data/rbac.json`, written by `cargo xtask rbac`).

use std::{collections::BTreeMap, sync::LazyLock};

use api::json;
use api::{Map, Value};
use serde::Deserialize;

use super::{Change, ChangeAction};
use crate::{
    authz::{
        PolicyRule,
        rbac::GROUP,
        rule::{compact_rules, uncovered},
    },
    source::ObjectSource,
};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    // Part of the binary, and read by a test: it cannot be wrong at run time.
    serde_json::from_str(include_str!("../../data/rbac.json")).expect("the embedded policy is valid")
});

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    cluster_roles: Vec<Row>,
    cluster_role_bindings: Vec<Row>,
    roles: Vec<Row>,
    role_bindings: Vec<Row>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Row {
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
    rules: Vec<PolicyRule>,
    aggregation_rule: Option<Value>,
    role_ref: Option<Value>,
    subjects: Option<Vec<Value>>,
}

/// Resource, kind and rows, in the order in which they are applied.
fn sections() -> [(&'static str, &'static str, &'static [Row]); 4] {
    [
        ("clusterroles", "ClusterRole", &POLICY.cluster_roles),
        ("clusterrolebindings", "ClusterRoleBinding", &POLICY.cluster_role_bindings),
        ("roles", "Role", &POLICY.roles),
        ("rolebindings", "RoleBinding", &POLICY.role_bindings),
    ]
}

/// Rules of a bootstrap cluster role that is not aggregated; empty for any other.
pub fn cluster_role_rules(name: &str) -> Vec<PolicyRule> {
    POLICY.cluster_roles.iter().find(|row| row.name == name).map(|row| row.rules.clone()).unwrap_or_default()
}

/// What has to change so that the default policy holds.
pub fn plan(source: &dyn ObjectSource) -> Vec<Change> {
    let mut changes = Vec::new();
    for (resource, kind, rows) in sections() {
        for row in rows {
            let desired = row.object(kind);
            let existing = source.get(GROUP, resource, &row.namespace, &row.name).and_then(|stored| stored.parse());
            let action = match existing {
                None => Some((ChangeAction::Create, desired)),
                Some(existing) if is_protected(&existing) => None,
                Some(existing) => reconcile(existing, desired),
            };
            if let Some((action, object)) = action {
                changes.push(Change { group: GROUP, resource, action, object });
            }
        }
    }
    changes
}

impl Row {
    fn object(&self, kind: &str) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name", json!(self.name));
        if !self.namespace.is_empty() {
            metadata.insert("namespace", json!(self.namespace));
        }
        let mut labels: BTreeMap<&str, &str> = self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        labels.insert(BOOTSTRAPPING.0, BOOTSTRAPPING.1);
        metadata.insert("labels", json!(labels));
        metadata.insert("annotations", json!({AUTOUPDATE: "true"}));
        let mut object = json!({"kind": kind, "apiVersion": format!("{GROUP}/v1"), "metadata": metadata});
        match &self.role_ref {
            Some(role_ref) => {
                if let Some(subjects) = &self.subjects {
                    object["subjects"] = json!(subjects);
                }
                object["roleRef"] = role_ref.clone();
            }
            None => {
                // A role without rules has the list all the same, as null.
                object["rules"] = if self.rules.is_empty() { Value::Null } else { json!(self.rules) };
                if let Some(aggregation) = &self.aggregation_rule {
                    object["aggregationRule"] = aggregation.clone();
                }
            }
        }
        object
    }
}

fn is_protected(existing: &Value) -> bool {
    existing["metadata"]["annotations"][AUTOUPDATE] == "false"
}

fn reconcile(mut existing: Value, desired: Value) -> Option<(ChangeAction, Value)> {
    if existing.get("roleRef") != desired.get("roleRef") {
        return Some((ChangeAction::Recreate, desired));
    }
    let before = existing.clone();
    for field in ["labels", "annotations"] {
        add_missing_keys(&mut existing["metadata"], &desired["metadata"], field);
    }
    if desired.get("roleRef").is_some() {
        add_missing_items(&mut existing, &desired, &["subjects"]);
    } else {
        reconcile_role(&mut existing, &desired);
    }
    (existing != before).then_some((ChangeAction::Update, existing))
}

fn reconcile_role(existing: &mut Value, desired: &Value) {
    match desired.get("aggregationRule") {
        // The controller owns the rules of an aggregated role.
        Some(aggregation) if existing["aggregationRule"].is_null() => existing["aggregationRule"] = aggregation.clone(),
        Some(_) => add_missing_items(existing, desired, &["aggregationRule", "clusterRoleSelectors"]),
        None => {
            if let Some(object) = existing.as_object_mut() {
                object.remove("aggregationRule");
            }
            let missing = compact_rules(uncovered(&rules(existing), &rules(desired)));
            if !missing.is_empty() {
                let mut all = existing["rules"].as_array().cloned().unwrap_or_default();
                all.extend(missing.iter().map(|rule| json!(rule)));
                existing["rules"] = Value::Array(all);
            }
        }
    }
}

fn rules(role: &Value) -> Vec<PolicyRule> {
    let list = role["rules"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|rule| PolicyRule::deserialize(rule).ok()).collect()
}

fn add_missing_keys(existing: &mut Value, desired: &Value, field: &str) {
    let Some(wanted) = desired.get(field).and_then(Value::as_object) else { return };
    if !existing.is_object() {
        return;
    }
    let mut have = existing[field].as_object().cloned().unwrap_or_default();
    let n_before = have.len();
    for (key, value) in wanted {
        have.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if have.len() != n_before {
        existing[field] = Value::Object(have);
    }
}

/// Appends items of the list at `path` that `existing` lacks.
fn add_missing_items(existing: &mut Value, desired: &Value, path: &[&str]) {
    let pointer = format!("/{}", path.join("/"));
    let Some(wanted) = desired.pointer(&pointer).and_then(Value::as_array) else { return };
    let mut have = existing.pointer(&pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let n_before = have.len();
    for item in wanted {
        if !have.iter().any(|other| same_fields(other, item)) {
            have.push(item.clone());
        }
    }
    if have.len() != n_before {
        let target = path.iter().fold(existing, |value, field| &mut value[*field]);
        *target = Value::Array(have);
    }
}

/// Equal, not counting fields that are empty on one side.
fn same_fields(a: &Value, b: &Value) -> bool {
    match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            let covers = |x: &Map, y: &Map| x.iter().all(|(k, v)| y.get(k) == Some(v) || v == "");
            covers(a, b) && covers(b, a)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;

    fn applied() -> MemorySource {
        let source = MemorySource::new();
        for change in plan(&source) {
            source.put(change.group, change.resource, change.object);
        }
        source
    }

    #[test]
    fn the_embedded_policy_is_upstreams() {
        let policy: Policy = serde_json::from_str(include_str!("../../data/rbac.json")).unwrap();
        assert_eq!(
            [
                policy.cluster_roles.len(),
                policy.cluster_role_bindings.len(),
                policy.roles.len(),
                policy.role_bindings.len()
            ],
            [70, 51, 7, 7]
        );
    }

    #[test]
    fn an_empty_cluster_gets_everything_once() {
        let source = applied();
        assert_eq!(plan(&source), []);
        let admin = source.get(GROUP, "clusterroles", "", "cluster-admin").unwrap().parse().unwrap();
        assert_eq!(
            admin,
            json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
                   "metadata": {"name": "cluster-admin", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                                "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
                   "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                             {"verbs": ["*"], "nonResourceURLs": ["*"]}]})
        );
    }

    #[test]
    fn missing_rules_are_added_and_extra_ones_kept() {
        let source = applied();
        let mut role = source.get(GROUP, "clusterroles", "", "system:discovery").unwrap().parse().unwrap();
        let extra = json!({"verbs": ["get"], "nonResourceURLs": ["/mine"]});
        role["rules"] = json!([extra]);
        source.put(GROUP, "clusterroles", role);
        let changes = plan(&source);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].action, ChangeAction::Update);
        assert_eq!(changes[0].object["rules"][0], extra);
        source.put(GROUP, "clusterroles", changes[0].object.clone());
        assert_eq!(plan(&source), []);
    }

    #[test]
    fn an_object_with_autoupdate_off_is_left_alone() {
        let source = applied();
        let mut binding = source.get(GROUP, "clusterrolebindings", "", "system:discovery").unwrap().parse().unwrap();
        binding["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        binding["subjects"] = json!([]);
        source.put(GROUP, "clusterrolebindings", binding);
        assert_eq!(plan(&source), []);
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew_and_a_missing_subject_added() {
        let source = applied();
        let mut binding = source.get(GROUP, "clusterrolebindings", "", "cluster-admin").unwrap().parse().unwrap();
        binding["subjects"] = json!([{"kind": "User", "apiGroup": GROUP, "name": "me"}]);
        source.put(GROUP, "clusterrolebindings", binding.clone());
        let changes = plan(&source);
        assert_eq!(changes[0].action, ChangeAction::Update);
        assert_eq!(changes[0].object["subjects"].as_array().map(Vec::len), Some(2));
        binding["roleRef"]["name"] = json!("view");
        source.put(GROUP, "clusterrolebindings", binding);
        assert_eq!(plan(&source)[0].action, ChangeAction::Recreate);
    }
}
