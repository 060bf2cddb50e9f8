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

use crate::Value;
use bytes::Bytes;

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
    envelope::object(bytes, 0).map_err(|WireError(message)| DecodeError::plain(message))
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
    // The document of `/api` names no version of itself.
    let (api_version, kind) = (given("apiVersion").unwrap_or(""), given("kind")?);
    let ty = type_of(api_version, kind)?;
    if let Some(mut list) = ListEncoder::new(api_version, kind) {
        value.get("items").and_then(Value::as_array).into_iter().flatten().for_each(|item| list.push(item));
        return Some(list.finish(value.get("metadata").unwrap_or(&Value::Null)));
    }
    Some(envelope::seal(api_version, kind, |out| encode::message(out, ty, value)).into())
}

/// A list in the making: items are encoded as they come, so that only bytes are held.
#[derive(Debug)]
pub struct ListEncoder {
    api_version: String,
    kind: String,
    item: TypeId,
    items: Vec<u8>,
    items_number: u32,
}

impl ListEncoder {
    /// `None` when lists of this kind have no protobuf form.
    pub fn new(api_version: &str, kind: &str) -> Option<Self> {
        let schema = Schema::builtin();
        let field = schema.field(type_of(api_version, kind)?, "items")?;
        let item = schema.element_of(field.shape).type_id()?;
        // The beta version of this one list has its two fields the other way round.
        let items_first = api_version == "meta.k8s.io/v1beta1";
        Some(Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            item,
            items: Vec::new(),
            items_number: if items_first { 1 } else { 2 },
        })
    }

    pub fn push(&mut self, item: &Value) {
        put_message(&mut self.items, self.items_number, |out| encode::message(out, self.item, item));
    }

    pub fn finish(self, metadata: &Value) -> Bytes {
        let list_meta = list_meta();
        let sealed = envelope::seal(&self.api_version, &self.kind, |out| {
            if self.items_number == 1 {
                out.extend_from_slice(&self.items);
            }
            put_message(out, 3 - self.items_number, |out| encode::message(out, list_meta, metadata));
            if self.items_number == 2 {
                out.extend_from_slice(&self.items);
            }
        });
        sealed.into()
    }
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

fn meta_type(name: &str) -> TypeId {
    let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    Schema::builtin().type_id(&name).unwrap_or(TypeId(0))
}

fn list_meta() -> TypeId {
    static LIST_META: OnceLock<TypeId> = OnceLock::new();
    *LIST_META.get_or_init(|| meta_type("ListMeta"))
}

/// The built-in type of an object, by what it calls itself.
fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    static TYPES: OnceLock<HashMap<String, TypeId>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        let schema = Schema::builtin();
        let named = schema.types().flat_map(|(id, ty)| ty.gvks.iter().map(move |gvk| (gvk.to_string(), id)));
        let mut types: HashMap<String, TypeId> = named.collect();
        for version in ["v1", "v1beta1"] {
            for name in ["PartialObjectMetadata", "PartialObjectMetadataList"] {
                types.insert(format!("meta.k8s.io/{version}/{name}"), meta_type(name));
            }
        }
        types
    });
    let api_version = if api_version.is_empty() { "v1" } else { api_version };
    let slash = if api_version.contains('/') { "" } else { "/" };
    types.get(&format!("{slash}{api_version}/{kind}")).copied()
}

#[cfg(test)]
mod tests;
