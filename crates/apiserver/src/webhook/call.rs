//! Calling a hook.

use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use api::{Kind, Status, Value};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};

use super::hook::{Address, ClientConfig, Hook};
use super::review::{self, Answer, Bad};
use super::{Attributes, has_own_body, in_version_of, object_kind, resource};
use crate::gateway::Gateway;
use crate::outbound::{self, Limits, OutboundError, ServiceResolver, Tls, url_error};

/// Bytes of an answer: a patch may hold a whole object (3 MiB) in base64, and some words.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Why a hook did not let the request pass.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be asked, or its answer is none: the failure policy decides.
    Call(String),
    /// It said no, or nobody could have said yes.
    Refused(Box<Status>),
}

impl Failure {
    pub(super) fn refused(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }

    pub(super) fn status(self, hook: &Hook) -> Status {
        match self {
            Self::Call(reason) => Status::internal(format!("failed calling webhook {:?}: {reason}", hook.name)),
            Self::Refused(status) => *status,
        }
    }
}

/// Asks one hook about the objects, which are in the version of `kind`, except `old`.
pub(super) async fn ask(
    gateway: &Gateway,
    hook: &Hook,
    kind: &Arc<Kind>,
    attributes: &Attributes<'_>,
    (object, old): (&Value, &Value),
    mutating: bool,
) -> Result<Answer, Failure> {
    let outcome = ask_once(gateway, hook, kind, attributes, (object, old), mutating).await;
    if let Err(Failure::Call(reason)) = &outcome {
        let open = hook.fails_open;
        tracing::warn!(webhook = hook.name, reason, open, "failed calling a webhook");
    }
    outcome
}

async fn ask_once(
    gateway: &Gateway,
    hook: &Hook,
    kind: &Arc<Kind>,
    attributes: &Attributes<'_>,
    (object, old): (&Value, &Value),
    mutating: bool,
) -> Result<Answer, Failure> {
    if attributes.dry_run && !hook.dry_run_is_safe {
        let text = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::refused(Status::bad_request(text)));
    }
    let version = hook.review_version.ok_or_else(|| {
        let text = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        Failure::Call(format!("could not create admission objects: {text}"))
    })?;
    let uid = uuid::Uuid::new_v4().to_string();
    let old =
        if has_own_body(kind, attributes.subresource) { old.clone() } else { in_version_of(kind, attributes, old) };
    let names = (object_kind(kind, attributes.subresource), resource(kind));
    let question = review::request(&uid, version, attributes, names, object, &old);
    let failed = |text: String| Failure::Call(format!("failed to call webhook: {text}"));
    let body = post(gateway, &hook.client, &question, hook.timeout).await.map_err(failed)?;
    review::answer(&body, &uid, version, mutating).map_err(|bad| match bad {
        Bad::Unreadable(text) => failed(text),
        Bad::Invalid(text) => Failure::Call(format!("received invalid webhook response: {text}")),
    })
}

