//! The components: each runs in the server's process or as one of its own, over the same API.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::scheduler::{Scheduler, SchedulerConfig};
use anyhow::{Context as _, Result};
use apiserver::admission::Chain;
use apiserver::allocate::{Cidr, PortRange};
use apiserver::attributes::UserInfo;
use apiserver::authn::oidc::JWKS_PATH;
use apiserver::authn::token_request::TokenIssuer;
use apiserver::authn::{AUTHENTICATED_GROUP, PublicKeys, SigningKey, service_account};
use apiserver::authz::SUPERUSER_GROUP;
use apiserver::bootstrap::objects::{AuthenticationInfo, RequestHeaderInfo};
use apiserver::outbound::{ClientCertificate, ClientIdentity, Routing};
use apiserver::storage::{Encryption, EncryptionFile};
use apiserver::{ApiServer, Config, KubeletConfig, Tokens};
use client::{Connection, InformerFactory, LeaderConfig, Shutdown};
use controllers::{ClusterSigner, ControllerManager, ManagerConfig, Selection, TokenMaker};
use sha2::{Digest as _, Sha256};
use store::{Pem, RemoteStore, RemoteTls, Store};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::component_metrics::ComponentMetrics;
use super::door::Shown;
use super::{audit, configz, door, elect, guard, scheduler_config, tls};
use crate::args::{
    ApiServerArgs, ApiServerFlags, ControllerFlags, ControllerManagerArgs, EtcdFlags, RequestHeaderFlags,
    SchedulerArgs, SimulateArgs,
};
use crate::pki::{Pki, Purpose, San};

pub(super) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";
/// Upstream's ports for health and metrics.
const CONTROLLER_MANAGER_PORT: u16 = 10_257;
const SCHEDULER_PORT: u16 = 10_259;
/// What `/statusz` of either names.
const ZPAGE_PATHS: [&str; 6] = ["/configz", "/flagz", "/healthz", "/livez", "/metrics", "/readyz"];
const CONTROLLER_MANAGER_USER: &str = "system:kube-controller-manager";
const SCHEDULER_USER: &str = "system:kube-scheduler";
/// Common name of the certificate shown to aggregated API servers.
pub(super) const FRONT_PROXY_USER: &str = "front-proxy-client";

/// Keys and certificates that the API server goes by.
pub(super) struct Trust {
    pub signing_key_pem: String,
    pub client_ca_pem: String,
    /// Shown to kubelets when the flags give nothing else.
    pub kubelet_client: Option<(Pem, Pem)>,
    /// The same for aggregated API servers, with the CA it is of.
    pub front_proxy: Option<((Pem, Pem), String)>,
}

impl Trust {
    /// CAs whose client certificates TLS lets in: users', and front proxies'.
    pub(super) fn client_cas(&self, flags: &ApiServerFlags, mut users: Vec<Pem>) -> Vec<Pem> {
        let proxies = match (&flags.request_header.requestheader_client_ca_file, &self.front_proxy) {
            (Some(path), _) => Some(Pem::from(path.clone())),
            (None, own) => own.as_ref().map(|(_, ca)| ca.as_bytes().to_vec().into()),
        };
        users.extend(proxies);
        users
    }
}

pub(super) fn service_ranges(flags: &ApiServerFlags) -> Result<Vec<Cidr>> {
    flags
        .service_cluster_ip_range
        .iter()
        .map(|text| text.parse::<Cidr>().with_context(|| format!("--service-cluster-ip-range {text:?}")))
        .collect()
}

