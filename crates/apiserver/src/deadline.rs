//! How long a request may take.
//!
//! Watches, streams to pods and what is about the master as a whole last as long as they do. Everything else is answered within
//! `--request-timeout`, or sooner where the request says so (`?timeout=5s`); who is late hears 504. The work is not dropped
//! half-way: what writes goes on in its task, whose waits have limits of their own, and its end is logged. An answer that is still
//! being made by then is cut off; so is one that is not read (`sending.rs`). Source: upstream's WithRequestDeadline and WithTimeoutForNonLongRunningRequests.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::bytes::Bytes;
use api::Status;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep};

use crate::attributes;
use crate::audit;
use crate::control;
use crate::gateway::{respond, verb_of};
use crate::http::ResponseBody;
use crate::http::body::{self, BoxError};
use crate::http::path::Target;
use crate::http::query::Query;

/// `--request-timeout`, `--min-request-timeout`
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The most that an ordinary request may take.
    pub request: Duration,
    /// A watch that names no end lasts this long, plus up to as much again, so that watches spread over servers.
    pub watch_min: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request: Duration::from_secs(60), watch_min: Duration::from_secs(1_800) }
    }
}

/// How long a request may take; `None`: as long as it does. An error: what it says about it is no duration.
pub(crate) fn limit(
    target: Option<&Target>,
    method: &Method,
    query: &Query,
    most: Duration,
) -> Result<Option<Duration>, String> {
    let lasts = match target {
        Some(Target::Resource(path)) => attributes::lasts(verb_of(path, method, query), &path.subresource),
        Some(Target::Other(path)) => attributes::is_profile(path) || path.starts_with(control::PREFIX),
        None => false,
    };
    if lasts {
        return Ok(None);
    }
    let asked = match query.text("timeout") {
        "" => 0,
        text => api::codec::read_duration(text)?,
    };
    // None at all is no wish for none.
    let asked = u64::try_from(asked).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    Ok(Some(asked.map_or(most, |asked| asked.min(most))))
}

pub(crate) const LATE: StatusCode = StatusCode::GATEWAY_TIMEOUT;

/// What a read ends with whose client has heard [`late`], or is gone.
pub(crate) fn given_up() -> Status {
    Status::timeout("request did not complete within the allotted timeout")
}

/// The answer to who is late: past all encoders and without a kind, as upstream writes it.
pub(crate) fn late(audit_id: HeaderValue) -> Response<ResponseBody> {
    const TEXT: &str = concat!(
        r#"{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","#,
        r#""reason":"Timeout","details":{},"code":504}"#,
        "\n"
    );
    let mut response = respond(LATE.as_u16(), "text/plain; charset=utf-8", body::full(TEXT));
    response.headers_mut().insert(audit::AUDIT_ID, audit_id);
    response
}

/// Cuts off what is sent piece by piece, when there are pieces left at the deadline.
pub(crate) fn cut_off(response: Response<ResponseBody>, deadline: Instant) -> Response<ResponseBody> {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|answer| CutOff { answer, late: Box::pin(tokio::time::sleep_until(deadline)) }.boxed_unsync())
}

struct CutOff {
    answer: ResponseBody,
    late: Pin<Box<Sleep>>,
}

impl Body for CutOff {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if Future::poll(self.late.as_mut(), context).is_ready() {
            return Poll::Ready(Some(Err("request did not complete within the allotted timeout".into())));
        }
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
    use futures::{StreamExt as _, stream};

    use super::*;
    use crate::http::path::parse;

    const MOST: Duration = Duration::from_secs(60);

    fn limit_of(method: &Method, url: &str) -> Result<Option<Duration>, String> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        limit(parse(path).as_ref(), method, &Query::parse(Some(query)), MOST)
    }

    #[test]
    fn a_request_may_take_what_it_says_up_to_the_most() {
        for (timeout, expected) in [
            ("", MOST),
            ("0s", MOST),
            ("-1s", MOST),
            ("1m1s", MOST),
            ("9999h", MOST),
            ("1s", Duration::from_secs(1)),
            ("15ms", Duration::from_millis(15)),
        ] {
            for path in ["/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/pods/p/status", "/version", "/nope"] {
                let limit = limit_of(&Method::GET, &format!("{path}?timeout={timeout}"));
                assert_eq!(limit, Ok(Some(expected)), "{path} {timeout}");
            }
        }
        let refused = limit_of(&Method::GET, "/version?timeout=5").unwrap_err();
        assert_eq!(refused, "time: missing unit in duration \"5\"");
    }

    #[test]
    fn what_lasts_has_no_limit() {
        const POD: &str = "/api/v1/namespaces/ns/pods/p";
        for url in [
            "/api/v1/pods?watch=1&timeout=1s",
            "/api/v1/watch/pods?timeout=nonsense",
            &format!("{POD}/log"),
            &format!("{POD}/exec?timeout=1s"),
            &format!("{POD}/attach"),
            &format!("{POD}/portforward"),
            &format!("{POD}/proxy/a?timeout=5"),
            "/debug/pprof/profile",
            "/quarterdeck/v1/backup",
        ] {
            assert_eq!(limit_of(&Method::GET, url), Ok(None), "{url}");
        }
        assert_eq!(limit_of(&Method::POST, "/api/v1/namespaces/ns/pods?watch=1"), Ok(Some(MOST)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_in_pieces_is_cut_off_at_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let pieces = stream::iter([100, 800, 200]).then(|millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Bytes::from_static(b"piece")
        });
        let mut body = cut_off(Response::new(body::stream(pieces)), deadline).into_body();
        for _in_time in 0..2 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        let error = body.frame().await.unwrap().unwrap_err().to_string();
        assert_eq!(error, "request did not complete within the allotted timeout");
        // What is one piece is handed over as a whole.
        let whole = cut_off(Response::new(body::full("whole")), deadline - Duration::from_secs(9)).into_body();
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "whole");
    }
}
