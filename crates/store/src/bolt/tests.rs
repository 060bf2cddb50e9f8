//! The writer against the reader, and against etcd's own tools where they are installed.

use std::path::Path;
use std::process::Command;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{BoltError, Bucket, Reader, Writer};
use crate::proto::mvccpb::KeyValue;
use crate::{KeyRange, RangeRequest, Revision, Store};

type TestRows = Vec<(Bytes, Bytes)>;

fn write_file(path: &Path, buckets: Vec<(&'static str, TestRows)>) {
    let writer = Writer::plan(buckets.into_iter().map(|(name, rows)| Bucket::of(name, rows)).collect()).unwrap();
    let size = writer.size_bytes();
    let mut file = Vec::new();
    writer
        .run(&mut |chunk| {
            file.extend_from_slice(&chunk);
            Ok(())
        })
        .unwrap();
    assert_eq!(file.len() as u64, size);
    std::fs::write(path, file).unwrap();
}

fn read_bucket(reader: &Reader, name: &str) -> TestRows {
    reader.bucket(name).unwrap().unwrap().map(Result::unwrap).collect()
}

fn revision_key(main: i64) -> Bytes {
    let mut key = BytesMut::new();
    key.put_i64(main);
    key.put_u8(b'_');
    key.put_i64(0);
    key.freeze()
}

/// `count` keys, one revision each from 2 on; every 50th value is large enough to need a run of pages.
fn keyspace(count: i64) -> TestRows {
    let row = |n: i64| {
        let len = if n % 50 == 0 { 20_000 } else { 30 + n as usize % 700 };
        let kv = KeyValue {
            key: format!("/registry/pods/default/web-{n:05}").into(),
            value: vec![b'a' + (n % 26) as u8; len].into(),
            create_revision: n + 2,
            mod_revision: n + 2,
            version: 1,
            lease: 0,
        };
        (revision_key(n + 2), kv.encode_to_vec().into())
    };
    (0..count).map(row).collect()
}

fn etcd_buckets(count: i64) -> Vec<(&'static str, TestRows)> {
    let row = |key: &'static str, value: &[u8]| (Bytes::from_static(key.as_bytes()), Bytes::copy_from_slice(value));
    let mut meta = vec![
        row("consistent_index", &7u64.to_be_bytes()),
        row("term", &1u64.to_be_bytes()),
        row("confState", br#"{"voters":[1],"auto_leave":false}"#),
    ];
    meta.sort();
    vec![
        ("key", keyspace(count)),
        ("meta", meta),
        ("lease", vec![]),
        ("alarm", vec![]),
        ("auth", vec![]),
        ("authUsers", vec![]),
        ("authRoles", vec![]),
        ("cluster", vec![row("clusterVersion", b"3.4.0")]),
        ("members", vec![]),
        ("members_removed", vec![]),
    ]
}

#[test]
fn what_was_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.db");
    for count in [0, 1, 100, 5000] {
        write_file(&path, etcd_buckets(count));
        let reader = Reader::open(&path).unwrap();
        assert_eq!(read_bucket(&reader, "key"), keyspace(count));
        assert_eq!(read_bucket(&reader, "lease"), vec![]);
        assert_eq!(read_bucket(&reader, "cluster"), vec![("clusterVersion".into(), "3.4.0".into())]);
        assert!(reader.bucket("nothing").unwrap().is_none());
        assert_eq!(reader.buckets().unwrap().len(), 10);
    }
}

#[test]
fn trees_with_long_keys_grow_branches_of_branches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.db");
    let rows: TestRows =
        (0..300).map(|n| (format!("{n:05}{}", "k".repeat(3000)).into(), Bytes::from_static(b"v"))).collect();
    write_file(&path, vec![("key", rows.clone())]);
    assert_eq!(read_bucket(&Reader::open(&path).unwrap(), "key"), rows);
}

