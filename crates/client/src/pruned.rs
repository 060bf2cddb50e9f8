//! Answers without `managedFields`, and without times that are null.
//!
//! Nobody on this side asks who owns which field. That list is a third of many objects as text, and most of them as a tree: it
//! is cut out of the text before anything is decoded. An update that comes without `managedFields` leaves them as they are.
//!
//! A time that was never set is `null` on the wire, required or not, as Go writes it. Our types take a required member that is
//! missing for one, but no null.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use memchr::memmem;
use serde::de::IgnoredAny;
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
    let rest = match without_ballast(&whole) {
        Cow::Borrowed(_) => None,
        Cow::Owned(rest) => Some(Bytes::from(rest)),
    };
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Either::Left(Full::new(rest.unwrap_or(whole)))))
}

const MANAGED_FIELDS: &[u8] = b"\"managedFields\":[";
const NULL_TIME: &[u8] = b"Time\":null";

/// A JSON document without its members called `managedFields` that are lists, and without null members whose names end in `Time`.
/// Of the kinds read here only metadata has `managedFields`. A quote that is not escaped, around these words in a valid document,
/// begins or ends a key.
pub(crate) fn without_ballast(json: &[u8]) -> Cow<'_, [u8]> {
    match without_managed_fields(json) {
        Cow::Borrowed(json) => without_null_times(json),
        Cow::Owned(json) => match without_null_times(&json) {
            Cow::Borrowed(_) => Cow::Owned(json),
            Cow::Owned(json) => Cow::Owned(json),
        },
    }
}

fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    without(json, MANAGED_FIELDS, |found, _| {
        let list_at = MANAGED_FIELDS.len() - 1;
        Some((0, list_at + value_length(&found[list_at..])?))
    })
}

fn without_null_times(json: &[u8]) -> Cow<'_, [u8]> {
    without(json, NULL_TIME, |_, before| {
        let first_of_key = before.iter().rposition(|byte| !byte.is_ascii_alphanumeric())?;
        (before[first_of_key] == b'"').then(|| (before.len() - first_of_key, NULL_TIME.len()))
    })
}

/// A document without the members where `pattern` occurs. Given the text from the pattern on and the text before it, `member` says
/// how many bytes of the member are before the pattern and how many are not; `None` leaves the rest of the document as it is.
fn without<'j>(
    json: &'j [u8],
    pattern: &[u8],
    member: impl Fn(&[u8], &[u8]) -> Option<(usize, usize)>,
) -> Cow<'j, [u8]> {
    let finder = memmem::Finder::new(pattern);
    let Some(first) = finder.find(json) else { return Cow::Borrowed(json) };
    let mut out = Vec::with_capacity(json.len());
    let (mut rest, mut found) = (json, Some(first));
    while let Some(at) = found {
        // A document that ends within the member is left to the decoder to complain about.
        let Some((before, after)) = member(&rest[at..], &rest[..at]) else { break };
        out.extend_from_slice(&rest[..at - before]);
        rest = &rest[at + after..];
        match (rest.first(), out.last()) {
            (Some(b','), _) => rest = &rest[1..],
            (_, Some(b',')) => drop(out.pop()),
            _ => {}
        }
        found = finder.find(rest);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Bytes of the value that `json` begins with; `None` when it is cut off.
fn value_length(json: &[u8]) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_slice(json).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(json: &str) -> String {
        String::from_utf8(without_ballast(json.as_bytes()).into_owned()).unwrap()
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
    fn times_that_were_never_set_are_cut() {
        for (with, without) in [
            (
                r#"{"c":[{"lastTransitionTime":null,"type":"A"},{"lastTransitionTime":null}]}"#,
                r#"{"c":[{"type":"A"},{}]}"#,
            ),
            (r#"{"type":"A","eventTime":null,"startTime":"x"}"#, r#"{"type":"A","startTime":"x"}"#),
            (r#"{"a":{"aTime":null},"managedFields":[{"time":"x"}],"bTime":null}"#, r#"{"a":{}}"#),
        ] {
            assert_eq!(cut(with), without);
        }
    }

    #[test]
    fn what_only_looks_like_ballast_stays() {
        for json in [
            r#"{"a":"lastTransitionTime\":null"}"#,
            r#"{"a":"{\"Time\":null}","Times":null,"Time":"null"}"#,
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
