//! The one place where failures below the verbs become a `Status`.

use api::field::go_quote;
use api::{Kind, Status};
use store::StoreError;

use crate::cache::NotFresh;
use crate::storage::{ObjectKey, ReadError};

/// What the store said, in the words of the API. `operation` is the verb as upstream names it.
pub(crate) fn from_store(kind: &Kind, operation: &str, error: StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::FutureRevision => Status::timeout("request did not complete within requested timeout"),
        StoreError::RequestTooLarge => Status::internal("etcdserver: request is too large"),
        StoreError::Timeout | StoreError::NoLeader | StoreError::LeaderChanged | StoreError::TooManyRequests => {
            Status::server_timeout(kind.into(), operation)
        }
        StoreError::Stopped => Status::service_unavailable("the server is shutting down"),
        StoreError::NoSpace
        | StoreError::LeaseNotFound
        | StoreError::LeaseExists
        | StoreError::LeaseTtlTooLarge
        | StoreError::InvalidArgument(_)
        | StoreError::Refused(_)
        | StoreError::Fatal(_)
        | StoreError::Remote(_) => Status::internal(error),
    }
}

/// A stored value that cannot be read.
pub(crate) fn from_read(error: ReadError) -> Status {
    Status::internal(error)
}

/// The cache is behind the revision that the client asked for.
pub(crate) fn from_not_fresh(not_fresh: NotFresh) -> Status {
    Status::too_large_resource_version(not_fresh.wanted.0, not_fresh.current.0)
}

/// Nothing is looked up under a name that has no key.
pub(crate) fn check_key_name(name: &str) -> Result<(), Status> {
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    match ObjectKey::name_fault(name) {
        Some(fault) => Err(Status::bad_request(format!("Name parameter invalid: {}: {fault}", go_quote(name)))),
        None => Ok(()),
    }
}
