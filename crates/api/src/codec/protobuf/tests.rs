use std::fs;
use std::path::Path;

use crate::{Value, json};
use proptest::prelude::*;

use super::super::tests::{compact, golden, kind};
use super::super::{FieldValidation, Format, decode, decode_delete_options};
use super::*;

fn from_json(path: &Path, kind: &crate::Kind) -> Value {
    decode(&compact(path), Format::Json, kind, FieldValidation::Strict).expect("json decodes").value
}

fn read_as(kind: &crate::Kind, bytes: &[u8]) -> Result<Value, String> {
    decode(bytes, Format::Protobuf, kind, FieldValidation::Strict).map(|d| d.value).map_err(|e| e.message)
}

fn sealed(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    envelope::seal(api_version, kind, |out| out.extend_from_slice(raw))
}

#[test]
fn golden_protobuf_decodes_to_what_golden_json_decodes_to() {
    let mut seen = 0;
    for (path, kind) in golden() {
        let bytes = fs::read(path.with_extension("pb")).expect("readable");
        let decoded = read_as(kind, &bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let expected = from_json(&path, kind);
        assert_eq!(decoded.to_string(), expected.to_string(), "{}", path.display());
        assert_eq!(decode_object(&bytes).expect("decodes").to_string(), expected.to_string());
        seen += 1;
    }
    eprintln!("{seen} golden objects");
}

#[test]
fn golden_json_encodes_to_the_golden_protobuf() {
    for (path, kind) in golden() {
        let expected = fs::read(path.with_extension("pb")).expect("readable");
        let encoded = encode(&from_json(&path, kind)).unwrap_or_else(|| panic!("{}: not encoded", path.display()));
        assert!(encoded == expected, "{}", path.display());
    }
}

#[test]
fn objects_with_little_in_them_survive_the_way_there_and_back() {
    for kind in crate::kinds::builtin().kinds() {
        let body = json!({ "metadata": { "name": "a" } }).to_string();
        let value = decode(body.as_bytes(), Format::Json, &**kind, FieldValidation::Strict).expect("decodes").value;
        let encoded = encode(&value).unwrap_or_else(|| panic!("{} has no protobuf form", kind.type_name));
        assert_eq!(read_as(kind, &encoded).expect("decodes").to_string(), value.to_string(), "{}", kind.type_name);
    }
}

#[test]
fn zero_fields_that_are_no_pointers_are_written() {
    let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "a"}, "spec": {}, "status": {"replicas": 0}});
    let encoded = encode(&scale).expect("encodes");
    let meta = b"\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00";
    let mut raw = vec![0x0a, meta.len() as u8];
    raw.extend_from_slice(meta);
    raw.extend_from_slice(b"\x12\x02\x08\x00\x1a\x04\x08\x00\x12\x00");
    assert_eq!(encoded, sealed("autoscaling/v1", "Scale", &raw));
}

#[test]
fn lists_statuses_and_metadata_have_a_protobuf_form_and_tables_have_none() {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404});
    let status = encode(&status).expect("encodes");
    let raw = b"\x0a\x06\x0a\x00\x12\x00\x1a\x00\x12\x07Failure\x1a\x00\x22\x00\x30\x94\x03";
    assert_eq!(status, sealed("v1", "Status", raw));
    let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": []});
    assert_eq!(encode(&list).expect("encodes"), sealed("v1", "ConfigMapList", b"\x0a\x07\x0a\x00\x12\x017\x1a\x00"));
    let metadata = json!({"resourceVersion": "7"});
    let partial = |version: &str| {
        let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata});
        encode(&list).expect("encodes")
    };
    let raw = b"\x07\x0a\x00\x12\x017\x1a\x00";
    assert_eq!(partial("v1"), sealed("meta.k8s.io/v1", "PartialObjectMetadataList", &[b"\x0a", &raw[..]].concat()));
    let beta = sealed("meta.k8s.io/v1beta1", "PartialObjectMetadataList", &[b"\x12", &raw[..]].concat());
    assert_eq!(partial("v1beta1"), beta);
    assert_eq!(encode(&json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"})), None);
    assert_eq!(encode(&json!({"kind": "Widget", "apiVersion": "example.com/v1"})), None);
}

#[test]
fn watch_frames_begin_with_their_length() {
    assert_eq!(watch_frame("ADDED", b"xyz").as_ref(), b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
}

#[test]
fn delete_options_are_read_whatever_group_they_name() {
    let body = sealed("apps/v1", "DeleteOptions", b"\x08\x1e\x22\x0aForeground");
    let value = decode_delete_options(&body, Format::Protobuf).expect("decodes");
    assert_eq!(
        value,
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 30, "propagationPolicy": "Foreground"})
    );
}

