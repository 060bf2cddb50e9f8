//! For tests only: a real etcd as a child process, on free ports and in a directory of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{RemoteStore, Store};

/// A running etcd; killed when dropped.
pub(crate) struct Etcd {
    child: Option<Child>,
    client_port: u16,
    peer_port: u16,
    data: std::path::PathBuf,
    _dir: Option<tempfile::TempDir>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// `None`, with a message, where etcd is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Self::start_in(&dir.path().join("data")).await?;
        etcd._dir = Some(dir);
        Some(etcd)
    }

    pub(crate) async fn start_in(data: &Path) -> Option<Self> {
        let mut etcd =
            Self { child: None, client_port: free_port(), peer_port: free_port(), data: data.to_owned(), _dir: None };
        etcd.run().await.then_some(etcd)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it, again on the same ports and data after [`Etcd::kill`], and waits until it serves.
    pub(crate) async fn run(&mut self) -> bool {
        let client = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: etcd is not installed");
            return false;
        };
        self.child = Some(child);
        let store = RemoteStore::connect(&[client], None).unwrap();
        let serving = async {
            while store.current_revision().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), serving).await.expect("etcd does not start");
        true
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
