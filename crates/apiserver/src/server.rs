//! One API server: made from a configuration, reachable in process and over TLS, stopped by its handle.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use store::{FromFiles, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admission;
use crate::aggregation::{self, Aggregation};
use crate::allocate::{Allocator, Cidr, PortRange};
use crate::allocations::Allocations;
use crate::attributes::UserInfo;
use crate::audit::{Audit, AuditConfig};
use crate::authn::outside::{Outside, OutsideConfig};
use crate::authn::request_header::FrontProxies;
use crate::authn::{Authenticator, Settings};
use crate::authz::{self, Authorizer, Mode};
use crate::bootstrap::alive::Alive;
use crate::bootstrap::objects::AuthenticationInfo;
use crate::cache::Cache;
use crate::config_file;
use crate::control::Control;
use crate::custom::{Catalog, Keeper};
use crate::deadline::Timeouts;
use crate::documents::Documents;
use crate::fairness::{self, Fairness};
use crate::gateway::{Gateway, Tokens};
use crate::health::Health;
use crate::inflight::{self, InFlight};
use crate::metrics::Metrics;
use crate::outbound::{ClientCertificate, Outbound, Routing, ServiceResolver};
use crate::policy::{self, Policies};
use crate::relay::kubelet::KubeletConfig;
use crate::serve::{self, InProcess};
use crate::source::ObjectSource;
use crate::startup;
use crate::storage::{Encryption, EncryptionFile, Objects, SealedStore, Sealing};
use crate::webhook::Webhooks;
use crate::zpages::Zpages;

/// Paths for people who look after the server.
const ZPAGE_PATHS: [&str; 7] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

/// What an API server is made from.
#[derive(Debug)]
pub struct Config {
    pub store: Arc<dyn Store>,
    pub tokens: Tokens,
    /// Bootstrap tokens are credentials (`--enable-bootstrap-token-auth`).
    pub bootstrap_tokens: bool,
    /// The admission plugins to run.
    pub admission: admission::Chain,
    /// Service address ranges; the first gives the default family.
    pub service_ranges: Vec<Cidr>,
    pub node_ports: PortRange,
    /// How long events live.
    pub event_ttl: Duration,
    /// Where clients outside reach this server: the endpoint of the `kubernetes` Service.
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    /// How webhooks and aggregated servers behind a Service are reached.
    pub service_routing: Routing,
    /// Shown to aggregated servers, whom it tells that the identity headers are ours.
    pub front_proxy: Option<ClientCertificate>,
    /// How kubelets are reached.
    pub kubelets: KubeletConfig,
    /// What extension servers need to trust the same clients.
    pub authentication: AuthenticationInfo,
    /// Values are sealed on their way to the store (`--encryption-provider-config`).
    pub encryption: Option<(Encryption, EncryptionFile)>,
    /// How many requests are worked on at once, and whether the others wait in turn.
    pub flow_control: FlowControl,
    /// How long requests and watches last.
    pub timeouts: Timeouts,
    /// Who else vouches for tokens (`--authentication-config`, `--oidc-…`, `--authentication-token-webhook-…`, `--token-auth-file`).
    pub outside: OutsideConfig,
    /// Who may do what, decided by whom.
    pub authorization: Authorization,
    /// What requests leave behind (`--audit-policy-file` and a backend).
    pub audit: Option<AuditConfig>,
    /// Endpoints of the master as a whole, if it has any.
    pub control: Option<Arc<dyn Control>>,
    /// Names and values of the flags it was started with, as `/flagz` shows them.
    pub flags: Vec<(String, String)>,
}

/// `--enable-priority-and-fairness`, `--max-requests-inflight`, `--max-mutating-requests-inflight`
#[derive(Clone, Copy, Debug)]
pub struct FlowControl {
    pub fairness: bool,
    pub reads_max: usize,
    pub writes_max: usize,
}

