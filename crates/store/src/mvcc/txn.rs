//! Transactions: decide, check, execute.
//!
//! All compares, nested ones included, look at the state before; so the path through the nested transactions is known before
//! anything changes, and everything on it that could fail is checked before anything changes.

use super::check::KEY_NOT_FOUND;
use super::index::Found;
use super::keyspace::KeyspaceWrite;
use super::{Keyspace, Record};
use crate::lease::Lessor;
use crate::{DeleteRange, KeyValue, Op, OpResponse, Put, Revision, StoreError, Txn, TxnResponse};
use std::sync::Arc;

/// Which branch a transaction takes, and the same for the nested transactions of that branch, in order.
#[derive(Debug)]
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

/// True when a transaction only reads, so that it need not be replicated. Nested ones count as writes, as upstream.
pub(crate) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

/// A read-only transaction's answer waits for nothing when each of its ranges says so.
pub(crate) fn is_serializable(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(range) if range.serializable))
}

impl Keyspace {
    /// Runs a transaction; returns the response and the changes to store. An error means nothing happened.
    pub(crate) fn txn(
        &mut self,
        lessor: &mut Lessor,
        txn: &Txn,
    ) -> Result<(TxnResponse, Vec<Arc<Record>>), StoreError> {
        let path = self.path(txn)?;
        self.check(lessor, txn, &path)?;
        let mut write = self.begin(lessor);
        let mut response = write.execute(txn, &path)?;
        response.revision = write.revision();
        Ok((response, write.finish()))
    }

    /// Runs a transaction for which [`is_read_only`] holds.
    pub(crate) fn read_only_txn(&self, txn: &Txn) -> Result<TxnResponse, StoreError> {
        let succeeded = self.succeeds(txn)?;
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Op::Range(range) = op {
                responses.push(OpResponse::Range(self.range(range)?));
            }
        }
        Ok(TxnResponse { revision: self.revision(), succeeded, responses })
    }

    fn succeeds(&self, txn: &Txn) -> Result<bool, StoreError> {
        for compare in &txn.compare {
            if !self.holds(compare)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn path(&self, txn: &Txn) -> Result<Path, StoreError> {
        let succeeded = self.succeeds(txn)?;
        let nested = branch(txn, succeeded).iter().filter_map(|op| match op {
            Op::Txn(nested) => Some(self.path(nested)),
            _ => None,
        });
        Ok(Path { succeeded, nested: nested.collect::<Result<_, _>>()? })
    }

    fn check(&self, lessor: &Lessor, txn: &Txn, path: &Path) -> Result<(), StoreError> {
        let mut nested_paths = path.nested.iter();
        for op in branch(txn, path.succeeded) {
            match op {
                Op::Range(range) => {
                    self.readable(range.revision)?;
                }
                Op::Put(put) => {
                    let needs_previous = put.ignore_value || put.ignore_lease;
                    if needs_previous && self.get(&put.key, self.revision).is_none() {
                        return Err(KEY_NOT_FOUND);
                    }
                    if put.lease.0 != 0 && !lessor.contains(put.lease) {
                        return Err(StoreError::LeaseNotFound);
                    }
                }
                Op::Delete(_) => {}
                Op::Txn(nested) => {
                    if let Some(path) = nested_paths.next() {
                        self.check(lessor, nested, path)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl KeyspaceWrite<'_> {
    fn execute(&mut self, txn: &Txn, path: &Path) -> Result<TxnResponse, StoreError> {
        let mut nested_paths = path.nested.iter();
        let ops = branch(txn, path.succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                Op::Range(range) => OpResponse::Range(self.view().range(range)?),
                Op::Put(put) => self.execute_put(put)?,
                Op::Delete(delete) => self.execute_delete(delete)?,
                Op::Txn(nested) => match nested_paths.next() {
                    Some(path) => OpResponse::Txn(self.execute(nested, path)?),
                    None => unreachable!("the path was computed from this transaction"),
                },
            });
        }
        // Only the outermost response carries the revision.
        Ok(TxnResponse { revision: Revision(0), succeeded: path.succeeded, responses })
    }

    fn execute_put(&mut self, put: &Put) -> Result<OpResponse, StoreError> {
        let before = self.previous(put)?;
        let (mut value, mut lease) = (put.value.clone(), put.lease);
        if let Some(before) = before {
            if put.ignore_value {
                value = before.value;
            }
            if put.ignore_lease {
                lease = before.lease;
            }
        }
        let prev = self.put(put.key.clone(), value, lease);
        let prev_kv = match prev.filter(|_| put.prev_kv) {
            Some(record) => self.view().key_values(vec![record])?.pop(),
            None => None,
        };
        Ok(OpResponse::Put { prev_kv })
    }

    /// What `ignore_value` and `ignore_lease` keep. If an operation of this very transaction deleted the key, the check before
    /// still found it, and it is that version which is kept.
    fn previous(&self, put: &Put) -> Result<Option<KeyValue>, StoreError> {
        if !put.ignore_value && !put.ignore_lease {
            return Ok(None);
        }
        let view = self.view();
        let newest = view.get(&put.key, view.revision());
        let kept = newest.or_else(|| view.get(&put.key, self.before()));
        Ok(view.key_values(kept.map(Found::to_record).into_iter().collect())?.pop())
    }

    fn execute_delete(&mut self, delete: &DeleteRange) -> Result<OpResponse, StoreError> {
        let deleted = self.delete_range(&delete.range);
        let n_deleted = deleted.len();
        let prev_kvs = if delete.prev_kv { self.view().key_values(deleted)? } else { Vec::new() };
        Ok(OpResponse::Delete { deleted: n_deleted, prev_kvs })
    }
}

fn branch(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}
