//! Port-forward of a client that sends SPDY's bytes in messages of a WebSocket, to a kubelet that takes SPDY alone.

use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::forward::{self, Error, Forward};
use super::websocket::Handshake;
use super::{Passing, respond};
use crate::gateway::Gateway;
use crate::http::ResponseBody;
use crate::http::body;
use crate::serve::spawn_until_stopped;

/// What the names of tunnelled protocols begin and end with.
const PREFIX: &str = "SPDY/3.1+";
const SUFFIX: &str = "k8s.io";
pub(super) const SPDY: &str = "SPDY/3.1";
/// The protocols that may be spoken inside SPDY, and the one that is.
pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Bytes of one message to the client.
const MESSAGE_BYTES: usize = 32 << 10;

pub(super) fn is_wanted(socket: &Handshake) -> bool {
    socket.offered.iter().any(|protocol| protocol.starts_with(PREFIX))
}

/// The protocols inside the tunnel that the client offers.
fn inner(socket: &Handshake) -> impl Iterator<Item = &str> {
    let named = socket.offered.iter().filter_map(|protocol| protocol.strip_prefix(PREFIX));
    named.filter(|protocol| protocol.ends_with(SUFFIX))
}

pub(super) async fn tunnel(
    gateway: &Gateway,
    forward: Forward,
    socket: &Handshake,
    mut passing: Passing,
) -> Result<Response<ResponseBody>, Error> {
    if inner(socket).next().is_none() {
        return Ok(refusal(400, "unable to upgrade: no tunneling spdy protocols provided\n"));
    }
    let uri: Uri = forward.url.parse().map_err(|error: http::uri::InvalidUri| Error::Url(error.to_string()))?;
    let headers = spdy_headers(forward::outgoing_headers(&forward, &passing), socket);
    let asked = forward::ask(forward.tls.as_ref(), &uri, Method::POST, headers).await;
    let mut response = asked.map_err(|error| Error::Outbound { error, upgrade: true })?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return forward::not_switched(response);
    }
    if !speaks_spdy(&response) {
        return Ok(refusal(500, "unable to upgrade: missing upgrade headers in response\n"));
    }
    let chosen = response.headers().get(STREAM_PROTOCOL).and_then(|value| value.to_str().ok()).map(str::trim);
    let protocol = chosen.filter(|name| !name.is_empty()).map(|name| format!("{PREFIX}{name}"));
    let kubelet = hyper::upgrade::on(&mut response);
    if let Some(client) = passing.raw.upgrade.take() {
        spawn_until_stopped(gateway.shutdown.clone(), carry(client, kubelet));
    }
    Ok(socket.answer(protocol.as_deref()))
}

fn refusal(code: u16, text: &'static str) -> Response<ResponseBody> {
    respond(code, "text/plain; charset=utf-8", body::full(text))
}

/// The client's request, for SPDY in place of the WebSocket.
fn spdy_headers(mut headers: HeaderMap, socket: &Handshake) -> HeaderMap {
    let of_websocket: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("sec-websocket-")).cloned().collect();
    of_websocket.iter().for_each(|name| drop(headers.remove(name)));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.remove(STREAM_PROTOCOL);
    for protocol in inner(socket) {
        if let Ok(value) = HeaderValue::from_str(protocol) {
            headers.append(STREAM_PROTOCOL, value);
        }
    }
    headers
}

/// Whether a response that switches protocols switches to SPDY.
pub(super) fn speaks_spdy(response: &Response<Incoming>) -> bool {
    let names = |header, wanted: &str| {
        let value = response.headers().get(header).and_then(|value: &HeaderValue| value.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(wanted))
    };
    names(CONNECTION, "upgrade") && names(UPGRADE, "spdy/3.1")
}

/// Messages in, bytes out, and back, until one side is done.
async fn carry(client: OnUpgrade, kubelet: OnUpgrade) -> Option<()> {
    let (client, kubelet) = futures::future::try_join(client, kubelet).await.ok()?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_kubelet, mut to_kubelet) = tokio::io::split(TokioIo::new(kubelet));
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(bytes) => to_kubelet.write_all(&bytes).await.ok()?,
                // Nothing else is SPDY.
                Message::Text(_) | Message::Close(_) => return None,
                _ => {}
            }
        }
        None
    };
    let outward = async {
        let mut piece = vec![0; MESSAGE_BYTES];
        loop {
            match from_kubelet.read(&mut piece).await.ok()? {
                0 => break to_client.close().await.ok(),
                read => to_client.send(Message::binary(piece[..read].to_vec())).await.ok()?,
            }
        }
    };
    tokio::select! {
        done = inward => done,
        done = outward => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::websocket::tests::offering;
    use super::*;

    #[test]
    fn a_tunnels_handshake_becomes_one_of_spdy() {
        let headers = offering("SPDY/3.1+portforward.k8s.io, SPDY/3.1+other, v5.channel.k8s.io");
        let socket = Handshake::of(&headers).expect("a handshake");
        assert!(is_wanted(&socket));
        let spdy = spdy_headers(headers, &socket);
        assert_eq!(
            (&spdy[UPGRADE], &spdy[STREAM_PROTOCOL]),
            (&HeaderValue::from_static(SPDY), &HeaderValue::from_static("portforward.k8s.io"))
        );
        assert!(spdy.keys().all(|name| !name.as_str().starts_with("sec-websocket")));
        let other = Handshake::of(&offering("v4.channel.k8s.io")).expect("a handshake");
        assert!(!is_wanted(&other));
    }
}
