//! Custom resources at run time: which kinds are served besides the built-in ones, and what becomes of the definitions that
//! bring them.
//!
//! The [`Catalog`] is what requests look kinds up in: a snapshot that is replaced as a whole, so readers hold no lock. The
//! [`keeper`] follows the definitions in the watch cache, makes room for their objects there, publishes their kinds and keeps
//! their status; the [`cleanup`] of a deleted definition removes its objects first.

mod catalog;
mod cleanup;
pub(crate) mod conversion;
mod keeper;

pub(crate) use catalog::{Catalog, Snapshot};
pub(crate) use keeper::Keeper;
