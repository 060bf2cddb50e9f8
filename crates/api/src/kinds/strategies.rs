//! The list of strategies: one row per built-in kind. Kinds that are not here use [`Strategy::DEFAULT`].

use crate::Strategy;

/// Group, kind and strategy of every built-in kind that has rules of its own.
pub fn strategies() -> &'static [(&'static str, &'static str, &'static Strategy)] {
    STRATEGIES
}

static STRATEGIES: &[(&str, &str, &Strategy)] = &[];

/// The strategy of a built-in kind.
pub fn strategy(group: &str, kind: &str) -> &'static Strategy {
    STRATEGIES.iter().find(|(g, k, _)| *g == group && *k == kind).map_or(&Strategy::DEFAULT, |(_, _, s)| s)
}
