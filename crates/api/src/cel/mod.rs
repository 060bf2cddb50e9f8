//! Kubernetes' CEL: expressions in CRDs, admission policies and webhook configurations.
//!
//! An [`Environment`] says what an expression may name; [`Environment::compile`] makes a [`Program`] of a text, or
//! [`CompileErrors`] in cel-go's words; [`Program::evaluate`] computes its value from [`Bindings`]. Programs are for keeping:
//! compiling costs far more than evaluating. Data is never converted as a whole, evaluation always ends (every step costs
//! something and there is a limit), and its cost is counted as upstream counts it, because limits on it are part of the API.
//! There is no environment variable, clock or network in any expression; the authorizer is reached through [`Authorizer`].
//!
//! Source: the CEL language definition, cel-go (parser, checker, interpreter), and `k8s.io/apiserver/pkg/cel`. All libraries of
//! Kubernetes v1.36 are there. Start reading at `environment`, then `parse` → `check` → `plan` → `eval`.

pub mod access;
mod ast;
mod check;
mod cost;
pub mod device;
mod environment;
mod escape;
mod estimate;
mod eval;
mod format;
mod functions;
mod implementations;
mod kubernetes;
mod lex;
mod lists;
mod literals;
mod macros;
mod opaque;
mod parse;
mod plan;
pub mod policy;
mod recovery;
mod semver;
mod source;
mod standard;
mod strings;
mod structural;
#[cfg(test)]
mod tests;
pub mod typed;
mod types;
mod value;

pub use environment::{Declared, Environment, Program};
pub use eval::{Bindings, Fields};
pub use opaque::{Asker, Authorizer, Check, Decision, Opaque, ResourceCheck};
pub use source::CompileErrors;
pub use structural::Structural;
pub use types::Type;
pub use value::{EvalError, Key, List, MapVal, Struct, Text, Val};

/// The most that one expression may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// The most that all rules of one object, or all expressions of one policy binding, may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// The most that all match conditions of one webhook or policy binding may cost together.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// Longer results of message expressions are not shown (bytes).
pub const MESSAGE_MAX_BYTES: usize = 5 * 1024;
