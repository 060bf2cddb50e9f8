use crate::json;

use super::*;
use crate::Value;
use crate::kinds;

fn kind(group: &str, version: &str, kind: &str) -> &'static crate::Kind {
    kinds::builtin().by_kind(group, version, kind).expect("a built-in kind")
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn applied(live: &Value, manager: &str, config: &Value) -> Value {
    apply(kind("", "v1", "ConfigMap"), &writer(manager), live, config, false).expect("applies").object
}

fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|e| format!("{} {} {}", e["manager"].as_str().unwrap_or(""), e["operation"], e["fieldsV1"]))
        .collect()
}

#[test]
fn fields_v1_round_trips_in_canonical_order() {
    let fields = json!({
        "f:spec": {"f:ports": {".": {}, "k:{\"protocol\":\"TCP\",\"port\":443}": {"f:port": {}}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}}}},
        "f:metadata": {"f:finalizers": {"v:\"b\"": {}, "v:\"a\"": {}}},
    });
    let set = Set::from_fields_v1(&fields).expect("parses");
    assert_eq!(
        set.to_fields_v1().to_string(),
        r#"{"f:metadata":{"f:finalizers":{"v:\"a\"":{},"v:\"b\"":{}}},"f:spec":{"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{},"k:{\"port\":443,\"protocol\":\"TCP\"}":{"f:port":{}}}}}"#
    );
    assert_eq!(
        set.paths(),
        [
            ".metadata.finalizers[=\"a\"]",
            ".metadata.finalizers[=\"b\"]",
            ".spec.ports",
            ".spec.ports[port=80,protocol=\"TCP\"]",
            ".spec.ports[port=443,protocol=\"TCP\"].port"
        ]
    );
    assert_eq!(Set::from_fields_v1(&json!({"bogus": {}})), None);
}

#[test]
fn a_field_that_its_applier_leaves_out_goes_unless_another_applies_it() {
    let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let one = applied(&empty, "m1", &config_map(json!({"a": "1", "b": "1"})));
    let two = applied(&one, "m2", &config_map(json!({"a": "1"})));
    let three = applied(&two, "m1", &config_map(json!({})));
    assert_eq!(three["data"], json!({"a": "1"}));
    assert_eq!(owners(&three), [r#"m2 "Apply" {"f:data":{"f:a":{}}}"#, r#"m1 "Apply" {"f:data":{}}"#]);
}

#[test]
fn conflicts_name_manager_and_fields() {
    let live = config_map(json!({"a": "1", "b": "2"}));
    let kind = kind("", "v1", "ConfigMap");
    let mut live = live;
    live["metadata"]["managedFields"] = track_update(kind, &writer("u1"), &kind.schema.zero(kind.type_id), &live);
    let refused =
        apply(kind, &writer("m"), &live, &config_map(json!({"a": "x", "b": "y"})), false).expect_err("conflicts");
    let status = refused.status();
    assert_eq!(status.code, 409);
    assert_eq!(status.message, "Apply failed with 2 conflicts: conflicts with \"u1\" using v1:\n- .data.a\n- .data.b");
}

#[test]
fn a_create_is_owned_by_its_writer_but_for_structs_that_are_always_there() {
    let kind = kind("", "v1", "Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let managed = track_update(kind, &writer("me"), &kind.schema.zero(kind.type_id), &pod);
    assert_eq!(
        managed[0]["fieldsV1"].to_string(),
        r#"{"f:metadata":{"f:labels":{".":{},"f:x":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}"#
    );
}

#[test]
fn managers_of_versions_that_nobody_serves_are_forgotten_by_any_write() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"}});
    let mut sent = object.clone();
    sent["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Apply", "apiVersion": "foo/v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}}]);
    assert_eq!(track_update(kind("", "v1", "ConfigMap"), &writer("w"), &object, &sent), Value::Null);
}

#[test]
fn embedded_data_is_owned_as_a_whole_by_whoever_creates_it() {
    let kind = kind("apps", "v1", "ControllerRevision");
    let zero = kind.schema.zero(kind.type_id);
    let new =
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"}, "data": {"a": 1}});
    let managed = track_update(kind, &writer("w"), &zero, &new);
    assert_eq!(managed[0]["fieldsV1"]["f:data"], json!({}), "{managed}");
}

#[test]
fn numbers_that_may_be_names_are_anything_to_the_merge() {
    let set = |surge: Value| {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"},
            "spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": surge}}}})
    };
    let live = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}});
    let kind = kind("apps", "v1", "DaemonSet");
    let first = apply(kind, &writer("a"), &live, &set(json!(1)), false).expect("applies").object;
    let refused = apply(kind, &writer("b"), &first, &set(json!({})), false).expect_err("refused");
    assert!(matches!(refused, ApplyError::Conflict(_)), "{refused}");
}

