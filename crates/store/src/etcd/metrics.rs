//! The metrics page: what the server counts, what the store counts, and the process, in Prometheus' text format and under
//! etcd's names.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prometheus::{Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};
use tonic::{Code, Status};

use super::VERSION;
use super::gateway::pool;
use super::shared::Shared;
use crate::metrics::Instruments;

/// Codes that a call can end with.
const N_CODES: i32 = 17;

pub(super) struct ServerMetrics {
    instruments: Instruments,
    /// By path.
    calls: HashMap<String, Arc<Call>>,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    client_requests: IntCounterVec,
    pub(super) range_seconds: HistogramVec,
    pub(super) watch_streams: IntGauge,
    pub(super) events: IntCounter,
    pub(super) health_success: IntCounter,
    pub(super) health_failures: IntCounter,
    healthchecks: IntCounterVec,
    healthcheck: IntGaugeVec,
    pub(super) leader_changes: IntCounter,
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    id: IntGaugeVec,
    quota: IntGauge,
    fds_used: IntGauge,
    fds_limit: IntGauge,
}

/// What is counted of one call of the API.
struct Call {
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    /// By code.
    handled: Vec<IntCounter>,
    /// Only with extensive metrics.
    handling: Option<Histogram>,
}

/// Bounds that Prometheus' gRPC library uses.
const HANDLING_BUCKETS: &[f64] = prometheus::DEFAULT_BUCKETS;

impl ServerMetrics {
    pub(super) fn new(extensive: bool) -> Self {
        let new = Instruments::default();
        new.collect_process();
        new.gauges("etcd_server_version", "Which version is running.", &["server_version"])
            .with_label_values(&[VERSION])
            .set(1);
        new.gauges("etcd_cluster_version", "The version that all members speak.", &["cluster_version"])
            .with_label_values(&[super::cluster_version()])
            .set(1);
        Self {
            calls: calls(&new, extensive),
            received_bytes: new
                .counter("etcd_network_client_grpc_received_bytes_total", "Bytes received from clients over gRPC."),
            sent_bytes: new.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients over gRPC."),
            client_requests: new.counters(
                "etcd_server_client_requests_total",
                "Requests by client version.",
                &["type", "client_api_version"],
            ),
            range_seconds: new.histograms(
                "etcd_server_range_duration_seconds",
                "Time to read a range.",
                &["success"],
                0.0001,
                20,
            ),
            watch_streams: new.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams."),
            events: new.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
            health_success: new.counter("etcd_server_health_success", "Health checks that succeeded."),
            health_failures: new.counter("etcd_server_health_failures", "Health checks that failed."),
            healthchecks: new.counters(
                "etcd_server_healthchecks_total",
                "Results of each check of health.",
                &["type", "name", "status"],
            ),
            healthcheck: new.gauges(
                "etcd_server_healthcheck",
                "The last result of each check of health.",
                &["type", "name"],
            ),
            leader_changes: new.counter("etcd_server_leader_changes_seen_total", "Changes of leader seen."),
            has_leader: new.gauge("etcd_server_has_leader", "Whether there is a leader."),
            is_leader: new.gauge("etcd_server_is_leader", "Whether this member leads."),
            is_learner: new.gauge("etcd_server_is_learner", "Whether this member is a learner."),
            id: new.gauges("etcd_server_id", "This member's id, in hexadecimal.", &["server_id"]),
            quota: new.gauge("etcd_server_quota_backend_bytes", "Quota of the state file."),
            fds_used: new.gauge("os_fd_used", "Open file descriptors."),
            fds_limit: new.gauge("os_fd_limit", "File descriptors that may be open."),
            instruments: new,
        }
    }

    pub(super) fn client_request(&self, kind: &str, version: Option<&str>) {
        /// Clients choose their version freely; only what looks like one is worth a series.
        const VERSION_LEN_MAX: usize = 16;
        let is_version =
            |text: &&str| text.len() <= VERSION_LEN_MAX && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let version = version.filter(is_version).unwrap_or("unknown");
        self.client_requests.with_label_values(&[kind, version]).inc();
    }

