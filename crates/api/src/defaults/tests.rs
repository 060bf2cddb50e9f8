use std::fs;
use std::path::PathBuf;

use crate::{Value, json};

use super::apply_at;
use crate::codec::{self, FieldValidation, Format};
use crate::{kinds, rules};

const NOW: &str = "2026-01-02T03:04:05Z";

pub(super) fn defaulted(group: &str, version: &str, kind: &str, body: &Value) -> Value {
    let kind = kinds::builtin().by_kind(group, version, kind).expect("built-in kind");
    let bytes = serde_json::to_vec(body).expect("json");
    let mut value = codec::decode(&bytes, Format::Json, &**kind, FieldValidation::Strict).expect("decodes").value;
    apply_at(&**kind, &mut value, NOW);
    let again = codec::normalize(&value, &**kind).expect("normalizes").value;
    assert_eq!(again.to_string(), value.to_string(), "defaults keep the normal form");
    value
}

/// Everything `part` says is said by `whole`; lists may be longer in `whole`.
fn missing_from(part: &Value, whole: &Value, path: &str, out: &mut Vec<String>) {
    match (part, whole) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                missing_from(value, b.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() <= b.len() => {
            for (i, value) in a.iter().enumerate() {
                missing_from(value, &b[i], &format!("{path}[{i}]"), out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path}: {a} is not {b}")),
    }
}

/// What admission, allocation and the generic write path add to what defaulting leaves.
const ADDED_LATER: &[&str] = &[
    ".metadata.creationTimestamp",
    ".metadata.generation",
    ".metadata.namespace",
    ".metadata.uid",
    ".metadata.annotations",
    ".spec.preemptionPolicy",
    ".spec.priority",
    ".spec.serviceAccount",
    ".spec.tolerations",
    ".spec.volumes",
    ".status",
    ".spec.affinity",
    ".spec.topologySpreadConstraints",
    ".spec.storageClassName",
];

#[test]
fn recorded_responses_hold_exactly_our_defaults() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata/parity/defaults.json");
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not there", path.display());
        return;
    };
    let document: Value = serde_json::from_str(&text).expect("json");
    let mut wrong = Vec::new();
    let mut compared = 0;
    for scenario in document["scenarios"].as_array().expect("scenarios") {
        for step in scenario["steps"].as_array().expect("steps") {
            let (body, expected) = (&step["body"], &step["expect"]["body"]);
            if step["method"] != "POST" || step["expect"]["status"] != 201 || !body.is_object() {
                continue;
            }
            let (group, version) = body["apiVersion"].as_str().and_then(|v| v.split_once('/')).unwrap_or(("", "v1"));
            let name = body["kind"].as_str().expect("kind");
            let kind = kinds::builtin().by_kind(group, version, name).expect("built-in kind");
            let mut value = defaulted(group, version, name, body);
            rules::reset_for_create(kind, &mut value);
            let label = format!("{} {name}", scenario["name"]);
            let mut differences = Vec::new();
            // Status is the strategy's business.
            value.as_object_mut().expect("object").remove("status");
            missing_from(&value, expected, "", &mut differences);
            let mut reverse = Vec::new();
            missing_from(expected, &value, "", &mut reverse);
            reverse.retain(|d| !ADDED_LATER.iter().any(|p| d.starts_with(p)) && !d.contains("volumeMounts"));
            differences.extend(reverse);
            // A DaemonSet's template generation is raised from 0 when it is prepared.
            differences.retain(|d| !d.contains("template.generation"));
            wrong.extend(differences.into_iter().map(|d| format!("{label}: {d}")));
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} compared");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pod_is_filled_in_and_its_template_twin_only_partly() {
    let spec = json!({"hostNetwork": true, "serviceAccount": "sa", "containers": [
        {"name": "c", "image": "nginx:1", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
         "readinessProbe": {"grpc": {"port": 5}}}
    ], "volumes": [{"name": "v"}]});
    let pod = defaulted("", "v1", "Pod", &json!({"metadata": {"name": "p"}, "spec": spec}));
    assert_eq!(
        pod["spec"].to_string(),
        concat!(
            r#"{"volumes":[{"name":"v","emptyDir":{}}],"containers":[{"name":"c","image":"nginx:1","ports":[{"hostPort":80,"containerPort":80,"protocol":"TCP"}],"#,
            r#""resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}},"readinessProbe":{"grpc":{"port":5,"service":""},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"#,
            r#""terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"#,
            r#""restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"sa","serviceAccount":"sa","hostNetwork":true,"securityContext":{},"schedulerName":"default-scheduler","enableServiceLinks":true}"#
        )
    );
    let template = defaulted("", "v1", "PodTemplate", &json!({"template": {"spec": spec}}));
    let container = &template["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"], json!({"limits": {"cpu": "1"}}));
    assert_eq!(container["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
    assert_eq!(template["template"]["spec"].get("enableServiceLinks"), None);
}

#[test]
fn service_defaults_follow_the_type() {
    let service = |spec: Value| defaulted("", "v1", "Service", &json!({"spec": spec}))["spec"].clone();
    assert_eq!(
        service(json!({"ports": [{"port": 80}]})),
        json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}], "type": "ClusterIP", "sessionAffinity": "None",
               "internalTrafficPolicy": "Cluster"})
    );
    let balanced = service(json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}));
    assert_eq!(balanced["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    assert_eq!(
        (&balanced["externalTrafficPolicy"], &balanced["allocateLoadBalancerNodePorts"]),
        (&json!("Cluster"), &json!(true))
    );
    assert_eq!(service(json!({"type": "ExternalName", "externalName": "x"})).get("internalTrafficPolicy"), None);
}

#[test]
fn a_job_is_defaulted_but_not_the_job_inside_a_cron_job() {
    let job = defaulted("batch", "v1", "Job", &json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}));
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!((&job["spec"]["backoffLimit"], &job["spec"]["completions"]), (&json!(6), &json!(1)));
    let cron = defaulted(
        "batch",
        "v1",
        "CronJob",
        &json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": {}}}}}),
    );
    assert_eq!(cron["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None);
    assert_eq!(cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
}

#[test]
fn explicit_zeroes_of_pointers_are_kept() {
    let level = defaulted(
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "PriorityLevelConfiguration",
        &json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}}}),
    );
    assert_eq!(level["spec"]["limited"]["nominalConcurrencyShares"], 0);
    assert_eq!(level["spec"]["limited"]["lendablePercent"], 0);
    let deployment = defaulted("apps", "v1", "Deployment", &json!({"spec": {"replicas": 0}}));
    assert_eq!(deployment["spec"]["replicas"], 0);
}

#[test]
fn taints_of_devices_are_dated() {
    let slice = defaulted(
        "resource.k8s.io",
        "v1",
        "ResourceSlice",
        &json!({"spec": {"driver": "d", "devices": [{"name": "x", "taints": [{"key": "k", "effect": "NoExecute"}]}]}}),
    );
    assert_eq!(slice["spec"]["devices"][0]["taints"][0]["timeAdded"], NOW);
}