#[test]
fn schema_errors_are_upstreams() {
    let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let refused = |config: Value| {
        apply(kind("", "v1", "ConfigMap"), &writer("m"), &empty, &config, false).expect_err("refused").to_string()
    };
    let prefix = "failed to create typed patch object (/a; /v1, Kind=ConfigMap): ";
    assert_eq!(refused(config_map(json!(["x"]))), format!("{prefix}.data: expected map, got &{{[x]}}"));
    assert_eq!(
        refused(config_map(json!({"x": 5}))),
        format!("{prefix}.data.x: expected string, got &value.valueUnstructured{{Value:5}}")
    );
    let mut twice = config_map(json!({}));
    twice["metadata"]["finalizers"] = json!(["a/b", "a/b"]);
    assert_eq!(refused(twice), format!("{prefix}.metadata.finalizers: duplicate entries for key [=\"a/b\"]"));
    assert_eq!(refused(json!({"kind": "Secret", "apiVersion": "v1"})), "invalid object type: /v1, Kind=Secret");
    assert_eq!(
        unconvertible(&empty, "json: cannot unmarshal number into Go struct field Event.firstTimestamp of type string"),
        "failed to convert new object (/a; /v1, Kind=ConfigMap) to proper version: unable to convert unstructured object to \
         /v1, Kind=ConfigMap: json: cannot unmarshal number into Go value of type string"
    );
    let bytes = unconvertible(&empty, "illegal base64 data at input byte 0");
    assert!(
        bytes.ends_with("Kind=ConfigMap: error decoding from json: illegal base64 data at input byte 0"),
        "{bytes}"
    );
    let mut unknown = config_map(json!({"x": 5}));
    unknown["y"] = json!(1);
    unknown["z"] = json!(1);
    let both = format!(
        "{prefix}errors:\n  .data.x: expected string, got &value.valueUnstructured{{Value:5}}\n  .y: field not declared in schema"
    );
    assert_eq!(refused(unknown), both, "one unknown field is named");
}

#[test]
fn keys_of_the_wrong_type_are_named_as_upstream_prints_them() {
    let live = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let refused = |spec: Value| {
        let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        apply(kind("", "v1", "Pod"), &writer("m"), &live, &config, false).expect_err("refused").to_string()
    };
    assert_eq!(
        refused(json!({"volumes": [{"name": {}}]})),
        "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.volumes[name=].name: expected string, got \
         &value.valueUnstructured{Value:map[string]interface {}{}}"
    );
}

#[test]
fn the_eleventh_updater_merges_the_oldest_two() {
    let kind = kind("", "v1", "ConfigMap");
    let mut live = kind.schema.zero(kind.type_id);
    for n in 0..12 {
        let mut new = live.clone();
        new["metadata"]["uid"] = "u".into();
        new["data"][format!("k{n:02}")] = "v".into();
        let (manager, now) = (format!("u{n:02}"), format!("2026-01-01T00:00:{n:02}Z"));
        let by = Writer { manager: &manager, subresource: "", now: &now };
        new["metadata"]["managedFields"] = track_update(kind, &by, &live, &new);
        live = new;
    }
    let names: Vec<String> = owners(&live);
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], r#"ancient-changes "Update" {"f:data":{".":{},"f:k00":{},"f:k01":{},"f:k02":{}}}"#);
}

