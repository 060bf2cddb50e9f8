//! TLS configurations from PEM.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use store::{FromFiles, Pem};

/// A server that offers HTTP/2 and 1.1, and asks for (but does not insist on) a client certificate of one of `client_cas`. What is in
/// files is followed.
pub(super) fn server_config(
    certificate: Pem,
    key: Pem,
    client_cas: Vec<Pem>,
) -> Result<Arc<FromFiles<rustls::ServerConfig>>> {
    let parts = [certificate, key].into_iter().chain(client_cas).collect();
    let made = FromFiles::of_pems(parts, |texts| {
        let (identity, client_cas) = texts.split_at(2);
        make(identity[0], identity[1], client_cas).map_err(|error| format!("{error:#}"))
    });
    Ok(Arc::new(made.map_err(anyhow::Error::msg)?))
}

fn make(certificate: &[u8], key: &[u8], client_cas: &[&[u8]]) -> Result<rustls::ServerConfig> {
    let chain = certificates(certificate).context("the serving certificate is unreadable")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the serving key is unreadable")?;
    let mut roots = RootCertStore::empty();
    for pem in client_cas {
        for certificate in certificates(pem).context("the client CA is unreadable")? {
            roots.add(certificate).context("the client CA cannot be used")?;
        }
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
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("not PEM")?;
    if certificates.is_empty() {
        bail!("no certificate found");
    }
    Ok(certificates)
}

pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
