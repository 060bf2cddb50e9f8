//! How messages enter and leave the buffers of a gRPC stream.
//!
//! As `tonic_prost::ProstCodec`, but for two things: a message's room is reserved before it is encoded, so that a large one is
//! not copied again and again while its buffer grows; and a stream begins with small buffers, because most of what is said is
//! short and a server may have many thousands of streams.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// First size of a stream's buffer for what it sends; most answers are a header.
const ENCODE_BUFFER_BYTES: usize = 256;
/// First size of a stream's buffer for what it receives: a small object and its key.
const DECODE_BUFFER_BYTES: usize = 2048;
/// Messages that are ready are sent together up to this size, tonic's default.
const SEND_TOGETHER_BYTES: usize = 32 * 1024;

/// The codec that the generated code names.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ReservingEncoder<T>;
    type Decoder = <ProstCodec<T, U> as tonic::codec::Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ReservingEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(DECODE_BUFFER_BYTES, SEND_TOGETHER_BYTES))
    }
}

/// Encodes into a buffer that has room for all of it.
#[derive(Debug, Clone)]
pub struct ReservingEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ReservingEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ENCODE_BUFFER_BYTES, SEND_TOGETHER_BYTES)
    }
}
