//! The same requests to a real etcd and to the embedded store: the same answers, events and checksums.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::tests::{next, watch_all};
use crate::testing::Etcd;
use crate::*;

/// Requests by chance, small enough to collide.
struct Chance(StdRng);

impl Chance {
    fn key(&mut self) -> bytes::Bytes {
        format!("k{}", self.0.random_range(0..8)).into()
    }

    fn range(&mut self) -> KeyRange {
        match self.0.random_range(0..4) {
            0 => KeyRange::prefix("k"),
            1 => KeyRange { start: self.key(), end: self.key() },
            2 => KeyRange { start: self.key(), end: "\0".into() },
            _ => KeyRange::key(self.key()),
        }
    }

    fn flip(&mut self) -> bool {
        self.0.random_bool(0.3)
    }

    fn range_request(&mut self, newest: Revision) -> RangeRequest {
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::CreateRevision,
            SortTarget::ModRevision,
            SortTarget::Value,
        ];
        // Only keys never tie, and etcd does not sort stably.
        let target = if self.flip() { SortTarget::Key } else { targets[self.0.random_range(0..5)] };
        let single = target != SortTarget::Key;
        let around_newest = |chance: &mut Self| Revision(chance.0.random_range(0..=newest.0 + 1));
        RangeRequest {
            range: if single { KeyRange::key(self.key()) } else { self.range() },
            limit: self.0.random_range(0..4),
            revision: if self.flip() { around_newest(self) } else { Revision(0) },
            keys_only: self.flip(),
            count_only: self.flip(),
            sort: self.flip().then_some(Sort { target, descending: self.0.random_bool(0.5) }),
            min_mod_revision: if self.flip() { around_newest(self) } else { Revision(0) },
            max_create_revision: if self.flip() { around_newest(self) } else { Revision(0) },
            ..RangeRequest::default()
        }
    }

    fn op(&mut self, newest: Revision, depth: usize) -> Op {
        match self.0.random_range(0..10) {
            0 | 1 => {
                let mut range = self.range_request(newest);
                // Versions of etcd differ in which of two errors comes first, so one kind is enough.
                range.revision = range.revision.min(Revision(0)).max(Revision(if self.flip() { newest.0 } else { 0 }));
                Op::Range(range)
            }
            2 | 3 => Op::Delete(DeleteRange { range: self.range(), prev_kv: self.flip() }),
            4 if depth < 2 => Op::Txn(self.txn(newest, depth + 1)),
            _ => {
                let ignore_value = self.flip();
                let value = format!("v{}", self.0.random_range(0..4));
                Op::Put(Put {
                    key: self.key(),
                    value: if ignore_value { bytes::Bytes::new() } else { value.into() },
                    lease: LeaseId(if self.flip() { self.0.random_range(1..4) } else { 0 }),
                    prev_kv: self.flip(),
                    ignore_value,
                    ignore_lease: false,
                })
            }
        }
    }

    fn compare(&mut self, newest: Revision) -> Compare {
        let results = [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Greater, CompareResult::Less];
        let target = match self.0.random_range(0..5) {
            0 => CompareTarget::Version(self.0.random_range(0..3)),
            1 => CompareTarget::CreateRevision(Revision(self.0.random_range(0..=newest.0))),
            2 => CompareTarget::Value(format!("v{}", self.0.random_range(0..4)).into()),
            3 => CompareTarget::Lease(LeaseId(self.0.random_range(0..4))),
            _ => CompareTarget::ModRevision(Revision(self.0.random_range(0..=newest.0))),
        };
        Compare { range: self.range(), result: results[self.0.random_range(0..4)], target }
    }

    fn txn(&mut self, newest: Revision, depth: usize) -> Txn {
        let n_compares = self.0.random_range(0..2);
        let n_ops = self.0.random_range(0..4);
        Txn {
            compare: (0..n_compares).map(|_| self.compare(newest)).collect(),
            success: (0..n_ops).map(|_| self.op(newest, depth)).collect(),
            failure: (0..n_ops).map(|_| self.op(newest, depth)).collect(),
        }
    }
}

#[tokio::test]
async fn a_real_etcd_gives_the_same_answers_events_and_checksums() {
    let Some(etcd) = Etcd::start().await else { return };
    let theirs = RemoteStore::connect(&[etcd.endpoint()], None).unwrap();
    let ours = EmbeddedStore::open(EmbeddedConfig::default()).unwrap();
    let mut chance = Chance(StdRng::seed_from_u64(36));
    for id in 1..3 {
        let (granted, theirs_granted) =
            (ours.lease_grant(LeaseId(id), 600).await, theirs.lease_grant(LeaseId(id), 600).await);
        assert_eq!(granted, theirs_granted);
    }
    let mut newest = Revision(1);
    for round in 0..1500 {
        let txn = chance.txn(newest, 0);
        let (mut our_answer, mut their_answer) = (ours.txn(txn.clone()).await, theirs.txn(txn.clone()).await);
        clear_revisions(&mut our_answer);
        clear_revisions(&mut their_answer);
        assert_eq!(plain(our_answer), plain(their_answer), "round {round}: {txn:#?}");
        newest = ours.current_revision().await.unwrap();
        assert_eq!(Ok(newest), theirs.current_revision().await, "round {round}: {txn:#?}");
        let range = chance.range_request(newest);
        let answers = (ours.range(range.clone()).await, theirs.range(range.clone()).await);
        assert_eq!(plain(answers.0), plain(answers.1), "round {round}: {range:#?}");
        if round % 100 == 99 {
            same_hash(&ours, &theirs, round).await;
        }
        if round % 300 == 299 {
            let revision = Revision(newest.0 - chance.0.random_range(1..20));
            assert_eq!(ours.compact(revision, true).await, theirs.compact(revision, true).await);
            same_hash(&ours, &theirs, round).await;
            // Deletes at the compacted revision itself are missing in older versions of etcd.
            same_events(&ours, &theirs, Revision(revision.0 + 1), newest).await;
        }
    }
    for id in 1..3 {
        assert_eq!(ours.lease_revoke(LeaseId(id)).await, theirs.lease_revoke(LeaseId(id)).await);
        same_hash(&ours, &theirs, -id).await;
    }
}

