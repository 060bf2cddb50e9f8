//! Raft's messages as they cross the network, and changes of the members as they stand in the log.
//!
//! Bytes from another member are decoded by prost only. The Raft core itself decodes the change of members in a proposal that
//! a follower passed on, so that one is encoded anew here before the core sees it.

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{self, ConfChange, ConfChangeType, EntryType, MessageType};

use crate::Member;
use crate::membership::MemberChange;
use crate::proto::peer as pb;

/// What a member sent makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("unknown kind {0} of message")]
    Kind(i32),
    #[error("unknown kind {0} of log entry")]
    Entry(i32),
    #[error("change of members: {0}")]
    Change(#[from] prost::DecodeError),
    #[error("change of members is incomplete")]
    Incomplete,
}

pub(crate) fn to_wire(message: eraftpb::Message) -> pb::Message {
    let entry = |entry: eraftpb::Entry| pb::Entry {
        entry_type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
    };
    let snapshot = message.snapshot.into_option().map(|snapshot| metadata_to_wire(snapshot.get_metadata()));
    pb::Message {
        msg_type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.into_iter().map(entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
    }
}

pub(crate) fn metadata_to_wire(metadata: &eraftpb::SnapshotMetadata) -> pb::SnapshotMetadata {
    let conf_state = metadata.get_conf_state();
    let conf_state = pb::ConfState { voters: conf_state.voters.clone(), learners: conf_state.learners.clone() };
    pb::SnapshotMetadata { conf_state: Some(conf_state), index: metadata.index, term: metadata.term }
}

pub(crate) fn from_wire(message: pb::Message) -> Result<eraftpb::Message, MessageError> {
    let kind = MessageType::from_i32_checked(message.msg_type).ok_or(MessageError::Kind(message.msg_type))?;
    let is_proposal = kind == MessageType::MsgPropose;
    let entries = message.entries.into_iter().map(|entry| entry_from_wire(entry, is_proposal));
    let mut decoded = eraftpb::Message {
        msg_type: kind,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.collect::<Result<Vec<_>, _>>()?.into(),
        commit: message.commit,
        commit_term: message.commit_term,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
        ..eraftpb::Message::default()
    };
    if let Some(metadata) = message.snapshot {
        let pb::ConfState { voters, learners } = metadata.conf_state.unwrap_or_default();
        let target = decoded.mut_snapshot().mut_metadata();
        (target.index, target.term) = (metadata.index, metadata.term);
        target.set_conf_state(eraftpb::ConfState { voters, learners, ..eraftpb::ConfState::default() });
    }
    Ok(decoded)
}

fn entry_from_wire(entry: pb::Entry, is_proposal: bool) -> Result<eraftpb::Entry, MessageError> {
    let kind = match entry.entry_type {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        other => return Err(MessageError::Entry(other)),
    };
    let data = if is_proposal && kind == EntryType::EntryConfChange {
        pb::ConfChange::decode(entry.data)?.encode_to_vec().into()
    } else {
        entry.data
    };
    let mut decoded = eraftpb::Entry { term: entry.term, index: entry.index, data, ..eraftpb::Entry::default() };
    decoded.set_entry_type(kind);
    decoded.context = entry.context;
    Ok(decoded)
}

trait FromI32: Sized {
    fn from_i32_checked(number: i32) -> Option<Self>;
}

impl FromI32 for MessageType {
    fn from_i32_checked(number: i32) -> Option<Self> {
        use MessageType::*;
        // Kinds that members send each other; the others are a member's own affair.
        const KINDS: [MessageType; 13] = [
            MsgPropose,
            MsgAppend,
            MsgAppendResponse,
            MsgRequestVote,
            MsgRequestVoteResponse,
            MsgSnapshot,
            MsgHeartbeat,
            MsgHeartbeatResponse,
            MsgTransferLeader,
            MsgTimeoutNow,
            MsgReadIndex,
            MsgReadIndexResp,
            MsgRequestPreVote,
        ];
        let more = [MsgRequestPreVoteResponse];
        KINDS.into_iter().chain(more).find(|kind| *kind as i32 == number)
    }
}

/// The log entry's data for a change; `request_id` finds whoever waits for it.
pub(crate) fn encode_change(request_id: u64, change: MemberChange) -> Vec<u8> {
    use pb::member_change::Kind;
    let node_id = change.id();
    let only_id = |id| Member { id, ..Member::default() };
    let (kind, change_type, member) = match change {
        MemberChange::Add(member) if member.is_learner => (Kind::Add, ConfChangeType::AddLearnerNode, member),
        MemberChange::Add(member) => (Kind::Add, ConfChangeType::AddNode, member),
        MemberChange::Promote(id) => (Kind::Promote, ConfChangeType::AddNode, only_id(id)),
        MemberChange::Remove(id) => (Kind::Remove, ConfChangeType::RemoveNode, only_id(id)),
    };
    let context = pb::MemberChange { request_id, kind: kind.into(), member: Some(member.into()) };
    let change = pb::ConfChange {
        id: request_id,
        change_type: change_type as i32,
        node_id,
        context: context.encode_to_vec().into(),
    };
    change.encode_to_vec()
}

/// Who waits for a change, what it is, and what Raft has to be told.
pub(crate) fn decode_change(data: Bytes) -> Result<(u64, MemberChange, ConfChange), MessageError> {
    use pb::member_change::Kind;
    let decoded = pb::ConfChange::decode(data)?;
    let context = pb::MemberChange::decode(decoded.context)?;
    let kind = context.kind();
    let member: Member = context.member.ok_or(MessageError::Incomplete)?.into();
    let change = match kind {
        Kind::Add => MemberChange::Add(member),
        Kind::Promote => MemberChange::Promote(member.id),
        Kind::Remove => MemberChange::Remove(member.id),
    };
    let mut for_raft = ConfChange { node_id: change.id(), ..ConfChange::default() };
    for_raft.set_change_type(match &change {
        MemberChange::Add(member) if member.is_learner => ConfChangeType::AddLearnerNode,
        MemberChange::Add(_) | MemberChange::Promote(_) => ConfChangeType::AddNode,
        MemberChange::Remove(_) => ConfChangeType::RemoveNode,
    });
    Ok((context.request_id, change, for_raft))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let mut entry = eraftpb::Entry { term: 3, index: 9, data: Bytes::from("x"), ..Default::default() };
        entry.set_entry_type(EntryType::EntryNormal);
        let mut message = eraftpb::Message {
            to: 1,
            from: 2,
            term: 3,
            log_term: 2,
            index: 8,
            entries: vec![entry].into(),
            commit: 7,
            commit_term: 2,
            request_snapshot: 4,
            reject: true,
            reject_hint: 5,
            context: Bytes::from("c"),
            ..Default::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        assert_eq!(from_wire(to_wire(message.clone())).unwrap(), message);
        let conf_state = eraftpb::ConfState { voters: vec![1, 2], learners: vec![3], ..Default::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.mut_snapshot().mut_metadata().set_conf_state(conf_state);
        message.mut_snapshot().mut_metadata().index = 6;
        assert_eq!(from_wire(to_wire(message.clone())).unwrap(), message);
    }

    #[test]
    fn a_members_own_messages_are_not_taken_from_others() {
        for kind in [MessageType::MsgHup, MessageType::MsgBeat, MessageType::MsgUnreachable, MessageType::MsgSnapStatus]
        {
            assert!(from_wire(pb::Message { msg_type: kind as i32, ..Default::default() }).is_err());
        }
        assert!(from_wire(pb::Message { msg_type: 99, ..Default::default() }).is_err());
    }

    #[test]
    fn changes_of_members_survive_the_log() {
        let member = Member { id: 5, peer_urls: vec!["http://a:1".into()], is_learner: true, ..Member::default() };
        for change in [MemberChange::Add(member), MemberChange::Promote(5), MemberChange::Remove(5)] {
            let data = encode_change(77, change.clone());
            let (request_id, decoded, for_raft) = decode_change(data.into()).unwrap();
            assert_eq!((request_id, &decoded), (77, &change));
            assert_eq!(for_raft.node_id, 5);
        }
        assert!(decode_change(Bytes::from_static(&[0xff, 1])).is_err());
    }

    #[test]
    fn a_proposed_change_is_encoded_anew() {
        let mut data = encode_change(1, MemberChange::Remove(2));
        let clean = data.clone();
        // An unknown field, which the core's own decoder must never see.
        data.extend([0xa2, 0x06, 1, 0]);
        let entry = pb::Entry { entry_type: 1, data: data.into(), ..Default::default() };
        let proposal =
            pb::Message { msg_type: MessageType::MsgPropose as i32, entries: vec![entry], ..Default::default() };
        assert_eq!(from_wire(proposal).unwrap().entries[0].data, clean);
    }
}
