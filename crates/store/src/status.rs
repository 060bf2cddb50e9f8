//! The one place where store errors become gRPC statuses and statuses store errors. Clients match on etcd's texts, so the
//! text of a [`StoreError`] is the message, and a table gives the code of the texts that have no variant of their own.

use tonic::{Code, Status};

use crate::{Revision, StoreError};

const PREFIX: &str = "etcdserver: ";

/// Texts for wrong requests, all `InvalidArgument`.
const INVALID: &[&str] = &[
    "key is not provided",
    "key not found",
    "value is provided",
    "lease is provided",
    "too many operations in txn request",
    "duplicate key given in txn request",
    "invalid sort option",
    "unknown compare result or target",
    "invalid client api version",
    "given member URLs are invalid",
    "user name is empty",
    "role name is empty",
    "authentication failed, invalid user ID or password",
    "permission not given",
    "invalid auth management",
    "revision of auth store is old",
    "wrong downgrade target version format",
    "invalid downgrade target version",
];

/// Codes of the other texts an etcd server answers with.
const OTHERS: &[(Code, &[&str])] = &[
    (Code::NotFound, &["member not found"]),
    (
        Code::FailedPrecondition,
        &[
            "member ID already exist",
            "Peer URLs already exists",
            "re-configuration failed due to not enough started members",
            "can only promote a learner member",
            "can only promote a learner member which is in sync with leader",
            "too many learner members in cluster",
            "cluster ID mismatch",
            "root user does not exist",
            "root user does not have root role",
            "user name already exists",
            "user name not found",
            "role name already exists",
            "role name not found",
            "role is not granted to the user",
            "permission is not granted to the role",
            "authentication is not enabled",
            "not leader",
            "not capable",
            "rpc not supported for learner",
            "bad leader transferee",
            "cluster version not found during downgrade",
            "cluster has a downgrade job in progress",
            "no inflight downgrade job",
        ],
    ),
    (Code::PermissionDenied, &["permission denied"]),
    (Code::Unauthenticated, &["invalid auth token"]),
    (
        Code::Unavailable,
        &[
            "request timed out, possibly due to previous leader failure",
            "request timed out, possibly due to connection lost",
            "request timed out, waiting for the applied index took too long",
            "unhealthy cluster",
        ],
    ),
    (Code::DataLoss, &["corrupt cluster"]),
    (Code::Cancelled, &["watch canceled", "request canceled"]),
];

/// Errors that are nothing but their text.
const PLAIN: &[StoreError] = &[
    StoreError::FutureRevision,
    StoreError::LeaseNotFound,
    StoreError::LeaseExists,
    StoreError::LeaseTtlTooLarge,
    StoreError::RequestTooLarge,
    StoreError::NoSpace,
    StoreError::TooManyRequests,
    StoreError::NoLeader,
    StoreError::LeaderChanged,
    StoreError::Timeout,
    StoreError::Stopped,
];

fn code(error: &StoreError) -> Code {
    match error {
        StoreError::Compacted { .. } | StoreError::FutureRevision | StoreError::LeaseTtlTooLarge => Code::OutOfRange,
        StoreError::LeaseNotFound => Code::NotFound,
        StoreError::LeaseExists => Code::FailedPrecondition,
        StoreError::InvalidArgument(_) | StoreError::RequestTooLarge => Code::InvalidArgument,
        StoreError::NoSpace | StoreError::TooManyRequests => Code::ResourceExhausted,
        StoreError::NoLeader | StoreError::LeaderChanged | StoreError::Timeout | StoreError::Stopped => {
            Code::Unavailable
        }
        StoreError::Fatal(_) => Code::Internal,
        StoreError::Refused(text) => code_of(text),
        StoreError::Remote(text) => code_of_text(text),
    }
}

fn code_of_text(text: &str) -> Code {
    text.strip_prefix(PREFIX).map_or(Code::Unknown, code_of)
}

fn code_of(text: &str) -> Code {
    let known = OTHERS.iter().find(|(_, texts)| texts.contains(&text));
    known.map_or(Code::Unknown, |(code, _)| *code)
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Self::new(code(&error), error.to_string())
    }
}

/// What another etcd server's answer means. Broken connections are the caller's to judge, before this.
pub(crate) fn from_status(status: &Status) -> StoreError {
    from_text(status.message())
}

/// The same for a text that comes without a code, such as the reason of a cancelled watch.
pub(crate) fn from_text(text: &str) -> StoreError {
    if text == (StoreError::Compacted { compact_revision: Revision(0) }).to_string() {
        return StoreError::Compacted { compact_revision: Revision(0) };
    }
    if let Some(plain) = PLAIN.iter().find(|plain| plain.to_string() == text) {
        return plain.clone();
    }
    let fixed = text.strip_prefix(PREFIX).unwrap_or_default();
    if let Some(invalid) = INVALID.iter().find(|invalid| **invalid == fixed) {
        return StoreError::InvalidArgument(invalid);
    }
    let mut refusals = OTHERS.iter().flat_map(|(_, texts)| texts.iter());
    match refusals.find(|refusal| **refusal == fixed) {
        Some(refusal) => StoreError::Refused(refusal),
        None => StoreError::Remote(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_wire() {
        let compacted = StoreError::Compacted { compact_revision: Revision(0) };
        let invalid = INVALID.iter().map(|text| StoreError::InvalidArgument(text));
        let others = OTHERS.iter().flat_map(|(_, texts)| *texts);
        let refused = others.map(|text| StoreError::Refused(text));
        for error in PLAIN.iter().cloned().chain([compacted]).chain(invalid).chain(refused) {
            assert_eq!(from_status(&Status::from(error.clone())), error);
        }
    }

    #[test]
    fn codes_are_etcds() {
        let code = |error: StoreError| Status::from(error).code();
        assert_eq!(code(StoreError::Compacted { compact_revision: Revision(7) }), Code::OutOfRange);
        assert_eq!(code(StoreError::InvalidArgument("key is not provided")), Code::InvalidArgument);
        assert_eq!(code(StoreError::NoSpace), Code::ResourceExhausted);
        assert_eq!(code(StoreError::LeaseExists), Code::FailedPrecondition);
        assert_eq!(code(StoreError::Timeout), Code::Unavailable);
        assert_eq!(code(StoreError::Refused("permission denied")), Code::PermissionDenied);
        assert_eq!(code(StoreError::Refused("corrupt cluster")), Code::DataLoss);
        assert_eq!(code(StoreError::Remote("something else".to_owned())), Code::Unknown);
    }
}