    pub(super) fn health_check(&self, page: &str, name: &str, is_ok: bool) {
        let status = if is_ok { "success" } else { "error" };
        self.healthchecks.with_label_values(&[page, name, status]).inc();
        self.healthcheck.with_label_values(&[page, name]).set(i64::from(is_ok));
    }

    /// The page. What the store is asked for here is its own state; a remote store has none.
    pub(super) async fn page(&self, shared: &Shared) -> String {
        if let Ok(status) = shared.store.status().await {
            self.has_leader.set(i64::from(status.leader_id != 0));
            self.is_leader.set(i64::from(status.leader_id == status.member_id));
            self.is_learner.set(i64::from(status.is_learner));
            self.quota.set(status.db_size_quota_bytes);
            self.id.with_label_values(&[&format!("{:x}", status.member_id)]).set(1);
        }
        let process = self.instruments.gather();
        for (gauge, name) in [(&self.fds_used, "process_open_fds"), (&self.fds_limit, "process_max_fds")] {
            let family = process.iter().find(|family| family.get_name() == name);
            let value = family.and_then(|family| family.get_metric().first()).map(|one| one.get_gauge().get_value());
            gauge.set(value.unwrap_or_default() as i64);
        }
        let mut families = self.instruments.gather();
        families.extend(shared.store.metrics());
        families.sort_by(|a, b| a.get_name().cmp(b.get_name()));
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut page) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        String::from_utf8_lossy(&page).into_owned()
    }

    /// What to count of a call, for as long as it runs; `None` for a path that is no call.
    pub(super) fn begin(self: &Arc<Self>, path: &str) -> Option<Counting> {
        let call = Arc::clone(self.calls.get(path)?);
        call.started.inc();
        Some(Counting { metrics: Arc::clone(self), call, began: Instant::now() })
    }
}

/// Every call there is, so that each is on the page before it is first made.
fn calls(new: &Instruments, extensive: bool) -> HashMap<String, Arc<Call>> {
    const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
    let started = new.counters("grpc_server_started_total", "Calls that began.", &LABELS);
    let received = new.counters("grpc_server_msg_received_total", "Messages received in calls.", &LABELS);
    let sent = new.counters("grpc_server_msg_sent_total", "Messages sent in calls.", &LABELS);
    let handled = [&LABELS[..], &["grpc_code"]].concat();
    let handled = new.counters("grpc_server_handled_total", "Calls that ended, by code.", &handled);
    let handling = extensive.then(|| {
        new.histograms_of(
            "grpc_server_handling_seconds",
            "Time from a call's beginning to its end.",
            &LABELS,
            HANDLING_BUCKETS,
        )
    });
    let mut calls = HashMap::new();
    for service in pool().into_iter().flat_map(|pool| pool.services().collect::<Vec<_>>()) {
        for method in service.methods() {
            let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => "unary",
                (true, false) => "client_stream",
                (false, true) => "server_stream",
                (true, true) => "bidi_stream",
            };
            let labels = [kind, service.full_name(), method.name()];
            let of_code = |code: i32| {
                // Go spells one code otherwise.
                let code = match Code::from_i32(code) {
                    Code::Ok => "OK".to_owned(),
                    Code::Cancelled => "Canceled".to_owned(),
                    code => format!("{code:?}"),
                };
                handled.with_label_values(&[labels[0], labels[1], labels[2], &code])
            };
            let call = Call {
                started: started.with_label_values(&labels),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                handled: (0..N_CODES).map(of_code).collect(),
                handling: handling.as_ref().map(|handling| handling.with_label_values(&labels)),
            };
            calls.insert(format!("/{}/{}", service.full_name(), method.name()), Arc::new(call));
        }
    }
    calls
}

/// A call in progress.
#[derive(Clone)]
pub(super) struct Counting {
    metrics: Arc<ServerMetrics>,
    call: Arc<Call>,
    began: Instant,
}

