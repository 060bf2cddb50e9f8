//! A master of a cluster that was restored elsewhere: it must not go on with the old state, and joins again by itself.

use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use store::{EmbeddedStore, Store as _};
use tokio::time::Instant;

use crate::args::ServerArgs;
use crate::join;

/// A master without a leader asks the others this often whether their cluster is a restored one...
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// ...and one with a leader, which others may have left behind, this often.
const ASK_INTERVAL_LED: Duration = Duration::from_secs(60);

/// Asks the masters of a cluster whether it was restored.
#[derive(Debug)]
pub(super) struct Restores {
    ca_pem: String,
    /// Of the API servers, which are on the same port on all masters.
    port: u16,
    /// Where this master was told to join.
    join_url: Option<String>,
    asked: Instant,
}

impl Restores {
    pub(super) fn new(ca_pem: &str, args: &ServerArgs) -> Self {
        let (port, join_url) = (args.api_server.secure_port, args.join.clone());
        Self { ca_pem: ca_pem.to_owned(), port, join_url, asked: Instant::now() }
    }

    /// Where the cluster of this store was restored, if it was.
    pub(super) async fn find(&mut self, store: &EmbeddedStore) -> Option<String> {
        self.asked = Instant::now();
        let status = store.status().await.ok()?;
        let members = store.members().await.ok()?;
        let others = members.iter().filter(|member| member.id != status.member_id);
        let mut urls: Vec<String> = self.join_url.iter().cloned().collect();
        for url in others.flat_map(|member| &member.peer_urls) {
            let uri: http::Uri = url.parse().ok()?;
            urls.extend(uri.host().map(|host| format!("https://{host}:{}", self.port)));
        }
        urls.sort_unstable();
        urls.dedup();
        join::restored(&self.ca_pem, &format!("{:016x}", status.cluster_id), &urls).await
    }

    /// The same, now and then.
    pub(super) async fn find_in_time(&mut self, store: &EmbeddedStore, has_leader: bool) -> Option<String> {
        let interval = if has_leader { ASK_INTERVAL_LED } else { ASK_INTERVAL };
        if self.asked.elapsed() < interval {
            return None;
        }
        self.find(store).await
    }
}

/// Replaces this process by one that starts as it did. Everything must have been closed.
pub(super) fn start_over() -> Result<()> {
    let program = std::env::current_exe().context("the program's path")?;
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
    Err(error).context("starting again")
}
