//! exec and attach of a client with a WebSocket of v5.channel.k8s.io, at a kubelet that takes SPDY alone.
//!
//! A message's first byte names its channel; each channel is a stream of its own at the kubelet. [`Outcome`] says from the
//! kubelet's error stream how it ended, in the words a client expects on channel 3. The client is answered before the kubelet is
//! asked: what goes wrong there is told on that channel too.

use std::time::Duration;

use api::{Status, Value, json};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::ERROR_BYTES_MAX;
use super::forward::{self, Forward};
use super::tunnel::{SPDY, STREAM_PROTOCOL, speaks_spdy};
use super::websocket::Handshake;
use crate::http::ResponseBody;
use crate::http::spdy::{Decoder, Encoder, Event};
use crate::outbound::USER_AGENT as OURSELVES;
use crate::serve::spawn_until_stopped;

/// The protocol that only an API server, or a kubelet that says so, takes apart.
pub(super) const PROTOCOL: &str = "v5.channel.k8s.io";
/// What is offered to the kubelet. Since the fourth the outcome is a Status.
const KUBELET_PROTOCOLS: [&str; 5] =
    [PROTOCOL, "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const STATUS_PROTOCOLS: [&str; 2] = [PROTOCOL, "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
/// Closes the channel that the message's second byte names.
const CLOSE: u8 = 255;

/// Bytes of one frame to the kubelet, as Go's copies have.
const FRAME_BYTES: usize = 32 << 10;
/// Bytes of one message from the client; the limit of upstream's WebSocket library.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Signs of life to the kubelet, as often as upstream's.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Pings of the kubelet that wait to be sent back; it has one under way at a time.
const PONGS_MAX: usize = 8;
/// A kubelet that has not answered by then is given up: the client waits, and nobody sees whether it still does.
const DIAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever reads slowly may take this long to read the rest after the end; upstream's `finishTimeout`.
const FINISH_TIMEOUT: Duration = Duration::from_mins(15);

/// The streams that the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// From PodExecOptions or PodAttachOptions.
    pub(super) fn of(options: &Value) -> Self {
        let is = |field: &str| options[field] == true;
        Self { stdin: is("stdin"), stdout: is("stdout"), stderr: is("stderr"), tty: is("tty") }
    }

    /// Channels and what their streams are called at the kubelet, in the order in which they are opened.
    fn channels(self) -> Vec<(u8, &'static str)> {
        let all = [
            (OUTCOME, "error", true),
            (STDIN, "stdin", self.stdin),
            (STDOUT, "stdout", self.stdout),
            // A terminal has one output.
            (STDERR, "stderr", self.stderr && !self.tty),
            (RESIZE, "resize", self.tty),
        ];
        all.into_iter().filter(|(_, _, wanted)| *wanted).map(|(channel, name, _)| (channel, name)).collect()
    }

    /// The channel on which the client hears first: an empty message, that it is connected.
    fn greeting(self) -> u8 {
        match (self.stdout, self.stderr) {
            (true, _) => STDOUT,
            (false, true) => STDERR,
            (false, false) => OUTCOME,
        }
    }
}

/// Stream ids of this side are odd, in the order of opening.
fn stream_of(channels: &[(u8, &str)], channel: u8) -> Option<u32> {
    let index = channels.iter().position(|(known, _)| *known == channel)?;
    u32::try_from(index).ok().map(|index| index * 2 + 1)
}

fn channel_of(channels: &[(u8, &str)], stream: u32) -> Option<u8> {
    let index = usize::try_from(stream / 2).ok().filter(|_| stream % 2 == 1)?;
    channels.get(index).map(|(channel, _)| *channel)
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    Exit(u8),
    Failed(String),
}

