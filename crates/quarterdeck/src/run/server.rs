//! `quarterdeck server`: a whole master in one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use apiserver::ApiServer;
use apiserver::allocate::Cidr;
use client::Shutdown;
use store::etcd::ServerTls;
use store::{EmbeddedConfig, EmbeddedStore, Store};
use tokio::net::TcpListener;

use super::components::{self, Components};
use super::{print_line, tls};
use crate::args::ServerArgs;
use crate::kubeconfig;
use crate::pki::{Pki, Purpose, San};

/// Names under which the API server is known inside a cluster.
const SERVICE_NAMES: [&str; 4] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// Group that may do anything; the admin kubeconfig's user is in it.
const MASTERS: &str = "system:masters";

pub(crate) async fn server(mut args: ServerArgs, shutdown: Shutdown) -> Result<()> {
    components::check(&args.controllers)?;
    let place = Place::open(&mut args)?;
    let store = open_store(&args, &place).await?;
    let listener =
        TcpListener::bind((args.api_server.bind_address, args.api_server.secure_port)).await.with_context(|| {
            format!("cannot listen on {}:{}", args.api_server.bind_address, args.api_server.secure_port)
        })?;
    let address = listener.local_addr().context("listening address")?;
    let advertise_address =
        args.api_server.advertise_address.unwrap_or_else(|| own_address(args.api_server.bind_address));

    let ranges = components::service_ranges(&args.api_server)?;
    let sans = serving_names(&args, advertise_address, &ranges);
    let serving = place.pki.identity("apiserver", &Purpose::Serving(&sans))?;
    let purpose = Purpose::Client { user: "kube-apiserver-kubelet-client", groups: &[MASTERS] };
    let kubelet_client = place.pki.identity("apiserver-kubelet-client", &purpose)?;
    // A CA of its own: whoever has a certificate of it may speak for anybody.
    let purpose = Purpose::Client { user: components::FRONT_PROXY_USER, groups: &[] };
    let front_proxy = place.front_proxy.identity(components::FRONT_PROXY_USER, &purpose)?;
    let trust = components::Trust {
        signing_key_pem: place.pki.service_account_key()?,
        client_ca_pem: place.pki.ca_pem().to_owned(),
        kubelet_client: Some(kubelet_client),
        front_proxy: Some((front_proxy, place.front_proxy.ca_pem().to_owned())),
    };
    let client_cas = trust.client_cas(&args.api_server)?;
    let tls = tls::server_config(&serving.certificate_pem, &serving.key_pem, &client_cas)?;
    let config =
        components::api_server_config(&args.api_server, store.as_dyn(), trust, advertise_address, address.port())?;
    let api_server = ApiServer::start(config);
    let serving_task = tokio::spawn({
        let api_server = api_server.clone();
        async move { api_server.serve(listener, tls).await }
    });
    let store_api = serve_store(&args, &place, &store, &shutdown).await?;

    let url = local_url(address);
    let kubeconfigs = write_kubeconfigs(&place, &url)?;
    tokio::select! {
        () = api_server.ready() => {}
        () = shutdown.cancelled() => {}
    }
    if !shutdown.is_cancelled() {
        print_line(&format!("export KUBECONFIG={}", kubeconfigs.display()));
        tracing::info!(%url, data_dir = %place.dir.display(), "ready");
    }
    let components = Components::start(&api_server, &args.controllers, &args.lease, place.pki.ca_pem(), &shutdown)?;

    shutdown.cancelled().await;
    components.stopped().await;
    api_server.stop();
    serving_task.await.context("the API server failed")?;
    if let Some(task) = store_api {
        task.await.context("the store's API failed")?;
    }
    store.close().await
}

/// Where a server keeps what it has.
struct Place {
    dir: PathBuf,
    pki: Pki,
    /// The PKI of front proxies.
    front_proxy: Pki,
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
            let (pki, front_proxy) = (Pki::in_memory()?, Pki::in_memory()?);
            return Ok(Self { dir, pki, front_proxy, ephemeral: true, _temporary: Some(temporary) });
        }
        std::fs::create_dir_all(&args.data_dir)
            .with_context(|| format!("cannot create {}", args.data_dir.display()))?;
        let dir = std::path::absolute(&args.data_dir).context("the data directory's path")?;
        let pki = Pki::open(&dir.join("pki"))?;
        let front_proxy = Pki::open(&dir.join("pki").join("front-proxy"))?;
        Ok(Self { dir, pki, front_proxy, ephemeral: false, _temporary: None })
    }
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

    async fn close(self) -> Result<()> {
        match self {
            Self::External(_) => Ok(()),
            Self::Embedded(store) => {
                tokio::task::spawn_blocking(move || store.shutdown()).await.map_err(|error| anyhow!("store: {error}"))
            }
        }
    }
}

async fn open_store(args: &ServerArgs, place: &Place) -> Result<ServerStore> {
    if !args.etcd.etcd_servers.is_empty() {
        return Ok(ServerStore::External(components::external_store(&args.etcd)?));
    }
    let config = EmbeddedConfig {
        data_dir: (!place.ephemeral).then(|| place.dir.join("store")),
        name: "quarterdeck".into(),
        client_urls: vec![format!("https://{}", args.store_client_address)],
        ..EmbeddedConfig::default()
    };
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.context("opening the store")?;
    Ok(ServerStore::Embedded(Arc::new(store.context("cannot open the store")?)))
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
    let sans = [San::parse("localhost"), San::Ip(address.ip()), San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let serving = place.pki.identity("store", &Purpose::Serving(&sans))?;
    // For etcdctl: a client that the store's API lets in.
    place.pki.identity("store-client", &Purpose::Client { user: "root", groups: &[] })?;
    let client_ca = place.pki.ca_pem().as_bytes().to_vec().into();
    let tls = ServerTls::new(serving.certificate_pem.into_bytes(), serving.key_pem.into_bytes(), Some(client_ca));
    let task = super::store::serve(Arc::clone(embedded), vec![address], Some(tls), shutdown.clone()).await?;
    Ok(Some(task))
}

/// The admin's kubeconfig, and one for each component that may run as a process of its own.
fn write_kubeconfigs(place: &Place, url: &str) -> Result<PathBuf> {
    let users: [(&str, &str, &[&str]); 3] = [
        ("admin", "kubernetes-admin", &[MASTERS]),
        ("controller-manager", "system:kube-controller-manager", &[]),
        ("scheduler", "system:kube-scheduler", &[]),
    ];
    for (file, user, groups) in users {
        let identity = place.pki.identity(file, &Purpose::Client { user, groups })?;
        let path = place.dir.join(format!("{file}.kubeconfig"));
        kubeconfig::write(&path, url, place.pki.ca_pem(), user, &identity)?;
    }
    Ok(place.dir.join("admin.kubeconfig"))
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
