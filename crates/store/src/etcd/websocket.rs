//! Calls of the gateway over a WebSocket, for pages in browsers, which can send only one body and read it back only at its end: each
//! message is a JSON object of the request, each line of the answer is a message.

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::body::Body;

use super::gateway::{self, Call};
use super::server::Services;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The key of a request that wants to go on as a WebSocket.
fn key_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let lists = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
    };
    let is_wanted = lists(header::CONNECTION, "upgrade") && lists(header::UPGRADE, "websocket");
    headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_wanted)
}

pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    key_of(headers).is_some()
}

/// Agrees, and goes on beside the connection's task once the client has heard so.
pub(super) fn serve(services: &Services, call: Call, mut request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Some(key) = key_of(request.headers())
        && let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
    {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let protocol = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    if protocol.is_some_and(|protocol| protocol.starts_with("Bearer")) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let asked_as = who(request.headers());
    let services = services.clone();
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(&mut request).await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a WebSocket did not come about"),
        };
        let bytes_max = services.json_bytes_max();
        let config = WebSocketConfig::default().max_message_size(Some(bytes_max)).max_frame_size(Some(bytes_max));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        if let Err(error) = converse(&services, call, asked_as, socket).await {
            tracing::debug!(%error, "a WebSocket broke");
        }
    });
    response
}

/// A token comes where browsers can put one: as a subprotocol after `Bearer`, or in a cookie.
fn who(headers: &HeaderMap) -> HeaderMap {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let subprotocol = text(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.split_once("Bearer,"));
    let cookies = text(header::COOKIE).unwrap_or_default().split(';');
    let cookie = cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|(name, _)| *name == "token");
    let token = cookie.map(|(_, token)| token).or(subprotocol.map(|(_, token)| token.trim()));
    let mut who = HeaderMap::new();
    if let Some(value) = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        who.insert(header::AUTHORIZATION, value);
    }
    who
}

async fn converse(services: &Services, call: Call, asked_as: HeaderMap, socket: Socket) -> Result<(), Error> {
    let (mut to_client, from_client) = socket.split();
    // It ends with the client, and with the server.
    let mut states = services.states();
    let answered = async {
        let response = gateway::ask(services, call, &asked_as, objects(from_client)).await;
        tell(response, &mut to_client).await
    };
    tokio::select! {
        answered = answered => answered?,
        _ = super::shared::Shared::must_end(&mut states, false) => {}
    }
    to_client.close().await
}

/// What the client sends; it ends when the client does.
fn objects(from_client: SplitStream<Socket>) -> impl Stream<Item = Result<Bytes, String>> + Send + Unpin {
    Box::pin(from_client.filter_map(|message| async {
        match message {
            Ok(Message::Text(text)) => Some(Ok(Bytes::from(text))),
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(error.to_string())),
        }
    }))
}

/// Each line of the answer is a message.
async fn tell(response: Response<Body>, to_client: &mut SplitSink<Socket, Message>) -> Result<(), Error> {
    let mut parts = BodyStream::new(response.into_body());
    while let Some(Ok(part)) = parts.next().await {
        let Ok(line) = part.into_data() else { continue };
        send(to_client, line.strip_suffix(b"\n").unwrap_or(&line)).await?;
    }
    Ok(())
}

async fn send(to_client: &mut (impl Sink<Message, Error = Error> + Unpin), line: &[u8]) -> Result<(), Error> {
    to_client.send(Message::text(String::from_utf8_lossy(line).into_owned())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_is_a_subprotocol_or_a_cookie() {
        let token = |lines| who(&headers(lines)).get("authorization").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(token(&[("sec-websocket-protocol", "Bearer, abc.1")]).as_deref(), Some("Bearer abc.1"));
        assert_eq!(token(&[("sec-websocket-protocol", "Bearer,abc.1")]).as_deref(), Some("Bearer abc.1"));
        assert_eq!(token(&[("cookie", "a=b; token=abc.1")]).as_deref(), Some("Bearer abc.1"));
        assert_eq!(token(&[("authorization", "Bearer abc.1")]), None, "as upstream");
    }

    #[test]
    fn only_who_asks_for_a_websocket_gets_one() {
        let asks = |connection: &str, upgrade: &str| {
            let lines = [("connection", connection), ("upgrade", upgrade), ("sec-websocket-key", "x")];
            is_wanted(&headers(&lines))
        };
        assert!(asks("keep-alive, Upgrade", "WebSocket"));
        assert!(!asks("keep-alive", "websocket"));
        assert!(!asks("upgrade", "h2c"));
    }
}
