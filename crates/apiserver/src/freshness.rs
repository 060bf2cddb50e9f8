//! What must be in the cache before a request may be judged by it.

use std::time::Duration;

use api::status::Details;
use api::{Kind, Status};
use store::Revision;

use crate::control;
use crate::error::{from_not_fresh, from_store};
use crate::gateway::Gateway;
use crate::health;
use crate::http::path::Target;

/// A server that starts has a leader and a copy of the state within this time, or has to say that it has not.
const START_PATIENCE: Duration = Duration::from_secs(10);

impl Gateway {
    /// Waits for the first complete copy of the state: without it no role and no account would be known, no quota and no webhook.
    /// (Upstream's plugins each wait for their informers, and refuse.) Health, metrics and joining masters do without.
    pub(crate) async fn has_state(&self, target: Option<&Target>) -> Result<(), Status> {
        let needs_none =
            |path: &str| health::is_check(path) || path.starts_with("/metrics") || path.starts_with(control::OPEN);
        if self.cache.is_ready() || matches!(target, Some(Target::Other(path)) if needs_none(path)) {
            return Ok(());
        }
        tokio::time::timeout(START_PATIENCE, self.cache.ready()).await.map_err(|_elapsed| {
            let details = Details { retry_after_seconds: 1, ..Details::default() };
            let message = "the server is starting: it has no complete copy of the cluster's state yet";
            Status { details: Some(details), ..Status::service_unavailable(message) }
        })
    }

    /// The store's newest revision, once the cache shows all that was written until then. Errors name `operation` on `kind`.
    pub(crate) async fn catch_up(&self, kind: &Kind, operation: &str) -> Result<Revision, Status> {
        let fresh = self.cache.catch_up().await.map_err(|error| from_store(kind, operation, error))?;
        fresh.map_err(from_not_fresh)
    }
}
