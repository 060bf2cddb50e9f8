//! `quarterdeck store`, and the etcd API of a server's embedded store.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use client::Shutdown;
use store::etcd::{Server, ServerConfig, ServerTls};
use store::{EmbeddedConfig, EmbeddedStore};
use tokio::task::JoinHandle;

use super::{print_line, tls};
use crate::args::StoreArgs;

pub(crate) async fn store(args: StoreArgs, shutdown: Shutdown) -> Result<()> {
    let mut listen = Vec::new();
    let mut secure = None;
    for url in &args.listen_client_urls {
        let (is_https, address) = parse_url(url)?;
        if *secure.get_or_insert(is_https) != is_https {
            bail!("--listen-client-urls mixes http and https");
        }
        listen.push(address);
    }
    let tls = match (secure.unwrap_or(false), &args.cert_file, &args.key_file) {
        (true, Some(certificate), Some(key)) => {
            let client_ca = match (&args.trusted_ca_file, args.client_cert_auth) {
                (Some(ca), true) => Some(tls::read(ca)?.into_bytes()),
                _ => None,
            };
            let (certificate, key) = (tls::read(certificate)?.into_bytes(), tls::read(key)?.into_bytes());
            Some(ServerTls { certificate, key, client_ca })
        }
        (true, ..) => bail!("https in --listen-client-urls needs --cert-file and --key-file"),
        (false, ..) => None,
    };
    let config = EmbeddedConfig {
        data_dir: Some(args.data_dir.unwrap_or_else(|| PathBuf::from(format!("{}.etcd", args.name)))),
        name: args.name,
        client_urls: args.advertise_client_urls,
        ..EmbeddedConfig::default()
    };
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(config)).await.context("opening the store")?;
    let store = Arc::new(store.context("cannot open the store")?);
    let serving = serve(Arc::clone(&store), listen, tls, shutdown).await?;
    print_line("ready to serve client requests");
    serving.await.context("serving")?;
    tokio::task::spawn_blocking(move || store.shutdown()).await.context("closing the store")
}

/// Serves a store's etcd API until the shutdown.
pub(super) async fn serve(
    store: Arc<EmbeddedStore>,
    listen: Vec<SocketAddr>,
    tls: Option<ServerTls>,
    shutdown: Shutdown,
) -> Result<JoinHandle<()>> {
    let config = ServerConfig { listen, tls, ..ServerConfig::default() };
    let server = Server::bind(store, config).await.context("the store's API")?;
    Ok(tokio::spawn(async move { server.run(shutdown.cancelled_owned()).await }))
}

/// `https://host:port` as whether it is https, and an address to listen on.
fn parse_url(url: &str) -> Result<(bool, SocketAddr)> {
    let (scheme, rest) = url.split_once("://").with_context(|| format!("{url:?} is not a URL"))?;
    let is_https = match scheme {
        "http" => false,
        "https" => true,
        other => bail!("{url:?}: scheme {other:?} is not supported, use http or https"),
    };
    let address =
        rest.trim_end_matches('/').to_socket_addrs().with_context(|| format!("{url:?}: host and port"))?.next();
    Ok((is_https, address.with_context(|| format!("{url:?}: no address"))?))
}
