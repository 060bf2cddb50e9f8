//! An API server in this process, and small TLS servers on loopback for it to talk to.
#![allow(dead_code)]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::Value;
use apiserver::admission::Chain;
use apiserver::allocate::{Cidr, PortRange};
use apiserver::attributes::UserInfo;
use apiserver::authn::token_request::TokenIssuer;
use apiserver::authn::{PublicKeys, SigningKey};
use apiserver::bootstrap::objects::AuthenticationInfo;
use apiserver::{ApiServer, Config, InProcess, Tokens};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use store::{EmbeddedConfig, EmbeddedStore};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// Nothing a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A CA and what it signs.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn identity(&self, common_name: &str, organization: &str, dns: &[&str]) -> Identity {
        let mut params =
            CertificateParams::new(dns.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).expect("names");
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().expect("address")));
        params.distinguished_name.push(DnType::CommonName, common_name);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    pub(crate) fn server_config(&self, dns: &[&str]) -> Arc<rustls::ServerConfig> {
        let identity = self.identity("server", "", dns);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("pem")).expect("root");
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .expect("verifier");
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("pem")];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("pem");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .expect("certificate and key");
        Arc::new(config)
    }
}

/// A request as a stub sees it, with the DER of the client's certificate.
pub(crate) struct Seen {
    pub(crate) request: Request<Incoming>,
    pub(crate) client: Option<Vec<u8>>,
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// An HTTPS server that answers with a function. It ends with the runtime.
pub(crate) async fn stub(
    ca: &Ca,
    dns: &[&str],
    answer: impl Fn(Seen) -> Answer + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("address");
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server_config(dns));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let client = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
                let service = hyper::service::service_fn(move |request| {
                    let answered = answer(Seen { request, client: client.clone() });
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _client_may_hang_up = connection.with_upgrades().await;
            });
        }
    });
    address
}

pub(crate) fn respond(code: u16, body: impl ToString) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
    response
}

/// An API server with an empty store, used as an administrator.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    door: InProcess,
}

/// What a request was answered with.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) headers: http::HeaderMap,
}

impl Reply {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or("")
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let cluster = Self::starting(change).await;
        tokio::time::timeout(PATIENCE, cluster.server.ready()).await.expect("the server becomes ready");
        cluster
    }

    /// One that may not be ready yet.
    pub(crate) async fn starting(change: impl FnOnce(&mut Config)) -> Self {
        let store = tokio::task::spawn_blocking(|| EmbeddedStore::open(EmbeddedConfig::default()));
        let store = Arc::new(store.await.expect("a task").expect("a store in memory"));
        let key = SigningKey::from_pem(&KeyPair::generate().expect("key").serialize_pem()).expect("key");
        let issuers = vec!["https://kubernetes.default.svc".to_owned()];
        let tokens = Tokens {
            keys: PublicKeys::new(vec![key.public().clone()]),
            issuer: TokenIssuer {
                key,
                issuer: issuers[0].clone(),
                audiences: issuers.clone(),
                lifetime_seconds_max: 0,
                extend: true,
            },
            issuers,
            jwks_uri: "https://127.0.0.1/openid/v1/jwks".to_owned(),
        };
        let mut config = Config {
            control: None,
            encryption: None,
            audit: None,
            flow_control: Default::default(),
            timeouts: Default::default(),
            outside: Default::default(),
            authorization: Default::default(),
            flags: Vec::new(),
            bootstrap_tokens: false,
            store,
            tokens,
            admission: Chain::new(&[], &["ServiceAccount".to_owned()]).expect("plugins"),
            service_ranges: vec!["10.0.0.0/24".parse::<Cidr>().expect("a range")],
            node_ports: "30000-32767".parse::<PortRange>().expect("a range"),
            event_ttl: Duration::from_secs(3600),
            advertise_address: "127.0.0.1".parse().expect("an address"),
            secure_port: 6443,
            service_routing: apiserver::outbound::Routing::Endpoints,
            front_proxy: None,
            kubelets: apiserver::KubeletConfig::default(),
            authentication: AuthenticationInfo { client_ca: String::new(), request_header: None },
        };
        change(&mut config);
        let server = ApiServer::start(config).expect("a server");
        let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
        let door = server.in_process(UserInfo { name: "admin".to_owned(), groups, ..UserInfo::default() });
        Self { server, door }
    }

    /// The same server, used as somebody else.
    pub(crate) fn acting_as(&self, user: UserInfo) -> Self {
        Self { server: self.server.clone(), door: self.server.in_process(user) }
    }

    pub(crate) async fn request(&self, method: Method, path: &str, body: &Value) -> Reply {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[("content-type", content_type)], body).await
    }

    /// A request as it is.
    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = self.door.clone().oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let warnings = head.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned);
        Reply {
            code: head.status.as_u16(),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
            warnings: warnings.collect(),
            headers: head.headers,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.request(Method::GET, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.request(Method::POST, path, &body).await
    }

    /// Creates what a test needs.
    pub(crate) async fn make(&self, path: &str, body: Value) {
        let reply = self.post(path, body).await;
        assert_eq!(reply.code, 201, "{}", reply.text);
    }

    /// Repeats a request until its answer is good: what it depends on reaches the cache a moment after it is written.
    pub(crate) async fn until(&self, path: &str, good: impl Fn(&Reply) -> bool) -> Reply {
        let waited = async {
            loop {
                let reply = self.get(path).await;
                if good(&reply) {
                    return reply;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{path} never answers as expected"))
    }
}
