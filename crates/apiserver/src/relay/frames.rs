//! A body over a WebSocket, for clients that cannot read a streaming answer: one message per piece, nothing in the other
//! direction. The protocol says whether messages are bytes or base64 text.

use ::bytes::Bytes;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::forward::is_upgrade;
use crate::http::ResponseBody;
use crate::http::body;
use crate::serve::stopped;

/// Protocols by name, and whether messages are bytes; none is the same as the first.
const PROTOCOLS: [(&str, bool); 2] = [("binary.k8s.io", true), ("base64.binary.k8s.io", false)];

/// The handshake of a client that wants messages.
pub(super) struct Handshake {
    accept: String,
    protocol: Option<&'static str>,
    binary: bool,
}

impl Handshake {
    /// `None` when the client asks for no WebSocket, or for protocols that are all unknown.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let is_websocket = text(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
        if !is_upgrade(headers) || !is_websocket {
            return None;
        }
        let accept = derive_accept_key(text(SEC_WEBSOCKET_KEY)?.as_bytes());
        let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
        if offered.is_empty() {
            return Some(Self { accept, protocol: None, binary: true });
        }
        let (protocol, binary) = PROTOCOLS.into_iter().find(|(name, _)| offered.contains(name))?;
        Some(Self { accept, protocol: Some(protocol), binary })
    }

    /// Switches protocols and sends the body, until either side is done.
    pub(super) fn answer(
        self,
        upgrade: OnUpgrade,
        incoming: Incoming,
        shutdown: watch::Receiver<bool>,
    ) -> Response<ResponseBody> {
        let mut response = Response::new(body::full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        tokio::spawn(send(upgrade, incoming, self.binary, shutdown));
        response
    }
}

async fn send(upgrade: OnUpgrade, incoming: Incoming, binary: bool, mut shutdown: watch::Receiver<bool>) {
    let Ok(upgraded) = upgrade.await else { return };
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut out, mut back) = socket.split();
    let message = |piece: &[u8]| match binary {
        true => Message::binary(piece.to_vec()),
        false => Message::text(BASE64_STANDARD.encode(piece)),
    };
    let copy = async {
        // The client learns that it is connected before there is anything to read.
        out.send(message(b"")).await.ok()?;
        let mut pieces = incoming.into_data_stream();
        while let Some(Ok(piece)) = pieces.next().await {
            out.send(message(&piece)).await.ok()?;
        }
        out.close().await.ok()
    };
    // Whatever the client says is not for anybody; it may only leave.
    let left = async { while back.next().await.is_some_and(|message| message.is_ok()) {} };
    tokio::select! {
        _ended = copy => {}
        () = left => {}
        () = stopped(&mut shutdown) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offering(protocols: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        if !protocols.is_empty() {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
        }
        headers
    }

    #[test]
    fn the_protocol_decides_what_messages_are() {
        let chosen = |protocols| Handshake::of(&offering(protocols)).map(|chosen| (chosen.protocol, chosen.binary));
        assert_eq!(chosen(""), Some((None, true)));
        assert_eq!(chosen("x, base64.binary.k8s.io"), Some((Some("base64.binary.k8s.io"), false)));
        assert_eq!(chosen("base64.binary.k8s.io, binary.k8s.io"), Some((Some("binary.k8s.io"), true)));
        assert_eq!(chosen("v4.channel.k8s.io"), None);
        assert!(Handshake::of(&HeaderMap::new()).is_none());
        let handshake = Handshake::of(&offering("")).expect("a handshake");
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
