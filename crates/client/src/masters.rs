//! Several API servers behind one connection. Requests go to the one that answered last, and to the next when it does not answer;
//! a request that may have been carried out is not repeated, unless it only reads.
//!
//! Which servers there are: those that were given (or the kubeconfig's), and those that the cluster itself names, in the endpoints
//! of the `kubernetes` service, as far as this identity may read them. One task looks after all of it: it asks the server in use
//! whether it is ready, follows the kubeconfig and the files that it names, and learns of other servers. It ends with the
//! last user of the connection.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Error};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::BoxError;

use crate::ConnectionError;

/// How often the server in use is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A server that takes longer to say so is not. With the interval, and another exchange with the next one, below two seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection to one of several servers takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the kubeconfig is read: whoever renews a certificate does so hours before the old one ends.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// How often the cluster is asked for its servers. The first time comes early, but not for a program of one request.
const LEARN_INTERVAL: Duration = Duration::from_secs(30);
const LEARN_FIRST: Duration = Duration::from_secs(1);
/// Bytes of an answer about servers; a hundred of them need less.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Servers that are kept in mind.
const SERVERS_MAX: usize = 64;
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
    ?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";

/// The servers of a kubeconfig's cluster.
pub(crate) struct Masters {
    path: PathBuf,
    /// Given by the operator; the kubeconfig's server when empty.
    given: Vec<Uri>,
    state: Mutex<State>,
}

struct State {
    files: Files,
    config: Config,
    /// As the cluster names them.
    learned: Vec<Uri>,
    /// Never empty.
    servers: Vec<Arc<Server>>,
    current: usize,
}

/// One server, until it is given up.
struct Server {
    url: Uri,
    client: Client,
    /// Without the kubeconfig's credentials.
    anonymous: Client,
    /// Cancelled when it is found to be gone: what still waits for it ends.
    gone: CancellationToken,
}

/// Contents of the kubeconfig and of the files that it names.
#[derive(PartialEq, Eq)]
struct Files(Vec<Vec<u8>>);

impl Masters {
    /// Reads the kubeconfig. Must be called inside a tokio runtime.
    pub(crate) async fn open(path: &Path, given: &[String]) -> Result<Arc<Self>, ConnectionError> {
        let parse = |text: &String| {
            let wrong = || ConnectionError::Server { url: text.clone() };
            let url: Uri = text.parse().map_err(|_| wrong())?;
            if url.scheme().is_some() && url.host().is_some() { Ok(url) } else { Err(wrong()) }
        };
        let given = given.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let shown = path.display().to_string();
        let bad_file = |source| ConnectionError::Kubeconfig { path: shown.clone(), source };
        let (files, config) = read(path).await.map_err(bad_file)?;
        let servers = servers(&config, &given, &[]);
        let servers = servers.map_err(|source| ConnectionError::Client { path: shown.clone(), source })?;
        let state = State { files, config, learned: Vec::new(), servers, current: 0 };
        let masters = Arc::new(Self { path: path.to_owned(), given, state: Mutex::new(state) });
        tokio::spawn(look_after(Arc::downgrade(&masters)));
        Ok(masters)
    }

    /// Sends a request to the server in use, or to others after it.
    pub(crate) async fn send(&self, request: Request<Body>, anonymous: bool) -> Result<Response<Until>, Error> {
        let (head, body) = request.into_parts();
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let (mut last, n_servers) = (Some(body), self.state.lock().servers.len());
        for attempt in 1.. {
            let server = self.current();
            let is_last = attempt >= n_servers;
            let again = if is_last { None } else { last.as_ref().and_then(Body::try_clone) };
            let Some(body) = last.take() else { break };
            let client = if anonymous { &server.anonymous } else { &server.client };
            let request = Request::from_parts(head.clone(), body);
            let outcome = tokio::select! {
                outcome = client.send(request) => outcome,
                () = server.gone.cancelled() => Err(gone()),
            };
            match outcome {
                Ok(response) => return Ok(response.map(|body| Until::new(body, &server.gone))),
                Err(error) => {
                    self.pass_by(&server, &error);
                    if again.is_none() || !(reads || was_not_sent(&error)) {
                        return Err(error);
                    }
                }
            }
            last = again;
        }
        Err(gone())
    }