pub(super) fn api_server_config(
    flags: &ApiServerFlags,
    store: Arc<dyn Store>,
    trust: Trust,
    advertise_address: IpAddr,
    secure_port: u16,
) -> Result<Config> {
    let signing_key = SigningKey::from_pem(&trust.signing_key_pem).context("the service account signing key")?;
    let mut keys = vec![signing_key.public().clone()];
    for path in &flags.service_account_key_file {
        let more = PublicKeys::from_pem(&tls::read(path)?).with_context(|| path.display().to_string())?;
        keys.extend(more.iter().cloned());
    }
    let issuers = flags.service_account_issuer.clone();
    let audiences = if flags.api_audiences.is_empty() { issuers.clone() } else { flags.api_audiences.clone() };
    let issuer = TokenIssuer {
        key: signing_key,
        issuer: issuers.first().cloned().unwrap_or_default(),
        audiences,
        lifetime_seconds_max: 0,
        extend: true,
    };
    let port_range = &flags.service_node_port_range;
    let node_ports: PortRange =
        port_range.parse().with_context(|| format!("--service-node-port-range {port_range:?}"))?;
    Ok(Config {
        store,
        tokens: Tokens {
            issuer,
            keys: PublicKeys::new(keys),
            issuers,
            jwks_uri: flags.service_account_jwks_uri.clone().unwrap_or_else(|| {
                // Upstream names the address for everybody, whatever the one is called that the client came by.
                format!("https://{}{JWKS_PATH}", SocketAddr::new(advertise_address, secure_port))
            }),
        },
        bootstrap_tokens: flags.enable_bootstrap_token_auth,
        admission: Chain::new(&flags.enable_admission_plugins, &flags.disable_admission_plugins)?,
        service_ranges: service_ranges(flags)?,
        node_ports,
        event_ttl: flags.event_ttl,
        advertise_address,
        secure_port,
        authentication: AuthenticationInfo {
            client_ca: trust.client_ca_pem,
            request_header: request_header(flags, trust.front_proxy.as_ref())?,
        },
        front_proxy: front_proxy(flags, trust.front_proxy)?,
        kubelets: kubelets(flags, trust.kubelet_client)?,
        service_routing: if flags.enable_aggregator_routing { Routing::Endpoints } else { Routing::ClusterIp },
        encryption: encryption(flags)?,
        audit: audit::config(&flags.audit)?,
        outside: guard::outside(&flags.guard)?,
        flow_control: guard::flow_control(&flags.guard)?,
        timeouts: guard::timeouts(&flags.guard),
        authorization: guard::authorization(&flags.guard)?,
        control: None,
        flags: flags.all.clone(),
    })
}

/// `--encryption-provider-config`, checked.
fn encryption(flags: &ApiServerFlags) -> Result<Option<(Encryption, EncryptionFile)>> {
    let reload = flags.encryption_provider_config_automatic_reload;
    let Some(path) = &flags.encryption_provider_config else {
        anyhow::ensure!(
            !reload,
            "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
        );
        return Ok(None);
    };
    let text = tls::read(path)?;
    let encryption = Encryption::parse(&text)
        .map_err(|error| anyhow::anyhow!(error))
        .with_context(|| format!("--encryption-provider-config {}", path.display()))?;
    let server_id = server_id(&client::host_name());
    Ok(Some((encryption, EncryptionFile { path: path.clone(), text, reload, server_id })))
}

/// What upstream calls an API server on this host: `apiserver-` and half a SHA-256 in base 32.
fn server_id(host: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut said = Vec::new();
    for part in [host.as_bytes(), b"kube-apiserver"] {
        said.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        said.extend_from_slice(part);
    }
    let hash = Sha256::digest(&said);
    let bits: Vec<u8> = hash[..16].iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    // 128 bits are 26 digits, the last of them padded.
    let digit = |bits: &[u8]| {
        let value = bits.iter().fold(0_usize, |value, bit| value << 1 | usize::from(*bit)) << (5 - bits.len());
        char::from(DIGITS[value])
    };
    format!("apiserver-{}", bits.chunks(5).map(digit).collect::<String>())
}

/// What front proxies are known by; `None` when there are none.
fn request_header(flags: &ApiServerFlags, own: Option<&((Pem, Pem), String)>) -> Result<Option<RequestHeaderInfo>> {
    let flags = &flags.request_header;
    if let Some(given) = front_proxies(flags)? {
        return Ok(Some(given));
    }
    Ok(own.map(|(_, client_ca)| {
        let mut info = front_proxies_of(flags, client_ca.clone());
        info.allowed_names.push(FRONT_PROXY_USER.to_owned());
        info
    }))
}

/// The front proxies that the flags name.
pub(super) fn front_proxies(flags: &RequestHeaderFlags) -> Result<Option<RequestHeaderInfo>> {
    let Some(path) = &flags.requestheader_client_ca_file else { return Ok(None) };
    Ok(Some(front_proxies_of(flags, tls::read(path)?)))
}

