//! `quarterdeck store`, and the etcd API of a server's embedded store.

mod listen;
mod self_signed;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::Shutdown;
use store::etcd::{Origins, Pem, Server, ServerConfig, ServerTls, TlsProtocol};
use store::{
    AuthConfig, ClusterState, EmbeddedConfig, EmbeddedStore, InitialMember, PeerConfig, PeerTls, Retention, Store,
};
use tokio::task::JoinHandle;

use super::print_line;
use crate::args::{ClusterFlags, InitialClusterState, StoreArgs, StoreFlags};
use crate::{duration, logging};
use listen::Endpoints;

/// etcd's quota where none is given.
const QUOTA_BYTES_DEFAULT: i64 = 2 << 30;
/// Handing over leadership takes one exchange of messages when others are well.
const RESIGN_PATIENCE: Duration = Duration::from_secs(2);
const LISTEN_CLIENT_DEFAULT: &str = "http://localhost:2379";

pub(crate) async fn store(args: StoreArgs, warnings: &[String], shutdown: Shutdown) -> Result<()> {
    let StoreArgs { tool, flags } = args;
    if let Some(tool) = tool {
        if let Err(error) = tools::run(tool).await {
            eprintln!("Error: {error:#}");
            std::process::exit(1);
        }
        return Ok(());
    }
    if flags.version {
        print_version();
        return Ok(());
    }
    logging::init_as_etcd(&flags)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    serve_flags(flags, shutdown).await
}

async fn serve_flags(flags: StoreFlags, shutdown: Shutdown) -> Result<()> {
    let plan = Plan::of(flags)?;
    let Plan { config, server, retention, data_dir, defragment_above_bytes, checks_at_start, check_interval } = plan;
    if config.name == "default" {
        tracing::warn!(name = config.name, "it isn't recommended to use default name, please set a value for --name");
    }
    tracing::info!(data_dir = %data_dir.display(), name = config.name, "starting an etcd server");
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.context("opening the store")?;
    let store = Arc::new(store.context("cannot open the store")?);
    defragment(&store, defragment_above_bytes).await?;
    if checks_at_start {
        store.check_for_corruption().await.context("the initial check for corruption")?;
    }
    let server = Server::bind(Arc::clone(&store) as _, server).await.context("the store's API")?;
    let addresses = server.addresses().to_vec();
    let compacting = retention.map(|retention| tokio::spawn(retention.enforce(Arc::clone(&store) as _)));
    let checking = check_interval.map(|interval| tokio::spawn(Arc::clone(&store).watch_for_corruption(interval)));
    let resigning = Arc::clone(&store);
    let stopped = async move {
        shutdown.cancelled_owned().await;
        // As etcd: clients of the others need not wait for an election.
        if tokio::time::timeout(RESIGN_PATIENCE, resigning.resign()).await.is_err() {
            tracing::warn!("no other member takes over in time");
        }
    };
    let serving = tokio::spawn(async move { server.run(stopped).await });
    for address in addresses {
        tracing::info!(%address, "serving client traffic");
    }
    tracing::info!("ready to serve client requests");
    serving.await.context("serving")?;
    for task in compacting.into_iter().chain(checking) {
        task.abort();
    }
    tokio::task::spawn_blocking(move || store.shutdown()).await.context("closing the store")
}

/// Gives space back before serving, if it is worth it.
async fn defragment(store: &Arc<EmbeddedStore>, above_bytes: Option<i64>) -> Result<()> {
    let Some(above_bytes) = above_bytes else { return Ok(()) };
    let status = store.status().await.context("the store's status")?;
    let free_bytes = status.db_size_bytes - status.db_size_in_use_bytes;
    if free_bytes < above_bytes {
        return Ok(());
    }
    tracing::info!(free_bytes, "defragmenting the state file");
    store.defragment().await.context("defragmenting the state file")
}

