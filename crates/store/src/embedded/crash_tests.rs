//! What is left after a crash: of the process, in the middle of anything.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::tests::{delete, get, next, put, watch_all};
use crate::*;

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(config(dir)).unwrap()
}

fn config(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { data_dir: Some(dir.to_owned()), ..EmbeddedConfig::default() }
}

async fn contents(store: &EmbeddedStore) -> (Revision, Vec<KeyValue>) {
    let range = KeyRange { start: "\0".into(), end: "\0".into() };
    let response = store.range(RangeRequest { range, ..RangeRequest::default() }).await.unwrap();
    (response.revision, response.kvs)
}

/// Set in the process that is going to be killed.
const VICTIM_DIR: &str = "STORE_CRASH_TEST_DIR";
const WRITERS: usize = 8;

/// Not a test of its own: the process that `nothing_acknowledged_is_lost_to_kill_9` kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM_DIR) else { return };
    let store = std::sync::Arc::new(open(Path::new(&dir)));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for n in 0_u64.. {
                let key = format!("w{writer}");
                let revision = store.txn(put(&key, &n.to_string())).await.unwrap().revision;
                if n % 50 == 49 && writer == 0 {
                    let _somebody_else_compacted_later = store.compact(Revision(revision.0 - 20), false).await;
                }
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {key} {n} {revision}").unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, (u64, i64)> = BTreeMap::new();
    let mut newest = 0;
    for n_acks in [1, 30, 300, 2000] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["embedded::crash_tests::victim", "--exact", "--nocapture"])
            .env(VICTIM_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        acknowledged.clear();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut n_seen = 0;
        while let Some(Ok(line)) = lines.next() {
            let mut words = line.split(' ').skip_while(|word| *word != "ack").skip(1);
            let (Some(key), Some(value), Some(revision)) = (words.next(), words.next(), words.next()) else { continue };
            let (Ok(value), Ok(revision)) = (value.parse(), revision.parse()) else { continue };
            acknowledged.insert(key.to_owned(), (value, revision));
            newest = newest.max(revision);
            n_seen += 1;
            if n_seen == n_acks {
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        assert!(n_seen >= n_acks, "the victim wrote {n_seen} times before it died by itself");
        let store = open(dir.path());
        assert!(store.current_revision().await.unwrap() >= Revision(newest));
        for (key, (value, revision)) in &acknowledged {
            let request = RangeRequest { range: KeyRange::key(key.clone()), ..RangeRequest::default() };
            let kv = store.range(request).await.unwrap().kvs.remove(0);
            let found: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            assert!(found >= *value, "{key} is {found}, but {value} was acknowledged");
            assert!(kv.mod_revision >= Revision(*revision));
        }
        let last = store.txn(put("after", "crash")).await.unwrap().revision;
        assert!(last > Revision(newest), "revisions never repeat");
        newest = last.0;
        store.shutdown();
    }
}

#[tokio::test]
async fn everything_is_as_it_was_after_a_crash_and_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = None;
    for is_clean in [true, false, true, false] {
        let store = open(dir.path());
        if let Some(expected) = expected.take() {
            assert_eq!(contents(&store).await, expected);
        }
        for n in 0..50 {
            store.txn(put(&format!("k{}", n % 7), &n.to_string())).await.unwrap();
        }
        store.txn(delete(KeyRange::prefix("k1"))).await.unwrap();
        expected = Some(contents(&store).await);
        let hash = store.hash_kv(Revision(0)).await.unwrap();
        if is_clean {
            store.shutdown()
        } else {
            store.crash()
        }
        let store = open(dir.path());
        assert_eq!(store.hash_kv(Revision(0)).await.unwrap(), hash);
        let all: Vec<_> = expected.iter().flat_map(|(_, kvs)| kvs).collect();
        let old = RangeRequest { range: KeyRange::key("k3"), revision: Revision(5), ..RangeRequest::default() };
        assert_eq!(store.range(old).await.unwrap().kvs[0].mod_revision, Revision(5), "older versions are there too");
        assert_eq!(all.len(), 6);
        store.crash();
    }
}

#[tokio::test]
async fn a_torn_tail_of_the_log_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..20 {
        store.txn(put("a", &n.to_string())).await.unwrap();
    }
    let expected = contents(&store).await;
    store.crash();
    let mut logs: Vec<_> =
        std::fs::read_dir(dir.path().join("wal")).unwrap().map(|file| file.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "raftlog"));
    logs.sort();
    let log = logs.pop().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let torn = bytes[end - 40..end - 7].to_vec();
    bytes.truncate(end);
    bytes.extend(torn);
    std::fs::write(&log, bytes).unwrap();
    let store = open(dir.path());
    assert_eq!(contents(&store).await, expected);
    store.txn(put("a", "after")).await.unwrap();
    store.crash();
    assert_eq!(get(&open(dir.path()), "a").await.as_deref(), Some("after"));
}

