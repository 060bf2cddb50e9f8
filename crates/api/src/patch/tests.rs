//! Patches recorded from upstream, replayed on the objects they were made against.

use crate::{
    Kind, Value, codec, defaults,
    golden::shared_json,
    json, kinds,
    patch::{Patch, PatchError, PatchType, Patched},
};

/// The kind of a recorded path.
fn kind_of(path: &str) -> Option<&'static Kind> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let (group, version, resource) = match parts[..] {
        ["api", version, "namespaces", _, resource, ..] => ("", version, resource),
        ["apis", group, version, "namespaces", _, resource, ..] => (group, version, resource),
        _ => return None,
    };
    kinds::builtin().by_resource(group, version, resource).map(|kind| &**kind)
}

/// As the server keeps it.
fn decoded(kind: &Kind, object: &Value) -> Option<Value> {
    let mut object = codec::normalize(object, kind).ok()?.value;
    defaults::apply(kind, &mut object);
    Some(object)
}

fn body_of(step: &Value) -> Vec<u8> {
    match (&step["raw"], &step["repeat"]) {
        (Value::String(raw), _) => raw.as_bytes().to_vec(),
        (_, Value::Object(repeat)) => {
            let count = repeat["count"].as_u64().unwrap_or(0) as usize;
            Value::from(vec![repeat["item"].clone(); count]).to_string().into_bytes()
        }
        _ if step["body"].is_null() => Vec::new(),
        _ => step["body"].to_string().into_bytes(),
    }
}

fn patched(kind: &Kind, patch_type: PatchType, body: &[u8], object: &Value) -> Result<Value, PatchError> {
    Patch::decode(patch_type, body, false)?.apply_to(kind, object).map(|patched| patched.object)
}

#[test]
fn recorded_patches_have_upstreams_results_and_errors() {
    let Some(recorded) = shared_json("testdata/parity/patch.json") else { return };
    let (mut results, mut refusals) = (0, 0);
    for scenario in recorded["scenarios"].as_array().expect("scenarios") {
        let mut object = None;
        for step in scenario["steps"].as_array().expect("steps") {
            let Some(kind) = step["path"].as_str().and_then(kind_of) else { continue };
            let named =
                format!("{} {}", scenario["name"], String::from_utf8_lossy(&body_of(step)).get(..200).unwrap_or(""));
            let want = &step["expect"]["body"];
            if step["method"] == "POST" {
                object = decoded(kind, &step["body"]);
            }
            let media_type = step["headers"]["Content-Type"].as_str().unwrap_or("").split(';').next().unwrap_or("");
            let (Some(patch_type), Some(current)) = (PatchType::from_media_type(media_type), &object) else { continue };
            match patched(kind, patch_type, &body_of(step), current) {
                Err(error) => {
                    let status = error.status();
                    assert_eq!(step["expect"]["status"], status.code, "{named}: {error}");
                    assert_eq!(want["message"], status.message, "{named}");
                    refusals += 1;
                }
                // What comes after the patch itself (types, names, validation) may still refuse.
                Ok(_) if step["expect"]["status"] != 200 => {}
                Ok(new) => {
                    let new = decoded(kind, &new).unwrap_or_else(|| panic!("{named}: does not decode"));
                    for pointer in ["/data", "/spec/template", "/spec/ports", "/spec/selector", "/metadata/annotations"]
                    {
                        let theirs = want.pointer(pointer);
                        if theirs.is_some_and(|v| v == "<any>") {
                            continue;
                        }
                        assert_eq!(new.pointer(pointer), theirs, "{named} {pointer}");
                    }
                    results += 1;
                    if step["query"]["dryRun"].is_null() {
                        object = Some(new);
                    }
                }
            }
        }
    }
    assert!(results > 20, "only {results} results compared");
    assert!(refusals > 15, "only {refusals} refusals compared");
}

#[test]
fn values_of_the_wrong_type_are_refused_in_the_words_of_their_conversion() {
    let reason =
        |kind: &str, wanted: &str| format!("json: cannot unmarshal {kind} into Go struct field A.b of type {wanted}");
    for (kind, wanted, refused) in [
        ("string", "int32", "unrecognized type: int32"),
        ("string", "bool", "unrecognized type: bool"),
        ("object", "string", "unrecognized type: string"),
        ("object", "v1.PullPolicy", "unrecognized type: string"),
        ("object", "v1.PodSpec", "cannot restore struct from: map"),
        ("string", "v1.PodSpec", "cannot restore struct from: string"),
        ("number", "v1.PullPolicy", "cannot convert int64 to v1.PullPolicy"),
        ("number 1.5", "int32", "cannot convert float64 to int32"),
        ("bool", "string", "unrecognized type: string"),
        ("string", "[]v1.Container", "cannot restore slice from string"),
        ("string", "map[string]string", "cannot restore map from string"),
    ] {
        assert_eq!(
            super::unconvertible(&reason(kind, wanted), &Value::Null).as_deref(),
            Some(refused),
            "{kind} {wanted}"
        );
    }
    // Of a text that was to be a number with a point no whole one is made.
    for (patch, place, refused) in [
        (json!({"a": {"b": 1.5}}), "A.a.b", "unrecognized type: string"),
        (json!({"a": {"b": 1.0}}), "A.a.b", "unrecognized type: string"),
        (json!({"a": {"b": 1}, "b": 1.5}), "A.a.b", "cannot convert int64 to string"),
        (json!({"a": [{}, {"b": {"key": 1.5}}]}), "A.a.Embedded.b", "unrecognized type: string"),
    ] {
        let reason = format!("json: cannot unmarshal number into Go struct field {place} of type string");
        assert_eq!(super::unconvertible(&reason, &patch).as_deref(), Some(refused), "{patch} {place}");
    }
    let untyped = "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string";
    for (patch, refused) in
        [(json!({"kind": 1}), "cannot convert int64 to string"), (json!({"kind": 1.5}), "unrecognized type: string")]
    {
        assert_eq!(super::unconvertible(untyped, &patch).as_deref(), Some(refused), "{patch}");
    }
    assert_eq!(
        super::unconvertible("illegal base64 data at input byte 1", &Value::Null).as_deref(),
        Some("error decoding from json: illegal base64 data at input byte 1")
    );
    // Some types read JSON themselves.
    assert_eq!(
        super::unconvertible(
            "json: cannot unmarshal object into Go struct field ServicePort.spec.ports.targetPort of type int32",
            &Value::Null
        )
        .as_deref(),
        Some("json: cannot unmarshal object into Go value of type int32")
    );
}

#[test]
fn a_strategic_patch_takes_whole_numbers_with_a_fraction() {
    let deployments = kinds::builtin().by_kind("apps", "v1", "Deployment").expect("deployments");
    let patch = |body: &str| Patch::decode(PatchType::Strategic, body.as_bytes(), false).expect("a patch");
    let old = json!({"spec": {"replicas": 1}});
    let patched = patch(r#"{"spec":{"replicas":2.0}}"#).apply_to(deployments, &old).expect("patched");
    assert_eq!(patched.object, json!({"spec": {"replicas": 2}}));
    let odd = patch(r#"{"spec":{"replicas":1.5},"a":2.0}"#);
    assert_eq!(odd.shown(&Patched { object: Value::Null }), "map[a:2 spec:map[replicas:1.5]]");
}
