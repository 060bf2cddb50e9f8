//! TLS of the server side: its certificate, and which clients may connect.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::ServeError;

/// PEM texts.
#[derive(Clone)]
pub struct ServerTls {
    /// The server's certificate and what leads from it to its authority.
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    /// Clients must show a certificate of this authority; without it anyone may connect.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("client_certificates", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads the PEM files.
    pub fn read(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, ServeError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| ServeError::Tls(format!("reading {}: {error}", path.display())))
        };
        Ok(Self { certificate: read(certificate)?, key: read(key)?, client_ca: client_ca.map(read).transpose()? })
    }

    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, ServeError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| ServeError::Tls(format!("{what}: {error}"));
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("protocol versions", &error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("client authority", pem)? {
                    roots.add(certificate).map_err(|error| wrong("client authority", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier.build().map_err(|error| wrong("client authority", &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("server certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong("server key", &error))?;
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| wrong("server certificate and key", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| ServeError::Tls(format!("{what}: {error}")))?;
    if certificates.is_empty() {
        return Err(ServeError::Tls(format!("{what}: no certificate in the PEM text")));
    }
    Ok(certificates)
}