fn front_proxies_of(flags: &RequestHeaderFlags, client_ca: String) -> RequestHeaderInfo {
    RequestHeaderInfo {
        client_ca,
        username_headers: flags.requestheader_username_headers.clone(),
        uid_headers: flags.requestheader_uid_headers.clone(),
        group_headers: flags.requestheader_group_headers.clone(),
        extra_header_prefixes: flags.requestheader_extra_headers_prefix.clone(),
        allowed_names: flags.requestheader_allowed_names.clone(),
    }
}

fn front_proxy(flags: &ApiServerFlags, own: Option<((Pem, Pem), String)>) -> Result<Option<ClientCertificate>> {
    let given = flags.proxy_client_cert_file.clone().zip(flags.proxy_client_key_file.clone());
    client_certificate("--proxy-client-cert-file", given, own.map(|(own, _)| own))
}

/// What the flags give, or what the server has itself. Either follows its files.
fn client_certificate(
    flag: &'static str,
    given: Option<(PathBuf, PathBuf)>,
    own: Option<(Pem, Pem)>,
) -> Result<Option<ClientCertificate>> {
    let chosen = given.map(|(certificate, key)| (certificate.into(), key.into())).or(own);
    chosen.map(|(certificate, key)| ClientIdentity::follow(certificate, key).context(flag)).transpose()
}

fn kubelets(flags: &ApiServerFlags, own: Option<(Pem, Pem)>) -> Result<KubeletConfig> {
    let given = flags.kubelet_client_certificate.clone().zip(flags.kubelet_client_key.clone());
    let identity = client_certificate("--kubelet-client-certificate", given, own)?;
    let ca = flags.kubelet_certificate_authority.as_deref().map(tls::read).transpose()?;
    Ok(KubeletConfig {
        identity,
        certificate_authority: ca.unwrap_or_default().into(),
        preferred_address_types: flags.kubelet_preferred_address_types.clone(),
    })
}

pub(super) fn external_store(flags: &EtcdFlags) -> Result<Arc<dyn Store>> {
    let ca = flags.etcd_cafile.clone().map(Pem::from);
    let identity = flags.etcd_certfile.clone().map(Pem::from).zip(flags.etcd_keyfile.clone().map(Pem::from));
    let tls = match (ca, identity) {
        (Some(ca), identity) => Some(RemoteTls { ca, identity, server_name: None }),
        (None, Some(_)) => anyhow::bail!("--etcd-certfile needs --etcd-cafile"),
        (None, None) => None,
    };
    let store = RemoteStore::connect(&flags.etcd_servers, tls)
        .with_context(|| format!("cannot use --etcd-servers {}", flags.etcd_servers.join(",")))?;
    Ok(Arc::new(store))
}

/// `quarterdeck apiserver`.
pub(crate) async fn api_server(args: ApiServerArgs, shutdown: Shutdown) -> Result<()> {
    anyhow::ensure!(
        !args.etcd.etcd_servers.is_empty(),
        "--etcd-servers is required: the API server keeps nothing itself"
    );
    let store = external_store(&args.etcd)?;
    let bind = (args.flags.bind_address, args.flags.secure_port);
    let listener = TcpListener::bind(bind).await.with_context(|| format!("cannot listen on {}:{}", bind.0, bind.1))?;
    let client_ca_pem = tls::read(&args.client_ca_file)?;
    let signing_key_pem = tls::read(&args.service_account_signing_key_file)?;
    let trust = Trust { signing_key_pem, client_ca_pem, kubelet_client: None, front_proxy: None };
    let (certificate, key) = (args.tls_cert_file.clone().into(), args.tls_private_key_file.clone().into());
    let cas = trust.client_cas(&args.flags, vec![args.client_ca_file.clone().into()]);
    let server_tls = tls::server_config(certificate, key, cas)?;
    let advertise = args.flags.advertise_address.unwrap_or_else(|| super::server::own_address(args.flags.bind_address));
    let port = listener.local_addr().context("listening address")?.port();
    let config = api_server_config(&args.flags, store, trust, advertise, port)?;
    let api_server = ApiServer::start(config).context("the audit log")?;
    let stopping = api_server.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        stopping.stop();
    });
    api_server.serve(listener, server_tls).await;
    Ok(())
}

