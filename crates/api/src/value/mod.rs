//! JSON in memory: what a decoded object is.
//!
//! The reading of unusual text and the writing of all are serde_json's; the tree is our own, because every write of the API server
//! makes and drops a few. A value takes 32 bytes, where serde_json's ordered maps take 72 and hash each name; names and short texts
//! lie in the tree itself, and clones of an object share it until they differ.

mod convert;
mod document;
mod index;
mod json;
mod known;
mod make;
mod map;
mod read;
mod skip;
mod text;

use std::fmt;

pub(crate) use document::{plain, unusual};
pub use index::ValueIndex;
pub use make::to_value;
pub(crate) use map::Fields;
pub use map::{Entry, Map, OccupiedEntry, VacantEntry};
pub use read::from_value;
pub use serde_json::Number;
pub use skip::{Malformed, Members, value_end};
pub(crate) use skip::{is_plain, number_end, space_end, string_end};

/// Objects and lists within each other in a document that is read here. What a server holds is a little deeper than what it took from
/// a client: the ownership of the deepest field is told within the metadata.
pub(crate) const DEPTH_MAX: usize = 2 * crate::codec::DEPTH_MAX;

/// The text of a value or the name of a field. Up to 24 bytes need no allocation.
pub type Text = compact_str::CompactString;

/// The size of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Objects and lists within each other, the outermost counted.
    pub depth: usize,
    /// Values in all: the tree itself, its parts and theirs.
    pub values: usize,
}

/// A decoded object or any part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(Text),
    Array(Vec<Value>),
    Object(Map),
}

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn is_boolean(&self) -> bool {
        matches!(self, Self::Bool(_))
    }

    pub fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    pub fn is_i64(&self) -> bool {
        matches!(self, Self::Number(number) if number.is_i64())
    }

    pub fn is_f64(&self) -> bool {
        matches!(self, Self::Number(number) if number.is_f64())
    }

    pub fn is_string(&self) -> bool {
        matches!(self, Self::String(_))
    }

    pub fn is_array(&self) -> bool {
        matches!(self, Self::Array(_))
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    pub fn as_number(&self) -> Option<&Number> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    pub fn as_i64(&self) -> Option<i64> {
        self.as_number()?.as_i64()
    }

    pub fn as_u64(&self) -> Option<u64> {
        self.as_number()?.as_u64()
    }

    pub fn as_f64(&self) -> Option<f64> {
        self.as_number()?.as_f64()
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    pub fn as_array(&self) -> Option<&Vec<Value>> {
        if let Self::Array(list) = self { Some(list) } else { None }
    }

    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        if let Self::Array(list) = self { Some(list) } else { None }
    }

    pub fn as_object(&self) -> Option<&Map> {
        if let Self::Object(map) = self { Some(map) } else { None }
    }

    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        if let Self::Object(map) = self { Some(map) } else { None }
    }

    /// How large the tree is. Every value of it is looked at.
    pub(crate) fn extent(&self) -> Extent {
        let around = |extent: Extent, part: &Self| {
            let Extent { depth, values } = part.extent();
            Extent { depth: extent.depth.max(depth + 1), values: extent.values + values }
        };
        match self {
            Self::Array(list) => list.iter().fold(Extent { depth: 1, values: 1 }, around),
            Self::Object(map) => map.values().fold(Extent { depth: 1, values: 1 }, around),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => Extent { depth: 0, values: 1 },
        }
    }

    /// The value, with null in its place.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// Compact JSON; with `{:#}` indented by two spaces.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if f.alternate() { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
