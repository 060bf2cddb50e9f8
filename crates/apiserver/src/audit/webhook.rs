//! Events posted to another server, in batches.

use std::time::Duration;

use ::bytes::Bytes;
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::sink::{BackendConfig, Entry, Mode};
use crate::outbound::RemoteEndpoint;

/// One post that takes longer is given up and tried again.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// Posts of one batch; upstream's steps.
const TRIES_MAX: u32 = 5;
/// Each wait is so much longer than the one before, and up to so much more by chance.
const BACKOFF_FACTOR: f64 = 1.5;
const BACKOFF_JITTER: f64 = 0.2;

/// `--audit-webhook-…`
#[derive(Debug)]
pub struct AuditWebhookConfig {
    pub endpoint: RemoteEndpoint,
    /// Before the second try.
    pub initial_backoff: Duration,
    pub backend: BackendConfig,
}

/// Posts what comes until the queue ends.
pub(super) async fn run(config: AuditWebhookConfig, mut entries: mpsc::Receiver<Entry>, metrics: Metrics) {
    let mut throttle = Throttle::new(config.backend.batch.throttle);
    while let Some(first) = entries.recv().await {
        let mut batch = gather(&config.backend, first, &mut entries).await;
        let flushed = batch.pop_if(|last| last.is_marker());
        if config.backend.mode == Mode::Batch && !batch.is_empty() {
            throttle.wait().await;
        }
        for part in split(batch, &config.backend) {
            let well = post(&config, &part).await;
            if !well {
                metrics.error("webhook", part.len());
            }
            for done in part.into_iter().filter_map(|entry| entry.done) {
                let _nobody_waits = done.send(well);
            }
        }
        if let Some(done) = flushed.and_then(|marker| marker.done) {
            let _nobody_waits = done.send(true);
        }
    }
}

/// What is there, and in batch mode what comes in time. A marker ends the batch.
async fn gather(config: &BackendConfig, first: Entry, entries: &mut mpsc::Receiver<Entry>) -> Vec<Entry> {
    let mut batch = vec![first];
    if config.mode != Mode::Batch || batch.iter().any(Entry::is_marker) {
        return batch;
    }
    let deadline = Instant::now() + config.batch.max_wait;
    while batch.len() < config.batch.max_size {
        match tokio::time::timeout_at(deadline, entries.recv()).await {
            Ok(Some(entry)) => {
                let is_last = entry.is_marker();
                batch.push(entry);
                if is_last {
                    break;
                }
            }
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

/// Batches of no more bytes than the limit.
fn split(batch: Vec<Entry>, config: &BackendConfig) -> Vec<Vec<Entry>> {
    if batch.is_empty() {
        return Vec::new();
    }
    let Some(truncate) = &config.truncate else { return vec![batch] };
    let mut parts: Vec<Vec<Entry>> = Vec::new();
    let mut size = usize::MAX;
    for entry in batch {
        if size.saturating_add(entry.bytes.len()) > truncate.max_batch_size {
            parts.push(Vec::new());
            size = 0;
        }
        size += entry.bytes.len();
        if let Some(part) = parts.last_mut() {
            part.push(entry);
        }
    }
    parts
}

async fn post(config: &AuditWebhookConfig, batch: &[Entry]) -> bool {
    let mut body = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (at, entry) in batch.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&entry.bytes);
    }
    body.extend_from_slice(b"]}");
    let body = Bytes::from(body);
    let mut wait = config.initial_backoff;
    for tried in 1..=TRIES_MAX {
        match config.endpoint.post(body.clone(), POST_TIMEOUT).await {
            Ok(_) => return true,
            Err(error) if !error.is_worth_retrying() || tried == TRIES_MAX => {
                tracing::error!(%error, events = batch.len(), "Error in audit plugin 'webhook'");
                return false;
            }
            Err(error) => tracing::warn!(%error, "cannot post audit events, trying again"),
        }
        let jitter: f64 = rand::rng().random();
        tokio::time::sleep(wait.mul_f64(1.0 + BACKOFF_JITTER * jitter)).await;
        wait = wait.mul_f64(BACKOFF_FACTOR);
    }
    false
}

/// A bucket of tokens, one a batch.
struct Throttle {
    rate: Option<(f32, usize)>,
    tokens: f64,
    at: Instant,
}

impl Throttle {
    fn new(rate: Option<(f32, usize)>) -> Self {
        Self { rate, tokens: rate.map_or(0.0, |(_, burst)| burst as f64), at: Instant::now() }
    }

    async fn wait(&mut self) {
        let Some((per_second, burst)) = self.rate else { return };
        let per_second = f64::from(per_second);
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * per_second).min(burst as f64);
        self.at = now;
        self.tokens -= 1.0;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / per_second)).await;
        }
    }
}
