use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ComponentFlags, RequestHeaderFlags};

/// `quarterdeck apiserver`.
#[derive(Debug, Args)]
pub(crate) struct ApiServerArgs {
    #[command(flatten)]
    pub etcd: EtcdFlags,
    #[command(flatten)]
    pub flags: ApiServerFlags,
    /// Certificate of the HTTPS server (PEM, with intermediates).
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// Key of the HTTPS server's certificate.
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// CAs whose client certificates identify users: CN is the user, O the groups.
    #[arg(long)]
    pub client_ca_file: PathBuf,
    /// Private key that signs service account tokens (PEM, ECDSA P-256 or RSA).
    #[arg(long)]
    pub service_account_signing_key_file: PathBuf,
    #[command(flatten)]
    pub component: ComponentFlags,
}

/// Where a stand-alone store is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EtcdFlags {
    /// Endpoints of a stand-alone etcd-compatible store (scheme://host:port, comma separated).
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA of the store's servers.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for the store.
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for the store.
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
}

/// Flags of the API server that `server` takes as well.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApiServerFlags {
    /// Names and values of all flags of the command, given or not. Filled in after parsing.
    #[arg(skip)]
    pub all: Vec<(String, String)>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// HTTPS port.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Address at which members of the cluster reach this server; the host's default address if not given.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Ranges for Service addresses, at most one per family, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "10.0.0.0/24")]
    pub service_cluster_ip_range: Vec<String>,
    /// Ports for NodePort Services, both ends included.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Issuer of service account tokens; the first one signs, all are accepted.
    #[arg(long, default_value = "https://kubernetes.default.svc")]
    pub service_account_issuer: Vec<String>,
    /// Where the keys for verifying tokens are published, when not at the advertised address.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// Further keys accepted for service account tokens (PEM, public or private).
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Audiences of tokens meant for this server; the issuer if not given.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Admission plugins to run besides the default ones, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "NodeRestriction")]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins not to run, comma separated.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Reach webhooks and aggregated servers at the endpoints of their Service instead of its cluster IP.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_aggregator_routing: bool,
    /// Client certificate for kubelets (PEM); `server` makes one if not given.
    #[arg(long, requires = "kubelet_client_key")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Key of the client certificate for kubelets.
    #[arg(long, requires = "kubelet_client_certificate")]
    pub kubelet_client_key: Option<PathBuf>,
    /// CAs of the kubelets' serving certificates (PEM); any certificate is taken if not given.
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Types of node addresses to reach kubelets at, best first, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP",
        value_parser = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"])]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Client certificate for aggregated API servers (PEM); `server` makes one if not given.
    #[arg(long, requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Key of the client certificate for aggregated API servers.
    #[arg(long, requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub request_header: RequestHeaderFlags,
    /// How long events are kept, in Go's notation (1h0m0s).
    #[arg(long, default_value = "1h0m0s", value_parser = super::super::duration::parse)]
    pub event_ttl: std::time::Duration,
    /// Let pods ask for privileged containers, where admission allows it; they cannot be switched off here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = ["true"])]
    pub allow_privileged: String,
    /// Accept bootstrap tokens (Secrets of type bootstrap.kubernetes.io/token in kube-system) as credentials.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    /// Configuration of encryption at rest (EncryptionConfiguration, apiserver.config.k8s.io/v1): what is sealed by which keys.
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read the configuration of encryption at rest again when its file changes.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub encryption_provider_config_automatic_reload: bool,
    #[command(flatten)]
    pub audit: super::AuditFlags,
    #[command(flatten)]
    pub guard: super::GuardFlags,
}
