//! A row of every kind that has columns and is in no table recorded from upstream. Source: the cells' rules in the fact table of
//! printer columns.

use super::tests::cells;
use super::*;

const WORKLOAD: &str = r#"{"metadata": {"name": "a", "creationTimestamp": "2025-12-31T23:00:00Z"},
    "spec": {"replicas": 3, "selector": SELECTOR, "template": {"spec": {"nodeSelector": {"x": "y", "b": "c"},
        "containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j:2"}]}}},
    "status": {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1, "desiredNumberScheduled": 4,
        "currentNumberScheduled": 3, "numberReady": 2, "updatedNumberScheduled": 1, "numberAvailable": 1}}"#;

/// Group, kind, the object besides its name and age (`WORKLOAD` where it says so), and its cells.
#[rustfmt::skip] // A row a line.
const ROWS: &[(&str, &str, &str, &str)] = &[
    ("", "PersistentVolume", r#"{"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"}, "storageClassName": "s", "volumeMode": "Filesystem"}, "status": {"phase": "Bound", "reason": "r"}}"#,
        r#"["a", "1Gi", "RWO,RWX", "Retain", "Bound", "n/c", "s", "<unset>", "r", "60m", "Filesystem"]"#),
    ("", "PersistentVolume", r#"{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"capacity": {"storage": "1Gi"}}, "status": {"phase": "Bound"}}"#,
        r#"["a", "1Gi", "", "", "Terminating", "", "", "<unset>", "", "60m", "<unset>"]"#),
    ("", "ReplicationController", "WORKLOAD map", r#"["a", 3, 2, 1, "60m", "c,d", "i:1,j:2", "x=y"]"#),
    ("apps", "ReplicaSet", "WORKLOAD", r#"["a", 3, 2, 1, "60m", "c,d", "i:1,j:2", "x=y"]"#),
    ("apps", "Deployment", "WORKLOAD", r#"["a", "1/3", 2, 1, "60m", "c,d", "i:1,j:2", "x=y"]"#),
    ("apps", "StatefulSet", "WORKLOAD", r#"["a", "1/3", "60m", "c,d", "i:1,j:2"]"#),
    ("apps", "DaemonSet", "WORKLOAD", r#"["a", 4, 3, 2, 1, 1, "b=c,x=y", "60m", "c,d", "i:1,j:2", "x=y"]"#),
    ("apps", "ControllerRevision", r#"{"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "o", "uid": "u", "controller": true}]}, "revision": 7}"#,
        r#"["a", "daemonset.apps/o", 7, "60m"]"#),
    ("apps", "ControllerRevision", r#"{"revision": 1}"#, r#"["a", "<none>", 1, "60m"]"#),
    ("certificates.k8s.io", "CertificateSigningRequest", r#"{"spec": {"signerName": "s.io/x", "username": "u", "expirationSeconds": 3600}, "status": {"conditions": [{"type": "Approved"}], "certificate": "YQ=="}}"#,
        r#"["a", "60m", "s.io/x", "u", "60m", "Approved,Issued"]"#),
    ("certificates.k8s.io", "CertificateSigningRequest", r#"{"spec": {"username": "u"}, "status": {"conditions": [{"type": "Denied"}, {"type": "Failed"}]}}"#,
        r#"["a", "60m", "<none>", "u", "<none>", "Denied,Failed"]"#),
    ("networking.k8s.io", "NetworkPolicy", r#"{"spec": {"podSelector": {"matchLabels": {"x": "y"}}}}"#, r#"["a", "x=y", "60m"]"#),
    ("networking.k8s.io", "NetworkPolicy", r#"{"spec": {"podSelector": {}}}"#, r#"["a", "<none>", "60m"]"#),
    ("networking.k8s.io", "ServiceCIDR", r#"{"spec": {"cidrs": ["10.0.0.0/24", "fd00::/112"]}}"#, r#"["a", "10.0.0.0/24,fd00::/112", "60m"]"#),
    ("resource.k8s.io", "ResourceClaimTemplate", r#"{"spec": {"spec": {}}}"#, r#"["a", "60m"]"#),
    ("resource.k8s.io", "ResourceSlice", r#"{"spec": {"nodeName": "n", "driver": "d", "pool": {"name": "p"}}}"#, r#"["a", "n", "d", "p", "60m"]"#),
    ("storage.k8s.io", "VolumeAttributesClass", r#"{"driverName": "d"}"#, r#"["a", "d", "60m"]"#),
    ("apiregistration.k8s.io", "APIService", r#"{"spec": {"service": {"namespace": "n", "name": "s"}}, "status": {"conditions": [{"type": "Available", "status": "False", "reason": "R"}]}}"#,
        r#"["a", "n/s", "False (R)", "60m"]"#),
    ("apiregistration.k8s.io", "APIService", r#"{"spec": {}, "status": {"conditions": [{"type": "Available", "status": "True", "reason": "R"}]}}"#, r#"["a", "Local", "True", "60m"]"#),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", r#"{"spec": {"mutations": [{}, {}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}"#, r#"["a", 2, "v1/ConfigMap", "60m"]"#),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", r#"{"spec": {"policyName": "p", "paramRef": {"namespace": "n", "name": "c"}}}"#, r#"["a", "p", "n/c", "60m"]"#),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding",
     r#"{"spec": {"policyName": "p", "paramRef": {"selector": {"matchLabels": {"b": "c", "a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}}}}"#,
     r#"["a", "p", "&LabelSelector{MatchLabels:map[string]string{a: b,b: c,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}", "60m"]"#),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", r#"{"spec": {"policyName": "p", "paramRef": {"name": "c"}}}"#, r#"["a", "p", "*/c", "60m"]"#),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", r#"{"spec": {"policyName": "p"}}"#, r#"["a", "p", "<unset>", "60m"]"#),
    ("", "ComponentStatus", r#"{"conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]}"#, r#"["a", "Healthy", "ok", ""]"#),
    ("autoscaling", "Scale", r#"{"spec": {"replicas": 3}, "status": {"replicas": 2}}"#, r#"["a", 3, 2, "60m"]"#),
    ("scheduling.k8s.io", "Workload", r#"{"spec": {}}"#, r#"["a", "60m"]"#),
];

fn object(text: &str) -> Value {
    let selector = if text.ends_with("map") { r#"{"x": "y"}"# } else { r#"{"matchLabels": {"x": "y"}}"# };
    let text = if text.starts_with("WORKLOAD") { WORKLOAD.replace("SELECTOR", selector) } else { text.to_owned() };
    let mut object: Value = serde_json::from_str(&text).expect("json");
    object["metadata"]["name"] = "a".into();
    object["metadata"]["creationTimestamp"] = "2025-12-31T23:00:00Z".into();
    object
}

#[test]
fn kinds_in_no_record_print_their_rows() {
    for (group, kind, text, want) in ROWS {
        let want: Value = serde_json::from_str(want).expect("json");
        assert_eq!(cells(group, kind, object(text)), want, "{group}/{kind}");
    }
}

/// Kinds with a row in this file, in the tests of their own, or in upstream's recorded tables.
#[test]
fn no_kind_is_left_without_a_row() {
    let Some(recorded) = crate::golden::shared_json("testdata/parity/table.json") else { return };
    let steps = recorded["scenarios"].as_array().into_iter().flatten().flat_map(|s| s["steps"].as_array()).flatten();
    let resources: Vec<&str> =
        steps.filter(|s| s["method"] == "POST").filter_map(|s| s["path"].as_str()?.rsplit('/').next()).collect();
    let recorded: Vec<(&str, &str)> = resources.iter().map(|resource| super::tests::kind_of(resource)).collect();
    // Events are printed alike in both groups.
    let own = [("", "Pod"), ("", "Node"), ("events.k8s.io", "Event")];
    let mut left: Vec<_> = PRINTERS.iter().map(|(group, kind, _)| (*group, *kind)).collect();
    left.retain(|kind| {
        !recorded.contains(kind) && !own.contains(kind) && !ROWS.iter().any(|(g, k, ..)| (*g, *k) == *kind)
    });
    assert_eq!(left, []);
}