/// What etcd's tests and operators' scripts look for.
fn print_version() {
    print_line(&format!("etcd Version: {}", store::etcd::VERSION));
    print_line(&format!("Git SHA: quarterdeck v{}", env!("CARGO_PKG_VERSION")));
    print_line("Go Version: none (Rust)");
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    print_line(&format!("Go OS/Arch: {}/{arch}", std::env::consts::OS));
}

/// What the flags ask for, checked.
struct Plan {
    config: EmbeddedConfig,
    server: ServerConfig,
    retention: Option<Retention>,
    data_dir: PathBuf,
    defragment_above_bytes: Option<i64>,
    checks_at_start: bool,
    /// `None` is never.
    check_interval: Option<Duration>,
}

impl Plan {
    fn of(flags: StoreFlags) -> Result<Self> {
        let StoreFlags {
            version: _,
            config_file: _,
            name,
            data_dir,
            listen_client_urls,
            listen_client_http_urls,
            listen_metrics_urls,
            metrics,
            cors,
            host_whitelist,
            auth_token,
            auth_token_ttl,
            bcrypt_cost,
            advertise_client_urls,
            quota_backend_bytes,
            value_cache_bytes,
            max_txn_ops,
            max_request_bytes,
            max_concurrent_streams,
            unsafe_no_fsync,
            grpc_keepalive_interval,
            grpc_keepalive_timeout,
            watch_progress_notify_interval,
            auto_compaction_mode,
            auto_compaction_retention,
            bootstrap_defrag_threshold_megabytes,
            corrupt_check_time,
            experimental_initial_corrupt_check,
            feature_gates,
            cert_file,
            key_file,
            trusted_ca_file,
            client_cert_auth,
            client_crl_file,
            client_cert_allowed_hostname,
            auto_tls,
            self_signed_cert_validity,
            cipher_suites,
            tls_min_version,
            tls_max_version,
            logger: _,
            log_outputs: _,
            log_level: _,
            log_format: _,
            cluster,
            foreign,
        } = flags;
        if let Some((name, why)) = foreign.refused.first() {
            bail!("--{name} is not supported: {why}");
        }
        for (name, why) in foreign.without_effect {
            tracing::warn!("--{name} has no effect: {why}");
        }
        let is_default = listen_client_urls == [LISTEN_CLIENT_DEFAULT];
        let client_urls = match advertise_client_urls.is_empty() {
            true if is_default => listen_client_urls.clone(),
            true => bail!("--advertise-client-urls is required when --listen-client-urls is set explicitly"),
            false => advertise_client_urls,
        };
        listen::check_advertised("advertise-client-urls", &client_urls)?;
        let endpoints = Endpoints::of(&listen_client_urls, &listen_client_http_urls, &listen_metrics_urls)?;
        let data_dir = data_dir.0.unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));

        let protocol = TlsProtocol::parse(&tls_min_version, &tls_max_version, &cipher_suites)?;
        if client_cert_auth && trusted_ca_file.get().is_none() {
            bail!("--client-cert-auth needs --trusted-ca-file");
        }
        let files = match (cert_file.0, key_file.0) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) if auto_tls && endpoints.wants_tls() => {
                let hosts = endpoints.hosts();
                let dir = data_dir.join("fixtures").join("client");
                Some(self_signed::identity(&dir, &hosts, self_signed_cert_validity)?)
            }
            (None, None) => None,
            (certificate, key) => {
                let (certificate, key) = (certificate.unwrap_or_default(), key.unwrap_or_default());
                bail!(
                    "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                    key.display(),
                    certificate.display()
                )
            }
        };
        let tls = match (endpoints.wants_tls(), files) {
            (true, Some((certificate, key))) => Some(ServerTls {
                revoked: client_crl_file.0.map(Pem::File),
                client_names: client_cert_allowed_hostname,
                protocol,
                // As with etcd, an authority is reason enough to ask for certificates.
                ..ServerTls::new(certificate, key, trusted_ca_file.0.map(Pem::File))
            }),
            (true, None) => bail!("https in --listen-client-urls needs --cert-file and --key-file, or --auto-tls"),
            (false, Some(_)) => {
                tracing::warn!(
                    "scheme is http or unix while key and cert files are present; ignoring key and cert files"
                );
                None
            }
            (false, None) => None,
        };
        let config = EmbeddedConfig {
            data_dir: Some(data_dir.clone()),
            name,
            client_urls,
            quota_bytes: quota_bytes(quota_backend_bytes),
            txn_ops_max: max_txn_ops as usize,
            request_bytes_max: max_request_bytes as usize,
            auth: AuthConfig::parse(&auth_token, Duration::from_secs(auth_token_ttl.into()), bcrypt_cost)
                .context("--auth-token")?,
            value_cache_bytes: usize::try_from(value_cache_bytes).unwrap_or(usize::MAX),
            unsafe_no_sync: unsafe_no_fsync,
            ..cluster_config(&cluster)?
        };
        let server = ServerConfig {
            listen: endpoints.listen(),
            tls,
            request_bytes_max: max_request_bytes as usize,
            progress_interval: watch_progress_notify_interval.max(Duration::from_millis(1)),
            keep_alive_interval: Some(grpc_keepalive_interval).filter(|interval| !interval.is_zero()),
            keep_alive_timeout: grpc_keepalive_timeout,
            streams_max: Some(max_concurrent_streams),
            metrics_extensive: metrics == "extensive",
            origins: origins(cors, host_whitelist),
        };
        let retention = retention(&auto_compaction_mode, &auto_compaction_retention)?;
        let megabytes =
            i64::try_from(bootstrap_defrag_threshold_megabytes).context("--bootstrap-defrag-threshold-megabytes")?;
        let defragment_above_bytes = (megabytes > 0).then(|| megabytes.saturating_mul(1 << 20));
        let checks_at_start = experimental_initial_corrupt_check || feature_gates.initial_corrupt_check;
        let check_interval = Some(corrupt_check_time).filter(|interval| !interval.is_zero());
        Ok(Self { config, server, retention, data_dir, defragment_above_bytes, checks_at_start, check_interval })
    }
}

