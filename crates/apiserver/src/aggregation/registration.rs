//! The APIServices of what is served here.

use std::collections::BTreeMap;

use api::Value;
use api::json;

use super::{GROUP, RESOURCE};
use crate::bootstrap::Change;
use crate::source::ObjectSource;

const MANAGED_LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Made when a server starts, and then the administrator's.
const ON_START: &str = "onstart";
/// Follows its CustomResourceDefinitions.
const ALWAYS: &str = "true";
/// Priorities of groups that custom resources bring.
const CUSTOM_PRIORITY: (i32, i32) = (1000, 100);

/// An APIService for every built-in group version that lacks one, or has another spec than it should.
pub(crate) fn builtin(source: &dyn ObjectSource) -> Vec<Change> {
    let groups = api::kinds::builtin().groups().iter();
    let versions = groups.flat_map(|group| group.versions.iter().map(|version| (group.name, version)));
    let wanted = versions.filter_map(|(group, version)| Some((group, version.version, version.priority?)));
    wanted.filter_map(|(group, version, priority)| settle(source, group, version, priority, ON_START)).collect()
}

/// An APIService for every version of a custom resource that is served, and none that is left over.
pub(crate) fn custom(source: &dyn ObjectSource) -> Vec<Change> {
    let mut served: BTreeMap<(String, String), ()> = BTreeMap::new();
    for stored in source.list("apiextensions.k8s.io", "customresourcedefinitions", "") {
        let Some(definition) = stored.parse() else { continue };
        let group = definition.pointer("/spec/group").and_then(Value::as_str).unwrap_or("");
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
        for version in versions.into_iter().flatten().filter(|version| version["served"] == true) {
            served.insert((group.to_owned(), version["name"].as_str().unwrap_or("").to_owned()), ());
        }
    }
    let mut changes: Vec<Change> =
        served.keys().filter_map(|(group, version)| settle(source, group, version, CUSTOM_PRIORITY, ALWAYS)).collect();
    for stored in source.list(GROUP, RESOURCE, "") {
        let Some(object) = stored.parse() else { continue };
        let text = |field: &str| object["spec"][field].as_str().unwrap_or("").to_owned();
        if object["metadata"]["labels"][MANAGED_LABEL] == ALWAYS
            && !served.contains_key(&(text("group"), text("version")))
        {
            changes.push(Change::delete(GROUP, RESOURCE, object));
        }
    }
    changes
}

/// What brings one APIService to what it should be. One that nobody marked as managed is its maker's.
fn settle(
    source: &dyn ObjectSource,
    group: &str,
    version: &str,
    (group_priority, version_priority): (i32, i32),
    managed: &str,
) -> Option<Change> {
    let name = format!("{version}.{group}");
    let mut spec =
        json!({"groupPriorityMinimum": group_priority, "versionPriority": version_priority, "version": version});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    let Some(stored) = source.get(GROUP, RESOURCE, "", &name) else {
        let object = json!({
            "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
            "metadata": {"name": name, "labels": {MANAGED_LABEL: managed}}, "spec": spec,
        });
        return Some(Change::create(GROUP, RESOURCE, object));
    };
    let mut object = stored.parse()?;
    let same =
        ["group", "version", "groupPriorityMinimum", "versionPriority"].iter().all(|f| object["spec"][f] == spec[f])
            && object["spec"]["service"].is_null();
    let is_managed = object["metadata"]["labels"][MANAGED_LABEL].is_string();
    (!same && is_managed).then(|| {
        object["spec"] = spec;
        Change::update(GROUP, RESOURCE, object)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::ChangeAction;
    use crate::source::testing::MemorySource;

    #[test]
    fn every_builtin_group_version_but_the_registrations_own_has_an_api_service() {
        let source = MemorySource::new();
        let changes = builtin(&source);
        let names: Vec<&str> = changes.iter().map(|change| api::meta::name(&change.object)).collect();
        assert!(names.contains(&"v1.") && names.contains(&"v2.autoscaling"));
        assert!(!names.contains(&"v1.apiregistration.k8s.io"));
        let core = &changes[0].object;
        assert_eq!(core["spec"], json!({"groupPriorityMinimum": 18000, "versionPriority": 1, "version": "v1"}));
        assert_eq!(core["metadata"]["labels"][MANAGED_LABEL], "onstart");
        changes.into_iter().for_each(|change| source.put(GROUP, RESOURCE, change.object));
        assert_eq!(builtin(&source), []);
    }

    #[test]
    fn custom_groups_come_and_go_and_what_others_registered_stays() {
        let source = MemorySource::new();
        let versions = json!([{"name": "v1", "served": true}, {"name": "v2", "served": false}]);
        let definition =
            json!({"metadata": {"name": "a.example.com"}, "spec": {"group": "example.com", "versions": versions}});
        source.put("apiextensions.k8s.io", "customresourcedefinitions", definition);
        let named = |name: &str, managed: Value| {
            let (version, group) = name.split_once('.').unwrap();
            json!({"metadata": {"name": name, "labels": {MANAGED_LABEL: managed}}, "spec": {"group": group, "version": version}})
        };
        source.put(GROUP, RESOURCE, named("v1.old.example.com", "true".into()));
        source.put(GROUP, RESOURCE, named("v1.other.example.com", Value::Null));
        let changes = custom(&source);
        let changes: Vec<_> = changes.iter().map(|c| (c.action, api::meta::name(&c.object))).collect();
        let want = [(ChangeAction::Create, "v1.example.com"), (ChangeAction::Delete, "v1.old.example.com")];
        assert_eq!(changes, want);
    }
}
