//! `quarterdeck kubeconfig`: a kubeconfig for an address that is not the master's own.

use anyhow::{Context as _, Result, ensure};

use super::print_line;
use crate::args::KubeconfigArgs;
use crate::kubeconfig::text;
use crate::pki::{self, Pki, Purpose, San};

pub(crate) fn kubeconfig(args: KubeconfigArgs) -> Result<()> {
    let KubeconfigArgs { server, data_dir, client_name, org, validity_period } = args;
    let uri: http::Uri = server.parse().with_context(|| format!("--server {server:?} is not a URL"))?;
    ensure!(uri.scheme_str() == Some("https"), "--server {server:?}: use https://HOST:PORT");
    let host = uri.host().with_context(|| format!("--server {server:?} has no host"))?;
    let dir = data_dir.join("pki");
    ensure!(dir.join("ca.crt").exists(), "there is no CA in {}: give a master's --data-dir", dir.display());
    warn_of_unknown_name(&dir, host);
    let pki = Pki::open(&dir, validity_period)?;
    let purpose = Purpose::Client { user: client_name.clone(), groups: org };
    let identity = pki.issue(&purpose, validity_period)?;
    print_line(text(server.trim_end_matches('/'), pki.ca_pem(), &client_name, &identity).trim_end());
    Ok(())
}

/// A name that is in no certificate makes a kubeconfig that no client can use.
fn warn_of_unknown_name(dir: &std::path::Path, host: &str) {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Ok(pem) = std::fs::read_to_string(dir.join("apiserver.crt")) else { return };
    if !pki::names_in(&pem).contains(&San::parse(host)) {
        tracing::warn!("{host} is not in this master's certificate: start all masters with --tls-san {host}");
    }
}
