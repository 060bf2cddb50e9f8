//! Policies on literal objects, without a server.

use std::sync::Arc;

use api::json;
use api::{Kind, Value};
use bytes::Bytes;
use store::Revision;

use super::definition::{Policy, Rules, policies};
use super::mutating::mutated;
use super::validating::judge;
use crate::admission::Operation;
use crate::attributes::UserInfo;
use crate::authz::Authorizer;
use crate::source::StoredObject;
use crate::source::testing::MemorySource;
use crate::webhook::{Attributes, Authority, Seen};

fn stored(name: &str, object: &Value) -> Arc<StoredObject> {
    let json = Bytes::from(object.to_string());
    Arc::new(StoredObject { namespace: String::new(), name: name.to_owned(), json, mod_revision: Revision(1) })
}

fn policy(spec: Value, mutating: bool) -> Policy {
    let policy = stored("p", &json!({"metadata": {"name": "p"}, "spec": spec}));
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    let other = json!({"metadata": {"name": "o"}, "spec": {"policyName": "other"}});
    let unbound = stored("unbound", &json!({"metadata": {"name": "unbound"}, "spec": {}}));
    let mut found = policies(&[policy, unbound], &[stored("b", &binding), stored("o", &other)], mutating);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn kind(resource: &str) -> Arc<Kind> {
    let group = if resource == "deployments" { "apps" } else { "" };
    Arc::clone(api::kinds::builtin().by_resource(group, "v1", resource).unwrap())
}

fn with_inputs<T>(kind: &Arc<Kind>, object: &Value, then: impl FnOnce(&Attributes<'_>, &Seen, &Authority) -> T) -> T {
    let user = UserInfo { name: "ann".to_owned(), ..UserInfo::default() };
    let attributes = Attributes {
        operation: Operation::Create,
        kind,
        subresource: "",
        namespace: "ns".to_owned(),
        name: "n".to_owned(),
        user: &user,
        dry_run: false,
        options: Value::Null,
    };
    let authorizer = Arc::new(Authorizer::new(MemorySource::new().shared()));
    let authority = Authority::new(&authorizer, &attributes);
    let seen = Seen::new(&attributes, kind, object, &Value::Null);
    then(&attributes, &seen, &authority)
}

/// Refusals as `index: message (reason)`, then audit annotations as `key=value`.
fn verdict(spec: Value) -> Vec<String> {
    let policy = policy(spec, false);
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}, "data": {"a": "x"}});
    let params = json!({"max": 1});
    let namespace = json!({"metadata": {"name": "ns", "labels": {"env": "test"}}});
    with_inputs(&kind("configmaps"), &object, |_, seen, authority| {
        let verdict = judge(&policy, &seen.inputs(&params, &namespace), authority);
        let refusals =
            verdict.refusals.iter().map(|(at, refusal)| format!("{at}: {} ({})", refusal.message, refusal.reason));
        let annotations = verdict.annotations.iter().map(|(key, value)| format!("{key}={value}"));
        refusals.chain(annotations).chain(verdict.failed_annotations.clone()).collect()
    })
}

#[test]
fn validations_say_why_they_failed() {
    let validations = json!([
        {"expression": "object.data.size() > params.max", "messageExpression": "'at most ' + string(params.max)", "message": "m"},
        {"expression": "variables.short && request.userInfo.username == 'ann'"},
        {"expression": " variables.short == false ", "reason": "Forbidden"},
        {"expression": "namespaceObject.metadata.labels.env == 'prod'", "message": " only in production ", "messageExpression": "''"},
    ]);
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "n", "expression": "object.data.a.size()"}, {"name": "short", "expression": "variables.n < 3"}],
        "validations": validations,
        "auditAnnotations": [{"key": "size", "valueExpression": "string(variables.n)"}, {"key": "no", "valueExpression": "null"}],
    });
    assert_eq!(
        verdict(spec),
        [
            "0: at most 1 ()",
            "2: failed expression: variables.short == false (Forbidden)",
            "3: only in production ()",
            "size=1"
        ]
    );
}