/// An error as a client sees it: its text.
fn plain<T>(answer: Result<T, StoreError>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())
}

/// Headers of nested transactions are empty in etcd; what a client shows for them is its own affair.
fn clear_revisions(answer: &mut Result<TxnResponse, StoreError>) {
    fn clear(response: &mut TxnResponse) {
        for op in &mut response.responses {
            if let OpResponse::Txn(nested) = op {
                nested.revision = Revision(0);
                clear(nested);
            }
        }
    }
    if let Ok(response) = answer {
        clear(response);
    }
}

/// Older versions of etcd do not say up to which revision they hashed.
async fn same_hash(ours: &EmbeddedStore, theirs: &RemoteStore, round: i64) {
    let (our_hash, their_hash) = (ours.hash_kv(Revision(0)).await.unwrap(), theirs.hash_kv(Revision(0)).await.unwrap());
    assert_eq!(our_hash.hash, their_hash.hash, "round {round}");
    assert_eq!(our_hash.compact_revision, their_hash.compact_revision, "round {round}");
}

async fn same_events(ours: &EmbeddedStore, theirs: &RemoteStore, from: Revision, to: Revision) {
    let request = WatchRequest { prev_kv: true, ..watch_all(from.0) };
    let mut events = [Vec::new(), Vec::new()];
    let mut watches = [ours.watch(request.clone()).await.unwrap(), theirs.watch(request).await.unwrap()];
    for (watch, events) in watches.iter_mut().zip(&mut events) {
        while events.last().is_none_or(|event: &WatchEvent| event.kv.mod_revision < to) {
            events.extend(next(watch).await.events);
        }
    }
    let [our_events, their_events] = events;
    assert_eq!(our_events, their_events);
}

#[tokio::test]
async fn a_real_etcd_serves_what_a_snapshot_of_ours_holds() {
    use futures::StreamExt;
    let Ok(_installed) = std::process::Command::new("etcdctl").arg("version").output() else {
        eprintln!("skipped: etcdctl is not installed");
        return;
    };
    let ours = EmbeddedStore::open(EmbeddedConfig::default()).unwrap();
    let mut chance = Chance(StdRng::seed_from_u64(7));
    ours.lease_grant(LeaseId(1), 600).await.unwrap();
    for round in 0..400 {
        let newest = ours.current_revision().await.unwrap();
        let _refused_by_chance = ours.txn(chance.txn(newest, 0)).await;
        if round == 250 {
            ours.compact(Revision(newest.0 - 3), true).await.unwrap();
        }
    }
    let leased = Put { key: "leased".into(), lease: LeaseId(1), ..Put::default() };
    ours.txn(Txn { success: vec![Op::Put(leased)], ..Txn::default() }).await.unwrap();
    let chunks: Vec<_> = ours.snapshot().await.unwrap().chunks.map(|chunk| chunk.unwrap()).collect().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("snapshot.db"), dir.path().join("data"));
    std::fs::write(&file, chunks.concat()).unwrap();
    let restored = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore"])
        .arg(&file)
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let Some(etcd) = Etcd::start_in(&data).await else { return };
    let theirs = RemoteStore::connect(&[etcd.endpoint()], None).unwrap();
    assert_eq!(theirs.current_revision().await, ours.current_revision().await);
    let all = RangeRequest { range: watch_all(0).range, ..RangeRequest::default() };
    assert_eq!(theirs.range(all.clone()).await, ours.range(all).await);
    let mut their_lease = theirs.lease_time_to_live(LeaseId(1), true).await.unwrap();
    their_lease.keys.sort_unstable();
    let our_lease = ours.lease_time_to_live(LeaseId(1), true).await.unwrap();
    assert_eq!((their_lease.granted_ttl_seconds, their_lease.keys), (600, our_lease.keys));
    let old = RangeRequest {
        range: KeyRange::prefix("k"),
        revision: Revision(ours.current_revision().await.unwrap().0 - 5),
        ..RangeRequest::default()
    };
    assert_eq!(theirs.range(old.clone()).await, ours.range(old).await, "older versions came along");
    same_hash(&ours, &theirs, 400).await;
}
