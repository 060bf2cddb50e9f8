use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::RequestHeaderFlags;

/// Health and metrics of a component that runs as a process of its own.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServingFlags {
    /// Address to serve health and metrics on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// HTTPS port for health and metrics, 0 for none; 10257 for the controller manager and 10259 for the scheduler if not given.
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// Serving certificate (PEM); one is made and signed by itself if not given.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CAs of client certificates (PEM); none are accepted if not given.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub request_header: RequestHeaderFlags,
    /// Kubeconfig of a user that may ask the API server whose a token is; tokens are not accepted if not given.
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig of a user that may ask the API server what others may do; nobody but system:masters may do anything if not given.
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Paths that everybody may read, comma separated; a '*' at the end stands for all below.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
}
