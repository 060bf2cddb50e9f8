//! Encryption at rest: values are sealed on their way to the store and opened on their way back.
//!
//! A sealed value is upstream's: `k8s:enc:PROVIDER:v1:KEY:` and what the provider makes of the object's bytes, so that data can
//! move between the two. [`SealedStore`] stands before the store only when a configuration was given; without one nothing of this
//! is on the path of a request. What cannot be opened is handed on as it is, and is an error where it is read as an object.
//! Source: Kubernetes, "Encrypting Confidential Data at Rest"; `apiserver.config.k8s.io/v1` EncryptionConfiguration.

mod cipher;
mod config;
mod metrics;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ::bytes::Bytes;
use api::kinds::Registry;
use parking_lot::RwLock;
use prometheus_client::registry::Registry as MetricRegistry;
use tokio::sync::watch;

pub use config::Encryption;
pub(crate) use store::SealedStore;

use super::REGISTRY_PREFIX;
use crate::config_file;
use cipher::Provider;
use metrics::Metrics;

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
}

/// Seals and opens values by the configuration in force.
#[derive(Debug)]
pub(crate) struct Sealing {
    current: RwLock<Arc<Encryption>>,
    /// Resources by storage prefix (`services/specs`); those of definitions have their group and resource in the key.
    by_prefix: HashMap<String, GroupResource>,
    metrics: Metrics,
}

/// A value as it was before it was sealed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub value: Bytes,
    /// Sealed otherwise than a write of today would: to be written again when there is a reason to.
    pub is_stale: bool,
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
        Self { current: RwLock::new(Arc::new(encryption)), by_prefix, metrics: Metrics::default() }
    }

    pub(crate) fn register(&self, registry: &mut MetricRegistry) {
        self.metrics.register(registry);
    }

    /// Follows the configuration's file; a file that cannot be used changes nothing.
    pub(crate) async fn follow(self: Arc<Self>, file: EncryptionFile, shutdown: watch::Receiver<bool>) {
        config_file::follow(file.path, file.text, shutdown, |text| {
            let parsed = Encryption::parse(text);
            self.metrics.reloaded(parsed.is_ok());
            match parsed {
                Ok(encryption) => {
                    *self.current.write() = Arc::new(encryption);
                    tracing::info!("the encryption configuration was read again");
                }
                Err(error) => tracing::error!(%error, "the changed encryption configuration is not used"),
            }
        })
        .await;
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
    fn seal(&self, key: &[u8], value: Bytes) -> Bytes {
        let Some(resource) = self.resource(key) else { return value };
        let encryption = Arc::clone(&self.current.read());
        match encryption.providers(&resource).and_then(<[Provider]>::first) {
            None | Some(Provider { cipher: None, .. }) => value,
            Some(provider) => self.metrics.sealing(&resource, provider, || provider.seal(key, &value)),
        }
    }

    /// A value on its way back.
    pub(crate) fn open(&self, key: &[u8], value: Bytes) -> Opened {
        let is_sealed = value.starts_with(SEALED);
        let Some(resource) = self.resource(key) else { return Opened { value, is_stale: false } };
        let encryption = Arc::clone(&self.current.read());
        let Some(providers) = encryption.providers(&resource) else { return Opened { value, is_stale: false } };
        for (at, provider) in providers.iter().enumerate() {
            let Some(cipher) = &provider.cipher else {
                match is_sealed {
                    true => continue,
                    false => return Opened { value, is_stale: at != 0 },
                }
            };
            let Some(sealed) = value.strip_prefix(provider.prefix.as_slice()) else { continue };
            // The same key name may stand in two places, and the first may not be the one.
            let opened = self.metrics.opening(&resource, provider, || cipher.open(key, sealed));
            if let Ok(opened) = opened {
                return Opened { value: opened.into(), is_stale: at != 0 };
            }
        }
        self.metrics.unknown(&resource);
        // Not readable without its provider, also when it is not sealed at all: nobody configured that it may be in the clear.
        tracing::debug!(key = %String::from_utf8_lossy(key), "no matching prefix found");
        Opened { value: if is_sealed { value } else { Bytes::from_static(SEALED) }, is_stale: false }
    }
}
