//! What clients saw, and whether one keyspace can have shown it to them (Wing, Gong and Lowe's search, key by key).

use std::collections::HashSet;

/// Operations on a key in one history; the search keeps one bit each.
const OPS_MAX: usize = 128;

pub(super) type Value = Option<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Put(u64),
    Get,
    /// Sets the second value if the first is there.
    Swap(Value, u64),
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    Done,
    Got(Value),
    Swapped(bool),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) key: usize,
    pub(super) call: Call,
    pub(super) called_at: u64,
    /// `None`: nobody knows whether it happened; it may still happen at any time.
    pub(super) returned: Option<(u64, Return)>,
}

impl Op {
    /// The value after it, if it may happen at a key with this value.
    fn step(&self, value: Value) -> Option<Value> {
        let (after, told) = match self.call {
            Call::Put(new) => (Some(new), Return::Done),
            Call::Get => (value, Return::Got(value)),
            Call::Swap(expected, new) if value == expected => (Some(new), Return::Swapped(true)),
            Call::Swap(..) => (value, Return::Swapped(false)),
        };
        let fits = self.returned.is_none_or(|(_, returned)| returned == told);
        fits.then_some(after)
    }
}

/// True if the operations of each key can be put in an order in which each takes effect between its call and its return.
pub(super) fn is_linearizable(history: &[Op]) -> bool {
    let n_keys = history.iter().map(|op| op.key + 1).max().unwrap_or(0);
    (0..n_keys).all(|key| {
        let ops: Vec<_> = history.iter().filter(|op| op.key == key).copied().collect();
        assert!(ops.len() <= OPS_MAX, "too long a history for one key: {}", ops.len());
        search(&ops)
    })
}

fn search(ops: &[Op]) -> bool {
    let known = ops.iter().enumerate().filter(|(_, op)| op.returned.is_some());
    let must_happen = known.fold(0_u128, |bits, (at, _)| bits | 1 << at);
    let mut seen = HashSet::new();
    let mut open = vec![(0_u128, None)];
    while let Some((happened, value)) = open.pop() {
        if must_happen & !happened == 0 {
            return true;
        }
        if !seen.insert((happened, value)) {
            continue;
        }
        let rest = || ops.iter().enumerate().filter(|(at, _)| happened & (1 << at) == 0);
        // Whoever was called after another returned comes after it.
        let first_return = rest().filter_map(|(_, op)| op.returned.map(|(at, _)| at)).min().unwrap_or(u64::MAX);
        for (at, op) in rest().filter(|(_, op)| op.called_at <= first_return) {
            if let Some(after) = op.step(value) {
                open.push((happened | 1 << at, after));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, called_at: u64, returned: Option<(u64, Return)>) -> Op {
        Op { key: 0, call, called_at, returned }
    }

    #[test]
    fn a_read_that_misses_an_acknowledged_write_is_found() {
        let write = op(Call::Put(1), 0, Some((1, Return::Done)));
        let fresh = op(Call::Get, 2, Some((3, Return::Got(Some(1)))));
        let stale = op(Call::Get, 2, Some((3, Return::Got(None))));
        assert!(is_linearizable(&[write, fresh]));
        assert!(!is_linearizable(&[write, stale]));
        let early = op(Call::Get, 0, Some((3, Return::Got(None))));
        assert!(is_linearizable(&[write, early]), "it was under way when the write was");
    }

    #[test]
    fn a_write_with_unknown_outcome_may_happen_late_or_never_but_not_twice() {
        let unknown = op(Call::Put(1), 0, None);
        let get = |at, value| op(Call::Get, at, Some((at + 1, Return::Got(value))));
        assert!(is_linearizable(&[unknown, get(5, None)]));
        assert!(is_linearizable(&[unknown, get(5, None), get(7, Some(1))]));
        let other = op(Call::Put(2), 8, Some((9, Return::Done)));
        assert!(!is_linearizable(&[unknown, get(5, Some(1)), other, get(10, Some(1))]));
    }

    #[test]
    fn swaps_see_what_they_say_they_saw() {
        let first = op(Call::Swap(None, 1), 0, Some((1, Return::Swapped(true))));
        let second = op(Call::Swap(None, 2), 2, Some((3, Return::Swapped(true))));
        assert!(!is_linearizable(&[first, second]));
        let refused = op(Call::Swap(None, 2), 2, Some((3, Return::Swapped(false))));
        assert!(is_linearizable(&[first, refused]));
    }
}