impl Outcome {
    /// From what the kubelet wrote into the error stream. Nothing there means that nothing went wrong.
    fn read(written: &[u8], is_status: bool) -> Self {
        let failed = |text: &str| Self::Failed(format!("error stream protocol error: {text}"));
        if written.is_empty() {
            return Self::Success;
        }
        if !is_status {
            return Self::Failed(format!("error executing remote command: {}", String::from_utf8_lossy(written)));
        }
        let Ok(status) = serde_json::from_slice::<Status>(written) else {
            return failed(&format!("cannot unmarshal {:?}", String::from_utf8_lossy(written)));
        };
        match (status.status.as_str(), status.reason.as_str()) {
            ("Success", _) => Self::Success,
            ("Failure", "NonZeroExitCode") => {
                let Some(details) = status.details else { return failed("details must be set") };
                let Some(cause) = details.causes.iter().find(|cause| cause.reason == "ExitCode") else {
                    return failed("no ExitCode cause given");
                };
                let code = cause.message.parse();
                code.map_or_else(|_| failed(&format!("invalid exit code value {:?}", cause.message)), Self::Exit)
            }
            ("Failure", _) => Self::Failed(status.message),
            _ => failed("unknown error"),
        }
    }

    /// The Status for the client.
    fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => {
                let said =
                    format!("command terminated with non-zero exit code: command terminated with exit code {code}");
                json!({"metadata": {}, "status": "Failure", "message": said, "reason": "NonZeroExitCode",
                    "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
            }
            Self::Failed(error) => json!({"metadata": {}, "status": "Failure",
                "message": format!("Internal error occurred: {error}"), "reason": "InternalError",
                "details": {"causes": [{"message": error.as_str()}]}, "code": 500}),
        }
    }
}

/// Switches protocols and carries on in a task of its own.
pub(super) fn answer(
    kubelet: &Forward,
    streams: Streams,
    socket: &Handshake,
    upgrade: OnUpgrade,
    shutdown: watch::Receiver<bool>,
) -> Response<ResponseBody> {
    let kubelet = kubelet.clone();
    spawn_until_stopped(shutdown, async move { session(&kubelet, streams, upgrade).await });
    socket.answer(Some(PROTOCOL))
}

type Client = WebSocketStream<TokioIo<Upgraded>>;

/// `None`: the client is gone.
async fn session(kubelet: &Forward, streams: Streams, upgrade: OnUpgrade) -> Option<()> {
    let upgraded = upgrade.await.ok()?;
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = Client::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut to_client, mut from_client) = socket.split();
    send(&mut to_client, streams.greeting(), b"").await?;
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial(kubelet)).await;
    let outcome = match dialled.unwrap_or_else(|_| Err("context deadline exceeded".to_owned())) {
        Ok((link, is_status)) => carry(link, is_status, streams, &mut to_client, &mut from_client).await?,
        Err(error) => Outcome::Failed(error),
    };
    send(&mut to_client, OUTCOME, outcome.status().to_string().as_bytes()).await?;
    let normal = CloseFrame { code: CloseCode::Normal, reason: String::new().into() };
    to_client.send(Message::Close(Some(normal))).await.ok()?;
    // Closed by this side first, the connection could be reset with output still on its way.
    let left = async { while from_client.next().await.is_some_and(|message| message.is_ok()) {} };
    tokio::time::timeout(FINISH_TIMEOUT, left).await.ok()
}

async fn send(client: &mut SplitSink<Client, Message>, channel: u8, data: &[u8]) -> Option<()> {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    client.send(Message::binary(message)).await.ok()
}

