//! Encryption at rest: values are sealed on their way to the store and opened on their way back.
//!
//! A sealed value is upstream's: `k8s:enc:PROVIDER:v1:KEY:` and what the provider makes of the object's bytes, so that data can
//! move between the two. [`SealedStore`] stands before the store only when a configuration was given; without one nothing of this
//! is on the path of a request. What cannot be opened is handed on as it is, and is an error where it is read as an object. The key
//! may be elsewhere ([`plugin`]).
//! Source: Kubernetes, "Encrypting Confidential Data at Rest"; `apiserver.config.k8s.io/v1` EncryptionConfiguration.

mod cipher;
mod config;
mod metrics;
mod plugin;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::bytes::Bytes;
use api::kinds::Registry;
use parking_lot::RwLock;
use prometheus_client::registry::Registry as MetricRegistry;
use tokio::sync::watch;

pub use config::Encryption;
pub(crate) use store::SealedStore;

use super::REGISTRY_PREFIX;
use crate::config_file;
use crate::metrics::Counted;
use crate::serve::stopped;
use cipher::{Provider, Sealer};
use metrics::Metrics;
use plugin::{Fault, Patience};

/// How every sealed value begins.
pub(crate) const SEALED: &[u8] = b"k8s:enc:";

/// A group and a resource (plural); `*` for any.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupResource {
    group: String,
    resource: String,
}

impl GroupResource {
    fn new(group: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }
}

impl std::fmt::Display for GroupResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.group.is_empty() {
            true => f.write_str(&self.resource),
            false => write!(f, "{}.{}", self.resource, self.group),
        }
    }
}

/// `--encryption-provider-config`, read once or whenever it changes.
#[derive(Clone, Debug)]
pub struct EncryptionFile {
    pub path: PathBuf,
    /// What the file says now.
    pub text: String,
    /// `--encryption-provider-config-automatic-reload`.
    pub reload: bool,
    /// Upstream's `APIServerID`, for metrics.
    pub server_id: String,
}

/// Between two attempts to take over a changed file that could not be used.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long the plugins of a changed file have to be well, at least; otherwise twice the sum of their timeouts.
const PLUGINS_WELL_WITHIN: Duration = Duration::from_secs(10);
const ASK_PLUGINS_EVERY: Duration = Duration::from_millis(100);

/// Seals and opens values by the configuration in force.
#[derive(Debug)]
pub(crate) struct Sealing {
    current: RwLock<Arc<Encryption>>,
    /// Resources by storage prefix (`services/specs`); those of definitions have their group and resource in the key.
    by_prefix: HashMap<String, GroupResource>,
    metrics: Metrics,
    /// Every plugin was asked for its state once: before, nothing can be sealed by one.
    primed: watch::Sender<bool>,
    /// Counts the times at which values became readable that were handed on sealed.
    readable: watch::Sender<u64>,
    /// Some value was handed on sealed under the configuration in force.
    any_unreadable: AtomicBool,
}

/// A value as it was before it was sealed.
#[derive(Debug)]
struct Opened {
    pub value: Bytes,
    /// Sealed otherwise than a write of today would: to be written again when there is a reason to.
    pub is_stale: bool,
}

impl Counted for Sealing {
    fn register(&self, registry: &mut MetricRegistry) {
        self.metrics.register(registry);
    }

    fn reset(&self) {
        self.metrics.reset();
    }
}

impl Sealing {
    pub(crate) fn new(encryption: Encryption, kinds: &Registry) -> Self {
        let mut by_prefix = HashMap::new();
        for kind in kinds.kinds().iter().filter(|kind| !kind.storage_prefix.is_empty()) {
            let named = GroupResource::new(&kind.group, &kind.resource);
            // A resource of two groups counts as the older one's, which is stored first.
            let known = by_prefix.entry(kind.storage_prefix.to_string()).or_insert_with(|| named.clone());
            if kind.group.is_empty() {
                *known = named;
            }
        }
        Self {
            primed: watch::Sender::new(encryption.plugins().is_empty()),
            current: RwLock::new(Arc::new(encryption)),
            by_prefix,
            metrics: Metrics::default(),
            readable: watch::Sender::default(),
            any_unreadable: AtomicBool::default(),
        }
    }

