//! Connections to other members, kept up as long as the member is one.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use prost::Message as _;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_rustls::TlsConnector;

use super::config::{PeerConfig, PeerError, PeerUrl};
use super::frame::{self, Kind};
use super::net::{Asked, Inner, Link};
use super::tls::server_name;
use crate::proto::peer as pb;
use crate::reload::FromFiles;

/// Of what members say to each other. Others are refused.
pub(super) const PROTOCOL_VERSION: u32 = 1;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer takes what is written within this time, and is heard of at least this often, or the connection is given up.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Messages written at a time, and about how many bytes of them make a frame.
const BATCH_MESSAGES_MAX: usize = 64;
const BATCH_BYTES: usize = 2 << 20;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Something that must happen in time.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    timeout(limit, work).await.unwrap_or(Err(PeerError::Timeout))
}

async fn open(url: &PeerUrl, tls: Option<&FromFiles<ClientConfig>>) -> Result<Box<dyn Stream>, PeerError> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
    stream.set_nodelay(true)?;
    if !url.is_https {
        return Ok(Box::new(stream));
    }
    let tls = tls.ok_or(PeerError::NoTls)?;
    Ok(Box::new(TlsConnector::from(tls.get()).connect(server_name(&url.host)?, stream).await?))
}

async fn introduce(stream: &mut Box<dyn Stream>, hello: pb::Hello) -> Result<pb::Welcome, PeerError> {
    frame::write(stream, Kind::Hello, &hello).await?;
    let welcome: pb::Welcome = frame::expect(stream, Kind::Welcome).await?;
    match welcome.refusal() {
        pb::Refusal::None => Ok(welcome),
        pb::Refusal::Version => Err(PeerError::Version),
        pb::Refusal::Cluster | pb::Refusal::Member => Err(PeerError::WrongCluster),
        pb::Refusal::Removed => Err(PeerError::Removed),
    }
}

/// A connection to a member, at one of its URLs.
pub(super) async fn connect(
    inner: &Inner,
    link: &Link,
    purpose: pb::Purpose,
    attempt: usize,
) -> Result<Box<dyn Stream>, PeerError> {
    let url = {
        let urls = link.urls.borrow();
        let url = urls.get(attempt % urls.len().max(1)).ok_or_else(|| PeerError::Url(String::new()))?;
        PeerUrl::parse(url)?
    };
    let hello = pb::Hello {
        version: PROTOCOL_VERSION,
        cluster_id: inner.identity.cluster_id,
        from: inner.identity.member_id,
        to: link.id,
        purpose: purpose.into(),
    };
    let connecting = async {
        let mut stream = open(&url, inner.client_tls.as_ref()).await?;
        introduce(&mut stream, hello).await?;
        Ok(stream)
    };
    within(CONNECT_TIMEOUT, connecting).await
}

