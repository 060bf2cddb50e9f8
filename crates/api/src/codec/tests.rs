use std::fs;
use std::path::{Path, PathBuf};

use crate::{Value, json};

use super::*;
use crate::kinds;

pub(super) fn kind(group: &str, version: &str, kind: &str) -> &'static crate::Kind {
    kinds::builtin().by_kind(group, version, kind).expect("built-in kind")
}

fn strict(group: &str, version: &str, name: &str, body: &str) -> Result<Decoded, String> {
    decode(body.as_bytes(), Format::Json, kind(group, version, name), FieldValidation::Strict).map_err(|e| e.message)
}

fn refused(group: &str, version: &str, name: &str, body: &str) -> String {
    strict(group, version, name, body).expect_err("refused")
}

/// A folder of test data, or `None` (with a message) in a plain clone.
fn shared(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// Golden objects of the served kinds: file stem, kind.
pub(super) fn golden() -> Vec<(PathBuf, &'static crate::Kind)> {
    let mut out = Vec::new();
    for folder in ["testdata/api-roundtrip", "testdata/api-roundtrip-crd"] {
        let Some(folder) = shared(folder) else { continue };
        for entry in fs::read_dir(folder).expect("readable").flatten() {
            let path = entry.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
            let Some(stem) = name.strip_suffix(".json") else { continue };
            let mut parts = stem.rsplitn(3, '.');
            let (kind, version, group) =
                (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let group = if group == "core" { "" } else { group };
            if let Some(kind) = kinds::builtin().by_kind(group, version, kind) {
                out.push((path, &**kind));
            }
        }
    }
    out
}

/// A golden object as clients send it. The files have line breaks, which a RawExtension would keep.
pub(super) fn compact(path: &Path) -> Vec<u8> {
    let object: Value = serde_json::from_slice(&fs::read(path).expect("readable")).expect("json");
    serde_json::to_vec(&object).expect("json")
}

#[test]
fn golden_objects_round_trip_in_key_order() {
    let mut seen = 0;
    for (path, kind) in golden() {
        let bytes = compact(&path);
        let decoded = decode(&bytes, Format::Json, kind, FieldValidation::Strict)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let expected: Value = serde_json::from_slice(&bytes).expect("json");
        let expected = serde_json::to_string(&expected).expect("json");
        let encoded = encode(kind, &decoded.value);
        assert_eq!(String::from_utf8_lossy(&encoded), expected, "{}", path.display());
        assert_eq!(serde_json::to_string(&decoded.value).expect("json"), expected, "{}", path.display());
        seen += 1;
    }
    eprintln!("{seen} golden objects");
}

#[test]
fn golden_yaml_equals_golden_json() {
    for (path, kind) in golden() {
        let json = compact(&path);
        let yaml = fs::read(path.with_extension("yaml")).expect("readable");
        let from_json = decode(&json, Format::Json, kind, FieldValidation::Strict).expect("json decodes");
        let from_yaml = decode(&yaml, Format::Yaml, kind, FieldValidation::Strict)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(from_yaml, from_json, "{}", path.display());
    }
}

#[test]
fn decoding_twice_changes_nothing() {
    for (path, kind) in golden() {
        let bytes = compact(&path);
        let once = decode(&bytes, Format::Json, kind, FieldValidation::Strict).expect("decodes").value;
        let twice = normalize(&once, kind).expect("normalizes");
        assert_eq!((twice.value, twice.strict_errors), (once, vec![]), "{}", path.display());
    }
}

#[test]
fn reading_only_what_changed_is_reading_all() {
    for (path, kind) in golden() {
        let bytes = fs::read(&path).expect("readable");
        let before = decode(&bytes, Format::Json, kind, FieldValidation::Strict).expect("decodes").value;
        let names: Vec<_> = before.as_object().expect("an object").keys().cloned().collect();
        for name in &names {
            for part in [Value::Null, json!({}), json!([]), json!("x"), json!({"labels": {"a": "b"}, "other": 1})] {
                let mut now = before.clone();
                now[&**name] = part;
                let both = [normalize(&now, kind), normalize_changed(&now, &before, kind)];
                let [all, changed] = both.map(|read| read.map(|read| (read.value.to_string(), read.strict_errors)));
                assert_eq!(changed, all, "{} of {}", name, path.display());
            }
        }
    }
}

#[test]
fn absent_fields_print_as_upstream_prints_them() {
    let deployment =
        strict("apps", "v1", "Deployment", r#"{"metadata":{"name":"a"},"spec":{"replicas":null}}"#).expect("decodes");
    assert_eq!(
        deployment.value.to_string(),
        r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"a"},"spec":{"selector":null,"template":{"metadata":{},"spec":{"containers":null}},"strategy":{}},"status":{}}"#
    );
    let pod = strict(
        "",
        "v1",
        "Pod",
        r#"{"spec":{"containers":[{"name":"c","ports":[],"resources":{}}],"nodeSelector":{}}}"#,
    );
    assert_eq!(
        pod.expect("decodes").value.to_string(),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{},"spec":{"containers":[{"name":"c","resources":{}}]},"status":{}}"#
    );
    let role = strict("rbac.authorization.k8s.io", "v1", "Role", r#"{"rules":[]}"#).expect("decodes");
    assert_eq!(role.value["rules"], Value::Null);
    let map = strict("", "v1", "ConfigMap", r#"{"data":{"b":"1","a":null}}"#).expect("decodes");
    assert_eq!(map.value["data"].to_string(), r#"{"a":"","b":"1"}"#);
}

#[test]
fn keys_come_out_in_schema_order_whatever_the_order_in() {
    let pod = strict(
        "",
        "v1",
        "Pod",
        r#"{"spec":{"nodeName":"n","containers":[{"image":"i","name":"c"}]},"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"z":"1","a":"2"},"name":"p"}}"#,
    );
    assert_eq!(
        pod.expect("decodes").value.to_string(),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"a":"2","z":"1"}},"spec":{"containers":[{"name":"c","image":"i","resources":{}}],"nodeName":"n"},"status":{}}"#
    );
}

