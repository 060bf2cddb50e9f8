//! TLS of the server side: its certificate, and which clients may connect. What comes from files follows them.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;

use super::ServeError;
use crate::reload::{FromFiles, Pem};

/// The server's identity and its demands on clients.
#[derive(Clone)]
pub struct ServerTls {
    /// The server's certificate and what leads from it to its authority.
    pub certificate: Pem,
    pub key: Pem,
    /// Clients must show a certificate of this authority; without it anyone may connect.
    pub client_ca: Option<Pem>,
    /// Certificates of clients that are not accepted any more.
    pub revoked: Option<Pem>,
    /// Of these names, a client's certificate must have one; empty for any.
    pub client_names: Vec<String>,
    pub protocol: TlsProtocol,
}

impl ServerTls {
    pub fn new(certificate: impl Into<Pem>, key: impl Into<Pem>, client_ca: Option<Pem>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_ca,
            revoked: None,
            client_names: Vec::new(),
            protocol: TlsProtocol::default(),
        }
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("client_certificates", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// Versions and cipher suites to offer, by etcd's names for them.
#[derive(Clone, Debug, Default)]
pub struct TlsProtocol {
    versions: Option<Vec<&'static SupportedProtocolVersion>>,
    /// Suites of TLS 1.2; empty for all. Those of TLS 1.3 cannot be chosen.
    suites: Vec<String>,
}

impl TlsProtocol {
    /// `min` and `max` are `TLS1.2`, `TLS1.3` or empty; suites are IANA names.
    pub fn parse(min: &str, max: &str, suites: &[String]) -> Result<Self, ServeError> {
        let version = |text: &str, default| match text {
            "" => Ok(default),
            "TLS1.2" => Ok(2),
            "TLS1.3" => Ok(3),
            _ => Err(ServeError::Tls(format!("unexpected TLS version {text:?}"))),
        };
        let (min_minor, max_minor) = (version(min, 2)?, version(max, 3)?);
        if min_minor > max_minor {
            return Err(ServeError::Tls(format!("min version ({min}) is greater than max version ({max})")));
        }
        if min_minor == 3 && !suites.is_empty() {
            return Err(ServeError::Tls("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned()));
        }
        let known = ring::default_provider().cipher_suites;
        for suite in suites {
            if !known.iter().any(|known| is_named(*known, suite)) {
                return Err(ServeError::Tls(format!("unexpected TLS cipher suite {suite:?}")));
            }
        }
        let all = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
        let versions = all.into_iter().filter(|(minor, _)| (min_minor..=max_minor).contains(minor));
        Ok(Self { versions: Some(versions.map(|(_, version)| version).collect()), suites: suites.to_vec() })
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        if !self.suites.is_empty() {
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some() || self.suites.iter().any(|name| is_named(*suite, name)));
        }
        provider
    }
}

/// Go's older name of the ChaCha suites lacks the hash, and its TLS 1.3 suites the version.
fn is_named(suite: rustls::SupportedCipherSuite, name: &str) -> bool {
    let own = suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_");
    own == name || own.strip_suffix("_SHA256").is_some_and(|short| short.ends_with("POLY1305") && short == name)
}

/// Accepts connections with the configuration that the files give at the time.
#[derive(Clone, Debug)]
pub(super) struct Acceptor {
    config: Arc<FromFiles<rustls::ServerConfig>>,
    client_names: Arc<[ServerName<'static>]>,
}

impl Acceptor {
    pub(super) fn new(tls: &ServerTls) -> Result<Self, ServeError> {
        let names = tls.client_names.iter().map(|name| {
            let error = |_| ServeError::Tls(format!("{name:?} is not a host name"));
            ServerName::try_from(name.clone()).map_err(error)
        });
        let client_names = names.collect::<Result<Vec<_>, _>>()?.into();
        let parts = [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref(), tls.revoked.as_ref()];
        let paths = parts.iter().filter_map(|part| match part {
            Some(Pem::File(path)) => Some(path.clone()),
            _ => None,
        });
        let paths: Vec<_> = paths.collect();
        let parts = parts.map(|part| part.cloned());
        let protocol = tls.protocol.clone();
        let make = move |files: &[Vec<u8>]| {
            let mut files = files.iter();
            let texts = parts.each_ref().map(|part| match part {
                Some(Pem::Text(text)) => Some(text.as_slice()),
                Some(Pem::File(_)) => files.next().map(Vec::as_slice),
                None => None,
            });
            server_config(texts, &protocol)
        };
        let config = FromFiles::new(paths, make).map_err(ServeError::Tls)?;
        Ok(Self { config: Arc::new(config), client_names })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.get())
    }

    /// Whether the client's certificate, already verified, has one of the names that are let in.
    pub(super) fn lets_in(&self, connection: &rustls::ServerConnection) -> bool {
        if self.client_names.is_empty() {
            return true;
        }
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        let Some(parsed) = certificate.and_then(|certificate| ParsedCertificate::try_from(certificate).ok()) else {
            return false;
        };
        self.client_names.iter().any(|name| rustls::client::verify_server_name(&parsed, name).is_ok())
    }
}

/// From the texts of certificate, key, client authority and revocations.
fn server_config(
    [certificate, key, client_ca, revoked]: [Option<&[u8]>; 4],
    protocol: &TlsProtocol,
) -> Result<rustls::ServerConfig, String> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let provider = Arc::new(protocol.provider());
    let versions = protocol.versions.as_deref().unwrap_or(rustls::DEFAULT_VERSIONS);
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| wrong("protocol versions", &error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client authority", pem)? {
                roots.add(certificate).map_err(|error| wrong("client authority", &error))?;
            }
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if let Some(pem) = revoked {
                let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
                let lists = lists.map_err(|error| wrong("certificate revocation list", &error))?;
                // A list speaks of the clients it knows, and others are not turned away for want of one.
                verifier = verifier.with_crls(lists).allow_unknown_revocation_status();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong("client authority", &error))?)
        }
    };
    let chain = certificates("server certificate", certificate.unwrap_or_default())?;
    let key = PrivateKeyDer::from_pem_slice(key.unwrap_or_default()).map_err(|error| wrong("server key", &error))?;
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| wrong("server certificate and key", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| format!("{what}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{what}: no certificate in the PEM text"));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_named_as_go_names_them() {
        let suites =
            ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"].map(str::to_owned);
        let protocol = TlsProtocol::parse("TLS1.2", "", &suites).unwrap();
        let offered = protocol.provider().cipher_suites;
        assert_eq!(offered.iter().filter(|suite| suite.tls13().is_none()).count(), 2);
        assert_eq!(offered.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        let refused = |min, max, suites: &[String]| TlsProtocol::parse(min, max, suites).unwrap_err().to_string();
        assert_eq!(refused("TLS1.1", "", &[]), "tls: unexpected TLS version \"TLS1.1\"");
        assert_eq!(refused("TLS1.3", "TLS1.2", &[]), "tls: min version (TLS1.3) is greater than max version (TLS1.2)");
        let unknown = ["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()];
        assert_eq!(refused("", "", &unknown), "tls: unexpected TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\"");
    }
}