#[tokio::test]
async fn the_log_forgets_what_the_state_file_holds_and_no_more() {
    use crate::raft::LogStore;
    let dir = tempfile::tempdir().unwrap();
    for life in 0..3 {
        let store = open(dir.path());
        let start = std::time::Instant::now();
        let mut n_writes = 0;
        // The log is looked at every half second.
        while n_writes < 12_000 || start.elapsed() < std::time::Duration::from_millis(1500) {
            let puts = (0..100).map(|n| store.txn(put(&format!("k{n}"), "x")));
            for written in futures::future::join_all(puts).await {
                written.unwrap();
            }
            n_writes += 100;
        }
        let expected = contents(&store).await;
        store.crash();
        {
            let mut log = crate::raft::EngineLog::open(&dir.path().join("wal")).unwrap();
            let logged = log.load().unwrap();
            assert!(logged.truncated.0 > 0, "life {life}");
            assert!(logged.entries.len() >= 5_000, "followers may still ask for some: {}", logged.entries.len());
            assert_eq!(logged.entries[0].index, logged.truncated.0 + 1);
        }
        assert_eq!(contents(&open(dir.path())).await, expected, "life {life}");
    }
}

#[tokio::test]
async fn a_restart_after_compaction_never_lowers_the_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..10 {
        store.txn(put("a", &n.to_string())).await.unwrap();
    }
    store.txn(delete(KeyRange::key("a"))).await.unwrap();
    store.compact(Revision(12), true).await.unwrap();
    store.shutdown();
    let store = open(dir.path());
    assert_eq!(store.current_revision().await, Ok(Revision(12)));
    let old = RangeRequest { range: KeyRange::key("a"), revision: Revision(11), ..RangeRequest::default() };
    assert_eq!(store.range(old).await, Err(StoreError::Compacted { compact_revision: Revision(12) }));
    let mut watch = store.watch(watch_all(12)).await.unwrap();
    assert_eq!(
        next(&mut watch).await.events[0].kind,
        EventKind::Delete,
        "the delete at the compacted revision is kept"
    );
    assert_eq!(store.txn(put("a", "again")).await.unwrap().revision, Revision(13));
    assert_eq!(store.compact(Revision(12), false).await, Err(StoreError::Compacted { compact_revision: Revision(12) }));
    store.compact(Revision(13), true).await.unwrap();
    store.shutdown();
    assert_eq!(contents(&open(dir.path())).await.0, Revision(13));
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_compaction_leaves_it_to_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..2000 {
        store.txn(put(&format!("k{}", n % 3), &n.to_string())).await.unwrap();
    }
    store.compact(Revision(1990), false).await.unwrap();
    store.crash();
    let store = open(dir.path());
    assert_eq!(store.current_revision().await, Ok(Revision(2001)));
    store.writer.flush().await.unwrap();
    let size_before = store.status().await.unwrap().db_size_in_use_bytes;
    assert!(size_before < 5_000, "swept rows are gone from the state file too: {size_before} bytes");
    assert_eq!(contents(&store).await.1.len(), 3);
}

#[tokio::test]
async fn leases_and_their_keys_survive_a_restart_and_end_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (lease, _) = store.lease_grant(LeaseId(42), 2).await.unwrap();
    let leased = Put { key: "a".into(), lease, ..Put::default() };
    store.txn(Txn { success: vec![Op::Put(leased)], ..Txn::default() }).await.unwrap();
    store.txn(put("b", "stays")).await.unwrap();
    store.shutdown();
    let store = open(dir.path());
    let mut watch = store.watch(watch_all(0)).await.unwrap();
    let status = store.lease_time_to_live(lease, true).await.unwrap();
    assert_eq!((status.granted_ttl_seconds, status.keys), (2, vec!["a".into()]));
    let batch = next(&mut watch).await;
    assert_eq!((batch.events[0].kind, batch.events[0].kv.key.as_ref()), (EventKind::Delete, b"a".as_ref()));
    assert_eq!(contents(&store).await.1.len(), 1);
    store.shutdown();
    assert_eq!(open(dir.path()).lease_list().await, Ok(vec![]));
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_free_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let message = EmbeddedStore::open(config(dir.path())).unwrap_err().to_string();
    assert_eq!(message, format!("data directory {} is in use by another store", dir.path().display()));
    store.shutdown();
    open(dir.path());
}

#[tokio::test]
async fn a_directory_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("format"), "2\n").unwrap();
    let message = EmbeddedStore::open(config(dir.path())).unwrap_err().to_string();
    let dir = dir.path().display();
    assert_eq!(message, format!("data directory {dir} has format 2, this version reads up to 1"));
}

#[tokio::test]
async fn a_snapshot_holds_the_rows_of_the_state_file() {
    use futures::StreamExt;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..500 {
        store.txn(put(&format!("k{}", n % 100), &"x".repeat(n))).await.unwrap();
    }
    store.txn(delete(KeyRange::prefix("k1"))).await.unwrap();
    store.lease_grant(LeaseId(5), 60).await.unwrap();
    store.compact(Revision(300), true).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let size = snapshot.size_bytes;
    let chunks: Vec<_> = snapshot.chunks.map(|chunk| chunk.unwrap()).collect().await;
    let file = chunks.concat();
    assert_eq!(file.len() as u64, size);
    store.writer.flush().await.unwrap();
    store.shutdown();
    let path = dir.path().join("snapshot.db");
    std::fs::write(&path, file).unwrap();
    let reader = bolt::Reader::open(&path).unwrap();
    let backend = crate::backend::RedbBackend::open(dir.path().join("state.redb")).unwrap();
    for bucket in crate::backend::Bucket::ALL {
        let mut stored = Vec::new();
        crate::backend::Backend::scan(&backend, bucket, &mut |key, value| stored.push((key.to_vec(), value.to_vec())))
            .unwrap();
        let rows = reader.bucket(bucket.name()).unwrap().unwrap();
        let exported: Vec<_> =
            rows.map(|row| row.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        assert_eq!(exported, stored, "bucket {}", bucket.name());
    }
}
