//! Several members on loopback, in one process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::tests::{delete, get, put, watch_all};
use crate::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A member that can be stopped and started again.
pub(super) struct Node {
    pub(super) config: EmbeddedConfig,
    pub(super) store: Option<Arc<EmbeddedStore>>,
}

impl Node {
    pub(super) fn store(&self) -> &Arc<EmbeddedStore> {
        self.store.as_ref().unwrap()
    }

    pub(super) async fn start(&mut self) {
        let config = self.config.clone();
        let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.unwrap().unwrap();
        self.store = Some(Arc::new(store));
    }

    pub(super) async fn stop(&mut self) {
        let store = self.store.take().unwrap();
        tokio::task::spawn_blocking(move || store.shutdown()).await.unwrap();
    }
}

pub(super) fn free_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

pub(super) fn config(name: &str, url: &str, cluster: &[(String, String)], dir: Option<&Path>) -> EmbeddedConfig {
    let member = |(name, url): &(String, String)| InitialMember { name: name.clone(), peer_urls: vec![url.clone()] };
    EmbeddedConfig {
        data_dir: dir.map(|dir| dir.join(name)),
        name: name.into(),
        peer_urls: vec![url.into()],
        client_urls: vec![format!("http://{name}:2379")],
        initial_cluster: cluster.iter().map(member).collect(),
        peer: Some(PeerConfig { listen_urls: vec![url.into()], tls: None }),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout: Duration::from_millis(500),
        ..EmbeddedConfig::default()
    }
}

pub(super) async fn cluster(n: usize, dir: Option<&Path>) -> Vec<Node> {
    let members: Vec<_> = (0..n).map(|at| (format!("m{at}"), free_url())).collect();
    let mut nodes = Vec::new();
    for (name, url) in &members {
        let mut node = Node { config: config(name, url, &members, dir), store: None };
        node.start().await;
        nodes.push(node);
    }
    nodes
}

pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The place of the leader, once all running members agree.
pub(super) async fn leader(nodes: &[Node]) -> usize {
    eventually("a leader", || async {
        let running: Vec<_> = nodes.iter().filter_map(|node| node.store.as_ref()).collect();
        let mut leaders = Vec::new();
        for store in &running {
            leaders.push(store.status().await.unwrap().leader_id);
        }
        let is_agreed = leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]);
        let of = |node: &Node| node.store.as_ref().is_some_and(|store| store.identity.member_id == leaders[0]);
        is_agreed.then(|| nodes.iter().position(of)).flatten()
    })
    .await
}