#[test]
fn a_list_keeps_the_order_of_the_configuration_and_live_neighbours() {
    let live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["x/a", "x/b", "x/c"]}});
    let mut config = config_map(Value::Null);
    config["metadata"]["finalizers"] = json!(["x/c", "x/a", "x/d"]);
    let object = applied(&live, "m", &config);
    assert_eq!(object["metadata"]["finalizers"], json!(["x/b", "x/c", "x/a", "x/d"]));
}

#[test]
fn nobody_owns_an_object_with_an_item_that_has_no_key() {
    let accounts = kind("", "v1", "ServiceAccount");
    let account = |secrets: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "d", "uid": "u"}, "secrets": secrets});
    let mut live = account(json!([{"name": "x"}]));
    let zero = accounts.schema.zero(accounts.type_id);
    live["metadata"]["managedFields"] = track_update(accounts, &writer("m"), &zero, &live);
    assert!(live["metadata"]["managedFields"].is_array());
    let mut new = account(json!([{"name": "x"}, {}]));
    assert_eq!(track_update(accounts, &writer("m"), &live, &new), Value::Null);
    let named =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, "secrets": [{"name": "x"}]});
    let refused = apply(accounts, &writer("m"), &new, &named, false).expect_err("refused").status().message;
    let omits = "associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for \
                 any key fields)";
    let converting = "failed to create manager for existing fields: failed to convert new object (d/a; /v1, Kind=ServiceAccount) to smd typed";
    assert_eq!(refused, format!("{converting}: .secrets: element 1: {omits}"));
    new["secrets"] = json!([{"name": "a<b>&c"}]);
    let owned = track_update(accounts, &writer("m"), &zero, &new)[0]["fieldsV1"]["f:secrets"].clone();
    assert_eq!(owned, json!({".": {}, "k:{\"name\":\"a\\u003cb\\u003e\\u0026c\"}": {}}));
}

#[test]
fn a_text_that_is_written_anew_is_no_change() {
    let kind = kind("apps", "v1", "ControllerRevision");
    let read = |data: &str| {
        let json = format!(r#"{{"metadata":{{"name":"r","uid":"u"}},"data":{data},"revision":1}}"#);
        crate::codec::decode(json.as_bytes(), crate::codec::Format::Json, kind, crate::codec::FieldValidation::Strict)
            .unwrap()
            .value
    };
    let own = |live: &Value, new: &Value| track_update(kind, &writer("w"), live, new).to_string();
    let mut live = read(r#"{"a": 1}"#);
    live["metadata"]["managedFields"] = track_update(kind, &writer("first"), &kind.schema.zero(kind.type_id), &live);
    let mut new = read(r#"{"a":1}"#);
    new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    assert!(!own(&live, &new).contains(r#""manager":"w""#));
    let mut changed = read(r#"{"a":2}"#);
    changed["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    assert!(own(&live, &changed).contains(r#""manager":"w""#));
}

#[test]
fn what_a_part_resets_stays_with_its_owner() {
    let namespaces = kind("", "v1", "Namespace");
    let through = |manager, subresource| Writer { subresource, ..writer(manager) };
    let zero = namespaces.schema.zero(namespaces.type_id);
    let mut live = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Terminating"}});
    live["metadata"]["managedFields"] = track_update(namespaces, &through("s", "status"), &zero, &live);
    let mut sent = live.clone();
    sent["spec"] = json!({});
    sent["status"] = json!({"phase": "Active"});
    let owned = track_update(namespaces, &through("f", "finalize"), &live, &sent);
    assert_eq!(owned, live["metadata"]["managedFields"]);
}
