//! A whole state on its way to a member that is too far behind for the log, or new.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::config::PeerError;
use super::dial::{SILENCE_MAX, Stream, connect, within};
use super::frame::{self, Kind};
use super::net::{Inner, Link};
use crate::StoreError;
use crate::backend::{Bucket, Incoming, Loader, Row, Staging, StateRows};
use crate::background::{give_way, in_background};
use crate::machine::Machine;
use crate::proto::peer as pb;
use crate::raft::message::{from_wire, metadata_to_wire};

/// Rows of about this many bytes make a frame.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Frames encoded ahead of the connection.
const CHUNKS_AHEAD: usize = 4;
/// The receiver takes up the state within this time once it has all of it.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_ATTEMPTS: usize = 3;

/// Sends the state of this moment in answer to Raft's message, and tells the driver how it went.
pub(super) async fn send(inner: Arc<Inner>, link: Arc<Link>, message: pb::Message) {
    let to = link.id;
    let doubled = link.haste.begin();
    let outcome = try_send(&inner, &link, message, doubled).await;
    link.haste.end();
    match &outcome {
        Ok(n_rows) => tracing::info!(to = format!("{to:x}"), n_rows, "state sent"),
        Err(error) => tracing::warn!(to = format!("{to:x}"), %error, "state not sent"),
    }
    if let Some(local) = inner.local.get() {
        local.raft.report_snapshot(to, outcome.is_ok());
    }
}

/// At the usual pace, or at so many times its double.
async fn try_send(inner: &Inner, link: &Link, mut message: pb::Message, doubled: u32) -> Result<u64, PeerError> {
    let mut stream = None;
    for attempt in 0..CONNECT_ATTEMPTS {
        match connect(inner, link, pb::Purpose::Snapshot, attempt).await {
            Ok(connected) => stream = Some(connected),
            Err(error) if attempt + 1 == CONNECT_ATTEMPTS => return Err(error),
            Err(_try_another_url) => continue,
        }
        break;
    }
    let mut stream = stream.ok_or(PeerError::Timeout)?;
    let machine = inner.local.get().ok_or(PeerError::Timeout)?.machine.clone();
    let taken = tokio::task::spawn_blocking(move || StateRows::of(&machine.read())).await;
    let state = taken.map_err(in_vain)?;
    let mut metadata = raft::eraftpb::SnapshotMetadata::default();
    (metadata.index, metadata.term) = state.applied;
    metadata.set_conf_state(state.membership.conf_state());
    message.snapshot = Some(metadata_to_wire(&metadata));
    let begin = pb::SnapshotBegin { message: Some(message) };
    within(SILENCE_MAX, frame::write(&mut stream, Kind::SnapshotBegin, &begin)).await?;

    let (chunks, mut encoded) = mpsc::channel::<BytesMut>(CHUNKS_AHEAD);
    let connection = &mut stream;
    let passing = async move {
        while let Some(chunk) = encoded.recv().await {
            inner.snapshot_pace.wait(chunk.len() >> doubled).await;
            within(SILENCE_MAX, async { Ok(connection.write_all(&chunk).await?) }).await?;
        }
        Ok::<_, PeerError>(())
    };
    let encoding = in_background("state-sender", move || encode(state, &chunks));
    let (passed, n_rows) = tokio::join!(passing, encoding);
    passed?;
    // Without the end, the receiver takes nothing of it.
    let n_rows = n_rows.map_err(in_vain)?.map_err(in_vain)?;
    within(SILENCE_MAX, frame::write(&mut stream, Kind::SnapshotEnd, &pb::SnapshotEnd { n_rows })).await?;
    let done: pb::SnapshotDone = within(ACCEPT_TIMEOUT, frame::expect(&mut stream, Kind::SnapshotDone)).await?;
    if done.accepted { Ok(n_rows) } else { Err(PeerError::Protocol("that it cannot take the state now")) }
}

