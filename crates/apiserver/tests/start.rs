//! What a server answers that has no copy of the state yet.

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use apiserver::attributes::UserInfo;
use store::{EmbeddedConfig, EmbeddedStore, InitialMember, PeerConfig};
use support::Cluster;

/// Two members of a new cluster.
fn members() -> [EmbeddedConfig; 2] {
    let ports = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let urls = ports.map(|port| format!("http://{}", port.local_addr().expect("an address")));
    let initial = |at: usize| InitialMember { name: format!("m{at}"), peer_urls: vec![urls[at].clone()] };
    [0, 1].map(|at| EmbeddedConfig {
        name: format!("m{at}"),
        peer_urls: vec![urls[at].clone()],
        initial_cluster: vec![initial(0), initial(1)],
        peer: Some(PeerConfig { listen_urls: vec![urls[at].clone()], tls: None }),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout: Duration::from_millis(500),
        ..EmbeddedConfig::default()
    })
}

async fn open(config: EmbeddedConfig) -> Arc<EmbeddedStore> {
    let opening = tokio::task::spawn_blocking(|| EmbeddedStore::open(config));
    Arc::new(opening.await.expect("a task").expect("a store in memory"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_for_what_a_server_does_not_know_yet() {
    let [first, second] = members();
    let first = open(first).await;
    let cluster = Cluster::starting(|config| config.store = first).await;
    let anybody = cluster.acting_as(UserInfo::anonymous());
    assert_eq!(anybody.get("/livez/ping").await.code, 200);
    let refused = anybody.get("/version").await;
    assert_eq!(refused.code, 503, "{}", refused.text);
    assert_eq!(refused.message(), "the server is starting: it has no complete copy of the cluster's state yet");
    assert_eq!(refused.headers["retry-after"], "1");
    let (answer, _second) = tokio::join!(cluster.get("/api/v1/namespaces/default/configmaps"), open(second));
    assert_eq!(answer.code, 200, "{}", answer.text);
}
