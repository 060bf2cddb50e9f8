//! Progress on servers before 3.4.31 and 3.5.13, whose answer to a progress request can overtake events
//! (etcd-io/etcd#15220). Instead a second watcher, over all keys from the newest revision on, is put on the same stream:
//! the server queues a stream's events in order, so when the second watcher's event arrives, the first has been told
//! everything up to it. A watcher that is still catching up gets its events in rounds of at most [`ROUND_REVISIONS`], and
//! within one round the order among watchers is open; so one fence more is raised until a round was not full.

use bytes::Bytes;

use crate::Revision;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;

const ROUND_REVISIONS: usize = 1000;
/// First releases whose progress answers are in order, by minor version.
const FIXED: &[(u32, u32)] = &[(4, 31), (5, 13)];

/// An unreadable version is an old one.
pub(super) fn needs_fence(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) = (numbers.next(), numbers.next(), numbers.next()) else {
        return true;
    };
    if major != 3 {
        return major < 3;
    }
    match FIXED.iter().find(|(fixed, _)| *fixed == minor) {
        Some((_, first)) => patch < *first,
        None => minor < 4,
    }
}

#[derive(Debug)]
pub(super) struct Fence {
    /// Whether the watch is known to have caught up, so that one fence is enough.
    synced: bool,
    /// A fence was reached since the last full round.
    reached_once: bool,
    /// Id of the second watcher and the revision it starts from.
    raised: Option<(i64, Revision)>,
    cancel: Option<i64>,
    last_id: i64,
}

/// What a response means to the fence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FenceStep {
    /// It belongs to the watch itself.
    NotMine,
    /// It belongs to a fence and says nothing new.
    Mine,
    /// Another fence is needed.
    Again,
    /// Everything up to this revision has been delivered.
    Reached(Revision),
}

impl Fence {
    /// `synced`: the watch started at the newest revision.
    pub(super) fn new(synced: bool) -> Self {
        Self { synced, reached_once: false, raised: None, cancel: None, last_id: 0 }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.raised.is_some()
    }

    pub(super) fn raise(&mut self, revision: Revision) -> pb::WatchRequest {
        self.last_id += 1;
        self.raised = Some((self.last_id, revision));
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: revision.0,
            watch_id: self.last_id,
            ..Default::default()
        };
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    }

    pub(super) fn see(&mut self, response: &pb::WatchResponse) -> FenceStep {
        if response.watch_id <= 0 {
            // One revision can bring many events; counting events errs on the side of another fence.
            if response.events.len() >= ROUND_REVISIONS {
                (self.synced, self.reached_once) = (false, false);
            }
            return FenceStep::NotMine;
        }
        let Some((id, revision)) = self.raised.filter(|(id, _)| *id == response.watch_id) else {
            return FenceStep::Mine;
        };
        if response.canceled {
            // Compacted in the meantime.
            self.raised = None;
            return FenceStep::Again;
        }
        if response.events.is_empty() {
            return FenceStep::Mine;
        }
        self.raised = None;
        self.cancel = Some(id);
        self.synced |= self.reached_once;
        self.reached_once = true;
        if self.synced { FenceStep::Reached(revision) } else { FenceStep::Again }
    }

    /// Takes down a fence that has served.
    pub(super) fn take_cancel(&mut self) -> Option<pb::WatchRequest> {
        let watch_id = self.cancel.take()?;
        let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
        Some(pb::WatchRequest { request_union: Some(cancel) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(watch_id: i64, count: usize) -> pb::WatchResponse {
        pb::WatchResponse { watch_id, events: vec![Default::default(); count], ..Default::default() }
    }

    #[test]
    fn old_and_unreadable_versions_need_a_fence() {
        for old in ["3.4.23", "3.4.30", "3.5.0", "3.5.12", "3.3.27", "2.3.8", "", "3.5", "three"] {
            assert!(needs_fence(old), "{old}");
        }
        for new in ["3.4.31", "3.5.13", "3.5.14-rc.0", "3.6.0", "3.6.13", "3.7.1", "4.0.0"] {
            assert!(!needs_fence(new), "{new}");
        }
    }

    #[test]
    fn one_fence_is_enough_once_the_watch_has_caught_up() {
        let mut fence = Fence::new(true);
        let _create = fence.raise(Revision(7));
        assert_eq!(fence.see(&events(1, 0)), FenceStep::Mine);
        assert_eq!(fence.see(&events(0, 3)), FenceStep::NotMine);
        assert_eq!(fence.see(&events(1, 1)), FenceStep::Reached(Revision(7)));
        assert!(fence.take_cancel().is_some());
        assert_eq!(fence.see(&events(1, 1)), FenceStep::Mine);
    }

    #[test]
    fn a_full_round_asks_for_two_fences_more() {
        let mut fence = Fence::new(true);
        let _create = fence.raise(Revision(7));
        assert_eq!(fence.see(&events(0, ROUND_REVISIONS)), FenceStep::NotMine);
        assert_eq!(fence.see(&events(1, 1)), FenceStep::Again);
        let _create = fence.raise(Revision(9));
        assert_eq!(fence.see(&events(2, 1)), FenceStep::Reached(Revision(9)));
    }
}