impl Counting {
    pub(super) fn request<B>(&self, body: B) -> Counted<B> {
        Counted { body, direction: Direction::In, counting: self.clone(), messages: Messages::default(), is_over: true }
    }

    /// A response whose headers tell the outcome has nothing more to count.
    pub(super) fn response<B>(&self, headers: &HeaderMap, body: B) -> Counted<B> {
        let told = Status::from_header_map(headers);
        if let Some(status) = &told {
            self.ended(status.code());
        }
        let is_over = told.is_some();
        Counted { body, direction: Direction::Out, counting: self.clone(), messages: Messages::default(), is_over }
    }

    fn ended(&self, code: Code) {
        if let Some(handled) = self.call.handled.get(code as usize) {
            handled.inc();
        }
        if let Some(handling) = &self.call.handling {
            handling.observe(self.began.elapsed().as_secs_f64());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// A body whose messages are counted as they pass. A response that ends before its trailers was cancelled by its client.
pub(super) struct Counted<B> {
    body: B,
    direction: Direction,
    counting: Counting,
    messages: Messages,
    /// The outcome has been counted, or is not to be.
    is_over: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.count(frame);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

impl<B> Counted<B> {
    fn count(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            let n_messages = self.messages.begun_in(data);
            let (messages, bytes) = match self.direction {
                Direction::In => (&self.counting.call.received, &self.counting.metrics.received_bytes),
                Direction::Out => (&self.counting.call.sent, &self.counting.metrics.sent_bytes),
            };
            messages.inc_by(n_messages);
            bytes.inc_by(data.len() as u64);
        } else if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
            && !std::mem::replace(&mut self.is_over, true)
        {
            self.counting.ended(status.code());
        }
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        if !self.is_over {
            self.counting.ended(Code::Cancelled);
        }
    }
}

/// Finds where messages begin in a stream of bytes, however it is cut.
#[derive(Default)]
struct Messages {
    /// Bytes of the current message still to come.
    left: usize,
    /// What has come of the next message's frame, a flag and a length, and how many bytes that is.
    head: [u8; HEAD_BYTES],
    n_head: usize,
}

const HEAD_BYTES: usize = 5;

impl Messages {
    fn begun_in(&mut self, mut data: &[u8]) -> u64 {
        let mut n_messages = 0;
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data.advance(skipped);
            let taken = (HEAD_BYTES - self.n_head).min(data.len());
            self.head[self.n_head..self.n_head + taken].copy_from_slice(&data[..taken]);
            self.n_head += taken;
            data.advance(taken);
            if self.n_head == HEAD_BYTES {
                let [_flag, a, b, c, d] = self.head;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.n_head = 0;
                n_messages += 1;
            }
        }
        n_messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_the_stream_is_cut() {
        let stream = [&[0, 0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 0, 0], &[1, 0, 0, 0, 1, 9]].concat();
        for cut in 0..stream.len() {
            let mut messages = Messages::default();
            let counted = messages.begun_in(&stream[..cut]) + messages.begun_in(&stream[cut..]);
            assert_eq!((counted, messages.left), (3, 0), "cut at {cut}");
        }
    }

    #[test]
    fn every_call_is_on_the_page_from_the_beginning() {
        let metrics = Arc::new(ServerMetrics::new(true));
        assert!(metrics.begin("/etcdserverpb.KV/Nothing").is_none());
        let counting = metrics.begin("/etcdserverpb.KV/Put").unwrap();
        counting.ended(Code::Cancelled);
        let mut page = Vec::new();
        TextEncoder::new().encode(&metrics.instruments.gather(), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let labels = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#;
        for line in [
            format!("grpc_server_started_total{{{labels}"),
            format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}"),
            format!("grpc_server_handling_seconds_count{{{labels}"),
            "# TYPE etcd_server_health_success counter".to_owned(),
        ] {
            assert!(page.contains(&line), "{line}");
        }
    }
}
