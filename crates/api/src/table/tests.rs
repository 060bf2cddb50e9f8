//! Rows of literal objects, and every table recorded from upstream.

use crate::json;

use super::*;
use crate::time;

fn now() -> Timestamp {
    time::parse("2026-01-01T00:00:00Z").expect("time")
}

pub(super) fn cells(group: &str, kind: &str, object: Value) -> Value {
    Printer::of(group, kind).row(&object, now()).cells.into()
}

#[test]
fn every_printer_has_as_many_cells_as_columns() {
    for (group, kind, _) in PRINTERS {
        let printer = Printer::of(group, kind);
        assert!(matches!(printer.cells, Source::Builtin(_)), "{group}/{kind} has no columns");
        let row = printer.row(&json!({}), now());
        // Upstream gives addresses an age but no column for it.
        let extra = usize::from(*kind == "IPAddress");
        assert_eq!(row.cells.len(), printer.columns.len() + extra, "{group}/{kind}");
    }
}

#[test]
fn every_kind_with_columns_has_a_printer() {
    for (group, kind) in columns_table().keys().filter(|(group, _)| *group != "*") {
        assert!(cells_table().contains_key(&(*group, *kind)), "{group}/{kind}");
    }
}

#[test]
fn kinds_without_printer_show_name_and_creation_time() {
    let object = json!({"metadata": {"name": "a", "creationTimestamp": "2025-12-31T00:00:00Z"}});
    assert_eq!(cells("", "LimitRange", object), json!(["a", "2025-12-31T00:00:00Z"]));
    assert_eq!(cells("", "LimitRange", json!({"metadata": {}})), json!(["", "0001-01-01T00:00:00Z"]));
    let header = Printer::of("", "LimitRange").header();
    assert_eq!((&header[1]["name"], &header[1]["type"]), (&json!("Created At"), &json!("date")));
}

#[test]
fn a_running_pod_with_a_sidecar_and_restarts() {
    let object = json!({
        "metadata": {"name": "web", "creationTimestamp": "2025-12-31T20:00:00Z"},
        "spec": {
            "nodeName": "n1",
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}],
            "readinessGates": [{"conditionType": "g"}],
        },
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "g", "status": "True"}],
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{
                "name": "c", "ready": true, "restartCount": 2, "state": {"running": {}},
                "lastState": {"terminated": {"finishedAt": "2025-12-31T23:58:00Z"}},
            }],
        },
    });
    let want = json!(["web", "2/2", "Running", "2 (2m ago)", "4h", "10.0.0.1", "n1", "<none>", "1/1"]);
    assert_eq!(cells("", "Pod", object), want);
}

#[test]
fn pods_that_wait_fail_or_go_away() {
    let pod = |status: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}, "status": status});
    let state = |status: Value| cells("", "Pod", pod(status))[2].clone();
    assert_eq!(state(json!({"phase": "Pending"})), "Pending");
    assert_eq!(
        state(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]})),
        "SchedulingGated"
    );
    assert_eq!(
        state(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]})
        ),
        "Init:0/1"
    );
    assert_eq!(
        state(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]})
        ),
        "Init:ExitCode:3"
    );
    assert_eq!(
        state(
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})
        ),
        "CrashLoopBackOff"
    );
    let mut going = pod(json!({"phase": "Running"}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(cells("", "Pod", going)[2], "Terminating");
    let failed = Printer::of("", "Pod").row(&pod(json!({"phase": "Failed"})), now());
    let want = json!({"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."});
    assert_eq!(failed.conditions, [want]);
}

#[test]
fn a_node_shows_roles_and_addresses() {
    let object = json!({
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "1.1.1.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "osImage": "", "kernelVersion": "6", "architecture": "arm64"},
        },
    });
    let want = json!([
        "n",
        "NotReady,SchedulingDisabled",
        "edge,worker",
        "<unknown>",
        "v1.36.2",
        "1.1.1.1",
        "<none>",
        "<unknown>",
        "6 (arm64)",
        "<unknown>"
    ]);
    assert_eq!(cells("", "Node", object), want);
}

#[test]
fn flow_schemas_are_shown_in_the_order_of_precedence() {
    let schema =
        |name: &str, precedence: i64| json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence}});
    let mut schemas = [schema("a", 900), schema("c", 1), schema("b", 1)];
    Printer::of("flowcontrol.apiserver.k8s.io", "FlowSchema").arrange(&mut schemas);
    assert_eq!(schemas.each_ref().map(|schema| schema["metadata"]["name"].as_str().unwrap_or("")), ["b", "c", "a"]);
}

#[test]
fn autoscaler_metrics_are_summarised() {
    let object = json!({
        "metadata": {"name": "h"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
                {"type": "External", "external": {"target": {"averageValue": "1500m"}}},
                {"type": "Pods", "pods": {"target": {"averageValue": "1"}}},
            ],
        },
        "status": {"currentMetrics": [{"resource": {"current": {"averageUtilization": 10}}}]},
    });
    let targets = cells("autoscaling", "HorizontalPodAutoscaler", object)[2].clone();
    assert_eq!(targets, "cpu: 10%/80%, <unknown>/1500m (avg) + 1 more...");
}

