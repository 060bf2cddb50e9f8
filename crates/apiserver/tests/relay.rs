//! Requests that a kubelet or a pod answers, through a real API server.

mod support;

use api::{Value, json};
use base64::Engine as _;
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use support::{Ca, Cluster, Seen, respond, stub};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A kubelet that says what it was asked, echoes what is streamed to it, and wants to see a certificate.
async fn kubelet(ca: &Ca) -> std::net::SocketAddr {
    stub(ca, &["node"], |Seen { mut request, client }| {
        Box::pin(async move {
            let asked = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            if client.is_none() {
                return respond(401, "Unauthorized");
            }
            if asked.contains("missing") {
                return respond(404, "pod \"missing\" does not exist");
            }
            let Some(protocol) = request.headers().get("upgrade").cloned() else { return respond(200, asked) };
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
                stream.write_all(asked.as_bytes()).await.expect("a write");
                let (mut read, mut write) = tokio::io::split(stream);
                let _until_the_client_is_done = tokio::io::copy(&mut read, &mut write).await;
            });
            let mut response = respond(101, "");
            response.headers_mut().insert("upgrade", protocol);
            response.headers_mut().insert("connection", http::HeaderValue::from_static("Upgrade"));
            response
        })
    })
    .await
}

/// A cluster with a node whose kubelet is at `address`, and pods on it.
async fn cluster(ca: &Ca, address: std::net::SocketAddr) -> Cluster {
    let identity = ca.identity("kube-apiserver-kubelet-client", "system:masters", &[]);
    let cluster = Cluster::start_with(|config| {
        config.kubelets.certificate_authority = ca.pem.clone().into();
        config.kubelets.identity = Some(
            apiserver::outbound::ClientIdentity::follow(
                identity.certificate.into_bytes().into(),
                identity.key.into_bytes().into(),
            )
            .expect("a certificate and its key"),
        );
    })
    .await;
    let status = json!({"addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}}});
    cluster.make("/api/v1/nodes", json!({"metadata": {"name": "node"}, "status": status})).await;
    for (name, containers) in [("a", vec!["c"]), ("missing", vec!["c"]), ("two", vec!["c", "d"])] {
        let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name, "image": "x"})).collect();
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "node", "containers": containers}});
        cluster.make("/api/v1/namespaces/default/pods", pod).await;
    }
    cluster.until("/api/v1/nodes/node", |reply| reply.code == 200).await;
    assert_eq!(cluster.get("/api/v1/nodes").await.code, 200);
    cluster
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn logs_come_from_the_kubelet_and_its_refusals_in_the_words_of_the_api() {
    let ca = Ca::new();
    let cluster = cluster(&ca, kubelet(&ca).await).await;
    let reply = cluster.get(&format!("{PODS}/a/log?follow=true&tailLines=3")).await;
    assert_eq!((reply.code, reply.text.as_str()), (200, "/containerLogs/default/a/c?follow=true&tailLines=3"));
    assert_eq!(reply.headers["content-type"], "text/plain");
    let reply = cluster.get(&format!("{PODS}/missing/log")).await;
    let text = "the server could not find the requested resource ( pods/log missing)";
    assert_eq!((reply.code, reply.message()), (404, text));
    let reply = cluster.get(&format!("{PODS}/two/log")).await;
    let text = "a container name must be specified for pod two, choose one of: [c d]";
    assert_eq!((reply.code, reply.message()), (400, text));
}

#[tokio::test]
async fn an_unreachable_kubelet_is_named() {
    let ca = Ca::new();
    let cluster = cluster(&ca, "127.0.0.1:1".parse().expect("an address")).await;
    let reply = cluster.get(&format!("{PODS}/a/log")).await;
    let text =
        "Get \"https://127.0.0.1:1/containerLogs/default/a/c\": dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!((reply.code, reply.message()), (500, text));
    let reply = cluster.get(&format!("{PODS}/a/exec?command=ls&stdout=1")).await;
    assert_eq!((reply.code, reply.message()), (400, "Upgrade request required"));
}

