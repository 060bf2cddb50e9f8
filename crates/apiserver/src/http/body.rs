//! Request and response bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use ::bytes::Bytes;
use api::Status;
use futures::Stream;
use futures::StreamExt as _;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};

/// Whatever goes wrong below HTTP while a body is read.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the gateway answers with: whole or streamed.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Requests above this are refused, as upstream's `--max-request-body-bytes` equivalent does.
pub(crate) const REQUEST_BYTES_MAX: usize = 3 << 20;

/// Read and thrown away after a refusal: clients that send everything before they listen then hear why.
const DISCARDED_BYTES_MAX: usize = 16 << 20;

pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body from a stream that cannot fail.
pub(crate) fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> ResponseBody {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// A body from a stream that may fail, which cuts the response short.
pub(crate) fn fallible_stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> ResponseBody {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// The whole request body, or the Status that refuses it. What is left of `body` then belongs to the answer: see [`hold`].
pub(crate) async fn read<B>(body: &mut B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let declared_too_large = body.size_hint().lower() > REQUEST_BYTES_MAX as u64;
    if !declared_too_large {
        match http_body_util::Limited::new(&mut *body, REQUEST_BYTES_MAX).collect().await {
            Ok(collected) => return Ok(collected.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {}
            Err(error) => return Err(Status::bad_request(format!("unable to read request body: {error}"))),
        }
    }
    discard(body).await;
    Err(Status::request_entity_too_large(REQUEST_BYTES_MAX))
}

async fn discard<B: Body<Data = Bytes> + Unpin>(body: &mut B) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

/// An answer that keeps the unread rest of a request until it is sent: dropping that rest earlier resets an HTTP/2 stream,
/// and the client never learns why it was refused.
pub(crate) fn hold<B: Send + Unpin + 'static>(answer: ResponseBody, request: B) -> ResponseBody {
    Held { answer, _request: request }.boxed_unsync()
}

struct Held<B> {
    answer: ResponseBody,
    _request: B,
}

impl<B: Unpin> Body for Held<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.answer).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