/// Posts a review to a webhook of any sort. The answer is the body of a 2xx response, anything else an error in the words of
/// client-go.
pub(crate) async fn post(
    gateway: &Gateway,
    client: &ClientConfig,
    review: &Value,
    timeout: Duration,
) -> Result<Bytes, String> {
    let place = address_of(client, timeout)?;
    let fail = |error: &dyn std::fmt::Display| url_error(&Method::POST, &place.url, &error);
    let authority = place.authority(&gateway.services).map_err(|error| fail(&error))?;
    let mut request = Request::new(Bytes::from(review.to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        format!("{}://{authority}{}", place.scheme, place.path_and_query).parse().map_err(|e| fail(&e))?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(outbound::USER_AGENT));
    headers.insert(HOST, HeaderValue::from_str(&place.host).map_err(|e| fail(&e))?);
    let server_name = place.service.as_ref().map(|(namespace, name, _)| format!("{name}.{namespace}.svc"));
    let tls = Tls { ca_pem: client.ca_bundle.clone(), server_name, ..Tls::default() };
    let tls = (place.scheme == "https").then_some(tls);
    let limits = Limits { timeout, response_bytes_max: ANSWER_BYTES_MAX };
    let response = gateway.outbound.call(tls.as_ref(), request, limits).await.map_err(|error| match error {
        OutboundError::Certificates(text) => text,
        error => fail(&error),
    })?;
    let (head, body) = response.into_parts();
    if !(200..=206).contains(&head.status.as_u16()) {
        return Err(refusal(head.status.as_u16(), &head.headers, &body));
    }
    if body.is_empty() {
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
        let code = head.status.as_u16();
        return Err(format!("0-length response with status code: {code} and content type: {content_type}"));
    }
    Ok(body)
}

/// What client-go makes of a response that is no success.
fn refusal(code: u16, headers: &HeaderMap, body: &[u8]) -> String {
    if let Ok(status) = serde_json::from_slice::<Status>(body)
        && status.kind == "Status"
        && status.status == "Failure"
        && !status.message.is_empty()
    {
        return status.message;
    }
    let text = headers.get(CONTENT_TYPE).is_none_or(|value| value.as_bytes().starts_with(b"text/"));
    let said =
        if text { String::from_utf8_lossy(body).trim().chars().take(2048).collect() } else { "unknown".to_owned() };
    Status::of_response(code, "POST", None, &said).message
}

/// Where a hook is and how it is called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub scheme: String,
    /// Host header, and the dialled address when there is no Service.
    pub host: String,
    pub service: Option<(String, String, i64)>,
    pub path_and_query: String,
    /// As errors show it.
    pub url: String,
}

impl Place {
    fn authority(&self, services: &ServiceResolver) -> Result<String, String> {
        match &self.service {
            Some((namespace, name, port)) => services.resolve(namespace, name, *port),
            None => Ok(self.host.clone()),
        }
    }
}

/// The place of a client configuration, for a call of this length.
pub(crate) fn address_of(client: &ClientConfig, timeout: Duration) -> Result<Place, String> {
    let (scheme, host, service, path) = match &client.address {
        Address::Service { namespace, name, port, path } => {
            let host = format!("{name}.{namespace}.svc:{port}");
            ("https", host, Some((namespace.clone(), name.clone(), *port)), path.as_str())
        }
        Address::Url(url) => {
            let unparsable = || format!("Unparsable URL: parse {url:?}: invalid URI");
            let (scheme, rest) = url.split_once("://").ok_or_else(unparsable)?;
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let path = rest[end..].split(['?', '#']).next().unwrap_or("");
            (scheme, rest[..end].to_owned(), None, path)
        }
        Address::Missing => return Err("webhook configuration must have either service or URL".into()),
    };
    let path_and_query = format!("{}?timeout={}s", clean(path), timeout.as_secs());
    let url = format!("{scheme}://{host}{path_and_query}");
    Ok(Place { scheme: scheme.to_owned(), host, service, path_and_query, url })
}

/// An absolute path without empty and dot segments, as Go's `path.Join` gives it.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    #[test]
    fn urls_are_built_as_client_go_builds_them() {
        let url = |config: Value| address_of(&ClientConfig::parse(&config), Duration::from_secs(10)).map(|p| p.url);
        assert_eq!(url(json!({"url": "https://127.0.0.1:1"})).unwrap(), "https://127.0.0.1:1/?timeout=10s");
        assert_eq!(url(json!({"url": "https://a.b/x//y/?q=1"})).unwrap(), "https://a.b/x/y?timeout=10s");
        let service = json!({"service": {"namespace": "ns", "name": "svc", "path": "v", "port": 8443}});
        assert_eq!(url(service).unwrap(), "https://svc.ns.svc:8443/v?timeout=10s");
        assert!(url(json!({})).is_err());
    }

    #[test]
    fn a_refused_call_is_told_in_the_words_of_client_go() {
        let words = |code: u16, body: &str| refusal(code, &HeaderMap::new(), body.as_bytes());
        assert_eq!(words(404, "404 page not found\n"), "the server could not find the requested resource");
        assert_eq!(words(500, "boom\n"), "an error on the server (\"boom\") has prevented the request from succeeding");
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not today","code":503}"#;
        assert_eq!(words(503, status), "not today");
    }
}
