use std::collections::HashMap;
use std::sync::Arc;

use crate::json;

use super::Definition;
use crate::codec::{self, FieldValidation, Format};
use crate::golden::shared_yaml;
use crate::{ErrorList, Kind, Value, defaults};

/// The kinds that a definition brings once it is established.
fn kinds_of(mut definition: Value) -> Vec<Arc<Kind>> {
    definition["status"] = json!({"acceptedNames": definition["spec"]["names"]});
    let definition = Definition::parse(definition.to_string().into()).expect("a definition");
    definition.kinds()
}

/// What is wrong with a new object; an object that does not even decode has one error.
fn errors_of(kind: &Kind, object: &Value) -> Vec<String> {
    let body = object.to_string();
    let mut decoded = match codec::decode(body.as_bytes(), Format::Json, kind, FieldValidation::Strict) {
        Ok(decoded) => decoded.value,
        Err(error) => return vec![error.to_string()],
    };
    defaults::apply(kind, &mut decoded);
    let mut errors = ErrorList::new();
    kind.custom().expect("a custom kind").validate(&decoded, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn objects_of_a_large_api_are_judged_as_their_authors_say() {
    const DATA: &str = "testdata/crd-gateway-api";
    let Some(definitions) = shared_yaml(&format!("{DATA}/crds")) else { return };
    let mut kinds: HashMap<(String, String), Arc<Kind>> = HashMap::new();
    for (_, definition) in definitions.into_iter().filter(|(_, d)| d["kind"] == "CustomResourceDefinition") {
        for kind in kinds_of(definition) {
            kinds.insert((kind.api_version(), kind.kind.to_string()), kind);
        }
    }
    let mut judged = [0, 0];
    for (place, valid) in [("valid", true), ("invalid", false)] {
        for (file, object) in shared_yaml(&format!("{DATA}/{place}")).unwrap_or_default() {
            let name = (
                object["apiVersion"].as_str().unwrap_or("").to_owned(),
                object["kind"].as_str().unwrap_or("").to_owned(),
            );
            let Some(kind) = kinds.get(&name) else { continue };
            let errors = errors_of(kind, &object);
            assert_eq!(errors.is_empty(), valid, "{file}: {errors:#?}");
            judged[usize::from(valid)] += 1;
        }
    }
    assert!(judged.iter().all(|n| *n > 15), "only {judged:?} objects judged");
}

fn widget(schema: Value) -> Arc<Kind> {
    let definition = json!({"metadata": {"name": "widgets.e.com", "generation": 1}, "spec": {"group": "e.com",
        "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    kinds_of(definition).remove(0)
}

fn decode(kind: &Kind, body: &str, validation: FieldValidation) -> Result<codec::Decoded, String> {
    codec::decode(body.as_bytes(), Format::Json, kind, validation).map_err(|error| error.to_string())
}

#[test]
fn metadata_is_typed_and_the_rest_is_what_its_schema_keeps() {
    let kind = widget(
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "integer"}}}}}),
    );
    let body =
        r#"{"apiVersion":"e.com/v1","kind":"Widget","metadata":{"name":"x","q":1},"spec":{"a":"1","a":2,"b":3}}"#;
    let decoded = decode(&kind, body, FieldValidation::Warn).expect("an object");
    assert_eq!(decoded.value["spec"], json!({"a": 2}));
    assert_eq!(
        decoded.warnings,
        ["unknown field \"metadata.q\"", "duplicate field \"spec.a\"", "unknown field \"spec.b\""]
    );
    let refused = decode(&kind, body, FieldValidation::Strict).expect_err("strict");
    assert!(refused.starts_with("Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: "));
    let error =
        decode(&kind, r#"{"apiVersion":"e.com/v1","kind":"Widget","metadata":{"name":5}}"#, FieldValidation::Ignore);
    assert_eq!(
        error.expect_err("a number is no name"),
        "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number into Go struct field \
         ObjectMeta.name of type string"
    );
    let error = decode(&kind, r#"{"metadata":{}}"#, FieldValidation::Ignore).expect_err("no kind");
    assert!(error.contains("Object 'Kind' is missing in '{\"metadata\":{}}'"), "{error}");
}

#[test]
fn stored_objects_begin_as_all_do_and_their_fields_are_sorted() {
    let kind = widget(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let object = json!({"z": {"b": 1, "a": [{"d": 1, "c": 2}]}, "metadata": {"name": "x"}, "kind": "Widget", "apiVersion": "e.com/v1"});
    assert_eq!(
        String::from_utf8_lossy(&codec::encode(&kind, &object)),
        r#"{"kind":"Widget","apiVersion":"e.com/v1","metadata":{"name":"x"},"z":{"a":[{"c":2,"d":1}],"b":1}}"#
    );
}
