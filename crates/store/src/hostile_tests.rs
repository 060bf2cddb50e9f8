//! Bytes from the network and from disk that nobody of ours wrote: whatever they are, reading them ends, with an error or a value.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use crate::command::Command;
use crate::membership::MemberChange;
use crate::mvcc::{RevisionKey, decode_record};
use crate::proto::{WatchResponse, authpb, etcdserverpb, mvccpb, peer};
use crate::raft::message::{decode_change, encode_change, from_wire};
use crate::raft::{EngineLog, LogStore};
use crate::{KeyRange, Op, Put, Revision, Txn};

/// Valid bytes with some of them changed, cut off at some length, or no valid bytes at all.
fn damaged(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let changed = (changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(move |(changes, cut, is_cut)| {
        let mut bytes = valid.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

fn transaction() -> Txn {
    let put = Op::Put(Put { key: "k".into(), value: "value".into(), ..Put::default() });
    let nested = Op::Txn(Txn { success: vec![put.clone()], ..Txn::default() });
    let delete = Op::Delete(crate::DeleteRange { range: KeyRange::prefix("x"), prev_kv: true });
    Txn { success: vec![put, nested], failure: vec![delete], ..Txn::default() }
}

fn message() -> peer::Message {
    let entry =
        peer::Entry { term: 3, index: 9, data: Command::Txn(transaction()).encode(7).into(), ..Default::default() };
    let snapshot = peer::SnapshotMetadata { conf_state: Some(peer::ConfState::default()), index: 8, term: 3 };
    peer::Message { msg_type: 3, entries: vec![entry], snapshot: Some(snapshot), ..Default::default() }
}

fn change() -> Vec<u8> {
    let member = crate::Member { id: 5, peer_urls: vec!["http://x:1".into()], ..Default::default() };
    encode_change(1, MemberChange::Add(member))
}

fn key_value() -> Vec<u8> {
    mvccpb::KeyValue { key: "k".into(), value: "v".into(), mod_revision: 4, ..Default::default() }.encode_to_vec()
}

fn watch_response() -> Vec<u8> {
    let event = mvccpb::Event { kv: mvccpb::KeyValue::decode(&key_value()[..]).ok(), ..Default::default() };
    WatchResponse { watch_id: 4, cancel_reason: "why".into(), events: vec![event], ..Default::default() }
        .encode_to_vec()
}

proptest! {
    #[test]
    fn entries_of_the_log_are_commands_or_refused(bytes in damaged(Command::Txn(transaction()).encode(42))) {
        let _refused = Command::decode(Bytes::from(bytes));
    }

    #[test]
    fn changes_of_members_are_understood_or_refused(bytes in damaged(change())) {
        let _refused = decode_change(Bytes::from(bytes));
    }

    #[test]
    fn messages_of_members_are_understood_or_refused(bytes in damaged(message().encode_to_vec())) {
        if let Ok(decoded) = peer::Message::decode(&bytes[..]) {
            let _refused = from_wire(decoded);
        }
    }

    #[test]
    fn rows_are_versions_or_refused(key in damaged(RevisionKey::of_revision(Revision(4)).encode()), row in damaged(key_value())) {
        if let Some(at) = RevisionKey::decode(&key) {
            prop_assert_eq!(at.encode(), key);
            let _refused = decode_record(at, Bytes::from(row));
        }
    }

    #[test]
    fn messages_of_clients_are_understood_or_refused(bytes in damaged(watch_response())) {
        let _refused = WatchResponse::decode(&bytes[..]);
        let _refused = etcdserverpb::WatchRequest::decode(&bytes[..]);
        let _refused = authpb::User::decode(&bytes[..]);
        if let Ok(request) = etcdserverpb::RangeRequest::decode(&bytes[..]) {
            let _refused = crate::RangeRequest::try_from(request);
        }
        if let Ok(request) = etcdserverpb::TxnRequest::decode(&bytes[..]) {
            let _refused = Txn::try_from(request);
        }
    }

    #[test]
    fn a_request_nested_however_deep_is_refused(depth in 90_usize..400) {
        let mut request = etcdserverpb::TxnRequest::default().encode_to_vec();
        for _ in 0..depth {
            // RequestOp.request_txn = 4, TxnRequest.success = 2.
            request = [field(2, &field(4, &request))].concat();
        }
        prop_assert!(etcdserverpb::TxnRequest::decode(&request[..]).is_err());
    }
}

fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut encoded);
    encoded
}

/// What a log of three entries is as a file.
fn log_file() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut log = EngineLog::open(dir.path()).unwrap();
        let entry = |index| raft::eraftpb::Entry { index, term: 1, data: vec![7; 60].into(), ..Default::default() };
        log.append(&[entry(1), entry(2), entry(3)], None, true).unwrap();
    }
    std::fs::read(dir.path().join(LOG_FILE)).unwrap()
}

const LOG_FILE: &str = "0000000000000001.raftlog";

proptest! {
    // Each case is a directory.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_damaged_log_is_opened_or_refused(bytes in damaged(log_file())) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOG_FILE), bytes).unwrap();
        if let Ok(mut log) = EngineLog::open(dir.path())
            && let Ok(logged) = log.load()
        {
            prop_assert!(logged.entries.len() <= 3, "nothing is made up");
        }
    }
}
