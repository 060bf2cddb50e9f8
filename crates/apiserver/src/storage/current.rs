//! Stored values as a server of today reads them: of custom resources, the schema may have changed since they were written.

use ::bytes::Bytes;
use api::custom::CustomVersion;
use api::{Kind, codec};
use store::Revision;

use super::{ObjectBytes, ReadError};

/// A stored value in storage version. `kind` is any version of the resource.
pub(crate) fn read(kind: &Kind, stored: &Bytes, revision: Revision) -> Result<ObjectBytes, ReadError> {
    read_framed(kind, stored, revision, b"", b"").map(|(object, _)| object)
}

/// The same as a part of a longer text, as [`ObjectBytes::framed`].
pub(crate) fn read_framed(
    kind: &Kind,
    stored: &Bytes,
    revision: Revision,
    before: &[u8],
    after: &[u8],
) -> Result<(ObjectBytes, Bytes), ReadError> {
    let is_current = |custom: &CustomVersion| custom.is_current(stored) || custom.awaits_conversion(stored);
    let Some(custom) = kind.custom().filter(|custom| !is_current(custom)) else {
        return ObjectBytes::framed(stored, revision, before, after);
    };
    let storage = custom.definition().storage_kind();
    let object = api::Value::from_json(stored)?;
    let object = match storage.custom() {
        Some(storage) => storage.from_storage(object),
        None => object,
    };
    ObjectBytes::framed(&codec::encode(&storage, &object), revision, before, after)
}
