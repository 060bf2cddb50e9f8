//! The server's side of a WebSocket's opening handshake.

use ::bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::forward::is_upgrade;
use crate::http::ResponseBody;
use crate::http::body;

/// What a client that asks for a WebSocket sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    accept: String,
    /// Subprotocols, best first.
    pub offered: Vec<String>,
}

impl Handshake {
    /// `None` when the client asks for no WebSocket.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if !is_upgrade(headers) || !text(UPGRADE)?.eq_ignore_ascii_case("websocket") {
            return None;
        }
        let accept = derive_accept_key(text(SEC_WEBSOCKET_KEY)?.as_bytes());
        let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let offered = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
        Some(Self { accept, offered })
    }

    pub(super) fn offers(&self, protocol: &str) -> bool {
        self.offered.iter().any(|offered| offered == protocol)
    }

    /// Switches protocols.
    pub(super) fn answer(&self, protocol: Option<&str>) -> Response<ResponseBody> {
        let mut response = Response::new(body::full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let named = [(SEC_WEBSOCKET_ACCEPT, Some(self.accept.as_str())), (SEC_WEBSOCKET_PROTOCOL, protocol)];
        for (name, value) in named {
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
        response
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::relay) fn offering(protocols: &'static str) -> HeaderMap {
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
    fn a_websocket_is_asked_for_with_a_key_and_protocols() {
        let handshake = Handshake::of(&offering("x, v5.channel.k8s.io")).expect("a handshake");
        assert!(handshake.offers("v5.channel.k8s.io") && !handshake.offers("v4.channel.k8s.io"));
        let answer = handshake.answer(Some("v5.channel.k8s.io"));
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert_eq!(Handshake::of(&offering("")).expect("a handshake").offered, Vec::<String>::new());
        assert_eq!(Handshake::of(&HeaderMap::new()), None);
    }
}
