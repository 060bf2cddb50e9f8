//! Selecting objects by labels and by fields, in upstream's syntax and with upstream's error texts.
//!
//! A selector is parsed once per request and matched against many objects, so matching takes lookup functions and allocates
//! nothing. Parsing never panics; its errors are the `message` of a 400.

mod field;
mod label;
mod lex;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};

/// Why a selector was refused; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);