impl Default for FlowControl {
    fn default() -> Self {
        Self { fairness: true, reads_max: inflight::READS_MAX, writes_max: inflight::WRITES_MAX }
    }
}

impl FlowControl {
    fn fairness(self) -> Fairness {
        Fairness::new(self.reads_max + self.writes_max)
    }

    fn in_flight(self) -> InFlight {
        InFlight::new(self.reads_max, self.writes_max)
    }
}

/// The chain of authorizers.
#[derive(Default)]
pub struct Authorization {
    /// The node authorizer and RBAC when there are none.
    pub modes: Vec<Mode>,
    /// The file they came from with its text, and how to read it again when it changes.
    pub follow: Option<(PathBuf, String, ReadModes)>,
}

/// Reads a file of authorizers.
pub type ReadModes = Box<dyn Fn(&str) -> Result<Vec<Mode>, String> + Send>;

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization").field("modes", &self.modes).finish_non_exhaustive()
    }
}

impl Authorization {
    fn start(self, source: &Arc<dyn ObjectSource>, shutdown: &watch::Receiver<bool>) -> Arc<Authorizer> {
        let modes = if self.modes.is_empty() { authz::config::default_modes() } else { self.modes };
        let authorizer = Arc::new(Authorizer::with_modes(Arc::clone(source), modes));
        if let Some((path, text, read)) = self.follow {
            let followed = Arc::clone(&authorizer);
            tokio::spawn(config_file::follow(path, text, shutdown.clone(), move |text| match read(text) {
                Ok(modes) => {
                    followed.set_modes(modes);
                    tracing::info!("the authorization configuration was read again");
                }
                Err(error) => tracing::error!(%error, "the changed authorization configuration is not used"),
            }));
        }
        authorizer
    }
}

/// A running API server. Dropping it does not stop it; [`ApiServer::stop`] does.
#[derive(Clone, Debug)]
pub struct ApiServer {
    gateway: Arc<Gateway>,
    shutdown: Arc<watch::Sender<bool>>,
}

