//! TLS between members: each is server and client with the same certificate.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::config::{PeerError, PeerTls};
use crate::reload::{FromFiles, Pem};

fn wrong(what: &str, error: &dyn std::fmt::Display) -> PeerError {
    PeerError::Tls(format!("{what}: {error}"))
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| wrong(what, &error))?;
    if found.is_empty() { Err(PeerError::Tls(format!("{what}: no certificate in the PEM text"))) } else { Ok(found) }
}

/// Certificate, key and authority, as texts.
struct Texts<'a>(&'a [&'a [u8]]);

impl Texts<'_> {
    /// Without an authority, the certificate is its own.
    fn roots(&self) -> Result<Arc<RootCertStore>, PeerError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("peer authority", self.0.get(2).unwrap_or(&self.0[0]))? {
            roots.add(certificate).map_err(|error| wrong("peer authority", &error))?;
        }
        Ok(Arc::new(roots))
    }

    fn identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PeerError> {
        let chain = certificates("peer certificate", self.0[0])?;
        let key = PrivateKeyDer::from_pem_slice(self.0[1]).map_err(|error| wrong("peer key", &error))?;
        Ok((chain, key))
    }

    fn server(&self, client_cert_auth: bool) -> Result<ServerConfig, PeerError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("protocol versions", &error))?;
        let builder = if client_cert_auth {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong("peer authority", &error))?)
        } else {
            builder.with_no_client_auth()
        };
        let (chain, key) = self.identity()?;
        builder.with_single_cert(chain, key).map_err(|error| wrong("peer certificate and key", &error))
    }

    fn client(&self) -> Result<ClientConfig, PeerError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("protocol versions", &error))?
            .with_root_certificates(self.roots()?);
        let (chain, key) = self.identity()?;
        builder.with_client_auth_cert(chain, key).map_err(|error| wrong("peer certificate and key", &error))
    }
}

impl PeerTls {
    fn parts(&self) -> Vec<Pem> {
        [self.certificate.clone(), self.key.clone()].into_iter().chain(self.ca.clone()).collect()
    }

    /// For connections that come in, as the files are at the time.
    pub(super) fn server(&self) -> Result<FromFiles<ServerConfig>, PeerError> {
        let client_cert_auth = self.client_cert_auth;
        let make = move |texts: &[&[u8]]| Texts(texts).server(client_cert_auth).map_err(|error| error.to_string());
        FromFiles::of_pems(self.parts(), make).map_err(PeerError::Tls)
    }

    /// For connections that go out.
    pub(super) fn client(&self) -> Result<FromFiles<ClientConfig>, PeerError> {
        let make = |texts: &[&[u8]]| Texts(texts).client().map_err(|error| error.to_string());
        FromFiles::of_pems(self.parts(), make).map_err(PeerError::Tls)
    }
}

pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, PeerError> {
    ServerName::try_from(host.to_owned()).map_err(|error| wrong("host", &error))
}
