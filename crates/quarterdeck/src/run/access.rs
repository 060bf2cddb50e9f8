//! The way of a command to a running master's own endpoints.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use client::Connection;
use futures::{Stream, StreamExt as _};
use http::{Method, Request};
use http_body_util::{BodyExt as _, BodyStream};
use kube::client::Body;

/// What commands are called in the server's log.
pub(super) const AGENT: &str = "quarterdeck";

pub(super) struct Access {
    connection: Connection,
    url: String,
}

impl Access {
    /// Through a kubeconfig.
    pub(super) async fn open(kubeconfig: Option<&Path>) -> Result<Self> {
        let path = kubeconfig.context("give --kubeconfig or set KUBECONFIG")?;
        let kubeconfig = kube::config::Kubeconfig::read_from(path).context("kubeconfig")?;
        let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref());
        let url = cluster.and_then(|cluster| cluster.server.clone()).unwrap_or_default();
        Ok(Self { connection: Connection::from_kubeconfig(path, AGENT).await?, url })
    }

    /// The server's URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn get(&self, endpoint: &str) -> Result<serde_json::Value> {
        self.document(Method::GET, endpoint, Vec::new()).await
    }

    /// The checks of a health endpoint, `readyz` for example: names, and whether they pass.
    pub(super) async fn health(&self, endpoint: &str) -> Result<Vec<(String, bool)>> {
        let uri = format!("/{endpoint}?verbose");
        let request = Request::builder().uri(&uri).body(Body::empty()).context("the request")?;
        let response = self.connection.client().send(request).await.context("cannot reach the server")?;
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the server's answer was cut off: {error}"))?.to_bytes();
        Ok(checks(&String::from_utf8_lossy(&body)))
    }

    pub(super) async fn post(&self, endpoint: &str) -> Result<serde_json::Value> {
        self.document(Method::POST, endpoint, Vec::new()).await
    }

    /// A body that is received while it is made.
    pub(super) async fn stream(
        &self,
        endpoint: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + 'static + use<>> {
        let body = self.send(Method::GET, endpoint, Vec::new()).await?;
        Ok(BodyStream::new(body).filter_map(|frame| async {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(anyhow::anyhow!("the server's answer was cut off: {error}"))),
            }
        }))
    }

    pub(super) async fn document(&self, method: Method, endpoint: &str, body: Vec<u8>) -> Result<serde_json::Value> {
        let body = self.send(method, endpoint, body).await?.collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the server's answer was cut off: {error}"))?;
        serde_json::from_slice(&body.to_bytes()).context("the server's answer")
    }

    async fn send(&self, method: Method, endpoint: &str, body: Vec<u8>) -> Result<Body> {
        let uri = format!("/quarterdeck/v1/{endpoint}");
        let request = Request::builder().method(method).uri(&uri).body(Body::from(body)).context("the request")?;
        let response = self.connection.client().send(request).await.context("cannot reach the server")?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match status["message"].as_str() {
            Some(message) => bail!("{message}"),
            None => bail!("{uri}: {code}"),
        }
    }
}

/// Reads lines like `[+]ping ok` and `[-]etcd failed: reason withheld`.
fn checks(text: &str) -> Vec<(String, bool)> {
    let check = |line: &str| {
        let (passes, rest) = match line.split_at_checked(3)? {
            ("[+]", rest) => (true, rest),
            ("[-]", rest) => (false, rest),
            _ => return None,
        };
        Some((rest.split(' ').next()?.to_owned(), passes))
    };
    text.lines().filter_map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_are_read_from_the_verbose_form() {
        let text = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        assert_eq!(checks(text), [("ping".to_owned(), true), ("etcd".to_owned(), false)]);
    }
}