#[test]
fn a_changed_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.db");
    write_file(&path, etcd_buckets(10));
    let mut file = std::fs::read(&path).unwrap();
    file[9000] ^= 1;
    std::fs::write(&path, &file).unwrap();
    assert!(matches!(Reader::open(&path), Err(BoltError::HashMismatch)));
    file.truncate(file.len() - 32);
    std::fs::write(&path, &file).unwrap();
    let error = Reader::open(&path).unwrap_err();
    assert_eq!(error.to_string(), "not an etcd snapshot: the SHA-256 trailer is missing");
    assert!(Reader::open_unchecked(&path).is_ok());
}

#[test]
fn a_hostile_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.db");
    write_file(&path, etcd_buckets(200));
    let file = std::fs::read(&path).unwrap();
    // Every 32-bit word of the first data pages set to all ones, in turn: reading ends, and without a panic.
    for at in (8192..8192 + 4096 * 3).step_by(4) {
        let mut hostile = file.clone();
        hostile[at..at + 4].fill(0xff);
        std::fs::write(&path, &hostile).unwrap();
        let Ok(reader) = Reader::open_unchecked(&path) else { continue };
        for name in reader.buckets().unwrap_or_default() {
            let Ok(Some(rows)) = reader.bucket(&String::from_utf8_lossy(&name)) else { continue };
            let _ended = rows.take_while(Result::is_ok).count();
        }
    }
}

#[test]
fn rows_out_of_order_are_refused() {
    let rows = vec![(Bytes::from_static(b"b"), Bytes::new()), (Bytes::from_static(b"a"), Bytes::new())];
    let writer = Writer::plan(vec![Bucket::of("key", rows)]).unwrap();
    let error = writer.run(&mut |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "store failed: snapshot: rows are not in key order");
}

#[tokio::test]
async fn etcd_restores_and_serves_a_written_snapshot() {
    let Ok(status) = Command::new("etcdctl").arg("version").output() else {
        eprintln!("skipped: etcdctl is not installed");
        return;
    };
    assert!(status.status.success());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.db");
    write_file(&path, etcd_buckets(3000));

    let etcdctl = |args: &[&str]| {
        let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let path_text = path.to_str().unwrap();
    let status = etcdctl(&["snapshot", "status", path_text]);
    let fields: Vec<_> = status.trim().split(", ").collect();
    assert_eq!(fields[1], "3001", "revision in {status}");

    let data = dir.path().join("data");
    etcdctl(&["snapshot", "restore", path_text, "--data-dir", data.to_str().unwrap()]);
    let Some(etcd) = crate::testing::Etcd::start_in(&data).await else { return };
    let endpoint = format!("--endpoints={}", etcd.endpoint());
    let store = crate::RemoteStore::connect(&[etcd.endpoint()], None).unwrap();
    let everything = RangeRequest { range: KeyRange::prefix("/registry/"), ..Default::default() };
    let everything = store.range(everything).await.unwrap();
    assert_eq!((everything.revision, everything.count), (Revision(3001), 3000));
    let served = everything.kvs.into_iter().map(|kv| (revision_key(kv.mod_revision.0), KeyValue::from(kv)));
    let served: TestRows = served.map(|(key, kv)| (key, kv.encode_to_vec().into())).collect();
    assert_eq!(served, keyspace(3000));

    // And the other way: what that etcd saves is read here.
    let saved = dir.path().join("saved.db");
    etcdctl(&[&endpoint, "put", "after", "restore"]);
    etcdctl(&[&endpoint, "snapshot", "save", saved.to_str().unwrap()]);
    let rows = read_bucket(&Reader::open(&saved).unwrap(), "key");
    assert_eq!(rows[..3000], keyspace(3000)[..]);
    let last = KeyValue::decode(rows[3000].1.clone()).unwrap();
    assert_eq!((last.key, last.value, last.mod_revision), ("after".into(), "restore".into(), 3002));
}
