//! What a transaction's compares are worth against a keyspace.

use std::cmp::Ordering;

use super::Keyspace;
use super::index::Found;
use crate::{Compare, CompareResult, CompareTarget, KeyValue, RangeRequest, StoreError};

impl Keyspace {
    /// A range compare holds if it holds for every key. An absent key compares as zeros, except that its value never compares.
    pub(super) fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        let keys_only = !matches!(compare.target, CompareTarget::Value(_));
        if compare.range.end.is_empty() {
            let found = self.get(&compare.range.start, self.revision);
            let kv = match found {
                Some(found) if !keys_only => self.key_values(vec![found.to_record()])?.pop(),
                found => found.map(Found::to_key_value),
            };
            return Ok(compares(compare, kv.as_ref()));
        }
        let request = RangeRequest { range: compare.range.clone(), keys_only, ..RangeRequest::default() };
        let existing = self.range(&request)?.kvs;
        if existing.is_empty() {
            return Ok(compares(compare, None));
        }
        Ok(existing.iter().all(|kv| compares(compare, Some(kv))))
    }
}

fn compares(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let absent = KeyValue::default();
    let found = kv.unwrap_or(&absent);
    let order = match &compare.target {
        CompareTarget::Version(version) => found.version.cmp(version),
        CompareTarget::CreateRevision(revision) => found.create_revision.cmp(revision),
        CompareTarget::ModRevision(revision) => found.mod_revision.cmp(revision),
        CompareTarget::Lease(lease) => found.lease.cmp(lease),
        CompareTarget::Value(_) if kv.is_none() => return false,
        CompareTarget::Value(value) => found.value.cmp(value),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}
