//! `quarterdeck server`: a whole master in one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use apiserver::ApiServer;
use apiserver::allocate::Cidr;
use apiserver::authz::SUPERUSER_GROUP;
use client::Shutdown;
use store::etcd::ServerTls;
use store::{ClusterState, EmbeddedConfig, EmbeddedStore, InitialMember, PeerConfig, PeerTls, Store};
use tokio::net::TcpListener;

use super::care::{self, Care, Ending};
use super::component_metrics::ComponentMetrics;
use super::components::{self, Authority, Components};
use super::elect::Elections;
use super::rejoin::{self, Restores};
use super::{print_line, renewal, tls};
use crate::args::ServerArgs;
use crate::backup::{BackupService, ServerInfo, Source};
use crate::control::{MasterControl, StatusSource};
use crate::join::{self, ClusterSettings, JoinMember, JoinServer, Joined, Lineage};
use crate::kubeconfig;
use crate::pki::{Identity, Pki, Purpose, San};

/// Names under which the API server is known inside a cluster.
const SERVICE_NAMES: [&str; 4] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
const ADMIN: &str = "kubernetes-admin";
/// Time without a leader until another is elected: masters are near each other, and a dead one must not be noticed.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(600);
/// Values that the store keeps in memory. The API server has every current object in its cache; what the store adds is for watches
/// that are behind and for writes.
const VALUE_CACHE_BYTES: usize = 32 << 20;
/// Handing over leadership takes one exchange of messages when others are well.
const RESIGN_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn server(mut args: ServerArgs, shutdown: Shutdown) -> Result<()> {
    if args.controllers.controllers == ["*"] {
        // A whole master lets machines join by bootstrap token, as kubeadm's does.
        args.controllers.controllers.extend(["bootstrapsigner", "tokencleaner"].map(str::to_owned));
    }
    components::check(&args.controllers)?;
    if args.witness {
        return witness(args, shutdown).await;
    }
    let joined = join_if_asked(&mut args).await?;
    let place = Place::open(&mut args)?;
    let store = open_store(&args, &place, joined.as_ref()).await?;
    let mut restores = Restores::new(place.pki.ca_pem(), &args);
    let store = join_again_if_restored(&mut args, &place, store, &mut restores).await?;
    let listener =
        TcpListener::bind((args.api_server.bind_address, args.api_server.secure_port)).await.with_context(|| {
            format!("cannot listen on {}:{}", args.api_server.bind_address, args.api_server.secure_port)
        })?;
    let address = listener.local_addr().context("listening address")?;
    let advertise_address =
        args.api_server.advertise_address.unwrap_or_else(|| own_address(args.api_server.bind_address));

    let ranges = components::service_ranges(&args.api_server)?;
    let sans = serving_names(&args, advertise_address, &ranges);
    let (certificate, key) = match (&args.tls_cert_file, &args.tls_private_key_file) {
        (Some(certificate), Some(key)) => (certificate.clone().into(), key.clone().into()),
        _ => place.pki.pems("apiserver", &Purpose::Serving(sans))?,
    };
    let purpose = Purpose::client("kube-apiserver-kubelet-client", &[SUPERUSER_GROUP]);
    let kubelet_client = place.pki.pems("apiserver-kubelet-client", &purpose)?;
    // A CA of its own: whoever has a certificate of it may speak for anybody.
    let purpose = Purpose::FrontProxy { user: components::FRONT_PROXY_USER.to_owned() };
    let front_proxy = place.pki.pems(components::FRONT_PROXY_USER, &purpose)?;
    let signing_key = place.pki.service_account_key()?;
    let trust = components::Trust {
        signing_key_pem: signing_key.clone(),
        client_ca_pem: place.pki.ca_pem().to_owned(),
        kubelet_client: Some(kubelet_client),
        front_proxy: Some((front_proxy, place.pki.front_proxy_ca_pem().to_owned())),
    };
    let own_ca = place.pki.ca_pem().as_bytes().to_vec().into();
    let users = std::iter::once(own_ca).chain(args.client_ca_file.clone().map(Into::into)).collect();
    let tls = tls::server_config(certificate, key, trust.client_cas(&args.api_server, users))?;
    let mut config =
        components::api_server_config(&args.api_server, store.as_dyn(), trust, advertise_address, address.port())?;
    let lineage = Lineage::read(&place.dir)?;
    let backup = backup_service(&args, &place, &store, lineage.clone())?;
    let join = join_server(&args, &place, &store, lineage);
    let metrics = ComponentMetrics::default();
    config.control = Some(Arc::new(MasterControl {
        backup: Arc::clone(&backup),
        status: StatusSource {
            store: store.as_dyn(),
            pki_dir: place.pki_dir(),
            started: jiff::Timestamp::now(),
            is_external: store.is_external(),
        },
        join: join.clone(),
        url: format!("https://{}", SocketAddr::new(advertise_address, address.port())),
        components: metrics.clone(),
    }));
    let api_server = ApiServer::start(config).context("the audit log")?;
    if let Some(join) = &join {
        join.open(components::as_master(&api_server)?);
    }
    let serving_task = tokio::spawn({
        let api_server = api_server.clone();
        async move { api_server.serve(listener, tls).await }
    });
    let store_api = serve_store(&args, &place, &store, &shutdown).await?;

    let identity = store.member_id().await.map(|id| format!("{}_{id:016x}", name(&args)));
    let (elections, pace) = Elections::new(&args.lease, identity, metrics.client.clone())?;
    let caring = store.embedded().map(|store| Care { store, pace, join, restores });
    let caring = caring.map(|care| tokio::spawn(care.run(shutdown.clone())));

    let url = local_url(address);
    let kubeconfigs = write_kubeconfigs(&place.pki, &place.dir, &url)?;
    let renewing = (!place.ephemeral).then(|| {
        let (pki, dir, url) = (Arc::clone(&place.pki), place.dir.clone(), url.clone());
        let kubeconfigs = move |pki: &Pki| write_kubeconfigs(pki, &dir, &url).map(drop);
        tokio::spawn(renewal::keep_valid(pki, kubeconfigs, shutdown.clone()))
    });
    tokio::select! {
        () = api_server.ready() => {}
        () = shutdown.cancelled() => {}
    }
    if !shutdown.is_cancelled() {
        print_line(&format!("export KUBECONFIG={}", kubeconfigs.display()));
        tracing::info!(%url, data_dir = %place.dir.display(), "ready");
    }
    let backing_up = tokio::spawn(backup.run(shutdown.clone()));
    let authority =
        Authority { ca_pem: place.pki.ca_pem(), ca_key_pem: place.pki.ca_key_pem(), signing_key_pem: &signing_key };
    let components = Components::start(&api_server, &args.controllers, &elections, &authority, &metrics, &shutdown)?;

    shutdown.cancelled().await;
    // Components give up their leases through the API, which writes at once if another store leads.
    store.resign().await;
    components.stopped().await;
    backing_up.await.context("the backup failed")?;
    if let Some(renewing) = renewing {
        renewing.await.context("the renewal of certificates failed")?;
    }
    api_server.stop();
    serving_task.await.context("the API server failed")?;
    if let Some(task) = store_api {
        task.await.context("the store's API failed")?;
    }
    store.close().await?;
    match caring {
        Some(caring) => match caring.await.context("the care for members failed")?? {
            Ending::Asked => Ok(()),
            Ending::Restored => rejoin::start_over(),
        },
        None => Ok(()),
    }
}

