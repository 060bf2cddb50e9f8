//! A body over a WebSocket, for clients that cannot read a streaming answer: one message per piece, nothing in the other
//! direction. The protocol says whether messages are bytes or base64 text.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::websocket::Handshake;
use crate::http::ResponseBody;
use crate::serve::spawn_until_stopped;

/// Protocols by name, and whether messages are bytes; none is the same as the first.
const PROTOCOLS: [(&str, bool); 2] = [("binary.k8s.io", true), ("base64.binary.k8s.io", false)];

/// How a client wants its messages.
pub(super) struct Messages {
    handshake: Handshake,
    protocol: Option<&'static str>,
    binary: bool,
}

impl Messages {
    /// `None` when the client asks for no WebSocket, or for protocols that are all unknown.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let handshake = Handshake::of(headers)?;
        if handshake.offered.is_empty() {
            return Some(Self { handshake, protocol: None, binary: true });
        }
        let (protocol, binary) = PROTOCOLS.into_iter().find(|(name, _)| handshake.offers(name))?;
        Some(Self { handshake, protocol: Some(protocol), binary })
    }

    /// Switches protocols and sends the body, until either side is done.
    pub(super) fn answer(
        self,
        upgrade: OnUpgrade,
        incoming: Incoming,
        shutdown: watch::Receiver<bool>,
    ) -> Response<ResponseBody> {
        let response = self.handshake.answer(self.protocol);
        spawn_until_stopped(shutdown, send(upgrade, incoming, self.binary));
        response
    }
}

async fn send(upgrade: OnUpgrade, incoming: Incoming, binary: bool) {
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
    }
}

#[cfg(test)]
mod tests {
    use super::super::websocket::tests::offering;
    use super::*;

    #[test]
    fn the_protocol_decides_what_messages_are() {
        let chosen = |protocols| Messages::of(&offering(protocols)).map(|chosen| (chosen.protocol, chosen.binary));
        assert_eq!(chosen(""), Some((None, true)));
        assert_eq!(chosen("x, base64.binary.k8s.io"), Some((Some("base64.binary.k8s.io"), false)));
        assert_eq!(chosen("base64.binary.k8s.io, binary.k8s.io"), Some((Some("binary.k8s.io"), true)));
        assert_eq!(chosen("v4.channel.k8s.io"), None);
        assert!(Messages::of(&HeaderMap::new()).is_none());
    }
}
