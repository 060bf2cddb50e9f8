//! What is wrong with a request before anything is looked up: missing keys, contradicting options, too many operations, the
//! same key twice.

use std::collections::HashSet;

use bytes::Bytes;

use super::Intervals;
use crate::{DeleteRange, KeyRange, Op, Put, RangeRequest, StoreError, Txn};

/// etcd's default of operations in a transaction.
pub(crate) const TXN_OPS_MAX: usize = 128;

pub(crate) const EMPTY_KEY: StoreError = StoreError::InvalidArgument("key is not provided");
const VALUE_PROVIDED: StoreError = StoreError::InvalidArgument("value is provided");
const LEASE_PROVIDED: StoreError = StoreError::InvalidArgument("lease is provided");
const TOO_MANY_OPS: StoreError = StoreError::InvalidArgument("too many operations in txn request");
const DUPLICATE_KEY: StoreError = StoreError::InvalidArgument("duplicate key given in txn request");
pub(crate) const KEY_NOT_FOUND: StoreError = StoreError::InvalidArgument("key not found");

pub(crate) fn check_range(request: &RangeRequest) -> Result<(), StoreError> {
    check_key(&request.range.start)
}

/// At most `ops_max` operations; what a level uses is not left for the levels inside it.
pub(crate) fn check_txn(txn: &Txn, ops_max: usize) -> Result<(), StoreError> {
    check_ops(txn, ops_max)?;
    check_intervals(&txn.success)?;
    check_intervals(&txn.failure)?;
    Ok(())
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() { Err(EMPTY_KEY) } else { Ok(()) }
}

fn check_put(put: &Put) -> Result<(), StoreError> {
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if put.ignore_lease && put.lease.0 != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(())
}

fn check_ops(txn: &Txn, budget: usize) -> Result<(), StoreError> {
    let used = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if used > budget {
        return Err(TOO_MANY_OPS);
    }
    for compare in &txn.compare {
        check_key(&compare.range.start)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => check_range(range)?,
            Op::Put(put) => check_put(put)?,
            Op::Delete(delete) => check_key(&delete.range.start)?,
            Op::Txn(nested) => check_ops(nested, budget - used)?,
        }
    }
    Ok(())
}

/// Keys a branch may put and ranges it may delete.
#[derive(Debug, Default)]
struct Touched<'a> {
    puts: HashSet<&'a Bytes>,
    deletes: Intervals,
}

/// A delete up to the open end takes every key from the start on, but never collides with a put, because upstream compares that
/// end as the plain byte here.
fn insert_delete(deletes: &mut Intervals, range: &KeyRange) {
    if range.end.as_ref() != b"\0" {
        deletes.add_range(range);
    }
}

/// No key is put twice, and none is both put and deleted. Upstream's rule depends on order in one place: a nested put is
/// compared with the deletes of this level and of nested transactions before it, not with those after it.
fn check_intervals(ops: &[Op]) -> Result<Touched<'_>, StoreError> {
    let mut touched = Touched::default();
    for op in ops {
        if let Op::Delete(DeleteRange { range, .. }) = op {
            insert_delete(&mut touched.deletes, range);
        }
    }
    for op in ops {
        let Op::Txn(nested) = op else { continue };
        let then = check_intervals(&nested.success)?;
        let otherwise = check_intervals(&nested.failure)?;
        for key in &then.puts {
            if touched.deletes.contains(key) || !touched.puts.insert(key) {
                return Err(DUPLICATE_KEY);
            }
        }
        for key in &otherwise.puts {
            // Only one of the two branches runs, so both may put the same key.
            let is_new = touched.puts.insert(key);
            if touched.deletes.contains(key) || (!is_new && !then.puts.contains(key)) {
                return Err(DUPLICATE_KEY);
            }
        }
        touched.deletes.merge(then.deletes);
        touched.deletes.merge(otherwise.deletes);
    }
    for op in ops {
        let Op::Put(put) = op else { continue };
        if touched.deletes.contains(&put.key) || !touched.puts.insert(&put.key) {
            return Err(DUPLICATE_KEY);
        }
    }
    Ok(touched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compare, CompareResult, CompareTarget, LeaseId};

    fn put(key: &'static str) -> Op {
        Op::Put(Put { key: Bytes::from_static(key.as_bytes()), ..Put::default() })
    }

    fn delete(start: &'static str, end: &'static str) -> Op {
        let range = KeyRange { start: start.into(), end: end.into() };
        Op::Delete(DeleteRange { range, prev_kv: false })
    }

    fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Txn { success, failure, ..Txn::default() })
    }

    fn check(ops: Vec<Op>) -> Result<(), StoreError> {
        check_txn(&Txn { success: ops, ..Txn::default() }, TXN_OPS_MAX)
    }

    #[test]
    fn a_key_is_put_once_and_never_put_and_deleted() {
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("a")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![put("b"), delete("a", "c")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![put("c"), delete("a", "c")]), Ok(()));
        assert_eq!(check(vec![put("a"), delete("a", "")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![delete("a", "c"), delete("b", "d")]), Ok(()));
        assert_eq!(check(vec![delete("a", "c"), delete("b", "e"), delete("x", ""), put("d")]), Err(DUPLICATE_KEY));
        assert_eq!(check(vec![delete("b", "c"), delete("d", ""), put("a"), put("c"), put("d0")]), Ok(()));
        assert_eq!(check(vec![delete("a", "\0"), put("a"), put("b")]), Ok(()));
    }

    #[test]
    fn both_branches_of_a_nested_txn_may_put_the_same_key() {
        assert_eq!(check(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), put("a")]), Err(DUPLICATE_KEY));
        let twice = vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])];
        assert_eq!(check(twice), Err(DUPLICATE_KEY));
    }

    #[test]
    fn nested_puts_collide_with_earlier_nested_deletes_but_not_with_later_ones() {
        let delete_first = vec![nested(vec![delete("a", "")], vec![]), nested(vec![put("a")], vec![])];
        assert_eq!(check(delete_first), Err(DUPLICATE_KEY));
        let put_first = vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "")], vec![])];
        assert_eq!(check(put_first), Ok(()));
    }

    #[test]
    fn the_budget_of_operations_shrinks_with_every_level() {
        let puts = |n: usize| -> Vec<Op> {
            (0..n).map(|i| Op::Put(Put { key: format!("k{i}").into(), ..Put::default() })).collect()
        };
        assert_eq!(check(puts(128)), Ok(()));
        assert_eq!(check(puts(129)), Err(TOO_MANY_OPS));
        assert_eq!(check(vec![nested(puts(127), vec![])]), Ok(()));
        assert_eq!(check(vec![nested(puts(128), vec![])]), Err(TOO_MANY_OPS));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let base = Put { key: "k".into(), ..Put::default() };
        let valued = Put { value: "v".into(), ignore_value: true, ..base.clone() };
        let leased = Put { lease: LeaseId(1), ignore_lease: true, ..base };
        assert_eq!(check(vec![Op::Put(valued)]), Err(VALUE_PROVIDED));
        assert_eq!(check(vec![Op::Put(leased)]), Err(LEASE_PROVIDED));
        assert_eq!(check(vec![put("")]), Err(EMPTY_KEY));
        let compare =
            Compare { range: KeyRange::default(), result: CompareResult::Equal, target: CompareTarget::Version(0) };
        assert_eq!(check_txn(&Txn { compare: vec![compare], ..Txn::default() }, TXN_OPS_MAX), Err(EMPTY_KEY));
    }
}
