//! Certificates of a running master: issued again in time. What uses them follows the files; connections that stand go on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use client::Shutdown;

use crate::pki::Pki;

/// How often certificates are looked at: clocks are set, and files put in place by hand.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
/// Between two looks at certificates that live for minutes.
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// After a renewal that failed, on a full disk most likely.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Renews what is due until the shutdown. `kubeconfigs` writes those that hold certificates.
pub(super) async fn keep_valid(
    pki: Arc<Pki>,
    kubeconfigs: impl Fn(&Pki) -> Result<()> + Send + Sync + 'static,
    shutdown: Shutdown,
) {
    let kubeconfigs = Arc::new(kubeconfigs);
    loop {
        let looking = {
            let (pki, kubeconfigs) = (Arc::clone(&pki), Arc::clone(&kubeconfigs));
            // Keys are made and files synced: not on a thread that serves requests.
            tokio::task::spawn_blocking(move || look(&pki, &*kubeconfigs)).await
        };
        let pause = looking.map_err(anyhow::Error::from).and_then(|looked| looked).unwrap_or_else(|error| {
            tracing::error!("certificates cannot be renewed: {error:#}");
            RETRY_INTERVAL
        });
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns when to look again.
fn look(pki: &Pki, kubeconfigs: &impl Fn(&Pki) -> Result<()>) -> Result<Duration> {
    let (renewed, next) = pki.renew(SystemTime::now())?;
    if !renewed.is_empty() {
        tracing::info!(certificates = renewed.join(","), "certificates were renewed");
        kubeconfigs(pki)?;
    }
    Ok(next.unwrap_or(LOOK_INTERVAL).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL))
}
