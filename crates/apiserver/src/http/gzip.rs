//! Large answers are compressed for clients that take gzip, as upstream's APIResponseCompression does.

use std::io::Write;

use ::bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body;
use http_body_util::{BodyExt, BodyStream};

use super::body::{self, BoxError, ResponseBody};

/// Smaller answers are not worth the time.
const THRESHOLD_BYTES: usize = 128 * 1024;

/// The answer as it was, or compressed where it is large and the client takes that. Of a body that does not know its size the beginning
/// is read for it, no more than a little above the threshold.
pub(crate) async fn where_large(headers: &HeaderMap, response: Response<ResponseBody>) -> Response<ResponseBody> {
    let is_small = response.body().size_hint().upper().is_some_and(|n_bytes| n_bytes <= THRESHOLD_BYTES as u64);
    if is_small || !is_taken(headers) {
        return response;
    }
    let (mut parts, mut rest) = response.into_parts();
    let (mut begun, mut n_bytes) = (Vec::new(), 0);
    while n_bytes <= THRESHOLD_BYTES {
        match rest.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                n_bytes += data.len();
                begun.push(data);
            }
            Some(Err(error)) => {
                let cut = begun.into_iter().map(Ok).chain([Err(error)]);
                return Response::from_parts(parts, body::fallible_stream(stream::iter(cut)));
            }
            None => return Response::from_parts(parts, body::full(begun.concat())),
        }
    }
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let rest = BodyStream::new(rest).filter_map(async |frame| frame.map(|frame| frame.into_data().ok()).transpose());
    Response::from_parts(parts, compressed(stream::iter(begun).map(Ok).chain(rest)))
}

fn is_taken(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|encoding| encoding.split(';').next().is_some_and(|e| e.trim() == "gzip"))
}

/// Each chunk is compressed as it comes; what the encoder has ready goes on.
fn compressed(chunks: impl stream::Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> ResponseBody {
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    let pieces = stream::try_unfold((Box::pin(chunks), encoder), async |(mut chunks, encoder)| {
        let Some(mut encoder) = encoder else { return Ok(None) };
        loop {
            match chunks.next().await.transpose()? {
                Some(chunk) => {
                    encoder.write_all(&chunk)?;
                    let ready = std::mem::take(encoder.get_mut());
                    if !ready.is_empty() {
                        return Ok(Some((Bytes::from(ready), (chunks, Some(encoder)))));
                    }
                }
                None => return Ok(Some((Bytes::from(encoder.finish()?), (chunks, None)))),
            }
        }
    });
    body::fallible_stream(pieces)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    async fn answer(accepted: &str, chunks: Vec<Bytes>) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, accepted.parse().expect("a value"));
        let response = Response::new(body::stream(stream::iter(chunks)));
        let (parts, body) = where_large(&headers, response).await.into_parts();
        (parts.headers, body.collect().await.expect("a body").to_bytes())
    }

    #[tokio::test]
    async fn only_large_answers_are_compressed_and_only_for_those_who_take_it() {
        let chunks = || (0..40).map(|n| Bytes::from(format!("{n:04} ").repeat(1000))).collect::<Vec<_>>();
        let whole = chunks().concat();
        let (headers, sent) = answer("deflate, gzip;q=0.5", chunks()).await;
        assert_eq!(headers[CONTENT_ENCODING], "gzip");
        assert_eq!(headers[VARY], "Accept-Encoding");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&sent[..]).read_to_end(&mut unpacked).expect("a gzip stream");
        assert!(unpacked == whole && sent.len() < whole.len() / 10, "{} of {}", sent.len(), whole.len());

        assert_eq!(answer("deflate", chunks()).await, (HeaderMap::new(), Bytes::from(whole)));
        let small = vec![Bytes::from_static(b"small")];
        assert_eq!(answer("gzip", small).await, (HeaderMap::new(), Bytes::from_static(b"small")));
    }
}
