//! What went wrong in etcd's history and must not here: a test each, named by etcd's issue or the release that fixed it.
//!
//! | etcd | what went wrong | where |
//! |---|---|---|
//! | #13766 | data and index of the log were not written together: entries were applied twice, or never | `files` |
//! | #14370 | a member alone acknowledged before its log was durable | `files` |
//! | #14571 | a member that got a state whole did not know that authentication was enabled | `members` |
//! | #14685 | a crash during a defragmentation left an older index with newer data | `files` |
//! | #15220, #17507 | progress was told before events that it covers | `watches` |
//! | #15271 | a watch went back in time when its member got a state whole | `members` |
//! | #17247 | an event came twice out of a transaction's buffer | `watches` |
//! | #17529 | watches on a stream that is not read lost events | `watches` |
//! | #17780 | the revision fell when a crash hit a compaction | `files` |
//! | #18055 | a second state right after the first one ended the member | `members` |
//! | #18089 | a deletion was lost to a compaction at its revision | `watches` |
//! | #18667 | a transaction that reads what is compacted was refused here and done there | `members` |
//! | #19179 | a watch that begins at the compacted revision missed the deletion there | `watches` |
//! | #20221 | a watch in the future got old events, and progress | `watches` |
//! | #20271 | a state that came whole and a defragmentation waited for each other | `members` |
//! | #20418 | a leader that was paused and replaced answered reads from what it had | `tests/tests/store/pause.rs` |
//! | 3.6.5 | a revoked lease was kept alive | `members` |
//! | 3.6.12 | moving a learner made it a voter | `members` |
//! | 3.7 | a transaction with a range at an explicit revision made members differ | `members` |

mod files;
mod members;
mod watches;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::cluster_tests::{Node, config, free_url};
use crate::{EmbeddedConfig, PeerConfig, Put, Txn};

/// The way to a member, which can be closed: what comes to it is lost then, and it can still send.
pub(super) struct Gate {
    is_open: watch::Sender<bool>,
    url: String,
}

impl Gate {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let is_open = watch::Sender::new(true);
        let opened = is_open.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut changes = opened.subscribe();
                if !*changes.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut to) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ended = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _closed = changes.changed() => {}
                    }
                });
            }
        });
        Self { is_open, url }
    }

    pub(super) fn close(&self) {
        self.is_open.send_replace(false);
    }

    pub(super) fn open(&self) {
        self.is_open.send_replace(true);
    }
}

/// Entries that the leader of a cluster with gates keeps: who misses more gets a state whole.
const CATCHUP_ENTRIES: u64 = 20;

/// A cluster of three, with a gate before each member.
async fn gated_cluster(change: impl Fn(EmbeddedConfig) -> EmbeddedConfig) -> (Vec<Node>, Vec<Arc<Gate>>) {
    let mut gates = Vec::new();
    let mut members = Vec::new();
    let mut listen = Vec::new();
    for at in 0..3 {
        let url = free_url();
        let gate = Gate::before(url.strip_prefix("http://").unwrap().parse().unwrap()).await;
        members.push((format!("m{at}"), gate.url.clone()));
        listen.push(url);
        gates.push(Arc::new(gate));
    }
    let mut nodes = Vec::new();
    for ((name, url), listen) in members.iter().zip(listen) {
        let config = EmbeddedConfig {
            peer: Some(PeerConfig { listen_urls: vec![listen], tls: None }),
            catchup_entries: CATCHUP_ENTRIES,
            ..config(name, url, &members, None)
        };
        let mut node = Node { config: change(config), store: None };
        node.start().await;
        nodes.push(node);
    }
    (nodes, gates)
}

fn two_puts(first: &str, second: &str, value: &str) -> Txn {
    let put = |key: &str| {
        crate::Op::Put(Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() })
    };
    Txn { success: vec![put(first), put(second)], ..Txn::default() }
}
