//! Objects in the store: keys, stored bytes, and the conditional writes that every verb is made of.
//!
//! Keys are upstream's (`/registry/<prefix>/<namespace>/<name>`). A stored value is the object's JSON in storage version, in
//! schema field order, without a resourceVersion: that is the key's mod revision and is spliced in when the bytes leave.

mod bytes;
mod current;
mod event_ttl;
mod objects;
mod sealed;

pub use bytes::{ObjectBytes, ReadError};
pub(crate) use current::{read, read_framed};
pub(crate) use event_ttl::EventLeases;
pub use objects::{Current, ObjectKey, Objects, WriteOutcome};
pub use sealed::{Encryption, EncryptionFile};
pub(crate) use sealed::{SEALED, SealedStore, Sealing};

/// All keys of the API live under this prefix, as upstream's `--etcd-prefix` defaults to.
pub const REGISTRY_PREFIX: &str = "/registry/";
