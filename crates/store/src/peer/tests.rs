//! Connections between members, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::frame::{self, Kind};
use super::*;
use crate::proto::peer as pb;
use crate::{EmbeddedConfig, EmbeddedStore, InitialMember, Store};

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An authority, and certificates of it for this machine.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn tls(authority: &CertifiedIssuer<'static, KeyPair>) -> PeerTls {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    PeerTls {
        certificate: certificate.pem().into_bytes().into(),
        key: key.serialize_pem().into_bytes().into(),
        ca: Some(authority.pem().into_bytes().into()),
        client_cert_auth: true,
    }
}

async fn open(config: EmbeddedConfig) -> Arc<EmbeddedStore> {
    Arc::new(tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.unwrap().unwrap())
}

fn configs(scheme: &str, tls: impl Fn(usize) -> Option<PeerTls>) -> Vec<EmbeddedConfig> {
    let urls: Vec<_> = (0..3).map(|_| format!("{scheme}://127.0.0.1:{}", free_port())).collect();
    let member = |at: usize| InitialMember { name: format!("m{at}"), peer_urls: vec![urls[at].clone()] };
    let config = |at: usize| EmbeddedConfig {
        name: format!("m{at}"),
        peer_urls: vec![urls[at].clone()],
        initial_cluster: (0..3).map(member).collect(),
        peer: Some(PeerConfig { listen_urls: vec![urls[at].clone()], tls: tls(at) }),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout: Duration::from_millis(500),
        ..EmbeddedConfig::default()
    };
    (0..3).map(config).collect()
}

async fn has_leader(store: &EmbeddedStore, patience: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < deadline {
        if store.status().await.unwrap().leader_id != 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_certificates_of_one_authority_find_each_other_and_others_stay_out() {
    let ours = authority();
    let theirs = authority();
    let configs = configs("https", |at| Some(tls(if at == 2 { &theirs } else { &ours })));
    let mut stores = Vec::new();
    for config in configs {
        stores.push(open(config).await);
    }
    assert!(has_leader(&stores[0], Duration::from_secs(60)).await);
    assert!(has_leader(&stores[1], Duration::from_secs(60)).await);
    assert!(!has_leader(&stores[2], Duration::from_millis(500)).await, "its certificate is of another authority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_by_name_and_nonsense_ends_the_connection() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let config = EmbeddedConfig {
        peer_urls: vec![url.clone()],
        peer: Some(PeerConfig { listen_urls: vec![url.clone()], tls: None }),
        ..EmbeddedConfig::default()
    };
    let store = open(config.clone()).await;
    let status = store.status().await.unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let hello = pb::Hello {
        version: 1,
        cluster_id: status.cluster_id,
        from: 77,
        to: status.member_id,
        purpose: pb::Purpose::Control.into(),
    };
    let cases = [
        (hello, pb::Refusal::None),
        (pb::Hello { version: 2, ..hello }, pb::Refusal::Version),
        (pb::Hello { cluster_id: 5, ..hello }, pb::Refusal::Cluster),
        (pb::Hello { to: 5, ..hello }, pb::Refusal::Member),
        (pb::Hello { from: status.member_id, ..hello }, pb::Refusal::Member),
        (pb::Hello { purpose: 99, ..hello }, pb::Refusal::Version),
    ];
    for (hello, refusal) in cases {
        let mut stream = TcpStream::connect(address).await.unwrap();
        frame::write(&mut stream, Kind::Hello, &hello).await.unwrap();
        let welcome: pb::Welcome = frame::expect(&mut stream, Kind::Welcome).await.unwrap();
        assert_eq!(welcome.refusal(), refusal, "{hello:?}");
    }
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, nonsense).await.unwrap();
        let mut rest = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    }
    let answer = inquire(&url, &config.peer.unwrap()).await.unwrap();
    assert_eq!((answer.cluster_id, answer.members.len()), (status.cluster_id, 1));
    assert_eq!(store.status().await.unwrap().leader_id, status.member_id, "it takes no harm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_still_starting_says_so() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let config = PeerConfig { listen_urls: vec![url.clone()], tls: None };
    let identity = crate::raft::Identity { member_id: 1, cluster_id: 2 };
    let starting = PeerNet::bind(&config, identity, 0).unwrap();
    let answer = inquire(&url, &config).await.unwrap();
    assert_eq!((answer.error.as_str(), answer.members.len()), ("the member is starting", 0));
    tokio::task::spawn_blocking(move || starting.stop()).await.unwrap();
}
