//! exec and attach over WebSockets: one channel for each stream, the last for the outcome.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::shell::{self, Command, Outcome};
use super::{Body, Kubelet, log, text, websocket};

/// v5 can close a stream (channel 255), v4 cannot; the first one says how it ended in plain words, and nothing when it ended well.
const PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", FIRST_PROTOCOL];
const FIRST_PROTOCOL: &str = "channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const CLOSE: u8 = 255;
/// Bytes of one message to the client.
const CHUNK_BYTES: usize = 32 * 1024;
/// Bytes of an archive that is copied in.
const INPUT_BYTES_MAX: usize = 16 << 20;
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// A container to talk to.
pub(super) struct Session {
    pub kubelet: Arc<Kubelet>,
    pub pod: Arc<Pod>,
    pub container: String,
    /// Attach: to the process that runs already.
    pub attaches: bool,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(super) fn accept(mut request: Request<Incoming>, session: Session) -> Response<Body> {
    let Some((response, protocol)) = websocket(request.headers(), &PROTOCOLS) else {
        return text(
            400,
            "unable to upgrade: this kubelet speaks v5.channel.k8s.io, v4.channel.k8s.io and channel.k8s.io over WebSocket",
        );
    };
    let command: Vec<String> = arguments(request.uri().query().unwrap_or(""), "command");
    let tty = !arguments(request.uri().query().unwrap_or(""), "tty").is_empty();
    let in_words = protocol == FIRST_PROTOCOL;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                Box::pin(session.run(socket, &command, tty, in_words)).await;
            }
            Err(error) => tracing::debug!(%error, "a session was not upgraded"),
        }
    });
    response
}

