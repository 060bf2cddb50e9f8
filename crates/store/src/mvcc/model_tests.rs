//! The keyspace against a model: a list of whole states, one per revision, each a plain map.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{CHUNK_KEYS_MAX, Cache, Keyspace, RangeCursor, Record, RevisionKey, Rows, with_previous};
use crate::backend::record_row;
use crate::lease::{Lessor, Now};
use crate::{
    Compare, CompareResult, CompareTarget, DeleteRange, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResponse, Put,
    RangeRequest, Revision, Sort, SortTarget, StoreError, Txn,
};

type State = BTreeMap<Bytes, KeyValue>;

/// `states[r]` is the state at revision `r`.
struct Model {
    states: Vec<State>,
    compacted: Revision,
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    Compact(i64),
    Sweep(usize),
}

const LEASE: LeaseId = LeaseId(77);

/// What the backend would hold.
#[derive(Debug, Default)]
struct Disk(Mutex<BTreeMap<RevisionKey, Bytes>>);

impl Disk {
    fn store(&self, records: &[Arc<Record>]) {
        let row = |record: &Arc<Record>| (record.revision_key(), record_row(record).value.unwrap().into());
        self.0.lock().extend(records.iter().map(row));
    }

    fn forget(&self, rows: &[RevisionKey]) {
        let mut disk = self.0.lock();
        rows.iter().for_each(|at| assert!(disk.remove(at).is_some()));
    }
}

impl Rows for Disk {
    fn get(&self, versions: &[RevisionKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let disk = self.0.lock();
        Ok(versions.iter().map(|at| disk.get(at).cloned()).collect())
    }

    fn lengths(&self, versions: &[RevisionKey]) -> Result<Vec<Option<usize>>, StoreError> {
        let disk = self.0.lock();
        Ok(versions.iter().map(|at| disk.get(at).map(Bytes::len)).collect())
    }

    fn scan(&self, _: Revision, _: Revision, _: usize) -> Result<Vec<(RevisionKey, Bytes)>, StoreError> {
        unreachable!("only watches scan")
    }
}

impl Model {
    fn new() -> Self {
        Self { states: vec![State::new(), State::new()], compacted: Revision(-1) }
    }

    fn newest(&self) -> Revision {
        Revision(self.states.len() as i64 - 1)
    }

    fn at(&self, revision: Revision) -> &State {
        &self.states[revision.0 as usize]
    }

    fn apply(&mut self, txn: &Txn) -> (bool, Vec<OpResponse>) {
        let before = self.at(self.newest()).clone();
        let mut state = before.clone();
        let mut changed = false;
        let mut responses = Vec::new();
        let succeeded = self.run(txn, &before, &mut state, &mut changed, &mut responses);
        if changed {
            self.states.push(state);
        }
        (succeeded, responses)
    }

    fn run(
        &self,
        txn: &Txn,
        before: &State,
        state: &mut State,
        changed: &mut bool,
        responses: &mut Vec<OpResponse>,
    ) -> bool {
        let succeeded = txn.compare.iter().all(|compare| holds(compare, before));
        let revision = Revision(self.newest().0 + 1);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            match op {
                Op::Put(put) => {
                    let old = state.get(&put.key).cloned();
                    let kv = KeyValue {
                        key: put.key.clone(),
                        value: put.value.clone(),
                        create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.as_ref().map_or(1, |old| old.version + 1),
                        lease: put.lease,
                    };
                    state.insert(put.key.clone(), kv);
                    *changed = true;
                    responses.push(OpResponse::Put { prev_kv: old.filter(|_| put.prev_kv) });
                }
                Op::Delete(delete) => {
                    let doomed: Vec<_> = state.values().filter(|kv| delete.range.contains(&kv.key)).cloned().collect();
                    doomed.iter().for_each(|kv| {
                        state.remove(&kv.key);
                    });
                    *changed |= !doomed.is_empty();
                    let deleted = doomed.len();
                    let prev_kvs = if delete.prev_kv { doomed } else { Vec::new() };
                    responses.push(OpResponse::Delete { deleted, prev_kvs });
                }
                Op::Range(range) => {
                    let newest = if *changed { revision } else { self.newest() };
                    let mut response = range_of(range, state);
                    response.revision = newest;
                    responses.push(OpResponse::Range(response));
                }
                Op::Txn(nested) => {
                    let mut inner = Vec::new();
                    let succeeded = self.run(nested, before, state, changed, &mut inner);
                    let revision = Revision(0);
                    responses.push(OpResponse::Txn(crate::TxnResponse { revision, succeeded, responses: inner }));
                }
            }
        }
        succeeded
    }
}

