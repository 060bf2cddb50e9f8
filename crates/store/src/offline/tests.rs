//! Files written by this store and by a real etcd, read, restored, cut and altered.

use std::path::{Path, PathBuf};

use futures::StreamExt;

use super::*;
use crate::testing::Etcd;
use crate::{
    DeleteRange, EmbeddedConfig, EmbeddedStore, KeyRange, LeaseId, Op, Put, RangeRequest, RemoteStore, Revision, Store,
    Txn,
};

async fn write_some(store: &dyn Store) {
    let put = |key: &str, value: &str, lease| {
        let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Put::default() };
        Txn { success: vec![Op::Put(put)], ..Txn::default() }
    };
    let (lease, _) = store.lease_grant(LeaseId(77), 600).await.unwrap();
    for n in 0..300 {
        let lease = if n % 10 == 0 { lease } else { LeaseId(0) };
        store.txn(put(&format!("k{:03}", n % 100), &"v".repeat(n), lease)).await.unwrap();
    }
    let delete = DeleteRange { range: KeyRange::prefix("k09"), ..DeleteRange::default() };
    store.txn(Txn { success: vec![Op::Delete(delete)], ..Txn::default() }).await.unwrap();
    store.compact(Revision(150), true).await.unwrap();
    store.txn(put("last", "one", LeaseId(0))).await.unwrap();
}

async fn save(store: &dyn Store, path: &Path) {
    let mut snapshot = store.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = snapshot.chunks.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(bytes.len() as u64, snapshot.size_bytes);
    std::fs::write(path, bytes).unwrap();
}

fn request(snapshot: &Path, data_dir: &Path) -> Restore {
    Restore {
        snapshot: snapshot.to_owned(),
        data_dir: data_dir.to_owned(),
        name: "default".into(),
        peer_urls: vec!["http://localhost:2380".into()],
        initial_cluster: "default=http://localhost:2380".into(),
        cluster_token: "etcd-cluster".into(),
        skip_hash_check: false,
        bump_revision: 0,
    }
}

fn open(data_dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig { data_dir: Some(data_dir.to_owned()), ..EmbeddedConfig::default() }).unwrap()
}

async fn all(store: &dyn Store) -> crate::RangeResponse {
    let range = KeyRange { start: "\0".into(), end: "\0".into() };
    store.range(RangeRequest { range, ..RangeRequest::default() }).await.unwrap()
}

/// A snapshot of this store, and the store.
async fn saved(dir: &Path) -> (EmbeddedStore, PathBuf) {
    let store = open(&dir.join("source"));
    write_some(&store).await;
    let path = dir.join("snapshot.db");
    save(&store, &path).await;
    (store, path)
}

#[tokio::test]
async fn a_snapshot_becomes_a_directory_with_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let (source, snapshot) = saved(dir.path()).await;
    let target = dir.path().join("target");
    restore(&request(&snapshot, &target)).unwrap();
    let expected = source.hash_kv(Revision(0)).await.unwrap();
    assert_eq!(hash_kv(&snapshot, Revision(0)).unwrap(), expected);
    assert_eq!(hash_kv(&target, Revision(0)).unwrap(), expected);
    let verified = verify(&target).unwrap();
    assert_eq!((verified.revision, verified.n_leases), (Revision(303), 1));
    assert_eq!(verify(&snapshot).unwrap().n_versions, verified.n_versions);
    let restored = open(&target);
    assert_eq!(all(&restored).await, all(&source).await);
    assert_eq!(restored.hash_kv(Revision(0)).await.unwrap(), expected);
    let keys = |status: crate::LeaseStatus| (status.granted_ttl_seconds, status.keys);
    let lease = |store: EmbeddedStore| async move { store.lease_time_to_live(LeaseId(77), true).await.unwrap() };
    assert_eq!(keys(lease(restored).await), keys(lease(source).await));
    let again = restore(&request(&snapshot, &target)).unwrap_err().to_string();
    assert!(again.ends_with("not empty or could not be read"), "{again}");
}

#[tokio::test]
async fn a_bumped_revision_is_beyond_all_that_clients_have_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (source, snapshot) = saved(dir.path()).await;
    let target = dir.path().join("target");
    restore(&Restore { bump_revision: 1_000_000, ..request(&snapshot, &target) }).unwrap();
    for _ in 0..2 {
        let restored = open(&target);
        assert_eq!(restored.current_revision().await.unwrap(), Revision(1_000_303));
        assert_eq!(all(&restored).await.kvs, all(&source).await.kvs);
        let old = crate::WatchRequest { start_revision: Revision(304), ..Default::default() };
        assert!(matches!(restored.watch(old).await, Err(crate::StoreError::Compacted { .. })));
        restored.shutdown();
    }
}

