//! A server that a kubeconfig file names: webhooks for audit events, tokens and authorization are given this way.

use std::path::Path;
use std::time::Duration;

use ::bytes::Bytes;
use api::Value;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};

use super::{ClientIdentity, Limits, Outbound, Tls, url_error};

/// Bytes of an answer: reviews are small.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Characters of an answer that an error repeats.
const SAID_CHARS_MAX: usize = 2048;

/// Where to post, whom to trust there, and as whom to come.
#[derive(Debug)]
pub struct RemoteEndpoint {
    url: String,
    uri: Uri,
    tls: Option<Tls>,
    authorization: Option<HeaderValue>,
    outbound: Outbound,
}

/// A post that brought nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct RemoteError {
    text: String,
    /// Of an answer that is no success.
    code: Option<u16>,
}

impl RemoteError {
    /// The other side may be better off in a moment.
    pub(crate) fn is_worth_retrying(&self) -> bool {
        self.code.is_none_or(|code| code >= 500 || code == 429)
    }
}

impl RemoteEndpoint {
    /// Reads a kubeconfig; files that it names are relative to `dir`.
    pub fn from_kubeconfig(text: &str, dir: &Path) -> Result<Self, String> {
        let config = api::codec::yaml::parse(text.as_bytes())?.value;
        let context_name = config["current-context"].as_str().unwrap_or("");
        let context = named(&config["contexts"], context_name, "context").ok_or_else(|| {
            format!("invalid configuration: context was not found for specified context: {context_name}")
        })?;
        let cluster_name = context["cluster"].as_str().unwrap_or("");
        let cluster = named(&config["clusters"], cluster_name, "cluster")
            .ok_or_else(|| format!("invalid configuration: cluster {cluster_name:?} was not found"))?;
        let user = named(&config["users"], context["user"].as_str().unwrap_or(""), "user").unwrap_or(&Value::Null);
        for unsupported in ["exec", "auth-provider"] {
            if !user[unsupported].is_null() {
                return Err(format!("users of a kubeconfig for a webhook cannot use {unsupported:?}"));
            }
        }
        let url = cluster["server"].as_str().unwrap_or("").to_owned();
        let uri: Uri = url.parse().map_err(|error| format!("server {url:?}: {error}"))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("server {url:?} must be an http or https URL")),
        };
        let data = |of: &Value, field: &str| data(of, field, dir);
        let identity = match (data(user, "client-certificate")?, data(user, "client-key")?) {
            (Some(certificate_pem), Some(key_pem)) => Some(ClientIdentity { certificate_pem, key_pem }),
            _ => None,
        };
        let tls = Tls {
            ca_pem: data(cluster, "certificate-authority")?.unwrap_or_default(),
            skip_verify: cluster["insecure-skip-tls-verify"].as_bool().unwrap_or(false),
            server_name: cluster["tls-server-name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
            identity,
        };
        let authorization = authorization(user, dir)?;
        Ok(Self { url, uri, tls: is_tls.then_some(tls), authorization, outbound: Outbound::default() })
    }

    /// Posts JSON; the body of a 2xx answer.
    pub(crate) async fn post(&self, body: Bytes, timeout: Duration) -> Result<Bytes, RemoteError> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(super::USER_AGENT));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let limits = Limits { timeout, response_bytes_max: ANSWER_BYTES_MAX };
        let response = self.outbound.call(self.tls.as_ref(), request, limits).await;
        let response =
            response.map_err(|error| RemoteError { text: url_error(&Method::POST, &self.url, &error), code: None })?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let code = response.status().as_u16();
        let said: String = String::from_utf8_lossy(response.body()).trim().chars().take(SAID_CHARS_MAX).collect();
        let text = api::Status::of_response(code, "POST", None, &said).message;
        Err(RemoteError { text, code: Some(code) })
    }
}

/// The entry of a list by its name.
fn named<'v>(list: &'v Value, name: &str, what: &str) -> Option<&'v Value> {
    list.as_array()?.iter().find(|entry| entry["name"] == name).map(|entry| &entry[what])
}

/// `FIELD-data` in base64, or the file that `FIELD` names.
fn data(of: &Value, field: &str, dir: &Path) -> Result<Option<Bytes>, String> {
    if let Some(text) = of[format!("{field}-data")].as_str().filter(|text| !text.is_empty()) {
        let decoded = BASE64_STANDARD.decode(text).map_err(|error| format!("{field}-data: {error}"))?;
        return Ok(Some(decoded.into()));
    }
    match of[field].as_str().filter(|path| !path.is_empty()) {
        None => Ok(None),
        Some(path) => {
            let path = dir.join(path);
            let read = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            Ok(Some(read.into()))
        }
    }
}

fn authorization(user: &Value, dir: &Path) -> Result<Option<HeaderValue>, String> {
    let text = |field: &str| user[field].as_str().unwrap_or("");
    let token = match text("tokenFile") {
        "" => text("token").to_owned(),
        path => {
            let path = dir.join(path);
            let token = std::fs::read_to_string(&path);
            token.map_err(|error| format!("cannot read {}: {error}", path.display()))?.trim().to_owned()
        }
    };
    let value = if !token.is_empty() {
        format!("Bearer {token}")
    } else if !text("username").is_empty() {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", text("username"), text("password"))))
    } else {
        return Ok(None);
    };
    let mut value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(Some(value))
}
