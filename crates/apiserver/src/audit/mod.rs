//! The audit log: who asked for what, and how it ended.
//!
//! A [`Policy`] decides how much of a request is recorded. What is recorded grows in a [`Trail`] while the request is worked on;
//! at each stage the event goes to the [`Sink`], which writes it to a file or posts it to a webhook, each from a bounded queue of
//! its own. Without a policy and a backend nothing of this exists. Source: Kubernetes, "Auditing"; `audit.k8s.io/v1`.

mod event;
mod log;
mod metrics;
mod policy;
mod sink;
#[cfg(test)]
mod tests;
mod trail;
mod webhook;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri};
use prometheus_client::registry::Registry;

pub use log::{Format, LogConfig};
pub use policy::Policy;
pub use sink::{BackendConfig, BatchConfig, Mode, TruncateConfig};
pub(crate) use trail::{Head, Trail};
pub use webhook::AuditWebhookConfig;

use crate::attributes::{Action, UserInfo};
use crate::metrics::Counted;
use metrics::Metrics;
use policy::Level;
use sink::Sink;

/// Header in which a client may name its request, and in which it hears the name.
pub(crate) const AUDIT_ID: &str = "audit-id";

/// How long a server that stops waits for a backend to take its last events.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What is recorded, and where it goes.
#[derive(Debug)]
pub struct AuditConfig {
    pub policy: Policy,
    pub log: Option<LogConfig>,
    pub webhook: Option<AuditWebhookConfig>,
}

/// The audit log of one API server.
#[derive(Debug)]
pub(crate) struct Audit {
    policy: Policy,
    sink: Sink,
    metrics: Metrics,
}

impl Counted for Audit {
    fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    fn reset(&self) {
        self.metrics.reset();
    }
}

impl Audit {
    /// Opens the backends.
    pub(crate) fn new(config: AuditConfig) -> std::io::Result<Self> {
        let metrics = Metrics::default();
        let sink = Sink::open(config.log, config.webhook, &metrics)?;
        Ok(Self { policy: config.policy, sink, metrics })
    }

    /// Waits until what has been recorded is written, or for [`FLUSH_TIMEOUT`].
    pub(crate) async fn flush(&self) {
        if tokio::time::timeout(FLUSH_TIMEOUT, self.sink.flush()).await.is_err() {
            tracing::warn!("audit events are lost: a backend did not take them in time");
        }
    }

    /// A trail for a request of this user, unless the policy does not want one.
    pub(crate) fn begin(self: &Arc<Self>, head: Head<'_>, user: &UserInfo, action: &Action) -> Option<Arc<Trail>> {
        let wanted = self.policy.evaluate(user, action);
        self.metrics.level(wanted.level);
        (wanted.level != Level::None).then(|| Arc::new(Trail::new(Arc::clone(self), wanted, head, user, action)))
    }
}

/// The name of a request: the client's, or a new one.
pub(crate) fn id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(AUDIT_ID) {
        Some(id) if id.to_str().is_ok_and(|text| !text.is_empty()) => id.clone(),
        _ => HeaderValue::try_from(uuid::Uuid::new_v4().to_string()).expect("hexadecimal digits and hyphens"),
    }
}

/// Where a request came from: the proxies' word first, the connection last.
fn source_ips(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let forwarded = header("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse::<IpAddr>().ok());
    let mut ips: Vec<IpAddr> = forwarded.collect();
    if let Ok(real) = header("x-real-ip").parse()
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    // What is in this process comes over no connection.
    let peer = peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)).to_canonical();
    if ips.last() != Some(&peer) {
        ips.push(peer);
    }
    ips.iter().map(IpAddr::to_string).collect()
}

/// Path and query as the client sent them.
fn request_uri(uri: &Uri) -> String {
    uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default()
}
