//! Which web pages may ask over HTTP, and by which names they may call this server: etcd's `--cors` and `--host-whitelist`.
//!
//! A page of a stranger can make a browser send requests to addresses that only the browser can reach, under a name of its own that
//! leads there (DNS rebinding). Connections with TLS need no list: their certificate says which names are ours.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;

const ALLOWED_METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE";
const ALLOWED_HEADERS: &str = "accept, content-type, authorization";
const ANY: &str = "*";

/// Empty lists, and those with a star, let in everybody.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    pub cors: BTreeSet<String>,
    pub hosts: BTreeSet<String>,
}

/// What is said to a page's browser with every answer.
#[derive(Debug)]
pub(super) struct Allowed(Option<HeaderValue>);

impl Origins {
    /// The answer to a request by a name that is none of ours.
    pub(super) fn refuse_host<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let host = host_of(request);
        if lets_in(&self.hosts, &host) {
            return None;
        }
        tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
        let mut response = Response::new(Body::new(Full::new(Bytes::from(unknown_host(&host)))));
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Some(response)
    }

    pub(super) fn allowed<B>(&self, request: &Request<B>) -> Allowed {
        if lets_in(&self.cors, ANY) {
            return Allowed(Some(HeaderValue::from_static(ANY)));
        }
        let origin = request.headers().get(header::ORIGIN);
        Allowed(origin.filter(|origin| origin.to_str().is_ok_and(|origin| lets_in(&self.cors, origin))).cloned())
    }
}

impl Allowed {
    pub(super) fn tell(self, response: &mut Response<Body>) {
        let Some(origin) = self.0 else { return };
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOWED_METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    }
}

fn lets_in(list: &BTreeSet<String>, name: &str) -> bool {
    list.is_empty() || list.contains(ANY) || list.contains(name)
}

/// The name in a request's Host header or address, without the port.
fn host_of<B>(request: &Request<B>) -> String {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).unwrap_or_default();
    let bare = match host.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((address, _port)) => address,
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    bare.to_owned()
}

/// etcd's words.
fn unknown_host(host: &str) -> String {
    format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist in settings.\n  \
         - e.g. etcd --host-whitelist {host:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(cors: &[&str], hosts: &[&str]) -> Origins {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Origins { cors: set(cors), hosts: set(hosts) }
    }

    fn request(name: &str, value: &str) -> Request<()> {
        Request::get("/version").header(name, value).body(()).unwrap()
    }

    #[test]
    fn a_page_is_let_in_by_its_origin_or_everybody_is() {
        let told = |cors: &[&str], origin: &str| {
            let mut response = Response::new(Body::empty());
            origins(cors, &[]).allowed(&request("origin", origin)).tell(&mut response);
            let told = response.headers().get("access-control-allow-origin");
            told.map(|origin| origin.to_str().unwrap().to_owned())
        };
        assert_eq!(told(&[], "http://a:1").as_deref(), Some("*"));
        assert_eq!(told(&["*", "http://b:1"], "http://a:1").as_deref(), Some("*"));
        assert_eq!(told(&["http://a:1"], "http://a:1").as_deref(), Some("http://a:1"));
        assert_eq!(told(&["http://a:1"], "http://b:1"), None);
    }

    #[test]
    fn a_name_that_is_not_on_the_list_is_refused() {
        let refused = |hosts: &[&str], host: &str| {
            let response = origins(&[], hosts).refuse_host(&request("host", host));
            response.map(|response| response.status().as_u16())
        };
        assert_eq!(refused(&[], "evil.example"), None);
        assert_eq!(refused(&["*"], "evil.example"), None);
        for known in ["localhost", "localhost:2379", "[::1]:2379"] {
            assert_eq!(refused(&["localhost", "::1"], known), None, "{known}");
        }
        assert_eq!(refused(&["localhost"], "evil.example:2379"), Some(421));
        assert_eq!(refused(&["localhost"], "localhost:::"), Some(421));
        assert!(unknown_host("a").contains("- e.g. etcd --host-whitelist \"a\"\n"));
    }
}