/// A member of the store and nothing else.
async fn witness(mut args: ServerArgs, shutdown: Shutdown) -> Result<()> {
    let joined = join_if_asked(&mut args).await?;
    let joined = joined.context("--witness: a witness joins masters that are there: give --join and --token")?;
    let place = Place::open(&mut args)?;
    let ServerStore::Embedded(store) = open_store(&args, &place, Some(&joined)).await? else {
        anyhow::bail!("--witness: a witness is a member of the masters' own store");
    };
    let renewing = tokio::spawn(renewal::keep_valid(Arc::clone(&place.pki), |_| Ok(()), shutdown.clone()));
    tracing::info!(name = joined.name, data_dir = %place.dir.display(), "the witness runs");
    let outcome = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            () = tokio::time::sleep(care::INTERVAL) => {}
        }
        if store.is_removed() {
            shutdown.cancel();
            break Err(care::removed());
        }
    };
    renewing.await.context("the renewal of certificates failed")?;
    tokio::task::spawn_blocking(move || store.shutdown()).await.context("closing the store")?;
    outcome
}

/// Where a server keeps what it has.
struct Place {
    dir: PathBuf,
    pki: Arc<Pki>,
    ephemeral: bool,
    /// Removes an ephemeral server's directory at the end.
    _temporary: Option<TemporaryDir>,
}

