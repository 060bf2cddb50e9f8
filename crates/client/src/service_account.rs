//! Acting as a service account: tokens asked of the API server, kept while they last, sent with every request.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PostParams;
use kube::client::Body;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Connection;

/// What is asked for, in seconds; the server may give less.
const LIFETIME_SECONDS: i64 = 3600;
/// A token is replaced after this part of its life, so that a slow server does not leave us without one.
const USED_PART: f64 = 0.8;

/// One account's current token.
struct Tokens {
    /// An identity that may create the account and its tokens.
    issuer: Connection,
    namespace: String,
    name: String,
    current: Mutex<Option<Current>>,
}

struct Current {
    header: HeaderValue,
    replace_at: Instant,
}

impl Connection {
    /// This transport as the service account `namespace/name`, with tokens that `issuer` asks for; the account is made when
    /// missing. The transport itself must bring no identity: the server would prefer it to the token.
    pub fn as_service_account(&self, issuer: &Connection, namespace: &str, name: &str) -> Connection {
        let tokens = Arc::new(Tokens {
            issuer: issuer.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            current: Mutex::new(None),
        });
        let transport = self.client();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (transport, tokens) = (transport.clone(), tokens.clone());
            async move {
                request.headers_mut().insert(AUTHORIZATION, tokens.header().await?);
                let response = transport.send(request).await?;
                if response.status() == StatusCode::UNAUTHORIZED {
                    // The account was deleted, or the signing key changed: the next request asks again.
                    *tokens.current.lock().await = None;
                }
                Ok::<_, kube::Error>(response)
            }
        });
        Connection::from_client(Client::new(service, "default"))
    }
}

impl Tokens {
    async fn header(&self) -> Result<HeaderValue, kube::Error> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| Instant::now() < token.replace_at) {
            return Ok(token.header.clone());
        }
        let fresh = self.request().await?;
        let header = fresh.header.clone();
        *current = Some(fresh);
        Ok(header)
    }

    async fn request(&self) -> Result<Current, kube::Error> {
        let accounts = self.issuer.namespaced::<ServiceAccount>(&self.namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(LIFETIME_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answered = match accounts.create_token_request(&self.name, &PostParams::default(), &request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.create_account().await?;
                accounts.create_token_request(&self.name, &PostParams::default(), &request).await?
            }
            other => other?,
        };
        let status = answered.status.unwrap_or_default();
        let mut header = HeaderValue::try_from(format!("Bearer {}", status.token.unwrap_or_default()))
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        header.set_sensitive(true);
        let left = status.expiration_timestamp.map_or(0.0, |at| at.0.duration_since(Timestamp::now()).as_secs_f64());
        Ok(Current { header, replace_at: Instant::now() + Duration::from_secs_f64(left.max(0.0) * USED_PART) })
    }

    async fn create_account(&self) -> Result<(), kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let accounts = self.issuer.namespaced::<ServiceAccount>(&self.namespace);
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use k8s_openapi::api::core::v1::Namespace;
    use parking_lot::Mutex as SyncMutex;

    use super::*;

    type Log = Arc<SyncMutex<Vec<String>>>;

    /// Logs `METHOD path authorization` and answers with what `script` says.
    fn scripted(log: &Log, script: fn(usize, &str) -> (u16, String)) -> Connection {
        let log = log.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let authorization = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("-");
            let line = format!("{} {} {authorization}", request.method(), request.uri().path());
            let (code, body) = script(log.lock().len(), &line);
            log.lock().push(line);
            let mut response = Response::new(http_body_util::Full::new(Bytes::from(body)));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        Connection::in_process(service, "test").unwrap()
    }

    fn issuer_script(call: usize, _: &str) -> (u16, String) {
        let expires = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        match call {
            0 => (
                404,
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":""}"#
                    .into(),
            ),
            1 => (201, r#"{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"x"}}"#.into()),
            call => {
                let status = format!(r#"{{"token":"t{call}","expirationTimestamp":"{expires}"}}"#);
                let head = r#""kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"audiences":[]}"#;
                (201, format!(r#"{{{head},"status":{status}}}"#))
            }
        }
    }

    fn server_script(call: usize, _: &str) -> (u16, String) {
        match call {
            2 => (401, r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401,"message":""}"#.into()),
            _ => (200, r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"a"}}"#.into()),
        }
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_again_when_it_is_refused() {
        let (asked, sent) = (Log::default(), Log::default());
        let issuer = scripted(&asked, issuer_script);
        let connection = scripted(&sent, server_script).as_service_account(&issuer, "kube-system", "x");
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(connection.all::<Namespace>().get("a").await.is_ok());
        }
        assert_eq!(codes, [true, true, false, true]);
        let bearers: Vec<String> =
            sent.lock().iter().map(|line| line.rsplit(' ').next().unwrap_or("").to_owned()).collect();
        assert_eq!(bearers, ["t2", "t2", "t2", "t3"]);
        let accounts = "/api/v1/namespaces/kube-system/serviceaccounts";
        let token = format!("POST {accounts}/x/token -");
        assert_eq!(*asked.lock(), [token.clone(), format!("POST {accounts} -"), token.clone(), token]);
    }
}
