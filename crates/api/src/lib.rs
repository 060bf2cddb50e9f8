//! What a Kubernetes object is: kinds, schema, codecs, defaults, validation, patches, selectors, tables and `Status` errors.
//!
//! Everything here is a pure function or a table. The crate must not know sockets, files, clocks, randomness, tokio or HTTP;
//! the current time and random suffixes are arguments. An object is a [`Value`] in the field order of its schema, with
//! Go's `omitempty` already applied: what [`codec`] returns is exactly what is stored and what a client sees.
//!
//! Start reading at [`kind::Kind`], the record that describes a resource, then [`strategy::Strategy`], what differs per kind.

pub mod amounts;
pub mod apply;
pub mod cel;
pub mod codec;
pub mod convert;
pub mod cursor;
pub mod custom;
pub mod defaults;
pub mod discovery;
pub mod field;
mod gates;
pub mod gojson;
#[cfg(test)]
mod golden;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod occurrences;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod time;
mod url;
pub mod validate;
pub mod value;

pub use cursor::Cursor;
pub use field::{ErrorList, FieldError, Path};
pub use kind::Kind;
pub use schema::{Schema, Shape, TypeId};
pub use status::Status;
pub use strategy::Strategy;
pub use value::{Map, Text, Value};
