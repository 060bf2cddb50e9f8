//! How often values are sealed and opened, by upstream's names.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use sha2::{Digest as _, Sha256};
use tonic::Code;

use super::GroupResource;
use super::cipher::{NotOurs, Provider, Sealer};
use super::plugin::{Fault, shown_hash};

/// Ids of keys that have series of their own; the ones that were used longest ago go.
const KEY_IDS_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transformation {
    resource: String,
    status: &'static str,
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    status: &'static str,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InForce {
    apiserver_id_hash: String,
    hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    provider_name: String,
    method_name: String,
    grpc_status_code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyUse {
    transformation_type: &'static str,
    provider_name: String,
    key_id_hash: String,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeySeen {
    provider_name: String,
    key_id_hash: String,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InvalidKey {
    provider_name: String,
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginName {
    provider_name: String,
}

/// Labels in the order of their last use.
type Recent<L> = Arc<Mutex<VecDeque<L>>>;

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Of the server's id, hashed.
    server: Arc<RwLock<String>>,
    operations: Family<Transformation, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    reloads: Family<Reload, Counter>,
    last_reload: Family<Reload, Gauge>,
    in_force: Family<InForce, Gauge>,
    calls: Family<Call, Histogram, fn() -> Histogram>,
    key_uses: Family<KeyUse, Counter>,
    key_last_used: Family<KeyUse, Gauge>,
    recently_used: Recent<KeyUse>,
    key_last_seen: Family<KeySeen, Gauge>,
    recently_seen: Recent<KeySeen>,
    invalid_keys: Family<InvalidKey, Counter>,
    deks: Family<PluginName, Gauge>,
    dek_misses: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let make: fn() -> Histogram = || Histogram::new(exponential_buckets(5e-6, 2.0, 25));
        let make_calls: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        Self {
            server: Arc::default(),
            operations: Family::default(),
            durations: Family::new_with_constructor(make),
            reloads: Family::default(),
            last_reload: Family::default(),
            in_force: Family::default(),
            calls: Family::new_with_constructor(make_calls),
            key_uses: Family::default(),
            key_last_used: Family::default(),
            recently_used: Recent::default(),
            key_last_seen: Family::default(),
            recently_seen: Recent::default(),
            invalid_keys: Family::default(),
            deks: Family::default(),
            dek_misses: Counter::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_storage_transformation_operations",
            "Total number of transformations",
            self.operations.clone(),
        );
        registry.register(
            "apiserver_storage_transformation_duration_seconds",
            "Latencies in seconds of value transformation operations",
            self.durations.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_automatic_reloads",
            "Total number of reload successes and failures of encryption configuration",
            self.reloads.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "Timestamp of the last successful or failed automatic reload of encryption configuration",
            self.last_reload.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_last_config_info",
            "Information about the last applied encryption configuration with hash as label, split by apiserver identity",
            self.in_force.clone(),
        );
        registry.register(
            "apiserver_storage_envelope_transformation_cache_misses",
            "Total number of cache misses while accessing key decryption key(KEK)",
            self.dek_misses.clone(),
        );
        self.register_plugins(registry);
    }

    fn register_plugins(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_envelope_encryption_kms_operations_latency_seconds",
            "KMS operation duration with gRPC error code status total",
            self.calls.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_key_id_hash",
            "Number of times a keyID is used split by transformation type, provider, and apiserver identity",
            self.key_uses.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds",
            "The last time in seconds when a keyID was used",
            self.key_last_used.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
            "The last time in seconds when a keyID was returned by the Status RPC call",
            self.key_last_seen.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_invalid_key_id_from_status",
            "Number of times an invalid keyID is returned by the Status RPC call split by error",
            self.invalid_keys.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_dek_source_cache_size",
            "Number of records in data encryption key (DEK) source cache",
            self.deks.clone(),
        );
    }

    /// Counts anew. What is known of the keys and the configuration in force stays.
    pub(super) fn reset(&self) {
        let Self { operations, durations, reloads, calls, key_uses, invalid_keys, dek_misses, .. } = self;
        operations.clear();
        durations.clear();
        reloads.clear();
        calls.clear();
        key_uses.clear();
        invalid_keys.clear();
        dek_misses.inner().store(0, Ordering::Relaxed);
    }

    /// Upstream's `APIServerID`.
    pub(super) fn set_server(&self, id: &str) {
        *self.server.write() = shown_hash(id);
    }

    pub(super) fn sealing(
        &self,
        of: &GroupResource,
        provider: &Provider,
        seal: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        let sealed = seal();
        let status = sealed.as_ref().map_or_else(Failed::status, |()| WELL);
        self.observe(of, "to_storage", provider, status, started);
        sealed
    }

    pub(super) async fn opening<T, E: Failed>(
        &self,
        of: &GroupResource,
        provider: &Provider,
        open: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        let opened = open.await;
        let status = opened.as_ref().map_or_else(Failed::status, |_| WELL);
        self.observe(of, "from_storage", provider, status, started);
        opened
    }

    pub(super) fn unknown(&self, of: &GroupResource) {
        self.count(of, "from_storage", "unknown".to_owned(), UNKNOWN);
    }

    pub(super) fn reloaded(&self, well: bool) {
        let status =
            Reload { status: if well { "success" } else { "failure" }, apiserver_id_hash: self.server.read().clone() };
        self.reloads.get_or_create(&status).inc();
        self.last_reload.get_or_create(&status).set(jiff::Timestamp::now().as_second());
    }

    /// The file that is in force.
    pub(super) fn in_force(&self, text: &str) {
        let hex: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        self.in_force.clear();
        let labels = InForce { apiserver_id_hash: self.server.read().clone(), hash: format!("sha256:{hex}") };
        self.in_force.get_or_create(&labels).set(1);
    }

    /// A plugin was called.
    pub(super) fn called(&self, plugin: &str, method: &str, code: Code, took: Duration) {
        let labels = Call {
            provider_name: plugin.to_owned(),
            method_name: format!("/v2.KeyManagementService/{method}"),
            grpc_status_code: code_name(code),
        };
        self.calls.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A value was sealed or opened under a plugin's key.
    pub(super) fn key_id_used(&self, direction: &'static str, plugin: &str, key_id: &str) {
        let labels = KeyUse {
            transformation_type: direction,
            provider_name: plugin.to_owned(),
            key_id_hash: shown_hash(key_id),
            apiserver_id_hash: self.server.read().clone(),
        };
        self.key_uses.get_or_create(&labels).inc();
        self.key_last_used.get_or_create(&labels).set(jiff::Timestamp::now().as_second());
        if let Some(oldest) = used(&self.recently_used, labels) {
            self.key_uses.remove(&oldest);
            self.key_last_used.remove(&oldest);
        }
    }

    /// A plugin named its key.
    pub(super) fn key_id_seen(&self, plugin: &str, key_id: &str) {
        let labels = KeySeen {
            provider_name: plugin.to_owned(),
            key_id_hash: shown_hash(key_id),
            apiserver_id_hash: self.server.read().clone(),
        };
        self.key_last_seen.get_or_create(&labels).set(jiff::Timestamp::now().as_second());
        if let Some(oldest) = used(&self.recently_seen, labels) {
            self.key_last_seen.remove(&oldest);
        }
    }

    pub(super) fn invalid_key_id(&self, plugin: &str, error: &'static str) {
        self.invalid_keys.get_or_create(&InvalidKey { provider_name: plugin.to_owned(), error }).inc();
    }

    pub(super) fn deks_kept(&self, plugin: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.deks.get_or_create(&PluginName { provider_name: plugin.to_owned() }).set(count);
    }

    pub(super) fn dek_missed(&self) {
        self.dek_misses.inc();
    }

    fn observe(
        &self,
        of: &GroupResource,
        direction: &'static str,
        provider: &Provider,
        status: &'static str,
        started: Instant,
    ) {
        let prefix = String::from_utf8_lossy(&provider.prefix);
        let shown: String = match provider.sealer {
            // With the plugin's name, but without that of a key, as upstream's providers are known.
            Sealer::Plugin(_) => prefix.into_owned(),
            Sealer::Key(_) | Sealer::Identity => prefix.split_inclusive(':').take(4).collect(),
        };
        if status == WELL {
            let kind = Kind { transformation_type: direction, transformer_prefix: shown.clone() };
            self.durations.get_or_create(&kind).observe(started.elapsed().as_secs_f64());
        }
        self.count(of, direction, shown, status);
    }

    fn count(&self, of: &GroupResource, direction: &'static str, prefix: String, status: &'static str) {
        let transformation = Transformation {
            resource: of.to_string(),
            status,
            transformation_type: direction,
            transformer_prefix: prefix,
        };
        self.operations.get_or_create(&transformation).inc();
    }
}

const WELL: &str = "OK";
/// The status of what failed without a call.
const UNKNOWN: &str = "unknown-non-grpc";

/// A failure, as the label `status` has it.
pub(super) trait Failed {
    fn status(&self) -> &'static str;
}

impl Failed for NotOurs {
    fn status(&self) -> &'static str {
        UNKNOWN
    }
}

impl Failed for Fault {
    fn status(&self) -> &'static str {
        self.code.map_or(UNKNOWN, code_name)
    }
}

/// Go's names of codes.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => WELL,
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Notes a use; returns what is one too many.
fn used<L: PartialEq>(recent: &Recent<L>, labels: L) -> Option<L> {
    let mut recent = recent.lock();
    if let Some(at) = recent.iter().position(|known| *known == labels) {
        recent.remove(at);
    }
    recent.push_back(labels);
    if recent.len() > KEY_IDS_MAX { recent.pop_front() } else { None }
}