    /// Asks the plugins for their states, now and until the server stops, and follows the file if that is wanted.
    pub(crate) fn start(self: &Arc<Self>, file: EncryptionFile, shutdown: watch::Receiver<bool>) {
        self.metrics.set_server(&file.server_id);
        self.metrics.in_force(&file.text);
        let (sealing, encryption) = (Arc::clone(self), Arc::clone(&self.current.read()));
        tokio::spawn(async move {
            sealing.watch_over(&encryption, &shutdown);
            for plugin in encryption.plugins() {
                // Whoever watches over it says what is wrong.
                let _asked = plugin.check(&sealing.metrics).await;
            }
            sealing.primed.send_replace(true);
            drop(encryption);
            if file.reload {
                sealing.follow(file, shutdown).await;
            }
        });
    }

    fn watch_over(&self, encryption: &Encryption, shutdown: &watch::Receiver<bool>) {
        for plugin in encryption.plugins() {
            let (metrics, readable) = (self.metrics.clone(), self.readable.clone());
            tokio::spawn(Arc::clone(plugin).watch_over(metrics, readable, shutdown.clone()));
        }
    }

    async fn primed(&self) {
        if !*self.primed.borrow() {
            let _sender_lives_in_self = self.primed.subscribe().wait_for(|primed| *primed).await.is_ok();
        }
    }

    fn readable(&self) -> watch::Receiver<u64> {
        self.readable.subscribe()
    }

    /// Are there plugins, of which health checks tell?
    pub(crate) fn has_plugins(&self) -> bool {
        !self.current.read().plugins().is_empty()
    }

    /// What is wrong with the plugins, in upstream's words.
    pub(crate) async fn check_plugins(&self) -> Result<(), String> {
        let encryption = Arc::clone(&self.current.read());
        check_plugins(&encryption, &self.metrics).await
    }

