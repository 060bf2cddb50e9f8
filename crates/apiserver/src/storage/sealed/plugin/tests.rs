//! A plugin of our own at a socket, and a store behind what it seals.

use std::sync::atomic::{AtomicUsize, Ordering};

use api::kinds;
use bytes::Bytes;
use store::{EmbeddedConfig, EmbeddedStore, KeyRange, RangeRequest, Store, WatchRequest};
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::proto::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use super::proto::{DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest};
use super::*;
use crate::storage::sealed::{Encryption, EncryptionFile, SealedStore, Sealing};
use crate::storage::{ObjectKey, Objects, WriteOutcome};

/// Seals by turning every bit, and says by which key.
#[derive(Debug)]
struct Vault {
    key_id: Mutex<String>,
    /// What everything is answered with instead.
    fault: Mutex<Option<Status>>,
    decrypted: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Door(Arc<Vault>);

impl Door {
    fn answer<T>(&self, answer: T) -> Result<Response<T>, Status> {
        self.0.fault.lock().clone().map_or_else(|| Ok(Response::new(answer)), Err)
    }
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

#[tonic::async_trait]
impl KeyManagementService for Door {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let key_id = self.0.key_id.lock().clone();
        self.answer(StatusResponse { version: "v2".to_owned(), healthz: "ok".to_owned(), key_id })
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let key_id = self.0.key_id.lock().clone();
        let annotations = [("vault.example.com".to_owned(), b"1".to_vec())].into();
        self.answer(EncryptResponse { ciphertext: turned(&request.into_inner().plaintext), key_id, annotations })
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.0.decrypted.fetch_add(1, Ordering::Relaxed);
        let request = request.into_inner();
        assert_eq!(request.annotations["vault.example.com"], b"1");
        self.answer(DecryptResponse { plaintext: turned(&request.ciphertext) })
    }
}

/// A running plugin, an empty store, and the servers that come and go before it.
struct World {
    dir: tempfile::TempDir,
    vault: Arc<Vault>,
    store: Arc<dyn Store>,
    _running: watch::Sender<bool>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault =
            Vault { key_id: Mutex::new("1".to_owned()), fault: Mutex::default(), decrypted: AtomicUsize::new(0) };
        let (vault, listener) = (Arc::new(vault), UnixListener::bind(dir.path().join("kms.sock")).unwrap());
        let incoming = futures::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let service = KeyManagementServiceServer::new(Door(Arc::clone(&vault)));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let opened = tokio::task::spawn_blocking(|| EmbeddedStore::open(EmbeddedConfig::default())).await.unwrap();
        Self { dir, vault, store: Arc::new(opened.unwrap()), _running: watch::Sender::new(false) }
    }

    fn file(&self) -> EncryptionFile {
        let text = format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  \
             providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}/kms.sock'}}}}]\n",
            self.dir.path().display()
        );
        EncryptionFile { path: self.dir.path().join("none"), text, reload: false, server_id: "apiserver-a".to_owned() }
    }

    /// A server that has just started.
    async fn server(&self) -> (Arc<Sealing>, SealedStore, Objects) {
        let file = self.file();
        let sealing = Arc::new(Sealing::new(Encryption::parse(&file.text).unwrap(), kinds::builtin()));
        sealing.start(file, self._running.subscribe());
        sealing.primed().await;
        let store = SealedStore::new(Arc::clone(&self.store), Arc::clone(&sealing));
        (sealing, store.clone(), Objects::sealed(store, Duration::from_secs(60)))
    }

    /// What lies in the store itself.
    async fn stored(&self, name: &str) -> Bytes {
        let range = KeyRange::key(secret(name).bytes().clone());
        self.store.range(RangeRequest { range, ..RangeRequest::default() }).await.unwrap().kvs.remove(0).value
    }

    fn decrypted(&self) -> usize {
        self.vault.decrypted.load(Ordering::Relaxed)
    }

    fn say(&self, fault: Option<Status>) {
        *self.vault.fault.lock() = fault;
    }
}

fn secret(name: &str) -> ObjectKey {
    ObjectKey::new(kinds::builtin().by_resource("", "v1", "secrets").unwrap(), "default", name)
}

const VALUE: &[u8] = br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#;

async fn write(objects: &Objects, name: &str) {
    let written = objects.create(&secret(name), Bytes::from_static(VALUE), false).await.unwrap();
    assert!(matches!(written, WriteOutcome::Written(_)));
}

/// Lets time pass for what has a limit, but not for what is on its way.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn values_lie_sealed_beside_their_seed_and_are_read_after_a_restart() {
    let world = World::new().await;
    let (_, _, objects) = world.server().await;
    write(&objects, "a").await;
    write(&objects, "b").await;
    let stored = world.stored("a").await;
    let sealed = stored.strip_prefix(b"k8s:enc:kms:v2:vault:").expect("the plugin's prefix");
    let object = EncryptedObject::decode(sealed).unwrap();
    assert_eq!((object.key_id.as_str(), object.encrypted_dek_source.len()), ("1", 32));
    assert_eq!(object.encrypted_dek_source_type(), EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed);
    assert_eq!(object.annotations["vault.example.com"], b"1");
    // 32 bytes that derive the key, a nonce, the value and its tag.
    assert_eq!(object.encrypted_data.len(), 32 + 12 + VALUE.len() + 16);
    assert!(!stored.windows(6).any(|part| part == b"Secret"));
    let other = world.stored("b").await;
    let other = EncryptedObject::decode(other.strip_prefix(b"k8s:enc:kms:v2:vault:").unwrap()).unwrap();
    assert_eq!(other.encrypted_dek_source, object.encrypted_dek_source, "one seed for all values");
    assert_ne!(other.encrypted_data[..32], object.encrypted_data[..32]);

    assert_eq!(world.decrypted(), 0, "whoever made the seed need not ask for it");
    let (_, _, objects) = world.server().await;
    for name in ["a", "b"] {
        let found = objects.get(&secret(name)).await.unwrap().unwrap();
        assert_eq!((found.value.as_ref(), found.is_stale), (VALUE, false));
    }
    assert_eq!(world.decrypted(), 1);
}

