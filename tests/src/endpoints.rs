//! A client that knows several masters, and a balancer for clients that know one address.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};

/// One attempt at one master takes no longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause once every master has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Clients of all masters; each request goes to the one that answered last, and from there to the next.
#[derive(Clone)]
pub struct Endpoints {
    clients: Arc<[kube::Client]>,
    current: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints").field("n_clients", &self.clients.len()).finish_non_exhaustive()
    }
}

impl Endpoints {
    /// As the admin of a kubeconfig, at these URLs.
    pub async fn new(kubeconfig: &Path, urls: &[String]) -> Result<Self> {
        let mut clients = Vec::new();
        for url in urls {
            let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            config.cluster_url = url.parse().context("a master's URL")?;
            config.connect_timeout = Some(ATTEMPT_TIMEOUT);
            clients.push(kube::Client::try_from(config)?);
        }
        Ok(Self { clients: clients.into(), current: Arc::default() })
    }

    /// Repeats a request, at one master after the other, until one answers or `patience` ends. Also says whether an attempt before may have
    /// been carried out without an answer.
    pub async fn request<T, F>(
        &self,
        patience: Duration,
        ask: impl Fn(kube::Client) -> F,
    ) -> (Result<T, kube::Error>, bool)
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let deadline = Instant::now() + patience;
        let mut is_repeated = false;
        loop {
            let at = self.current.load(Ordering::Relaxed) % self.clients.len();
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, ask(self.clients[at].clone())).await;
            let outcome = attempt.unwrap_or_else(|_elapsed| Err(kube::Error::Service("no answer in time".into())));
            match outcome {
                Err(error) if is_retryable(&error) && Instant::now() < deadline => {
                    is_repeated = true;
                    let next = (at + 1) % self.clients.len();
                    let _another_moved_on =
                        self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
                    if next == 0 {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                outcome => return (outcome, is_repeated),
            }
        }
    }
}

/// The connection broke, or the master cannot answer now.
fn is_retryable(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 502 | 503 | 504),
        _ => true,
    }
}

/// Listens at a loopback port, and hands each connection to the first of `ports` that takes it. Returns the port.
pub async fn balance(ports: Vec<u16>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let ports = ports.clone();
            tokio::spawn(async move {
                for port in ports {
                    if let Ok(mut master) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _until_one_side_ends = tokio::io::copy_bidirectional(&mut client, &mut master).await;
                        return;
                    }
                }
            });
        }
    });
    Ok(port)
}
