//! Rules shared by many kinds: names, labels and selectors, addresses, quantities, and how Go prints the values they refuse.
//!
//! Every function here is pure. It either returns the messages of what is wrong with one value, or adds field errors for a
//! part of an object in the order in which upstream reports them. Nothing here knows a kind.

pub mod diff;
pub mod go;
pub mod labels;
pub mod names;
pub mod net;
pub mod resources;
pub mod text;
