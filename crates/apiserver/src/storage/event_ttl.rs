//! Leases for objects that expire: one lease serves many objects, as upstream's lease manager does.

use std::time::{Duration, Instant};

use store::{LeaseId, Store, StoreError};
use tokio::sync::Mutex;

/// Objects attached to one lease before a new one is granted.
const OBJECTS_PER_LEASE_MAX: usize = 1_000;
/// A lease is reused while this share of its TTL has not passed; the lease lives that much longer, so no object dies early.
const REUSE_SHARE: f64 = 0.05;
const REUSE_MIN: Duration = Duration::from_secs(60);

/// Hands out leases of one TTL.
#[derive(Debug)]
pub(crate) struct EventLeases {
    ttl: Duration,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    id: LeaseId,
    granted: Instant,
    n_objects: usize,
}

impl EventLeases {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, current: Mutex::new(None) }
    }

    /// A lease that lives at least the TTL from now.
    pub(crate) async fn lease(&self, store: &dyn Store) -> Result<LeaseId, StoreError> {
        let reuse = self.reuse_window();
        let mut current = self.current.lock().await;
        if let Some(lease) = current.as_mut()
            && lease.granted.elapsed() < reuse
            && lease.n_objects < OBJECTS_PER_LEASE_MAX
        {
            lease.n_objects += 1;
            return Ok(lease.id);
        }
        let ttl_seconds = (self.ttl + reuse).as_secs().max(1) as i64;
        let (id, _) = store.lease_grant(LeaseId(0), ttl_seconds).await?;
        *current = Some(Current { id, granted: Instant::now(), n_objects: 1 });
        Ok(id)
    }

    fn reuse_window(&self) -> Duration {
        self.ttl.mul_f64(REUSE_SHARE).min(REUSE_MIN)
    }
}
