//! What a transaction's compares are worth against a keyspace.

use std::cmp::Ordering;

use super::Keyspace;
use super::record::Record;
use crate::{Compare, CompareResult, CompareTarget, LeaseId, Revision};

impl Keyspace {
    /// A range compare holds if it holds for every key. An absent key compares as zeros, except that its value never compares.
    pub(super) fn holds(&self, compare: &Compare) -> bool {
        let mut existing = self.index.scan(&compare.range).filter_map(|entry| entry.live_at(self.revision)).peekable();
        if existing.peek().is_none() {
            return compares(compare, None);
        }
        existing.all(|record| compares(compare, Some(record)))
    }
}

fn compares(compare: &Compare, record: Option<&Record>) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => record.map_or(0, |r| r.version).cmp(version),
        CompareTarget::CreateRevision(revision) => record.map_or(Revision(0), |r| r.create).cmp(revision),
        CompareTarget::ModRevision(revision) => record.map_or(Revision(0), |r| r.main).cmp(revision),
        CompareTarget::Lease(lease) => record.map_or(LeaseId(0), |r| r.lease).cmp(lease),
        CompareTarget::Value(value) => match record {
            Some(record) => record.value.cmp(value),
            None => return false,
        },
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}