fn holds(compare: &Compare, state: &State) -> bool {
    let CompareTarget::ModRevision(revision) = compare.target else { unreachable!("only these are generated") };
    let mut kvs: Vec<_> =
        state.values().filter(|kv| compare.range.contains(&kv.key)).map(|kv| kv.mod_revision).collect();
    if kvs.is_empty() {
        kvs.push(Revision(0));
    }
    kvs.iter().all(|found| match compare.result {
        CompareResult::Equal => *found == revision,
        CompareResult::NotEqual => *found != revision,
        CompareResult::Greater => *found > revision,
        CompareResult::Less => *found < revision,
    })
}

fn range_of(request: &RangeRequest, state: &State) -> crate::RangeResponse {
    let mut kvs: Vec<_> = state.values().filter(|kv| request.range.contains(&kv.key)).cloned().collect();
    let count = kvs.len();
    if request.count_only {
        return crate::RangeResponse { count, ..Default::default() };
    }
    kvs.retain(|kv| request.min_mod_revision.0 == 0 || kv.mod_revision >= request.min_mod_revision);
    match request.sort {
        Some(Sort { target: SortTarget::ModRevision, descending: true }) => {
            kvs.sort_by_key(|kv| std::cmp::Reverse(kv.mod_revision));
        }
        Some(Sort { target: SortTarget::Value, descending: false }) => kvs.sort_by_key(|kv| kv.value.clone()),
        _ => {}
    }
    let more = request.limit != 0 && kvs.len() > request.limit;
    kvs.truncate(if request.limit == 0 { usize::MAX } else { request.limit });
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    crate::RangeResponse { revision: Revision(0), kvs, more, count }
}

fn key() -> impl Strategy<Value = Bytes> {
    (0..12_u8).prop_map(|n| Bytes::from(vec![b'k', b'a' + n]))
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::key),
        (key(), key()).prop_map(|(start, end)| KeyRange { start, end }),
        key().prop_map(|start| KeyRange { start, end: Bytes::from_static(b"\0") }),
        Just(KeyRange::prefix("k")),
    ]
}

fn any_range_request() -> impl Strategy<Value = RangeRequest> {
    let sort = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Sort { target: SortTarget::ModRevision, descending: true })),
        1 => Just(Some(Sort { target: SortTarget::Value, descending: false })),
        1 => Just(Some(Sort { target: SortTarget::Key, descending: false })),
    ];
    (any_range(), 0..5_usize, sort, prop::bool::ANY, prop::bool::weighted(0.2), prop_oneof![Just(0), 1..20_i64])
        .prop_map(|(range, limit, sort, keys_only, count_only, min_mod)| RangeRequest {
            range,
            limit,
            sort,
            keys_only,
            count_only,
            min_mod_revision: Revision(min_mod),
            ..RangeRequest::default()
        })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), "[a-c]", prop::bool::ANY, prop_oneof![Just(LeaseId(0)), Just(LEASE)]).prop_map(
            |(key, value, prev_kv, lease)| {
                Op::Put(Put { key, value: value.into(), prev_kv, lease, ..Put::default() })
            }
        ),
        2 => (any_range(), prop::bool::ANY).prop_map(|(range, prev_kv)| Op::Delete(DeleteRange { range, prev_kv })),
        1 => any_range_request().prop_map(Op::Range),
    ]
}