/// `quarterdeck controller-manager`.
pub(crate) async fn controller_manager(args: ControllerManagerArgs, shutdown: Shutdown) -> Result<()> {
    let connection = Connection::to_masters(&args.kubeconfig, &args.master.master, CONTROLLER_MANAGER).await?;
    let root_ca_pem = match &args.root_ca_file {
        Some(path) => tls::read(path)?,
        None => kubeconfig_ca(&args.kubeconfig)?,
    };
    let metrics = ComponentMetrics::default();
    let leader_election = elect::election(&args.elect, CONTROLLER_MANAGER, &metrics.client)?;
    let mut config = manager_config(&args.flags, root_ca_pem, leader_election)?;
    config.metrics = metrics.client.clone();
    if let (Some(certificate), Some(key)) = (&args.cluster_signing_cert_file, &args.cluster_signing_key_file) {
        config.cluster_signer = Some(cluster_signer(&args.flags, &tls::read(certificate)?, &tls::read(key)?)?);
    }
    if let Some(path) = &args.service_account_private_key_file {
        config.token_maker = Some(token_maker(&tls::read(path)?)?);
    }
    // Each controller acts as its own service account, with tokens that the manager's identity may ask for.
    let transport = connection.without_credentials(CONTROLLER_MANAGER)?;
    let informers = InformerFactory::new(connection.clone(), shutdown.clone());
    let connect = move |user: &str| match service_account(user) {
        Some((namespace, name)) => transport.as_service_account(&connection, namespace, name),
        None => connection.clone(),
    };
    let shown = Shown {
        component: CONTROLLER_MANAGER,
        paths: &ZPAGE_PATHS,
        config: configz::controller_manager(&args)?,
        flags: args.all,
        metrics,
        resets_metrics: false,
        pod_resources: None,
    };
    door::open(&args.serving, &args.master, CONTROLLER_MANAGER_PORT, shown, shutdown.clone()).await?;
    ControllerManager::new(connect, informers, config).run(shutdown).await;
    Ok(())
}

/// `quarterdeck scheduler`.
pub(crate) async fn scheduler(args: SchedulerArgs, shutdown: Shutdown) -> Result<()> {
    let mut elect = args.elect;
    let mut kubeconfig = args.kubeconfig;
    let mut scheduling = None;
    if let Some(path) = &args.config {
        let file = scheduler_config::parse(&tls::read(path)?).with_context(|| path.display().to_string())?;
        let given = file.election;
        let durations = &mut elect.lease;
        for (field, text, flag) in [
            ("leaseDuration", &given.lease_duration, &mut durations.lease_duration),
            ("renewDeadline", &given.renew_deadline, &mut durations.renew_deadline),
            ("retryPeriod", &given.retry_period, &mut durations.retry_period),
        ] {
            *flag = scheduler_config::Election::duration(text.as_ref(), field)?.or(*flag);
        }
        let lock = given.resource_lock.as_deref().unwrap_or("leases");
        anyhow::ensure!(
            lock == "leases",
            "leaderElection.resourceLock: Invalid value: \"{lock}\": resourceLock value must be \"leases\""
        );
        elect.leader_elect = given.leader_elect.unwrap_or(elect.leader_elect);
        elect.resource_name = given.resource_name.or(elect.resource_name);
        elect.lease.resource_namespace = given.resource_namespace.unwrap_or(elect.lease.resource_namespace);
        kubeconfig = kubeconfig.or(file.kubeconfig.map(Into::into));
        scheduling = Some(file.config);
    }
    let kubeconfig = kubeconfig.context("--kubeconfig, or clientConnection.kubeconfig in --config, is required")?;
    let connection = Connection::to_masters(&kubeconfig, &args.master.master, SCHEDULER).await?;
    let metrics = ComponentMetrics::default();
    let leader_election = elect::election(&elect, SCHEDULER, &metrics.client)?;
    let mut config = match scheduling {
        Some(scheduling) => scheduling.with_election(leader_election),
        None => SchedulerConfig { leader_election, ..SchedulerConfig::default() },
    };
    config.metrics = metrics.scheduler.clone();
    let shown = Shown {
        component: SCHEDULER,
        paths: &ZPAGE_PATHS,
        config: configz::scheduler(&config, &kubeconfig, &elect)?,
        flags: args.all,
        metrics,
        resets_metrics: true,
        pod_resources: Some(config.pod_resources.clone()),
    };
    door::open(&args.serving, &args.master, SCHEDULER_PORT, shown, shutdown.clone()).await?;
    let informers = InformerFactory::new(connection.clone(), shutdown.clone());
    Scheduler::new(connection, informers, config).run(shutdown).await.context("scheduler")
}

