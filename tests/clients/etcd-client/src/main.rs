//! What programs do with the `etcd-client` crate: `etcd-client-flows ENDPOINT,ENDPOINT CA CERTIFICATE KEY PEER-URL`.
//!
//! At the peer URL a member can be added. When it has been, the line `added` is printed; whoever drives this starts the member and
//! says so with a line on the standard input. The last line is `ok`.

mod concurrency;
mod keys;
mod leases;
mod maintenance;
mod members;
mod users;
mod watches;

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};

/// Longer than anything takes, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the cluster is, and how to get in.
struct Place {
    endpoints: Vec<String>,
    tls: TlsOptions,
}

impl Place {
    /// The client, over one member alone.
    async fn connect_to(&self, at: usize) -> Result<Client> {
        Place { endpoints: vec![self.endpoints[at].clone()], tls: self.tls.clone() }.connect(None).await
    }

    async fn connect(&self, user: Option<(&str, &str)>) -> Result<Client> {
        let options = ConnectOptions::new().with_tls(self.tls.clone()).with_connect_timeout(PATIENCE);
        let options = options.with_require_leader(true);
        let options = match user {
            Some((name, password)) => options.with_user(name, password),
            None => options,
        };
        Ok(Client::connect(&self.endpoints, Some(options)).await?)
    }
}

fn same<T: PartialEq + Debug>(found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

/// It was refused, in these words.
fn refused<T: Debug>(outcome: Result<T, Error>, expected: &str) -> Result<()> {
    match outcome {
        Err(Error::GRpcStatus(status)) => same(status.message(), expected),
        other => anyhow::bail!("{other:?} instead of a refusal: {expected}"),
    }
}

async fn in_time<T>(future: impl Future<Output = Result<Option<T>, Error>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await?.map_err(anyhow::Error::from)?.context("the stream ended")
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if std::time::Instant::now() > deadline => return Err(error).with_context(|| what.to_owned()),
            Err(_not_yet) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, ca, certificate, key, peer_url] = args.as_slice() else {
        anyhow::bail!("five arguments are wanted")
    };
    let identity = Identity::from_pem(std::fs::read(certificate)?, std::fs::read(key)?);
    let authority = Certificate::from_pem(std::fs::read(ca)?);
    let place = Place {
        endpoints: endpoints.split(',').map(|endpoint| format!("https://{endpoint}")).collect(),
        tls: TlsOptions::new().ca_certificate(authority).identity(identity),
    };
    for at in 0..place.endpoints.len() {
        let mut member = place.connect_to(at).await?;
        until("every member knows a leader", async || Ok(member.get("none", None).await.map(|_| ())?)).await?;
    }
    let client = place.connect(None).await?;
    keys::flow(client.clone()).await.context("keys")?;
    watches::flow(client.clone()).await.context("watches")?;
    leases::flow(client.clone()).await.context("leases")?;
    concurrency::flow(client.clone()).await.context("concurrency")?;
    maintenance::flow(client.clone(), &place).await.context("maintenance")?;
    users::flow(client.clone(), &place).await.context("users")?;
    members::flow(client, &place, peer_url).await.context("members")?;
    println!("ok");
    Ok(())
}
