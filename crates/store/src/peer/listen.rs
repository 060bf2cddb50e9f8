//! Connections of other members.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use raft::eraftpb::MessageType;
use tokio::io::{AsyncRead, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::config::PeerError;
use super::dial::{PROTOCOL_VERSION, SILENCE_MAX, Stream, within};
use super::frame::{self, Kind};
use super::net::Inner;
use super::snapshot;
use crate::proto::peer as pb;
use crate::raft::message::from_wire;

/// Connections at a time: four of each of six peers, and room for those that come and go.
const CONNECTIONS_MAX: usize = 128;
/// Who connects says what for within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls of one peer that are answered at a time.
const CALLS_MAX: usize = 64;
/// After a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn accept(inner: Arc<Inner>, listener: TcpListener, is_https: bool) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "not listening for peers");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _address)) => {
                tokio::spawn(serve(inner.clone(), stream, is_https, place));
            }
            Err(error) => {
                tracing::warn!(%error, "peer connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(inner: Arc<Inner>, stream: TcpStream, is_https: bool, _place: OwnedSemaphorePermit) {
    let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    if let Err(error) = converse(&inner, stream, is_https).await
        && !matches!(error, PeerError::Io(_))
    {
        tracing::warn!(%address, %error, "peer connection ended");
    }
}

async fn converse(inner: &Arc<Inner>, stream: TcpStream, is_https: bool) -> Result<(), PeerError> {
    stream.set_nodelay(true)?;
    let greeting = async {
        let mut stream: Box<dyn Stream> = match &inner.server_tls {
            Some(tls) if is_https => Box::new(TlsAcceptor::from(tls.get()).accept(stream).await?),
            _ => Box::new(stream),
        };
        let hello: pb::Hello = frame::expect(&mut stream, Kind::Hello).await?;
        Ok((stream, hello))
    };
    let (mut stream, hello) = within(HELLO_TIMEOUT, greeting).await?;
    let refusal = judge(inner, &hello);
    let welcome = pb::Welcome {
        version: PROTOCOL_VERSION,
        cluster_id: inner.identity.cluster_id,
        member_id: inner.identity.member_id,
        refusal: refusal.into(),
    };
    within(SILENCE_MAX, frame::write(&mut stream, Kind::Welcome, &welcome)).await?;
    if refusal != pb::Refusal::None {
        return Ok(());
    }
    match hello.purpose() {
        pb::Purpose::Control | pb::Purpose::Bulk => take_messages(inner, stream, hello.from).await,
        pb::Purpose::Call | pb::Purpose::Inquiry => answer_calls(inner, stream, hello.purpose()).await,
        pb::Purpose::Snapshot => snapshot::receive(inner, stream).await,
    }
}

/// Members that this one has not heard of yet are let in: they may be the ones to tell it.
fn judge(inner: &Inner, hello: &pb::Hello) -> pb::Refusal {
    let identity = inner.identity;
    let is_inquiry = hello.purpose() == pb::Purpose::Inquiry;
    if hello.version != PROTOCOL_VERSION || pb::Purpose::try_from(hello.purpose).is_err() {
        pb::Refusal::Version
    } else if is_inquiry {
        pb::Refusal::None
    } else if hello.cluster_id != identity.cluster_id {
        pb::Refusal::Cluster
    } else if inner.is_removed(hello.from) {
        pb::Refusal::Removed
    } else if hello.to != identity.member_id || hello.from == identity.member_id {
        pb::Refusal::Member
    } else {
        pb::Refusal::None
    }
}

/// A frame, or the end of a connection that says nothing.
async fn next(reader: &mut (impl AsyncRead + Unpin)) -> Result<(Kind, bytes::Bytes), PeerError> {
    within(SILENCE_MAX, frame::read(reader)).await
}

async fn take_messages(inner: &Inner, stream: Box<dyn Stream>, from: u64) -> Result<(), PeerError> {
    let (mut reader, mut writer): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(stream);
    loop {
        match next(&mut reader).await? {
            (Kind::Ping, _) => {
                // Raft sends nothing to a member that was removed: it hears of it when it connects again.
                if inner.is_removed(from) {
                    return Err(PeerError::Removed);
                }
                let nothing = pb::Messages::default();
                within(SILENCE_MAX, frame::write(&mut writer, Kind::Pong, &nothing)).await?;
            }
            (Kind::Messages, payload) => {
                let Some(local) = inner.local.get() else { continue };
                for message in pb::Messages::decode(payload)?.messages {
                    let message = from_wire(message).map_err(|_| PeerError::Protocol("a message without meaning"))?;
                    if message.get_msg_type() == MessageType::MsgSnapshot {
                        return Err(PeerError::Protocol("a snapshot without its state"));
                    }
                    local.raft.step(message);
                }
            }
            _ => return Err(PeerError::Protocol("a frame out of turn")),
        }
    }
}

async fn answer_calls(inner: &Arc<Inner>, stream: Box<dyn Stream>, purpose: pb::Purpose) -> Result<(), PeerError> {
    let (mut reader, writer) = tokio::io::split(stream);
    let writer = Arc::new(Mutex::new(writer));
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        let call: pb::Call = frame::expect(&mut reader, Kind::Call).await?;
        let request = call.request.ok_or(PeerError::Protocol("a call without a request"))?;
        if purpose == pb::Purpose::Inquiry && !matches!(request, pb::call::Request::Members(_)) {
            return Err(PeerError::Protocol("a call of one who is no member"));
        }
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let (inner, writer) = (inner.clone(), writer.clone());
        tokio::spawn(async move {
            let _place = place;
            let outcome = match inner.local.get() {
                Some(local) => local.desk.answer(request).await.map_err(|error| error.to_string()),
                None => Err("the member is starting".into()),
            };
            let answer = outcome.unwrap_or_else(|error| pb::Answer { error, ..Default::default() });
            let answer = pb::Answer { id: call.id, ..answer };
            let mut writer = writer.lock().await;
            // The reading side sees that the connection ended.
            let _gone = within(SILENCE_MAX, frame::write(&mut *writer, Kind::Answer, &answer)).await;
        });
    }
}