#[tokio::test]
async fn nodes_are_proxied_with_a_clean_path_and_the_query_as_it_is() {
    let ca = Ca::new();
    let cluster = cluster(&ca, kubelet(&ca).await).await;
    let reply = cluster.get("/api/v1/nodes/node/proxy/a%20b//c/?x=%2F").await;
    assert_eq!((reply.code, reply.text.as_str()), (200, "/a%20b/c/?x=%2F"));
    let reply = cluster.get("/api/v1/nodes/node/proxy?x=1").await;
    assert_eq!(
        (reply.code, &reply.headers["location"]),
        (301, &"/api/v1/nodes/node/proxy/?x=1".parse().expect("a value"))
    );
    let reply = cluster.get("/api/v1/nodes/other/proxy/").await;
    assert_eq!((reply.code, reply.message()), (404, "nodes \"other\" not found"));
    let reply = cluster.request(Method::OPTIONS, "/api/v1/nodes/node/proxy/x", &Value::Null).await;
    assert_eq!((reply.code, reply.text.as_str()), (200, "/x"));
}

#[tokio::test]
async fn streams_are_copied_between_client_and_kubelet() {
    let ca = Ca::new();
    let cluster = cluster(&ca, kubelet(&ca).await).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = cluster.server.clone();
    tokio::spawn({
        let tls = ca.server_config(&["localhost"]);
        async move { server.serve(listener, std::sync::Arc::new(tls.into())).await }
    });
    let admin = ca.identity("admin", "system:masters", &[]);
    let tls = apiserver_client(&ca, &admin);
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(format!("{PODS}/a/exec?command=cat&stdin=true&stdout=true"))
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("authorization", "Bearer not-for-the-kubelet")
        .body(Full::new(bytes::Bytes::new()))
        .expect("a request");
    let mut response = sender.send_request(request).await.expect("an answer");
    if response.status() != 101 {
        panic!("{:?}", response.into_body().collect().await.map(http_body_util::Collected::to_bytes));
    }
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("an upgrade"));
    stream.write_all(b" and back").await.expect("a write");
    let want = "/exec/default/a/c?command=cat&input=1&output=1 and back";
    let mut got = vec![0; want.len()];
    stream.read_exact(&mut got).await.expect("an echo");
    assert_eq!(String::from_utf8_lossy(&got), want);
}

fn apiserver_client(ca: &Ca, identity: &support::Identity) -> std::sync::Arc<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("pem")).expect("a root");
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("pem")];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("pem");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("an identity");
    std::sync::Arc::new(config)
}

#[tokio::test]
async fn a_webhook_may_refuse_an_exec() {
    let ca = Ca::new();
    let cluster = cluster(&ca, kubelet(&ca).await).await;
    let address = stub(&ca, &[], |Seen { request, .. }| {
        Box::pin(async move {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let review: Value = serde_json::from_slice(&body).expect("a review");
            let request = &review["request"];
            let told = json!([
                request["operation"],
                request["kind"]["kind"],
                request["object"]["command"],
                request["options"]
            ]);
            let response = json!({"uid": request["uid"], "allowed": false, "status": {"message": told.to_string()}});
            respond(200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
        })
    })
    .await;
    let bundle = base64::prelude::BASE64_STANDARD.encode(&ca.pem);
    let hook = json!({"name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{address}/"), "caBundle": bundle},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["pods/exec"]}]});
    let configuration = json!({"metadata": {"name": "w"}, "webhooks": [hook]});
    cluster.make("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", configuration).await;
    assert_eq!(cluster.get("/api/v1/nodes").await.code, 200);
    let reply = cluster.get(&format!("{PODS}/a/exec?command=ls")).await;
    let text = "admission webhook \"w.example.com\" denied the request: [\"CONNECT\",\"PodExecOptions\",[\"ls\"],null]";
    assert_eq!((reply.code, reply.message()), (400, text));
}