/// What failed on this side.
fn in_vain(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PeerError {
    PeerError::Io(std::io::Error::other(error))
}

/// Returns the number of rows.
fn encode(state: StateRows, chunks: &mpsc::Sender<BytesMut>) -> Result<u64, StoreError> {
    let mut n_rows = 0;
    let mut frame = pb::SnapshotRows::default();
    let mut n_bytes = 0;
    let emit = |frame: &mut pb::SnapshotRows| {
        give_way();
        let mut buffer = BytesMut::new();
        frame::encode(Kind::SnapshotRows, &std::mem::take(frame), &mut buffer);
        chunks.blocking_send(buffer).is_ok()
    };
    for row in state.into_rows() {
        let row = row?;
        let value = row.value.unwrap_or_default();
        n_bytes += row.key.len() + value.len();
        n_rows += 1;
        frame.rows.push(pb::Row { bucket: number_of(row.bucket), key: row.key.into(), value: value.into() });
        if n_bytes >= CHUNK_BYTES {
            n_bytes = 0;
            if !emit(&mut frame) {
                return Ok(n_rows);
            }
        }
    }
    emit(&mut frame);
    Ok(n_rows)
}

/// Places in this list are numbers on the wire.
fn number_of(bucket: Bucket) -> u32 {
    let at = Bucket::ALL.iter().position(|known| *known == bucket);
    at.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
}

/// What arrives, on its way from the connection to the thread that stores it.
enum Part {
    Rows(Vec<pb::Row>),
    End { n_rows: u64 },
}

pub(super) async fn receive(inner: &Inner, mut stream: Box<dyn Stream>) -> Result<(), PeerError> {
    let Ok(_place) = inner.receiving.try_acquire() else {
        let busy = pb::SnapshotDone { accepted: false };
        return within(SILENCE_MAX, frame::write(&mut stream, Kind::SnapshotDone, &busy)).await;
    };
    let begin: pb::SnapshotBegin = within(SILENCE_MAX, frame::expect(&mut stream, Kind::SnapshotBegin)).await?;
    let message = begin.message.ok_or(PeerError::Protocol("a snapshot without its message"))?;
    let message = from_wire(message).map_err(|_| PeerError::Protocol("a message without meaning"))?;
    let local = inner.local.get().ok_or(PeerError::Timeout)?;
    let (staging, is_witness) = (local.staging.clone(), local.is_witness);
    let (parts, arriving) = mpsc::channel(CHUNKS_AHEAD);
    let storing = in_background("state-receiver", move || store(staging.as_deref(), is_witness, arriving));
    let (passed, stored) = tokio::join!(pass_on(&mut stream, parts), storing);
    passed?;
    let state = stored.map_err(in_vain)??;
    check(&message, &state.machine)?;
    local.raft.install(message, Box::new(state));
    within(SILENCE_MAX, frame::write(&mut stream, Kind::SnapshotDone, &pb::SnapshotDone { accepted: true })).await
}

/// Reads to the end of the state, or until nobody stores it any more.
async fn pass_on(stream: &mut Box<dyn Stream>, parts: mpsc::Sender<Part>) -> Result<(), PeerError> {
    loop {
        let (kind, payload) = within(SILENCE_MAX, frame::read(stream)).await?;
        let part = match kind {
            Kind::SnapshotRows => Part::Rows(pb::SnapshotRows::decode(payload)?.rows),
            Kind::SnapshotEnd => Part::End { n_rows: pb::SnapshotEnd::decode(payload)?.n_rows },
            _ => return Err(PeerError::Protocol("a frame out of turn")),
        };
        let is_end = matches!(part, Part::End { .. });
        let is_refused = parts.send(part).await.is_err();
        if is_end || is_refused {
            return Ok(());
        }
    }
}

/// Builds the state, and brings its rows to a file as they come.
fn store(staging: Option<&Staging>, is_witness: bool, mut parts: mpsc::Receiver<Part>) -> Result<Incoming, PeerError> {
    let (mut staged, mut loader) = match staging {
        Some(staging) => staging.begin().map(|(staged, loader)| (Some(staged), loader)).map_err(in_vain)?,
        None if is_witness => (None, Loader::of_members()),
        None => (None, Loader::default()),
    };
    let mut n_stored = 0;
    loop {
        match parts.blocking_recv() {
            Some(Part::Rows(rows)) => {
                for pb::Row { bucket, key, value } in rows {
                    let bucket = usize::try_from(bucket).ok().and_then(|at| Bucket::ALL.get(at));
                    let bucket = *bucket.ok_or(PeerError::Protocol("a row of an unknown bucket"))?;
                    loader.row(bucket, &key, &value).ok_or(PeerError::Protocol("a row without meaning"))?;
                    if let Some(staged) = &mut staged {
                        staged.add(Row::put(bucket, key, value)).map_err(in_vain)?;
                    }
                    n_stored += 1;
                }
            }
            Some(Part::End { n_rows }) if n_rows == n_stored => break,
            Some(Part::End { .. }) => return Err(PeerError::Protocol("a snapshot with rows missing")),
            None => return Err(PeerError::Protocol("a snapshot without an end")),
        }
    }
    if let Some(staged) = &mut staged {
        staged.finish().map_err(in_vain)?;
    }
    Ok(Incoming { machine: loader.finish().machine, staged })
}

/// The state must be the one that the message says.
fn check(message: &raft::eraftpb::Message, machine: &Machine) -> Result<(), PeerError> {
    let metadata = message.get_snapshot().get_metadata();
    let conf_state = machine.membership.conf_state();
    let is_snapshot = message.get_msg_type() == raft::eraftpb::MessageType::MsgSnapshot;
    let fits = machine.applied == (metadata.index, metadata.term)
        && metadata.index > 0
        && conf_state.voters == metadata.get_conf_state().voters
        && conf_state.learners == metadata.get_conf_state().learners;
    if is_snapshot && fits { Ok(()) } else { Err(PeerError::Protocol("a snapshot that is not what it says")) }
}