#[test]
fn encoding_puts_late_fields_in_their_place() {
    let value = json!({"status": {}, "kind": "Pod", "metadata": {"uid": "u", "name": "p", "x": 1}, "apiVersion": "v1"});
    let bytes = encode(kind("", "v1", "Pod"), &value);
    let expected = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","uid":"u","x":1},"status":{}}"#;
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

#[test]
fn bytes_can_be_a_list_of_numbers() {
    let body = br#"{"metadata":{"name":"a"},"binaryData":{"a":[],"b":[1,2,255],"c":[null],"d":null}}"#;
    let map = decode(body, Format::Json, kind("", "v1", "ConfigMap"), FieldValidation::Strict).expect("decodes").value;
    assert_eq!(map["binaryData"], json!({"a": "", "b": "AQL/", "c": "AA==", "d": ""}));
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        (
            "apps",
            "v1",
            "Deployment",
            r#"{"spec":{"replicas":"3"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps",
            "v1",
            "Deployment",
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps",
            "v1",
            "Deployment",
            r#"{"spec":{"replicas":99999999999}}"#,
            "json: cannot unmarshal number 99999999999 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "",
            "v1",
            "ConfigMap",
            r#"{"data":{"a":1}}"#,
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "",
            "v1",
            "ConfigMap",
            r#"{"data":["x"]}"#,
            "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
        ),
        (
            "",
            "v1",
            "ConfigMap",
            r#"{"immutable":"maybe"}"#,
            "json: cannot unmarshal string into Go struct field ConfigMap.immutable of type bool",
        ),
        (
            "",
            "v1",
            "ConfigMap",
            r#"{"metadata":{"name":true}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            "",
            "v1",
            "Pod",
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "",
            "v1",
            "Pod",
            r#"{"spec":{"restartPolicy":1}}"#,
            "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            "",
            "v1",
            "Pod",
            r#"{"spec":{"volumes":[{"emptyDir":"x"}]}}"#,
            "json: cannot unmarshal string into Go struct field Volume.spec.volumes.VolumeSource.emptyDir of type v1.EmptyDirVolumeSource",
        ),
        (
            "",
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"abc"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "coordination.k8s.io",
            "v1",
            "Lease",
            r#"{"spec":{"renewTime":"bogus"}}"#,
            r#"parsing time "bogus" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "bogus" as "2006""#,
        ),
        (
            "",
            "v1",
            "Service",
            r#"{"spec":{"ports":[{"targetPort":true}]}}"#,
            "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        ("", "v1", "Secret", r#"{"data":{"a":"?"}}"#, "illegal base64 data at input byte 0"),
        (
            "",
            "v1",
            "Secret",
            r#"{"data":{"a":[1,256]}}"#,
            "json: cannot unmarshal number 256 into Go struct field Secret.data of type uint8",
        ),
        (
            "",
            "v1",
            "Secret",
            r#"{"data":{"a":["b"]}}"#,
            "json: cannot unmarshal string into Go struct field Secret.data of type uint8",
        ),
    ];
    for (group, version, kind, body, text) in cases {
        let expected = format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {text}");
        assert_eq!(refused(group, version, kind, body), expected);
    }
}

#[test]
fn unknown_and_duplicate_fields_are_collected_with_their_paths() {
    let body = r#"{"metadata":{"bogusMeta":"x","name":"a","name":"b"},"spec":{"containers":[{"foo":1,"env":[{"name":"A","bar":2}]}],"Replicas":1},"bogus":1}"#;
    assert_eq!(
        refused("", "v1", "Pod", body),
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "metadata.bogusMeta", duplicate field "metadata.name", unknown field "spec.containers[0].foo", unknown field "spec.containers[0].env[0].bar", unknown field "spec.Replicas", unknown field "bogus""#
    );
    let warned = decode(body.as_bytes(), Format::Json, kind("", "v1", "Pod"), FieldValidation::Warn).expect("decodes");
    assert_eq!(warned.warnings.len(), 6);
    assert_eq!(warned.warnings[1], r#"duplicate field "metadata.name""#);
    assert_eq!(warned.value["metadata"]["name"], "b");
    let ignored =
        decode(body.as_bytes(), Format::Json, kind("", "v1", "Pod"), FieldValidation::Ignore).expect("decodes");
    assert_eq!((ignored.value, ignored.warnings), (warned.value, vec![]));
}

#[test]
fn yaml_duplicates_are_reported_by_line() {
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: b\ndata: {k: x}\nunknown: 1\n";
    let map = kind("", "v1", "ConfigMap");
    let strict = decode(body.as_bytes(), Format::Yaml, map, FieldValidation::Strict).expect_err("refused");
    assert_eq!(
        strict.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 5: key \"name\" already set in map, unknown field \"unknown\""
    );
    let warned = decode(body.as_bytes(), Format::Yaml, map, FieldValidation::Warn).expect("decodes");
    assert_eq!(warned.warnings, [r#"line 5: key "name" already set in map"#, r#"unknown field "unknown""#]);
}

#[test]
fn a_body_that_is_no_object_of_the_kind_is_refused() {
    let map = |body: &str| refused("", "v1", "ConfigMap", body);
    assert_eq!(
        map(""),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
    );
    assert_eq!(
        map("{not json"),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'n' looking for beginning of object key string ({not json)"
    );
    assert_eq!(
        map("[1]"),
        r#"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b315d)"#
    );
    assert_eq!(
        map(r#"{"apiVersion":"v1","kind":"Wrong"}"#),
        r#"Wrong in version "v1" cannot be handled as a ConfigMap: no kind "Wrong" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#
    );
    assert_eq!(
        refused("networking.k8s.io", "v1", "IPAddress", r#"{"apiVersion":"v9","kind":"IPAddress","spec":5}"#),
        r#"IPAddress in version "v9" cannot be handled as a IPAddress: no kind "IPAddress" is registered for version "v9" in scheme "pkg/api/legacyscheme/scheme.go:30""#
    );
    assert_eq!(
        refused(
            "apiregistration.k8s.io",
            "v1",
            "APIService",
            r#"{"apiVersion":"apiregistration.k8s.io/v1","kind":"Wrong"}"#
        ),
        r#"Wrong in version "v1" cannot be handled as a APIService: no kind "Wrong" is registered for version "apiregistration.k8s.io/v1" in scheme "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:28""#
    );
    assert_eq!(
        refused(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            r#"{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler"}"#
        ),
        "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)"
    );
    assert_eq!(
        refused("apps", "v1", "Deployment", r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#),
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
    );
    for registered in ["List", "Status", "DeleteOptions", "ConfigMapList"] {
        assert_eq!(
            refused("", "v1", "Event", &format!(r#"{{"apiVersion":"v1","kind":"{registered}"}}"#)),
            format!(
                r#"{registered} in version "v1" cannot be handled as a Event: converting (v1.{registered}) to (core.Event): unknown conversion"#
            )
        );
    }
    let pods = kind("", "v1", "Pod");
    let eviction = pods.subresource("eviction").expect("eviction");
    let error = decode(br#"{"apiVersion":"v1","kind":"Pod"}"#, Format::Json, eviction, FieldValidation::Strict)
        .expect_err("refused");
    assert_eq!(
        error.message,
        r#"Pod in version "v1" cannot be handled as a Eviction: converting (v1.Pod) to (policy.Eviction): unknown conversion"#
    );
}

#[test]
fn delete_options_of_any_group_are_accepted() {
    let read = |body: &str| decode_delete_options(body.as_bytes(), Format::Json);
    let options =
        read(r#"{"kind":"DeleteOptions","apiVersion":"apps/v1","propagationPolicy":"Foreground"}"#).expect("decodes");
    assert_eq!(options["propagationPolicy"], "Foreground");
    assert_eq!(
        read(r#"{"kind":"Bogus","apiVersion":"v1"}"#).expect_err("refused").message,
        r#"no kind "Bogus" is registered for version "v1" in scheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27""#
    );
    assert_eq!(
        read("{bad").expect_err("refused").message,
        "couldn't get version/kind; json parse error: invalid character 'b' looking for beginning of object key string"
    );
}

#[test]
fn quantities_times_and_escapes_are_canonical() {
    let pod = strict("", "v1", "Pod", r#"{"metadata":{"creationTimestamp":"2024-01-01T01:00:00+01:00","name":"\u00e9\ud83d\ude00\n"},"spec":{"containers":[{"resources":{"limits":{"memory":"1.5Gi","cpu":0.1}}}]}}"#).expect("decodes");
    assert_eq!(pod.value["metadata"]["creationTimestamp"], "2024-01-01T00:00:00Z");
    assert_eq!(pod.value["metadata"]["name"], "é😀\n");
    assert_eq!(
        pod.value["spec"]["containers"][0]["resources"]["limits"].to_string(),
        r#"{"cpu":"100m","memory":"1536Mi"}"#
    );
}

#[test]
fn hostile_nesting_is_refused() {
    let body = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(refused("", "v1", "ConfigMap", &body).contains("exceeded max depth"));
    // Each list holds the one before it.
    let nested = |n: usize, inner: String| format!("- &n{n} {}{inner}{}\n", "[".repeat(400), "]".repeat(400));
    let aliases = (1..60).map(|n| nested(n, format!("*n{}", n - 1)));
    let chained: String = std::iter::once(nested(0, String::new())).chain(aliases).collect();
    for yaml in ["[".repeat(100_000), chained] {
        let error = decode(yaml.as_bytes(), Format::Yaml, kind("", "v1", "ConfigMap"), FieldValidation::Warn);
        let message = error.expect_err("refused").message;
        assert!(
            message.starts_with("the object provided is unrecognized (must be of type ConfigMap): yaml: "),
            "{message}"
        );
    }
}

/// Every recorded request whose body is an object of a built-in kind: the refusal or the warnings must be the recorded ones.
#[test]
fn recorded_requests_decode_as_upstream_decoded_them() {
    let Some(folder) = shared("testdata/parity") else { return };
    let mut wrong = Vec::new();
    let (mut refusals, mut accepted) = (0, 0);
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        if entry.path().extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).expect("readable");
        let document: Value = serde_json::from_str(&text).expect("json");
        for scenario in document["scenarios"].as_array().expect("scenarios") {
            for step in scenario["steps"].as_array().into_iter().flatten() {
                let Some((target, body, format, validation)) = request(step) else { continue };
                let expected = &step["expect"];
                let message = expected["body"]["message"].as_str().unwrap_or("");
                let refusal = message.contains("cannot be handled as a ") || message.contains("(must be of type ");
                let status = expected["status"].as_u64().unwrap_or(0);
                let label = format!(
                    "{} {}",
                    scenario["name"],
                    String::from_utf8_lossy(&body).chars().take(200).collect::<String>()
                );
                match decode(&body, format, target, validation) {
                    Err(error) if refusal && error.message == message => refusals += 1,
                    Err(error) if refusal || status < 300 => {
                        wrong.push(format!("{label}\n   ours {}\n   want {message}", error.message))
                    }
                    Err(_) => {}
                    Ok(_) if refusal => wrong.push(format!("{label}\n   ours: accepted\n   want {message}")),
                    Ok(decoded) => {
                        accepted += 1;
                        let said = expected["headers"]["Warning"].to_string();
                        let unsaid = |w: &&String| !said.contains(&w.replace('"', "\\\\\\\""));
                        if expected["headers"].is_object() && status < 300 {
                            wrong.extend(
                                decoded
                                    .warnings
                                    .iter()
                                    .filter(unsaid)
                                    .map(|w| format!("{label}\n   warns {w}, not {said}")),
                            );
                        }
                    }
                }
            }
        }
    }
    eprintln!("{refusals} refusals, {accepted} accepted");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a recorded step sends, when that is one object to a built-in resource.
fn request(step: &Value) -> Option<(Target<'static>, Vec<u8>, Format, FieldValidation)> {
    if !matches!(step["method"].as_str()?, "POST" | "PUT") || step.get("repeat").is_some() {
        return None;
    }
    let path: Vec<&str> = step["path"].as_str()?.trim_matches('/').split('/').collect();
    let (group, version, rest) = match path.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") => rest,
        rest => rest,
    };
    let kind = kinds::builtin().by_resource(group, version, rest.first()?)?;
    let target = match rest.get(2) {
        Some(sub) => Target::from(kind.subresource(sub)?),
        None => Target::from(&**kind),
    };
    let content_type = step["headers"]["Content-Type"].as_str().unwrap_or("application/json");
    let format = match content_type {
        "application/yaml" => Format::Yaml,
        "application/json" => Format::Json,
        _ => return None,
    };
    let validation = FieldValidation::from_query(step["query"]["fieldValidation"].as_str().unwrap_or(""))?;
    let body = match (step.get("raw"), step.get("body")) {
        (Some(Value::String(raw)), _) => raw.as_bytes().to_vec(),
        (_, Some(Value::String(_)) | None) => return None,
        (_, Some(body)) => serde_json::to_vec(body).ok()?,
    };
    Some((target, body, format, validation))
}

#[test]
fn bodies_of_subresources_are_kinds_like_any_other() {
    let read = |group: &str, kind_name: &str, sub: &str, body: &str| {
        let kind = kind(group, "v1", kind_name);
        let target = kind.subresource(sub).expect("subresource");
        let mut value = decode(body.as_bytes(), Format::Json, target, FieldValidation::Strict).expect("decodes").value;
        crate::defaults::apply(target, &mut value);
        value.to_string()
    };
    assert_eq!(
        read("", "ServiceAccount", "token", r#"{"spec":{"audiences":["a"]}}"#),
        r#"{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"audiences":["a"],"expirationSeconds":3600,"boundObjectRef":null},"status":{"token":"","expirationTimestamp":null}}"#
    );
    assert_eq!(
        read("apps", "Deployment", "scale", r#"{"metadata":{"name":"d"},"spec":{"replicas":3}}"#),
        r#"{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"d"},"spec":{"replicas":3},"status":{"replicas":0}}"#
    );
    assert_eq!(
        read("", "Pod", "binding", r#"{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#),
        r#"{"kind":"Binding","apiVersion":"v1","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#
    );
    assert_eq!(
        read("", "Pod", "eviction", r#"{"metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":0}}"#),
        r#"{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":0}}"#
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            Just(json!("2024-01-01T00:00:00Z")),
            Just(json!("100m")),
        ];
        let name = prop_oneof![
            "[a-z]{1,3}",
            Just("metadata".to_owned()),
            Just("spec".to_owned()),
            Just("name".to_owned()),
            Just("containers".to_owned())
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((name.clone(), inner), 0..4).prop_map(|e| Value::Object(e.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), yaml in any::<bool>()) {
            let format = if yaml { Format::Yaml } else { Format::Json };
            let _ = decode(&bytes, format, kind("", "v1", "Pod"), FieldValidation::Strict);
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text in r#"\{"(spec|metadata|status)":[\{\}\[\]:,"0-9a-z\\ué.+-]{0,60}"#, yaml in any::<bool>()) {
            let format = if yaml { Format::Yaml } else { Format::Json };
            let _ = decode(text.as_bytes(), format, kind("", "v1", "Pod"), FieldValidation::Strict);
        }

        #[test]
        fn free_form_values_are_read_as_they_are(value in any_json()) {
            let body = json!({"data": value, "revision": 1});
            let read = decode(body.to_string().as_bytes(), Format::Json, kind("apps", "v1", "ControllerRevision"), FieldValidation::Warn);
            prop_assert_eq!(&read.expect("decodes").value["data"], &value);
        }

        #[test]
        fn what_decodes_is_in_normal_form(value in any_json()) {
            let pods = kind("", "v1", "Pod");
            if let Ok(read) = decode(value.to_string().as_bytes(), Format::Json, pods, FieldValidation::Ignore) {
                let again = normalize(&read.value, pods).expect("normalizes");
                prop_assert_eq!(again.value.to_string(), read.value.to_string());
                let start = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"#;
                let starts_well = encode(pods, &read.value).starts_with(start);
                prop_assert!(starts_well);
            }
        }
    }
}
