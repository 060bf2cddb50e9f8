//! Key management plugins, version 2: the key that seals is elsewhere, and only seals seeds.
//!
//! A server makes a seed, has the plugin encrypt it once, and seals every value by a key derived from the seed. The encrypted seed
//! lies beside each value, so that whoever reaches the plugin can read it. The plugin is asked for its state every minute: when the
//! id of its key has changed, a new seed is made, and what was written under another id is stale. A plugin that does not answer
//! stops no reads of seeds that are known, and writes only after [`WRITE_TTL`].
//! Source: KEP-3299; `encryptionconfig/config.go` and `kmsv2/envelope.go` of Kubernetes.

mod client;
mod envelope;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;
use tonic::Code;

use super::metrics::Metrics;
use crate::serve::stopped;
use client::{CallError, Client};
pub(super) use envelope::shown_hash;
use envelope::{Dek, DekId, validate, validate_key_id};
use proto::{DecryptRequest, EncryptedDekSourceType, EncryptedObject, StatusResponse};

/// The wire types.
pub(super) mod proto {
    #![allow(unreachable_pub, clippy::all, missing_docs)]
    tonic::include_proto!("v2");
}

/// How often a plugin that is well is asked for its state, and one that is not.
const ASK_EVERY: Duration = Duration::from_secs(60);
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// How long an answer is believed by who asks for the server's health.
const WELL_FOR: Duration = Duration::from_secs(20);
const UNWELL_FOR: Duration = Duration::from_secs(3);
/// How long a seed seals after the plugin was last well.
const WRITE_TTL: Duration = Duration::from_secs(3 * 60);
/// How long a decrypted seed is kept after it was decrypted, or has sealed last.
const DEK_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Data keys that could not be decrypted and are tried again; one a start of a server is usual, and no more is worth the calls.
const WAITING_MAX: usize = 1_000;

/// Why a value cannot be sealed or opened.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub text: String,
    /// What the plugin said, if it was asked.
    pub code: Option<Code>,
}

impl Fault {
    /// Nobody was there: the next attempt may find somebody.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self.code, Some(Code::Unavailable | Code::DeadlineExceeded))
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self { text, code: None }
    }
}

/// Where a plugin is, as the configuration says.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub name: String,
    pub socket: PathBuf,
    pub timeout: Duration,
}

/// One plugin, and what it has decrypted.
#[derive(Debug)]
pub(super) struct Plugin {
    settings: Settings,
    client: Client,
    /// What seals. `None` until the plugin was well once.
    current: RwLock<Option<Arc<Current>>>,
    probe: AsyncMutex<Probe>,
    /// Decrypted, until when.
    deks: Mutex<HashMap<DekId, (Arc<Dek>, Instant)>>,
    /// Not decrypted, and asked for when last.
    waiting: Mutex<HashMap<DekId, Waiting>>,
}

/// A seed in use.
#[derive(Debug)]
struct Current {
    dek: Arc<Dek>,
    id: DekId,
    /// All but the value.
    envelope: EncryptedObject,
    /// When sealing ends, as far as is known now.
    expires: RwLock<Instant>,
}

#[derive(Debug, Default)]
struct Probe {
    /// When the plugin was asked last, and what followed.
    last: Option<(Instant, Result<(), String>)>,
    /// What it said its version is, the first time.
    version: String,
}

#[derive(Debug)]
struct Waiting {
    request: DecryptRequest,
    kind: EncryptedDekSourceType,
    last: Instant,
    fault: Fault,
}

/// How much a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The plugin is asked in any case.
    Ask,
    /// A data key that was refused a moment ago is not asked for again: many values have the same.
    Moment,
}