#[tokio::test]
async fn a_new_key_of_the_plugin_makes_a_new_seed_and_old_values_stale() {
    let world = World::new().await;
    let (sealing, _, objects) = world.server().await;
    write(&objects, "a").await;
    "2".clone_into(&mut world.vault.key_id.lock());
    sealing.check_plugins().await.unwrap();
    assert!(!objects.get(&secret("a")).await.unwrap().unwrap().is_stale, "what was said a moment ago counts");
    pass(WELL_FOR).await;
    sealing.check_plugins().await.unwrap();
    let found = objects.get(&secret("a")).await.unwrap().unwrap();
    assert_eq!((found.value.as_ref(), found.is_stale), (VALUE, true));
    objects.update(&secret("a"), found.value, found.mod_revision, false).await.unwrap();
    let stored = world.stored("a").await;
    assert_eq!(EncryptedObject::decode(&stored[b"k8s:enc:kms:v2:vault:".len()..]).unwrap().key_id, "2");
    assert!(!objects.get(&secret("a")).await.unwrap().unwrap().is_stale);
}

#[tokio::test]
async fn without_the_plugin_writes_end_after_three_minutes_and_known_seeds_are_read() {
    let world = World::new().await;
    let (sealing, _, objects) = world.server().await;
    write(&objects, "a").await;
    world.say(Some(Status::internal("no vault today")));
    pass(WELL_FOR).await;
    assert_eq!(
        sealing.check_plugins().await.unwrap_err(),
        "kms-provider-0: failed to perform status section of the healthz check for KMS Provider vault, error: rpc error: code = \
         Internal desc = no vault today"
    );
    write(&objects, "b").await;
    pass(WRITE_TTL).await;
    let refused = objects.create(&secret("c"), Bytes::from_static(VALUE), false).await.unwrap_err().to_string();
    let hash = shown_hash("1");
    assert!(refused.starts_with(&format!("encryptedDEKSource with keyID hash \"{hash}\" expired at ")), "{refused}");
    assert_eq!(objects.get(&secret("a")).await.unwrap().unwrap().value.as_ref(), VALUE);
    // It comes back with the same key: the seed goes on.
    world.say(None);
    pass(UNWELL_FOR).await;
    sealing.check_plugins().await.unwrap();
    write(&objects, "c").await;
    assert_eq!(world.decrypted(), 0);
}

#[tokio::test]
async fn what_cannot_be_read_yet_is_read_when_the_plugin_comes_back() {
    let world = World::new().await;
    let (_, _, objects) = world.server().await;
    write(&objects, "a").await;
    world.say(Some(Status::unavailable("starting")));
    let (sealing, store, objects) = world.server().await;
    let error = objects.get(&secret("a")).await.unwrap_err().to_string();
    assert_eq!(error, "failed to decrypt DEK, error: rpc error: code = Unavailable desc = starting");
    let all = || RangeRequest { range: KeyRange::prefix("/registry/"), ..RangeRequest::default() };
    let error = store.range(all()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("unable to transform key \"/registry/secrets/default/a\": failed to decrypt DEK"),
        "{error}"
    );
    let refused = objects.create(&secret("c"), Bytes::from_static(VALUE), false).await.unwrap_err();
    assert_eq!(refused.to_string(), "got unexpected nil transformer");

    let request = WatchRequest { range: KeyRange::prefix("/registry/"), ..WatchRequest::default() };
    let mut watching = store.watch(request).await.unwrap();
    world.say(None);
    // Whoever watches over the plugin asks every ten seconds.
    pass(ASK_AGAIN_EVERY).await;
    assert!(watching.next().await.unwrap().is_err(), "to be read again");
    assert_eq!(store.range(all()).await.unwrap().kvs[0].value.as_ref(), VALUE);
    assert!(sealing.check_plugins().await.is_ok());
}

#[tokio::test]
async fn a_plugin_that_is_not_there_is_waited_for_as_long_as_a_call_takes() {
    let timeout = Duration::from_millis(250);
    let socket = PathBuf::from("/none/kms.sock");
    let plugin = Plugin::new(Settings { name: "vault".to_owned(), socket, timeout });
    assert_eq!(
        plugin.check(&Metrics::default()).await.unwrap_err(),
        "failed to perform status section of the healthz check for KMS Provider vault, error: rpc error: code = DeadlineExceeded \
         desc = latest balancer error: connection error: desc = \"transport: Error while dialing: dial unix /none/kms.sock: connect: \
         no such file or directory\""
    );
}
