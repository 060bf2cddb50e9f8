//! Answers without `managedFields`, and with the times that a schema demands.
//!
//! Nobody on this side asks who owns which field. That list is a third of many objects as text, and most of them as a tree: it
//! is cut out of the text before anything is decoded. An update that comes without `managedFields` leaves them as they are.
//!
//! A time that was never set is null on the wire, as Go writes it, also where a schema demands one; our types take no null there.
//! Go reads its zero time as the same.

use std::borrow::Cow;
use std::sync::LazyLock;

use api::value::value_end;
use bytes::Bytes;
use http::{Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use memchr::memmem;
use tower::BoxError;

/// Prunes an answer that comes as a whole. Streams (watches, long lists) are left to whoever reads them.
pub(crate) async fn pruned<B>(answer: Response<B>) -> Result<Response<Either<Full<Bytes>, B>>, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = answer.into_parts();
    if body.size_hint().exact().is_none() {
        return Ok(Response::from_parts(head, Either::Right(body)));
    }
    let whole = body.collect().await.map_err(Into::<BoxError>::into)?.to_bytes();
    let rest = match decodable(&whole) {
        Cow::Borrowed(_) => None,
        Cow::Owned(rest) => Some(Bytes::from(rest)),
    };
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Either::Left(Full::new(rest.unwrap_or(whole)))))
}

const MANAGED_FIELDS: &[u8] = b"\"managedFields\":[";
static MANAGED_FIELDS_FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(MANAGED_FIELDS));
/// What stands before the null of a time that a schema demands and that was never set: that of a condition, and that of a series of
/// events.
static NEVER: LazyLock<[memmem::Finder<'static>; 2]> =
    LazyLock::new(|| ["\"lastTransitionTime\":null", "\"lastObservedTime\":null"].map(memmem::Finder::new));
const NULL: usize = b"null".len();
/// Go's zero time.
const ZERO: &[u8] = b"\"0001-01-01T00:00:00Z\"";

/// A JSON document as our types can read it. A quote that is not escaped, before one of these words, in a valid document, begins a
/// key.
pub(crate) fn decodable(json: &[u8]) -> Cow<'_, [u8]> {
    let mut json = without_managed_fields(json);
    for never in NEVER.iter() {
        let found: Vec<usize> = never.find_iter(&json).map(|at| at + never.needle().len() - NULL).collect();
        if found.is_empty() {
            continue;
        }
        let mut out = Vec::with_capacity(json.len() + found.len() * (ZERO.len() - NULL));
        let mut done = 0;
        for at in found {
            out.extend_from_slice(&json[done..at]);
            out.extend_from_slice(ZERO);
            done = at + NULL;
        }
        out.extend_from_slice(&json[done..]);
        json = Cow::Owned(out);
    }
    json
}

/// A JSON document without its members called `managedFields` that are lists. Of the kinds read here only metadata has
/// such members. A quote that is not escaped, before this word, in a valid document, begins a key.
fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = MANAGED_FIELDS_FINDER.find(json) else { return Cow::Borrowed(json) };
    let mut out = Vec::with_capacity(json.len());
    let (mut rest, mut found) = (json, Some(first));
    while let Some(at) = found {
        let list_at = at + MANAGED_FIELDS.len() - 1;
        // A document that ends within the list is left to the decoder to complain about.
        let Ok(end) = value_end(rest, list_at) else { break };
        out.extend_from_slice(&rest[..at]);
        rest = &rest[end..];
        match (rest.first(), out.last()) {
            (Some(b','), _) => rest = &rest[1..],
            (_, Some(b',')) => drop(out.pop()),
            _ => {}
        }
        found = MANAGED_FIELDS_FINDER.find(rest);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(json: &str) -> String {
        String::from_utf8(decodable(json.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn managed_fields_are_cut_wherever_they_stand() {
        let list = r#""managedFields":[{"manager":"a\"]","fieldsV1":{"f:x":{"k:{\"a\":[1]}":{}},"l":[[]]}}]"#;
        for (with, without) in [
            (format!(r#"{{"metadata":{{"name":"a",{list}}},"spec":1}}"#), r#"{"metadata":{"name":"a"},"spec":1}"#),
            (format!(r#"{{"metadata":{{{list},"name":"a"}}}}"#), r#"{"metadata":{"name":"a"}}"#),
            (format!(r#"{{"metadata":{{{list}}}}}"#), r#"{"metadata":{}}"#),
            (
                format!(r#"{{"items":[{{"metadata":{{"a":1,{list}}}}},{{"metadata":{{{list},"a":2}}}}]}}"#),
                r#"{"items":[{"metadata":{"a":1}},{"metadata":{"a":2}}]}"#,
            ),
        ] {
            assert_eq!(cut(&with), without);
        }
    }

    #[test]
    fn a_demanded_time_that_never_was_is_gos_zero() {
        let json = r#"{"c":[{"lastTransitionTime":null,"type":"A"},{"lastTransitionTime":null,"startTime":null}]}"#;
        let zero = r#""lastTransitionTime":"0001-01-01T00:00:00Z""#;
        assert_eq!(cut(json), format!(r#"{{"c":[{{{zero},"type":"A"}},{{{zero},"startTime":null}}]}}"#));
    }

    #[test]
    fn what_only_looks_like_these_stays() {
        for json in [
            r#"{"a":"{\"lastTransitionTime\":null}"}"#,
            r#"{"metadata":{"annotations":{"last":"{\"managedFields\":[1]}"}}}"#,
            r#"{"properties":{"managedFields":{"type":"array"}}}"#,
            r#"{"metadata":{"managedFields":null}}"#,
            r#"{"metadata":{"managedFields":[{"cut off":"#,
        ] {
            assert_eq!(cut(json), json);
        }
    }

    #[tokio::test]
    async fn whole_answers_are_pruned_and_streams_are_not() {
        let json = r#"{"metadata":{"name":"a","managedFields":[{}]}}"#;
        let answer = pruned(Response::new(Full::new(Bytes::from(json)))).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), r#"{"metadata":{"name":"a"}}"#);
        let frames = futures::stream::iter([Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(json)))]);
        let answer = pruned(Response::new(http_body_util::StreamBody::new(frames))).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), json);
    }
}