/// All values of a query parameter.
fn arguments(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescape(value)).collect()
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'+' => out.push(b' '),
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => out.push(u8::try_from(high * 16 + low).unwrap_or(b'?')),
                _ => out.push(b'?'),
            },
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Session {
    async fn run(self, mut socket: Socket, command: &[String], tty: bool, in_words: bool) {
        let outcome = if self.attaches {
            self.attach(&mut socket).await
        } else {
            match Command::of(command) {
                Command::Once(words) => Some(self.once(&words).await),
                Command::Echo => self.echo(&mut socket).await,
                Command::Unpack(directory) => self.unpack(&mut socket, &directory).await,
                Command::Interactive => self.interact(&mut socket, tty).await,
            }
        };
        // A client that is gone wants to hear nothing.
        if let Some(outcome) = outcome
            && send(&mut socket, STDOUT, &outcome.stdout).await
            && send(&mut socket, STDERR, &outcome.stderr).await
        {
            let status = match (in_words, outcome.code) {
                (true, 0) => String::new(),
                (true, code) => format!("command terminated with non-zero exit code: exit status {code}"),
                (false, code) => status(code).to_string(),
            };
            if !status.is_empty() {
                send(&mut socket, OUTCOME, status.as_bytes()).await;
            }
        }
        // Without a code kubectl takes the end for an accident.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _client_may_be_gone = socket.close(Some(normal)).await;
    }

    async fn once(&self, words: &[String]) -> Outcome {
        if let [command, seconds, ..] = words
            && command == "sleep"
            && let Ok(seconds) = seconds.parse()
        {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        self.kubelet.with_files(&self.pod, |files| shell::run(words, &self.pod, &self.container, files))
    }

    async fn echo(&self, socket: &mut Socket) -> Option<Outcome> {
        while let Some(input) = input(socket).await? {
            if !send(socket, STDOUT, &input).await {
                return None;
            }
        }
        Some(Outcome::default())
    }

    async fn unpack(&self, socket: &mut Socket, directory: &str) -> Option<Outcome> {
        let mut archive = Vec::new();
        while let Some(input) = input(socket).await? {
            archive.extend_from_slice(&input);
            if archive.len() > INPUT_BYTES_MAX {
                let stderr = b"tar: write error: No space left on device\n".to_vec();
                return Some(Outcome { stderr, code: 1, ..Outcome::default() });
            }
            // Without a way to close the stream, the archive's own end is the end.
            if archive.len() >= 1024 && archive[archive.len() - 1024..].iter().all(|byte| *byte == 0) {
                break;
            }
        }
        let unpacked = self.kubelet.with_files(&self.pod, |files| files.unpack(directory, &archive));
        Some(match unpacked {
            Ok(()) => Outcome::default(),
            Err(error) => Outcome { stderr: format!("{error}\n").into_bytes(), code: 1, ..Outcome::default() },
        })
    }

    async fn interact(&self, socket: &mut Socket, tty: bool) -> Option<Outcome> {
        let prompt: &[u8] = if tty { b"/ # " } else { b"" };
        send(socket, STDOUT, prompt).await;
        let mut line = String::new();
        while let Some(input) = input(socket).await? {
            // A terminal shows what is typed.
            if tty {
                send(socket, STDOUT, String::from_utf8_lossy(&input).replace('\r', "\r\n").as_bytes()).await;
            }
            line.push_str(&String::from_utf8_lossy(&input));
            if line.contains('\u{4}') {
                return Some(Outcome::default());
            }
            while let Some(end) = line.find(['\n', '\r']) {
                let command: String = line.drain(..=end).collect();
                let outcome = self
                    .kubelet
                    .with_files(&self.pod, |files| shell::script_of(command.trim(), &self.pod, &self.container, files));
                if command.split_whitespace().next() == Some("exit") {
                    return Some(outcome);
                }
                let stdout = terminal(outcome.stdout, tty);
                // A terminal has one stream only.
                let stderr_channel = if tty { STDOUT } else { STDERR };
                let alive = send(socket, STDOUT, &stdout).await
                    && send(socket, stderr_channel, &terminal(outcome.stderr, tty)).await
                    && send(socket, STDOUT, prompt).await;
                if !alive {
                    return None;
                }
            }
        }
        Some(Outcome::default())
    }

    /// Shows what the container prints from now on.
    async fn attach(&self, socket: &mut Socket) -> Option<Outcome> {
        let mut seen = Timestamp::now();
        let options = log::Options::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {
                    let name = self.pod.metadata.name.as_deref().unwrap_or("");
                    let pod = self.kubelet.pod(self.pod.metadata.namespace.as_deref().unwrap_or(""), name)?;
                    let now = Timestamp::now();
                    let printed = log::printed(&pod, &self.container, false, now).ok()?;
                    if !send(socket, STDOUT, &options.render(&printed.lines, Some(seen), now)).await {
                        return None;
                    }
                    if !printed.running {
                        return Some(Outcome::default());
                    }
                    seen = now;
                }
                // Nothing reads what is typed, as with most containers.
                input = input(socket) => {
                    if input?.is_none() {
                        return Some(Outcome::default());
                    }
                }
            }
        }
    }
}

fn terminal(output: Vec<u8>, tty: bool) -> Vec<u8> {
    if tty { String::from_utf8_lossy(&output).replace('\n', "\r\n").into_bytes() } else { output }
}

/// The next piece of standard input: `Some(None)` at its end, `None` when the client is gone.
async fn input(socket: &mut Socket) -> Option<Option<Vec<u8>>> {
    while let Some(Ok(message)) = socket.next().await {
        let data = match message {
            Message::Binary(data) => data.to_vec(),
            Message::Text(text) => text.as_bytes().to_vec(),
            Message::Close(_) => return None,
            _ => continue,
        };
        match data.split_first() {
            Some((&STDIN, input)) if !input.is_empty() => return Some(Some(input.to_vec())),
            Some((&CLOSE, [STDIN])) => return Some(None),
            // A resized terminal, an empty write.
            _ => {}
        }
    }
    None
}

/// False: the client is gone.
async fn send(socket: &mut Socket, channel: u8, data: &[u8]) -> bool {
    for chunk in data.chunks(CHUNK_BYTES) {
        let message = [&[channel][..], chunk].concat();
        if socket.send(Message::Binary(message.into())).await.is_err() {
            return false;
        }
    }
    true
}

/// How a command ended, as the last message of a session says it.
fn status(code: i32) -> serde_json::Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_the_query() {
        assert_eq!(arguments("command=sh&command=-c&command=echo+a%26b&tty=1", "command"), ["sh", "-c", "echo a&b"]);
        assert_eq!(arguments("input=1", "tty"), [""; 0]);
    }
}
