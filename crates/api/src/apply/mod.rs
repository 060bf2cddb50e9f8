//! Field ownership: server-side apply, and `metadata.managedFields` of every other write.
//!
//! Pure functions on decoded objects. [`track_update`] answers who owns what after a plain write, [`apply`] merges an applied
//! configuration into the live object. Invariants: a field set never holds what nobody may own (identity, system metadata, parts
//! that the write resets), FieldsV1 is written in one canonical order, and entries that a write does not touch keep their bytes.
//! The module must not know HTTP, storage or clocks. Source: structured-merge-diff and apimachinery `managedfields`.
//! Start reading at `update.rs`, then `applying.rs`; `set.rs` is the data structure under both.

mod applying;
mod compare;
mod conflict;
mod element;
mod fieldset;
mod managed;
mod merge;
mod node;
mod overlay;
mod scale;
mod set;
mod update;

#[cfg(test)]
mod tests;

pub use applying::{Applied, ApplyError, apply, unconvertible};
pub use conflict::Conflicts;
pub use managed::{ManagerId, Operation, same_but_for_times};
pub use overlay::lay_over;
pub use scale::{ReplicasPaths, owners_of_object, owners_of_scale};
pub use set::Set;
pub use update::track_update;

/// Who writes, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` of the request, or the name of its client program.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}