impl Place {
    /// The data directory, or a temporary one for an ephemeral server, whose addresses become free loopback ones.
    fn open(args: &mut ServerArgs) -> Result<Self> {
        if args.ephemeral {
            let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
            args.api_server.bind_address = loopback;
            args.api_server.secure_port = 0;
            args.api_server.advertise_address.get_or_insert(loopback);
            let temporary = TemporaryDir::create()?;
            let dir = temporary.0.clone();
            let pki = Arc::new(Pki::in_memory()?);
            return Ok(Self { dir, pki, ephemeral: true, _temporary: Some(temporary) });
        }
        std::fs::create_dir_all(&args.data_dir)
            .with_context(|| format!("cannot create {}", args.data_dir.display()))?;
        let dir = std::path::absolute(&args.data_dir).context("the data directory's path")?;
        let pki = Arc::new(Pki::open(&dir.join("pki"), args.certificate_validity_period)?);
        Ok(Self { dir, pki, ephemeral: false, _temporary: None })
    }

    /// Where certificates and keys are, when they are kept.
    fn pki_dir(&self) -> Option<PathBuf> {
        (!self.ephemeral).then(|| self.dir.join("pki"))
    }
}

/// The backup of this server. Nobody but this process writes to the store of a server that keeps it itself.
fn backup_service(
    args: &ServerArgs,
    place: &Place,
    store: &ServerStore,
    lineage: Lineage,
) -> Result<Arc<BackupService>> {
    let server = ServerInfo::of(std::env::args().skip(1), lineage);
    let source = Source { store: store.as_dyn(), pki_dir: place.pki_dir(), server };
    BackupService::new(source, args.backup.clone(), !store.is_external())
}

/// A directory in the system's temporary folder that only we can read, gone when dropped.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn create() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path =
            std::env::temp_dir().join(format!("quarterdeck-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove the temporary directory");
        }
    }
}

/// The store behind the API server.
enum ServerStore {
    Embedded(Arc<EmbeddedStore>),
    External(Arc<dyn Store>),
}

impl ServerStore {
    fn as_dyn(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::External(store) => Arc::clone(store),
        }
    }

    fn is_external(&self) -> bool {
        matches!(self, Self::External(_))
    }

    fn embedded(&self) -> Option<Arc<EmbeddedStore>> {
        match self {
            Self::Embedded(store) => Some(Arc::clone(store)),
            Self::External(_) => None,
        }
    }

    async fn resign(&self) {
        if let Self::Embedded(store) = self
            && tokio::time::timeout(RESIGN_PATIENCE, store.resign()).await.is_err()
        {
            tracing::warn!("no other master's store takes over in time");
        }
    }

    /// The embedded store's member.
    async fn member_id(&self) -> Option<u64> {
        let Self::Embedded(store) = self else { return None };
        store.status().await.ok().map(|status| status.member_id)
    }

    async fn close(self) -> Result<()> {
        match self {
            Self::External(_) => Ok(()),
            Self::Embedded(store) => {
                tokio::task::spawn_blocking(move || store.shutdown()).await.map_err(|error| anyhow!("store: {error}"))
            }
        }
    }
}

/// Lets this master in when it is to join and has not yet; what a joined master knows of its cluster.
async fn join_if_asked(args: &mut ServerArgs) -> Result<Option<Joined>> {
    if args.ephemeral || !args.etcd.etcd_servers.is_empty() {
        return Ok(None);
    }
    let joined = match (Joined::read(&args.data_dir)?, &args.join, &args.token) {
        (Some(joined), ..) => joined,
        (None, Some(url), Some(token)) => {
            let store = args.data_dir.join("store");
            anyhow::ensure!(
                !store.exists(),
                "{} belongs to another cluster: join with an empty data directory",
                store.display()
            );
            join::join(url, token, &name(args), &peer_urls(args), args.witness, &args.data_dir).await?
        }
        (None, ..) => return Ok(None),
    };
    anyhow::ensure!(
        joined.witness == args.witness,
        "this data directory joined {} --witness: it cannot become the other",
        if joined.witness { "with" } else { "without" }
    );
    joined.settings.adopt(args)?;
    Ok(Some(joined))
}

