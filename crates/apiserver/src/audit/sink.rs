//! Where events go: each backend has a queue and one worker that empties it.

use std::io;
use std::time::Duration;

use ::bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::event::Event;
use super::log::{self, Format, LogConfig};
use super::metrics::Metrics;
use super::webhook::{self, AuditWebhookConfig};

/// Events that wait for a backend whose mode is not `batch`: each has a request that waits for it.
const BLOCKING_QUEUE_MAX: usize = 1024;

/// How a backend treats requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Events are kept and sent later; when there are too many, the newest are lost.
    Batch,
    /// The answer waits until its event is written.
    Blocking,
    /// The same, and a request whose beginning cannot be recorded is refused.
    BlockingStrict,
}

/// `--audit-log-batch-…`, `--audit-webhook-batch-…`
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// Events kept.
    pub buffer_size: usize,
    /// Events sent at once.
    pub max_size: usize,
    /// An event is kept no longer than this.
    pub max_wait: Duration,
    /// Batches per second, and how many at once before that counts; `None`: as many as there are.
    pub throttle: Option<(f32, usize)>,
}

/// `--audit-log-truncate-…`, `--audit-webhook-truncate-…`
#[derive(Clone, Debug)]
pub struct TruncateConfig {
    /// Bytes of one event; above, it loses its objects, and is lost if that is not enough.
    pub max_event_size: usize,
    /// Bytes of one batch.
    pub max_batch_size: usize,
}

/// What both backends have.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    pub mode: Mode,
    pub batch: BatchConfig,
    pub truncate: Option<TruncateConfig>,
}

/// An event on its way, and who waits for it.
#[derive(Debug)]
pub(super) struct Entry {
    pub bytes: Bytes,
    pub done: Option<oneshot::Sender<bool>>,
}

impl Entry {
    /// No event: asks to be told when all before it is written.
    fn marker(done: oneshot::Sender<bool>) -> Self {
        Self { bytes: Bytes::new(), done: Some(done) }
    }

    pub(super) fn is_marker(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[derive(Debug)]
struct Backend {
    plugin: &'static str,
    config: BackendConfig,
    format: Format,
    queue: mpsc::Sender<Entry>,
}

#[derive(Debug)]
pub(super) struct Sink {
    backends: Vec<Backend>,
    metrics: Metrics,
}

impl Sink {
    pub(super) fn open(
        log: Option<LogConfig>,
        webhook: Option<AuditWebhookConfig>,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let mut backends = Vec::new();
        if let Some(config) = log {
            let (queue, entries) = mpsc::channel(queue_size(&config.backend));
            backends.push(Backend { plugin: "log", config: config.backend.clone(), format: config.format, queue });
            log::start(config, entries, metrics.clone())?;
        }
        if let Some(config) = webhook {
            let (queue, entries) = mpsc::channel(queue_size(&config.backend));
            let backend = config.backend.clone();
            backends.push(Backend { plugin: "webhook", config: backend, format: Format::Json, queue });
            tokio::spawn(webhook::run(config, entries, metrics.clone()));
        }
        Ok(Self { backends, metrics: metrics.clone() })
    }

    /// Hands an event over, and waits where the mode says so. False: the request must not go on.
    pub(super) async fn process(&self, event: &Event) -> bool {
        let mut well = true;
        for backend in &self.backends {
            let Some(bytes) = self.bytes(backend, event) else { continue };
            if backend.config.mode == Mode::Batch {
                self.try_send(backend, bytes);
                continue;
            }
            let (done, written) = oneshot::channel();
            let sent = backend.queue.send(Entry { bytes, done: Some(done) }).await.is_ok();
            let is_written = sent && written.await.unwrap_or(false);
            well &= is_written || backend.config.mode == Mode::Blocking;
        }
        well
    }

    /// Hands an event over where nobody can wait.
    pub(super) fn process_later(&self, event: &Event) {
        for backend in &self.backends {
            if let Some(bytes) = self.bytes(backend, event) {
                self.try_send(backend, bytes);
            }
        }
    }

    /// Waits until what was handed over is written, a batch that is still growing included.
    pub(super) async fn flush(&self) {
        for backend in &self.backends {
            let (done, written) = oneshot::channel();
            if backend.queue.send(Entry::marker(done)).await.is_ok() {
                let _told = written.await;
            }
        }
    }

    fn try_send(&self, backend: &Backend, bytes: Bytes) {
        if backend.queue.try_send(Entry { bytes, done: None }).is_err() {
            self.metrics.error("buffered", 1);
            tracing::warn!(plugin = backend.plugin, "audit buffer queue blocked, an event is lost");
        }
    }

    fn bytes(&self, backend: &Backend, event: &Event) -> Option<Bytes> {
        if backend.format == Format::Legacy {
            return Some(event.legacy_line().into());
        }
        let encode = |event: &Event| serde_json::to_vec(event).unwrap_or_default();
        let bytes = encode(event);
        let Some(truncate) = backend.config.truncate.as_ref().filter(|limit| bytes.len() > limit.max_event_size) else {
            return Some(bytes.into());
        };
        let mut event = Event { request_object: None, response_object: None, ..event.clone() };
        event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
        let bytes = encode(&event);
        if bytes.len() > truncate.max_event_size {
            self.metrics.error("truncate", 1);
            tracing::warn!(audit_id = event.audit_id, "event is too large even after truncating");
            return None;
        }
        Some(bytes.into())
    }
}

fn queue_size(config: &BackendConfig) -> usize {
    if config.mode == Mode::Batch { config.batch.buffer_size.max(1) } else { BLOCKING_QUEUE_MAX }
}