#[test]
fn the_kind_in_the_envelope_may_be_missing_but_not_wrong() {
    let map = kind("", "v1", "ConfigMap");
    let expected = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}});
    assert_eq!(read_as(map, &sealed("", "", b"")), Ok(expected));
    assert_eq!(
        read_as(map, &sealed("v1", "Nonsense", b"")),
        Err("Nonsense in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nonsense\" is registered for version \
             \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            .into())
    );
}

#[test]
fn pieces_of_one_message_are_merged_and_unknown_fields_ignored() {
    let map = kind("", "v1", "ConfigMap");
    let raw = b"\x0a\x03\x0a\x01a\x0a\x03\x1a\x01n\xfa\x3f\x02zz\x12\x05\x0a\x01k\x12\x00\x12\x03\x0a\x01b";
    assert_eq!(
        read_as(map, &sealed("v1", "ConfigMap", raw)),
        Ok(json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "a", "namespace": "n"},
            "data": {"b": "", "k": ""},
        }))
    );
}

#[test]
fn what_is_no_message_is_refused_in_gos_words() {
    let map = kind("", "v1", "ConfigMap");
    let refused = |bytes: &[u8]| read_as(map, bytes).expect_err("refused");
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap)";
    assert_eq!(refused(b""), format!("{unrecognized}: empty data (<empty>)"));
    assert_eq!(refused(b"k8s\0"), format!("{unrecognized}: empty body (6b387300)"));
    assert_eq!(
        refused(b"{}"),
        format!(
            "{unrecognized}: provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({{}})"
        )
    );
    assert_eq!(refused(b"k8s\0\x0a\x09"), format!("{unrecognized}: unexpected EOF (6b3873000a09)"));
    let unfit = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap";
    let cases: &[(&[u8], &str)] = &[
        (b"\x0a\x7f", "unexpected EOF"),
        (b"\x08\x01", "proto: wrong wireType = 0 for field ObjectMeta"),
        (b"\x0a\x02\x08\x01", "proto: wrong wireType = 0 for field Name"),
        (b"\x0c", "proto: ConfigMap: wiretype end group for non-group"),
        (b"\x02\x00", "proto: ConfigMap: illegal tag 0 (wire type 2)"),
        (b"\x9a\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "proto: negative length found during unmarshaling"),
    ];
    for (raw, text) in cases {
        assert_eq!(refused(&sealed("v1", "ConfigMap", raw)), format!("{unfit}: {text}"), "{raw:x?}");
    }
}

#[test]
fn endless_nesting_is_refused() {
    let mut schema = Vec::new();
    for _ in 0..2000 {
        // JSONSchemaProps.not is a JSONSchemaProps.
        let mut outer = Vec::new();
        put_message(&mut outer, 28, |out| out.extend_from_slice(&schema));
        schema = outer;
    }
    let mut crd = Vec::new();
    put_message(&mut crd, 2, |out| {
        put_message(out, 7, |out| put_message(out, 4, |out| put_message(out, 1, |out| out.extend_from_slice(&schema))))
    });
    let kind = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let error = read_as(kind, &sealed("apiextensions.k8s.io/v1", "CustomResourceDefinition", &crd));
    assert!(error.expect_err("refused").ends_with("exceeded max depth"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_message_makes_the_decoder_panic(
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let golden = golden();
        prop_assume!(!golden.is_empty());
        let (path, kind) = &golden[which.index(golden.len())];
        let mut bytes = fs::read(path.with_extension("pb")).expect("readable");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if which.index(2) == 0 {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Ok(value) = read_as(kind, &bytes) {
            // What decodes is in normal form, and encodes to a message that says the same.
            let again = encode(&value).expect("encodes");
            prop_assert_eq!(read_as(kind, &again).expect("decodes").to_string(), value.to_string());
        }
    }
}

#[test]
fn discovery_documents_have_a_protobuf_form() {
    let versions = encode(&json!({"kind": "APIVersions", "versions": ["v1"]})).expect("encodes");
    assert_eq!(versions, sealed("", "APIVersions", b"\x0a\x02v1"));
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1",
        "resources": [{"name": "a", "singularName": "", "namespaced": true, "kind": "A", "verbs": ["get"]}],
    });
    let raw = b"\x0a\x02v1\x12\x17\x0a\x01a\x10\x01\x1a\x01A\x22\x05\x0a\x03get\x32\x00\x42\x00\x4a\x00\x52\x00";
    assert_eq!(encode(&list).expect("encodes"), sealed("v1", "APIResourceList", raw));
}