fn flat_txn() -> impl Strategy<Value = Txn> {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::NotEqual),
        Just(CompareResult::Greater),
        Just(CompareResult::Less)
    ];
    let compare = (any_range(), result, 0..20_i64).prop_map(|(range, result, revision)| Compare {
        range,
        result,
        target: CompareTarget::ModRevision(Revision(revision)),
    });
    let ops = || prop::collection::vec(any_op(), 0..4);
    (prop::collection::vec(compare, 0..2), ops(), ops()).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    (flat_txn(), prop::option::weighted(0.2, flat_txn())).prop_map(|(mut txn, nested)| {
        txn.success.extend(nested.map(Op::Txn));
        txn
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_txn().prop_map(Step::Txn),
        1 => (0..30_i64).prop_map(Step::Compact),
        1 => (1..8_usize).prop_map(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_keyspace_is_a_map_at_every_revision(
        steps in prop::collection::vec(any_step(), 1..40),
        reads in prop::collection::vec(any_range_request(), 4),
        chunk in 1..5_usize,
        budget in prop_oneof![Just(0_usize), 500..5000_usize, Just(usize::MAX)],
    ) {
        let disk = Arc::new(Disk::default());
        let mut keyspace = Keyspace::with_cache(Cache::backed_by(disk.clone(), budget));
        let mut lessor = Lessor::default();
        lessor.grant(LEASE, 60, Now::ZERO).unwrap();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Txn(txn) => {
                    if super::check::check_txn(&txn, super::check::TXN_OPS_MAX).is_err() {
                        continue;
                    }
                    let (succeeded, responses) = model.apply(&txn);
                    let (response, changes) = keyspace.txn(&mut lessor, &txn).unwrap();
                    prop_assert_eq!(response.succeeded, succeeded);
                    prop_assert_eq!(response.responses, responses);
                    prop_assert_eq!(response.revision, model.newest());
                    let subs: Vec<_> = changes.iter().map(|record| record.sub).collect();
                    prop_assert_eq!(subs, (0..changes.len() as i64).collect::<Vec<_>>());
                    disk.store(&changes);
                    drop(changes);
                    keyspace.evict(keyspace.revision(), chunk);
                }
                Step::Compact(revision) => {
                    let revision = Revision(revision);
                    let expected = if revision <= model.compacted {
                        Err(StoreError::Compacted { compact_revision: model.compacted })
                    } else if revision > model.newest() {
                        Err(StoreError::FutureRevision)
                    } else {
                        model.compacted = revision;
                        Ok(())
                    };
                    prop_assert_eq!(keyspace.compact(revision), expected);
                }
                Step::Sweep(n) => {
                    disk.forget(&keyspace.sweep(Revision(i64::MAX), n).rows);
                }
            }
            keyspace.check_invariants();
        }
        for swept in [false, true] {
            let mut has_more = swept;
            while has_more {
                let step = keyspace.sweep(Revision(i64::MAX), 3);
                disk.forget(&step.rows);
                has_more = !step.finished;
            }
            keyspace.check_invariants();
            check_reads(&keyspace, &model, &reads, chunk)?;
            check_history(&keyspace, &model)?;
        }
        let leased: Vec<_> = model.at(model.newest()).values().filter(|kv| kv.lease == LEASE).map(|kv| kv.key.clone()).collect();
        prop_assert_eq!(lessor.keys(LEASE), leased);
    }
}

fn check_reads(keyspace: &Keyspace, model: &Model, reads: &[RangeRequest], chunk: usize) -> Result<(), TestCaseError> {
    for revision in 1..=model.newest().0 {
        let revision = Revision(revision);
        for read in reads {
            let request = RangeRequest { revision, ..read.clone() };
            if revision < model.compacted {
                let refused = Err(StoreError::Compacted { compact_revision: model.compacted });
                prop_assert_eq!(keyspace.range(&request), refused);
                continue;
            }
            let mut expected = range_of(&request, model.at(revision));
            expected.revision = model.newest();
            prop_assert_eq!(keyspace.range(&request), Ok(expected.clone()));
            let mut cursor = RangeCursor::new(keyspace, request).unwrap();
            while !cursor.is_done() {
                cursor.step(keyspace, chunk);
                cursor.fill_in(keyspace.cache().rows()).unwrap();
            }
            prop_assert_eq!(cursor.finish(), expected);
        }
    }
    Ok(())
}

/// Replaying the history onto the state it starts at gives every later state, and previous versions are those of the state
/// before.
fn check_history(keyspace: &Keyspace, model: &Model) -> Result<(), TestCaseError> {
    let first = Revision(model.compacted.0.max(1)).max(keyspace.cache().forgotten());
    for revision in first.0 + 1..=model.newest().0 {
        let revision = Revision(revision);
        let mut state = model.at(Revision(revision.0 - 1)).clone();
        let changes = keyspace.changes_since(revision).take_while(|change| change.record.main == revision);
        let mut changes: Vec<_> = changes.cloned().collect();
        with_previous(keyspace.cache().rows(), &mut changes).unwrap();
        prop_assert!(!changes.is_empty());
        for change in changes {
            let event = change.to_event(true);
            prop_assert_eq!(event.kv.mod_revision, revision);
            let before = model.at(Revision(revision.0 - 1)).get(&event.kv.key);
            if event.kv.create_revision != revision || event.kind == EventKind::Delete {
                prop_assert_eq!(event.prev_kv.as_ref(), before);
            } else {
                prop_assert_eq!(event.prev_kv.as_ref(), None);
            }
            match event.kind {
                EventKind::Put => state.insert(event.kv.key.clone(), event.kv),
                EventKind::Delete => state.remove(&event.kv.key),
            };
        }
        prop_assert_eq!(&state, model.at(revision));
    }
    Ok(())
}