/// `quarterdeck simulate-nodes`.
pub(crate) async fn simulate_nodes(args: SimulateArgs, shutdown: Shutdown) -> Result<()> {
    let connection = Connection::from_kubeconfig(&args.kubeconfig, "simulate-nodes").await?;
    let config = crate::simulate::SimulateConfig {
        count: args.count,
        name_prefix: args.name_prefix.clone(),
        ..crate::simulate::SimulateConfig::default()
    };
    let kubelet = match kubelet_endpoint(&args).await {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the nodes have no kubelet: no logs, exec, attach, port-forward"
            );
            None
        }
    };
    crate::simulate::run(config, kubelet, connection, shutdown).await
}

/// The kubelet of simulated nodes: a certificate of its own, and clients of the cluster's CA.
async fn kubelet_endpoint(args: &SimulateArgs) -> Result<crate::simulate::kubelet::Endpoint> {
    let names = vec![San::Ip(args.kubelet_address)];
    let (certificate, key) = Pki::in_memory()?.pems("kubelet", &Purpose::Serving(names))?;
    let ca = kubeconfig_ca(&args.kubeconfig)?.into_bytes();
    let tls = tls::server_config(certificate, key, vec![ca.into()])?.get();
    let listener = TcpListener::bind((args.kubelet_address, 0)).await;
    let listener = listener.with_context(|| format!("--kubelet-address {}", args.kubelet_address))?;
    Ok(crate::simulate::kubelet::Endpoint { listener, tls })
}

/// What the controllers of a whole master sign with.
pub(super) struct Authority<'a> {
    pub ca_pem: &'a str,
    /// Nobody signs without it.
    pub ca_key_pem: Option<&'a str>,
    pub signing_key_pem: &'a str,
}

fn cluster_signer(flags: &ControllerFlags, certificate_pem: &str, key_pem: &str) -> Result<ClusterSigner> {
    ClusterSigner::new(certificate_pem, key_pem, flags.cluster_signing_duration).context("the cluster signing CA")
}

fn token_maker(signing_key_pem: &str) -> Result<TokenMaker> {
    let key = SigningKey::from_pem(signing_key_pem).context("the service account private key")?;
    Ok(TokenMaker::new(move |account, secret| {
        let account = api::value::to_value(account).map_err(|error| error.to_string())?;
        service_account::legacy_token(&key, &account, secret).map_err(|error| error.to_string())
    }))
}

/// Controllers and scheduler inside the server's process.
pub(super) struct Components {
    tasks: JoinSet<()>,
}

impl Components {
    pub(super) fn start(
        api_server: &ApiServer,
        flags: &ControllerFlags,
        elections: &elect::Elections,
        authority: &Authority<'_>,
        metrics: &ComponentMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let election = elections.of(CONTROLLER_MANAGER);
        let mut config = manager_config(flags, authority.ca_pem.to_owned(), Some(election))?;
        let signer = authority.ca_key_pem.map(|key| cluster_signer(flags, authority.ca_pem, key));
        config.cluster_signer = signer.transpose()?;
        config.token_maker = Some(token_maker(authority.signing_key_pem)?);
        config.metrics = metrics.client.clone();
        let own = in_process(api_server, CONTROLLER_MANAGER_USER, CONTROLLER_MANAGER)?;
        // One copy of every object for all of them; what the scheduler reads, the controller manager may read.
        let informers = InformerFactory::new(own.clone(), shutdown.clone());
        let door = api_server.clone();
        let connect = move |user: &str| in_process(&door, user, CONTROLLER_MANAGER).unwrap_or_else(|_| own.clone());
        let manager = ControllerManager::new(connect, informers.clone(), config);
        let stop = shutdown.clone();
        tasks.spawn(async move { manager.run(stop).await });
        let config = SchedulerConfig {
            leader_election: Some(elections.of(SCHEDULER)),
            shares_informers: true,
            metrics: metrics.scheduler.clone(),
            ..SchedulerConfig::default()
        };
        let scheduler = Scheduler::new(in_process(api_server, SCHEDULER_USER, SCHEDULER)?, informers, config);
        let stop = shutdown.clone();
        tasks.spawn(async move {
            if let Err(error) = scheduler.run(stop).await {
                tracing::error!(%error, "the scheduler ended");
            }
        });
        Ok(Self { tasks })
    }

