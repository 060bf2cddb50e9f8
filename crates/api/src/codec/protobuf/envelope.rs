//! The envelope around every object: four magic bytes and a `runtime.Unknown`, which names the type of the bytes inside.

use crate::Value;

use super::decode;
use super::wire::{BYTES, Result, Wire, WireError, WireWrite, put_message};
use crate::kind::group_version;
use crate::kinds;
use crate::schema::Schema;

pub(super) const MAGIC: [u8; 4] = *b"k8s\0";

/// What an envelope says and holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope<'b> {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) raw: &'b [u8],
}

/// Opens an envelope.
pub(super) fn open(bytes: &[u8]) -> Result<Envelope<'_>> {
    if bytes.is_empty() {
        return Err(WireError("empty data".into()));
    }
    let Some(body) = bytes.strip_prefix(&MAGIC) else {
        let text = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
        return Err(WireError(text.into()));
    };
    if body.is_empty() {
        return Err(WireError("empty body".into()));
    }
    let mut envelope = Envelope::default();
    let mut wire = Wire::new(body);
    while let Some(tag) = wire.tag("Unknown")? {
        match tag.number {
            1 => {
                tag.expect(BYTES, || "TypeMeta".into())?;
                type_meta(wire.length_delimited()?, &mut envelope)?;
            }
            2 => {
                tag.expect(BYTES, || "Raw".into())?;
                envelope.raw = wire.length_delimited()?;
            }
            3 => {
                tag.expect(BYTES, || "ContentEncoding".into())?;
                wire.length_delimited()?;
            }
            4 => {
                tag.expect(BYTES, || "ContentType".into())?;
                wire.length_delimited()?;
            }
            _ => wire.skip(tag)?,
        }
    }
    Ok(envelope)
}

fn type_meta(bytes: &[u8], envelope: &mut Envelope<'_>) -> Result<()> {
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag("TypeMeta")? {
        let (slot, name) = match tag.number {
            1 => (&mut envelope.api_version, "APIVersion"),
            2 => (&mut envelope.kind, "Kind"),
            _ => {
                wire.skip(tag)?;
                continue;
            }
        };
        tag.expect(BYTES, || name.into())?;
        *slot = String::from_utf8_lossy(wire.length_delimited()?).into_owned();
    }
    Ok(())
}

/// An enveloped object of whatever built-in kind it says it is.
pub(super) fn object(bytes: &[u8], depth: usize) -> Result<Value> {
    let Envelope { api_version, kind, raw } = open(bytes)?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let Some(found) = kinds::builtin().by_kind(group, version, &kind) else {
        let api_version = group_version(group, version);
        return Err(WireError(format!("no kind \"{kind}\" is registered for version \"{api_version}\"")));
    };
    let mut value = decode::message(raw, found.type_id, depth)?;
    if let Some(object) = value.as_object_mut() {
        let schema = Schema::builtin();
        schema.set(found.type_id, object, "kind", Value::from(kind));
        schema.set(found.type_id, object, "apiVersion", Value::from(api_version));
    }
    Ok(value)
}

/// Puts what `write` writes into an envelope.
pub(super) fn seal(api_version: &str, kind: &str, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&MAGIC);
    put_message(&mut out, 1, |out| {
        out.put_bytes(1, api_version.as_bytes());
        out.put_bytes(2, kind.as_bytes());
    });
    put_message(&mut out, 2, write);
    out.put_bytes(3, b"");
    out.put_bytes(4, b"");
    out
}