#[tokio::test]
async fn damaged_files_are_refused_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (_source, snapshot) = saved(dir.path()).await;
    let whole = std::fs::read(&snapshot).unwrap();
    let target = dir.path().join("target");
    let damaged = dir.path().join("damaged.db");
    let refusal = |bytes: &[u8], skip_hash_check| {
        std::fs::write(&damaged, bytes).unwrap();
        let error = restore(&Restore { skip_hash_check, ..request(&damaged, &target) }).unwrap_err();
        assert!(!target.exists());
        assert!(!dir.path().join(".target.restoring").exists());
        error.to_string()
    };
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    assert_eq!(refusal(&altered, false), "snapshot file does not match its SHA-256 trailer");
    assert!(snapshot_status(&damaged).is_err());
    let cut = &whole[..whole.len() - 4096];
    assert_eq!(refusal(cut, false), "snapshot file does not match its SHA-256 trailer");
    assert_eq!(refusal(cut, true), "not an etcd snapshot: the file is cut off before its last page");
    let bare = &whole[..whole.len() - 32];
    assert!(refusal(bare, false).starts_with("snapshot missing hash but --skip-hash-check=false"));
    assert!(refusal(b"", false).starts_with("snapshot missing hash"));
    std::fs::write(&damaged, bare).unwrap();
    restore(&Restore { skip_hash_check: true, ..request(&damaged, &target) }).unwrap();
}

#[test]
fn the_cluster_of_a_restore_has_to_make_sense() {
    let nowhere = Path::new("/nonexistent");
    let refusal = |change: &dyn Fn(&mut Restore)| {
        let mut request = request(nowhere, nowhere);
        change(&mut request);
        restore(&request).unwrap_err().to_string()
    };
    assert_eq!(
        refusal(&|request| request.name = "other".into()),
        "couldn't find local name \"other\" in the initial cluster configuration"
    );
    assert_eq!(
        refusal(&|request| request.peer_urls = vec!["http://a:1".into()]),
        "--initial-cluster has default=http://localhost:2380 but --initial-advertise-peer-urls=http://a:1"
    );
    assert!(refusal(&|request| request.initial_cluster = "nonsense".into()).contains("NAME=URL"));
}

#[tokio::test]
async fn an_attempt_that_was_killed_does_not_stop_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (_source, snapshot) = saved(dir.path()).await;
    std::fs::create_dir(dir.path().join(".target.restoring")).unwrap();
    std::fs::write(dir.path().join(".target.restoring/state.redb"), "half").unwrap();
    let target = dir.path().join("target");
    restore(&request(&snapshot, &target)).unwrap();
    assert_eq!(verify(&target).unwrap().revision, Revision(303));
}

#[tokio::test]
async fn a_real_etcds_snapshot_becomes_a_directory_with_the_same_data() {
    let Some(etcd) = Etcd::start().await else { return };
    let theirs = RemoteStore::connect(&[etcd.endpoint()], None).unwrap();
    write_some(&theirs).await;
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot.db");
    save(&theirs, &snapshot).await;
    let target = dir.path().join("target");
    restore(&request(&snapshot, &target)).unwrap();
    let ours = open(&target);
    assert_eq!(all(&ours).await, all(&theirs).await);
    assert_eq!(ours.hash_kv(Revision(0)).await.unwrap().hash, theirs.hash_kv(Revision(0)).await.unwrap().hash);
    let status = snapshot_status(&snapshot).unwrap();
    assert_eq!((status.revision, status.total_keys), (303, 91));
}

#[tokio::test]
async fn a_data_directory_is_shrunk_and_labelled() {
    let dir = tempfile::tempdir().unwrap();
    let (source, _) = saved(dir.path()).await;
    let data_dir = dir.path().join("source");
    let in_use = defragment(&data_dir).unwrap_err().to_string();
    assert!(in_use.ends_with("is in use by another store"), "{in_use}");
    source.shutdown();
    let (before, after) = defragment(&data_dir).unwrap();
    assert!(after <= before);
    assert_eq!(storage_version(&data_dir).unwrap().as_deref(), Some("3.6.0"));
    set_storage_version(&data_dir, None).unwrap();
    assert_eq!(storage_version(&data_dir).unwrap(), None);
    assert!(matches!(hash_kv(&data_dir, Revision(10)), Err(OfflineError::Revision(_))));
    assert!(defragment(dir.path()).unwrap_err().to_string().contains("No such file"));
}