impl ApiServer {
    /// Starts feeding the cache and creating the control plane's objects. Requests are answered from the first moment on;
    /// [`ApiServer::ready`] says when /readyz would be 200.
    ///
    /// An error: the audit log cannot be opened.
    pub fn start(config: Config) -> std::io::Result<Self> {
        let registry = api::kinds::builtin();
        let (shutdown, stopped) = watch::channel(false);
        let metrics = Metrics::new();
        let mut health = Health::default();
        let objects = match config.encryption {
            None => Objects::new(config.store, config.event_ttl),
            Some((encryption, file)) => {
                let sealing = Arc::new(Sealing::new(encryption, registry));
                metrics.add(Arc::clone(&sealing) as _);
                health = health.with_sealing(Arc::clone(&sealing), file.reload);
                sealing.start(file, stopped.clone());
                Objects::sealed(SealedStore::new(config.store, sealing), config.event_ttl)
            }
        };
        let audit = config.audit.map(Audit::new).transpose()?.map(Arc::new);
        if let Some(audit) = &audit {
            metrics.add(Arc::clone(audit) as _);
        }
        let cache = Cache::new(Arc::clone(objects.store()), registry.kinds().iter().cloned());
        let source: Arc<dyn ObjectSource> = Arc::clone(&cache) as _;
        let allocator = Allocator::new(config.service_ranges, config.node_ports);
        let gateway = Arc::new_cyclic(|me| Gateway {
            me: me.clone(),
            catalog: Catalog::new(registry),
            objects,
            cache: Arc::clone(&cache),
            authn: Authenticator::new(
                Arc::clone(&source),
                Settings {
                    keys: config.tokens.keys.clone(),
                    issuers: config.tokens.issuers.clone(),
                    audiences: config.tokens.issuer.audiences.clone(),
                    bootstrap_tokens: config.bootstrap_tokens,
                },
            )
            .with(Outside::start(config.outside, &stopped)),
            front_proxies: FrontProxies::new(&config.authentication),
            tokens: config.tokens,
            authz: config.authorization.start(&source, &stopped),
            admission: config.admission,
            admission_config: admission::Config::default(),
            webhooks: Webhooks::default(),
            policies: Policies::default(),
            outbound: Outbound::default(),
            kubelets: config.kubelets,
            aggregation: Aggregation::new(config.front_proxy),
            services: ServiceResolver::new(Arc::clone(&source), config.service_routing, config.secure_port),
            allocations: Allocations::new(allocator),
            documents: Documents::default(),
            zpages: Zpages {
                component: "kube-apiserver",
                paths: &ZPAGE_PATHS,
                started: health.started,
                flags: config.flags,
            },
            health,
            fairness: config.flow_control.fairness.then(|| config.flow_control.fairness()),
            in_flight: (!config.flow_control.fairness).then(|| config.flow_control.in_flight()),
            timeouts: config.timeouts,
            audit,
            metrics,
            control: config.control,
            shutdown: stopped.clone(),
        });
        if let Some(fairness) = &gateway.fairness {
            gateway.metrics.extend(|registry| fairness.register(registry));
        }
        if let Some(control) = &gateway.control {
            gateway.metrics.add(Arc::clone(control) as _);
        }
        let identity = startup::Identity {
            advertise_address: config.advertise_address,
            secure_port: config.secure_port,
            authentication: config.authentication,
            alive: Alive::default(),
        };
        tokio::spawn(Arc::clone(&cache).run());
        tokio::spawn(startup::run_compactor(Arc::clone(&gateway), stopped.clone()));
        tokio::spawn(fairness::run(Arc::clone(&gateway), stopped.clone()));
        tokio::spawn(startup::run_flow_conditions(Arc::clone(&gateway), stopped.clone()));
        tokio::spawn(startup::run_address_repair(Arc::clone(&gateway), stopped.clone()));
        tokio::spawn(policy::run_refresher(Arc::clone(&gateway), stopped.clone()));
        let starting = Arc::clone(&gateway);
        tokio::spawn(async move {
            starting.cache.ready().await;
            // Custom resources are served from the first moment on at which the server is ready.
            let mut keeper = Keeper::default();
            if let Err(status) = keeper.sync(&starting).await {
                tracing::warn!(%status, "cannot keep the status of custom resource definitions");
            }
            tokio::spawn(keeper.run(Arc::clone(&starting), stopped.clone()));
            startup::bootstrap(&starting, &identity).await;
            tokio::spawn(aggregation::run(Arc::clone(&starting), stopped.clone()));
            startup::run_keeper(starting, identity, stopped).await;
        });
        Ok(Self { gateway, shutdown: Arc::new(shutdown) })
    }

    /// Waits until the cache is complete and the control plane's objects exist.
    pub fn ready(&self) -> BoxFuture<'_, ()> {
        self.gateway.health.bootstrapped().boxed()
    }

    /// A door for a component in this process, which acts as `user`.
    pub fn in_process(&self, user: UserInfo) -> InProcess {
        InProcess::new(Arc::clone(&self.gateway), user)
    }

    /// Serves HTTPS until [`ApiServer::stop`]; each connection with the configuration of its time. Ends when the audit log is
    /// written. (Boxed, as the doors of other crates are: what the caller polls bare is compiled once more with the caller.)
    pub fn serve(&self, listener: TcpListener, tls: Arc<FromFiles<rustls::ServerConfig>>) -> BoxFuture<'_, ()> {
        let serving = async move {
            serve::serve(Arc::clone(&self.gateway), listener, tls, self.shutdown.subscribe()).await;
            if let Some(audit) = &self.gateway.audit {
                audit.flush().await;
            }
        };
        serving.boxed()
    }

    /// Ends watches, background work and [`ApiServer::serve`].
    pub fn stop(&self) {
        self.shutdown.send_replace(true);
    }
}
