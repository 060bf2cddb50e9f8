//! Between the wire's types and the crate's own. Pure; nothing is refused here but what the crate's types cannot say, and
//! nothing is copied: keys and values stay slices of the frame they came in.

use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult as PbResult, CompareTarget as PbTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget as PbSortTarget};
use crate::proto::mvccpb;
use crate::{
    AlarmKind, Compare, CompareResult, CompareTarget, DeleteRange, EventKind, KeyRange, KeyValue, LeaseId, Member, Op,
    OpResponse, Put, RangeRequest, RangeResponse, Revision, Sort, SortTarget, StoreError, Txn, TxnResponse, WatchEvent,
};

impl From<KeyValue> for mvccpb::KeyValue {
    fn from(kv: KeyValue) -> Self {
        Self {
            key: kv.key,
            create_revision: kv.create_revision.0,
            mod_revision: kv.mod_revision.0,
            version: kv.version,
            value: kv.value,
            lease: kv.lease.0,
        }
    }
}

impl From<mvccpb::KeyValue> for KeyValue {
    fn from(kv: mvccpb::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: Revision(kv.create_revision),
            mod_revision: Revision(kv.mod_revision),
            version: kv.version,
            lease: LeaseId(kv.lease),
        }
    }
}

impl From<WatchEvent> for mvccpb::Event {
    fn from(event: WatchEvent) -> Self {
        let kind = match event.kind {
            EventKind::Put => mvccpb::event::EventType::Put,
            EventKind::Delete => mvccpb::event::EventType::Delete,
        };
        Self { r#type: kind.into(), kv: Some(event.kv.into()), prev_kv: event.prev_kv.map(Into::into) }
    }
}

impl From<mvccpb::Event> for WatchEvent {
    fn from(event: mvccpb::Event) -> Self {
        let kind = match event.r#type() {
            mvccpb::event::EventType::Put => EventKind::Put,
            mvccpb::event::EventType::Delete => EventKind::Delete,
        };
        Self { kind, kv: event.kv.unwrap_or_default().into(), prev_kv: event.prev_kv.map(Into::into) }
    }
}

impl From<AlarmKind> for pb::AlarmType {
    fn from(kind: AlarmKind) -> Self {
        match kind {
            AlarmKind::NoSpace => Self::Nospace,
            AlarmKind::Corrupt => Self::Corrupt,
        }
    }
}

impl From<Member> for pb::Member {
    fn from(member: Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.is_learner,
            is_witness: member.is_witness,
        }
    }
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
            is_learner: member.is_learner,
            is_witness: member.is_witness,
        }
    }
}

// Requests, outward.

impl From<RangeRequest> for pb::RangeRequest {
    fn from(request: RangeRequest) -> Self {
        let (sort_order, sort_target) = match request.sort {
            None => (SortOrder::None, PbSortTarget::Key),
            Some(sort) => {
                let order = if sort.descending { SortOrder::Descend } else { SortOrder::Ascend };
                (order, sort.target.into())
            }
        };
        Self {
            key: request.range.start,
            range_end: request.range.end,
            limit: i64::try_from(request.limit).unwrap_or(i64::MAX),
            revision: request.revision.0,
            sort_order: sort_order.into(),
            sort_target: sort_target.into(),
            serializable: request.serializable,
            keys_only: request.keys_only,
            count_only: request.count_only,
            min_mod_revision: request.min_mod_revision.0,
            max_mod_revision: request.max_mod_revision.0,
            min_create_revision: request.min_create_revision.0,
            max_create_revision: request.max_create_revision.0,
        }
    }
}

impl From<SortTarget> for PbSortTarget {
    fn from(target: SortTarget) -> Self {
        match target {
            SortTarget::Key => Self::Key,
            SortTarget::Version => Self::Version,
            SortTarget::CreateRevision => Self::Create,
            SortTarget::ModRevision => Self::Mod,
            SortTarget::Value => Self::Value,
        }
    }
}

