//! Request and response bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use ::bytes::{Bytes, BytesMut};
use api::Status;
use futures::Stream;
use futures::StreamExt as _;
use http::Response;
use http::header::CONTENT_LENGTH;
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

/// What the gateway is asked with, whoever sends it.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) fn boxed<B>(body: B) -> RequestBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

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

/// The answer to a HEAD: without `body`'s bytes, but with their number. For HTTP/1 hyper sees to that itself, for HTTP/2 it does not, and
/// clients take bytes where none may be for a broken stream.
pub fn without_bytes<B: Body>(answer: Response<B>, none: B) -> Response<B> {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(head, none)
}

/// The whole request body, or the Status that refuses it. What is left of `body` then belongs to the answer: see [`hold`].
pub(crate) async fn read(body: &mut RequestBody) -> Result<Bytes, Status> {
    // Most bodies are one piece, which is not copied.
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    let mut fits = body.size_hint().lower() <= REQUEST_BYTES_MAX as u64;
    while fits {
        let Some(frame) = body.frame().await else {
            return Ok(if all.is_empty() { first } else { all.freeze() });
        };
        let frame = frame.map_err(|error| Status::bad_request(format!("unable to read request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        fits = first.len().max(all.len()) <= REQUEST_BYTES_MAX;
    }
    discard(body).await;
    Err(Status::request_entity_too_large(REQUEST_BYTES_MAX))
}

async fn discard(body: &mut RequestBody) {
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
pub(crate) fn hold(answer: ResponseBody, request: RequestBody) -> ResponseBody {
    Held { answer, _request: request }.boxed_unsync()
}

struct Held {
    answer: ResponseBody,
    _request: RequestBody,
}

impl Body for Held {
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Method, Request};
    use http_body_util::Empty;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    #[tokio::test]
    async fn a_head_is_answered_over_http2_as_well() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let service = hyper::service::service_fn(async |_: Request<hyper::body::Incoming>| {
            Ok::<_, Infallible>(without_bytes(Response::new(full("ok")), full("")))
        });
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(served.serve_connection(TokioIo::new(far), service));
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .expect("a connection");
        tokio::spawn(connection);
        let request = Request::builder().method(Method::HEAD).uri("http://a/").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.headers()[CONTENT_LENGTH], "2");
        let body = answer.into_body().collect().await.expect("no bytes where none may be");
        assert!(body.to_bytes().is_empty());
    }
}