#[test]
fn many_keys_in_any_order_are_found_counted_and_forgotten() {
    let mut keyspace = Keyspace::default();
    let mut lessor = Lessor::default();
    let n_keys = 10_000_u64;
    let key = |n: u64| Bytes::from(format!("/registry/pods/{:05}", (n * 7919) % n_keys));
    for n in 0..n_keys {
        let mut write = keyspace.begin(&mut lessor);
        write.put(key(n), Bytes::from_static(b"v"), LeaseId(0));
        write.finish();
    }
    keyspace.check_invariants();
    let all = KeyRange::prefix("/registry/");
    let page = RangeRequest { range: all.clone(), limit: 500, ..RangeRequest::default() };
    let response = keyspace.range(&page).unwrap();
    assert_eq!((response.kvs.len(), response.count, response.more), (500, 10_000, true));
    let half = RangeRequest { revision: Revision(5_001), ..page };
    assert_eq!(keyspace.range(&half).unwrap().count, 5_000);
    let mut write = keyspace.begin(&mut lessor);
    assert_eq!(write.delete_range(&KeyRange::prefix("/registry/pods/00")).len(), 1000);
    let revision = write.revision();
    write.finish();
    assert_eq!(
        keyspace.range(&RangeRequest { range: all, count_only: true, ..RangeRequest::default() }).unwrap().count,
        9_000
    );
    keyspace.compact(revision).unwrap();
    while !keyspace.sweep(Revision(i64::MAX), CHUNK_KEYS_MAX).finished {}
    keyspace.check_invariants();
    assert_eq!(
        keyspace.changes_since(Revision(0)).count(),
        1000,
        "the deletes at the compacted revision stay for watches"
    );
}

#[test]
fn values_beyond_the_budget_leave_in_order_of_revision() {
    let disk = Arc::new(Disk::default());
    let mut keyspace = Keyspace::with_cache(Cache::backed_by(disk.clone(), 10_000));
    let mut lessor = Lessor::default();
    for n in 0..100 {
        let mut write = keyspace.begin(&mut lessor);
        write.put(Bytes::from(format!("k{n}")), Bytes::from(vec![b'v'; 1000]), LeaseId(0));
        disk.store(&write.finish());
    }
    assert!(!keyspace.evict(Revision(1), usize::MAX), "nothing is on disk yet");
    assert_eq!(keyspace.cache().forgotten(), Revision(0));
    while keyspace.evict(keyspace.revision(), 7) {}
    keyspace.check_invariants();
    let is_hot = |n: usize| keyspace.get(format!("k{n}").as_bytes(), Revision(101)).unwrap().hot().is_some();
    let n_hot = (0..100).filter(|n| is_hot(*n)).count();
    assert!((5..=10).contains(&n_hot), "{n_hot}");
    assert!((100 - n_hot..100).all(is_hot), "the newest ones");
    assert_eq!(keyspace.changes_since(Revision(0)).count(), n_hot);
    assert_eq!(keyspace.cache().forgotten(), Revision(101 - n_hot as i64));
}

#[test]
fn places_of_swept_versions_do_not_pile_up() {
    let disk = Arc::new(Disk::default());
    let mut keyspace = Keyspace::with_cache(Cache::backed_by(disk.clone(), usize::MAX));
    let mut lessor = Lessor::default();
    for n in 0..10_000 {
        let mut write = keyspace.begin(&mut lessor);
        write.put(Bytes::from_static(b"renewed"), Bytes::from(format!("{n}")), LeaseId(0));
        disk.store(&write.finish());
        if n % 100 == 99 {
            keyspace.compact(keyspace.revision()).unwrap();
            while !keyspace.sweep(Revision(i64::MAX), CHUNK_KEYS_MAX).finished {}
        }
    }
    keyspace.check_invariants();
    assert!(keyspace.cache().n_places() < 3000, "{}", keyspace.cache().n_places());
}
