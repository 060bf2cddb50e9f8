//! Reading a range at one revision, in one go or in chunks between which the keyspace may change.

use std::sync::Arc;

use bytes::Bytes;

use super::Keyspace;
use super::record::RevisionKey;
use super::rows::{Rows, fill_in};
use crate::{KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, Sort, SortTarget, StoreError};

/// How a request is read: what can stop early, what has to see everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RangePlan {
    /// Keys after which reading may stop; `usize::MAX` for no limit.
    enough: usize,
    /// A sort that key order does not give for free.
    sort: Option<Sort>,
    wants_values: bool,
}

impl RangePlan {
    pub(crate) fn of(request: &RangeRequest) -> Self {
        let is_filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ] != [Revision(0); 4];
        let key_order = Sort { target: SortTarget::Key, descending: false };
        let sort = request.sort.filter(|sort| *sort != key_order);
        let enough = match request.limit {
            _ if request.count_only => 0,
            0 => usize::MAX,
            _ if is_filtered || sort.is_some() => usize::MAX,
            limit => limit,
        };
        let sorts_by_value = sort.is_some_and(|sort| sort.target == SortTarget::Value);
        let wants_values = !request.count_only && (!request.keys_only || sorts_by_value);
        Self { enough, sort, wants_values }
    }
}

/// A range read in progress. The revision it reads at must not be swept meanwhile.
#[derive(Debug)]
pub(crate) struct RangeCursor {
    request: RangeRequest,
    plan: RangePlan,
    /// Read at this one; the response reports `newest`.
    revision: Revision,
    newest: Revision,
    /// What is left of the range; `None` when done.
    rest: Option<KeyRange>,
    kvs: Vec<KeyValue>,
    /// Places in `kvs` whose values are only on disk.
    missing: Vec<(usize, RevisionKey)>,
    count: usize,
}

impl RangeCursor {
    pub(crate) fn new(keyspace: &Keyspace, request: RangeRequest) -> Result<Self, StoreError> {
        let revision = keyspace.readable(request.revision)?;
        Ok(Self {
            plan: RangePlan::of(&request),
            revision,
            newest: keyspace.revision(),
            rest: Some(request.range.clone()),
            kvs: Vec::new(),
            missing: Vec::new(),
            count: 0,
            request,
        })
    }

    /// The revision being read.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_none() && self.missing.is_empty()
    }

    /// Values to be read from disk before the next step.
    pub(crate) fn n_missing(&self) -> usize {
        self.missing.len()
    }

    /// Reads the values that the last step did not find in memory. Needs no lock, but the revision must be pinned.
    pub(crate) fn fill_in(&mut self, rows: Option<&Arc<dyn Rows>>) -> Result<(), StoreError> {
        fill_in(rows, &mut self.kvs, &mut self.missing)
    }

    /// Looks at up to about `n_keys_max` more keys.
    pub(crate) fn step(&mut self, keyspace: &Keyspace, n_keys_max: usize) {
        let Some(rest) = self.rest.take() else { return };
        if self.kvs.len() >= self.plan.enough {
            return self.count_rest(keyspace, rest, n_keys_max);
        }
        for (n_seen, entry) in keyspace.index.scan(&rest).enumerate() {
            let has_enough = self.kvs.len() >= self.plan.enough;
            if has_enough || n_seen >= n_keys_max {
                let behind = KeyRange { start: Bytes::copy_from_slice(entry.key()), end: rest.end.clone() };
                if has_enough {
                    self.count_rest(keyspace, behind, n_keys_max);
                } else {
                    self.rest = Some(behind);
                }
                return;
            }
            let Some(found) = entry.live_at(self.revision) else { continue };
            self.count += 1;
            if found.hot().is_none() && self.plan.wants_values {
                self.missing.push((self.kvs.len(), found.revision_key()));
            }
            self.kvs.push(found.to_key_value());
        }
    }

    /// There are enough keys; the others are only counted.
    fn count_rest(&mut self, keyspace: &Keyspace, rest: KeyRange, n_keys_max: usize) {
        let (count, next) = keyspace.index.count(&rest, self.revision, n_keys_max);
        self.count += count;
        self.rest = next.map(|start| KeyRange { start, end: rest.end });
    }

    pub(crate) fn finish(self) -> RangeResponse {
        debug_assert!(self.is_done());
        let Self { request, plan, newest, mut kvs, count, .. } = self;
        if request.count_only {
            return RangeResponse { revision: newest, kvs: Vec::new(), more: false, count };
        }
        kvs.retain(|kv| passes(&request, kv));
        if let Some(sort) = plan.sort {
            sort_by(&mut kvs, sort);
        }
        let n_matching = if plan.enough == usize::MAX { kvs.len() } else { count };
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        kvs.truncate(limit);
        if request.keys_only {
            // Not earlier: a sort may be by value, and cloning one is only a reference count.
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResponse { revision: newest, kvs, more: n_matching > limit, count }
    }
}

impl Keyspace {
    /// A whole range read without letting go.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut cursor = RangeCursor::new(self, request.clone())?;
        cursor.step(self, usize::MAX);
        cursor.fill_in(self.cache.rows())?;
        Ok(cursor.finish())
    }
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |revision: Revision, min: Revision, max: Revision| {
        (min == Revision(0) || revision >= min) && (max == Revision(0) || revision <= max)
    };
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort_by(kvs: &mut [KeyValue], sort: Sort) {
    kvs.sort_by(|a, b| {
        let order = match sort.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::CreateRevision => a.create_revision.cmp(&b.create_revision),
            SortTarget::ModRevision => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if sort.descending { order.reverse() } else { order }
    });
}
