//! Whom a connection trusts, and as whom it comes.

use std::sync::{Arc, OnceLock};

use ::bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use store::{FromFiles, Pem};

use super::OutboundError;

/// TLS of one destination. Equal values share connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// CAs that the server's certificate must come from (PEM); those of the system when empty.
    pub ca_pem: Bytes,
    /// Take any certificate.
    pub skip_verify: bool,
    /// Name that the certificate must be for; the URL's host when not given.
    pub server_name: Option<String>,
    /// The certificate we show.
    pub identity: Option<ClientIdentity>,
}

/// A client certificate that follows its files.
pub type ClientCertificate = Arc<FromFiles<ClientIdentity>>;

/// A client certificate with its key, PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    pub certificate_pem: Bytes,
    pub key_pem: Bytes,
}

impl ClientIdentity {
    /// From PEM texts or files, checked: certificate and key must fit.
    pub fn follow(certificate: Pem, key: Pem) -> Result<ClientCertificate, OutboundError> {
        let made = FromFiles::of_pems(vec![certificate, key], |texts| {
            let [certificate_pem, key_pem] = [0, 1].map(|at| Bytes::copy_from_slice(texts[at]));
            let identity = Self { certificate_pem, key_pem };
            let shown = Tls { skip_verify: true, identity: Some(identity.clone()), ..Tls::default() };
            shown.client_config().map_err(|error| error.to_string())?;
            Ok(identity)
        });
        made.map(Arc::new).map_err(OutboundError::Certificates)
    }
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

impl Tls {
    /// For what is encrypted, but by nobody in particular: pods and services behind a proxy.
    pub(crate) fn trusting_anybody() -> Self {
        Self { skip_verify: true, ..Self::default() }
    }

    /// What rustls makes of it: TLS 1.2 or newer, HTTP/1.1.
    pub fn client_config(&self) -> Result<Arc<rustls::ClientConfig>, OutboundError> {
        let unfit = |text: &str| OutboundError::Certificates(text.to_owned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| OutboundError::Certificates(error.to_string()))?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        } else if self.ca_pem.is_empty() {
            builder.with_root_certificates(Arc::clone(system_roots()))
        } else {
            let bundle = Bundle::new(&self.ca_pem, &provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(bundle))
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificate_pem);
                let key = PrivateKeyDer::from_pem_slice(&identity.key_pem)
                    .map_err(|_| unfit("tls: failed to find any PEM data in key input"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_| unfit("tls: private key does not match public key"))?
            }
        };
        // One request at a time per connection, as upstream: requests to a service then spread over its endpoints.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Read once: the system's bundle is large and changes rarely.
fn system_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read a CA of the system");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    })
}

/// The certificates of a `caBundle`. A server may also show one of them itself, as Go allows: a self-signed certificate is
/// often its own bundle, and says that it is a CA, which webpki does not take from a server.
#[derive(Debug)]
struct Bundle {
    by_issuer: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Bundle {
    fn new(pem: &[u8], provider: &Arc<CryptoProvider>) -> Result<Self, OutboundError> {
        let certificates = certificates(pem);
        let mut roots = RootCertStore::empty();
        let (usable, _unusable) = roots.add_parsable_certificates(certificates.iter().cloned());
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        match built {
            Ok(by_issuer) if usable > 0 => Ok(Self { by_issuer, certificates }),
            _ => {
                let text = "unable to load root certificates: unable to parse bytes as PEM block";
                Err(OutboundError::Certificates(text.into()))
            }
        }
    }

    /// The server shows a certificate of the bundle: is it in date, and for this name?
    fn verify_itself(
        &self,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Result<ServerCertVerified, rustls::Error>> {
        self.certificates.iter().find(|certificate| certificate.as_ref() == shown.as_ref())?;
        let (_, parsed) = X509Certificate::from_der(shown).ok()?;
        let at = i64::try_from(now.as_secs()).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())?;
        if !parsed.validity().is_valid_at(at) {
            return Some(Err(rustls::CertificateError::Expired.into()));
        }
        let certificate = ParsedCertificate::try_from(shown).ok()?;
        Some(verify_server_name(&certificate, name).map(|()| ServerCertVerified::assertion()))
    }
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_itself(end_entity, server_name, now).unwrap_or_else(|| {
            self.by_issuer.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_issuer.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_issuer.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_issuer.supported_verify_schemes()
    }
}

/// `insecureSkipTLSVerify`: any certificate will do, as long as its holder has the key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
