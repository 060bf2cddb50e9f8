//! What only the leader knows of leases, wherever it is asked for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::Clock;
use crate::machine::Machine;
use crate::peer::PeerNet;
use crate::proto::peer as pb;
use crate::raft::Raft;
use crate::status::from_text;
use crate::{LeaseId, LeaseStatus, StoreError};

/// Between two attempts to reach a leader.
const RETRY: Duration = Duration::from_millis(50);

/// Leases as the leader counts them: answered here if this member leads, asked for there if another does.
#[derive(Clone)]
pub(super) struct LeaseDesk {
    pub(super) machine: Arc<RwLock<Machine>>,
    pub(super) raft: Raft,
    pub(super) clock: Clock,
    /// A witness that leads for a moment knows no leases.
    pub(super) is_witness: bool,
}

impl LeaseDesk {
    /// Restarts a lease's clock. Whoever leads confirms that it still does before it says that the lease lives on.
    pub(super) async fn keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        self.raft.read_index().await?;
        if !self.raft.leads() || self.is_witness {
            return Err(StoreError::LeaderChanged);
        }
        self.machine.write().lessor.keep_alive(id, self.clock.now())
    }

    pub(super) async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        self.raft.read_index().await?;
        if !self.raft.leads() || self.is_witness {
            return Err(StoreError::LeaderChanged);
        }
        let machine = self.machine.read();
        let Some((granted, remaining)) = machine.lessor.time_to_live(id, self.clock.now()) else {
            return Ok(LeaseStatus { id, ttl_seconds: -1, ..LeaseStatus::default() });
        };
        let keys = if keys { machine.lessor.keys(id) } else { Vec::new() };
        Ok(LeaseStatus { id, ttl_seconds: remaining, granted_ttl_seconds: granted, keys })
    }
}

/// Does `here` if this member leads, else asks the leader for `there`; again when the leader changes or cannot be reached, until
/// the time for a request is over. To be used only for what may happen twice.
pub(super) async fn at_leader<T, F>(
    raft: &Raft,
    peers: Option<&PeerNet>,
    there: pb::call::Request,
    here: impl Fn() -> F,
    decode: impl Fn(pb::Answer) -> T,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + raft.request_timeout();
    loop {
        let leader = raft.status().leader;
        let mut outcome = Err(StoreError::LeaderChanged);
        if raft.leads() {
            outcome = here().await;
        } else if let Some(peers) = peers.filter(|_| leader != 0) {
            let answer = tokio::time::timeout_at(deadline, peers.call(leader, there)).await;
            if let Some(answer) = answer.unwrap_or(None) {
                outcome = if answer.error.is_empty() { Ok(decode(answer)) } else { Err(from_text(&answer.error)) };
            }
        } else if let Some(failure) = raft.failure() {
            return Err(failure);
        }
        match outcome {
            Err(StoreError::LeaderChanged) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
            Err(StoreError::LeaderChanged) if leader == 0 => return Err(StoreError::NoLeader),
            Err(StoreError::LeaderChanged) => return Err(StoreError::Timeout),
            outcome => return outcome,
        }
    }
}