    fn current(&self) -> Arc<Server> {
        let state = self.state.lock();
        Arc::clone(&state.servers[state.current])
    }

    /// The next request goes to the server after this one, unless somebody has moved on already.
    fn pass_by(&self, server: &Arc<Server>, error: &Error) {
        let mut state = self.state.lock();
        let (n_servers, current) = (state.servers.len(), state.current);
        if n_servers > 1 && Arc::ptr_eq(&state.servers[current], server) {
            state.current = (current + 1) % n_servers;
            tracing::info!(from = %server.url, to = %state.servers[state.current].url, %error, "going to another server");
        }
    }

    /// Moves on when the server in use is not ready and another is.
    async fn probe(&self) {
        let (servers, current) = {
            let state = self.state.lock();
            (state.servers.clone(), state.current)
        };
        if servers.len() < 2 || is_ready(&servers[current]).await {
            return;
        }
        for step in 1..servers.len() {
            let next = (current + step) % servers.len();
            if is_ready(&servers[next]).await {
                self.give_up(&servers[current], &servers[next]);
                return;
            }
        }
    }

    /// Ends what waits for one server, and goes to another.
    fn give_up(&self, old: &Arc<Server>, new: &Arc<Server>) {
        let mut state = self.state.lock();
        let State { servers, current, config, .. } = &mut *state;
        let Some(at) = servers.iter().position(|server| Arc::ptr_eq(server, old)) else { return };
        tracing::info!(from = %old.url, to = %new.url, "the server is not ready, going to another");
        // Connections of the old one are not worth keeping.
        if let Ok(again) = Server::new(config, old.url.clone(), true) {
            servers[at] = Arc::new(again);
        }
        if let Some(next) = servers.iter().position(|server| Arc::ptr_eq(server, new)) {
            *current = next;
        }
        old.gone.cancel();
    }

    /// Takes over what has changed in the kubeconfig. What is under way goes on with the old credentials.
    async fn reload(&self, told: &mut Option<Files>) {
        let (files, config) = match read(&self.path).await {
            Ok(read) => read,
            // A file that is being replaced is there the next time.
            Err(error) => return tracing::debug!(path = %self.path.display(), %error, "the kubeconfig cannot be read"),
        };
        if self.state.lock().files == files || told.as_ref() == Some(&files) {
            return;
        }
        let learned = self.state.lock().learned.clone();
        match servers(&config, &self.given, &learned) {
            Ok(servers) => {
                let mut state = self.state.lock();
                let url = state.servers[state.current].url.clone();
                let current = servers.iter().position(|server| server.url == url).unwrap_or(0);
                *state = State { files, config, learned, servers, current };
                tracing::info!(path = %self.path.display(), "the kubeconfig has changed and is followed");
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the changed kubeconfig cannot be used; the old one stays in use");
                *told = Some(files);
            }
        }
    }

    /// Asks the cluster for its servers. False when this identity may not know.
    async fn learn(&self) -> bool {
        let server = self.current();
        let Ok(request) = Request::get(SLICES).body(Body::empty()) else { return false };
        let asking = async {
            let response = server.client.send(request).await.ok()?;
            let code = response.status();
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
            Some((code, body.to_bytes()))
        };
        let Ok(Some((code, body))) = timeout(PROBE_TIMEOUT, asking).await else { return true };
        if code != StatusCode::OK {
            return !matches!(code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
        }
        let Ok(slices) = serde_json::from_slice::<Slices>(&body) else { return true };
        let found = slices.urls();
        let mut state = self.state.lock();
        // A cluster that names nobody is one that starts.
        if found.is_empty() || found == state.learned {
            return true;
        }
        let wanted = urls(&state.config, &self.given, &found);
        let State { servers, current, config, learned, .. } = &mut *state;
        let in_use = servers[*current].url.clone();
        let known = |url: &Uri| servers.iter().find(|server| server.url == *url).map(Arc::clone);
        let kept = |url: Uri| match known(&url) {
            Some(server) => Ok(server),
            None => Server::new(config, url, true).map(Arc::new),
        };
        match wanted.into_iter().map(kept).collect::<Result<Vec<_>, _>>() {
            Ok(changed) => {
                tracing::info!(servers = changed.len(), "the cluster has named its servers");
                *current = changed.iter().position(|server| server.url == in_use).unwrap_or(0);
                (*servers, *learned) = (changed, found);
            }
            Err(error) => tracing::warn!(%error, "the servers that the cluster names cannot be used"),
        }
        true
    }
}

async fn look_after(masters: Weak<Masters>) {
    let mut reload_at = Instant::now() + RELOAD_INTERVAL;
    let mut learn_at = Some(Instant::now() + LEARN_FIRST);
    let mut told = None;
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let Some(masters) = masters.upgrade() else { return };
        masters.probe().await;
        let now = Instant::now();
        if now >= reload_at {
            masters.reload(&mut told).await;
            reload_at = now + RELOAD_INTERVAL;
        }
        if learn_at.is_some_and(|at| now >= at) {
            learn_at = masters.learn().await.then_some(now + LEARN_INTERVAL);
        }
    }
}