/// Keeps a connection for messages until the member is gone.
pub(super) async fn stream(
    inner: Arc<Inner>,
    link: Arc<Link>,
    purpose: pb::Purpose,
    mut queue: mpsc::Receiver<pb::Message>,
) {
    let is_control = purpose == pb::Purpose::Control;
    let mut urls = link.urls.subscribe();
    let mut backoff = BACKOFF_MIN;
    let mut was_reached = true;
    for attempt in 0.. {
        let outcome = match connect(&inner, &link, purpose, attempt).await {
            Ok(stream) => {
                backoff = BACKOFF_MIN;
                if is_control {
                    *link.active_since.lock() = Some(std::time::Instant::now());
                    tracing::info!(member = format!("{:x}", link.id), "member is in touch");
                }
                was_reached = true;
                let outcome = send_all(stream, &mut queue).await;
                *link.active_since.lock() = None;
                outcome
            }
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return };
        if matches!(error, PeerError::Removed) {
            inner.report_removed();
        }
        if is_control && std::mem::take(&mut was_reached) {
            tracing::warn!(member = format!("{:x}", link.id), %error, "member is not in touch");
        }
        // What waited is old news by the time there is a connection.
        while queue.try_recv().is_ok() {}
        inner.report_unreachable(link.id);
        let _moved_or_time_is_up = timeout(backoff, urls.changed()).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Sends what comes until the queue ends (then all is well) or the connection does.
async fn send_all(stream: Box<dyn Stream>, queue: &mut mpsc::Receiver<pb::Message>) -> Result<(), PeerError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let heard = Mutex::new(Instant::now());
    let mut listening = pin!(async {
        loop {
            match frame::read(&mut reader).await {
                Ok((Kind::Pong, _)) => *heard.lock() = Instant::now(),
                Ok(_) => return PeerError::Protocol("a frame out of turn"),
                Err(error) => return error,
            }
        }
    });
    let mut ping = tokio::time::interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    let mut buffer = BytesMut::new();
    loop {
        tokio::select! {
            error = &mut listening => return Err(error),
            n_messages = queue.recv_many(&mut batch, BATCH_MESSAGES_MAX) => {
                if n_messages == 0 {
                    return Ok(());
                }
                encode_batch(&mut batch, &mut buffer);
            }
            _ = ping.tick() => {
                if heard.lock().elapsed() > SILENCE_MAX {
                    return Err(PeerError::Timeout);
                }
                frame::encode(Kind::Ping, &pb::Messages::default(), &mut buffer);
            }
        }
        within(SILENCE_MAX, flush(&mut writer, &mut buffer)).await?;
    }
}

fn encode_batch(batch: &mut Vec<pb::Message>, buffer: &mut BytesMut) {
    let mut frame = pb::Messages::default();
    let mut n_bytes = 0;
    for message in batch.drain(..) {
        n_bytes += message.encoded_len();
        frame.messages.push(message);
        if n_bytes > BATCH_BYTES {
            frame::encode(Kind::Messages, &std::mem::take(&mut frame), buffer);
            n_bytes = 0;
        }
    }
    if !frame.messages.is_empty() {
        frame::encode(Kind::Messages, &frame, buffer);
    }
}

async fn flush(writer: &mut WriteHalf<Box<dyn Stream>>, buffer: &mut BytesMut) -> Result<(), PeerError> {
    writer.write_all(buffer).await?;
    buffer.clear();
    Ok(writer.flush().await?)
}

/// Makes calls, over a connection that is made when the first of them comes.
pub(super) async fn calls(inner: Arc<Inner>, link: Arc<Link>, mut queue: mpsc::Receiver<Asked>) {
    let mut attempt = 0;
    while let Some(first) = queue.recv().await {
        match connect(&inner, &link, pb::Purpose::Call, attempt).await {
            Ok(stream) => {
                // Whoever waits for an answer sees that none comes.
                let _ended = call_all(stream, first, &mut queue).await;
            }
            Err(error) => {
                tracing::debug!(member = format!("{:x}", link.id), %error, "call not made");
                attempt += 1;
            }
        }
    }
}

async fn call_all(stream: Box<dyn Stream>, first: Asked, queue: &mut mpsc::Receiver<Asked>) -> Result<(), PeerError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let waiting: Mutex<HashMap<u64, oneshot::Sender<pb::Answer>>> = Mutex::default();
    let mut listening = pin!(async {
        loop {
            let answer: pb::Answer = match frame::expect(&mut reader, Kind::Answer).await {
                Ok(answer) => answer,
                Err(error) => return error,
            };
            if let Some(reply) = waiting.lock().remove(&answer.id) {
                let _caller_gave_up = reply.send(answer);
            }
        }
    });
    let mut next = Some(first);
    let mut buffer = BytesMut::new();
    for id in 1.. {
        let (request, reply) = match next.take() {
            Some(asked) => asked,
            None => tokio::select! {
                error = &mut listening => return Err(error),
                asked = queue.recv() => match asked {
                    Some(asked) => asked,
                    None => return Ok(()),
                },
            },
        };
        {
            let mut waiting = waiting.lock();
            waiting.retain(|_, reply| !reply.is_closed());
            waiting.insert(id, reply);
        }
        frame::encode(Kind::Call, &pb::Call { id, request: Some(request) }, &mut buffer);
        within(SILENCE_MAX, flush(&mut writer, &mut buffer)).await?;
    }
    Ok(())
}

/// Asks a member at `url` who belongs to its cluster; for a member to be.
pub(crate) async fn inquire(url: &str, config: &PeerConfig) -> Result<pb::Answer, PeerError> {
    let url = PeerUrl::parse(url)?;
    let tls = config.tls.as_ref().map(|tls| tls.client()).transpose()?;
    let hello = pb::Hello { version: PROTOCOL_VERSION, purpose: pb::Purpose::Inquiry.into(), ..pb::Hello::default() };
    let asking = async {
        let mut stream = open(&url, tls.as_ref()).await?;
        let welcome = introduce(&mut stream, hello).await?;
        let call = pb::Call { id: 1, request: Some(pb::call::Request::Members(true)) };
        frame::write(&mut stream, Kind::Call, &call).await?;
        let mut answer: pb::Answer = frame::expect(&mut stream, Kind::Answer).await?;
        answer.cluster_id = welcome.cluster_id;
        Ok(answer)
    };
    within(SILENCE_MAX, asking).await
}