/// Kinds of the recorded scenarios by the plural in their path.
pub(super) fn kind_of(resource: &str) -> (&'static str, &'static str) {
    let plural = |kind: &str| match kind.to_lowercase() {
        kind if kind == "endpoints" => kind,
        kind if kind.ends_with('s') => kind + "es",
        kind if kind.ends_with('y') => kind[..kind.len() - 1].to_owned() + "ies",
        kind => kind + "s",
    };
    PRINTERS.iter().find(|(_, kind, _)| plural(kind) == resource).map_or(("*", "*"), |(group, kind, _)| (group, kind))
}

#[test]
fn headers_are_those_recorded_from_upstream() {
    let mut compared = 0;
    for file in ["table", "list"] {
        let Some(recorded) = crate::golden::shared_json(&format!("testdata/parity/{file}.json")) else { return };
        let scenarios = recorded["scenarios"].as_array().expect("scenarios");
        for step in scenarios.iter().flat_map(|s| s["steps"].as_array()).flatten() {
            let body = &step["expect"]["body"];
            let path = step["path"].as_str().expect("path");
            let skipped = |p: &&str| matches!(*p, "namespaces" | "v1" | "v2") || p.starts_with("${ns}");
            let resource = path.split('/').skip(3).find(|p| !skipped(p)).unwrap_or("namespaces");
            let (group, kind) = kind_of(resource);
            let printer = Printer::of(group, kind);
            if !body["columnDefinitions"].is_null() {
                assert_eq!(printer.header(), body["columnDefinitions"], "{path}");
                compared += 1;
            } else if let Some(names) = body["c"].as_array() {
                let ours: Vec<&str> = printer.columns().iter().map(|c| c.name.as_str()).collect();
                assert_eq!(Value::from(ours), Value::from(names.clone()), "{path}");
                if body["rows"].as_array().is_none_or(Vec::is_empty) {
                    assert_eq!(printer.no_rows(), body["rows"], "{path}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 90, "only {compared} tables compared");
}

/// What the server adds to a recorded object before it is shown.
fn server_fields(resource: &str) -> Value {
    match resource {
        "persistentvolumeclaims" => json!({"spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
        "services" => {
            json!({"spec": {"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP"}]}})
        }
        "secrets" => json!({"type": "Opaque", "data": {"a": "YQ=="}, "stringData": null}),
        "namespaces" => json!({"status": {"phase": "Active"}}),
        "horizontalpodautoscalers" => json!({"spec": {"minReplicas": 1, "targetCPUUtilizationPercentage": 80}}),
        "jobs" => json!({
            "spec": {
                "completions": 1,
                "parallelism": 1,
                "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}},
            },
        }),
        "csidrivers" => json!({"spec": {"volumeLifecycleModes": ["Persistent"]}}),
        "priorityclasses" => json!({"preemptionPolicy": "PreemptLowerPriority"}),
        "prioritylevelconfigurations" => json!({"spec": {"limited": {"nominalConcurrencyShares": 30}}}),
        "flowschemas" => json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}}}),
        _ => json!({}),
    }
}

#[test]
fn rows_are_those_recorded_from_upstream() {
    let Some(recorded) = crate::golden::shared_json("testdata/parity/table.json") else { return };
    let scenarios = recorded["scenarios"].as_array().expect("scenarios");
    let mut compared = 0;
    for scenario in scenarios {
        let steps = scenario["steps"].as_array().expect("steps");
        let created = steps.iter().find(|s| s["method"] == "POST").expect("an object");
        let shown = steps.iter().map(|s| &s["expect"]["body"]).find(|b| b["kind"] == "Table").expect("a table");
        let resource = created["path"].as_str().and_then(|p| p.rsplit('/').next()).expect("resource");
        let (group, kind) = kind_of(resource);
        let fields = server_fields(resource).to_string();
        let patch = crate::patch::Patch::decode(crate::patch::PatchType::Merge, fields.as_bytes(), false);
        let object = patch.expect("decodes").apply_schemaless(&created["body"]).expect("applies").object;
        let row = Printer::of(group, kind).row(&object, now());
        let name = &row.cells[0];
        let rows = shown["rows"].as_array().expect("rows");
        let want = rows
            .iter()
            .filter_map(|r| r["cells"].as_array())
            .find(|cells| cells.contains(name) || resource == "events");
        let Some(want) = want else { panic!("{resource}: no row of {name} in {rows:?}") };
        assert_eq!(row.cells.len(), want.len(), "{resource}");
        for (ours, theirs) in row.cells.iter().zip(want) {
            // A placeholder is no label value.
            let theirs = theirs.as_str().map_or_else(|| theirs.clone(), |text| text.replace("<uid:1>", "u").into());
            let timeless = matches!(theirs.as_str(), Some("<age>" | "<any>" | "<time>" | "0s"));
            assert!(timeless || *ours == theirs, "{resource}: {ours} is not {theirs} in {want:?}");
        }
        compared += 1;
    }
    assert!(compared > 35, "only {compared} rows compared");
}