/// A store whose cluster was restored elsewhere is put aside for one that joins there.
async fn join_again_if_restored(
    args: &mut ServerArgs,
    place: &Place,
    store: ServerStore,
    restores: &mut Restores,
) -> Result<ServerStore> {
    let ServerStore::Embedded(embedded) = &store else { return Ok(store) };
    if place.ephemeral || args.force_new_cluster {
        return Ok(store);
    }
    let Some(url) = restores.find(embedded).await else { return Ok(store) };
    store.close().await?;
    let cannot = || format!("this cluster was restored at {url}: to join it, start with an empty data directory");
    let admin = admin_identity(&place.pki).with_context(cannot)?;
    let (name, urls) = (name(args), peer_urls(args));
    let joined = join::join_again(&url, place.pki.ca_pem(), &admin, &name, &urls, &place.dir).await;
    let joined = joined.with_context(cannot)?;
    joined.settings.adopt(args)?;
    open_store(args, place, Some(&joined)).await
}

/// What this master is called among masters.
fn name(args: &ServerArgs) -> String {
    args.name.clone().unwrap_or_else(client::host_name)
}

/// Where the stores of other masters reach this one's.
fn peer_urls(args: &ServerArgs) -> Vec<String> {
    let listen = args.store_peer_address;
    let ip = match args.api_server.advertise_address {
        _ if !listen.ip().is_unspecified() => listen.ip(),
        Some(ip) => ip,
        None => own_address(args.api_server.bind_address),
    };
    vec![format!("https://{}", SocketAddr::new(ip, listen.port()))]
}

async fn open_store(args: &ServerArgs, place: &Place, joined: Option<&Joined>) -> Result<ServerStore> {
    if !args.etcd.etcd_servers.is_empty() {
        return Ok(ServerStore::External(components::external_store(&args.etcd)?));
    }
    let mut config = EmbeddedConfig {
        name: name(args),
        client_urls: vec![format!("https://{}", args.store_client_address)],
        value_cache_bytes: VALUE_CACHE_BYTES,
        ..EmbeddedConfig::default()
    };
    if !place.ephemeral {
        config.data_dir = Some(place.dir.join("store"));
        config.peer_urls = peer_urls(args);
        config.peer = Some(peer_config(args, place)?);
        config.election_timeout = ELECTION_TIMEOUT;
    }
    if args.witness {
        config.is_witness = true;
        config.client_urls = Vec::new();
    }
    if args.force_new_cluster {
        config.force_new_cluster = true;
        save_before_force(&place.dir).await?;
    }
    if let Some(joined) = joined {
        let member =
            |member: &JoinMember| InitialMember { name: member.name.clone(), peer_urls: member.peer_urls.clone() };
        config.cluster_state = ClusterState::Existing;
        config.initial_cluster = joined.members.iter().map(member).collect();
    }
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.context("opening the store")?;
    let store = store.context("cannot open the store")?;
    if !place.ephemeral {
        announce(&store, peer_urls(args)).await?;
    }
    Ok(ServerStore::Embedded(Arc::new(store)))
}

/// A snapshot of what this master has, before its cluster is cut down to it. Nothing is done without it.
async fn save_before_force(data_dir: &std::path::Path) -> Result<()> {
    let store = data_dir.join("store");
    anyhow::ensure!(
        store.exists(),
        "--force-new-cluster: there is no data in {}: restore a backup instead",
        data_dir.display()
    );
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let file = data_dir.join(format!("before-force-new-cluster-{now}.snap"));
    let saved = {
        let file = file.clone();
        tokio::task::spawn_blocking(move || store::offline::save(&store, &file)).await.context("saving a snapshot")?
    };
    let revision =
        saved.with_context(|| format!("--force-new-cluster: no snapshot could be saved as {}", file.display()))?;
    tracing::warn!(file = %file.display(), revision = revision.0, "--force-new-cluster: the state so far is saved");
    Ok(())
}

/// A store that is alone, and was made before it listened for others or listened elsewhere, notes where those who join find it.
async fn announce(store: &EmbeddedStore, peer_urls: Vec<String>) -> Result<()> {
    // A learner is not alone, and does not say who the others are.
    if let Ok(members) = store.members().await
        && let [own] = &members[..]
        && own.peer_urls != peer_urls
    {
        store.member_update(own.id, peer_urls).await.context("--store-peer-address")?;
    }
    Ok(())
}

