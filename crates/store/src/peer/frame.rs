//! Frames on a connection, with a checksum each: not every connection is encrypted.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::config::PeerError;

/// The largest request that a cluster may be configured to take.
pub(crate) const REQUEST_BYTES_LIMIT: usize = 64 << 20;
/// Above the largest message: a batch of proposals of 4 MiB, or entries of 1 MiB, and one request beyond.
const FRAME_BYTES_MAX: usize = REQUEST_BYTES_LIMIT + (16 << 20);
const LENGTH_BYTES: usize = 4;
const KIND_BYTES: usize = 1;
const CRC_BYTES: usize = 4;
const HEADER_BYTES: usize = LENGTH_BYTES + KIND_BYTES + CRC_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Hello = 1,
    Welcome,
    Messages,
    Ping,
    Pong,
    Call,
    Answer,
    SnapshotBegin,
    SnapshotRows,
    SnapshotEnd,
    SnapshotDone,
}

const KINDS: [Kind; 11] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Messages,
    Kind::Ping,
    Kind::Pong,
    Kind::Call,
    Kind::Answer,
    Kind::SnapshotBegin,
    Kind::SnapshotRows,
    Kind::SnapshotEnd,
    Kind::SnapshotDone,
];

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)
}

/// Appends a frame to a buffer.
pub(super) fn encode(kind: Kind, message: &impl Message, buffer: &mut BytesMut) {
    let n_bytes = message.encoded_len();
    buffer.reserve(HEADER_BYTES + n_bytes);
    let start = buffer.len();
    buffer.put_u32(u32::try_from(n_bytes).unwrap_or(u32::MAX));
    buffer.put_u8(kind as u8);
    buffer.put_u32(0);
    // The buffer grows as needed.
    let _never_fails = message.encode(buffer);
    let crc = checksum(kind as u8, &buffer[start + HEADER_BYTES..]);
    buffer[start + LENGTH_BYTES + KIND_BYTES..start + HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}

/// Writes one frame.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    message: &impl Message,
) -> Result<(), PeerError> {
    let mut buffer = BytesMut::new();
    encode(kind, message, &mut buffer);
    stream.write_all(&buffer).await?;
    Ok(stream.flush().await?)
}

/// Reads one frame. Not to be cancelled in the middle unless the connection is given up.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Kind, Bytes), PeerError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let [a, b, c, d, kind, e, f, g, h] = header;
    let n_bytes = u32::from_be_bytes([a, b, c, d]) as usize;
    if n_bytes > FRAME_BYTES_MAX {
        return Err(PeerError::Protocol("a frame that is too large"));
    }
    let known = KINDS.into_iter().find(|known| *known as u8 == kind);
    let known = known.ok_or(PeerError::Protocol("a frame of an unknown kind"))?;
    // Grows with what arrives, not with what is announced.
    let mut payload = BytesMut::new();
    let mut limited = stream.take(n_bytes as u64);
    while payload.len() < n_bytes {
        if limited.read_buf(&mut payload).await? == 0 {
            return Err(PeerError::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    if checksum(kind, &payload) != u32::from_be_bytes([e, f, g, h]) {
        return Err(PeerError::Protocol("a frame with a wrong checksum"));
    }
    Ok((known, payload.freeze()))
}

/// Reads one frame, which must be of this kind.
pub(super) async fn expect<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    kind: Kind,
) -> Result<M, PeerError> {
    let (found, payload) = read(stream).await?;
    if found != kind {
        return Err(PeerError::Protocol("a frame out of turn"));
    }
    Ok(M::decode(payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::peer as pb;

    async fn reread(bytes: &[u8]) -> Result<(Kind, Bytes), PeerError> {
        read(&mut &*bytes).await
    }

    #[tokio::test]
    async fn frames_survive_and_damage_is_found() {
        let hello = pb::Hello { version: 1, cluster_id: 2, from: 3, to: 4, purpose: 0 };
        let mut buffer = BytesMut::new();
        encode(Kind::Hello, &hello, &mut buffer);
        let (kind, payload) = reread(&buffer).await.unwrap();
        assert_eq!((kind, pb::Hello::decode(payload).unwrap()), (Kind::Hello, hello));
        for at in 0..buffer.len() {
            let mut damaged = buffer.to_vec();
            damaged[at] ^= 1;
            assert!(reread(&damaged).await.is_err(), "byte {at}");
        }
        assert!(reread(&buffer[..buffer.len() - 1]).await.is_err());
    }

    #[tokio::test]
    async fn a_frame_is_not_believed_to_be_endless() {
        let error = reread(&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0]).await.unwrap_err();
        assert_eq!(error.to_string(), "a peer sent a frame that is too large");
    }
}
