//! Request and response bodies.

use ::bytes::Bytes;
use api::Status;
use futures::Stream;
use futures::StreamExt as _;
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};

/// Whatever goes wrong below HTTP while a body is read.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the gateway answers with: whole or streamed.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Requests above this are refused, as upstream's `--max-request-body-bytes` equivalent does.
pub(crate) const REQUEST_BYTES_MAX: usize = 3 << 20;

pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body from a stream that cannot fail.
pub(crate) fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> ResponseBody {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// The whole request body, or the Status that refuses it.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
        return Err(Status::request_entity_too_large(REQUEST_BYTES_MAX));
    }
    match http_body_util::Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::request_entity_too_large(REQUEST_BYTES_MAX))
        }
        Err(error) => Err(Status::bad_request(format!("unable to read request body: {error}"))),
    }
}