/// How the embedded store listens for those of other masters.
fn peer_config(args: &ServerArgs, place: &Place) -> Result<PeerConfig> {
    let mut sans = vec![San::parse("localhost"), San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    for url in peer_urls(args) {
        let uri: http::Uri = url.parse().context("the peer URL")?;
        sans.extend(uri.host().map(|host| San::parse(host.trim_start_matches('[').trim_end_matches(']'))));
    }
    sans.extend(args.tls_san.iter().map(|text| San::parse(text)));
    let (certificate, key) = place.pki.pems("store-peer", &Purpose::StorePeer(sans))?;
    let ca = Some(place.pki.store_ca_pem().as_bytes().to_vec().into());
    let tls = PeerTls { certificate, key, ca, client_cert_auth: true };
    Ok(PeerConfig { listen_urls: vec![format!("https://{}", args.store_peer_address)], tls: Some(tls) })
}

/// Lets other masters join this one.
fn join_server(args: &ServerArgs, place: &Place, store: &ServerStore, lineage: Lineage) -> Option<Arc<JoinServer>> {
    let pki_dir = place.pki_dir()?;
    let store = store.embedded()?;
    let ca_pem = place.pki.ca_pem().to_owned();
    Some(Arc::new(JoinServer::new(store, ca_pem, pki_dir, ClusterSettings::of(args), lineage)))
}

/// The embedded store's etcd API. An ephemeral server has none.
async fn serve_store(
    args: &ServerArgs,
    place: &Place,
    store: &ServerStore,
    shutdown: &Shutdown,
) -> Result<Option<tokio::task::JoinHandle<()>>> {
    let ServerStore::Embedded(embedded) = store else { return Ok(None) };
    if place.ephemeral {
        return Ok(None);
    }
    let address = args.store_client_address;
    let sans = vec![San::parse("localhost"), San::Ip(address.ip()), San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let (certificate, key) = place.pki.pems("store", &Purpose::StoreServing(sans))?;
    // For etcdctl: a client that the store's API lets in.
    place.pki.identity("store-client", &Purpose::StoreClient { user: "root".to_owned() })?;
    let client_ca = place.pki.store_ca_pem().as_bytes().to_vec().into();
    let tls = ServerTls::new(certificate, key, Some(client_ca));
    let task = super::store::serve(Arc::clone(embedded), vec![address], Some(tls), shutdown.clone()).await?;
    Ok(Some(task))
}

/// The admin's kubeconfig, and one for each component that may run as a process of its own.
fn write_kubeconfigs(pki: &Pki, dir: &std::path::Path, url: &str) -> Result<PathBuf> {
    let users: [(&str, &str, &[&str]); 3] = [
        ("admin", ADMIN, &[SUPERUSER_GROUP]),
        ("controller-manager", "system:kube-controller-manager", &[]),
        ("scheduler", "system:kube-scheduler", &[]),
    ];
    for (file, user, groups) in users {
        let identity = pki.identity(file, &Purpose::client(user, groups))?;
        let path = dir.join(format!("{file}.kubeconfig"));
        kubeconfig::write(&path, url, pki.ca_pem(), user, &identity)?;
    }
    Ok(dir.join("admin.kubeconfig"))
}

fn admin_identity(pki: &Pki) -> Result<Identity> {
    pki.identity("admin", &Purpose::client(ADMIN, &[SUPERUSER_GROUP]))
}

fn serving_names(args: &ServerArgs, advertise_address: IpAddr, ranges: &[Cidr]) -> Vec<San> {
    let mut sans: Vec<San> = SERVICE_NAMES.iter().map(|name| San::Dns((*name).to_owned())).collect();
    sans.push(San::Dns("localhost".into()));
    sans.push(San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    sans.push(San::Ip(advertise_address));
    sans.extend(ranges.iter().filter_map(|range| range.nth(1)).map(San::Ip));
    sans.extend(args.tls_san.iter().map(|text| San::parse(text)));
    sans.dedup();
    sans
}

/// How clients on this machine reach a server that listens on `address`.
fn local_url(address: SocketAddr) -> String {
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    format!("https://{}", SocketAddr::new(ip, address.port()))
}

/// The bind address when others can reach it, else that of the interface that leads outside. No packet is sent.
pub(super) fn own_address(bind_address: IpAddr) -> IpAddr {
    if !bind_address.is_unspecified() && !bind_address.is_loopback() {
        return bind_address;
    }
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    routed.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