#[test]
fn the_failure_policy_decides_about_errors() {
    let spec = |failure_policy: &str| {
        json!({"failurePolicy": failure_policy, "validations": [
            {"expression": "object.data.missing == 'x'"}, {"expression": "nobody > 1"}, {"expression": "false"},
        ]})
    };
    assert_eq!(
        verdict(spec("Fail")),
        [
            "0: expression 'object.data.missing == 'x'' resulted in error: no such key: missing ()",
            "1: compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference to 'nobody' (in container '')\n \
             | nobody > 1\n | ^ ()",
            "2: failed expression: false ()"
        ]
    );
    assert_eq!(verdict(spec("Ignore")), ["2: failed expression: false ()"]);
}

#[test]
fn conditions_decide_whether_a_policy_is_asked() {
    let spec = |condition: &str, failure_policy: &str| {
        json!({
            "failurePolicy": failure_policy,
            "matchConditions": [{"name": "c", "expression": condition}],
            "validations": [{"expression": "false"}],
        })
    };
    assert_eq!(verdict(spec("object.data.a == 'y'", "Fail")), Vec::<String>::new());
    assert_eq!(
        verdict(spec("authorizer.group('').resource('pods').check('get').allowed()", "Fail")),
        Vec::<String>::new()
    );
    assert_eq!(verdict(spec("object.data.a == 'x'", "Fail")), ["0: failed expression: false ()"]);
    let error = "0: expression 'object.data.b == 'x'' resulted in error: no such key: b ()";
    assert_eq!(verdict(spec("object.data.b == 'x'", "Fail")), [error]);
    assert_eq!(verdict(spec("object.data.b == 'x'", "Ignore")), Vec::<String>::new());
}

/// What one mutation makes of a deployment.
fn mutation(patch_type: &str, expression: &str) -> Result<Option<Value>, String> {
    let member = if patch_type == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
    let policy = policy(json!({"mutations": [{"patchType": patch_type, member: {"expression": expression}}]}), true);
    let container = json!({"name": "c", "image": "i"});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [container]}}},
    });
    let deployments = kind("deployments");
    let Rules::Mutating { mutations, .. } = &policy.rules else { panic!("a mutating policy") };
    with_inputs(&deployments, &object, |attributes, seen, authority| {
        let inputs = seen.inputs(&Value::Null, &Value::Null);
        mutated(&policy, &mutations[0], &inputs, authority, &deployments, attributes)
    })
}

#[test]
fn configurations_are_merged_and_cannot_replace_what_is_atomic() {
    let changed = mutation(
        "ApplyConfiguration",
        "Object{metadata: Object.metadata{labels: {'c': 'd'}}, spec: Object.spec{replicas: object.spec.replicas + 2, \
         template: Object.spec.template{spec: Object.spec.template.spec{containers: \
         [Object.spec.template.spec.containers{name: 'side', image: 's'}]}}}}",
    );
    let changed = changed.unwrap().unwrap();
    assert_eq!(changed["metadata"]["labels"], json!({"a": "b", "c": "d"}));
    assert_eq!(changed["spec"]["replicas"], 3);
    let names: Vec<&str> = changed["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c", "side"]);

    let refused = |expression: &str| mutation("ApplyConfiguration", expression).unwrap_err();
    assert_eq!(
        refused("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}"),
        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"
    );
    assert_eq!(
        refused("Object{spec: Object.spec{nope: 1}}"),
        "error applying patch: failed to convert patch object to typed object: .spec.nope: field not declared in schema"
    );
    assert_eq!(
        refused("Object{spec: Object.metadata{}}"),
        "type mismatch: unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path from \
         root Object type"
    );
}

#[test]
fn json_patches_change_escape_and_test() {
    let patch = |operations: &str| mutation("JSONPatch", operations);
    let changed = patch(
        "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y~z'), value: 'v'}, \
         JSONPatch{op: 'replace', path: '/spec/template/spec', value: Object.spec.template.spec{hostname: 'h'}}]",
    );
    let changed = changed.unwrap().unwrap();
    assert_eq!(changed["metadata"]["labels"], json!({"a": "b", "x/y~z": "v"}));
    assert_eq!(changed["spec"]["template"], json!({"spec": {"hostname": "h"}}));
    assert_eq!(patch("[JSONPatch{op: 'test', path: '/spec/replicas', value: 2}]"), Ok(None));
    assert!(patch("[JSONPatch{op: 'remove', path: '/spec/nope'}]").unwrap_err().starts_with("JSON Patch: "));
}
