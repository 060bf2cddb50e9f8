//! A client with a WebSocket on one side, a kubelet that speaks SPDY on the other.

use std::collections::HashMap;
use std::convert::Infallible;

use ::bytes::Bytes;
use api::json;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::forward::Forward;
use super::translate::{self, PROTOCOL, Streams};
use super::tunnel::{SPDY, STREAM_PROTOCOL};
use super::websocket::Handshake;
use crate::http::spdy::{Decoder, Encoder, Event};

const EXIT_3: &[u8] =
    br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;

/// Where a kubelet listens that gives back its input and ends with code 3, or refuses.
async fn kubelet(refuses: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let Ok((stream, _)) = listener.accept().await else { return };
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            if refuses {
                *response.status_mut() = StatusCode::FORBIDDEN;
                return Ok::<_, Infallible>(response);
            }
            tokio::spawn(echo(hyper::upgrade::on(&mut request)));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
            headers.insert(STREAM_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
            Ok(response)
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _the_test_may_be_over = connection.with_upgrades().await.is_ok();
    });
    format!("http://{address}/exec/ns/pod/c?input=1&output=1")
}

async fn echo(upgrade: OnUpgrade) -> Option<()> {
    let mut link = TokioIo::new(upgrade.await.ok()?);
    let (mut decoder, mut encoder) = (Decoder::default(), Encoder::default());
    let mut streams: HashMap<String, u32> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        while let Some(event) = decoder.next_event().expect("SPDY") {
            let answer = match event {
                Event::Opened { stream, headers } => {
                    streams.insert(headers[0].1.clone(), stream);
                    encoder.reply(stream)
                }
                Event::Data { stream, data, last } if stream == streams["stdin"] => {
                    let mut frames = encoder.data(streams["stdout"], &data, last);
                    if last {
                        frames.extend(encoder.data(streams["error"], EXIT_3, true));
                    }
                    frames
                }
                Event::Ping { frame, .. } => frame,
                _ => continue,
            };
            link.write_all(&answer).await.ok()?;
        }
        let read = link.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        decoder.push(&buffer[..read]);
    }
}

/// The client's WebSocket of a session at the kubelet, and what keeps the server running.
async fn session(url: String) -> (WebSocketStream<DuplexStream>, watch::Sender<bool>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let forward = Forward { url, ..Forward::default() };
        let streams = Streams::of(&json!({"stdin": true, "stdout": true}));
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            let handshake = Handshake::of(request.headers()).expect("a handshake");
            let upgrade = hyper::upgrade::on(&mut request);
            let answer = translate::answer(&forward, streams, &handshake, upgrade, stopped.clone());
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        let _the_test_may_be_over = connection.with_upgrades().await.is_ok();
    });
    let mut request = "ws://api/exec".into_client_request().expect("a request");
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    let (socket, _) = tokio_tungstenite::client_async(request, near).await.expect("a WebSocket");
    (socket, stop)
}

async fn heard(socket: &mut WebSocketStream<DuplexStream>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(Ok(Message::Binary(message))) = socket.next().await {
        messages.push(message.to_vec());
    }
    messages
}

#[tokio::test]
async fn input_goes_in_output_comes_out_and_the_exit_code_is_told() {
    let (mut socket, _stop) = session(kubelet(false).await).await;
    socket.send(Message::binary(&b"\0hello"[..])).await.unwrap();
    socket.send(Message::binary(&b"\xff\0"[..])).await.unwrap();
    let messages = heard(&mut socket).await;
    assert_eq!(messages[..2], [b"\x01".to_vec(), b"\x01hello".to_vec()]);
    let (channel, status) = messages[2].split_first().unwrap();
    assert_eq!(*channel, 3);
    let status: api::Status = serde_json::from_slice(status).unwrap();
    assert_eq!((status.reason.as_str(), status.details.unwrap().causes[0].message.as_str()), ("NonZeroExitCode", "3"));
    assert_eq!(messages.len(), 3);
}

#[tokio::test]
async fn a_kubelet_that_refuses_is_told_on_the_error_channel() {
    let (mut socket, _stop) = session(kubelet(true).await).await;
    let messages = heard(&mut socket).await;
    let status: api::Status = serde_json::from_slice(&messages[1][1..]).unwrap();
    assert_eq!(status.message, "Internal error occurred: unable to upgrade connection: ");
    assert_eq!((messages[1][0], status.code), (3, 500));
}