/// A SPDY connection to the kubelet, and whether its outcomes are Statuses. Errors are in the words of upstream's dialer.
async fn dial(kubelet: &Forward) -> Result<(TokioIo<Upgraded>, bool), String> {
    let uri: Uri = kubelet.url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(USER_AGENT, HeaderValue::from_static(OURSELVES));
    for protocol in KUBELET_PROTOCOLS {
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let asked = forward::ask(kubelet.tls.as_ref(), &uri, Method::POST, headers).await;
    let mut response = asked.map_err(|error| format!("error sending request: {error}"))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS || !speaks_spdy(&response) {
        let read = http_body_util::Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
        let said = read.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        let status = serde_json::from_str::<Status>(&said).ok().filter(|status| !status.message.is_empty());
        let said = status.map_or(said, |status| status.message);
        return Err(format!("unable to upgrade connection: {}", said.trim_end()));
    }
    let chosen = response.headers().get(STREAM_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_status = STATUS_PROTOCOLS.contains(&chosen);
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| error.to_string())?;
    Ok((TokioIo::new(upgraded), is_status))
}

/// Streams in both directions until the kubelet has said how it ended. `None`: the client is gone.
async fn carry(
    link: TokioIo<Upgraded>,
    is_status: bool,
    streams: Streams,
    to_client: &mut SplitSink<Client, Message>,
    from_client: &mut SplitStream<Client>,
) -> Option<Outcome> {
    let channels = streams.channels();
    let (from_kubelet, to_kubelet) = tokio::io::split(link);
    // Output must flow while input waits for the kubelet, so pings go by way of who writes.
    let (pong, pongs) = mpsc::channel(PONGS_MAX);
    let inward = inward(&channels, from_client, to_kubelet, pongs);
    let outward = outward(&channels, is_status, from_kubelet, pong, to_client);
    tokio::pin!(inward, outward);
    tokio::select! {
        outcome = &mut outward => outcome,
        ended = &mut inward => match ended {
            End::ClientGone => None,
            // What the kubelet has said before it hung up is still to be read.
            End::KubeletGone => outward.await,
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ClientGone,
    KubeletGone,
}

/// The client's messages as frames for the kubelet.
async fn inward(
    channels: &[(u8, &str)],
    from_client: &mut SplitStream<Client>,
    mut to_kubelet: WriteHalf<TokioIo<Upgraded>>,
    mut pongs: mpsc::Receiver<Vec<u8>>,
) -> End {
    let mut encoder = Encoder::default();
    let mut next = Vec::new();
    for (channel, name) in channels {
        if let Some(stream) = stream_of(channels, *channel) {
            next.extend(encoder.open(stream, &[("streamtype", name)]));
        }
    }
    let mut pings = tokio::time::interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ping_id = 1;
    let mut stdin_open = true;
    loop {
        if !next.is_empty() && (to_kubelet.write_all(&next).await.is_err() || to_kubelet.flush().await.is_err()) {
            return End::KubeletGone;
        }
        next.clear();
        tokio::select! {
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(message))) => {
                    next = frames(channels, &encoder, &message, &mut stdin_open);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return End::ClientGone,
                Some(Ok(_)) => {}
            },
            Some(frame) = pongs.recv() => next = frame,
            _ = pings.tick() => {
                next = encoder.ping(ping_id);
                ping_id += 2;
            }
        }
    }
}

/// What one message of the client is to the kubelet.
fn frames(channels: &[(u8, &str)], encoder: &Encoder, message: &[u8], stdin_open: &mut bool) -> Vec<u8> {
    let Some((channel, data)) = message.split_first() else { return Vec::new() };
    match (*channel, data) {
        (CLOSE, [STDIN]) if *stdin_open => {
            *stdin_open = false;
            stream_of(channels, STDIN).map(|stream| encoder.data(stream, b"", true)).unwrap_or_default()
        }
        (STDIN | RESIZE, data) if *channel == RESIZE || *stdin_open => {
            let Some(stream) = stream_of(channels, *channel) else { return Vec::new() };
            data.chunks(FRAME_BYTES).flat_map(|piece| encoder.data(stream, piece, false)).collect()
        }
        _ => Vec::new(),
    }
}

/// The kubelet's frames as messages for the client, until all of its streams are closed.
async fn outward(
    channels: &[(u8, &str)],
    is_status: bool,
    mut from_kubelet: ReadHalf<TokioIo<Upgraded>>,
    pong: mpsc::Sender<Vec<u8>>,
    to_client: &mut SplitSink<Client, Message>,
) -> Option<Outcome> {
    let mut open: Vec<u8> = channels
        .iter()
        .map(|(channel, _)| *channel)
        .filter(|channel| [STDOUT, STDERR, OUTCOME].contains(channel))
        .collect();
    let mut decoder = Decoder::default();
    let mut said = Vec::new();
    let mut buffer = vec![0; FRAME_BYTES];
    while !open.is_empty() {
        let event = match decoder.next_event() {
            Ok(Some(event)) => event,
            Ok(None) => match from_kubelet.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    decoder.push(&buffer[..read]);
                    continue;
                }
            },
            Err(error) => return Some(Outcome::Failed(error.to_string())),
        };
        let (stream, data, last) = match event {
            Event::Data { stream, data, last } => (stream, data, last),
            Event::Reset { stream } => (stream, Vec::new(), true),
            // Odd ones are answers to our own. A kubelet that sends more than it waits for is not answered.
            Event::Ping { id, frame } if id % 2 == 0 => {
                let _more_than_it_waits_for = pong.try_send(frame).is_err();
                continue;
            }
            Event::Opened { .. } | Event::Ping { .. } | Event::Goodbye => continue,
        };
        let Some(channel) = channel_of(channels, stream) else { continue };
        match channel {
            OUTCOME => said.extend_from_slice(&data[..data.len().min(ERROR_BYTES_MAX - said.len())]),
            STDOUT | STDERR if !data.is_empty() => send(to_client, channel, &data).await?,
            _ => {}
        }
        if last {
            open.retain(|other| *other != channel);
        }
    }
    Some(Outcome::read(&said, is_status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_streams_in_the_order_in_which_they_are_opened() {
        let streams = Streams::of(&json!({"stdin": true, "stdout": true, "stderr": true, "tty": true}));
        let channels = streams.channels();
        let names: Vec<&str> = channels.iter().map(|(_, name)| *name).collect();
        assert_eq!(names, ["error", "stdin", "stdout", "resize"]);
        assert_eq!(
            [OUTCOME, STDIN, STDOUT, STDERR, RESIZE].map(|c| stream_of(&channels, c)),
            [Some(1), Some(3), Some(5), None, Some(7)]
        );
        assert_eq!(
            [1, 5, 7, 9, 2].map(|stream| channel_of(&channels, stream)),
            [Some(OUTCOME), Some(STDOUT), Some(RESIZE), None, None]
        );
        assert_eq!(streams.greeting(), STDOUT);
        assert_eq!(Streams::of(&json!({"stdin": true})).greeting(), OUTCOME);
    }

    #[test]
    fn a_closed_input_takes_nothing_more() {
        let channels = Streams::of(&json!({"stdin": true})).channels();
        let (encoder, mut open) = (Encoder::default(), true);
        let mut said = |message: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(&frames(&channels, &encoder, message, &mut open));
            decoder.next_event().expect("a frame")
        };
        let data = |data: &[u8], last| Some(Event::Data { stream: 3, data: data.to_vec(), last });
        assert_eq!(said(b"\0hello"), data(b"hello", false));
        assert_eq!(said(b"\x04{}"), None);
        assert_eq!(said(b"\xff\0"), data(b"", true));
        assert_eq!(said(b"\0more"), None);
        assert_eq!(said(b"\xff\0"), None);
        assert_eq!(said(b""), None);
    }

    #[test]
    fn the_error_stream_says_how_it_ended() {
        let read = |text: &str| Outcome::read(text.as_bytes(), true);
        assert_eq!(read(""), Outcome::Success);
        assert_eq!(read(r#"{"metadata":{},"status":"Success"}"#), Outcome::Success);
        let exit = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(read(exit), Outcome::Exit(3));
        assert_eq!(
            read(&exit.replace("\"3\"", "\"300\"")),
            Outcome::Failed("error stream protocol error: invalid exit code value \"300\"".into())
        );
        assert_eq!(
            read(r#"{"status":"Failure","message":"no such container"}"#),
            Outcome::Failed("no such container".into())
        );
        assert_eq!(Outcome::read(b"boom", false), Outcome::Failed("error executing remote command: boom".into()));
        let want = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: command terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(Outcome::Exit(3).status().to_string(), want);
    }
}
