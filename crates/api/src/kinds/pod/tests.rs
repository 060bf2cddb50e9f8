//! Tables of pods and what is said about them.

use crate::json;

use super::*;

const CTX: Context<'static> = Context {
    now: "2026-01-01T00:00:00Z",
    user: "",
    groups: &[],
    user_uid: "",
    sent: b"",
    extra: &std::collections::BTreeMap::new(),
    uid: "",
};

fn container() -> Value {
    json!({
        "name": "c", "image": "busybox", "terminationMessagePolicy": "File", "imagePullPolicy": "Always",
        "terminationMessagePath": "/dev/termination-log", "resources": {}
    })
}

fn pod_with(changes: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "a", "namespace": "n"},
        "spec": {
            "containers": [container()], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "securityContext": {}, "schedulerName": "default-scheduler"
        }
    });
    for (key, value) in changes.as_object().cloned().unwrap_or_default() {
        pod["spec"][key] = value;
    }
    pod
}

fn errors_of(changes: Value) -> Vec<String> {
    let pod = pod_with(changes);
    let mut errors = ErrorList::new();
    validate(&Cursor::root(&pod), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn container_errors(changes: Value) -> Vec<String> {
    let mut own = container();
    for (key, value) in changes.as_object().cloned().unwrap_or_default() {
        own[key] = value;
    }
    errors_of(json!({"containers": [own]}))
}

#[test]
fn a_plain_pod_is_valid() {
    assert_eq!(errors_of(json!({})), Vec::<String>::new());
}

#[test]
fn containers_are_required_and_named_once() {
    assert_eq!(errors_of(json!({"containers": []})), ["spec.containers: Required value"]);
    assert_eq!(
        errors_of(json!({"initContainers": [container()]})),
        ["spec.initContainers[0].name: Duplicate value: \"c\""]
    );
}

#[test]
fn container_rules_report_in_upstreams_order() {
    let cases = [
        (
            json!({"ports": [{"containerPort": 0, "protocol": "TCP"}]}),
            vec!["spec.containers[0].ports[0].containerPort: Required value"],
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}}]}),
            vec![
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: \
                 field label not supported: spec.x",
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": ""}]}),
            vec![
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
                "spec.containers[0].volumeMounts[0].mountPath: Required value",
            ],
        ),
        (
            json!({"securityContext": {"runAsUser": -1, "runAsGroup": -1}}),
            vec![
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.containers[0].securityContext.runAsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        ),
        (
            json!({"livenessProbe": {"successThreshold": 2}}),
            vec![
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
    ];
    for (changes, expected) in cases {
        assert_eq!(container_errors(changes), expected);
    }
}

#[test]
fn volumes_have_one_source() {
    assert_eq!(
        errors_of(json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]})),
        ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]
    );
    assert_eq!(
        errors_of(json!({"volumes": [{"name": "v", "nfs": {}}]})),
        [
            "spec.volumes[0].nfs.server: Required value",
            "spec.volumes[0].nfs.path: Required value",
            "spec.volumes[0].nfs.path: Invalid value: \"\": must be an absolute path",
        ]
    );
}

#[test]
fn windows_pods_have_no_linux_settings() {
    assert_eq!(
        errors_of(
            json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"runAsUser": 1, "fsGroup": 1}})
        ),
        [
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
            "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ]
    );
}

fn update_errors(old: &Value, new: &Value) -> Vec<String> {
    let mut errors = ErrorList::new();
    update::pod(&Cursor::root(new), &Cursor::root(old), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_changed_spec_is_shown_as_a_diff() {
    let mut old = pod_with(json!({}));
    old["metadata"]["resourceVersion"] = "1".into();
    let mut new = old.clone();
    new["spec"]["nodeName"] = "x".into();
    let errors = update_errors(&old, &new);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0]
            .starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,")
    );
    assert!(
        errors[0]
            .contains("\n  \"AutomountServiceAccountToken\": null,\n- \"NodeName\": \"\",\n+ \"NodeName\": \"x\",\n")
    );
}

#[test]
fn images_deadline_and_tolerations_may_change() {
    let mut old = pod_with(json!({}));
    old["metadata"]["resourceVersion"] = "1".into();
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "other".into();
    new["spec"]["activeDeadlineSeconds"] = 10.into();
    new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    assert_eq!(update_errors(&old, &new), Vec::<String>::new());
    let mut again = new.clone();
    again["spec"]["activeDeadlineSeconds"] = 20.into();
    assert_eq!(
        update_errors(&new, &again),
        ["spec.activeDeadlineSeconds: Invalid value: 20: must be less than or equal to previous value"]
    );
}

#[test]
fn creation_sets_phase_class_and_gate_condition() {
    let mut pod = pod_with(json!({"schedulingGates": [{"name": "g"}]}));
    prepare_for_create(&mut pod, &CTX);
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn label_keys_become_expressions_on_own_labels() {
    let mut pod = pod_with(json!({"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}, "matchLabelKeys": ["app", "no"]}]}));
    pod["metadata"]["labels"] = json!({"app": "web"});
    prepare_for_create(&mut pod, &CTX);
    assert_eq!(
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]})
    );
}

#[test]
fn only_pods_that_run_get_time_to_stop() {
    let mut pod = pod_with(json!({}));
    assert_eq!(grace_period(&pod, Some(5)), 0);
    pod["spec"]["nodeName"] = "n".into();
    assert_eq!(grace_period(&pod, None), 30);
    assert_eq!(grace_period(&pod, Some(-1)), 1);
    pod["status"] = json!({"phase": "Failed"});
    assert_eq!(grace_period(&pod, Some(5)), 0);
}

#[test]
fn only_cpu_and_memory_are_resized() {
    let sized = |resources: Value| {
        let mut own = container();
        own["resources"] = resources;
        let mut init = own.clone();
        init["name"] = "i".into();
        pod_with(json!({"containers": [own], "initContainers": [init]}))
    };
    let resized = |old: &Value, mut sent: Value| {
        sent["metadata"]["resourceVersion"] = "1".into();
        let strategy = STRATEGY.subresources.iter().find(|part| part.name == "resize").expect("a part");
        (strategy.prepare_for_update)(&mut sent, old, &CTX);
        let mut errors = ErrorList::new();
        (strategy.validate_update)(&Cursor::root(&sent), &Cursor::root(old), &mut errors);
        errors.iter().map(ToString::to_string).filter(|error| error.starts_with("spec")).collect::<Vec<_>>()
    };
    let small = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}});
    let mut large = small.clone();
    large["limits"]["cpu"] = "3".into();
    assert_eq!(resized(&sized(small.clone()), sized(large.clone())), Vec::<String>::new());
    large["limits"]["ephemeral-storage"] = "1Gi".into();
    assert_eq!(
        resized(&sized(small.clone()), sized(large)),
        [
            "spec: Forbidden: only cpu and memory resources are mutable",
            "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable",
        ]
    );
    let mut moved = sized(small.clone());
    moved["spec"]["containers"][0]["name"] = "d".into();
    assert_eq!(
        resized(&sized(small.clone()), moved),
        ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
    );
    let mut with_claims = small;
    with_claims["claims"] = json!([{"name": "a"}]);
    let mut claiming = pod_with(json!({"resourceClaims": [{"name": "a", "resourceClaimName": "b"}]}));
    claiming["spec"]["containers"][0]["resources"] = with_claims;
    assert_eq!(resized(&claiming, claiming.clone()), ["spec: Forbidden: only cpu and memory resources are mutable"]);
}
