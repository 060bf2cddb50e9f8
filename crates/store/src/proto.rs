//! The wire types: generated from `proto/`, used by the etcd server, the etcd client, the log and the state file. Conversions
//! to and from the crate's own types are in `proto::convert`.
#![allow(unreachable_pub, clippy::all, missing_docs)]

mod codec;
mod watch_response;

pub use codec::Codec;
pub use watch_response::WatchResponse;
pub(crate) use watch_response::encode_event;

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users and roles as stored.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// Locks.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Elections.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// Leases as stored.
pub mod leasepb {
    tonic::include_proto!("leasepb");
}

/// The v3 API and the log's payload.
pub mod etcdserverpb {
    pub use super::WatchResponse;
    tonic::include_proto!("etcdserverpb");
}

/// gRPC health checking.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// What members say to each other.
pub mod peer {
    tonic::include_proto!("peer");
}
