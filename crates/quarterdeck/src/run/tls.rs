//! TLS configurations from PEM.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// A server that offers HTTP/2 and 1.1, and asks for (but does not insist on) a client certificate of `client_ca_pem`.
pub(super) fn server_config(
    certificate_pem: &str,
    key_pem: &str,
    client_ca_pem: &str,
) -> Result<Arc<rustls::ServerConfig>> {
    let chain = certificates(certificate_pem).context("the serving certificate is unreadable")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).context("the serving key is unreadable")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca_pem).context("the client CA is unreadable")? {
        roots.add(certificate).context("the client CA cannot be used")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .context("the client CA cannot be used")?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .context("TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the serving certificate and its key do not fit")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("not PEM")?;
    if certificates.is_empty() {
        bail!("no certificate found");
    }
    Ok(certificates)
}

pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