async fn read(path: &Path) -> Result<(Files, Config), kube::config::KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let mut paths = vec![path.to_owned()];
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    paths.extend(clusters.filter_map(|cluster| cluster.certificate_authority.clone()).map(PathBuf::from));
    for user in kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        paths.extend([&user.client_certificate, &user.client_key].into_iter().flatten().map(PathBuf::from));
    }
    // One that is missing and needed fails below, with its name.
    let files = Files(paths.iter().map(|path| std::fs::read(path).unwrap_or_default()).collect());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // A watch is silent between two bookmarks; a read limit would cut it.
    config.read_timeout = None;
    Ok((files, config))
}

/// All servers, each once: those that were given first.
fn urls(config: &Config, given: &[Uri], learned: &[Uri]) -> Vec<Uri> {
    let first = if given.is_empty() { std::slice::from_ref(&config.cluster_url) } else { given };
    let mut urls: Vec<Uri> = Vec::new();
    for url in first.iter().chain(learned) {
        if urls.len() < SERVERS_MAX && !urls.iter().any(|known| known.authority() == url.authority()) {
            urls.push(url.clone());
        }
    }
    urls
}

fn servers(config: &Config, given: &[Uri], learned: &[Uri]) -> Result<Vec<Arc<Server>>, Error> {
    let urls = urls(config, given, learned);
    let is_one_of_several = urls.len() > 1;
    urls.into_iter().map(|url| Server::new(config, url, is_one_of_several).map(Arc::new)).collect()
}

impl Server {
    fn new(config: &Config, url: Uri, is_one_of_several: bool) -> Result<Self, Error> {
        let mut config = config.clone();
        config.cluster_url = url.clone();
        if is_one_of_several {
            config.connect_timeout = Some(CONNECT_TIMEOUT);
        }
        let client = Client::try_from(config.clone())?;
        config.auth_info = AuthInfo::default();
        let anonymous = Client::try_from(config)?;
        Ok(Self { url, client, anonymous, gone: CancellationToken::new() })
    }
}

/// Whoever refuses to say so is ready enough.
async fn is_ready(server: &Server) -> bool {
    let Ok(request) = Request::get("/readyz").body(Body::empty()) else { return true };
    let asking = async { server.client.send(request).await.map(|response| response.status()) };
    matches!(timeout(PROBE_TIMEOUT, asking).await, Ok(Ok(code)) if !code.is_server_error())
}

fn gone() -> Error {
    Error::Service("the server is gone".into())
}

/// No connection could be made: the request never left.
fn was_not_sent(error: &Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes
        .any(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()))
}