fn origins(cors: Vec<String>, hosts: Vec<String>) -> Origins {
    let set = |names: Vec<String>| names.into_iter().filter(|name| !name.is_empty()).collect();
    Origins { cors: set(cors), hosts: set(hosts) }
}

/// The part of the configuration that concerns other members.
fn cluster_config(flags: &ClusterFlags) -> Result<EmbeddedConfig> {
    let ClusterFlags {
        listen_peer_urls,
        initial_advertise_peer_urls,
        initial_cluster,
        initial_cluster_state,
        force_new_cluster,
        initial_cluster_token,
        peer_cert_file,
        peer_key_file,
        peer_trusted_ca_file,
        peer_client_cert_auth,
        snapshot_bytes_per_second,
        snapshot_catchup_entries,
        heartbeat_interval,
        election_timeout,
    } = flags;
    listen::check_advertised("initial-advertise-peer-urls", initial_advertise_peer_urls)?;
    let ca = peer_trusted_ca_file.get().cloned().map(Pem::File);
    if *peer_client_cert_auth && ca.is_none() {
        bail!("--peer-client-cert-auth needs --peer-trusted-ca-file");
    }
    let peer_tls = match (peer_cert_file.get(), peer_key_file.get()) {
        (Some(certificate), Some(key)) => Some(PeerTls {
            certificate: Pem::File(certificate.clone()),
            key: Pem::File(key.clone()),
            // As with etcd, an authority is reason enough to ask for certificates.
            client_cert_auth: *peer_client_cert_auth || ca.is_some(),
            ca,
        }),
        (None, None) => None,
        (certificate, key) => {
            let (certificate, key) = (certificate.cloned().unwrap_or_default(), key.cloned().unwrap_or_default());
            bail!("KeyFile and CertFile must both be present[key: {}, cert: {}]", key.display(), certificate.display())
        }
    };
    if peer_tls.is_none() && listen_peer_urls.iter().any(|url| url.starts_with("https://")) {
        bail!("https in --listen-peer-urls needs --peer-cert-file and --peer-key-file");
    }
    let members = InitialMember::parse_list(initial_cluster.as_deref().unwrap_or_default());
    Ok(EmbeddedConfig {
        peer_urls: initial_advertise_peer_urls.clone(),
        cluster_token: initial_cluster_token.clone(),
        initial_cluster: members.map_err(anyhow::Error::msg)?,
        cluster_state: match initial_cluster_state {
            InitialClusterState::New => ClusterState::New,
            InitialClusterState::Existing => ClusterState::Existing,
        },
        force_new_cluster: *force_new_cluster,
        peer: Some(PeerConfig { listen_urls: listen_peer_urls.clone(), tls: peer_tls }),
        snapshot_bytes_per_second: *snapshot_bytes_per_second,
        catchup_entries: *snapshot_catchup_entries,
        heartbeat_interval: Duration::from_millis(*heartbeat_interval),
        election_timeout: Duration::from_millis(*election_timeout),
        ..EmbeddedConfig::default()
    })
}

