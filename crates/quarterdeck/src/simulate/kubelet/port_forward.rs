//! Port-forward: every connection is two SPDY streams, inside a WebSocket or bare. What listens is a small web server.

use std::collections::HashMap;

use apiserver::http::spdy::{Decoder, Encoder, Event};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Body, text, websocket};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOL: &str = "portforward.k8s.io";
/// Streams of one connection at a time.
const STREAMS_MAX: usize = 256;
/// Bytes of a request that are waited for.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// The bytes of SPDY, however they come.
enum Link {
    Tunnel(Box<WebSocketStream<TokioIo<Upgraded>>>),
    Bare(TokioIo<Upgraded>),
}

impl Link {
    async fn read(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Tunnel(socket) => loop {
                match socket.next().await?.ok()? {
                    Message::Binary(data) => return Some(data.to_vec()),
                    Message::Close(_) => return None,
                    _ => {}
                }
            },
            Self::Bare(stream) => {
                let mut buffer = vec![0; 32 << 10];
                let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
                buffer.truncate(read);
                Some(buffer)
            }
        }
    }

    /// False: the client is gone.
    async fn write(&mut self, frame: Vec<u8>) -> bool {
        match self {
            Self::Tunnel(socket) => socket.send(Message::Binary(frame.into())).await.is_ok(),
            Self::Bare(stream) => stream.write_all(&frame).await.is_ok() && stream.flush().await.is_ok(),
        }
    }
}

pub(super) fn accept(mut request: Request<Incoming>, pod: &str) -> Response<Body> {
    let tunnel = websocket(request.headers(), &[TUNNEL]);
    let is_tunnel = tunnel.is_some();
    let response = match tunnel {
        Some((response, _)) => response,
        None if request
            .headers()
            .get("upgrade")
            .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1")) =>
        {
            let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in
                [("upgrade", "SPDY/3.1"), ("connection", "Upgrade"), ("x-stream-protocol-version", PROTOCOL)]
            {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response
        }
        None => return text(400, "unable to upgrade: missing upgrade headers in request"),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let pod = pod.to_owned();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) if is_tunnel => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                Box::pin(serve(Link::Tunnel(Box::new(socket)), &pod)).await;
            }
            Ok(upgraded) => Box::pin(serve(Link::Bare(TokioIo::new(upgraded)), &pod)).await,
            Err(error) => tracing::debug!(%error, "a port-forward was not upgraded"),
        }
    });
    response
}

/// A stream that is open.
struct Stream {
    is_data: bool,
    port: String,
    request_id: String,
    received: Vec<u8>,
}

async fn serve(mut link: Link, pod: &str) {
    let (mut decoder, mut encoder) = (Decoder::default(), Encoder::default());
    let mut streams: HashMap<u32, Stream> = HashMap::new();
    while let Some(bytes) = link.read().await {
        decoder.push(&bytes);
        loop {
            let event = match decoder.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => return tracing::debug!(%error, "port-forward ended"),
            };
            let Some(frames) = react(&mut encoder, &mut streams, event, pod) else { return };
            for frame in frames {
                if !link.write(frame).await {
                    return;
                }
            }
        }
    }
}

/// The frames that answer an event; `None` at the end of the connection.
fn react(encoder: &mut Encoder, streams: &mut HashMap<u32, Stream>, event: Event, pod: &str) -> Option<Vec<Vec<u8>>> {
    match event {
        Event::Opened { stream, headers } => {
            if streams.len() >= STREAMS_MAX {
                return None;
            }
            let header = |wanted: &str| {
                let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            let opened = Stream {
                is_data: header("streamType") == "data",
                port: header("port"),
                request_id: header("requestID"),
                received: Vec::new(),
            };
            streams.insert(stream, opened);
            Some(vec![encoder.reply(stream)])
        }
        Event::Data { stream, data, last } => {
            let Some(open) = streams.get_mut(&stream).filter(|open| open.is_data) else { return Some(Vec::new()) };
            open.received.extend_from_slice(&data);
            let whole = open.received.windows(4).any(|w| w == b"\r\n\r\n") || open.received.len() > REQUEST_BYTES_MAX;
            if !whole && !last {
                return Some(Vec::new());
            }
            let open = streams.remove(&stream)?;
            let mut frames = Vec::new();
            if !open.received.is_empty() {
                frames.push(encoder.data(stream, &page(&open, pod), false));
            }
            frames.push(encoder.data(stream, b"", true));
            // Nothing went wrong: the stream for errors ends without a word.
            let error = streams.iter().find(|(_, other)| !other.is_data && other.request_id == open.request_id);
            if let Some(error) = error.map(|(id, _)| *id) {
                streams.remove(&error);
                frames.push(encoder.data(error, b"", true));
            }
            Some(frames)
        }
        Event::Reset { stream } => {
            streams.remove(&stream);
            Some(Vec::new())
        }
        Event::Ping { frame, .. } => Some(vec![frame]),
        Event::Goodbye => None,
    }
}

/// What the pod's web server answers; anything that is not HTTP comes back as it was.
fn page(open: &Stream, pod: &str) -> Vec<u8> {
    let request = String::from_utf8_lossy(&open.received);
    let Some(line) = request.lines().next().filter(|line| line.contains(" HTTP/1.")) else {
        return open.received.clone();
    };
    let body = format!("simulated pod {pod}, port {}: {line}\n", open.port);
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_and_both_streams_end() {
        let (mut encoder, mut streams) = (Encoder::default(), HashMap::new());
        let open = |kind: &str| {
            [("streamtype", kind), ("port", "80"), ("requestid", "0")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .to_vec()
        };
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let opened = Event::Opened { stream, headers: open(kind) };
            assert_eq!(react(&mut encoder, &mut streams, opened, "web-0").map(|frames| frames.len()), Some(1));
        }
        let data = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let frames =
            react(&mut encoder, &mut streams, Event::Data { stream: 3, data, last: false }, "web-0").expect("frames");
        let answer = String::from_utf8_lossy(&frames[0][8..]).into_owned();
        assert!(answer.ends_with("simulated pod web-0, port 80: GET /x HTTP/1.1\n"), "{answer}");
        assert_eq!(frames[1..], [encoder.data(3, b"", true), encoder.data(1, b"", true)]);
        assert!(streams.is_empty());
    }
}
