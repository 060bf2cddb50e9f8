//! What a master does for its cluster beside serving it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use client::Shutdown;
use store::{EmbeddedStore, Store as _};

use super::elect::Pace;
use super::rejoin::Restores;
use crate::join::JoinServer;

/// How often learners are looked at.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// How often join tokens that have expired are removed.
const TOKEN_INTERVAL: Duration = Duration::from_secs(60);

/// While this master's member leads, makes learners that have caught up voters and
/// removes tokens that have expired; tells the elections how many masters there are; notices when it is not wanted any more.
pub(super) struct Care {
    pub store: Arc<EmbeddedStore>,
    pub pace: Pace,
    pub join: Option<Arc<JoinServer>>,
    pub restores: Restores,
}

/// How a master that was not removed ends.
pub(super) enum Ending {
    Asked,
    /// Its cluster was restored elsewhere: it starts over and joins again.
    Restored,
}

impl Care {
    /// Until the shutdown, which it asks for when there is a reason to.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<Ending> {
        let mut tokens_at = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(Ending::Asked),
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if self.store.is_removed() {
                shutdown.cancel();
                return Err(removed());
            }
            let Ok(status) = self.store.status().await else { continue };
            if let Some(url) = self.restores.find_in_time(&self.store, status.leader_id != 0).await {
                tracing::warn!(url, "this cluster was restored from a backup: starting over to join it again");
                shutdown.cancel();
                return Ok(Ending::Restored);
            }
            let Ok(members) = self.store.members().await else { continue };
            self.pace.follow(members.iter().filter(|member| !member.is_learner).count());
            if status.leader_id != status.member_id {
                continue;
            }
            if let Some(join) = self.join.as_ref().filter(|_| tokens_at.elapsed() >= TOKEN_INTERVAL) {
                tokens_at = tokio::time::Instant::now();
                join.forget_expired(jiff::Timestamp::now()).await;
            }
            for learner in members.iter().filter(|member| member.is_learner && !member.name.is_empty()) {
                match self.store.member_promote(learner.id).await {
                    Ok(_) => tracing::info!(name = learner.name, "a master has caught up and votes now"),
                    Err(error) => tracing::debug!(name = learner.name, %error, "a master does not vote yet"),
                }
            }
        }
    }
}

pub(super) fn removed() -> anyhow::Error {
    anyhow!("this master was removed from its cluster; to join again, start it with an empty data directory")
}
