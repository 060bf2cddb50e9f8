//! TLS between members: each is server and client with the same certificate.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::config::{PeerError, PeerTls};

fn wrong(what: &str, error: &dyn std::fmt::Display) -> PeerError {
    PeerError::Tls(format!("{what}: {error}"))
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| wrong(what, &error))?;
    if found.is_empty() { Err(PeerError::Tls(format!("{what}: no certificate in the PEM text"))) } else { Ok(found) }
}

impl PeerTls {
    fn roots(&self) -> Result<Arc<RootCertStore>, PeerError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("peer authority", self.ca.as_ref().unwrap_or(&self.certificate))? {
            roots.add(certificate).map_err(|error| wrong("peer authority", &error))?;
        }
        Ok(Arc::new(roots))
    }

    fn identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PeerError> {
        let chain = certificates("peer certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong("peer key", &error))?;
        Ok((chain, key))
    }

    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, PeerError> {
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("protocol versions", &error))?;
        let builder = if self.client_cert_auth {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong("peer authority", &error))?)
        } else {
            builder.with_no_client_auth()
        };
        let (chain, key) = self.identity()?;
        let config = builder.with_single_cert(chain, key).map_err(|error| wrong("peer certificate and key", &error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    pub(super) fn connector(&self) -> Result<TlsConnector, PeerError> {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("protocol versions", &error))?
            .with_root_certificates(self.roots()?);
        let (chain, key) = self.identity()?;
        let config =
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong("peer certificate and key", &error))?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, PeerError> {
    ServerName::try_from(host.to_owned()).map_err(|error| wrong("host", &error))
}
