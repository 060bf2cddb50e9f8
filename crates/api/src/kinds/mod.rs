//! What differs per built-in kind.

pub mod strategies;