    /// Follows the configuration's file; a file that cannot be used changes nothing, and is tried again.
    async fn follow(self: Arc<Self>, file: EncryptionFile, mut shutdown: watch::Receiver<bool>) {
        let (mut current, mut pause) = (file.text, config_file::LOOK_EVERY);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut shutdown) => return,
            }
            let text = match config_file::read(&file.path).await {
                Ok(text) if text != current => text,
                Ok(_same) => {
                    pause = config_file::LOOK_EVERY;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, path = %file.path.display(), "cannot read a configuration file again");
                    continue;
                }
            };
            let taken = self.take(&text, &shutdown).await;
            self.metrics.reloaded(taken.is_ok());
            match taken {
                Ok(()) => {
                    self.metrics.in_force(&text);
                    (current, pause) = (text, config_file::LOOK_EVERY);
                    tracing::info!("the encryption configuration was read again");
                }
                Err(error) => {
                    pause = (pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                    tracing::error!(%error, "the changed encryption configuration is not used");
                }
            }
        }
    }

    /// A new configuration, once its plugins are well.
    async fn take(&self, text: &str, shutdown: &watch::Receiver<bool>) -> Result<(), String> {
        let encryption = Encryption::parse(text)?;
        let timeouts: Duration = encryption.plugins().iter().map(|plugin| plugin.settings().timeout).sum();
        let mut last = Ok(());
        let checks = async {
            loop {
                last = check_plugins(&encryption, &self.metrics).await;
                if last.is_ok() {
                    return;
                }
                tokio::time::sleep(ASK_PLUGINS_EVERY).await;
            }
        };
        let in_time = tokio::time::timeout(PLUGINS_WELL_WITHIN.max(timeouts * 2), checks).await;
        if in_time.is_err() {
            let reason = last.err().unwrap_or_else(|| "context deadline exceeded".to_owned());
            return Err(format!(
                "health check for new transformers failed, polling error timed out waiting for the condition: {reason}"
            ));
        }
        self.watch_over(&encryption, shutdown);
        *self.current.write() = Arc::new(encryption);
        if self.any_unreadable.swap(false, Ordering::Relaxed) {
            self.readable.send_modify(|times| *times += 1);
        }
        Ok(())
    }

    /// The resource whose object a key names.
    fn resource(&self, key: &[u8]) -> Option<GroupResource> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(REGISTRY_PREFIX)?;
        let cuts = path.match_indices('/').map(|(at, _)| at);
        let builtin = cuts.take(3).find_map(|cut| self.by_prefix.get(&path[..cut]));
        builtin.cloned().or_else(|| {
            let mut segments = path.splitn(3, '/');
            let (group, resource, _name) = (segments.next()?, segments.next()?, segments.next()?);
            // The groups of definitions have a dot in them; other keys are not objects (addresses of masters, bitmaps).
            group.contains('.').then(|| GroupResource::new(group, resource))
        })
    }

    /// A value on its way to the store.
    fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, Fault> {
        let Some(resource) = self.resource(key) else { return Ok(value) };
        let encryption = Arc::clone(&self.current.read());
        let Some(provider) = encryption.providers(&resource).and_then(<[Provider]>::first) else { return Ok(value) };
        let mut out = provider.prefix.clone();
        let sealed = match &provider.sealer {
            Sealer::Identity => return Ok(value),
            Sealer::Key(cipher) => self.metrics.sealing(&resource, provider, || {
                cipher.seal(key, &value, &mut out);
                Ok(())
            }),
            Sealer::Plugin(plugin) => self.metrics.sealing(&resource, provider, || {
                out.extend_from_slice(&plugin.seal(&self.metrics, key, &value)?);
                Ok(())
            }),
        };
        sealed.map(|()| out.into())
    }

    /// A value on its way back. An error: a plugin did not decrypt what it is sealed by.
    async fn open(&self, key: &[u8], value: Bytes, patience: Patience) -> Result<Opened, Fault> {
        let is_sealed = value.starts_with(SEALED);
        let Some(resource) = self.resource(key) else { return Ok(Opened { value, is_stale: false }) };
        let encryption = Arc::clone(&self.current.read());
        let Some(providers) = encryption.providers(&resource) else { return Ok(Opened { value, is_stale: false }) };
        let mut refused = None;
        for (at, provider) in providers.iter().enumerate() {
            let Some(sealed) = value.strip_prefix(provider.prefix.as_slice()) else { continue };
            // The same key name may stand in two places, and the first may not be the one.
            match &provider.sealer {
                Sealer::Identity if is_sealed => {}
                Sealer::Identity => return Ok(Opened { value, is_stale: at != 0 }),
                Sealer::Key(cipher) => {
                    let opened = self.metrics.opening(&resource, provider, async { cipher.open(key, sealed) }).await;
                    if let Ok(opened) = opened {
                        return Ok(Opened { value: opened.into(), is_stale: at != 0 });
                    }
                }
                Sealer::Plugin(plugin) => {
                    let opening = plugin.open(&self.metrics, key, sealed, patience);
                    match self.metrics.opening(&resource, provider, opening).await {
                        Ok((opened, is_stale)) => {
                            return Ok(Opened { value: opened.into(), is_stale: is_stale || at != 0 });
                        }
                        Err(fault) => refused = Some(fault),
                    }
                }
            }
        }
        self.any_unreadable.store(true, Ordering::Relaxed);
        if let Some(fault) = refused {
            tracing::debug!(key = %String::from_utf8_lossy(key), error = fault.text, "failed to decrypt data");
            return Err(fault);
        }
        self.metrics.unknown(&resource);
        // Not readable without its provider, also when it is not sealed at all: nobody configured that it may be in the clear.
        tracing::debug!(key = %String::from_utf8_lossy(key), "no matching prefix found");
        Ok(Opened { value: if is_sealed { value } else { Bytes::from_static(SEALED) }, is_stale: false })
    }
}

async fn check_plugins(encryption: &Encryption, metrics: &Metrics) -> Result<(), String> {
    let mut faults = Vec::new();
    for (at, plugin) in encryption.plugins().iter().enumerate() {
        faults.extend(plugin.check(metrics).await.err().map(|error| format!("kms-provider-{at}: {error}")));
    }
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}
