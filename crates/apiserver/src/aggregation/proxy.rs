//! Handing a request to the server of its group.

use std::time::Duration;

use ::bytes::Bytes;
use api::Value;
use http::{HeaderName, HeaderValue, Response};
use tokio::time::Instant;

use super::ApiService;
use crate::attributes::UserInfo;
use crate::gateway::{Gateway, text};
use crate::http::ResponseBody;
use crate::outbound::{Limits, OutboundError};
use crate::relay::Passing;
use crate::relay::forward::{self, Forward};

/// Discovery is asked for by every client at its start: a slow server must not hold them up.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA_PREFIX: &str = "x-remote-extra-";

/// A request for a group version that is served elsewhere. Refusals are plain text, as upstream's aggregator gives them.
/// Nobody waits for an answer after `deadline`.
pub(crate) async fn answer(
    gateway: &Gateway,
    service: &ApiService,
    user: &UserInfo,
    mut passing: Passing,
    deadline: Option<Instant>,
) -> Response<ResponseBody> {
    let Some(remote) = service.remote.as_ref().filter(|_| service.available) else { return unavailable() };
    let Ok(authority) = gateway.services.resolve(&remote.namespace, &remote.name, remote.port) else {
        return unavailable();
    };
    let forged: Vec<HeaderName> = passing.headers.keys().filter(|name| is_identity(name)).cloned().collect();
    forged.iter().for_each(|name| drop(passing.headers.remove(name)));
    let path = passing.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let is_discovery = passing.uri.path().trim_matches('/').split('/').count() == 3;
    let forward = Forward {
        url: format!("https://{authority}{path}"),
        tls: Some(remote.tls(gateway.aggregation.front_proxy())),
        reject_redirects: true,
        headers: identity_headers(user),
        ..Forward::default()
    };
    let answered = Box::pin(forward::forward(gateway, forward, passing));
    let deadline = if is_discovery { Some(Instant::now() + DISCOVERY_TIMEOUT) } else { deadline };
    let answered = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, answered)
            .await
            .unwrap_or_else(|_| Err(forward::Error::Outbound { error: OutboundError::Timeout, upgrade: false })),
        None => answered.await,
    };
    answered.unwrap_or_else(|error| match error {
        forward::Error::Outbound { error: OutboundError::Certificates(error), .. } => text(500, format!("{error}\n")),
        forward::Error::Outbound { error, upgrade: false } => {
            text(503, format!("error trying to reach service: {error}\n"))
        }
        error => text(503, format!("{error}\n")),
    })
}

fn unavailable() -> Response<ResponseBody> {
    text(503, "service unavailable\n")
}

fn is_identity(name: &HeaderName) -> bool {
    *name == USER || *name == UID || *name == GROUP || name.as_str().starts_with(EXTRA_PREFIX)
}

/// Who asks, for a server that trusts our certificate.
pub(super) fn identity_headers(user: &UserInfo) -> Vec<(HeaderName, HeaderValue)> {
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    let mut headers = vec![(USER, value(&user.name))];
    if !user.uid.is_empty() {
        headers.push((UID, value(&user.uid)));
    }
    headers.extend(user.groups.iter().map(|group| (GROUP, value(group))));
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::try_from(format!("{EXTRA_PREFIX}{}", escape(key))) else { continue };
        headers.extend(values.iter().map(|text| (name.clone(), value(text))));
    }
    headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A key of extra information as part of a header's name: what may not stand in one is percent-encoded.
fn escape(key: &str) -> String {
    const MARKS: &[u8] = b"!#$&'*+-.^_`|~";
    let mut out = String::new();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || MARKS.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// A question of our own to an API server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub path: &'a str,
    pub accept: &'a str,
    pub etag: Option<&'a str>,
}

/// A JSON document of an API server, read by the aggregator itself.
pub(super) async fn document(
    gateway: &Gateway,
    service: &ApiService,
    path: &str,
    limits: Limits,
) -> Result<Value, String> {
    let remote = service.remote.as_ref().ok_or("the APIService is local")?;
    let authority = gateway.services.resolve(&remote.namespace, &remote.name, remote.port)?;
    let asked = Asked { path, accept: "application/json", etag: None };
    let response = ask(gateway, service, &authority, asked, limits).await?;
    if response.status() != 200 {
        return Err(format!("failed to download {path}: {}", response.status()));
    }
    Value::from_json(response.body()).map_err(|error| error.to_string())
}

/// Asks as the aggregator itself, which may read everything.
pub(super) async fn ask(
    gateway: &Gateway,
    service: &ApiService,
    authority: &str,
    asked: Asked<'_>,
    limits: Limits,
) -> Result<Response<Bytes>, String> {
    let remote = service.remote.as_ref().ok_or("the APIService is local")?;
    let url = format!("https://{authority}{}", asked.path);
    let mut request = http::Request::get(&url).header(http::header::ACCEPT, asked.accept);
    if let Some(etag) = asked.etag {
        request = request.header(http::header::IF_NONE_MATCH, etag);
    }
    let groups = vec!["system:masters".to_owned()];
    let aggregator = UserInfo { name: "system:kube-aggregator".to_owned(), groups, ..UserInfo::default() };
    for (name, value) in identity_headers(&aggregator) {
        request = request.header(name, value);
    }
    let request = request.body(Bytes::new()).map_err(|error| error.to_string())?;
    let tls = remote.tls(gateway.aggregation.front_proxy());
    let answered = gateway.outbound.call(Some(&tls), request, limits).await;
    answered.map_err(|error| crate::outbound::url_error(&http::Method::GET, &url, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_travels_in_headers() {
        let extra = [("example.com/Scope s".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into();
        let user = UserInfo { name: "jane".into(), uid: "1".into(), groups: vec!["g".into(), "h".into()], extra };
        let headers = identity_headers(&user);
        let shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        let want = [
            "x-remote-user: jane",
            "x-remote-uid: 1",
            "x-remote-group: g",
            "x-remote-group: h",
            "x-remote-extra-example.com%2fscope%20s: a",
            "x-remote-extra-example.com%2fscope%20s: b",
        ];
        assert_eq!(shown, want);
    }
}