impl Plugin {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            client: Client::new(&settings.name, settings.socket.clone(), settings.timeout),
            settings,
            current: RwLock::default(),
            probe: AsyncMutex::default(),
            deks: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks for the plugin's state until the server stops or nobody needs the plugin; `readable` learns what became readable.
    pub(super) async fn watch_over(
        self: Arc<Self>,
        metrics: Metrics,
        readable: watch::Sender<u64>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        loop {
            let is_well = match self.check(&metrics).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(name = self.settings.name, error, "kms plugin failed health check probe");
                    false
                }
            };
            if is_well && self.retry(&metrics).await {
                readable.send_modify(|times| *times += 1);
            }
            // Only this task and nobody else: the configuration that named it is gone.
            if Arc::strong_count(&self) == 1 {
                return;
            }
            let pause = if is_well { ASK_EVERY } else { ASK_AGAIN_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut shutdown) => return,
            }
        }
    }

    /// Is the plugin well? What it said a moment ago counts. Makes a new seed when its key has changed.
    pub(super) async fn check(&self, metrics: &Metrics) -> Result<(), String> {
        let mut probe = self.probe.lock().await;
        if let Some((at, last)) = &probe.last
            && at.elapsed() < if last.is_ok() { WELL_FOR } else { UNWELL_FOR }
        {
            return last.clone();
        }
        let name = &self.settings.name;
        // What is remembered is the reason itself, as upstream has it.
        let (remembered, said) = match self.client.status(metrics).await {
            Err(error) => {
                let text = format!(
                    "failed to perform status section of the healthz check for KMS Provider {name}, error: {error}"
                );
                (Err(error.to_string()), Err(text))
            }
            Ok(status) => match self.judge(metrics, &mut probe.version, &status).await {
                Ok(()) => (Ok(()), Ok(())),
                Err(reason) => {
                    let text = format!("kmsv2 Provider {name} is not healthy, error: {reason}");
                    (Err(text.clone()), Err(text))
                }
            },
        };
        probe.last = Some((Instant::now(), remembered));
        said
    }

    async fn judge(&self, metrics: &Metrics, version: &mut String, status: &StatusResponse) -> Result<(), String> {
        let mut faults = Vec::new();
        if status.healthz != "ok" {
            faults.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            faults.push(format!("expected KMSv2 API version v2, got {}", status.version));
        } else if version.is_empty() {
            version.clone_from(&status.version);
        } else if *version != status.version {
            faults.push(format!(
                "KMSv2 API version should not change after the initial status response version {version}, got {}",
                status.version
            ));
        }
        match validate_key_id(&status.key_id) {
            Err((label, error)) => {
                metrics.invalid_key_id(&self.settings.name, label);
                faults.push(format!("got invalid KMSv2 KeyID hash {:?}: {error}", shown_hash(&status.key_id)));
            }
            Ok(()) => {
                metrics.key_id_seen(&self.settings.name, &status.key_id);
                faults.extend(self.rotate(metrics, &status.key_id).await.err());
            }
        }
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// Goes on with the seed, or takes a new one when the plugin's key is another. A failure leaves things as they are.
    async fn rotate(&self, metrics: &Metrics, key_id: &str) -> Result<(), String> {
        // From before the call: the limit is an upper one.
        let expires = Instant::now() + WRITE_TTL;
        let before = self.current.read().clone();
        if let Some(current) = before.as_ref().filter(|current| current.envelope.key_id == key_id) {
            *current.expires.write() = expires;
            return Ok(());
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let (generated, encrypted_by) = match self.generate(metrics, &uid).await {
            Ok((dek, envelope)) if envelope.key_id == key_id => {
                let id = DekId::of(&envelope);
                let dek = Arc::new(dek);
                let current = Current { dek, id, envelope, expires: RwLock::new(expires) };
                *self.current.write() = Some(Arc::new(current));
                tracing::info!(name = self.settings.name, uid, "a new seed seals");
                return Ok(());
            }
            Ok((_, envelope)) => ("<nil>".to_owned(), envelope.key_id),
            Err(error) => (error, String::new()),
        };
        let state = before.as_ref().map_or("", |current| current.envelope.key_id.as_str());
        let no_state = if before.is_none() { "got unexpected nil transformer" } else { "<nil>" };
        Err(format!(
            "failed to rotate DEK uid={uid:?}, useSeed=true, errState={no_state}, errGen={generated}, statusKeyIDHash={:?}, \
             encryptKeyIDHash={:?}, stateKeyIDHash={:?}",
            shown_hash(key_id),
            shown_hash(&encrypted_by),
            shown_hash(state),
        ))
    }

    /// A new seed, and what will stand beside values.
    async fn generate(&self, metrics: &Metrics, uid: &str) -> Result<(Dek, EncryptedObject), String> {
        let (dek, seed) = Dek::generate();
        let answer = self
            .client
            .encrypt(metrics, uid, &seed)
            .await
            .map_err(|error| format!("failed to encrypt DEK, error: {error}"))?;
        let mut envelope = EncryptedObject {
            // Anything, to be checked.
            encrypted_data: vec![0],
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed.into(),
        };
        validate(&envelope)?;
        envelope.encrypted_data.clear();
        Ok((dek, envelope))
    }

    /// What is stored of a value, behind the prefix.
    pub(super) fn seal(&self, metrics: &Metrics, key: &[u8], value: &[u8]) -> Result<Vec<u8>, Fault> {
        let current = self.current.read().clone();
        let current = current.ok_or_else(|| "got unexpected nil transformer".to_owned())?;
        let late = Instant::now().saturating_duration_since(*current.expires.read());
        if !late.is_zero() {
            let now = jiff::Timestamp::now();
            let expired = now.checked_sub(jiff::SignedDuration::try_from(late).unwrap_or_default()).unwrap_or(now);
            return Err(Fault::from(format!(
                "encryptedDEKSource with keyID hash {:?} expired at {expired:.0} (current time is {now:.0})",
                shown_hash(&current.envelope.key_id)
            )));
        }
        self.keep(metrics, current.id, Arc::clone(&current.dek));
        metrics.key_id_used("to_storage", &self.settings.name, &current.envelope.key_id);
        let object = EncryptedObject { encrypted_data: current.dek.seal(key, value), ..current.envelope.clone() };
        Ok(object.encode_to_vec())
    }

    /// The value, and whether it was sealed under another key than the plugin's present one.
    pub(super) async fn open(
        &self,
        metrics: &Metrics,
        key: &[u8],
        sealed: &[u8],
        patience: Patience,
    ) -> Result<(Vec<u8>, bool), Fault> {
        let object = EncryptedObject::decode(sealed).map_err(|error| Fault::from(error.to_string()))?;
        let kind = validate(&object)?;
        let id = DekId::of(&object);
        let known = self.deks.lock().get(&id).map(|(dek, _)| Arc::clone(dek));
        let dek = match known {
            Some(dek) => dek,
            None => {
                metrics.dek_missed();
                self.decrypt(metrics, id, kind, &object, patience).await?
            }
        };
        metrics.key_id_used("from_storage", &self.settings.name, &object.key_id);
        let value = dek.open(key, &object.encrypted_data)?;
        let is_current = self.current.read().as_ref().is_some_and(|current| {
            current.envelope.key_id == object.key_id
                && current.envelope.encrypted_dek_source_type == object.encrypted_dek_source_type
        });
        Ok((value, !is_current))
    }

    async fn decrypt(
        &self,
        metrics: &Metrics,
        id: DekId,
        kind: EncryptedDekSourceType,
        object: &EncryptedObject,
        patience: Patience,
    ) -> Result<Arc<Dek>, Fault> {
        if patience == Patience::Moment
            && let Some(waiting) = self.waiting.lock().get(&id)
            && waiting.last.elapsed() < UNWELL_FOR
        {
            return Err(waiting.fault.clone());
        }
        let request = DecryptRequest {
            ciphertext: object.encrypted_dek_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        self.ask(metrics, id, kind, request).await
    }

    async fn ask(
        &self,
        metrics: &Metrics,
        id: DekId,
        kind: EncryptedDekSourceType,
        request: DecryptRequest,
    ) -> Result<Arc<Dek>, Fault> {
        let refused =
            |error: CallError| Fault { text: format!("failed to decrypt DEK, error: {error}"), code: Some(error.code) };
        let decrypted = match self.client.decrypt(metrics, &request).await {
            Ok(source) => Dek::from_source(kind, &source).map_err(Fault::from),
            Err(error) => Err(refused(error)),
        };
        match decrypted {
            Ok(dek) => {
                let dek = Arc::new(dek);
                self.waiting.lock().remove(&id);
                self.keep(metrics, id, Arc::clone(&dek));
                Ok(dek)
            }
            Err(fault) => {
                let mut waiting = self.waiting.lock();
                if waiting.len() < WAITING_MAX || waiting.contains_key(&id) {
                    waiting.insert(id, Waiting { request, kind, last: Instant::now(), fault: fault.clone() });
                }
                Err(fault)
            }
        }
    }

    /// Asks again for what was refused. Is anything readable now that was not?
    async fn retry(&self, metrics: &Metrics) -> bool {
        let waiting: Vec<_> =
            self.waiting.lock().iter().map(|(id, waiting)| (*id, waiting.kind, waiting.request.clone())).collect();
        let mut any = false;
        for (id, kind, request) in waiting {
            match self.ask(metrics, id, kind, request).await {
                Ok(_kept) => any = true,
                Err(fault) if fault.is_absence() => break,
                Err(fault) => tracing::warn!(name = self.settings.name, error = fault.text, "a data key stays sealed"),
            }
        }
        any
    }

    fn keep(&self, metrics: &Metrics, id: DekId, dek: Arc<Dek>) {
        let mut deks = self.deks.lock();
        let now = Instant::now();
        if deks.insert(id, (dek, now + DEK_TTL)).is_none() {
            deks.retain(|_, (_, until)| *until > now);
            metrics.deks_kept(&self.settings.name, deks.len());
        }
    }
}
