//! Stored values as a server of today reads them: of custom resources, the schema may have changed since they were written.

use ::bytes::Bytes;
use api::custom::CustomVersion;
use api::{Kind, codec};
use store::Revision;

use super::{ObjectBytes, ReadError};

/// A stored value in storage version. `kind` is any version of the resource.
pub(crate) fn read(kind: &Kind, stored: &Bytes, revision: Revision) -> Result<ObjectBytes, ReadError> {
    let is_current = |custom: &CustomVersion| custom.is_current(stored) || custom.awaits_conversion(stored);
    let Some(custom) = kind.custom().filter(|custom| !is_current(custom)) else {
        return ObjectBytes::from_stored(stored, revision);
    };
    let storage = custom.definition().storage_kind();
    let object = serde_json::from_slice(stored)?;
    let object = match storage.custom() {
        Some(storage) => storage.from_storage(object),
        None => object,
    };
    ObjectBytes::from_stored(&codec::encode(&storage, &object), revision)
}
