//! One identity's way to an API server: HTTPS from a kubeconfig (to one of several [`crate::masters`]), or a service of the same process.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use kube::Client;
use kube::api::Api;
use kube::client::Body;
use kube::core::{NamespaceResourceScope, Resource};
use tower::{BoxError, Service, ServiceExt};

use crate::masters::Masters;
use crate::pruned::pruned;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The kubeconfig is missing, unreadable or incomplete. Fix the file.
    #[error("cannot read kubeconfig {path}")]
    Kubeconfig {
        path: String,
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The kubeconfig names credentials or a CA that cannot be used.
    #[error("cannot make a client from kubeconfig {path}")]
    Client {
        path: String,
        #[source]
        source: kube::Error,
    },
    /// An address is not a URL with scheme and host. Fix the flag.
    #[error("{url:?} is not the URL of an API server")]
    Server { url: String },
    /// The connection is within the process, where there are no credentials.
    #[error("a connection within the process has no credentials to leave out")]
    InProcess,
    /// A header value has characters HTTP does not allow.
    #[error("{what} {value:?} cannot be sent as an HTTP header")]
    Header { what: &'static str, value: String },
}

/// A typed client standing for one identity. Cheap to clone; clones share the transport. Single objects come without
/// `managedFields`, which an update leaves as they are when it comes without them. There is no client-side rate limit:
/// the server's priority and fairness decides.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    /// When it goes over HTTPS.
    masters: Option<Arc<Masters>>,
}

impl Connection {
    /// Over HTTPS, as the kubeconfig's current context says. `user_agent` is what audit and managedFields name; the part
    /// before the first `/` becomes the field manager. The kubeconfig is followed when it changes. Must be called inside a tokio
    /// runtime.
    pub async fn from_kubeconfig(path: &Path, user_agent: &str) -> Result<Self, ConnectionError> {
        Self::to_masters(path, &[], user_agent).await
    }

    /// The same, to the servers at these URLs instead of the kubeconfig's, if any are given. Requests go on at another server when
    /// one is lost.
    pub async fn to_masters(path: &Path, urls: &[String], user_agent: &str) -> Result<Self, ConnectionError> {
        Self::over(Masters::open(path, urls).await?, false, user_agent)
    }

    /// To the same servers, without credentials: for requests that bring their own.
    ///
    /// # Errors
    /// When the connection does not come from a kubeconfig: within a process there are no credentials to leave out.
    pub fn without_credentials(&self, user_agent: &str) -> Result<Self, ConnectionError> {
        let masters = self.masters.clone().ok_or(ConnectionError::InProcess)?;
        Self::over(masters, true, user_agent)
    }

    fn over(masters: Arc<Masters>, anonymous: bool, user_agent: &str) -> Result<Self, ConnectionError> {
        let headers = vec![header("user agent", http::header::USER_AGENT, user_agent)?];
        let used = Arc::clone(&masters);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (masters, request) = (Arc::clone(&used), add_headers(request, &headers));
            async move { pruned(masters.send(request, anonymous).await?).await }
        });
        Ok(Self { client: Client::new(service, "default"), masters: Some(masters) })
    }

    /// Over a service of this process, which already stands for the identity it was made for. Must be called inside a tokio
    /// runtime.
    pub fn in_process<S, B>(service: S, user_agent: &str) -> Result<Self, ConnectionError>
    where
        S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let agent = header("user agent", http::header::USER_AGENT, user_agent)?;
        let headers = vec![agent];
        let service = service.map_request(move |request: Request<Body>| add_headers(request, &headers));
        let service = ServiceExt::<Request<Body>>::and_then(service, pruned);
        Ok(Self { client: Client::new(service, "default"), masters: None })
    }

    /// The same transport acting as `user` (and `groups`), for which this identity needs the `impersonate` verb.
    pub fn impersonating(&self, user: &str, groups: &[&str]) -> Result<Self, ConnectionError> {
        let mut headers = vec![header("user", HeaderName::from_static("impersonate-user"), user)?];
        for group in groups {
            headers.push(header("group", HeaderName::from_static("impersonate-group"), group)?);
        }
        Ok(self.clone().with_headers(headers))
    }

    fn with_headers(self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        let Self { client: inner, masters } = self;
        let service = tower::service_fn(move |request: Request<Body>| {
            let client = inner.clone();
            let request = add_headers(request, &headers);
            async move { client.send(request).await }
        });
        Self { client: Client::new(service, "default"), masters }
    }

    pub(crate) fn from_client(client: Client) -> Self {
        Self { client, masters: None }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// All objects of a kind, whatever its scope.
    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// The objects of a kind in one namespace.
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn header(what: &'static str, name: HeaderName, value: &str) -> Result<(HeaderName, HeaderValue), ConnectionError> {
    let parsed = HeaderValue::from_str(value).map_err(|_| ConnectionError::Header { what, value: value.to_owned() })?;
    Ok((name, parsed))
}

fn add_headers(mut request: Request<Body>, headers: &[(HeaderName, HeaderValue)]) -> Request<Body> {
    for (name, value) in headers {
        request.headers_mut().append(name.clone(), value.clone());
    }
    request
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use k8s_openapi::api::core::v1::Namespace;
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn impersonation_and_user_agent_reach_the_service() {
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let log = seen.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            for (name, value) in request.headers() {
                log.lock().push((name.to_string(), value.to_str().unwrap_or("").to_owned()));
            }
            let body = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#;
            async move { Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from(body)))) }
        });
        let connection = Connection::in_process(service, "kube-controller-manager/v1.36.2").unwrap();
        let as_other = connection.impersonating("system:serviceaccount:kube-system:x", &["system:masters"]).unwrap();
        let namespace = as_other.all::<Namespace>().get("a").await.unwrap();
        assert_eq!(namespace.metadata.name.as_deref(), Some("a"));
        let seen = seen.lock().clone();
        for (name, value) in [
            ("user-agent", "kube-controller-manager/v1.36.2"),
            ("impersonate-user", "system:serviceaccount:kube-system:x"),
            ("impersonate-group", "system:masters"),
        ] {
            assert!(seen.contains(&(name.to_owned(), value.to_owned())), "{name}: {seen:?}");
        }
    }
}