impl From<Put> for pb::PutRequest {
    fn from(put: Put) -> Self {
        Self {
            key: put.key,
            value: put.value,
            lease: put.lease.0,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl From<DeleteRange> for pb::DeleteRangeRequest {
    fn from(delete: DeleteRange) -> Self {
        Self { key: delete.range.start, range_end: delete.range.end, prev_kv: delete.prev_kv }
    }
}

impl From<Compare> for pb::Compare {
    fn from(compare: Compare) -> Self {
        let result = match compare.result {
            CompareResult::Equal => PbResult::Equal,
            CompareResult::Greater => PbResult::Greater,
            CompareResult::Less => PbResult::Less,
            CompareResult::NotEqual => PbResult::NotEqual,
        };
        let (target, union) = match compare.target {
            CompareTarget::Version(version) => (PbTarget::Version, TargetUnion::Version(version)),
            CompareTarget::CreateRevision(revision) => (PbTarget::Create, TargetUnion::CreateRevision(revision.0)),
            CompareTarget::ModRevision(revision) => (PbTarget::Mod, TargetUnion::ModRevision(revision.0)),
            CompareTarget::Value(value) => (PbTarget::Value, TargetUnion::Value(value)),
            CompareTarget::Lease(lease) => (PbTarget::Lease, TargetUnion::Lease(lease.0)),
        };
        Self {
            result: result.into(),
            target: target.into(),
            key: compare.range.start,
            range_end: compare.range.end,
            target_union: Some(union),
        }
    }
}

impl From<Txn> for pb::TxnRequest {
    fn from(txn: Txn) -> Self {
        let ops = |ops: Vec<Op>| ops.into_iter().map(Into::into).collect();
        Self {
            compare: txn.compare.into_iter().map(Into::into).collect(),
            success: ops(txn.success),
            failure: ops(txn.failure),
        }
    }
}

impl From<Op> for pb::RequestOp {
    fn from(op: Op) -> Self {
        use pb::request_op::Request;
        let request = match op {
            Op::Range(range) => Request::RequestRange(range.into()),
            Op::Put(put) => Request::RequestPut(put.into()),
            Op::Delete(delete) => Request::RequestDeleteRange(delete.into()),
            Op::Txn(txn) => Request::RequestTxn(txn.into()),
        };
        Self { request: Some(request) }
    }
}

// Requests, inward.

pub(crate) const INVALID_SORT: StoreError = StoreError::InvalidArgument("invalid sort option");
const EMPTY_OP: StoreError = StoreError::InvalidArgument("key not found");
const UNKNOWN_COMPARE: StoreError = StoreError::InvalidArgument("unknown compare result or target");

fn range(start: bytes::Bytes, end: bytes::Bytes) -> KeyRange {
    KeyRange { start, end }
}

impl TryFrom<pb::RangeRequest> for RangeRequest {
    type Error = StoreError;

    fn try_from(request: pb::RangeRequest) -> Result<Self, StoreError> {
        let order = SortOrder::try_from(request.sort_order).map_err(|_unknown| INVALID_SORT)?;
        let target = match PbSortTarget::try_from(request.sort_target).map_err(|_unknown| INVALID_SORT)? {
            PbSortTarget::Key => SortTarget::Key,
            PbSortTarget::Version => SortTarget::Version,
            PbSortTarget::Create => SortTarget::CreateRevision,
            PbSortTarget::Mod => SortTarget::ModRevision,
            PbSortTarget::Value => SortTarget::Value,
        };
        // Without an order the natural one holds, which is ascending by key; any other target then ascends too.
        let sort = match (order, target) {
            (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => None,
            (SortOrder::None | SortOrder::Ascend, target) => Some(Sort { target, descending: false }),
            (SortOrder::Descend, target) => Some(Sort { target, descending: true }),
        };
        Ok(Self {
            range: range(request.key, request.range_end),
            limit: usize::try_from(request.limit).unwrap_or(0),
            revision: Revision(request.revision.max(0)),
            serializable: request.serializable,
            keys_only: request.keys_only,
            count_only: request.count_only,
            sort,
            min_mod_revision: Revision(request.min_mod_revision),
            max_mod_revision: Revision(request.max_mod_revision),
            min_create_revision: Revision(request.min_create_revision),
            max_create_revision: Revision(request.max_create_revision),
        })
    }
}

impl From<pb::PutRequest> for Put {
    fn from(put: pb::PutRequest) -> Self {
        Self {
            key: put.key,
            value: put.value,
            lease: LeaseId(put.lease),
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl From<pb::DeleteRangeRequest> for DeleteRange {
    fn from(delete: pb::DeleteRangeRequest) -> Self {
        Self { range: range(delete.key, delete.range_end), prev_kv: delete.prev_kv }
    }
}

impl TryFrom<pb::Compare> for Compare {
    type Error = StoreError;

    fn try_from(compare: pb::Compare) -> Result<Self, StoreError> {
        let result = match PbResult::try_from(compare.result).map_err(|_unknown| UNKNOWN_COMPARE)? {
            PbResult::Equal => CompareResult::Equal,
            PbResult::Greater => CompareResult::Greater,
            PbResult::Less => CompareResult::Less,
            PbResult::NotEqual => CompareResult::NotEqual,
        };
        // The target says what is compared; a value given for another target does not count, a missing one is zero.
        let union = compare.target_union;
        let target = match PbTarget::try_from(compare.target).map_err(|_unknown| UNKNOWN_COMPARE)? {
            PbTarget::Version => CompareTarget::Version(match union {
                Some(TargetUnion::Version(version)) => version,
                _ => 0,
            }),
            PbTarget::Create => CompareTarget::CreateRevision(Revision(match union {
                Some(TargetUnion::CreateRevision(revision)) => revision,
                _ => 0,
            })),
            PbTarget::Mod => CompareTarget::ModRevision(Revision(match union {
                Some(TargetUnion::ModRevision(revision)) => revision,
                _ => 0,
            })),
            PbTarget::Value => CompareTarget::Value(match union {
                Some(TargetUnion::Value(value)) => value,
                _ => bytes::Bytes::new(),
            }),
            PbTarget::Lease => CompareTarget::Lease(LeaseId(match union {
                Some(TargetUnion::Lease(lease)) => lease,
                _ => 0,
            })),
        };
        Ok(Self { range: range(compare.key, compare.range_end), result, target })
    }
}

impl TryFrom<pb::TxnRequest> for Txn {
    type Error = StoreError;

    fn try_from(txn: pb::TxnRequest) -> Result<Self, StoreError> {
        let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(TryInto::try_into).collect::<Result<Vec<Op>, _>>();
        Ok(Self {
            compare: txn.compare.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            success: ops(txn.success)?,
            failure: ops(txn.failure)?,
        })
    }
}

impl TryFrom<pb::RequestOp> for Op {
    type Error = StoreError;

    fn try_from(op: pb::RequestOp) -> Result<Self, StoreError> {
        use pb::request_op::Request;
        Ok(match op.request.ok_or(EMPTY_OP)? {
            Request::RequestRange(range) => Self::Range(range.try_into()?),
            Request::RequestPut(put) => Self::Put(put.into()),
            Request::RequestDeleteRange(delete) => Self::Delete(delete.into()),
            Request::RequestTxn(txn) => Self::Txn(txn.try_into()?),
        })
    }
}

// Responses. Inside a transaction only the revision of a header is set.

/// A header that carries no more than a revision.
pub(crate) fn revision_header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.0, ..Default::default() })
}

/// The revision of a header, zero when there is none.
pub(crate) fn header_revision(header: Option<&pb::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision))
}

impl From<RangeResponse> for pb::RangeResponse {
    fn from(response: RangeResponse) -> Self {
        Self {
            header: revision_header(response.revision),
            kvs: response.kvs.into_iter().map(Into::into).collect(),
            more: response.more,
            count: i64::try_from(response.count).unwrap_or(i64::MAX),
        }
    }
}

impl From<pb::RangeResponse> for RangeResponse {
    fn from(response: pb::RangeResponse) -> Self {
        Self {
            revision: header_revision(response.header.as_ref()),
            kvs: response.kvs.into_iter().map(Into::into).collect(),
            more: response.more,
            count: usize::try_from(response.count).unwrap_or(0),
        }
    }
}

impl From<TxnResponse> for pb::TxnResponse {
    fn from(response: TxnResponse) -> Self {
        let revision = response.revision;
        Self {
            header: revision_header(revision),
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(|op| op_response(op, revision)).collect(),
        }
    }
}

fn op_response(response: OpResponse, revision: Revision) -> pb::ResponseOp {
    use pb::response_op::Response;
    let response = match response {
        OpResponse::Range(range) => Response::ResponseRange(range.into()),
        OpResponse::Put { prev_kv } => Response::ResponsePut(put_response(prev_kv, revision)),
        OpResponse::Delete { deleted, prev_kvs } => {
            Response::ResponseDeleteRange(delete_response(deleted, prev_kvs, revision))
        }
        OpResponse::Txn(txn) => Response::ResponseTxn(txn.into()),
    };
    pb::ResponseOp { response: Some(response) }
}

pub(crate) fn put_response(prev_kv: Option<KeyValue>, revision: Revision) -> pb::PutResponse {
    pb::PutResponse { header: revision_header(revision), prev_kv: prev_kv.map(Into::into) }
}

pub(crate) fn delete_response(deleted: usize, prev_kvs: Vec<KeyValue>, revision: Revision) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: revision_header(revision),
        deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
        prev_kvs: prev_kvs.into_iter().map(Into::into).collect(),
    }
}

impl TryFrom<pb::TxnResponse> for TxnResponse {
    type Error = StoreError;

    fn try_from(response: pb::TxnResponse) -> Result<Self, StoreError> {
        Ok(Self {
            revision: header_revision(response.header.as_ref()),
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<pb::ResponseOp> for OpResponse {
    type Error = StoreError;

    fn try_from(response: pb::ResponseOp) -> Result<Self, StoreError> {
        use pb::response_op::Response;
        let kvs = |kvs: Vec<mvccpb::KeyValue>| kvs.into_iter().map(Into::into).collect();
        Ok(match response.response {
            Some(Response::ResponseRange(range)) => Self::Range(range.into()),
            Some(Response::ResponsePut(put)) => Self::Put { prev_kv: put.prev_kv.map(Into::into) },
            Some(Response::ResponseDeleteRange(delete)) => {
                Self::Delete { deleted: usize::try_from(delete.deleted).unwrap_or(0), prev_kvs: kvs(delete.prev_kvs) }
            }
            Some(Response::ResponseTxn(txn)) => Self::Txn(txn.try_into()?),
            None => return Err(StoreError::Remote("the store answered an operation with nothing".to_owned())),
        })
    }
}