    /// Waits until they have given up their leases and ended.
    pub(super) async fn stopped(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Namespace and name, when a user is a service account.
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// A connection within the process for a component's user, with the groups that the user would have.
fn in_process(api_server: &ApiServer, user: &str, agent: &str) -> Result<Connection, client::ConnectionError> {
    let mut groups = vec![AUTHENTICATED_GROUP.to_owned()];
    if let Some((namespace, _)) = service_account(user) {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    let user = UserInfo { name: user.to_owned(), groups, ..UserInfo::default() };
    Connection::in_process(api_server.in_process(user), agent)
}

/// A connection within the process that may do anything: for what a master does for itself.
pub(super) fn as_master(api_server: &ApiServer) -> Result<Connection> {
    let groups = vec![SUPERUSER_GROUP.to_owned(), AUTHENTICATED_GROUP.to_owned()];
    let user = UserInfo { name: "system:apiserver".to_owned(), groups, ..UserInfo::default() };
    Ok(Connection::in_process(api_server.in_process(user), "quarterdeck")?)
}

/// Says what is wrong with the controllers' flags, before anything is started.
pub(super) fn check(flags: &ControllerFlags) -> Result<()> {
    manager_config(flags, String::new(), None).map(drop)
}

fn manager_config(
    flags: &ControllerFlags,
    root_ca_pem: String,
    leader_election: Option<LeaderConfig>,
) -> Result<ManagerConfig> {
    let ControllerFlags {
        controllers,
        allocate_node_cidrs,
        cluster_cidr,
        node_cidr_mask_size,
        node_cidr_mask_size_ipv4,
        node_cidr_mask_size_ipv6,
        node_monitor_period,
        node_monitor_grace_period,
        node_startup_grace_period,
        terminated_pod_gc_threshold,
        cluster_signing_duration: _,
        legacy_service_account_token_clean_up_period,
    } = flags;
    let allocates = allocate_node_cidrs.unwrap_or(!cluster_cidr.is_empty());
    anyhow::ensure!(!allocates || !cluster_cidr.is_empty(), "--allocate-node-cidrs needs --cluster-cidr");
    anyhow::ensure!(!node_monitor_period.is_zero(), "--node-monitor-period must be greater than zero");
    let mask = |of_family: u8, default: u8| match (*node_cidr_mask_size, of_family) {
        (0, 0) => default,
        (0, size) => size,
        (size, _) => size,
    };
    let seconds = |duration: &Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let defaults = ManagerConfig::default();
    Ok(ManagerConfig {
        selection: Selection::parse(&controllers.join(",")).context("--controllers")?,
        root_ca_pem,
        leader_election,
        terminated_pod_gc_threshold: *terminated_pod_gc_threshold,
        node_monitor_period: *node_monitor_period,
        node_monitor_grace_seconds: seconds(node_monitor_grace_period),
        node_startup_grace_seconds: seconds(node_startup_grace_period),
        cluster_cidrs: if allocates { cluster_cidr.clone() } else { Vec::new() },
        node_cidr_mask_size_ipv4: mask(*node_cidr_mask_size_ipv4, defaults.node_cidr_mask_size_ipv4),
        node_cidr_mask_size_ipv6: mask(*node_cidr_mask_size_ipv6, defaults.node_cidr_mask_size_ipv6),
        legacy_token_clean_up_period: *legacy_service_account_token_clean_up_period,
        ..defaults
    })
}

pub(super) fn kubeconfig_ca(path: &Path) -> Result<String> {
    let kubeconfig = kube::config::Kubeconfig::read_from(path).context("kubeconfig")?;
    let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref());
    let data = cluster.and_then(|c| c.certificate_authority_data.clone());
    let data = data.context("the kubeconfig has no certificate-authority-data: give --root-ca-file")?;
    use base64::Engine as _;
    let pem = base64::prelude::BASE64_STANDARD.decode(data).context("certificate-authority-data")?;
    String::from_utf8(pem).context("certificate-authority-data")
}