fn quota_bytes(flag: i64) -> i64 {
    match flag {
        0 => QUOTA_BYTES_DEFAULT,
        ..0 => 0,
        bytes => bytes,
    }
}

/// `None` when nothing is to be compacted by itself.
fn retention(mode: &str, text: &str) -> Result<Option<Retention>> {
    let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
    let retention = match (mode, number) {
        ("periodic" | "revision", Some(0)) => return Ok(None),
        ("revision", Some(revisions)) => Retention::Revisions(revisions),
        ("periodic", Some(hours)) => Retention::Period(Duration::from_secs(hours.unsigned_abs().saturating_mul(3600))),
        ("periodic", None) => {
            let period =
                duration::parse(text).map_err(|error| anyhow::anyhow!("error parsing CompactionRetention: {error}"))?;
            if period.is_zero() {
                return Ok(None);
            }
            Retention::Period(period)
        }
        ("revision", None) => bail!("error parsing CompactionRetention: {text:?} is not a number of revisions"),
        ("", _) => bail!("undefined auto-compaction-mode"),
        _ => bail!("unknown auto-compaction-mode {mode:?}"),
    };
    Ok(Some(retention))
}

/// Serves a store's etcd API until the shutdown.
pub(super) async fn serve(
    store: Arc<EmbeddedStore>,
    listen: Vec<SocketAddr>,
    tls: Option<ServerTls>,
    shutdown: Shutdown,
) -> Result<JoinHandle<()>> {
    let listen = listen.into_iter().map(Into::into).collect();
    let config = ServerConfig { listen, tls, ..ServerConfig::default() };
    let server = Server::bind(store, config).await.context("the store's API")?;
    Ok(tokio::spawn(async move { server.run(shutdown.cancelled_owned()).await }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_as_etcd_reads_it() {
        let minutes = |n: u64| Some(Retention::Period(Duration::from_secs(60 * n)));
        assert_eq!(retention("periodic", "0").unwrap(), None);
        assert_eq!(retention("periodic", "2").unwrap(), minutes(120));
        assert_eq!(retention("periodic", "5m").unwrap(), minutes(5));
        assert_eq!(retention("revision", "1000").unwrap(), Some(Retention::Revisions(1000)));
        assert_eq!(retention("hourly", "1").unwrap_err().to_string(), "unknown auto-compaction-mode \"hourly\"");
        assert!(retention("revision", "5m").is_err());
    }

    #[test]
    fn no_quota_is_asked_for_with_a_negative_number() {
        assert_eq!([0, -1, 77].map(quota_bytes), [2 << 30, 0, 77]);
    }
}
