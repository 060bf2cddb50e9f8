//! What made etcd's members differ, and what states that came whole did to them.

use std::sync::Arc;

use crate::embedded::cluster_tests::{Node, cluster, eventually, leader, same_hashes};
use crate::embedded::tests::{delete, get, put, watch_all};
use crate::*;

use super::{CATCHUP_ENTRIES, Gate, gated_cluster};

/// Writes so much that a member who misses it needs a state whole. The log is looked at every half second.
async fn outrun(store: &EmbeddedStore) {
    let before = store.raft.status().applied;
    while store.raft.status().applied < before + 4 * CATCHUP_ENTRIES {
        store.txn(put("filler", "x")).await.unwrap();
    }
    let missed = before + CATCHUP_ENTRIES;
    eventually("the log has forgotten what was missed", || async {
        store.txn(put("filler", "x")).await.unwrap();
        (store.raft.status().first_index > missed).then_some(())
    })
    .await;
}

async fn caught_up(node: &Node, with: &EmbeddedStore) {
    eventually("it has caught up", || async {
        let revision = node.store().status().await.unwrap().revision;
        (revision == with.status().await.unwrap().revision).then_some(())
    })
    .await;
}

/// The leader of a cluster with gates, a member whose gate is closed, and its gate.
async fn cut_one_off(nodes: &[Node], gates: &[Arc<Gate>]) -> (usize, usize) {
    let leads = leader(nodes).await;
    let cut = (leads + 1) % 3;
    nodes[leads].store().txn(put("before", "x")).await.unwrap();
    caught_up(&nodes[cut], nodes[leads].store()).await;
    gates[cut].close();
    (leads, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_14571_a_member_that_gets_a_state_whole_knows_that_users_matter() {
    let auth = AuthConfig::parse("simple", std::time::Duration::ZERO, 4).unwrap();
    let (nodes, gates) = gated_cluster(|config| EmbeddedConfig { auth: auth.clone(), ..config }).await;
    let (leads, cut) = cut_one_off(&nodes, &gates).await;
    let store = nodes[leads].store();
    let password = |text: &str| NewPassword::Plain(text.into());
    for change in [
        AuthChange::UserAdd { name: "root".into(), password: password("pw") },
        AuthChange::UserGrantRole { user: "root".into(), role: "root".into() },
        AuthChange::UserAdd { name: "u".into(), password: password("secret") },
        AuthChange::Enable,
    ] {
        store.auth(AuthRequest::Change(change)).await.unwrap();
    }
    outrun(store).await;
    gates[cut].open();
    caught_up(&nodes[cut], store).await;

    let behind = nodes[cut].store();
    let nobody = behind.clone().on_behalf_of(Credentials::default());
    assert_eq!(nobody.txn(put("a", "1")).await, Err(StoreError::InvalidArgument("user name is empty")));
    let login = |name: &str, password: &str| AuthRequest::Authenticate { name: name.into(), password: password.into() };
    for (name, secret, may) in [("u", "secret", false), ("root", "pw", true)] {
        let AuthResponse::Token(token) = behind.auth(login(name, secret)).await.unwrap() else { panic!("a token") };
        let credentials = Credentials { token: Some(token), common_name: None };
        let client = behind.clone().on_behalf_of(credentials);
        assert_eq!(client.txn(put("a", "1")).await.is_ok(), may, "{name}");
    }
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_15271_a_watch_goes_on_or_ends_when_its_member_gets_a_state_whole() {
    for compacts in [false, true] {
        let (nodes, gates) = gated_cluster(|config| config).await;
        let (leads, cut) = cut_one_off(&nodes, &gates).await;
        let (store, behind) = (nodes[leads].store(), nodes[cut].store());
        let mut watch = behind.watch(watch_all(2)).await.unwrap();
        let mut waits = behind.watch(watch_all(0)).await.unwrap();
        outrun(store).await;
        let newest = store.txn(delete(KeyRange::key("before"))).await.unwrap().revision;
        if compacts {
            store.compact(newest, false).await.unwrap();
        }
        gates[cut].open();
        let last = store.txn(put("after", "x")).await.unwrap().revision;
        for (watch, from) in [(&mut watch, 2), (&mut waits, 3)] {
            let mut delivered = from - 1;
            while delivered < last.0 {
                let next = tokio::time::timeout(std::time::Duration::from_secs(30), watch.next()).await;
                match next.expect("an event or an end").expect("the store runs") {
                    Ok(batch) => {
                        for event in batch.events {
                            assert_eq!(event.kv.mod_revision.0, delivered + 1, "compacts: {compacts}");
                            delivered += 1;
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, StoreError::Compacted { compact_revision: newest });
                        assert!(compacts);
                        break;
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_18055_states_that_come_one_after_the_other_are_taken_one_after_the_other() {
    let (nodes, gates) = gated_cluster(|config| config).await;
    let (leads, cut) = cut_one_off(&nodes, &gates).await;
    let store = nodes[leads].store();
    for round in 0..4 {
        outrun(store).await;
        gates[cut].open();
        store.txn(put("round", &round.to_string())).await.unwrap();
        if round % 2 == 0 {
            // As soon as the first byte may have come, or once everything has.
            tokio::task::yield_now().await;
        } else {
            caught_up(&nodes[cut], store).await;
        }
        gates[cut].close();
    }
    gates[cut].open();
    caught_up(&nodes[cut], store).await;
    assert_eq!(get(nodes[cut].store(), "round").await.as_deref(), Some("3"));
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_20271_a_state_that_comes_whole_and_a_defragmentation_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let with_dir = |config: EmbeddedConfig| EmbeddedConfig { data_dir: Some(dir.path().join(&config.name)), ..config };
    let (nodes, gates) = gated_cluster(with_dir).await;
    let (leads, cut) = cut_one_off(&nodes, &gates).await;
    let store = nodes[leads].store();
    outrun(store).await;
    let behind = nodes[cut].store().clone();
    let has_caught_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shrinking = tokio::spawn({
        let (behind, has_caught_up) = (behind.clone(), has_caught_up.clone());
        async move {
            while !has_caught_up.load(std::sync::atomic::Ordering::Relaxed) {
                behind.defragment().await.unwrap();
            }
        }
    });
    gates[cut].open();
    caught_up(&nodes[cut], store).await;
    has_caught_up.store(true, std::sync::atomic::Ordering::Relaxed);
    shrinking.await.unwrap();
    behind.writer.flush().await.unwrap();
    same_hashes(&nodes).await;
}

/// Members that differ in what compaction has swept so far: one of them has just started.
async fn compacted_cluster(dir: &std::path::Path) -> (Vec<Node>, usize) {
    let mut nodes = cluster(3, Some(dir)).await;
    let leads = leader(&nodes).await;
    for n in 0..50 {
        nodes[leads].store().txn(put("a", &n.to_string())).await.unwrap();
    }
    nodes[leads].store().compact(Revision(30), false).await.unwrap();
    let other = (leads + 1) % 3;
    nodes[other].stop().await;
    nodes[other].start().await;
    caught_up(&nodes[other], nodes[leads].store()).await;
    (nodes, leads)
}

/// Reads `key` at a revision, and writes.
fn read_and_write(revision: i64) -> Txn {
    let old = RangeRequest { range: KeyRange::key("a"), revision: Revision(revision), ..RangeRequest::default() };
    let mut txn = put("written", "x");
    txn.success.insert(0, Op::Range(old));
    txn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_18667_a_transaction_that_reads_what_is_compacted_is_refused_by_all_members_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, leads) = compacted_cluster(dir.path()).await;
    let before = nodes[leads].store().current_revision().await.unwrap();
    for node in &nodes {
        let refused = node.store().txn(read_and_write(10)).await;
        assert_eq!(refused, Err(StoreError::Compacted { compact_revision: Revision(30) }));
        assert_eq!(node.store().txn(read_and_write(before.0 + 1)).await, Err(StoreError::FutureRevision));
    }
    assert_eq!(nodes[leads].store().current_revision().await, Ok(before), "nothing of it was done");
    assert_eq!(get(nodes[leads].store(), "written").await, None);
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_7_a_transaction_with_a_range_at_an_explicit_revision_leaves_members_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, leads) = compacted_cluster(dir.path()).await;
    for (n, node) in nodes.iter().enumerate() {
        let done = node.store().txn(read_and_write(30)).await.unwrap();
        let OpResponse::Range(read) = &done.responses[0] else { panic!("{done:?}") };
        assert_eq!(
            (&read.kvs[0].value[..], read.kvs[0].mod_revision),
            (&b"28"[..], Revision(30)),
            "through member {n}"
        );
    }
    same_hashes(&nodes).await;
    // The ranges are in the log: a member that applies them later than a further compaction does not stumble over them.
    nodes[leads].store().compact(Revision(45), true).await.unwrap();
    let mut nodes = nodes;
    let other = (leads + 2) % 3;
    nodes[other].stop().await;
    nodes[other].start().await;
    caught_up(&nodes[other], nodes[leads].store()).await;
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_6_5_a_revoked_lease_is_not_kept_alive_by_any_member() {
    let nodes = cluster(3, None).await;
    let leads = leader(&nodes).await;
    for revoker in &nodes {
        let (lease, _) = nodes[leads].store().lease_grant(LeaseId(0), 60).await.unwrap();
        for node in &nodes {
            assert_eq!(node.store().lease_keep_alive(lease).await, Ok(60));
        }
        revoker.store().lease_revoke(lease).await.unwrap();
        for node in &nodes {
            assert_eq!(node.store().lease_keep_alive(lease).await, Err(StoreError::LeaseNotFound));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_6_12_a_learner_that_moves_stays_a_learner() {
    let nodes = cluster(1, None).await;
    let store = nodes[0].store();
    let (learner, _) = store.member_add(vec!["http://127.0.0.1:1".into()], true).await.unwrap();
    let members = store.member_update(learner.id, vec!["http://127.0.0.1:2".into()]).await.unwrap();
    for members in [members, store.members().await.unwrap()] {
        let moved = members.iter().find(|member| member.id == learner.id).unwrap();
        assert_eq!((moved.is_learner, &moved.peer_urls[0][..]), (true, "http://127.0.0.1:2"));
    }
    assert_eq!(store.machine.read().membership.conf_state().learners, [learner.id]);
}
