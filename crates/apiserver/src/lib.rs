//! The gateway: every read and write of any resource goes through it.
//!
//! A request passes TLS, authentication, authorization, decoding, admission, validation and one store transaction; a read is
//! answered from the cache at a revision known to be fresh. The verbs are generic over [`api::Kind`]: no file here belongs to
//! one resource unless the resource has a protocol of its own (binding, eviction, tokens, reviews). The crate must not know
//! controllers, the scheduler or the command line.

pub mod admission;
pub mod allocate;
pub mod attributes;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod source;
