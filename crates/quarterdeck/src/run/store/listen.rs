//! URLs to listen on and to be told to others, checked as etcd checks them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use store::etcd::{Listen, Serves};

/// Where clients are listened for.
#[derive(Debug)]
pub(super) struct Endpoints(Vec<Endpoint>);

#[derive(Debug)]
struct Endpoint {
    is_https: bool,
    address: SocketAddr,
    serves: Serves,
}

impl Endpoints {
    pub(super) fn of(client: &[String], client_http: &[String], metrics: &[String]) -> Result<Self> {
        let for_clients = if non_empty(client_http).next().is_some() { Serves::Grpc } else { Serves::Everything };
        let kinds = [(client, for_clients), (client_http, Serves::Http), (metrics, Serves::Metrics)];
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (urls, serves) in kinds {
            for url in non_empty(urls) {
                let (is_https, address) = parse(url)?;
                if endpoints.iter().any(|endpoint| endpoint.address == address && address.port() != 0) {
                    bail!("{url} is listed twice");
                }
                endpoints.push(Endpoint { is_https, address, serves });
            }
        }
        Ok(Self(endpoints))
    }

    pub(super) fn wants_tls(&self) -> bool {
        self.0.iter().any(|endpoint| endpoint.is_https)
    }

    /// For a certificate that is to fit.
    pub(super) fn hosts(&self) -> Vec<IpAddr> {
        self.0.iter().map(|endpoint| endpoint.address.ip()).collect()
    }

    pub(super) fn listen(&self) -> Vec<Listen> {
        let listen = |endpoint: &Endpoint| Listen {
            address: endpoint.address,
            plain: !endpoint.is_https,
            serves: endpoint.serves,
        };
        self.0.iter().map(listen).collect()
    }
}

/// A list of URLs given as an empty text has one empty element.
fn non_empty(urls: &[String]) -> impl Iterator<Item = &str> {
    urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty())
}

fn split(url: &str) -> Result<(bool, &str, &str)> {
    let (scheme, rest) =
        url.split_once("://").with_context(|| format!("URL scheme must be http, https, unix, or unixs: {url}"))?;
    let is_https = match scheme {
        "http" => false,
        "https" => true,
        "unix" | "unixs" => bail!("{url}: sockets in the file system are not supported"),
        _ => bail!("URL scheme must be http, https, unix, or unixs: {url}"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        bail!("URL must not contain a path: {url}");
    }
    let (host, port) =
        rest.rsplit_once(':').with_context(|| format!("URL address does not have the form \"host:port\": {url}"))?;
    Ok((is_https, host, port))
}

/// `https://IP:port` as whether it is https, and the address.
fn parse(url: &str) -> Result<(bool, SocketAddr)> {
    let (is_https, host, port) = split(url)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ip = match bare {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        bare => bare.parse().map_err(|_| anyhow::anyhow!("expected IP in URL for binding ({url})"))?,
    };
    let port = port.parse().with_context(|| format!("{url}: port"))?;
    Ok((is_https, SocketAddr::new(ip, port)))
}

/// URLs that others are to use need a host, which may be a name.
pub(super) fn check_advertised(flag: &str, urls: &[String]) -> Result<()> {
    for url in non_empty(urls) {
        let (_, host, _) = split(url).with_context(|| format!("--{flag} {url:?} must be \"host:port\""))?;
        if host.is_empty() {
            bail!("--{flag} {url:?} must be \"host:port\" (unexpected empty host ({url}))");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_listened_on() {
        assert_eq!(parse("http://localhost:2379").unwrap(), (false, "127.0.0.1:2379".parse().unwrap()));
        assert_eq!(parse("https://[::1]:2379/").unwrap(), (true, "[::1]:2379".parse().unwrap()));
        let refused = |url: &str| parse(url).unwrap_err().to_string();
        assert_eq!(refused("http://example.com:2379"), "expected IP in URL for binding (http://example.com:2379)");
        assert_eq!(refused("127.0.0.1:2379"), "URL scheme must be http, https, unix, or unixs: 127.0.0.1:2379");
        assert_eq!(refused("http://127.0.0.1:1/x"), "URL must not contain a path: http://127.0.0.1:1/x");
        assert!(check_advertised("advertise-client-urls", &["http://name:1".into()]).is_ok());
        assert!(check_advertised("advertise-client-urls", &["http://:1".into()]).is_err());
    }

    #[test]
    fn urls_for_http_leave_grpc_to_the_others() {
        let urls = |url: &str| vec![url.to_owned()];
        let endpoints =
            Endpoints::of(&urls("https://127.0.0.1:1"), &urls("http://127.0.0.1:2"), &urls("http://127.0.0.1:3"))
                .unwrap();
        let serves: Vec<_> = endpoints.listen().iter().map(|listen| (listen.plain, listen.serves)).collect();
        assert_eq!(serves, [(false, Serves::Grpc), (true, Serves::Http), (true, Serves::Metrics)]);
        let twice = Endpoints::of(&urls("http://127.0.0.1:1"), &[String::new()], &urls("http://127.0.0.1:1"));
        assert_eq!(twice.unwrap_err().to_string(), "http://127.0.0.1:1 is listed twice");
    }
}
