use super::builtin;
use crate::rules::{DeleteReturns, GcDefault, Generation};

fn kind(group: &str, version: &str, resource: &str) -> &'static crate::Kind {
    builtin().by_resource(group, version, resource).expect("served resource")
}

#[test]
fn pods_are_described_as_upstream_describes_them() {
    let pods = kind("", "v1", "pods");
    assert_eq!((pods.kind.as_ref(), pods.singular.as_ref(), pods.namespaced), ("Pod", "pod", true));
    assert_eq!(pods.short_names, ["po"]);
    assert_eq!(pods.categories, ["all"]);
    assert_eq!((pods.storage_prefix.as_ref(), pods.storage_version.as_ref()), ("pods", "v1"));
    assert_eq!(pods.storage_version_hash, "xPOwRZ+Yhw8=");
    assert_eq!(pods.rules.generation, Generation::Fields(&["spec"]));
    assert_eq!(pods.rules.delete_returns, DeleteReturns::Object);
    let eviction = pods.subresource("eviction").expect("eviction");
    assert_eq!(
        (eviction.group.as_ref(), eviction.version.as_ref(), eviction.kind.as_ref()),
        ("policy", "v1", "Eviction")
    );
    let names: Vec<&str> = pods.subresources.iter().map(|s| s.name.as_ref()).collect();
    let expected = [
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
        "status",
    ];
    assert_eq!(names, expected);
}

#[test]
fn every_stored_kind_has_a_schema_a_prefix_and_a_storage_kind() {
    assert_eq!(builtin().kinds().len(), 68);
    for kind in builtin().kinds() {
        assert_eq!(kind.schema.get(kind.type_id).name, kind.type_name);
        if kind.is_stored() {
            assert!(builtin().storage_kind(kind).is_some(), "{} stored as {}", kind.kind, kind.storage_version);
        }
    }
}

#[test]
fn historical_prefixes_are_kept() {
    let prefix = |group: &str, resource: &str| kind(group, "v1", resource).storage_prefix.to_string();
    assert_eq!(prefix("", "nodes"), "minions");
    assert_eq!(prefix("", "services"), "services/specs");
    assert_eq!(prefix("", "endpoints"), "services/endpoints");
    assert_eq!(prefix("", "replicationcontrollers"), "controllers");
    assert_eq!(prefix("networking.k8s.io", "ingresses"), "ingress");
    assert_eq!(
        prefix("apiextensions.k8s.io", "customresourcedefinitions"),
        "apiextensions.k8s.io/customresourcedefinitions"
    );
    assert_eq!(prefix("apiregistration.k8s.io", "apiservices"), "apiregistration.k8s.io/apiservices");
}

#[test]
fn selectable_fields_follow_the_stored_form() {
    let labels = |group: &str, resource: &str| {
        let fields = &kind(group, "v1", resource).selectable_fields;
        fields.iter().map(|f| f.label.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(labels("", "namespaces"), "status.phase");
    assert_eq!(labels("", "nodes"), "spec.unschedulable");
    assert_eq!(labels("", "persistentvolumes"), "");
    assert_eq!(labels("apps", "replicasets"), "");
    assert_eq!(labels("batch", "jobs"), "status.successful");
    assert_eq!(labels("", "secrets"), "type");
    let events = kind("events.k8s.io", "v1", "events");
    let regarding = events.selectable_fields.iter().find(|f| f.label == "regarding.name").expect("regarding.name");
    assert_eq!(regarding.path, ["involvedObject", "name"]);
    let source =
        kind("", "v1", "events").selectable_fields.iter().find(|f| f.label == "source").expect("source").clone();
    assert_eq!(source.path, ["source", "component"]);
    assert_eq!(source.fallback.expect("fallback"), ["reportingComponent"]);
}

#[test]
fn write_rules_come_from_the_table() {
    let rules = |group: &str, resource: &str| &kind(group, "v1", resource).rules;
    assert!(rules("coordination.k8s.io", "leases").create_on_update);
    assert!(!rules("coordination.k8s.io", "leases").unconditional_update);
    assert!(rules("apps", "deployments").clears_status_on_create);
    assert_eq!(rules("apps", "deployments").status_update_restores, ["spec", "metadata.labels"]);
    assert_eq!(rules("batch", "jobs").gc_default, GcDefault::Orphan);
    assert_eq!(rules("", "events").gc_default, GcDefault::Unsupported);
    assert_eq!(rules("networking.k8s.io", "servicecidrs").status_update_restores, ["metadata", "spec"]);
    assert_eq!(rules("storage.k8s.io", "csidrivers").generation, Generation::FieldsOnUpdateOnly(&["spec"]));
}

#[test]
fn groups_keep_discovery_order_and_priorities() {
    let groups = builtin().groups();
    assert_eq!(groups[0].name, "");
    assert_eq!(groups[1].name, "apiregistration.k8s.io");
    assert_eq!(groups[1].versions[0].priority, None);
    let autoscaling = builtin().group("autoscaling").expect("autoscaling");
    assert_eq!(autoscaling.versions[0].version, "v2");
    assert_eq!(autoscaling.versions[1].priority, Some((17500, 15)));
}

#[test]
fn errors_name_the_group_in_which_an_object_is_stored() {
    let group = |group: &str, resource: &str| {
        builtin().by_resource(group, "v1", resource).map(|kind| kind.stored_group().to_owned())
    };
    assert_eq!(group("events.k8s.io", "events").as_deref(), Some(""));
    assert_eq!(group("apps", "deployments").as_deref(), Some("apps"));
    assert_eq!(group("", "pods").as_deref(), Some(""));
}