pub(super) async fn same_hashes(nodes: &[Node]) {
    eventually("equal states", || async {
        let mut hashes = Vec::new();
        for node in nodes {
            if let Some(store) = &node.store {
                let revision = store.status().await.unwrap().revision;
                hashes.push((revision, store.hash_kv(Revision(0)).await.unwrap().hash));
            }
        }
        hashes.iter().all(|hash| *hash == hashes[0]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_serve_one_keyspace_through_each_of_them() {
    let nodes = cluster(3, None).await;
    leader(&nodes).await;
    for (n, node) in nodes.iter().enumerate() {
        let key = format!("k{n}");
        node.store().txn(put(&key, "v")).await.unwrap();
        for other in &nodes {
            assert_eq!(get(other.store(), &key).await.as_deref(), Some("v"), "a read anywhere sees it at once");
        }
    }
    let members = nodes[1].store().members().await.unwrap();
    assert_eq!(members.iter().filter(|member| !member.is_learner).count(), 3);
    eventually("all have said who they are", || async {
        let members = nodes[2].store().members().await.unwrap();
        members.iter().all(|member| !member.client_urls.is_empty()).then_some(())
    })
    .await;
    let mut watch = nodes[0].store().watch(watch_all(2)).await.unwrap();
    nodes[2].store().txn(delete(KeyRange::prefix("k"))).await.unwrap();
    let mut n_events = 0;
    while n_events < 6 {
        n_events += super::tests::next(&mut watch).await.events.len();
    }
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_leader_stops_and_it_catches_up_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(3, Some(dir.path())).await;
    let first = leader(&nodes).await;
    for n in 0..50 {
        nodes[n % 3].store().txn(put(&format!("before{n}"), "v")).await.unwrap();
    }
    nodes[first].stop().await;
    let second = leader(&nodes).await;
    assert_ne!(first, second);
    for n in 0..50 {
        nodes[second].store().txn(put(&format!("after{n}"), "v")).await.unwrap();
        assert_eq!(get(nodes[second].store(), &format!("before{n}")).await.as_deref(), Some("v"));
    }
    nodes[first].start().await;
    eventually("the one that stopped has caught up", || async {
        let revision = nodes[first].store().status().await.unwrap().revision;
        (revision == nodes[second].store().status().await.unwrap().revision).then_some(())
    })
    .await;
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged_and_local_reads_go_on() {
    let mut nodes = cluster(3, None).await;
    leader(&nodes).await;
    nodes[0].store().txn(put("a", "1")).await.unwrap();
    eventually("all have it", || async {
        let revision = nodes[2].store().status().await.unwrap().revision;
        (revision == Revision(2)).then_some(())
    })
    .await;
    nodes[0].stop().await;
    nodes[1].stop().await;
    let last = nodes[2].store().clone();
    let local = RangeRequest { range: KeyRange::key("a"), serializable: true, ..RangeRequest::default() };
    let refused =
        [StoreError::Timeout, StoreError::Refused("request timed out, possibly due to previous leader failure")];
    let written = last.txn(put("a", "2")).await.unwrap_err();
    assert!(refused.contains(&written), "{written}");
    let read = last.current_revision().await.unwrap_err();
    assert!(refused.contains(&read), "{read}");
    assert_eq!(last.range(local).await.unwrap().kvs[0].value, "1");
    assert_eq!(last.status().await.unwrap().errors, ["etcdserver: no leader"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_live_on_through_followers_and_another_leader() {
    let nodes = cluster(3, None).await;
    let first = leader(&nodes).await;
    let follower = (first + 1) % 3;
    let (lease, _) = nodes[follower].store().lease_grant(LeaseId(7), 60).await.unwrap();
    assert_eq!(nodes[follower].store().lease_keep_alive(lease).await, Ok(60));
    assert_eq!(nodes[follower].store().lease_keep_alive(LeaseId(8)).await, Err(StoreError::LeaseNotFound));
    let ttl = nodes[follower].store().lease_time_to_live(lease, false).await.unwrap().ttl_seconds;
    assert!((50..=60).contains(&ttl), "{ttl}");
    let to = nodes[follower].store().identity.member_id;
    assert_eq!(nodes[follower].store().move_leader(to).await, Err(StoreError::Refused("not leader")));
    nodes[first].store().move_leader(to).await.unwrap();
    assert_eq!(leader(&nodes).await, follower);
    assert_eq!(nodes[first].store().lease_keep_alive(lease).await, Ok(60));
    let (short, _) = nodes[first].store().lease_grant(LeaseId(9), 2).await.unwrap();
    let leased = Put { key: "leased".into(), lease: short, ..Put::default() };
    nodes[first].store().txn(Txn { success: vec![Op::Put(leased)], ..Txn::default() }).await.unwrap();
    eventually("its end", || async { get(nodes[first].store(), "leased").await.is_none().then_some(()) }).await;
    assert_eq!(nodes[follower].store().move_leader(99).await, Err(StoreError::Refused("bad leader transferee")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_alone_becomes_three_and_the_first_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let urls: Vec<_> = (0..3).map(|_| free_url()).collect();
    let mut members = vec![("m0".to_owned(), urls[0].clone())];
    let mut nodes = vec![Node { config: config("m0", &urls[0], &[], Some(dir.path())), store: None }];
    nodes[0].start().await;
    for n in 0..100 {
        nodes[0].store().txn(put(&format!("k{n}"), "v")).await.unwrap();
    }
    nodes[0].store().compact(Revision(20), false).await.unwrap();
    let (lease, _) = nodes[0].store().lease_grant(LeaseId(3), 600).await.unwrap();
    for (at, is_learner) in [(1, true), (2, false)] {
        let store = nodes[0].store().clone();
        let (added, _) = eventually("the cluster is healthy", || {
            let (store, url) = (store.clone(), urls[at].clone());
            async move { store.member_add(vec![url], is_learner).await.ok() }
        })
        .await;
        assert_eq!((added.name.as_str(), added.is_learner), ("", is_learner));
        members.push((format!("m{at}"), urls[at].clone()));
        let config = EmbeddedConfig {
            cluster_state: ClusterState::Existing,
            ..config(&format!("m{at}"), &urls[at], &members, Some(dir.path()))
        };
        let mut node = Node { config, store: None };
        node.start().await;
        if is_learner {
            eventually("it knows what it is", || async {
                node.store().status().await.unwrap().is_learner.then_some(())
            })
            .await;
            let unsupported = StoreError::Refused("rpc not supported for learner");
            assert_eq!(node.store().txn(put("x", "y")).await, Err(unsupported.clone()));
            assert_eq!(node.store().members().await, Err(unsupported));
            let range = RangeRequest { range: KeyRange::key("k99"), serializable: true, ..RangeRequest::default() };
            assert_eq!(node.store().range(range).await.unwrap().kvs.len(), 1);
            eventually("the learner has caught up", || async { store.member_promote(added.id).await.ok() }).await;
            let again = store.member_promote(added.id).await;
            assert_eq!(again, Err(StoreError::Refused("can only promote a learner member")));
        }
        nodes.push(node);
        eventually("it has the state", || async {
            let status = nodes[at].store().status().await.unwrap();
            (status.revision >= Revision(101) && status.leader_id != 0).then_some(())
        })
        .await;
    }
    for node in &nodes {
        assert_eq!(get(node.store(), "k99").await.as_deref(), Some("v"));
        assert_eq!(node.store().lease_list().await, Ok(vec![lease]));
    }
    same_hashes(&nodes).await;
    nodes[1].stop().await;
    nodes[1].start().await;
    leader(&nodes).await;
    same_hashes(&nodes).await;

    let first = nodes[0].store().identity.member_id;
    let duplicate = nodes[0].store().member_add(vec![urls[1].clone()], false).await;
    assert!(duplicate.is_err());
    eventually("the first one has left", || async { nodes[1].store().member_remove(first).await.ok() }).await;
    let gone = nodes.remove(0);
    let error = eventually("the removed one knows", || async { gone.store().txn(put("a", "b")).await.err() }).await;
    assert!(error.to_string().contains("permanently removed") || error == StoreError::Timeout, "{error}");
    leader(&nodes).await;
    nodes[0].store().txn(put("after", "1")).await.unwrap();
    assert_eq!(nodes[1].store().members().await.unwrap().len(), 2);
    assert_eq!(nodes[1].store().member_remove(first).await, Err(StoreError::Refused("member not found")));
    same_hashes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_before_the_cluster_knows_it_waits_for_that() {
    let urls = [free_url(), free_url()];
    let mut first = Node { config: config("m0", &urls[0], &[], None), store: None };
    first.start().await;
    let store = first.store().clone();
    let members = [("m0".to_owned(), urls[0].clone()), ("m1".to_owned(), urls[1].clone())];
    let joining = EmbeddedConfig { cluster_state: ClusterState::Existing, ..config("m1", &urls[1], &members, None) };
    let mut learner = Node { config: joining, store: None };
    let ((), added) = tokio::join!(learner.start(), store.member_add(vec![urls[1].clone()], true));
    assert_eq!(learner.store().identity.member_id, added.unwrap().0.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_goes_to_a_new_member_no_faster_than_it_should_while_writes_go_on() {
    const RATE: u64 = 1 << 20;
    let urls = [free_url(), free_url()];
    let paced = |config| EmbeddedConfig { snapshot_bytes_per_second: RATE, ..config };
    let mut first = Node { config: paced(config("m0", &urls[0], &[], None)), store: None };
    first.start().await;
    let store = first.store().clone();
    let value = "v".repeat(100_000);
    for n in 0..30 {
        store.txn(put(&format!("k{n}"), &value)).await.unwrap();
    }
    store.member_add(vec![urls[1].clone()], true).await.unwrap();
    let members = [("m0".to_owned(), urls[0].clone()), ("m1".to_owned(), urls[1].clone())];
    let joining = EmbeddedConfig { cluster_state: ClusterState::Existing, ..config("m1", &urls[1], &members, None) };
    let mut learner = Node { config: joining, store: None };
    let began = std::time::Instant::now();
    learner.start().await;
    let mut n_written = 0;
    while learner.store().status().await.unwrap().revision < Revision(31) {
        store.txn(put("meanwhile", "x")).await.unwrap();
        n_written += 1;
        assert!(began.elapsed() < PATIENCE);
    }
    // Three million bytes, of which the last frame does not wait for its own time.
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(n_written > 100, "{n_written} writes meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_raises_the_alarm_of_a_member_whose_data_differ() {
    let nodes = cluster(3, None).await;
    let leads = leader(&nodes).await;
    let at_leader = nodes[leads].store();
    at_leader.txn(put("a", "1")).await.unwrap();
    same_hashes(&nodes).await;
    at_leader.compare_members().await.unwrap();
    assert_eq!(at_leader.alarms().await.unwrap(), []);
    for node in &nodes {
        node.store().check_for_corruption().await.unwrap();
    }
    // What no command did.
    let corrupt = nodes[(leads + 1) % 3].store();
    let id = corrupt.identity.member_id;
    {
        let machine = &mut *corrupt.machine.write();
        let mut write = machine.keyspace.begin(&mut machine.lessor);
        write.put("a".into(), "other".into(), LeaseId(0));
        write.finish();
    }
    at_leader.txn(put("b", "1")).await.unwrap();
    let alarm = Alarm { member_id: id, kind: AlarmKind::Corrupt };
    let alarms = eventually("the alarm", || async {
        at_leader.compare_members().await.unwrap();
        let alarms = at_leader.alarms().await.unwrap();
        (!alarms.is_empty()).then_some(alarms)
    })
    .await;
    assert_eq!(alarms, [alarm]);
    assert_eq!(at_leader.txn(put("c", "1")).await, Err(StoreError::Refused("corrupt cluster")));
    assert!(at_leader.check_for_corruption().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_when_the_leader_died_is_done_once_and_never_fails() {
    let mut nodes = cluster(3, None).await;
    let first = leader(&nodes).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .filter(|at| *at != first)
        .map(|at| {
            let (store, stop) = (nodes[at].store().clone(), stop.clone());
            tokio::spawn(async move {
                let key = format!("counter-{at}");
                let mut n_acknowledged = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    store.txn(put(&key, "v")).await.unwrap();
                    n_acknowledged += 1;
                }
                (key, n_acknowledged)
            })
        })
        .collect();
    let survivor = nodes[(first + 1) % 3].store().clone();
    let reached = |revision: i64| {
        let survivor = survivor.clone();
        async move { (survivor.status().await.unwrap().revision > Revision(revision)).then_some(()) }
    };
    eventually("some writes", || reached(50)).await;
    nodes[first].store.take().unwrap().crash();
    let before = survivor.status().await.unwrap().revision.0;
    eventually("writes go on", || reached(before + 50)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        let (key, n_acknowledged) = writer.await.expect("no write failed");
        let range = RangeRequest { range: KeyRange::key(key), ..RangeRequest::default() };
        let version = survivor.range(range).await.unwrap().kvs[0].version;
        assert_eq!(version, n_acknowledged, "each write happened once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_goes_on_alone_when_the_others_are_lost_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(3, Some(dir.path())).await;
    leader(&nodes).await;
    for n in 0..20 {
        nodes[n % 3].store().txn(put(&format!("k{n}"), "v")).await.unwrap();
    }
    let (lease, _) = nodes[1].store().lease_grant(LeaseId(5), 600).await.unwrap();
    same_hashes(&nodes).await;
    let left = 2;
    let forced = EmbeddedConfig { force_new_cluster: true, ..nodes[left].config.clone() };
    let open = |config: EmbeddedConfig| tokio::task::spawn_blocking(move || EmbeddedStore::open(config));
    nodes[left].stop().await;
    let refused = open(forced.clone()).await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("3 of 3 voting members are there"), "{refused}");

    nodes[0].stop().await;
    nodes[1].stop().await;
    let data_dir = forced.data_dir.clone().unwrap();
    let file = dir.path().join("before.snap");
    let saved = crate::offline::save(&data_dir, &file).unwrap();
    assert_eq!(crate::offline::verify(&file).unwrap().revision, saved);
    let alone = open(forced.clone()).await.unwrap().unwrap();
    assert_eq!(alone.status().await.unwrap().revision, saved);
    assert_eq!(get(&alone, "k19").await.as_deref(), Some("v"));
    assert_eq!(alone.lease_list().await, Ok(vec![lease]));
    alone.txn(put("after", "v")).await.unwrap();
    assert_eq!(alone.members().await.unwrap().len(), 1);
    tokio::task::spawn_blocking(move || alone.shutdown()).await.unwrap();

    // Again, with the flag left in, and without; then an old member comes back.
    let again = open(forced).await.unwrap().unwrap();
    assert_eq!(get(&again, "after").await.as_deref(), Some("v"));
    tokio::task::spawn_blocking(move || again.shutdown()).await.unwrap();
    nodes[left].start().await;
    assert_eq!(get(nodes[left].store(), "after").await.as_deref(), Some("v"));
    nodes[0].start().await;
    eventually("the old member hears that it is none", || async { nodes[0].store().is_removed().then_some(()) }).await;
}
