//! Kinds served in a version other than the stored one: how an object becomes its stored form and back.

use crate::Value;

/// The two directions. Both take and return normalised objects and never fail: what one form cannot say travels in annotations.
#[derive(Debug)]
pub struct Conversion {
    pub to_storage: fn(Value) -> Value,
    pub from_storage: fn(Value) -> Value,
}

/// The conversion of a built-in kind; `None` when the served version is the stored one.
pub fn conversion(_group: &str, _version: &str, _kind: &str) -> Option<&'static Conversion> {
    None
}
