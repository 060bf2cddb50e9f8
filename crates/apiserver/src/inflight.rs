//! How many requests are worked on at once, where priority and fairness is off. Upstream's limits; watches do not count, and
//! administrators are never turned away.

use std::sync::Arc;

use ::bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::attributes::UserInfo;
use crate::gateway::not_sniffed;
use crate::http::ResponseBody;
use crate::http::body;

/// Reads at once, upstream's `--max-requests-inflight`.
pub(crate) const READS_MAX: usize = 400;
/// Writes at once, upstream's `--max-mutating-requests-inflight`.
pub(crate) const WRITES_MAX: usize = 200;
const EXEMPT_GROUP: &str = "system:masters";

#[derive(Debug)]
pub(crate) struct InFlight {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

/// Held while a request is worked on; nothing for those that do not count.
#[derive(Debug)]
pub(crate) struct Place {
    _given_back_when_dropped: Option<OwnedSemaphorePermit>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new(READS_MAX, WRITES_MAX)
    }
}

impl InFlight {
    pub(crate) fn new(reads: usize, writes: usize) -> Self {
        Self { reads: Arc::new(Semaphore::new(reads)), writes: Arc::new(Semaphore::new(writes)) }
    }

    /// A place for a request, at once or not at all.
    pub(crate) fn take(&self, user: &UserInfo, verb: &str) -> Option<Place> {
        let places = match verb {
            "watch" => return Some(Place { _given_back_when_dropped: None }),
            _ if user.in_group(EXEMPT_GROUP) => return Some(Place { _given_back_when_dropped: None }),
            "get" | "list" => &self.reads,
            _ => &self.writes,
        };
        Arc::clone(places).try_acquire_owned().ok().map(|permit| Place { _given_back_when_dropped: Some(permit) })
    }
}

/// The answer when there is no place.
pub(crate) fn too_many_requests() -> Response<ResponseBody> {
    let text = Bytes::from_static(b"Too many requests, please try again later.\n");
    let mut response = Response::new(body::full(text));
    *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    not_sniffed(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_bounded_and_administrators_and_watches_are_not() {
        let in_flight = InFlight::default();
        let user = UserInfo { name: "u".into(), ..UserInfo::default() };
        let held: Vec<_> = (0..WRITES_MAX).map(|_| in_flight.take(&user, "create").unwrap()).collect();
        assert!(in_flight.take(&user, "update").is_none());
        assert!(in_flight.take(&user, "get").is_some());
        assert!(in_flight.take(&user, "watch").is_some());
        let admin = UserInfo { groups: vec![EXEMPT_GROUP.into()], ..user.clone() };
        assert!(in_flight.take(&admin, "create").is_some());
        drop(held);
        assert!(in_flight.take(&user, "update").is_some());
    }
}
