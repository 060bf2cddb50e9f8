//! Kubernetes' protobuf: the bytes of `application/vnd.kubernetes.protobuf` to normalised objects and back.
//!
//! The schema carries the field numbers, so there is no generated code. Decoding gives exactly what the JSON reader gives for
//! the same object; encoding gives upstream's bytes. Only built-in types have numbers: custom resources are JSON everywhere.

mod decode;
mod encode;
mod envelope;
mod layout;
mod wire;

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::Value;

use super::{DecodeError, Failure, Read, Target};
use crate::schema::{Schema, TypeId};
use wire::{WireError, WireWrite, put_message};

/// The media type, without parameters.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Do these bytes claim to be an enveloped object?
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(&envelope::MAGIC)
}

/// Reads an enveloped object of the kind that the envelope names: how upstream stores most objects.
pub fn decode_object(bytes: &[u8]) -> Result<Value, DecodeError> {
    envelope::object(bytes, 0).map_err(|WireError(message)| DecodeError { message })
}

/// Reads an object that must be of one type.
pub(super) fn read(bytes: &[u8], target: &Target<'_>) -> Result<Read, Failure> {
    let envelope = envelope::open(bytes).map_err(|WireError(text)| Failure::Unrecognized(text))?;
    target.accept(&envelope.api_version, &envelope.kind)?;
    if !std::ptr::eq(target.schema, Schema::builtin()) {
        let text = "object *unstructured.Unstructured does not implement the protobuf marshalling interface and cannot be \
                    encoded to a protobuf message";
        return Err(target.unfit(&envelope.api_version, &envelope.kind, text.to_owned()));
    }
    let mut value = decode::message(envelope.raw, target.type_id, 0)
        .map_err(|WireError(text)| target.unfit(&envelope.api_version, &envelope.kind, text))?;
    target.stamp(&mut value);
    Ok(Read { value, strict_errors: Vec::new() })
}

/// The enveloped form of any object, list or Status that says what it is; `None` when it has no protobuf form (tables, custom
/// resources).
pub fn encode(value: &Value) -> Option<Bytes> {
    let given = |field: &str| value.get(field).and_then(Value::as_str);
    let (api_version, kind) = (given("apiVersion")?, given("kind")?);
    let ty = type_of(api_version, kind)?;
    let sealed = envelope::seal(api_version, kind, |out| {
        if api_version == "meta.k8s.io/v1beta1" && kind == "PartialObjectMetadataList" {
            beta_metadata_list(out, value);
        } else {
            encode::message(out, ty, value);
        }
    });
    Some(sealed.into())
}

/// One frame of a watch stream: a length and a bare `WatchEvent` around an enveloped object.
pub fn watch_frame(event: &str, object: &[u8]) -> Bytes {
    let mut out = vec![0; 4];
    out.put_bytes(1, event.as_bytes());
    put_message(&mut out, 2, |out| out.put_bytes(1, object));
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.into()
}

/// The beta version of this one list has its two fields the other way round.
fn beta_metadata_list(out: &mut Vec<u8>, list: &Value) {
    let types = meta_types();
    for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        put_message(out, 1, |out| encode::message(out, types.partial, item));
    }
    put_message(out, 2, |out| encode::message(out, types.list_meta, list.get("metadata").unwrap_or(&Value::Null)));
}

struct MetaTypes {
    partial: TypeId,
    partial_list: TypeId,
    list_meta: TypeId,
}

fn meta_types() -> MetaTypes {
    let id = |name: &str| {
        let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
        Schema::builtin().type_id(&name).unwrap_or(TypeId(0))
    };
    MetaTypes {
        partial: id("PartialObjectMetadata"),
        partial_list: id("PartialObjectMetadataList"),
        list_meta: id("ListMeta"),
    }
}

/// The built-in type of an object, by what it calls itself.
fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    static TYPES: OnceLock<HashMap<String, TypeId>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        let schema = Schema::builtin();
        let named = schema.types().flat_map(|(id, ty)| ty.gvks.iter().map(move |gvk| (gvk.to_string(), id)));
        let mut types: HashMap<String, TypeId> = named.collect();
        let meta = meta_types();
        for version in ["v1", "v1beta1"] {
            types.insert(format!("meta.k8s.io/{version}/PartialObjectMetadata"), meta.partial);
            types.insert(format!("meta.k8s.io/{version}/PartialObjectMetadataList"), meta.partial_list);
        }
        types
    });
    let slash = if api_version.contains('/') { "" } else { "/" };
    types.get(&format!("{slash}{api_version}/{kind}")).copied()
}

#[cfg(test)]
mod tests;