/// A body that ends with an error when its server is found to be gone.
pub(crate) struct Until {
    body: Body,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Until {
    fn new(body: Body, gone: &CancellationToken) -> Self {
        Self { body, gone: Box::pin(gone.clone().cancelled_owned()) }
    }
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.gone.as_mut().poll(context).map(|()| Some(Err(gone().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Endpoint slices, as far as they say where servers are.
#[derive(Deserialize)]
struct Slices {
    items: Vec<Slice>,
}

#[derive(Deserialize)]
struct Slice {
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
struct Endpoint {
    addresses: Vec<std::net::IpAddr>,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

impl Slices {
    fn urls(&self) -> Vec<Uri> {
        let mut urls = Vec::new();
        for slice in &self.items {
            let mut ports = slice.ports.iter().flatten();
            let https = ports.find(|port| port.name.as_deref() == Some("https"));
            let Some(port) = https.and_then(|port| port.port) else { continue };
            for address in slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses) {
                let url = format!("https://{}", std::net::SocketAddr::new(*address, port));
                urls.extend(url.parse::<Uri>());
            }
        }
        urls
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::PostParams;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Connection;

    /// Answers every request with a namespace of this name, or, without one, with nothing at all.
    async fn server(name: Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let Ok(1..) = stream.read(&mut request).await else { continue };
                let Some(name) = name else { continue };
                let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length";
                let _closed = stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
            }
        });
        address
    }

    async fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    fn kubeconfig(path: &Path, server: SocketAddr) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
            clusters: [{{name: c, cluster: {{server: \"http://{server}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        );
        std::fs::write(path, text).unwrap();
    }

    async fn connection(servers: &[SocketAddr]) -> (Connection, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        kubeconfig(&path, servers[0]);
        let urls: Vec<_> = servers.iter().map(|server| format!("http://{server}")).collect();
        (Connection::to_masters(&path, &urls, "test").await.unwrap(), dir)
    }

    async fn name(connection: &Connection) -> Option<String> {
        connection.all::<Namespace>().get("x").await.ok()?.metadata.name
    }

    #[tokio::test]
    async fn requests_go_on_at_another_server() {
        let (connection, _dir) = connection(&[nobody().await, nobody().await, server(Some("c")).await]).await;
        let made = connection.all::<Namespace>().create(&PostParams::default(), &Namespace::default()).await;
        assert_eq!(made.unwrap().metadata.name.as_deref(), Some("c"), "what was never sent is sent elsewhere");
        assert_eq!(name(&connection).await.as_deref(), Some("c"));
    }

    #[tokio::test]
    async fn only_reads_are_repeated_when_a_server_may_have_done_them() {
        let (connection, _dir) = connection(&[server(None).await, server(Some("b")).await]).await;
        let create = || async {
            connection.all::<Namespace>().create(&PostParams::default(), &Namespace::default()).await.is_ok()
        };
        assert!(!create().await);
        assert!(create().await, "the next one goes to the other server");
        let (connection, _dir) = self::connection(&[server(None).await, server(Some("b")).await]).await;
        assert_eq!(name(&connection).await.as_deref(), Some("b"));
    }

    #[tokio::test]
    async fn a_server_that_is_not_ready_is_left_and_what_waits_for_it_ends() {
        let (silent, other) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), server(Some("b")).await);
        let (connection, _dir) = connection(&[silent.local_addr().unwrap(), other]).await;
        assert_eq!(name(&connection).await.as_deref(), Some("b"), "a read is asked of the other one in the end");
    }

    #[tokio::test]
    async fn a_changed_kubeconfig_is_followed_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        kubeconfig(&path, server(Some("a")).await);
        let masters = Masters::open(&path, &[]).await.unwrap();
        let ask = || async {
            let request = Request::get("/api/v1/namespaces/x").body(Body::empty()).unwrap();
            let body = masters.send(request, false).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Namespace>(&body).unwrap().metadata.name.unwrap()
        };
        assert_eq!(ask().await, "a");
        kubeconfig(&path, server(Some("b")).await);
        masters.reload(&mut None).await;
        assert_eq!(ask().await, "b");
        std::fs::write(&path, "apiVersion: v1").unwrap();
        masters.reload(&mut None).await;
        assert_eq!(ask().await, "b");
    }

    #[test]
    fn endpoint_slices_name_servers() {
        let slices = r#"{"items":[{"ports":[{"name":"https","port":6443}],"endpoints":[{"addresses":["10.0.0.1"]},
            {"addresses":["fd00::1"]}]},{"endpoints":null},{}]}"#;
        let urls = serde_json::from_str::<Slices>(slices).unwrap().urls();
        assert_eq!(
            urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["https://10.0.0.1:6443/", "https://[fd00::1]:6443/"]
        );
    }
}
