//! Custom resources: what a CustomResourceDefinition makes of the objects it describes.
//!
//! A [`Definition`] is light: names, versions and a share of the definition's bytes. What a version needs to work with objects
//! (its schema as a tree, the types for server-side apply, columns) is made when the first object comes. A [`CustomVersion`] is
//! one version of a definition; it is the schema of a [`Kind`] as the built-in schema is that of other kinds.
//! Source: `apiextensions-apiserver` `pkg/apiserver`.

mod defaults;
mod definition;
mod embedded;
mod formats;
mod lists;
mod prune;
mod rules;
mod structural;
#[cfg(test)]
mod tests;
mod typed;
mod validate;
mod version;

pub use definition::{Definition, Scale};
pub use typed::ROOT;
pub use version::CustomVersion;
pub(crate) use version::{restore_all_but_status, validate_default};
